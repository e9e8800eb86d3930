"""Make ``movenet_golden.npz``: outputs of the published graphs under made-up weights.

The weights of the ONNX graphs are replaced by seeded ones, so the golden file checks the
architecture (pads, strides, shortcuts, pyramid, read-out) against ONNX Runtime, needs no weights at
test time, and stays valid whatever the shipped weights become.

    python -m tests.assets.make_movenet_golden movenet-thunder.onnx movenet-lightning.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.assets.make_blazepose_golden import seeded_state

SEED = 20260
#: Maps that are kept: a tensor of the graph behind the last convolution of each head.
HEADS = ("center", "regression", "heatmaps", "offsets")


def seeded_input(size: int) -> np.ndarray:
    """One RGB crop, whole numbers, [1, size, size, 3], smooth enough to look like a picture."""
    coarse = np.random.default_rng(SEED).integers(0, 256, (1, size // 16, size // 16, 3))
    return np.kron(coarse, np.ones((1, 16, 16, 1), np.int64)).astype(np.int32)


def main() -> None:
    """Run the graphs and write the golden file beside this script."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    from eft_fast.models.movenet import MoveNet
    from tools.convert_movenet import conv_nodes

    golden = {}
    for variant, path in zip(("thunder", "lightning"), sys.argv[1:], strict=True):
        model = onnx.load(path)
        network = MoveNet(variant)
        state = seeded_state({k: tuple(v.shape) for k, v in network.state_dict().items()})
        nodes = conv_nodes(model.graph, network)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, node in nodes.items():
            for tensor, part in zip(node.input[1:], ("weight", "bias"), strict=False):
                array = numpy_helper.from_array(state[f"{name}.{part}"], tensor)
                tensors[tensor].CopyFrom(array)
        heads = [nodes[f"{head}.out"].output[0] for head in HEADS]
        for head in heads:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(head))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        (given,) = session.get_inputs()
        picture = seeded_input(network.input_size)
        keypoints, *maps = session.run([model.graph.output[0].name, *heads], {given.name: picture})
        golden[f"{variant}_keypoints"] = keypoints[0, 0]
        # A few cells and channels are enough, and keep the file small.
        for head, array in zip(HEADS, maps, strict=True):
            golden[f"{variant}_{head}"] = array[0, ::4, ::5, ::5]
    np.savez_compressed(Path(__file__).with_name("movenet_golden.npz"), **golden)


if __name__ == "__main__":
    main()
