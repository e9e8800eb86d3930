"""Changes of ONNX models, to see them found."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx


def change_output(model: Any, name: str, operator: str, value: float) -> None:
    """Put an operator with a constant in front of an output."""
    constant = onnx.numpy_helper.from_array(np.float32(value), "planted")
    model.graph.initializer.append(constant)
    at, last = next((i, node) for i, node in enumerate(model.graph.node) if name in node.output)
    last.output[list(last.output).index(name)] = "before_it"
    planted = onnx.helper.make_node(operator, ["before_it", "planted"], [name])
    model.graph.node.insert(at + 1, planted)
