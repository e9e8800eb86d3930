"""Turn a MoveNet SinglePose ONNX file into weights of ``eft_fast.models.movenet.MoveNet``.

The ONNX file comes from the TF.js graph model of the TF Hub weights (Apache-2.0) through tf2onnx:

    python tools/convert_movenet.py movenet-thunder.onnx movenet_thunder.npz
    python tools/convert_movenet.py movenet-lightning.onnx lightning.npz --variant lightning

The result holds float16 arrays, the precision in which the weights were published. Needs ``onnx``
(extra ``train``).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eft_fast.models.movenet import VARIANTS, MoveNet

#: Scopes of the published graph that become heads of ours.
SCOPE_OF_HEAD = {
    "regression": "/kpt_regress_0/",
    "offsets": "/kpt_offset_0/",
    "heatmaps": "/kpt_heatmap_0/",
    "center": "/center_0/",
}


def conv_nodes(graph: Any, network: MoveNet) -> dict[str, Any]:
    """Pair each convolution of ``network`` with its node in the ONNX graph.

    Both run the trunk in the same order, so position decides; the heads are told apart by their
    scopes. ``convert`` checks all shapes.
    """
    convs = [node for node in graph.node if node.op_type == "Conv"]
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    groups: dict[str, tuple[list[str], list[Any]]] = {}
    for head, scope in SCOPE_OF_HEAD.items():
        groups[head] = (
            [name for name in names if name.startswith(f"{head}.")],
            [node for node in convs if scope in node.output[0]],
        )
    in_heads = {name for head_names, _ in groups.values() for name in head_names}
    outputs = {node.output[0] for _, nodes in groups.values() for node in nodes}
    groups["trunk"] = (
        _in_running_order([name for name in names if name not in in_heads]),
        [node for node in convs if node.output[0] not in outputs],
    )
    for part, (part_names, nodes) in groups.items():
        if len(part_names) != len(nodes):
            raise ValueError(
                f"convert_movenet: {part} of {network.variant!r} has {len(part_names)} "
                f"convolutions, the file has {len(nodes)}; it is no MoveNet SinglePose graph"
            )
    return {
        name: node
        for part_names, nodes in groups.values()
        for name, node in zip(part_names, nodes, strict=True)
    }


def _in_running_order(names: list[str]) -> list[str]:
    """Laterals and merges of the pyramid take turns."""
    trunk = [name for name in names if not name.startswith(("laterals.", "merges."))]
    levels = sorted(
        (name for name in names if name not in trunk),
        key=lambda name: (int(name.split(".")[1]), names.index(name)),
    )
    return trunk + levels


def convert(path: Path, variant: str) -> dict[str, np.ndarray[Any, Any]]:
    """Read the ONNX file and return our state dict as float32 arrays."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    network = MoveNet(variant)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, node in conv_nodes(graph, network).items():
        for part, tensor in zip(("weight", "bias"), node.input[1:], strict=False):
            arrays[f"{name}.{part}"] = weights[tensor]
    for name, expected in network.state_dict().items():
        shape = arrays[name].shape if name in arrays else None
        if shape != tuple(expected.shape):
            raise ValueError(
                f"convert_movenet: {name} must be {list(expected.shape)}, "
                f"got {None if shape is None else list(shape)}; choose another --variant"
            )
    return {name: arrays[name] for name in network.state_dict()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("onnx", type=Path)
    parser.add_argument("npz", type=Path)
    variants = [variant for variant in VARIANTS if variant != "tiny"]
    parser.add_argument("--variant", choices=variants, default="thunder")
    args = parser.parse_args()
    arrays = convert(args.onnx, args.variant)
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    worst = max(
        float(np.abs(half[name].astype(np.float32) - array).max()) for name, array in arrays.items()
    )
    np.savez_compressed(args.npz, **half)
    count = sum(array.size for array in arrays.values())
    digest = hashlib.sha256(args.onnx.read_bytes()).hexdigest()
    print(f"{args.npz}: {count} weights, float16 changes a weight by {worst:.1e} at most")
    print(f"source sha256 {digest}")


if __name__ == "__main__":
    main()
