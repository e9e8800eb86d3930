"""The fit of an export alone, its start given: for comparisons with the other forms of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from eft_fast.deploy.fit_graph.graph import FitOptions, add_fit
from eft_fast.deploy.onnx_builder import FLOAT, GraphBuilder, Value
from eft_fast.map_fit.config import MapConfig

_STATE = {"rotmat": (24, 3, 3), "betas": (10,), "cam": (3,)}


def open_model(model: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run_values(build: Callable[..., Sequence[Value]], **inputs: np.ndarray) -> list[np.ndarray]:
    """What a piece of the graph makes of some arrays."""
    graph, info = GraphBuilder("t"), onnx.helper.make_tensor_value_info
    values = build(*(Value(graph, name) for name in inputs))
    names = [f"out{number}" for number in range(len(values))]
    for name, value in zip(names, values, strict=True):
        graph.nodes.append(onnx.helper.make_node("Identity", [value.name], [name]))
    made = onnx.helper.make_graph(
        graph.nodes,
        "piece",
        [info(name, FLOAT, [None] * array.ndim) for name, array in inputs.items()],
        [info(name, FLOAT, None) for name in names],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.values()],
    )
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    given = {name: np.asarray(array, np.float32) for name, array in inputs.items()}
    return list(open_model(model).run(None, given))


def make_fit_program(asset: Any, *, joint_set: str = "coco17", joints: str = "", mesh: Any = None):
    """A session from answers and keypoints to fits, and the names of its outputs."""
    info = onnx.helper.make_tensor_value_info
    nodes, inputs, outputs = [], [], []
    for name, shape in _STATE.items():
        nodes.append(onnx.helper.make_node("Identity", [f"start_{name}"], [f"init_{name}"]))
        inputs.append(info(f"start_{name}", FLOAT, ["batch", *shape]))
        outputs.append(info(f"init_{name}", FLOAT, ["batch", *shape]))
    graph = onnx.helper.make_graph(nodes, "answers", inputs, outputs)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    names = add_fit(model, asset, FitOptions(joint_set, MapConfig(), joints, mesh))
    onnx.checker.check_model(model, full_check=True)
    session = open_model(model)

    def run(init: Any, keypoints: np.ndarray, sigma: np.ndarray, pinhole: np.ndarray | None = None):
        given = {f"start_{name}": part for name, part in zip(_STATE, init, strict=True)}
        seen = np.zeros((len(keypoints), 4)) if pinhole is None else pinhole
        given |= {"keypoints": keypoints, "sigma": sigma, "pinhole": seen}
        feed = {name: np.asarray(array, np.float32) for name, array in given.items()}
        return dict(zip(names, session.run(None, feed), strict=True))

    return run
