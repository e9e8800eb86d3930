"""The points of the body that synthetic labels name: what BlazePose finds and the body has."""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.models.open_regressor import LANDMARK_ROWS

#: COCO-17, then toes and heels, then hands: the order of ``models.open_regressor.LANDMARK_ROWS``.
LANDMARKS: Final = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "left_foot_index", "left_heel", "right_foot_index", "right_heel",
    "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb",
)  # fmt: skip
NUM_LANDMARKS: Final = len(LANDMARKS)
#: The first so many are labelled by people in COCO; the others are tips of feet and hands.
NUM_COCO: Final = 17
#: Left/right permutation.
MIRROR_LANDMARKS: Final = (
    0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15,
    19, 20, 17, 18, 22, 21, 24, 23, 26, 25,
)  # fmt: skip


def body_landmarks(
    body: Smpl, rotmat: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
) -> Float[Tensor, "B 27 3"]:
    """Return the landmarks of posed bodies, metres, in the frame of the root rotation."""
    points = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="mp33", pose2rot=False)
    return points[:, list(LANDMARK_ROWS)]
