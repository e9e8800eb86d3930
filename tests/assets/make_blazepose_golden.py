"""Make ``blazepose_golden.npz``: outputs of the published graph under made-up weights.

The weights of the ONNX graph are replaced by seeded ones, so the golden file checks the
architecture (pads, strides, shortcuts, activations) against ONNX Runtime, needs no weights at test
time, and stays valid whatever the shipped weights become.

    python -m tests.assets.make_blazepose_golden pose_landmark_full.onnx pose_landmark_lite.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SEED = 20240
#: Standard deviation of the biases, large enough to push activations to both ends of ReLU6.
BIAS_STD = 0.3


def seeded_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights that keep the size of activations (He), in the order of the state dict."""
    rng = np.random.default_rng(SEED)
    state = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        std = np.sqrt(2.0 / fan_in) if fan_in else BIAS_STD
        state[name] = (rng.standard_normal(shape) * std).astype(np.float32)
    return state


def seeded_input() -> np.ndarray:
    """One RGB crop in [0, 1], [1, 3, 256, 256], smooth enough to look like a picture."""
    coarse = np.random.default_rng(SEED + 1).random((1, 3, 16, 16), dtype=np.float32)
    return np.kron(coarse, np.ones((16, 16), dtype=np.float32))


def main() -> None:
    """Run the graphs and write the golden file beside this script."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    from eft_fast.models.blazepose import BlazePose
    from tools.convert_blazepose import OUTPUT_OF_LAYER, conv_nodes

    golden = {}
    for variant, path in zip(("full", "lite"), sys.argv[1:], strict=True):
        model = onnx.load(path)
        network = BlazePose(variant)
        state = seeded_state({k: tuple(v.shape) for k, v in network.state_dict().items()})
        nodes = conv_nodes(model.graph, network)
        features = nodes["landmark_out"].input[0]
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, node in nodes.items():
            for slot, part in ((1, "weight"), (2, "bias")):
                array = numpy_helper.from_array(state[f"{name}.{part}"], node.input[slot])
                tensors[node.input[slot]].CopyFrom(array)
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(features))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        wanted = [*OUTPUT_OF_LAYER.values(), features]
        outputs = session.run(wanted, {"input_1": seeded_input().transpose(0, 2, 3, 1)})
        names = ("landmarks", "world", "score", "heatmaps", "features")
        for name, array in zip(names, outputs, strict=True):
            golden[f"{variant}_{name}"] = array.reshape(-1)
        # One landmark and every fourth cell are enough, and keep the file small.
        golden[f"{variant}_heatmaps"] = outputs[3][0, ::4, ::4, ::13].transpose(2, 0, 1)
    np.savez(Path(__file__).with_name("blazepose_golden.npz"), **golden)


if __name__ == "__main__":
    main()
