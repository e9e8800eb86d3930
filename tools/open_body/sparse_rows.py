"""Convex rows over vertices that give a point of every body: joints and keypoints."""

from __future__ import annotations

import numpy as np

from .decimate import Topology
from .population import NUM_TRAIN
from .rig import JOINT_NAMES, MIRROR_JOINTS
from .shape_space import PosedPeople
from .source import Floats, Ints

NUM_PEOPLE = 160
MAX_CANDIDATES = 450
# Metres around the joint in which vertices may carry weight.
RADIUS = {
    "pelvis": 0.25,
    "spine1": 0.25,
    "spine2": 0.25,
    "spine3": 0.3,
    "neck": 0.18,
    "head": 0.18,
    "hip": 0.18,
    "shoulder": 0.18,
    "collar": 0.18,
}
OTHER_RADIUS = 0.12
SUM_WEIGHT = 1e2
RIDGE = 2e-2
SMALLEST = 1e-4


def solve_nonnegative(gram: Floats, target: Floats) -> Floats:
    """Minimise x' gram x - 2 target' x over x >= 0 (Lawson and Hanson's active sets).

    Args:
        gram: Positive definite matrix [N, N].
        target: Right side [N].

    Returns:
        The minimiser [N].
    """
    x = np.zeros(len(target))
    free = np.zeros(len(target), bool)
    tolerance = 1e-10 * np.abs(target).max()
    for _ in range(30 * len(target)):
        gradient = target - gram @ x
        gradient[free] = -np.inf
        entering = int(np.argmax(gradient))
        if gradient[entering] <= tolerance:
            return x
        free[entering] = True
        while True:
            step = np.zeros_like(x)
            step[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
            blocked = free & (step <= 0)
            if not blocked.any():
                x = step
                break
            share = np.min(x[blocked] / np.maximum(x[blocked] - step[blocked], 1e-300))
            x = x + share * (step - x)
            free &= x > 1e-14
            x[~free] = 0
    raise RuntimeError(f"solve_nonnegative: no solution after {30 * len(target)} rounds")


def fit_row(bodies: Floats, points: Floats, candidates: Ints) -> Floats:
    """Fit one convex row so that it gives a point of each body.

    Args:
        bodies: T-posed people [N, V, 3].
        points: The point of each person [N, 3].
        candidates: Vertices that may carry weight.

    Returns:
        Row [V], nonnegative, sum 1.
    """
    a = bodies[:, candidates].transpose(0, 2, 1).reshape(-1, len(candidates))
    gram = a.T @ a + SUM_WEIGHT**2 + RIDGE**2 * np.eye(len(candidates))
    x = solve_nonnegative(gram, a.T @ points.reshape(-1) + SUM_WEIGHT**2)
    x[x < SMALLEST] = 0
    row = np.zeros(bodies.shape[1])
    row[candidates] = x / x.sum()
    return row


def near(mean: Floats, place: Floats, radius: float, usable: np.ndarray) -> Ints:
    """Return the usable vertices within a radius of a place."""
    return np.flatnonzero((np.linalg.norm(mean - place, axis=1) < radius) & usable)


def fit_joint_rows(topology: Topology, people: PosedPeople, mean: Floats) -> Floats:
    """Return the joint regressor [24, V], solved on the left and reflected."""
    rng = np.random.default_rng(1)
    chosen = rng.choice(NUM_TRAIN, NUM_PEOPLE, replace=False)
    usable = ~(topology.is_hidden | topology.is_eye)
    places = people.joints[:NUM_TRAIN].mean(0)
    rows = np.zeros((24, len(mean)))
    for joint, name in enumerate(JOINT_NAMES):
        if name.startswith("right"):
            continue
        radius = RADIUS.get(name.removeprefix("left_"), OTHER_RADIUS)
        candidates = near(mean, places[joint], radius, usable)
        if len(candidates) > MAX_CANDIDATES:
            candidates = np.sort(rng.choice(candidates, MAX_CANDIDATES, replace=False))
        if MIRROR_JOINTS[joint] == joint:
            candidates = np.unique(np.r_[candidates, topology.mirror[candidates]])
        row = fit_row(people.vertices[chosen], people.joints[chosen, joint], candidates)
        if MIRROR_JOINTS[joint] == joint:
            rows[joint] = (row + row[topology.mirror]) / 2
        else:
            rows[joint], rows[MIRROR_JOINTS[joint]] = row, row[topology.mirror]
    return rows
