"""Crops to verify an export with, and torch's answers to them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from eft_fast import imaging
from eft_fast.body.smpl import Smpl
from eft_fast.deploy.folder import IMAGES, ROUNDING
from eft_fast.deploy.verify import difference
from eft_fast.models.base import Regressor

DEMO: Final = Path(__file__).resolve().parent.parent / "assets" / "demo"
#: Parts of the sample photos (x, y, side as shares of the width) and how they are tinted: a swap of
#: the colour channels must show.
_PARTS: Final = (
    ("cameraman.png", (0.15, 0.1, 0.8), (1.0, 1.0, 1.0)),
    ("cameraman.png", (0.3, 0.2, 0.4), (1.0, 0.7, 0.4)),
    ("cameraman.png", (0.5, 0.4, 0.6), (0.3, 0.8, 1.0)),
    ("runner.png", (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)),
    ("sitter.png", (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)),
)


def make_samples(
    regressor: Regressor,
    body: Smpl | None,
    outputs: str,
    joint_set: str,
    photos: Sequence[str | Path] = (),
) -> dict[str, np.ndarray]:
    """Crops, and what torch says of each, by the way that fitting takes and not by the graph's.

    The answers are computed in double precision. Some crops, such as an all-white one, make a
    network magnify the rounding of single precision, torch's own as well: how far torch's answer in
    single is from the exact one is stored too, and another runtime may be as far.

    Args:
        regressor: Network on the CPU, in evaluation mode.
        body: Body of joints and vertices.
        outputs: ``params``, ``joints`` or ``vertices``.
        joint_set: Order of the joints.
        photos: Photos to crop beside the built-in samples, each as a whole.

    Returns:
        ``images`` uint8 [N, S, S, 3]; per output float32 [N, ...]; and its distance to torch's own
        answer in single precision under the name with ``ROUNDING`` in front, [N].
    """
    size = regressor.input_size
    images = np.stack([*photo_crops(size), *extreme_crops(size), *_crops_of(photos, size)])
    img = torch.from_numpy(imaging.to_input(images, regressor.img_mean, regressor.img_std))
    single = _answers(regressor, body, outputs, joint_set, img)
    wide_body = None if body is None else copy.deepcopy(body).double()
    wide = copy.deepcopy(regressor).double()
    exact = _answers(wide, wide_body, outputs, joint_set, img.double())
    samples = {IMAGES: images}
    for name, value in exact.items():
        samples[name] = value.astype(np.float32)
        samples[ROUNDING + name] = difference(name, single[name], value)
    return samples


@torch.no_grad()
def _answers(
    regressor: Regressor, body: Smpl | None, outputs: str, joint_set: str, img: Tensor
) -> dict[str, np.ndarray]:
    predicted, said = regressor.head_with_confidence(regressor.features(img))
    rotmat, betas = predicted.pred_rotmat, predicted.pred_betas
    values = {"rotmat": rotmat, "betas": betas, "cam": predicted.pred_cam}
    if body is not None:
        parts = {"body_pose": rotmat[:, 1:], "global_orient": rotmat[:, :1]}
        values["joints"] = body.keypoints(betas, joint_set=joint_set, pose2rot=False, **parts)
        if outputs == "vertices":
            values["vertices"] = body(betas, pose2rot=False, **parts).vertices
    if said is not None:
        values["confidence"] = said
    return {name: value.contiguous().numpy() for name, value in values.items()}


def photo_crops(size: int) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """Parts of the photos and renders that ship with the package."""
    for name, (x, y, side), tint in _PARTS:
        photo = imaging.load_image(DEMO / name)
        box = np.array([x, y, side, side]) * photo.shape[1]
        crop = imaging.crop_image(photo, imaging.Crop.from_box(box, size, margin=1.0))
        yield np.asarray(np.rint(crop * np.array(tint)), np.uint8)


def extreme_crops(size: int) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """All black, all white, noise, and a ramp of each colour."""
    yield np.zeros((size, size, 3), np.uint8)
    yield np.full((size, size, 3), 255, np.uint8)
    yield np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    across, down = np.meshgrid(ramp, ramp)
    yield np.stack([across, down, 255 - across], -1)


def _crops_of(photos: Sequence[str | Path], size: int) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    for path in photos:
        photo = imaging.load_image(path)
        box = [0.0, 0.0, photo.shape[1], photo.shape[0]]
        yield imaging.crop_image(photo, imaging.Crop.from_box(box, size))
