"""Penn Action: ``labels/0001.mat`` per clip, ``frames/0001/000001.jpg`` per frame.

Boxes are x1, y1, x2, y2, and there may be fewer of them than frames. EFT's map exchanges left and
right against the dataset's own names: where fits come out turned around, read with the joint set
``penn13_eft``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.matlab import load_mat, number_of
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import shown
from eft_fast.sample import Sample

_NUM_JOINTS: Final = 13
_KEYS: Final = {"x", "y", "visibility", "nframes"}


def is_penn_action(peek: Peek) -> bool:
    """Whether it is a clip's file, the folder of them, or the root that has ``labels``."""
    if peek.is_folder:
        child = peek.child("labels") or peek.child("[0-9]*.mat")
        return child is not None and is_penn_action(child)
    return peek.is_mat and peek.arrays.keys() >= _KEYS


def samples_of_penn_action(reading: Reading) -> Iterator[Sample]:
    """The person of each frame, clip by clip."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    order = reading.order("penn13").name
    for file in _clips(reading):
        clip = file.stem
        try:
            yield from _of_clip(reading, order, clip, load_mat(file, reading.who))
        except ValueError as error:
            reading.left_out["unreadable clips"] += 1
            reading.notes.append(str(error))


def _clips(reading: Reading) -> list[Path]:
    folder = reading.path
    if folder.is_file():
        return [folder]
    folder = folder / "labels" if (folder / "labels").is_dir() else folder
    files = sorted(folder.glob("*.mat"), key=lambda file: natural_key(file.name))
    if not files:
        raise ValueError(f"{reading.who}: expected files *.mat, got none in {folder}")
    return files


def _of_clip(reading: Reading, order: str, clip: str, found: dict[str, Any]) -> Iterator[Found]:
    x, y, visibility = (_frames(reading.who, clip, found, key) for key in ("x", "y", "visibility"))
    boxes = np.atleast_2d(np.asarray(found.get("bbox", np.zeros((0, 4))), dtype=np.float64))
    boxes = boxes if boxes.shape[1:] == (4,) else np.zeros((0, 4))
    size = np.asarray(found.get("dimensions", [])).reshape(-1)
    declared = (int(size[1]), int(size[0])) if len(size) >= 2 else None
    action = found.get("action")
    split = None if number_of(found.get("train")) is None else "test"
    split = "train" if number_of(found.get("train")) == 1.0 else split
    if len(boxes) < len(x):
        reading.notes.append(
            f"{reading.who}: clip {shown(clip)} has {len(boxes)} boxes for {len(x)} frames; the "
            "others get that of their keypoints"
        )
    for frame in range(len(x)):
        is_there = visibility[frame] > 0.0
        points = np.column_stack([x[frame], y[frame], is_there]) * is_there[:, None]
        box = None
        if frame < len(boxes):
            box = np.concatenate([boxes[frame, :2], boxes[frame, 2:] - boxes[frame, :2]])
        name = f"{clip}/{frame + 1:06d}"
        extra = {"action": action, "split": split}
        person = Person(name, f"person {shown(name)}", points, order, box, extra=extra)
        fields = {"track_id": clip, "subject_id": clip, "frame": frame + 1}
        yield Found(person, f"frames/{name}.jpg", declared, fields=fields)


def _frames(who: str, clip: str, found: dict[str, Any], key: str) -> np.ndarray:
    """One value per frame and joint, [F, 13]."""
    try:
        values = np.atleast_2d(np.asarray(found.get(key), dtype=np.float64))
    except (TypeError, ValueError):
        values = np.zeros((0, 0))
    if values.shape[1:] != (_NUM_JOINTS,):
        raise ValueError(
            f"{who}: {key} of clip {shown(clip)} must be [frames, 13], got {list(values.shape)}"
        )
    return values
