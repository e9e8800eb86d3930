"""People who were never rendered: poses, views, crops, and which of their keypoints can be seen.

Everything that a picture decides is drawn for many people at once, without the picture: poses by
the renderer's rules (``synth.poses``), its cameras and cuts, flat things in front, other people,
and limbs that hide behind the body. A head that reads keypoints learns lifting from them, at
thousands of people a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import fit_weak_camera
from eft_fast.geometry.rotations import axis_angle_to_matrix, mirror_pose
from eft_fast.synth import PosePool, SynthConfig
from eft_fast.synth.config import CameraConfig, PoseConfig
from eft_fast.synth.landmarks import NUM_COCO
from eft_fast.synth.poses import LOWER, UPPER, axis_angle_matrix, sample_posture, sample_standing
from eft_fast.synth.scene import CHILD_BETAS
from eft_fast.training.targets import Targets, body_points, frame_size

#: Procedural postures that are drawn once.
_POSTURES: Final = 3000
_SEED_BRANCH: Final = 77
#: Ends among the kinematic joints and radius, metres, of the capsules that hide keypoints.
_CAPSULES: Final = (
    (0, 12, 0.12), (1, 4, 0.075), (2, 5, 0.075), (4, 7, 0.05), (5, 8, 0.05), (16, 18, 0.045),
    (17, 19, 0.045), (18, 20, 0.04), (19, 21, 0.04), (12, 15, 0.09), (13, 14, 0.10), (1, 2, 0.10),
    (7, 10, 0.04), (8, 11, 0.04),
)  # fmt: skip
#: From the axis of a capsule to where a keypoint behind it is hidden, metres beyond the radius.
_BEHIND: Final = 0.06
#: Distance of the skin from joints and landmarks, metres, which widens the box.
_SKIN: Final = 0.09
#: Landmarks whose height ends the picture, as of ``synth.scene``.
_CUTS: Final = {"hips": (11, 12), "elbows": (7, 8), "knees": (13, 14)}
#: Odds of flat things, of a second one, of a table, and of somebody in front.
_ODDS_FLAT, _ODDS_SECOND, _ODDS_TABLE, _ODDS_PERSON = 0.45, 0.5, 0.08, 0.10
#: Points nearer to the camera than this are no part of a picture, metres.
_NEAREST: Final = 0.2
_INF: Final = float("inf")


class SimulatedPeople(NamedTuple):
    """People and what can be seen of them.

    Attributes:
        targets: Labels, as of rendered people.
        seen: Of the 17 keypoints: 2 visible, 1 hidden by something in front, 0 outside the picture.
    """

    targets: Targets
    seen: Int[Tensor, "N 17"]


class PeopleSimulator:
    """Draws people by the rules of a renderer.

    Args:
        body: The body model.
        pool: Poses of the training split.
        config: How scenes are drawn.
        fitted: Poses of real people, of ``skeleton_poses``; None: none.
        fitted_odds: Odds of a person to have one of them.
    """

    def __init__(
        self,
        body: Smpl,
        pool: PosePool,
        config: SynthConfig,
        *,
        fitted: Float[Tensor, "M 24 3 3"] | None = None,
        fitted_odds: float = 0.0,
    ) -> None:
        self._body, self._config = body, config
        self._fitted = fitted if fitted is not None and len(fitted) else None
        self._fitted_odds = fitted_odds
        frames = [axis_angle_matrix(each.astype(np.float64)) for each in pool.full_pose]
        self._frames = torch.from_numpy(np.stack(frames).astype(np.float32))
        self._odds = torch.from_numpy(np.cumsum(pool.weight))
        rng = np.random.default_rng([config.seed, _SEED_BRANCH])
        self._postures = _sample_many(sample_posture, rng)
        stands = config.pose.standing > 0
        self._standing = _sample_many(sample_standing, rng) if stands else None

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> SimulatedPeople:
        """Draw people; the generator alone decides who they are."""
        dice = Dice(generator)
        camera = self._config.camera
        rotmat = self._poses(count, dice)
        betas = (dice.normal(count, 10) * self._config.beta_sigma).clamp(-3, 3)
        is_child = dice.happens(count, self._config.child)
        for place, (low, high) in CHILD_BETAS.items():
            betas[:, place] = torch.where(is_child, dice.uniform(count, low, high), betas[:, place])
        points = body_points(self._body, rotmat, betas)
        near, far = camera.distance_m
        distance = dice.uniform(count, math.log(near), math.log(far)).exp()
        depth = torch.stack([torch.zeros(count), torch.zeros(count), distance], 1)[:, None]
        joints, landmarks = points.joints + depth, points.landmarks + depth
        flat, flat_joints = _flatten(landmarks), _flatten(joints)
        skin = (_SKIN / distance)[:, None, None, None]
        sides = skin * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        surface = (torch.cat([flat, flat_joints], 1)[:, :, None] + sides).flatten(1, 2)
        kept, border = _cut(surface, flat, dice, camera)
        lowest = torch.where(kept[..., None], surface, _INF).amin(1)
        highest = torch.where(kept[..., None], surface, -_INF).amax(1)
        side = (highest - lowest).amax(1).clamp_min(1e-3) * camera.margin
        side = side * (dice.normal(count) * camera.margin_sigma).exp()
        center = (lowest + highest) / 2 + dice.normal(count, 2) * camera.shift_sigma * side[:, None]
        focal = (2 / side)[:, None]
        seen_at = focal[:, None] * (flat - center[:, None])
        limits = (border - center.repeat(1, 2)) * focal
        leaves = dice.happens(count, camera.frame_edge)[:, None]
        limits = torch.where(leaves, limits, torch.tensor([-_INF, -_INF, _INF, _INF]))
        keypoints = seen_at[:, :NUM_COCO]
        inside = (keypoints.abs() <= 1).all(-1)
        inside &= (keypoints > limits[:, None, :2]).all(-1)
        inside &= (keypoints < limits[:, None, 2:]).all(-1)
        hidden = _hide(keypoints, dice) | _hide_behind_self(
            landmarks[:, :NUM_COCO], joints, distance
        )
        seen = torch.where(inside, torch.where(hidden, 1, 2), 0)
        targets = Targets(
            rotmat=rotmat,
            betas=betas,
            joints=points.joints,
            landmarks=points.landmarks,
            landmarks_2d=seen_at,
            size=frame_size(seen_at),
            camera=fit_weak_camera(points.landmarks + points.root, seen_at),
        )
        return SimulatedPeople(targets, seen)

    def _draw_frames(self, count: int, dice: Dice) -> Float[Tensor, "N 24 3 3"]:
        chance = torch.rand(count, generator=dice.generator, dtype=torch.float64)
        rows = torch.searchsorted(self._odds, chance, right=True)
        return self._frames[rows.clamp_max(len(self._frames) - 1)].clone()

    def _poses(self, count: int, dice: Dice) -> Float[Tensor, "N 24 3 3"]:
        """``synth.poses.sample_viewed_pose`` of many."""
        config: PoseConfig = self._config.pose
        rotmat, other = self._draw_frames(count, dice), self._draw_frames(count, dice)
        is_mixed, is_upper = dice.happens(count, config.mix), dice.happens(count, 0.5)
        for part, chosen in ((UPPER, is_mixed & is_upper), (LOWER, is_mixed & ~is_upper)):
            _replace(rotmat, other, chosen, part)
        jitter = dice.happens(count, config.jitter)[:, None, None] * math.radians(config.jitter_deg)
        rotmat[:, 1:] = rotmat[:, 1:] @ axis_angle_to_matrix(dice.normal(count, 23, 3) * jitter)
        rotmat[:, 22:] = axis_angle_to_matrix(dice.normal(count, 2, 3) * 0.2)
        posture = self._postures[dice.integers(count, len(self._postures))]
        _replace(rotmat, posture, dice.happens(count, config.procedural_legs), LOWER)
        _replace(rotmat, posture, dice.happens(count, config.procedural), range(24))
        if self._fitted is not None:
            real = self._fitted[dice.integers(count, len(self._fitted))]
            _replace(rotmat, real, dice.happens(count, self._fitted_odds), range(24))
        # Without such people no number is drawn, so that earlier runs repeat.
        if self._standing is not None:
            stands = dice.happens(count, config.standing)
            legs = self._standing[dice.integers(count, len(self._standing))]
            _replace(rotmat, legs, stands, LOWER)
            upright = _turn(1, _facing(rotmat[:, 0]))
            rotmat[:, 0] = torch.where(stands[:, None, None], upright, rotmat[:, 0])
        is_mirrored = dice.happens(count, config.mirror)
        rotmat = torch.where(is_mirrored[:, None, None, None], mirror_pose(rotmat), rotmat)
        lies = dice.happens(count, config.lying)[:, None, None]
        axis = torch.zeros(count, 3)
        turn = dice.integers(count, 4)  # on the back, the front, either side
        axis[torch.arange(count), 2 * (turn // 2)] = torch.where(turn % 2 == 0, -1.0, 1.0)
        lying = axis_angle_to_matrix(axis * (math.pi / 2))
        rotmat[:, 0] = torch.where(lies, lying @ rotmat[:, 0], rotmat[:, 0])
        about = dice.normal(count) * math.radians(35) - _facing(rotmat[:, 0])
        any_side = dice.uniform(count, -math.pi, math.pi)
        yaw = torch.where(dice.happens(count, config.uniform_yaw), any_side, about)
        pitch = torch.deg2rad(dice.normal(count) * 12 + 6)
        tilt = torch.deg2rad(dice.normal(count) * 8)
        roll = dice.uniform(count, -math.pi, math.pi) * dice.happens(count, config.any_roll)
        upside = _turn(0, torch.full((count,), math.pi))
        view = _turn(2, roll) @ upside @ _turn(0, pitch) @ _turn(2, tilt) @ _turn(1, yaw)
        rotmat[:, 0] = view @ rotmat[:, 0]
        return rotmat


class Dice(NamedTuple):
    """Random numbers of one generator."""

    generator: torch.Generator

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, " N"]:
        """Numbers between two ends."""
        return torch.rand(count, generator=self.generator) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def happens(self, count: int, odds: float) -> Bool[Tensor, " N"]:
        """True with these odds."""
        return torch.rand(count, generator=self.generator) < odds

    def integers(self, count: int, below: int) -> Int[Tensor, " N"]:
        """Whole numbers from 0."""
        return torch.randint(below, (count,), generator=self.generator)


def _replace(
    rotmat: Tensor, other: Tensor, chosen: Bool[Tensor, " N"], part: range | tuple[int, ...]
) -> None:
    """Take some joints of the chosen people from somebody else, in place."""
    joints = list(part)
    taken = torch.where(chosen[:, None, None, None], other[:, joints], rotmat[:, joints])
    rotmat[:, joints] = taken


def _sample_many(
    sample: Callable[[np.random.Generator], np.ndarray], rng: np.random.Generator
) -> Float[Tensor, "P 24 3 3"]:
    drawn = np.stack([sample(rng) for _ in range(_POSTURES)])
    return torch.from_numpy(drawn.astype(np.float32))


def _facing(root: Float[Tensor, "N 3 3"]) -> Float[Tensor, " N"]:
    """``synth.poses._facing`` of many, radians."""
    return torch.atan2(root[:, 0, 2], root[:, 2, 2])


def _turn(axis: int, angle: Float[Tensor, " N"]) -> Float[Tensor, "N 3 3"]:
    vector = torch.zeros(len(angle), 3)
    vector[:, axis] = angle
    return axis_angle_to_matrix(vector)


def _flatten(points: Float[Tensor, "N K 3"]) -> Float[Tensor, "N K 2"]:
    return points[..., :2] / points[..., 2:].clamp_min(_NEAREST)


def _cut(
    surface: Float[Tensor, "N M 2"],
    landmarks: Float[Tensor, "N 27 2"],
    dice: Dice,
    config: CameraConfig,
) -> tuple[Bool[Tensor, "N M"], Float[Tensor, "N 4"]]:
    """Which points the box is drawn around, and the border where the others were cut."""
    count = len(surface)
    kept = torch.ones(surface.shape[:2], dtype=torch.bool)
    border = torch.tensor([-_INF, -_INF, _INF, _INF]).repeat(count, 1)
    chance, first = dice.uniform(count), 0.0
    height = surface[..., 1].amax(1) - surface[..., 1].amin(1)
    jitter = dice.uniform(count, -0.03, 0.10) * height
    is_right = dice.happens(count, 0.5)
    share = torch.where(is_right, dice.uniform(count, 0.55, 0.9), dice.uniform(count, 0.1, 0.45))
    order = surface[..., 0].sort(1).values
    line = order.gather(1, (share * (surface.shape[1] - 1)).round().long()[:, None])[:, 0]
    odds = {"hips": config.cut_hips, "elbows": config.cut_elbows, "knees": config.cut_knees}
    for kind, part in (odds | {"side": config.cut_side}).items():
        chosen = (chance >= first) & (chance < first + part)
        first += part
        end = border.clone()
        if kind == "side":
            to_left, to_right = surface[..., 0] < line[:, None], surface[..., 0] > line[:, None]
            inside = torch.where(is_right[:, None], to_left, to_right)
            end[:, 2] = torch.where(is_right, line, _INF)
            end[:, 0] = torch.where(is_right, -_INF, line)
        else:
            end[:, 3] = landmarks[:, list(_CUTS[kind]), 1].mean(1) + jitter
            inside = surface[..., 1] < end[:, 3:]
        # Somebody who lies or hangs has little above that line: they are shown whole.
        chosen = chosen & (inside.float().mean(1) >= 0.2)
        kept = torch.where(chosen[:, None], inside, kept)
        border = torch.where(chosen[:, None], end, border)
    return kept, border


def _hide(keypoints: Float[Tensor, "N 17 2"], dice: Dice) -> Bool[Tensor, "N 17"]:
    """What flat things, a table or somebody in front hide."""
    count = len(keypoints)
    hidden = torch.zeros(keypoints.shape[:2], dtype=torch.bool)
    there = dice.happens(count, _ODDS_FLAT)
    second = dice.happens(count, _ODDS_SECOND)
    for present in (there, there & second):
        center = torch.stack([dice.uniform(count, -1, 1), dice.uniform(count, -1, 1)], 1)
        half = torch.stack([dice.uniform(count, 0.08, 0.47), dice.uniform(count, 0.08, 0.47)], 1)
        angle = dice.uniform(count, 0, math.pi / 2)[:, None]
        away = keypoints - center[:, None]
        x = away[..., 0] * angle.cos() + away[..., 1] * angle.sin()
        y = away[..., 1] * angle.cos() - away[..., 0] * angle.sin()
        inside = (x.abs() < half[:, :1]) & (y.abs() < half[:, 1:])
        hidden |= inside & present[:, None]
    left = dice.uniform(count, -0.1, 0.8)[:, None]
    right = dice.uniform(count, -0.1, 0.8)[:, None]
    edge = left + (right - left) * (keypoints[..., 0] + 1) / 2
    hidden |= (keypoints[..., 1] > edge) & dice.happens(count, _ODDS_TABLE)[:, None]
    middle = dice.uniform(count, -1, 1)[:, None]
    width, top = dice.uniform(count, 0.1, 0.3)[:, None], dice.uniform(count, -1, 0)[:, None]
    stands = ((keypoints[..., 0] - middle).abs() < width) & (keypoints[..., 1] > top)
    hidden |= stands & dice.happens(count, _ODDS_PERSON)[:, None]
    return hidden


def _hide_behind_self(
    keypoints: Float[Tensor, "N 17 3"],
    joints: Float[Tensor, "N 24 3"],
    distance: Float[Tensor, " N"],
) -> Bool[Tensor, "N 17"]:
    """What limbs and trunk, as capsules, hide."""
    hidden = torch.zeros(keypoints.shape[:2], dtype=torch.bool)
    seen = _flatten(keypoints)
    for start, end, radius in _CAPSULES:
        first, last = joints[:, start], joints[:, end]
        flat_first, flat_last = _flatten(first), _flatten(last)
        along = (flat_last - flat_first)[:, None]
        length = along.square().sum(-1).clamp_min(1e-9)
        share = (((seen - flat_first[:, None]) * along).sum(-1) / length).clamp(0, 1)
        nearest = flat_first[:, None] + share[..., None] * along
        is_near = (nearest - seen).norm(dim=-1) < 0.9 * (radius / distance)[:, None]
        depth = first[:, None, 2] + share * (last[:, None, 2] - first[:, None, 2])
        hidden |= is_near & (keypoints[..., 2] > depth + _BEHIND)
    return hidden
