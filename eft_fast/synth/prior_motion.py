"""Poses without motion capture: draws from the pose prior that ships with the package."""

from __future__ import annotations

from typing import Final

import numpy as np

from eft_fast.smplify.prior import PosePrior, load_pose_prior
from eft_fast.synth.motion import SPLITS, PosePool, Split

#: Frames of a pool; each split draws its own.
NUM_FRAMES: Final = 8000
#: First number of the seed, so that no picture shares its random numbers.
_BRANCH: Final = 7919


def sample_prior_poses(
    split: Split, *, frames: int = NUM_FRAMES, prior: PosePrior | None = None
) -> PosePool:
    """Draw a pool of upright poses from the prior, each number kept inside its joint limit.

    The prior knows standing, walking, dancing and sports, and hardly any sitting or lying: the
    procedural postures of ``synth.poses`` add those. Splits hold different draws of one
    distribution, so they test a network on other people, not on other kinds of motion.

    Args:
        split: Name of the split, part of the seed.
        frames: Poses to draw.
        prior: A loaded prior; None: the one that ships.

    Raises:
        ValueError: If ``split`` is unknown.
    """
    if split not in SPLITS:
        raise ValueError(
            f'sample_prior_poses: split must be one of {", ".join(SPLITS)}, got "{split}"'
        )
    prior = prior if prior is not None else load_pose_prior()
    mixture, limits = prior.mixture, prior.limits
    rng = np.random.default_rng([_BRANCH, SPLITS.index(split)])
    means, dims = mixture.means.numpy(), mixture.dims
    weights = mixture.weights.numpy() / float(mixture.weights.sum())
    # precision = L L^T, so mean + L^-T z has the covariance precision^-1.
    factors = np.linalg.cholesky(mixture.precision.numpy())
    chosen = rng.choice(len(weights), frames, p=weights)
    noise = rng.normal(size=(frames, dims))
    pose = np.zeros((frames, 72))
    for gaussian in range(len(weights)):
        rows = np.flatnonzero(chosen == gaussian)
        spread = np.linalg.solve(factors[gaussian].T, noise[rows].T).T
        pose[rows, 3 : 3 + dims] = means[gaussian] + spread
    pose[:, 3:] = np.clip(pose[:, 3:], limits.lower.numpy(), limits.upper.numpy())
    names = np.array([f"prior/{gaussian}" for gaussian in chosen.tolist()])
    full_pose = pose.reshape(frames, 24, 3).astype(np.float32)
    return PosePool(full_pose, np.full(frames, 1 / frames), names)
