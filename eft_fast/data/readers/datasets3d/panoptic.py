"""CMU Panoptic: ``hdPose3d_stage1_coco19/body3DScene_00000000.json`` and the cameras of a sequence.

A body is ``joints19``: 76 numbers, x, y, z in cm in the world and a score, -1 where there is no
joint. ``calibration_<sequence>.json`` has ``K``, ``distCoef`` (5), ``R`` and ``t`` (cm) per camera.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.datasets3d.solid import (
    CM,
    find_person,
    people_of_files,
    project,
    with_confidence,
)
from eft_fast.data.values import load_json

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

_FOLDER: Final = "hdPose3d_stage1_coco19"
#: HD cameras that EFT leaves out: they see too little of people, or too near.
EXCLUDED: Final = (1, 2, 4, 6, 7, 13, 17, 19, 28)


def samples_of_panoptic(
    reading: Reading, *, cameras: Collection[int] | None = None, every: int = 1
) -> Iterator[Sample]:
    """Read a sequence, or a folder of sequences; each camera that sees a person gives a sample.

    2D keypoints are the points in space through the camera, its distortion included; one outside of
    the picture or behind the camera is not labelled. Photos: ``hdImgs/00_05/00_05_00000000.jpg``.

    Args:
        reading: What is asked for.
        cameras: Numbers of HD cameras; None: all but ``EXCLUDED``.
        every: Only each n-th frame is read.
    """
    folders = _sequences(reading.path, reading.who)
    people = people_of_files(
        reading, folders, lambda folder: _of_sequence(folder, cameras, every, reading)
    )
    yield from reading.samples(people)


def _of_sequence(
    folder: Path, cameras: Collection[int] | None, every: int, reading: Reading
) -> Iterator[Found]:
    views = _read_cameras(folder, cameras, reading.who)
    files = sorted((folder / _FOLDER).glob("body3DScene_*.json"), key=lambda f: natural_key(f.name))
    return people_of_files(
        reading, files[::every], lambda file: _people(file, folder, views, reading)
    )


def _sequences(path: Path, who: str) -> list[Path]:
    if path.name == _FOLDER:
        path = path.parent
    if (path / _FOLDER).is_dir():
        return [path]
    found = sorted(folder.parent for folder in path.glob(f"*/{_FOLDER}") if folder.is_dir())
    if not found:
        raise FileNotFoundError(f"{who}: no folder {_FOLDER} in {path}")
    return found


def _read_cameras(
    folder: Path, wanted: Collection[int] | None, who: str
) -> dict[int, dict[str, np.ndarray]]:
    files = sorted(folder.glob("calibration*.json"))
    if not files:
        raise FileNotFoundError(f"{who}: no calibration_*.json in {folder}")
    document = load_json(files[0], who)
    listed = document.get("cameras") if isinstance(document, dict) else None
    views: dict[int, dict[str, np.ndarray]] = {}
    for camera in listed if isinstance(listed, list) else []:
        number = re.fullmatch(r"00_([0-9]+)", str(camera.get("name", "")))
        if camera.get("type", "hd") != "hd" or number is None:
            continue
        if int(number[1]) in EXCLUDED if wanted is None else int(number[1]) not in wanted:
            continue
        try:
            views[int(number[1])] = {
                "K": np.asarray(camera["K"], np.float64).reshape(3, 3),
                "R": np.asarray(camera["R"], np.float64).reshape(3, 3),
                "t": np.asarray(camera["t"], np.float64).reshape(3) / CM,
                "distortion": np.asarray(camera.get("distCoef", [0.0] * 5), np.float64).reshape(-1),
                "size": np.asarray(camera.get("resolution", (1920, 1080)), np.int64).reshape(2),
            }
        except (KeyError, ValueError) as error:
            raise ValueError(f"{who}: camera {number[0]} of {files[0]} has no {error}") from None
    if not views:
        raise ValueError(f"{who}: {files[0]} has none of the wanted HD cameras")
    return views


def _people(
    file: Path, folder: Path, views: dict[int, dict[str, np.ndarray]], reading: Reading
) -> Iterator[Found]:
    document = load_json(file, reading.who)
    frame = int(file.stem.rpartition("_")[2])
    for body in document.get("bodies", []) if isinstance(document, dict) else []:
        joints = np.asarray(body.get("joints19", []), np.float64)
        if joints.size != 76:
            reading.left_out["without 19 joints"] += 1
            continue
        for number, view in views.items():
            yield _person(joints.reshape(19, 4), body, frame, number, view, folder)


def _person(
    joints: np.ndarray,
    body: dict[str, Any],
    frame: int,
    number: int,
    view: dict[str, np.ndarray],
    folder: Path,
) -> Found:
    solid = joints[:, :3] / CM @ view["R"].T + view["t"]
    # -1: not found. Scores may pass 1 a little.
    sure = np.clip(joints[:, 3], 0.0, 1.0)
    width, height = view["size"].tolist()
    front = solid[:, 2] > 1e-3
    pixels = np.zeros((19, 2))
    pixels[front] = project(solid[front], view["K"], view["distortion"])
    inside = front & (pixels > -0.5).all(1) & (pixels < np.array([width, height]) - 0.5).all(1)
    person = body.get("id", 0)
    return find_person(
        f"{folder.name}_{frame:08d}_{number:02d}_{person}",
        with_confidence(pixels, np.where(inside, sure, 0.0)),
        "panoptic19",
        photo=f"{folder.name}/hdImgs/00_{number:02d}/00_{number:02d}_{frame:08d}.jpg",
        size=(width, height),
        keypoints_3d=with_confidence(solid, sure),
        K=view["K"],
        subject_id=f"{folder.name}_{person}",
        track_id=f"{folder.name}_{number:02d}_{person}",
        frame=frame,
    )
