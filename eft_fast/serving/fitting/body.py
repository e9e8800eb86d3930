"""Points of the body and their slopes, from the numbers of a ``PointsPlan`` (``ops.plans``).

A point is a sum of terms and of kinematic joints. With c = [1, betas, vec(R_1 - I), ...] a term of
joint j is G_j (alpha D c - omega rest_j) + omega g_j: G and g are the rotations and the places of
joints in the world. What hangs on joint m turns about it, so a step d of its rotation moves a point
by (G_m d) x arm, arm the sum of what of the point hangs below m, taken from g_m; and by the
blendshapes, D's columns of joint m times vec(R_m [d]x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from eft_fast.conventions import NUM_BETAS, NUM_JOINTS, NUM_POSE_FEATURES
from eft_fast.map_rules import BETAS, POSE
from eft_fast.serving.fitting.rotations import SKEW

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

#: Where the pose blendshapes of joint 1 begin among the 218 coefficients of a body.
_FEATURES: Final = 1 + NUM_BETAS
_FEATURES_PER_JOINT: Final = 9
#: Rotations of joints 1 to 23, which have blendshapes.
_TURNS: Final = 3 * (NUM_JOINTS - 1)
_IDENTITY: Final = np.eye(3)
#: arm @ ARM is -[arm]x, flattened.
ARM: Final = -SKEW.reshape(3, 9)
#: vec(R) @ TURN is vec(R [e_a]x) of the three axes a: [9 -> 9 features, 3 axes].
TURN: Final = np.einsum("ij,alk->iljka", np.eye(3), SKEW).reshape(9, 27)


class Posed(NamedTuple):
    """Bodies in a pose, with what the slopes use again.

    Attributes:
        points: In metres, about the body's own origin.
        world: Rotations of the joints in the world.
        above: Those of their parents; the identity for the root.
        joints: Places of the joints.
        term_world: Rotations of the terms.
        turned: Rotated part of each term.
    """

    points: Float64[np.ndarray, "B K 3"]
    world: Float64[np.ndarray, "B 24 3 3"]
    above: Float64[np.ndarray, "B 24 3 3"]
    joints: Float64[np.ndarray, "B 24 3"]
    term_world: Float64[np.ndarray, "B N 3 3"]
    turned: Float64[np.ndarray, "B N 3"]

    def take(self, rows: np.ndarray) -> Posed:
        """The same of some people."""
        return Posed(*(part[rows] for part in self))


@dataclass(frozen=True, eq=False)
class BodyPlan:
    """The numbers of a ``PointsPlan``, for the points of all joint sets together.

    Attributes:
        skeleton: Rest joints: mean shape, then ten directions, metres.
        parents: Parent of each joint, -1 at the root.
        basis: Rows D_r.
        term_index: Row, joint, source of each term.
        term_weight: alpha and omega of each term.
        joint_index: Joint and source: a kinematic joint that is part of a source.
        joint_weight: Its factor.
        sources: The source of each point of each joint set.
    """

    skeleton: Float64[np.ndarray, "24 3 11"]
    parents: Int[np.ndarray, " 24"]
    basis: Float64[np.ndarray, "R 3 218"]
    term_index: Int[np.ndarray, "N 3"]
    term_weight: Float64[np.ndarray, "N 2"]
    joint_index: Int[np.ndarray, "M 2"]
    joint_weight: Float64[np.ndarray, " M"]
    sources: dict[str, Int[np.ndarray, " K"]]


class Chain:
    """The kinematic tree: rotations and places of joints in the world."""

    def __init__(self, skeleton: np.ndarray, parents: np.ndarray) -> None:
        bones = skeleton.copy()
        bones[1:] -= skeleton[parents[1:]]
        self.base, self.parents = bones[..., 0], parents
        self.basis = np.ascontiguousarray(bones[..., 1:])
        #: Whether joint m stands above joint j, or is it: [j, m].
        self.is_above = np.eye(NUM_JOINTS)
        depth = np.zeros(NUM_JOINTS, int)
        for joint in range(1, NUM_JOINTS):
            self.is_above[joint] += self.is_above[parents[joint]]
            depth[joint] = depth[parents[joint]] + 1
        levels = [np.flatnonzero(depth == level) for level in range(1, depth.max() + 1)]
        self._levels = [(_as_slice(level), _as_slice(parents[level])) for level in levels]

    def pose(self, betas: np.ndarray, rotmat: np.ndarray) -> tuple[np.ndarray, ...]:
        """World rotations, those of the parents, and places."""
        world = np.empty_like(rotmat)
        world[:, 0] = rotmat[:, 0]
        for level, parents in self._levels:
            world[:, level] = world[:, parents] @ rotmat[:, level]
        above = np.empty_like(rotmat)
        above[:, 0] = _IDENTITY
        above[:, 1:] = np.take(world, self.parents[1:], 1)
        bones = self.base + (self.basis @ betas[:, None, :, None])[..., 0]
        return world, above, self.is_above @ (above @ bones[..., None])[..., 0]

    def slopes(self, above: np.ndarray) -> Float64[np.ndarray, "B 24 30"]:
        """Places by betas."""
        turned = (above @ self.basis).reshape(len(above), NUM_JOINTS, 3 * NUM_BETAS)
        return np.asarray(self.is_above @ turned)


class BodyPoints:
    """Points of a body as functions of shape and rotations, with their slopes.

    Args:
        plan: The body.
        sources: The source of each point.
    """

    def __init__(self, plan: BodyPlan, sources: Int[np.ndarray, " K"]) -> None:
        self.chain = Chain(plan.skeleton, plan.parents)
        self.parents = plan.parents
        # A term that several points share is there once for each of them.
        point, term = np.nonzero(sources[:, None] == plan.term_index[:, 2])
        row, joint = plan.term_index[term, 0], plan.term_index[term, 1]
        alpha, omega = plan.term_weight[term].T
        basis = alpha[:, None, None] * plan.basis[row]
        self.pose_basis = np.ascontiguousarray(
            basis[..., _FEATURES:]
            .reshape(3 * len(term), NUM_JOINTS - 1, _FEATURES_PER_JOINT)
            .swapaxes(0, 1)
        )
        basis[..., :_FEATURES] -= omega[:, None, None] * plan.skeleton[joint]
        self.joint, self.basis = joint, basis.reshape(-1, basis.shape[-1])
        self.shape_basis = np.ascontiguousarray(basis[..., 1:_FEATURES])
        self.of_terms = np.zeros((len(sources), len(term)))
        self.of_terms[point, np.arange(len(term))] = 1.0
        self.of_joints = np.zeros((len(sources), NUM_JOINTS))
        np.add.at(self.of_joints, (point, joint), omega)
        at, part = np.nonzero(sources[:, None] == plan.joint_index[:, 1])
        np.add.at(self.of_joints, (at, plan.joint_index[part, 0]), plan.joint_weight[part])
        self.arms = self._make_arms()

    def _make_arms(self) -> Float64[np.ndarray, "24K N+24"]:
        """Arms of points about joints as sums over terms and places."""
        count = len(self.of_terms)
        below = self.chain.is_above.T  # [m, j]
        terms = below[:, self.joint][:, None] * self.of_terms
        joints = below[:, None] * self.of_joints
        diagonal = np.arange(NUM_JOINTS)
        joints[diagonal, :, diagonal] -= joints.sum(2)
        return np.concatenate([terms, joints], 2).reshape(NUM_JOINTS * count, -1)

    def __len__(self) -> int:
        return len(self.of_terms)

    def pose(
        self, betas: Float64[np.ndarray, "B 10"], rotmat: Float64[np.ndarray, "B 24 3 3"]
    ) -> Posed:
        """Place the points."""
        people = len(betas)
        world, above, joints = self.chain.pose(betas, rotmat)
        coefficients = np.empty((people, self.basis.shape[1], 1))
        coefficients[:, 0, 0] = 1.0
        coefficients[:, 1:_FEATURES, 0] = betas
        coefficients[:, _FEATURES:, 0] = (rotmat[:, 1:] - _IDENTITY).reshape(
            people, NUM_POSE_FEATURES
        )
        rest = (self.basis @ coefficients).reshape(people, len(self.joint), 3, 1)
        term_world = np.take(world, self.joint, 1)
        turned = (term_world @ rest)[..., 0]
        points = self.of_terms @ turned + self.of_joints @ joints
        return Posed(points, world, above, joints, term_world, turned)

    def slopes(
        self, posed: Posed, rotmat: Float64[np.ndarray, "B 24 3 3"]
    ) -> Float64[np.ndarray, "B K 3 82"]:
        """Points by a step of rotations and betas."""
        people, count = len(rotmat), len(self)
        out = np.empty((people, count, 3, BETAS.stop))
        arms = self.arms @ np.concatenate([posed.turned, posed.joints], 1)
        arms = (arms @ ARM).reshape(people, NUM_JOINTS, 3 * count, 3) @ posed.world
        pose = arms.reshape(people, NUM_JOINTS, count, 3, 3).transpose(0, 2, 3, 1, 4)
        out[..., POSE] = pose.reshape(people, count, 3, POSE.stop)
        out[..., 3 : POSE.stop] += self._blendshape_slopes(posed, rotmat)
        shape = posed.term_world @ self.shape_basis
        shape = shape.reshape(people, len(self.joint), 3 * NUM_BETAS)
        shape = self.of_terms @ shape + self.of_joints @ self.chain.slopes(posed.above)
        out[..., BETAS] = shape.reshape(people, count, 3, NUM_BETAS)
        return out

    def _blendshape_slopes(self, posed: Posed, rotmat: np.ndarray) -> np.ndarray:
        people, count, terms = len(rotmat), len(self), len(self.joint)
        turns = rotmat[:, 1:].reshape(people, NUM_JOINTS - 1, 9) @ TURN
        slopes = self.pose_basis @ turns.reshape(people, NUM_JOINTS - 1, 9, 3)
        slopes = slopes.reshape(people, NUM_JOINTS - 1, terms, 3, 3).transpose(0, 2, 3, 1, 4)
        turned = posed.term_world @ slopes.reshape(people, terms, 3, _TURNS)
        summed = self.of_terms @ turned.reshape(people, terms, 3 * _TURNS)
        return np.asarray(summed.reshape(people, count, 3, _TURNS))


def _as_slice(index: np.ndarray) -> slice | np.ndarray:
    """Neighbours as a slice, which needs no copy."""
    if (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
