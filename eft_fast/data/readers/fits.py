"""Fits and labelled sets of other programs as annotations: keypoints, SMPL parameters, crops.

EFT's JSON and pickles, SPIN's npz, HMR 2.0's tars and evaluation npz, MMHuman3D's npz, our shards.
``eft_fast.pseudo_gt.load_fits`` reads the same files as a ``FitResult``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.conventions import BOX_UNIT, box_margin_of
from eft_fast.data.formats.detect import load_foreign
from eft_fast.data.formats.fits import Fits, to_axis_angle
from eft_fast.data.formats.hmr2_tar import Hmr2Photo, hmr2_photos_to_fits, load_hmr2_tars
from eft_fast.data.formats.npz import check_rows, read_members
from eft_fast.data.readers.datasets3d.solid import (
    find_person,
    people_of_files,
    to_gender,
    with_confidence,
)
from eft_fast.data.values import expected_form

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample


def samples_of_eft_json(reading: Reading) -> Iterator[Sample]:
    """Fits of the EFT dataset."""
    return _samples(load_foreign(reading.path, "eft-json"), reading)


def samples_of_eft_pickle(reading: Reading) -> Iterator[Sample]:
    """Fits that EFT's code left: a folder of pickles."""
    return _samples(load_foreign(reading.path, "eft-pickle"), reading)


def samples_of_spin_npz(reading: Reading) -> Iterator[Sample]:
    """Labels of SPIN's training and evaluation sets, ``S`` in space included."""
    from eft_fast.data.formats.spin_npz import load_spin_npz, spin_labels_to_fits

    solid = None
    with expected_form(reading.who, reading.path):
        labels = load_spin_npz(reading.path)
        fits = spin_labels_to_fits(labels)
        if labels.points_3d is not None:
            solid = np.zeros((len(labels.image_names), 49, 4))
            solid[:, 25:] = labels.points_3d
    return _samples(fits, reading, solid)


def samples_of_humandata(reading: Reading) -> Iterator[Sample]:
    """Labels of MMHuman3D."""
    return _samples(load_foreign(reading.path, "humandata-npz"), reading)


def samples_of_parquet(reading: Reading) -> Iterator[Sample]:
    """Our own shards."""
    return _samples(load_foreign(reading.path, "parquet"), reading)


def samples_of_hmr2_tar(reading: Reading) -> Iterator[Sample]:
    """People of HMR 2.0's training sets; the photos are in the tars and come as bytes."""
    for photo in _photos(reading):
        if not photo.people:
            reading.left_out["photo without people"] += 1
            continue
        solid = np.zeros((len(photo.people), 49, 4))
        solid[:, :44] = np.stack([person.keypoints_3d for person in photo.people])
        with expected_form(reading.who, f"{photo.key} of {reading.path}"):
            fits = hmr2_photos_to_fits([photo])
        # The photo is here: none is looked for.
        inside = replace(reading, photos=None)
        size, fault = _size_of(photo, reading.who)
        people = (
            replace(found, size=size, person=replace(found.person, fault=fault))
            for found in _people(fits, solid)
        )
        for row, sample in enumerate(inside.samples(people)):
            mask = None if photo.masks is None or row >= len(photo.masks) else photo.masks[row]
            yield replace(sample, image=photo.image or None, mask=mask)


def _photos(reading: Reading) -> Iterator[Hmr2Photo]:
    with expected_form(reading.who, reading.path):
        yield from load_hmr2_tars(reading.path)


def _size_of(photo: Hmr2Photo, who: str) -> tuple[tuple[int, int] | None, str | None]:
    from eft_fast import imaging

    try:
        return imaging.load_image_size(photo.image), None
    except (ValueError, OSError) as error:
        return None, f"{who}: {photo.key}{photo.ending}: {error}"


def samples_of_hmr2_npz(reading: Reading) -> Iterator[Sample]:
    """Labels of HMR 2.0's evaluation sets. Their ``scale`` is in pixels, unlike SPIN's."""
    people = people_of_files(reading, [reading.path], lambda file: _of_hmr2_npz(file, reading.who))
    return reading.samples(people)


_HMR2_NPZ: Final = ("imgname", "center", "scale")


def _of_hmr2_npz(path: Path, who: str) -> Iterator[Found]:
    values = read_members(path, who)
    missing = [name for name in _HMR2_NPZ if name not in values]
    if missing:
        raise ValueError(f"{who}: {path} must hold {', '.join(missing)}")
    count = len(np.atleast_1d(np.asarray(values["imgname"])))
    check_rows(values, (*_HMR2_NPZ, "personid"), count, f"{who}: {path}")
    flat, solid = (_joined(values, size, count) for size in (3, 4))
    scale = np.asarray(values["scale"], np.float64).reshape(count, -1).max(1)
    pose = _rows(values, "body_pose", "has_body_pose", 72, count)
    betas = _rows(values, "betas", "has_betas", 10, count)
    for row in range(count):
        yield find_person(
            str(row),
            flat[row],
            "spin49",
            photo=str(values["imgname"][row]),
            bbox_center=np.asarray(values["center"][row], np.float64).reshape(2),
            bbox_scale=float(scale[row]) / BOX_UNIT,
            keypoints_3d=solid[row] if solid[row].any() else None,
            full_pose=None
            if pose is None or np.isnan(pose[row]).any()
            else pose[row].reshape(24, 3),
            betas=None if betas is None or np.isnan(betas[row]).any() else betas[row],
        )


def _joined(values: dict[str, Any], size: int, count: int) -> np.ndarray:
    """OpenPose's 25 and the first 19 of J24 as the 49."""
    points = np.zeros((count, 49, size))
    for start, length, name in ((0, 25, "body"), (25, 19, "extra")):
        given = values.get(f"{name}_keypoints_{size - 1}d")
        if isinstance(given, np.ndarray) and given.shape == (count, length, size):
            points[:, start : start + length] = given
    return points


def _rows(values: dict[str, Any], name: str, flag: str, size: int, count: int) -> np.ndarray | None:
    given = values.get(name)
    if not isinstance(given, np.ndarray) or given.size != count * size:
        return None
    rows = given.reshape(count, size).astype(np.float64)
    said = values.get(flag)
    if said is not None:
        rows[np.asarray(said).reshape(count) <= 0] = np.nan
    return rows


def _samples(fits: Fits, reading: Reading, solid: np.ndarray | None = None) -> Iterator[Sample]:
    return reading.samples(people_of_files(reading, [reading.path], lambda _: _people(fits, solid)))


def _people(fits: Fits, solid: np.ndarray | None) -> Iterator[Found]:
    """People of fits. A pose that the file does not trust is left out, keypoints stay."""
    pose = to_axis_angle(fits.rotmat)
    order = fits.joint_set
    margin = np.array([box_margin_of(name) for name in fits.regressor_ids])
    side = np.asarray(fits.bbox_scale, np.float64) * BOX_UNIT / margin
    center = np.asarray(fits.bbox_center, np.float64)
    taken: dict[str, int] = {}
    for row in range(len(fits)):
        key = fits.ids[row] or f"{row}"
        taken[key] = taken.get(key, 0) + 1
        unique = key if taken[key] == 1 else f"{key}#{taken[key]}"
        trusted = bool(fits.is_trusted[row])
        points = np.asarray(fits.keypoints_2d_px[row], np.float64)
        extra: dict[str, Any] = {**fits.extras_of(row), "pred_cam": fits.pred_cam[row]}
        if fits.regressor_ids[row]:
            extra["regressor"] = fits.regressor_ids[row]
        boxed = bool(np.isfinite(center[row]).all() and np.isfinite(side[row]))
        fields: dict[str, Any] = {
            "full_pose": pose[row] if trusted else None,
            "betas": np.asarray(fits.betas[row], np.float64) if trusted else None,
            "gender": to_gender(fits.genders[row]),
            "subject_id": fits.tracks[row] or None,
            "keypoints_3d": None if solid is None or not solid[row].any() else solid[row],
        }
        if boxed:
            fields["bbox_center"] = center[row]
            fields["bbox_scale"] = float(fits.bbox_scale[row])
        if np.isfinite(fits.cam_transl[row]).all():
            fields["cam_transl"] = np.asarray(fits.cam_transl[row], np.float64)
        pinhole = extra.pop("intrinsics", None)
        yield find_person(
            unique,
            with_confidence(points[:, :2], points[:, 2]),
            order,
            photo=fits.photos[row] or None,
            box=[*(center[row] - side[row] / 2), side[row], side[row]] if boxed else None,
            extra=extra,
            K=pinhole,
            **fields,
        )
