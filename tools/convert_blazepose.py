"""Turn a BlazePose landmark ONNX file into weights of ``eft_fast.models.blazepose.BlazePose``.

The ONNX file comes from the ``.tflite`` of MediaPipe (Apache-2.0) through tf2onnx:

    python -m tf2onnx.convert --tflite pose_landmark_full.tflite --opset 13 --output full.onnx
    python tools/convert_blazepose.py full.onnx full.npz

The result holds float16 arrays, the precision that the ``.tflite`` stores. Needs ``onnx``.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eft_fast.models.blazepose import VARIANTS, BlazePose

#: Outputs of the published graph that become output layers of ours.
OUTPUT_OF_LAYER = {
    "landmark_out": "Identity",
    "world_out": "Identity_4",
    "score_out": "Identity_1",
    "heatmap_out": "Identity_3",
}


def _ancestors(graph: Any, tensor: str) -> set[str]:
    """Names of all tensors that ``tensor`` is computed from, itself included."""
    producer = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    stack = [tensor]
    while stack:
        name = stack.pop()
        if name in producer and name not in found:
            found.add(name)
            stack.extend(producer[name].input)
    return found


def _output_conv(graph: Any, output: str) -> Any:
    """The convolution behind ``output``, past reshapes and the sigmoid."""
    producer = {name: node for node in graph.node for name in node.output}
    node = producer[output]
    while node.op_type != "Conv":
        node = producer[node.input[0]]
    return node


def conv_nodes(graph: Any, network: BlazePose) -> dict[str, Any]:
    """Pair each convolution of ``network`` with its node in the ONNX graph.

    Both run the trunk in the same order, so position decides. The heatmap branch is read in
    another order, but each of its weights has a shape of its own. ``convert`` checks all shapes.
    """
    nodes = {layer: _output_conv(graph, output) for layer, output in OUTPUT_OF_LAYER.items()}
    trunk = _ancestors(graph, nodes["landmark_out"].input[0])
    branch = _ancestors(graph, nodes["heatmap_out"].input[0]) - trunk
    convs = [node for node in graph.node if node.op_type == "Conv"]
    trunk_convs = [node for node in convs if node.output[0] in trunk]
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    branch_convs = {dims[node.input[1]]: node for node in convs if node.output[0] in branch}

    trunk_names = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d) or name in OUTPUT_OF_LAYER:
            continue
        if name.startswith("laterals."):
            nodes[name] = branch_convs[tuple(module.weight.shape)]
        else:
            trunk_names.append(name)
    if len(trunk_names) != len(trunk_convs):
        raise ValueError(
            f"convert_blazepose: the trunk of {network.variant!r} has {len(trunk_names)} "
            f"convolutions, the file has {len(trunk_convs)}; choose another --variant"
        )
    nodes.update(zip(trunk_names, trunk_convs, strict=True))
    return nodes


def convert(path: Path, variant: str) -> dict[str, np.ndarray[Any, Any]]:
    """Read the ONNX file and return our state dict as float32 arrays."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    network = BlazePose(variant)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, node in conv_nodes(graph, network).items():
        arrays[f"{name}.weight"] = weights[node.input[1]]
        arrays[f"{name}.bias"] = weights[node.input[2]]
    for name, tensor in network.state_dict().items():
        if arrays[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"convert_blazepose: {name} must be {list(tensor.shape)}, "
                f"got {list(arrays[name].shape)}; choose another --variant"
            )
    return {name: arrays[name] for name in network.state_dict()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("onnx", type=Path)
    parser.add_argument("npz", type=Path)
    parser.add_argument("--variant", choices=[v for v in VARIANTS if v != "tiny"], default="full")
    args = parser.parse_args()
    arrays = convert(args.onnx, args.variant)
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    worst = max(
        float(np.abs(half[name].astype(np.float32) - array).max()) for name, array in arrays.items()
    )
    np.savez(args.npz, **half)
    count = sum(array.size for array in arrays.values())
    digest = hashlib.sha256(args.onnx.read_bytes()).hexdigest()
    print(f"{args.npz}: {count} weights, float16 changes a weight by {worst:.1e} at most")
    print(f"source sha256 {digest}")


if __name__ == "__main__":
    main()
