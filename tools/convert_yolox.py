"""Turn the ONNX file of YOLOX-nano into weights of ``eft_fast.models.yolox.YoloxNano``.

The file is an export of the published weights (Megvii, Apache-2.0) at 416 x 416 with raw outputs:

    python tools/convert_yolox.py yolox_nano_416.onnx yolox_nano.npz

Of the 80 classes only the person's row is kept. The result holds float16 arrays, and float32 ones
where rounding would tell (``is_tender``). Needs ``onnx`` (extra ``train``).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from eft_fast.models.yolox import YoloxNano

#: The person among the classes of COCO.
PERSON_CLASS = 0
#: Layers that stay in float32, by how their names begin; beside biases, kernels of single channels
#: and outputs. All in float16 move a box by up to 7 pixels of 416; these in float32: by 0.6.
TENDER_LAYERS = ("stem", "stages.0", "stages.1", "stages.2")


def conv_nodes(graph: Any, network: YoloxNano) -> dict[str, Any]:
    """Pair each convolution of ``network`` with its node in the ONNX graph.

    Both run in the same order, so position decides; ``convert`` checks all shapes.
    """
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if len(nodes) != len(names):
        raise ValueError(
            f"convert_yolox: YOLOX-nano has {len(names)} convolutions, the file has {len(nodes)}; "
            "pass the raw export of yolox_nano"
        )
    return dict(zip(names, nodes, strict=True))


def convert(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the ONNX file and return our state dict as float32 arrays."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    network = YoloxNano()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, node in conv_nodes(graph, network).items():
        is_class = name.endswith("class_out")
        for part, tensor in zip(("weight", "bias"), node.input[1:], strict=True):
            array = weights[tensor]
            arrays[f"{name}.{part}"] = array[PERSON_CLASS, None] if is_class else array
    for name, tensor in network.state_dict().items():
        if arrays[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"convert_yolox: {name} must be {list(tensor.shape)}, got "
                f"{list(arrays[name].shape)}; pass the raw export of yolox_nano"
            )
    return {name: arrays[name] for name in network.state_dict()}


def is_tender(name: str, array: np.ndarray[Any, Any]) -> bool:
    """Whether a weight stays in float32."""
    is_small = array.ndim == 1 or array.shape[1] == 1 or "_out." in name
    return is_small or name.startswith(TENDER_LAYERS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("onnx", type=Path)
    parser.add_argument("npz", type=Path)
    args = parser.parse_args()
    arrays = convert(args.onnx)
    stored = {
        name: array if is_tender(name, array) else array.astype(np.float16)
        for name, array in arrays.items()
    }
    worst = max(float(np.abs(stored[name] - array).max()) for name, array in arrays.items())
    np.savez_compressed(args.npz, **stored)
    count = sum(array.size for array in arrays.values())
    digest = hashlib.sha256(args.onnx.read_bytes()).hexdigest()
    print(f"{args.npz}: {count} weights, rounding changes one by {worst:.1e} at most")
    print(f"source sha256 {digest}")


if __name__ == "__main__":
    main()
