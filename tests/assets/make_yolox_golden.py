"""Make ``yolox_golden.npz``: the answer of the published graph under made-up weights.

The weights of the ONNX graph are replaced by seeded ones, so the golden file checks the
architecture against ONNX Runtime, needs no weights at test time, and stays valid whatever the
shipped weights become.

    python -m tests.assets.make_yolox_golden yolox_nano_416.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SEED = 20251
#: Side of the picture: what the graph was exported for.
SIZE = 416
#: Every so many cells go into the file.
STEP = 7
BIAS_STD = 0.3


def seeded_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights that keep the size of activations behind SiLU, in the order of the state dict."""
    rng = np.random.default_rng(SEED)
    state = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        std = 1.3 / np.sqrt(fan_in) if fan_in else BIAS_STD
        if name == "stem.weight":
            std /= 100.0  # pixels go up to 255
        state[name] = (rng.standard_normal(shape) * std).astype(np.float32)
    return state


def seeded_input() -> np.ndarray:
    """One picture in [0, 255], [1, 3, SIZE, SIZE], smooth enough to look like one."""
    coarse = (
        np.random.default_rng(SEED + 1).random((1, 3, SIZE // 16, SIZE // 16), np.float32) * 255
    )
    return np.kron(coarse, np.ones((16, 16), dtype=np.float32))


def main() -> None:
    """Run the graph and write the golden file beside this script."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    from eft_fast.models.yolox import YoloxNano
    from tools.convert_yolox import PERSON_CLASS, conv_nodes

    model = onnx.load(sys.argv[1])
    network = YoloxNano()
    state = seeded_state({k: tuple(v.shape) for k, v in network.state_dict().items()})
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, node in conv_nodes(model.graph, network).items():
        for slot, part in ((1, "weight"), (2, "bias")):
            array, tensor = state[f"{name}.{part}"], tensors[node.input[slot]]
            if name.endswith("class_out"):
                rows = np.zeros(tuple(tensor.dims), np.float32)
                rows[PERSON_CLASS] = array[0]
                array = rows
            tensor.CopyFrom(numpy_helper.from_array(array, node.input[slot]))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (answer,) = session.run(None, {"images": seeded_input()})
    np.savez_compressed(Path(__file__).with_name("yolox_golden.npz"), answer=answer[0, ::STEP, :6])


if __name__ == "__main__":
    main()
