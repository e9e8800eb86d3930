"""Where keypoints pull the joints of a body: one step of descent, each number on its own scale.

A network that looks at residuals in the picture has to know how each joint moves each keypoint, of
the very pose that it has answered. That is geometry, and needs no learning: each coordinate's
Gauss-Newton step with the others held, in the manner of learned descent (Song, Chen and Hilliges,
"Human Body Model Fitting by Learned Gradient Descent", ECCV 2020). How much of it is followed is
left to the network.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast.conventions import NUM_JOINTS, PARENTS

#: Kinematic joint that each keypoint of ``coco17`` sits on: head, then left and right of the limbs.
_SITS_ON: Final = (15, 15, 15, 15, 15, 16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)
#: Keypoints that turn with that joint too: those of the head are beside it.
_BESIDE: Final = range(5)
#: Residuals count less beyond it, frame sizes: gross mistakes are not to be followed.
_ROBUST: Final = 0.5
#: Added to each curvature: a joint that moves nothing turns nowhere. Frame sizes squared.
_DAMPING: Final = 0.1
#: Longest turn, radians, and longest step of the camera.
_MOST: Final = 1.0


class Pull(NamedTuple):
    """A step towards the keypoints.

    Attributes:
        turn: Rotation vector of each joint in its own axes, radians: R becomes R exp([turn]x).
        camera: Step of the logarithm of the scale, and of the shift in frame sizes.
    """

    turn: Float[Tensor, "B 24 3"]
    camera: Float[Tensor, "B 3"]


def _find_moved() -> list[list[float]]:
    """1 where a joint (rows) moves a keypoint (columns)."""
    moved = [[0.0] * len(_SITS_ON) for _ in range(NUM_JOINTS)]
    for point, joint in enumerate(_SITS_ON):
        above = joint if point in _BESIDE else PARENTS[joint]
        while above >= 0:
            moved[above][point] = 1.0
            above = PARENTS[above]
    return moved


class KeypointPull(nn.Module):
    """One step of every coordinate towards the keypoints, the others held. It learns nothing."""

    moved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moved", torch.tensor(_find_moved()), persistent=False)

    def forward(
        self,
        chain: tuple[Float[Tensor, "B 24 3 3"], Float[Tensor, "B 24 3"]],
        points: Float[Tensor, "B 17 3"],
        own: Float[Tensor, "B 17 2"],
        residual: Float[Tensor, "B 17 2"],
        weight: Float[Tensor, "B 17"],
        scale: Float[Tensor, "B 1"],
    ) -> Pull:
        """Find the step.

        Args:
            chain: Rotations of the joints in the world, whose axes are the camera's, and their
                places, metres: ``KeypointRig.chain``.
            points: Keypoints of the answer, metres.
            own: The same in the picture, in frame sizes about the frame's centre.
            residual: From them to where they should be, frame sizes.
            weight: What each counts; 0: unknown.
            scale: Frame sizes per metre.
        """
        world, joints = chain
        weight = weight / (1 + residual.square().sum(-1) / _ROBUST**2)
        arm = (points[:, None] - joints[:, :, None]) * scale[:, None, None]  # [B,24,17,3]
        ax, ay, az = (part[..., None] for part in arm.unbind(-1))
        # A turn about the world axis g moves a point by g x arm.
        gx, gy, gz = (row[:, :, None] for row in world.unbind(-2))  # [B,24,1,axis]
        by_x, by_y = gy * az - gz * ay, gz * ax - gx * az  # [B,24,17,axis]
        counts = (weight[:, None] * self.moved)[..., None]
        slope = counts * (by_x * residual[:, None, :, :1] + by_y * residual[:, None, :, 1:])
        curvature = counts * (by_x.square() + by_y.square())
        turn = slope.sum(2) / (curvature.sum(2) + _DAMPING)
        total = weight.sum(1, keepdim=True) + _DAMPING
        shift = (weight[..., None] * residual).sum(1) / total
        grow = (weight * (own * residual).sum(-1)).sum(1, keepdim=True)
        grow = grow / ((weight * own.square().sum(-1)).sum(1, keepdim=True) + _DAMPING)
        camera = torch.cat([grow, shift], 1)
        return Pull(turn.clamp(-_MOST, _MOST), camera.clamp(-_MOST, _MOST))
