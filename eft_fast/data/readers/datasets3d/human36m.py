"""Human3.6M in the forms in which it lies on disks.

- The official ``.cdf`` files: ``S*/.../D3_Positions_mono/<action>.<camera>.cdf`` with ``Pose``
  [1, F, 96], 32 joints in mm in the camera frame, and ``D2_Positions`` [1, F, 64] beside it.
- ``annot.h5`` of h36m-fetch: ``pose/3d`` [N, 32, 3] mm camera frame, ``pose/2d``, ``camera``,
  ``frame``, ``subject``, ``action``, ``subaction``.
- The COCO-like JSON files of Moon et al.: ``Human36M_subject<N>_data.json``, ``_camera.json``
  (R, t in mm, f, c) and ``_joint_3d.json`` (17 joints, world, mm).

npz files of SPIN are read as fits. The 17 joints are picked from the 32 in the order of
``h36m17_Jreg``, the left leg first; the JSON files have the right leg first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.datasets3d.solid import (
    MM,
    find_person,
    fit_pinhole,
    people_of_files,
    with_confidence,
)
from eft_fast.data.readers.matlab import open_hdf5
from eft_fast.data.values import load_json

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

#: The 17 of ``h36m17_Jreg`` among the 32 joints of the files.
RAW_TO_H36M17: Final = (11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27)
#: Frames apart that are read of the videos, at 50 per second.
EVERY: Final = 5
_NUM_RAW: Final = 32


def samples_of_human36m(reading: Reading, *, every: int = EVERY) -> Iterator[Sample]:
    """Read the root of the ``.cdf`` files, an ``annot.h5``, or a folder of the JSON files.

    Photos of the videos are called as SPIN's scripts call them:
    ``S1_Directions.54138969_000001.jpg``, counted from 1; those of ``annot.h5`` lie in
    ``imageSequence/<camera>/img_000001.jpg``. The pinhole of ``.cdf`` and ``.h5`` files is fitted
    to the points in space and in the picture, which leaves out the small distortion of the lenses.

    Args:
        reading: What is asked for.
        every: Only each n-th frame of a video is read; the usual protocols take 5.
    """
    path = reading.path
    if path.is_file() and path.suffix == ".h5":
        people = people_of_files(reading, [path], lambda file: _of_h5(file, reading.who))
    elif path.is_dir() and _json_files(path):
        files = _json_files(path)
        people = people_of_files(reading, files, lambda file: _of_json(file, reading.who, every))
    else:
        people = _of_cdf(reading, every)
    yield from reading.samples(people)


def _of_cdf(reading: Reading, every: int) -> Iterator[Found]:
    path, who = reading.path, reading.who
    files = [path] if path.is_file() else list(path.rglob("*.cdf"))
    files = [file for file in files if "D3_Positions_mono" in file.as_posix()]
    files = [file for file in files if "universal" not in file.as_posix()]
    if not files:
        raise FileNotFoundError(f"{who}: no D3_Positions_mono/*.cdf in {path}")
    files = sorted(files, key=lambda one: natural_key(one.as_posix()))
    return people_of_files(reading, files, lambda file: _of_video(file, who, every))


def _of_video(file: Path, who: str, every: int) -> Iterator[Found]:
    solid = _read_cdf(file, 3, who) / MM
    flat_file = Path(re.sub(r"D3_Positions_mono", "D2_Positions", file.as_posix()))
    if not flat_file.is_file():
        raise FileNotFoundError(f"{who}: no 2D positions {flat_file} beside {file}")
    flat = _read_cdf(flat_file, 2, who)
    if flat.shape[:2] != solid.shape[:2]:
        raise ValueError(
            f"{who}: {flat_file} must have {solid.shape[0]} frames of {_NUM_RAW} joints, got "
            f"{list(flat.shape)}"
        )
    pinhole = fit_pinhole(solid.reshape(-1, 3), flat.reshape(-1, 2))
    subject = next((part for part in file.parts if re.fullmatch(r"S[0-9]+", part)), "S0")
    video = f"{subject}_{file.stem.replace(' ', '_')}"
    for frame in range(0, len(solid), every):
        yield _person(
            solid[frame], flat[frame], f"{video}_{frame + 1:06d}", pinhole, frame, subject
        )


def _read_cdf(file: Path, size: int, who: str) -> np.ndarray:
    try:
        import cdflib
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            ".cdf files need cdflib; install eft-fast[datasets]", name="cdflib"
        ) from None
    try:
        with cdflib.CDF(file) as archive:
            values = np.asarray(archive.varget("Pose"), np.float64)
    except Exception as error:  # cdflib raises anything for a damaged file
        raise ValueError(f"{who}: {file} must be a CDF file with Pose ({error})") from None
    if values.size == 0 or values.shape[-1] != _NUM_RAW * size:
        raise ValueError(
            f"{who}: Pose of {file} must be [1, F, {_NUM_RAW * size}], got {list(values.shape)}"
        )
    return values.reshape(-1, _NUM_RAW, size)


def _person(
    solid: np.ndarray,
    flat: np.ndarray,
    key: str,
    pinhole: np.ndarray | None,
    frame: int,
    subject: str,
    photo: str | None = None,
) -> Found:
    picked = list(RAW_TO_H36M17)
    return find_person(
        key,
        with_confidence(flat[picked]),
        "h36m17_Jreg",
        photo=photo or f"{key}.jpg",
        keypoints_3d=with_confidence(solid[picked]),
        K=pinhole,
        subject_id=subject,
        track_id=key.rsplit("_", 1)[0],
        frame=frame,
    )


def _of_h5(path: Path, who: str) -> Iterator[Found]:
    with open_hdf5(path, who) as file:
        try:
            solid = np.asarray(file["pose/3d"], np.float64) / MM
            flat = np.asarray(file["pose/2d"], np.float64)
            columns = {
                name: np.asarray(file[name]).reshape(-1)
                for name in ("camera", "frame", "subject", "action", "subaction")
                if name in file
            }
        except KeyError as error:
            raise ValueError(f"{who}: {path} must hold pose/3d and pose/2d ({error})") from None
    count = len(solid)
    if solid.shape != (count, _NUM_RAW, 3) or flat.shape != (count, _NUM_RAW, 2):
        raise ValueError(
            f"{who}: pose/3d and pose/2d of {path} must be [N, 32, 3] and [N, 32, 2], got "
            f"{list(solid.shape)} and {list(flat.shape)}"
        )
    cameras = columns.get("camera", np.zeros(count, int)).astype(int)
    frames = columns.get("frame", np.arange(count) + 1).astype(int)
    pinholes = {
        camera: fit_pinhole(
            solid[cameras == camera].reshape(-1, 3), flat[cameras == camera].reshape(-1, 2)
        )
        for camera in set(cameras.tolist())
    }
    folder = path.parent.name
    for row in range(count):
        camera, frame = int(cameras[row]), int(frames[row])
        yield _person(
            solid[row],
            flat[row],
            f"{folder}.{camera}_{frame:06d}",
            pinholes[camera],
            frame,
            f"S{int(columns['subject'][row])}" if "subject" in columns else "S0",
            photo=f"{folder}/imageSequence/{camera}/img_{frame:06d}.jpg",
        )


def _json_files(path: Path) -> list[Path]:
    return sorted(path.glob("Human36M_subject*_data.json"), key=lambda file: natural_key(file.name))


def _of_json(file: Path, who: str, every: int) -> Iterator[Found]:
    start = file.name.removesuffix("_data.json")
    data = load_json(file, who)
    cameras = load_json(file.with_name(f"{start}_camera.json"), who)
    joints = load_json(file.with_name(f"{start}_joint_3d.json"), who)
    images = {image["id"]: image for image in data["images"]}
    for entry in data["annotations"]:
        image = images.get(entry.get("image_id"))
        if image is not None and int(image["frame_idx"]) % every == 0:
            yield _of_entry(entry, image, cameras, joints, file, who)


def _of_entry(
    entry: dict[str, Any],
    image: dict[str, Any],
    cameras: dict[str, Any],
    joints: dict[str, Any],
    file: Path,
    who: str,
) -> Found:
    try:
        camera = cameras[str(image["cam_idx"])]
        world = joints[str(image["action_idx"])][str(image["subaction_idx"])]
        points = np.asarray(world[str(image["frame_idx"])], np.float64).reshape(17, 3)
        rotation = np.asarray(camera["R"], np.float64).reshape(3, 3)
        shift = np.asarray(camera["t"], np.float64).reshape(3)
        focal, center = (np.asarray(camera[key], np.float64).reshape(2) for key in "fc")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{who}: {image.get('file_name')} of {file} has no camera or joints ({error})"
        ) from None
    solid = (points @ rotation.T + shift) / MM
    flat = solid[:, :2] / solid[:, 2:] * focal + center
    name = str(image["file_name"])
    subject = f"S{image.get('subject', 0)}"
    return find_person(
        str(entry.get("id", name)),
        with_confidence(flat),
        "h36m17_rightfirst",
        photo=name,
        size=(int(image["width"]), int(image["height"])) if "width" in image else None,
        box=entry.get("bbox"),
        keypoints_3d=with_confidence(solid),
        K=np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]]),
        subject_id=subject,
        track_id=name.rpartition("_")[0],
        frame=int(image["frame_idx"]),
    )
