"""Points of the body and their slopes as operators; the formulas are those of ``serving.fitting``.

World rotations are products along the tree by doubling: every joint takes on the product of as
many joints above it as it has, four times, which is a third of the operators of level by level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from eft_fast.conventions import NUM_BETAS, NUM_JOINTS
from eft_fast.deploy.onnx_builder import Value
from eft_fast.serving.fitting.body import ARM, TURN, BodyPoints

_TURNS: Final = 3 * (NUM_JOINTS - 1)


class Skeleton(NamedTuple):
    """A posed kinematic tree.

    Attributes:
        world: Rotations in the world [B, 24, 3, 3].
        above: Those of the parents, the identity for the root.
        joints: Places [B, 24, 3].
    """

    world: Value
    above: Value
    joints: Value


class Posed(NamedTuple):
    """Points of a posed body, with what their slopes use again."""

    skeleton: Skeleton
    points: Value
    term_world: Value
    arm_parts: Value


@dataclass(frozen=True, eq=False)
class PointsGraph:
    """Writes the points of a body.

    Args:
        points: What they are.
    """

    points: BodyPoints

    def skeleton(self, betas: Value, rotmat: Value) -> Skeleton:
        """Rotations and places of joints, of betas [B, 10] and rotmat [B, 24, 3, 3]."""
        chain, graph = self.points.chain, betas.graph
        # A 25th joint stands above the root, and above itself: the identity.
        steps = np.append(np.where(chain.parents < 0, NUM_JOINTS, chain.parents), NUM_JOINTS)
        top = rotmat.cut(1, 0, 1) * 0.0 + np.eye(3)
        total, reach = graph.concat(1, rotmat, top), steps
        for _ in range(int(chain.is_above.sum(1).max() - 1).bit_length()):
            total = total.take(reach, 1) @ total
            reach = reach[reach]
        above = total.take(steps[:NUM_JOINTS], 1)
        bones = betas @ chain.basis.reshape(-1, NUM_BETAS).T + chain.base.reshape(-1)
        places = above @ bones.reshape(-1, NUM_JOINTS, 3, 1)
        joints = graph.const(chain.is_above) @ places.reshape(-1, NUM_JOINTS, 3)
        return Skeleton(total.cut(1, 0, NUM_JOINTS), above, joints)

    def pose(self, betas: Value, rotmat: Value) -> Posed:
        """Place the points, [B, K, 3] in metres about the body's own origin."""
        points, graph = self.points, betas.graph
        skeleton = self.skeleton(betas, rotmat)
        terms = len(points.joint)
        if not terms:
            placed = graph.const(points.of_joints) @ skeleton.joints
            return Posed(skeleton, placed, skeleton.world, skeleton.joints)
        turned = (rotmat.cut(1, 1, NUM_JOINTS) - np.eye(3)).reshape(-1, 9 * (NUM_JOINTS - 1))
        rest = graph.concat(1, betas, turned) @ points.basis[:, 1:].T + points.basis[:, 0]
        term_world = skeleton.world.take(points.joint, 1)
        moved = (term_world @ rest.reshape(-1, terms, 3, 1)).reshape(-1, terms, 3)
        parts = graph.concat(1, moved, skeleton.joints)
        sums = np.concatenate([points.of_terms, points.of_joints], 1)
        return Posed(skeleton, graph.const(sums) @ parts, term_world, parts)

    def slopes(self, posed: Posed, rotmat: Value) -> Value:
        """Points by a step of rotations and betas, [B, K, 3, 82]."""
        points, graph = self.points, rotmat.graph
        skeleton, count, terms = posed.skeleton, len(self.points), len(self.points.joint)
        arms = (graph.const(points.arms) @ posed.arm_parts) @ ARM
        arms = arms.reshape(-1, NUM_JOINTS, 3 * count, 3) @ skeleton.world
        pose = arms.permute(0, 2, 1, 3).reshape(-1, count, 3, 3 * NUM_JOINTS)
        places = skeleton.above @ points.chain.basis  # [B, 24, 3, 10]
        above = points.of_joints @ points.chain.is_above
        shape = graph.const(above) @ places.reshape(-1, NUM_JOINTS, 3 * NUM_BETAS)
        shape = shape.reshape(-1, count, 3, NUM_BETAS)
        if not terms:
            return graph.concat(3, pose, shape)
        turns = rotmat.cut(1, 1, NUM_JOINTS).reshape(-1, NUM_JOINTS - 1, 9) @ TURN
        blend = graph.const(points.pose_basis) @ turns.reshape(-1, NUM_JOINTS - 1, 9, 3)
        blend = blend.permute(0, 2, 1, 3).reshape(-1, terms, 3, _TURNS)
        blend = (posed.term_world @ blend).reshape(-1, terms, 3 * _TURNS)
        own = (posed.term_world @ points.shape_basis).reshape(-1, terms, 3 * NUM_BETAS)
        of_terms = graph.const(points.of_terms)
        blend = (of_terms @ blend).reshape(-1, count, 3, _TURNS)
        shape = shape + (of_terms @ own).reshape(-1, count, 3, NUM_BETAS)
        pose = graph.concat(3, pose.cut(3, 0, 3), pose.cut(3, 3, 3 * NUM_JOINTS) + blend)
        return graph.concat(3, pose, shape)
