"""Landmark features of people who were never rendered.

The head learns from far more poses than there are pictures: true landmarks of a new pose, plus
the error that the trunk made on a rendered person who faces the same way.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import weak_project
from eft_fast.models.open_regressor import LIMB_SLICE
from eft_fast.synth import PosePool, SynthConfig
from eft_fast.synth.landmarks import NUM_LANDMARKS
from eft_fast.synth.poses import sample_pose
from eft_fast.training.cache import CachedFeatures
from eft_fast.training.targets import Targets, body_points, frame_size

_K: Final = NUM_LANDMARKS
#: Parts of the landmark features: xy, z and world per landmark, two probabilities, the frame.
_SIZES: Final = (2 * _K, _K, 3 * _K, 2 * _K, 2, 1)
#: Candidates of which the one that faces most alike lends its error.
_CANDIDATES: Final = 12
#: Seed branch of simulated poses, so that none repeats a rendered one.
_SEED_BRANCH: Final = 7


class Simulator(NamedTuple):
    """Poses to simulate, and the trunk's errors to add.

    Attributes:
        rotmat: New poses.
        betas: New shapes.
        residual: Landmark features of the trunk minus the true ones, per rendered person.
        confidence: Visible and present probabilities of the trunk.
        center_shift: Error of the frame's centre, in frame sizes.
        size_ratio: Frame size of the trunk over the true one.
        camera: Weak-perspective camera of the rendered person.
        yaw: Direction that the rendered person faces, radians.
    """

    rotmat: Float[Tensor, "M 24 3 3"]
    betas: Float[Tensor, "M 10"]
    residual: Float[Tensor, "N F"]
    confidence: Float[Tensor, "N C"]
    center_shift: Float[Tensor, "N 2"]
    size_ratio: Float[Tensor, "N 1"]
    camera: Float[Tensor, "N 3"]
    yaw: Float[Tensor, " N"]


def make_simulator(
    pool: PosePool,
    count: int,
    seed: int,
    config: SynthConfig,
    rendered: CachedFeatures,
    targets: Targets,
) -> Simulator:
    """Draw poses and measure the trunk's errors on rendered people."""
    rng = np.random.default_rng([seed, _SEED_BRANCH])
    rotmat = np.stack([sample_pose(rng, pool, config.pose) for _ in range(count)])
    betas = np.clip(rng.normal(size=(count, 10)) * config.beta_sigma, -3, 3)
    confidence = rendered.landmarks.split(_SIZES, 1)[3]
    flat = weak_project(targets.landmarks, _centred(targets))
    true = _true_features(flat, targets.landmarks, confidence, targets.camera[:, :1])
    center, size = rendered.landmarks[:, -3:-1], rendered.landmarks[:, -1:]
    residual = rendered.landmarks - true
    residual[:, -3:] = 0
    return Simulator(
        torch.from_numpy(rotmat.astype(np.float32)),
        torch.from_numpy(betas.astype(np.float32)),
        residual,
        confidence,
        (center - true[:, -3:-1]) / true[:, -1:],
        size / true[:, -1:],
        targets.camera,
        _yaw(targets.rotmat),
    )


def simulate(
    simulator: Simulator, body: Smpl, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "B F"], Targets]:
    """Return landmark features as the trunk might see them, and the labels."""
    rows = torch.randint(len(simulator.rotmat), (count,), generator=generator)
    rotmat, betas = simulator.rotmat[rows], simulator.betas[rows]
    candidates = torch.randint(len(simulator.yaw), (count, _CANDIDATES), generator=generator)
    likeness = torch.cos(simulator.yaw[candidates] - _yaw(rotmat)[:, None])
    donor = candidates[torch.arange(count), likeness.argmax(1)]

    points = body_points(body, rotmat, betas)
    camera = simulator.camera[donor]
    flat = weak_project(points.landmarks + points.root, camera)
    true = _true_features(flat, points.landmarks, simulator.confidence[donor], camera[:, :1])
    center, size = true[:, -3:-1], true[:, -1:]
    seen_center = center + simulator.center_shift[donor] * size
    seen_size = size * simulator.size_ratio[donor]
    features = true + simulator.residual[donor]
    features[:, -3:] = torch.cat([seen_center, seen_size], 1)
    targets = Targets(
        rotmat, betas, points.joints, points.landmarks, flat, frame_size(flat), camera
    )
    return features, targets


def _centred(targets: Targets) -> Float[Tensor, "N 3"]:
    """Return the camera for points about the pelvis: least squares leaves the mean in place."""
    shift = targets.landmarks_2d.mean(1) - targets.camera[:, :1] * targets.landmarks[..., :2].mean(
        1
    )
    return torch.cat([targets.camera[:, :1], shift], 1)


def _true_features(
    flat: Float[Tensor, "N 27 2"],
    landmarks: Float[Tensor, "N 27 3"],
    confidence: Float[Tensor, "N C"],
    scale: Float[Tensor, "N 1"],
) -> Float[Tensor, "N F"]:
    """Return the landmark features of a trunk without error; compare ``landmark_features``."""
    size = frame_size(flat)
    center = flat[:, LIMB_SLICE].mean(1)
    world = landmarks - landmarks[:, 11:13].mean(1, keepdim=True)  # about the middle of the hips
    depth = scale[:, None] * world[..., 2:]
    return torch.cat(
        [
            ((flat - center[:, None]) / size[:, None]).flatten(1),
            (depth / size[:, None]).flatten(1),
            world.flatten(1),
            confidence,
            center,
            size,
        ],
        1,
    )


def _yaw(rotmat: Float[Tensor, "N 24 3 3"]) -> Float[Tensor, " N"]:
    return torch.atan2(rotmat[:, 0, 0, 2], rotmat[:, 0, 2, 2])
