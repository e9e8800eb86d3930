"""Points for keypoints that are not given: the landmarks that the regressor's own trunk sees.

Their errors go with those of the network's answer, which the prior already knows, and some are
gross; so their sigma is three times what they deserve alone (docs/map.md has both).
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.keypoints import JOINT_SETS, NO_JOINT, JointSet
from eft_fast.models.base import Regressor
from eft_fast.models.open_regressor import Landmarks, OpenRegressor

#: Standard deviation in units of the person's extent, from a visibility on.
SIGMA_OF_VISIBILITY: Final = ((0.98, 0.09), (0.8, 0.15), (0.5, 0.21), (0.0, 0.36))
_LANDMARKS: Final = "mp33"


def check_can_fill(regressor: Regressor, fill: str) -> None:
    """Raise ValueError unless the regressor has what fills."""
    if fill == "landmarks" and not isinstance(regressor, OpenRegressor):
        raise ValueError(
            f"MapConfig: fill='landmarks' needs the landmarks of the open regressor's trunk, "
            f"{regressor.id} has none; use fill='none'"
        )


def landmarks_as_fill(landmarks: Landmarks, joint_set: str) -> Float[Tensor, "B K 3"]:
    """Bring landmarks into a joint set: x and y in [-1, 1] of the crop, and sigma; 0: no landmark.

    Args:
        landmarks: Of the crops.
        joint_set: Order of the keypoints.
    """
    place = landmark_places(JOINT_SETS[joint_set])
    visible = landmarks.visibility
    sigma = torch.zeros_like(visible)
    for above, value in reversed(SIGMA_OF_VISIBILITY):
        sigma = torch.where(visible >= above, value, sigma)
    points = torch.cat([landmarks.points[..., :2], sigma[..., None]], -1)
    rows = [torch.zeros_like(points[:, 0]) if k == NO_JOINT else points[:, k] for k in place]
    return torch.stack(rows, 1)


def landmark_places(points: JointSet) -> list[int]:
    """The landmark of each point of a set, or -1: the one that goes to the same joint of the 49."""
    source = JOINT_SETS[_LANDMARKS]
    of_j24 = {j: k for k, j in enumerate(source.to_j24) if j != NO_JOINT}
    of_op25 = {j: k for k, j in enumerate(source.to_op25) if j != NO_JOINT}
    return [
        of_j24.get(j24, of_op25.get(op25, NO_JOINT))
        if j24 != NO_JOINT
        else of_op25.get(op25, NO_JOINT)
        for j24, op25 in zip(points.to_j24, points.to_op25, strict=True)
    ]
