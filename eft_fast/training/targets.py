"""What the network should answer: labels of rendered or simulated people, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import fit_weak_camera
from eft_fast.geometry.rotations import mirror_pose
from eft_fast.models.open_regressor import LIMB_SLICE, MIN_FRAME_SIZE
from eft_fast.synth import SynthArrays
from eft_fast.synth.landmarks import MIRROR_LANDMARKS, body_landmarks
from eft_fast.synth.poses import MIRROR


class Targets(NamedTuple):
    """Labels of a batch.

    Attributes:
        rotmat: Rotations relative to the parent; the root's is in the camera frame.
        betas: Shape coefficients.
        joints: Kinematic joints about the pelvis joint, metres.
        landmarks: The 27 landmarks about the pelvis joint, metres.
        landmarks_2d: Their x and y in [-1, 1] of the crop, seen or not.
        size: Size of the landmark frame, crop units: what 2D errors are measured in.
        camera: Weak-perspective camera s, tx, ty that fits the landmarks best.
    """

    rotmat: Float[Tensor, "N 24 3 3"]
    betas: Float[Tensor, "N 10"]
    joints: Float[Tensor, "N 24 3"]
    landmarks: Float[Tensor, "N 27 3"]
    landmarks_2d: Float[Tensor, "N 27 2"]
    size: Float[Tensor, "N 1"]
    camera: Float[Tensor, "N 3"]

    def take(self, rows: Int[Tensor, " M"]) -> Targets:
        """Return the people with these numbers."""
        return Targets(*(field[rows] for field in self))

    def to(self, device: torch.device) -> Targets:
        """Return the same labels on another device."""
        return Targets(*(field.to(device) for field in self))


class PosedPoints(NamedTuple):
    """Points of posed bodies about the pelvis joint, metres."""

    joints: Float[Tensor, "B 24 3"]
    landmarks: Float[Tensor, "B 27 3"]
    root: Float[Tensor, "B 1 3"]


def body_points(
    body: Smpl, rotmat: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
) -> PosedPoints:
    """Pose the body and return its joints and landmarks; differentiable.

    ``root`` is the pelvis joint in the frame that a ``pred_cam`` projects from.
    """
    joints = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="smpl24", pose2rot=False)
    landmarks = body_landmarks(body, rotmat, betas)
    root = joints[:, :1]
    return PosedPoints(joints - root, landmarks - root, root)


def frame_size(points: Float[Tensor, "B 27 2"]) -> Float[Tensor, "B 1"]:
    """Return the root mean square distance of the limb landmarks from their mean."""
    limbs = points[:, LIMB_SLICE]
    spread = (limbs - limbs.mean(1, keepdim=True)).square().sum(-1).mean(1, keepdim=True)
    return spread.clamp_min(MIN_FRAME_SIZE**2).sqrt()


def make_targets(arrays: SynthArrays, body: Smpl, *, chunk: int = 1000) -> Targets:
    """Turn labels of rendered pairs into targets.

    Points are computed from pose, shape and camera, not read from the stored labels, so that they
    are this body's landmarks even where the pictures were rendered before its landmarks moved.
    Cameras are fitted in the frame of the posed body, as ``pred_cam`` is used: without ``transl``.
    """
    labels = [
        torch.from_numpy(part)
        for part in (arrays.rotmat, arrays.betas, arrays.transl, arrays.camera)
    ]
    parts = [
        _make_targets(body, *(label[start : start + chunk] for label in labels))
        for start in range(0, len(arrays), chunk)
    ]
    return Targets(*(torch.cat(field) for field in zip(*parts, strict=True)))


@torch.no_grad()
def _make_targets(
    body: Smpl,
    rotmat: Float[Tensor, "B 24 3 3"],
    betas: Float[Tensor, "B 10"],
    transl: Float[Tensor, "B 3"],
    pinhole: Float[Tensor, "B 3"],
) -> Targets:
    """``make_targets`` of one chunk."""
    points = body_points(body, rotmat, betas)
    placed = points.landmarks + points.root
    seen = placed + transl[:, None]
    flat = pinhole[:, :1, None] / seen[..., 2:] * seen[..., :2] + pinhole[:, None, 1:]
    return Targets(
        rotmat=rotmat,
        betas=betas,
        joints=points.joints,
        landmarks=points.landmarks,
        landmarks_2d=flat,
        size=frame_size(flat),
        camera=fit_weak_camera(placed, flat),
    )


def mirror_targets(targets: Targets, which: Tensor, offset: float = 0.0) -> Targets:
    """Mirror the people where ``which`` is true: x reversed, left and right swapped.

    The body is symmetric, so its shape coefficients stay.

    Args:
        targets: Labels.
        which: [N] bool.
        offset: Added to mirrored u: -2 / S when the rows of an S px crop are reversed, since
            pixel 0 becomes pixel S - 1 while u = -1 is pixel 0 and u = 1 is pixel S.
    """
    reverse = targets.camera.new_tensor([-1.0, 1.0, 1.0])
    flat_reverse, shift = reverse[:2], reverse.new_tensor([offset, 0.0])
    joints, landmarks = list(MIRROR), list(MIRROR_LANDMARKS)
    mirrored = Targets(
        rotmat=mirror_pose(targets.rotmat),
        betas=targets.betas,
        joints=targets.joints[:, joints] * reverse,
        landmarks=targets.landmarks[:, landmarks] * reverse,
        landmarks_2d=targets.landmarks_2d[:, landmarks] * flat_reverse + shift,
        size=targets.size,
        camera=targets.camera * reverse[[1, 0, 1]] + reverse.new_tensor([0.0, offset, 0.0]),
    )
    return Targets(*choose_rows(which, mirrored, targets))


def choose_rows(
    which: Bool[Tensor, " N"], first: Sequence[Tensor], second: Sequence[Tensor]
) -> Iterator[Tensor]:
    """Of each pair of tensors [N, ...] the rows of the first where ``which`` is true."""
    for chosen, other in zip(first, second, strict=True):
        yield torch.where(which.reshape(-1, *[1] * (other.dim() - 1)), chosen, other)
