"""From a network's answers and given keypoints to the energy that is minimised."""

from __future__ import annotations

import numpy as np

from eft_fast.conventions import EXTENT_PER_SIZE, NUM_JOINTS
from eft_fast.deploy.fit_graph.body import PointsGraph
from eft_fast.deploy.fit_graph.energy import Problem, State
from eft_fast.deploy.onnx_builder import Value
from eft_fast.map_rules import LIMB_JOINTS, MIN_FRAME, MIN_SCALE, NUM_STATE, POSE

#: Keypoints beyond this many crops count as not finite.
_FARTHEST = 1e6


def is_given(keypoints: Value, sigma: Value) -> Value:
    """Which keypoints count, [B, K, 1]: finite, with a confidence and a sigma above 0."""
    # Comparisons with NaN are false; the largest of a number and NaN may be the number.
    near = keypoints.cut(2, 0, 2).fn("Abs") < _FARTHEST
    return (
        near.cut(2, 0, 1)
        & near.cut(2, 1, 2)
        & (keypoints.cut(2, 2, 3) > 0.0)
        & (sigma.widen(2) > 0.0)
    )


def answer_frame(joints: Value, cam: Value) -> tuple[Value, Value]:
    """Centre [B, 2] and size [B, 1] of answers in their crops; ``models.error_state``."""
    camera = cam.widen(1)
    limbs = joints.take(LIMB_JOINTS, 1).cut(2, 0, 2) * camera.cut(2, 0, 1) + camera.cut(2, 1, 3)
    center = limbs.mean(1)
    away = limbs - center.widen(1)
    square = (away * away).sum(2).mean(1, keep=True)
    return center, square.at_least(MIN_FRAME**2).fn("Sqrt")


def make_problem(
    body: PointsGraph,
    precision: np.ndarray,
    centre: State,
    keypoints: Value,
    sigma: Value,
    pinhole: Value,
    distance: float,
    reads: tuple[Value, np.ndarray] | None = None,
) -> Problem:
    """The energy of people.

    Args:
        body: Points of the keypoints.
        precision: Sigma^-1 of the network's errors.
        centre: Its answers.
        keypoints: x and y in [-1, 1] of the crop, and confidence, [B, K, 3].
        sigma: Their standard deviations in units of the person's extent, [B, K].
        pinhole: (f_x, f_y, c_x, c_y) as seen in the crops [B, 4]; where f_x is not above 0, that
            which ``distance`` assumes.
        distance: Metres.
        reads: Of a network that reads keypoints: who was shown theirs [B, 1], and Sigma^-1 of the
            errors of such answers.
    """
    graph = keypoints.graph
    skeleton = body.skeleton(centre.betas, centre.rotmat)
    center, frame = answer_frame(skeleton.joints, centre.cam)
    given = is_given(keypoints, sigma)
    spread = frame.widen(2) * graph.where(given, sigma.widen(2), 1.0) * EXTENT_PER_SIZE
    weight = graph.where(given, 1.0 / (spread * spread), 0.0)
    target = graph.where(given, keypoints.cut(2, 0, 2), 0.0)
    assumed = centre.cam.cut(1, 0, 1).at_least(MIN_SCALE) * distance
    assumed = graph.concat(1, assumed, assumed, center)
    seen = graph.where(pinhole.cut(1, 0, 1) > 0.0, pinhole, assumed).widen(1)
    root, tail = _roots(precision)
    zero = frame.widen(2) * 0.0
    columns = zero + tail
    roots, blocks = graph.const(root), graph.const(_blocks(root))
    if reads is not None:
        yes, other = reads[0].widen(2), _roots(reads[1])
        columns = graph.where(yes, zero + other[1], columns)
        blocks = graph.where(yes.widen(3), _blocks(other[0]), blocks)
        roots = graph.where(yes, other[0], roots)
    return Problem(
        body=body,
        centre=centre,
        target=target,
        weight=weight,
        root=roots,
        blocks=blocks,
        tail=columns,
        frame=frame,
        focal=seen.cut(2, 0, 2),
        middle=seen.cut(2, 2, 4),
        is_shared=reads is None,
    )


def _roots(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L of Sigma^-1 = L L^T, and the columns of L^T by betas and camera."""
    root = np.linalg.cholesky(precision)
    return root, np.ascontiguousarray(root.T[:, POSE.stop :])


def _blocks(root: np.ndarray) -> np.ndarray:
    """The columns of L^T by the rotation of each joint, [24, 85, 3]."""
    return root.T[:, POSE].reshape(NUM_STATE, NUM_JOINTS, 3).swapaxes(0, 1).copy()
