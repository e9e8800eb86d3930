"""Poses of real people from their labels alone: who sits, lies, bends and crouches, and how often.

Motion capture shows people who dance and fight. The keypoint labels of COCO show those who are
photographed, without a third dimension. ``map`` from a network that reads given keypoints finds it;
whoever fits well lends the pose to simulated people. Those who are upright lend none: from the
front a bent leg and a short one look alike, and without a picture a fit bends the legs of people
who stand; ``PoseConfig.standing`` draws them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.body import Smpl
from eft_fast.files import save_npz
from eft_fast.geometry.cameras import weak_project
from eft_fast.keypoints import joint_set
from eft_fast.map_fit.fit import fit_map
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.movenet_regressor import Answers, Evidence, MoveNetRegressor
from eft_fast.training.skeletons import Skeletons

#: Labels that a person must have: shoulders, hips and knees. Of others the pose is a guess.
_NEEDED: Final = (5, 6, 11, 12, 13, 14)
_MIN_LABELLED: Final = 13
#: Largest mean distance of a fit from its labels, of the crop's half side.
_MAX_ERROR: Final = 0.04
#: Largest root mean square of its shape: beyond it the shape explains what the pose should.
_MAX_SHAPE: Final = 1.2
_AT_ONCE: Final = 256
#: From the camera's axes (y down, z away) to those of motion (y up, z to the front), for a camera
#: that is level.
_UPRIGHT: Final = (1.0, -1.0, -1.0)
_SEED: Final = 20


class FittedPoses(NamedTuple):
    """Poses that were found.

    Attributes:
        rotmat: Rotations, the root's in the axes of motion capture as a level camera sees it.
        tried: How many people were fitted.
    """

    rotmat: Float[Tensor, "N 24 3 3"]
    tried: int


def fit_skeletons(
    people: Skeletons, network: MoveNetRegressor, body: Smpl, *, count: int
) -> FittedPoses:
    """Fit labelled people without pictures, and keep whom a fit explains.

    Args:
        people: Labelled people; those who are upright (``kinds_of``) are left out.
        network: A network that reads given keypoints, with an error covariance.
        body: Its body.
        count: How many of them are tried at most, drawn at random.
    """
    there = people.labels[..., 2] > 0
    usable = there[:, list(_NEEDED)].all(1) & (there.sum(1) >= _MIN_LABELLED)
    usable &= ~kinds_of(people.labels)["upright"]
    rows = usable.nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(_SEED))
    rows = rows[order[:count]]
    precision = load_error_covariance(network).precision(given=True)
    inverse = torch.from_numpy(precision).float()
    kept = []
    bar = tqdm(rows.split(_AT_ONCE), desc="fit skeletons", unit="batch")
    for part in bar:
        kept.append(_fit(people.labels[part], network, body, inverse))
    poses = torch.cat(kept) if kept else torch.zeros(0, 24, 3, 3)
    return FittedPoses(poses, len(rows))


@torch.no_grad()
def _fit(
    labels: Float[Tensor, "B 17 3"], network: MoveNetRegressor, body: Smpl, precision: Tensor
) -> Float[Tensor, "N 24 3 3"]:
    """The poses of those of a batch who are kept."""
    given = given_labels(labels)
    start = answer_labels(network, given)
    fits = fit_map(body, start, given, precision)
    rotmat, betas, camera = fits.final
    gap = (weak_project(network.head.rig(rotmat, betas), camera) - given[..., :2]).norm(dim=-1)
    there = given[..., 2] > 0
    error = (gap * there).sum(1) / there.sum(1)
    is_good: Bool[Tensor, " B"] = fits.finite & (error < _MAX_ERROR)
    is_good &= betas.square().mean(1).sqrt() < _MAX_SHAPE
    kept = rotmat[is_good].clone()
    kept[:, 0] = kept.new_tensor(_UPRIGHT)[:, None] * kept[:, 0]
    return kept


def given_labels(labels: Float[Tensor, "B 17 3"]) -> Float[Tensor, "B 17 3"]:
    """Labels (2 visible, 1 hidden, 0 none) as given keypoints: hidden ones count half."""
    return torch.cat([labels[..., :2], labels[..., 2:].clamp(0, 2) / 2], -1)


def answer_labels(network: MoveNetRegressor, given: Float[Tensor, "B 17 3"]) -> RegressorOutput:
    """What a network says of given keypoints where there is no picture."""
    zero = torch.zeros_like(given)
    nothing_found = Evidence(zero, zero[..., :2], zero[..., 0], None)
    answers: Answers = network.head(nothing_found, given)
    return answers.outputs[-1]


def save_poses(path: Path, poses: FittedPoses) -> None:
    """Write poses for ``load_poses``."""
    save_npz(path, {"rotmat": poses.rotmat.half().numpy(), "tried": np.array(poses.tried)})


def load_poses(path: Path) -> FittedPoses:
    """Read poses.

    Raises:
        ValueError: If it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            rotmat, tried = file["rotmat"].astype(np.float32), int(file["tried"])
    except NUMPY_ERRORS as error:
        raise ValueError(
            f"train: {path} must be an .npz with rotmat and tried ({type(error).__name__}); "
            "remove it, and it is made anew"
        ) from error
    return FittedPoses(torch.from_numpy(rotmat), tried)


def kinds_of(labels: Float[Tensor, "N 17 3"]) -> dict[str, Bool[Tensor, " N"]]:
    """Sort labelled people by what they do, from their places in the picture alone.

    Angles are those of the trunk from the vertical; somebody is of one kind, in this order:
    ``cut`` (nothing labelled below the hips), ``inverted`` (over 120 degrees), ``lying`` (60 to
    120), ``bent`` (35 to 60), ``sitting`` (both thighs drop less than 0.55 of the trunk's length;
    who crouches is among them), ``upright``. Whoever lacks a shoulder, a hip or, but for ``cut``, a
    knee is of none.
    """
    places, there = labels[..., :2], labels[..., 2] > 0
    index = {name: place for place, name in enumerate(joint_set("coco17").names)}
    shoulders, hips, knees, ankles = (
        [index["l" + part], index["r" + part]] for part in ("sho", "hip", "kne", "ank")
    )
    has_trunk = there[:, shoulders + hips].all(1)
    has_legs = there[:, knees].all(1)
    trunk = places[:, hips].mean(1) - places[:, shoulders].mean(1)
    length = trunk.norm(dim=1).clamp_min(1e-6)
    angle = torch.rad2deg(torch.atan2(trunk[:, 0].abs(), trunk[:, 1]))
    drop = (places[:, knees, 1] - places[:, hips, 1]).amax(1) / length
    is_cut = has_trunk & ~there[:, knees + ankles].any(1)
    rest = has_trunk & has_legs
    upright = rest & (angle <= 35)
    return {
        "cut": is_cut,
        "inverted": rest & (angle > 120),
        "lying": rest & (angle > 60) & (angle <= 120),
        "bent": rest & (angle > 35) & (angle <= 60),
        "sitting": upright & (drop < 0.55),
        "upright": upright & (drop >= 0.55),
    }
