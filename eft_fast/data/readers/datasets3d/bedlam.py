"""BEDLAM in the npz of its training code: ``imgname``, ``center``, ``scale``, ``pose_cam`` ...

``pose_cam`` [N, 165] is SMPL-X (or [N, 72] SMPL) in the camera frame, ``shape`` [N, 10 or 11],
``trans_cam`` [N, 3], ``cam_int`` [N, 3, 3], ``cam_ext`` [N, 4, 4], ``gtkps`` [N, K, 3] px,
``gender``, ``sub``. ``scale`` is in units of 200 px. Close-up photos lie on their side: the numbers
are those of the photo turned by 90 degrees clockwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast import imaging
from eft_fast.data.formats.npz import check_rows, read_members
from eft_fast.data.photos import PhotoFinder
from eft_fast.data.readers.datasets3d.solid import (
    find_person,
    people_of_files,
    to_gender,
    with_confidence,
)

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

#: SMPL's 22 first joints are those of SMPL-X; hands and toes follow in other orders.
_SHARED: Final = 22
_NEEDED: Final = ("imgname", "center", "scale", "pose_cam", "shape", "gtkps")
_CLOSEUP: Final = "closeup"


def samples_of_bedlam(reading: Reading) -> Iterator[Sample]:
    """Read one npz, or all of a folder.

    Keypoints are the 22 first joints (``smpl24``, the hands not labelled). Of SMPL-X poses the body
    is taken: hands are straight, and shape coefficients are SMPL-X's own. Close-up photos are
    turned here, where photos are given; they then come as pixels and not as a path.
    """
    path = reading.path
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"{reading.who}: no .npz in {path}")
    finder = None if reading.photos is None else PhotoFinder(reading.photos, reading.who)
    people = people_of_files(reading, files, lambda file: _people(file, reading.who))
    for sample in reading.samples(people):
        yield (_turned(sample, finder) if _CLOSEUP in str(sample.extra.get("imgname")) else sample)


def _people(file: Path, who: str) -> Iterator[Found]:
    values = read_members(file, who)
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        raise ValueError(f"{who}: {file} must hold {', '.join(missing)}")
    names = values["imgname"]
    count = len(names)
    per_person = (
        "center", "scale", "pose_cam", "gtkps", "trans_cam", "cam_int", "cam_ext", "shape",
        "gender", "sub",
    )  # fmt: skip
    check_rows(values, per_person, count, f"{who}: {file}")
    for name, size in (("center", 2), ("trans_cam", 3), ("cam_int", 9), ("cam_ext", 16)):
        if name in values and np.asarray(values[name]).size != count * size:
            got = list(np.shape(values[name]))
            raise ValueError(
                f"{who}: {name} of {file} must hold {size} numbers a person, got {got}"
            )
    pose = np.asarray(values["pose_cam"], np.float64).reshape(count, -1)
    if pose.shape[1] < 3 * _SHARED:
        raise ValueError(
            f"{who}: pose_cam of {file} must be [N, 165] or [N, 72], got {list(pose.shape)}"
        )
    full = np.zeros((count, 72))
    kept = 72 if pose.shape[1] == 72 else 3 * _SHARED
    full[:, :kept] = pose[:, :kept]
    points = np.asarray(values["gtkps"], np.float64)
    genders = values.get("gender", ["neutral"] * count)
    subjects = values.get("sub", [None] * count)
    for row, name in enumerate(names):
        flat = np.zeros((24, 3))
        given = points[row, :_SHARED]
        flat[:_SHARED] = with_confidence(given[:, :2], given[:, 2] if given.shape[1] > 2 else None)
        flat[:, 2] = flat[:, 2] > 0
        yield find_person(
            f"{file.stem}_{row}",
            flat,
            "smpl24",
            photo=str(name),
            bbox_center=np.asarray(values["center"][row], np.float64),
            bbox_scale=float(np.max(values["scale"][row])),
            K=np.asarray(values["cam_int"][row], np.float64) if "cam_int" in values else None,
            cam_transl=_place(values, row),
            full_pose=full[row].reshape(24, 3),
            betas=np.asarray(values["shape"][row], np.float64).reshape(-1)[:10],
            gender=to_gender(genders[row]),
            subject_id=None if subjects[row] is None else str(subjects[row]),
            extra={"imgname": str(name), "body": "smpl" if kept == 72 else "smplx"},
        )


def _place(values: dict[str, np.ndarray], row: int) -> np.ndarray | None:
    """Translation before the camera: the body's, and the camera's own."""
    if "trans_cam" not in values:
        return None
    place = np.asarray(values["trans_cam"][row], np.float64).reshape(3)
    if "cam_ext" in values:
        place = place + np.asarray(values["cam_ext"][row], np.float64).reshape(4, 4)[:3, 3]
    return place


def _turned(sample: Sample, finder: PhotoFinder | None) -> Sample:
    """The photo as its numbers mean it; one that is missing or stands upright already is left."""
    if finder is None or sample.image is None or sample.problem is not None:
        return sample
    try:
        photo = imaging.load_image(Path(str(sample.image)))
    except (OSError, ValueError):
        return sample
    if photo.shape[0] >= photo.shape[1]:
        return sample
    upright = np.ascontiguousarray(np.rot90(photo, -1))
    return replace(sample, image=upright, image_size=(upright.shape[1], upright.shape[0]))
