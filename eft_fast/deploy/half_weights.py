"""Weights of an ONNX model in half precision where that loses nothing."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

#: Smaller tensors are not worth a node.
_FEWEST: Final = 64


def store_halves(model: Any) -> int:
    """Store those weights as float16 that are float16 numbers, with a cast in front, in place.

    Answers keep every bit: runtimes carry out the casts of constants when they open the file.

    Args:
        model: The ``onnx.ModelProto``.

    Returns:
        How many tensors became halves.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size < _FEWEST or not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    for place, node in enumerate(casts):
        graph.node.insert(place, node)
    return len(casts)
