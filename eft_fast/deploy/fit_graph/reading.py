"""What a network that reads keypoints is shown; the rule is that of ``map_fit.fitter``."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from eft_fast.deploy.fit_graph.problem import is_given
from eft_fast.deploy.onnx_builder import BOOL, INT, GraphBuilder, Value, add_constants
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.fill import find_places
from eft_fast.map_rules import MIN_READ

#: Argument of the network, and input of its model, until the fit stands around it.
GIVEN: Final = "given"
#: Who is shown keypoints, [B, 1], computed before the network.
_READS: Final = "reads_keypoints"


class Reading(NamedTuple):
    """Of a network that reads keypoints.

    Attributes:
        joint_set: Their order (``Regressor.reads_keypoints``).
        precision: Sigma^-1 of the errors of answers that have read some, [85, 85].
    """

    joint_set: str
    precision: np.ndarray


def readable_keypoints(
    keypoints: Value, sigma: Value, joint_set: str, order: str
) -> tuple[Value, Value]:
    """What the network is shown [B, N, 3], and who has enough for that [B, 1].

    Args:
        keypoints: x and y in [-1, 1] of the crop, and confidence, [B, K, 3].
        sigma: Their standard deviations [B, K]; 0 leaves one out here as in the fit.
        joint_set: Their order.
        order: That of the network.
    """
    graph = keypoints.graph
    place = np.array(find_places(find_joint_set(joint_set), find_joint_set(order)))
    rows = np.maximum(place, 0)
    is_there = graph.const((place >= 0)[:, None])
    given = is_given(keypoints, sigma).take(rows, 1) & is_there
    reads = given.to(INT).sum(1) > np.int64(MIN_READ - 1)
    return graph.where(given & reads.widen(2), keypoints.take(rows, 1), 0.0), reads


def show_keypoints(model: Any, reading: Reading, joint_set: str) -> None:
    """Put what the network is shown in front of it, in place: its input ``given`` goes."""
    import onnx

    graph = GraphBuilder("read_")
    keypoints, sigma = Value(graph, "keypoints"), Value(graph, "sigma")
    shown, reads = readable_keypoints(keypoints, sigma, joint_set, reading.joint_set)
    for value, name in ((shown, GIVEN), (reads, _READS)):
        graph.nodes.append(onnx.helper.make_node("Identity", [value.name], [name]))
    behind = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*graph.nodes, *behind])
    add_constants(model, graph)
    kept = [value for value in model.graph.input if value.name != GIVEN]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def who_reads(graph: GraphBuilder) -> Value:
    """Who is shown keypoints, behind the network, [B, 1]."""
    return Value(graph, _READS, BOOL)
