"""A ``Sample`` and its photo to what fitters take: the crop, and keypoints in the crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast import imaging
from eft_fast.geometry.cameras import crop_intrinsics
from eft_fast.keypoints import JointSet, to_spin49
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models.base import Regressor
from eft_fast.person import UnplacedPerson, photo_pinhole, place_person
from eft_fast.sample import Sample

#: Right and left among the 49: annotated ankles, and knees of OpenPose, whose block is the first.
_ANKLES: Final = (25, 30)
_OPENPOSE_KNEES: Final = (10, 13)
_NUM_OPENPOSE: Final = 25


@dataclass(frozen=True)
class Prepared:
    """A person on the way through a fit.

    Attributes:
        index: Which person of the run.
        img: The crop as the regressor takes it; None when there is nothing to fit, and in what is
            kept while the fitter has the crop.
        keypoints_2d: The 49 keypoints of ``keypoints.to_spin49``: x and y in [-1, 1] of the crop,
            and confidence.
        crop_intrinsics: Pinhole of the photo as seen in the crop (``geometry.crop_intrinsics``),
            for the full perspective; None: the weak camera. All people of a run alike.
        given: The keypoints of the sample's own joint set in the crop, as ``keypoints_2d``; None
            where only the 49 are known.
        joint_set: Name of that set.
        weight_factor: What the weight of each of these keypoints is multiplied by; None: 1.
        points_3d: The same points in space: x, y, z in metres in the axes of the camera, about any
            origin, and confidence; None: not known.
        keypoints_px: The given keypoints in photo pixels, cleaned: NaN and those outside the photo
            have confidence 0.
        center: Centre of the crop, photo pixels; NaN without a photo.
        scale: Side of the crop / 200, photo pixels; NaN without a photo.
        intrinsics: Pinhole of the photo, pixels; None: the weak camera.
        photo: Name of the photo, empty for an array.
        id: As of ``Sample``.
        message: What was wrong, or empty.
    """

    index: int
    img: Float[Tensor, "3 S S"] | None
    keypoints_2d: Float[Tensor, "49 3"]
    crop_intrinsics: Float[Tensor, "3 3"] | None = None
    given: Float[Tensor, "K 3"] | None = None
    joint_set: str = "spin49"
    weight_factor: Float[Tensor, " K"] | None = None
    points_3d: Float[Tensor, "K 4"] | None = None
    keypoints_px: Float[np.ndarray, "K 3"] | None = None
    center: Float[np.ndarray, " 2"] | None = None
    scale: float = float("nan")
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    photo: str = ""
    id: str = ""
    message: str = ""

    @property
    def crop(self) -> Float[Tensor, "3 S S"]:
        """The crop, of a person who has one."""
        assert self.img is not None, "only people with a crop reach a fitter"
        return self.img

    @property
    def is_labelled(self) -> bool:
        """Whether there is any keypoint to fit to."""
        return bool((self.keypoints_2d[:, 2] > 0).any())

    @property
    def reason_without_fit(self) -> str:
        """The stop reason of who has no fit: unreadable, or not reached before an interrupt."""
        return "bad_image" if np.isnan(self.scale) and self.message else "interrupted"

    def to(self, device: torch.device) -> Prepared:
        """The same with the tensors of the fit on a device."""
        img, given, pinhole, factor, points_3d = (
            None if value is None else value.to(device)
            for value in (
                self.img, self.given, self.crop_intrinsics, self.weight_factor, self.points_3d
            )
        )  # fmt: skip
        return replace(
            self,
            img=img,
            keypoints_2d=self.keypoints_2d.to(device),
            crop_intrinsics=pinhole,
            given=given,
            weight_factor=factor,
            points_3d=points_3d,
        )

    def without_crop(self) -> Prepared:
        """What is kept of a person while the fitter has the crop."""
        return replace(self, img=None)


def stack_intrinsics(people: Sequence[Prepared]) -> Float[Tensor, "B 3 3"] | None:
    """The pinholes of people as seen in their crops, or None if they have none.

    Raises:
        ValueError: If only some of them have one.
    """
    given = [each.crop_intrinsics for each in people if each.crop_intrinsics is not None]
    if given and len(given) < len(people):
        raise ValueError(
            f"fit_batch: all people of a run have a pinhole or none has, got {len(given)} of "
            f"{len(people)}"
        )
    return torch.stack(given) if given else None


def prepare_person(
    sample: Sample,
    photo: npt.NDArray[np.uint8] | Exception,
    regressor: Regressor,
    *,
    index: int = 0,
    strict: bool = False,
) -> Prepared:
    """Crop the person and bring the keypoints into the crop.

    Args:
        sample: The person; a ``problem`` makes it one without a crop. A box without area, or none:
            the box of the labelled keypoints.
        photo: RGB uint8 ``[H, W, 3]``, or the error that reading it gave.
        regressor: Says how large crops are, and how they are normalised.
        index: Which person of the run.
        strict: Truncate corners and keypoints to integers, fit a black picture where no crop can
            be cut, and always apply the rule for ankles at the border, as the reference does.
    """
    placed = place_person(
        sample, photo, size=regressor.input_size, margin=regressor.box_margin, strict=strict
    )
    if isinstance(placed, UnplacedPerson):
        known = replace(sample, keypoints_2d_px=placed.keypoints_px)
        return without_photo(known, placed.message, index=index)
    assert isinstance(photo, np.ndarray)
    height, width = photo.shape[:2]
    joint_set = find_joint_set(sample.keypoint_set)
    keypoints_2d = _to_fit(placed.keypoints, placed.keypoints_px, joint_set, height, strict=strict)
    crop = placed.crop
    img = imaging.to_input(placed.pixels, regressor.img_mean, regressor.img_std)
    center, intrinsics = crop.center, photo_pinhole(sample.K, width, height)
    return Prepared(
        index=index,
        img=torch.from_numpy(img),
        keypoints_2d=torch.from_numpy(keypoints_2d),
        crop_intrinsics=_seen_in_crop(intrinsics, center, float(crop.scale)),
        given=torch.from_numpy(placed.given),
        joint_set=joint_set.name,
        points_3d=_points_3d(sample),
        keypoints_px=placed.keypoints_px,
        center=center,
        scale=float(crop.scale),
        intrinsics=intrinsics,
        photo=sample.photo,
        id=sample.id,
        message="; ".join(placed.notes),
    )


def without_photo(sample: Sample, message: str = "", *, index: int = 0) -> Prepared:
    """A person without a crop: why, or nothing if the run never came to them."""
    return Prepared(
        index=index,
        img=None,
        keypoints_2d=torch.zeros(49, 3),
        keypoints_px=np.nan_to_num(np.asarray(sample.keypoints_2d_px, np.float32)),
        center=np.full(2, np.nan),
        photo=sample.photo,
        id=sample.id,
        message=message,
    )


def _points_3d(sample: Sample) -> Float[Tensor, "K 4"] | None:
    """Keypoints in space, with confidence 0 where a number is not finite.

    Of another joint set than the 2D keypoints they are truth to measure against, no data of a fit.
    """
    if sample.keypoints_3d is None or sample.order_3d != sample.keypoint_set:
        return None
    points = np.asarray(sample.keypoints_3d, np.float32)
    known = np.isfinite(points).all(1) & (points[:, 3] > 0)
    return torch.from_numpy(np.where(known[:, None], points, np.float32(0)))


def _to_fit(
    cropped: npt.NDArray[np.float64],
    cleaned: npt.NDArray[np.float32],
    joint_set: JointSet,
    height: int,
    *,
    strict: bool,
) -> npt.NDArray[np.float32]:
    """The 49 keypoints of the fit, without the ankles that the reference drops."""
    keypoints_2d = to_spin49(cropped, joint_set.name).astype(np.float32)
    keypoints_2d[keypoints_2d[:, 2] <= 0] = 0.0
    if strict or _has_openpose_block(keypoints_2d, joint_set):
        _drop_ankles_at_border(keypoints_2d, to_spin49(cleaned, joint_set.name), height)
    return keypoints_2d


def _seen_in_crop(
    intrinsics: npt.NDArray[np.float64] | None, center: npt.NDArray[np.float64], scale: float
) -> Float[Tensor, "3 3"] | None:
    """The pinhole as seen in the crop, for the fit."""
    if intrinsics is None:
        return None
    tensors = (torch.tensor(value)[None] for value in (intrinsics, center, np.asarray(scale)))
    return crop_intrinsics(*tensors)[0].float()


def _has_openpose_block(keypoints_2d: npt.NDArray[np.float32], joint_set: JointSet) -> bool:
    """Whether there are OpenPose's own detections, knees included, beside the annotated block."""
    knees = set(_OPENPOSE_KNEES) <= set(joint_set.to_op25)
    return knees and bool((keypoints_2d[:_NUM_OPENPOSE, 2] > 0).any())


def _drop_ankles_at_border(
    keypoints_2d: npt.NDArray[np.float32], keypoints_px: npt.NDArray[np.float32], height: int
) -> None:
    """The reference's rule: an ankle within 10 px of the lower border needs an OpenPose knee."""
    for ankle, openpose_knee in zip(_ANKLES, _OPENPOSE_KNEES, strict=True):
        at_border = keypoints_px[ankle, 1] >= height - 10
        if at_border and keypoints_2d[openpose_knee, 2] < 0.1:
            keypoints_2d[ankle, 2] = 0.0
