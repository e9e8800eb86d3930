"""Bones mirrored in depth, as operators; the formulas are those of ``map_fit.hypotheses``."""

from __future__ import annotations

from typing import Final

import numpy as np

from eft_fast.conventions import NUM_JOINTS
from eft_fast.deploy.fit_graph.body import PointsGraph
from eft_fast.deploy.fit_graph.energy import State
from eft_fast.deploy.onnx_builder import Value
from eft_fast.map_rules import BONES, SHORTEST

NUM_BONES: Final = len(BONES)
_DEPTH: Final = np.array([1.0, 1.0, -1.0])
#: Least length of a bone, metres.
_TINY: Final = 1e-12


def flip_bones(body: PointsGraph, state: State) -> Value:
    """Rotations [B, 8, 24, 3, 3] of a state with each bone of ``BONES`` mirrored in depth.

    What hangs on a bone keeps its direction in the world.
    """
    bones, ends = (list(each) for each in zip(*BONES, strict=True))
    skeleton = body.skeleton(state.betas, state.rotmat)
    bone = skeleton.joints.take(ends, 1) - skeleton.joints.take(bones, 1)
    turned = mirror_in_depth(bone) @ skeleton.world.take(bones, 1)
    rotmat = state.rotmat.widen(1)
    rotmat = (
        rotmat
        + (skeleton.above.take(bones, 1).permute(0, 1, 3, 2) @ turned).widen(2) * (_marks(bones))
        - rotmat * _marks(bones)
    )
    parents = body.points.chain.parents.tolist()
    rows = [[child for child, parent in enumerate(parents) if parent == joint] for joint in bones]
    for number in range(max(map(len, rows))):
        # Bones that turn fewer joints have none here: their marks are empty.
        children = [each[number] if number < len(each) else -1 for each in rows]
        kept = turned.permute(0, 1, 3, 2) @ skeleton.world.take(np.maximum(children, 0), 1)
        rotmat = rotmat + kept.widen(2) * _marks(children) - rotmat * _marks(children)
    return rotmat


def mirror_in_depth(bone: Value) -> Value:
    """Rotations [B, N, 3, 3] that take directions (x, y, z) [B, N, 3] to (x, y, -z)."""
    graph = bone.graph
    flat, depth = bone.cut(2, 0, 2), bone.cut(2, 2, 3)
    square = (flat * flat).sum(2, keep=True)
    radius = square.fn("Sqrt")
    length = (square + depth * depth).fn("Sqrt").at_least(_TINY)
    # A bone along the line of sight may be mirrored in any plane that holds it.
    is_seen = radius > length * SHORTEST
    along = graph.where(is_seen, flat / graph.where(is_seen, radius, 1.0), np.array([1.0, 0.0]))
    m = graph.concat(2, -depth * along, -radius) / length
    return (np.eye(3) - m.widen(3) @ (m * 2.0).widen(2)) * _DEPTH


def _marks(joints: list[int]) -> np.ndarray:
    """1 at one joint of each bone, [N, 24, 1, 1]; nowhere for -1."""
    marks = np.zeros((len(joints), NUM_JOINTS, 1, 1))
    for row, joint in enumerate(joints):
        if joint >= 0:
            marks[row, joint] = 1.0
    return marks
