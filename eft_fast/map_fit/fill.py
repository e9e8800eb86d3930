"""Points for keypoints that are not given: what a network sees in the picture.

Either the landmarks of the regressor's own trunk: their errors go with those of the network's
answer, which the prior already knows, and some are gross; so their sigma is three times what they
deserve alone. Or the keypoints of MoveNet, another network, for any regressor, by the curve
``movenet`` (docs/map.md has both); a regressor on MoveNet Thunder has found them already.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from eft_fast.keypoints import JOINT_SETS, NO_JOINT, JointSet
from eft_fast.models.base import Regressor
from eft_fast.models.keypoint_noise import CURVES
from eft_fast.models.movenet import MoveNet
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.models.open_regressor import Landmarks, OpenRegressor
from eft_fast.person_keypoints import CROP_FACTOR

#: Standard deviation in units of the person's extent, from a visibility on.
SIGMA_OF_VISIBILITY: Final = ((0.98, 0.09), (0.8, 0.15), (0.5, 0.21), (0.0, 0.36))
_LANDMARKS: Final = "mp33"
_MOVENET: Final = "coco17"


def check_can_fill(regressor: Regressor, fill: str) -> None:
    """Raise ValueError unless the regressor has what fills."""
    if fill == "landmarks" and not isinstance(regressor, OpenRegressor):
        raise ValueError(
            f"MapConfig: fill='landmarks' needs the landmarks of the open regressor's trunk, "
            f"{regressor.id} has none; use fill='movenet' or 'none'"
        )


def finds_as_thunder(regressor: Regressor) -> bool:
    """Whether it finds keypoints as those were found that the curve ``movenet`` was measured on."""
    return isinstance(regressor, MoveNetRegressor) and regressor.trunk.variant != "lightning"


def landmarks_as_fill(landmarks: Landmarks, joint_set: str) -> Float[Tensor, "B K 3"]:
    """Bring landmarks into a joint set: x and y in [-1, 1] of the crop, and sigma; 0: no landmark.

    Args:
        landmarks: Of the crops.
        joint_set: Order of the keypoints.
    """
    visible = landmarks.visibility
    sigma = torch.zeros_like(visible)
    for above, value in reversed(SIGMA_OF_VISIBILITY):
        sigma = torch.where(visible >= above, value, sigma)
    return reorder(
        torch.cat([landmarks.points[..., :2], sigma[..., None]], -1), _LANDMARKS, joint_set
    )


def movenet_as_fill(
    network: MoveNet,
    img: Float[Tensor, "B 3 S S"],
    regressor: Regressor,
    joint_set: str,
    least_score: float = 0.0,
) -> Float[Tensor, "B K 3"]:
    """Look at the crops of a regressor with MoveNet: x and y in [-1, 1] of the crop, and sigma.

    The crop is taken to be that of a box with the regressor's margin; MoveNet gets the square in
    its middle that it likes (``CROP_FACTOR``), resampled.

    Args:
        network: As ``load_movenet`` returns it.
        img: Crops as the regressor takes them.
        regressor: Says how they are normalised, and what margin they have.
        joint_set: Order of the keypoints; points that MoveNet does not have get sigma 0.
        least_score: Points of a lower score get sigma 0 as well.
    """
    mean, std = (
        img.new_tensor(part).reshape(3, 1, 1) for part in (regressor.img_mean, regressor.img_std)
    )
    rgb = (img * std + mean).clamp(0, 1)
    size, zoom = network.input_size, CROP_FACTOR / regressor.box_margin
    # Pixel k of a crop of S pixels lies at 2 k / S - 1, as imaging has it; grid_sample counts from
    # edges, where it lies at (2 k + 1) / S - 1.
    steps = zoom * (torch.arange(size, device=img.device, dtype=img.dtype) * (2.0 / size) - 1.0)
    steps = steps + 1.0 / img.shape[-1]
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    inner = F.grid_sample(rgb, grid.expand(len(img), -1, -1, -1), align_corners=False)
    found = network(inner.to(network.stem.weight.dtype))
    points = zoom * ((found[..., :2] - 0.5) * (2.0 / size) - 1.0)
    return found_as_fill(torch.cat([points, found[..., 2:]], -1), joint_set, least_score)


def found_as_fill(
    found: Float[Tensor, "B 17 3"], joint_set: str, least_score: float = 0.0
) -> Float[Tensor, "B K 3"]:
    """Bring keypoints that MoveNet found into a joint set, with sigma by the curve ``movenet``.

    Args:
        found: x and y in [-1, 1] of the crop, and score.
        joint_set: Order of the keypoints; points that MoveNet does not have get sigma 0.
        least_score: Points of a lower score get sigma 0 as well.
    """
    score = found[..., 2].cpu().numpy()
    sigma = np.where(score >= least_score, CURVES["movenet"].sigma_of(score), 0.0)
    spread = torch.from_numpy(sigma).to(found)
    return reorder(torch.cat([found[..., :2], spread[..., None]], -1), _MOVENET, joint_set)


def reorder(points: Float[Tensor, "B P 3"], source: str, joint_set: str) -> Float[Tensor, "B K 3"]:
    """Points of one joint set in the order of another; zeros where there is none.

    Args:
        points: x, y, and a third number.
        source: Their joint set.
        joint_set: The other one.
    """
    place = find_places(JOINT_SETS[source], JOINT_SETS[joint_set])
    rows = [torch.zeros_like(points[:, 0]) if k == NO_JOINT else points[:, k] for k in place]
    return torch.stack(rows, 1)


def find_places(source: JointSet, points: JointSet) -> list[int]:
    """Of each point the row in ``source`` that goes to the same joint of the 49, or -1."""
    of_j24 = {j: k for k, j in enumerate(source.to_j24) if j != NO_JOINT}
    of_op25 = {j: k for k, j in enumerate(source.to_op25) if j != NO_JOINT}
    return [
        of_j24.get(j24, of_op25.get(op25, NO_JOINT))
        if j24 != NO_JOINT
        else of_op25.get(op25, NO_JOINT)
        for j24, op25 in zip(points.to_j24, points.to_op25, strict=True)
    ]
