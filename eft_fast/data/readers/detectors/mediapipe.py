"""MediaPipe Pose: 33 landmarks in fractions of the photo, with a visibility each.

Read as people save them: JSON of the Tasks result (``pose_landmarks``, or ``landmarks``), of the
older solutions (``landmark``), a bare list of landmarks; of one photo in a file of its name, or of
many by their names. An array ``.npy`` is [33, 4] or [people, 33, 4], x, y, z and visibility. World
landmarks are kept in ``extra``: they are not in the frame of the photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.data.photos import natural_key
from eft_fast.data.readers.detectors.files import in_pixels, make_found, read_each
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import load_json, to_number
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.sample import Sample

_NUM: Final = 33
_KEYS: Final = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark")
#: Keys of the photo's name, where a list has several photos.
_NAMES: Final = ("image", "file_name", "filename", "image_path")
_WORLD: Final = ("pose_world_landmarks", "poseWorldLandmarks", "worldLandmarks", "world_landmarks")


def is_mediapipe(peek: Peek) -> bool:
    """Whether it is such a file, or the folder of them."""
    if peek.is_folder:
        child = peek.child("*.json", "*.npy")
        return child is not None and is_mediapipe(child)
    if peek.suffix == ".npy":
        return peek.npy_shape[-2:] in ((_NUM, 3), (_NUM, 4), (_NUM, 5))
    document = peek.json
    if isinstance(document, dict):
        values = list(document.values())[:1]
        return _has_landmarks(document) or any(_has_landmarks(value) for value in values)
    first = peek.json_first()
    return _has_landmarks(first) or _is_landmark(first)


def _has_landmarks(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in _KEYS)


def _is_landmark(value: Any) -> bool:
    return isinstance(value, dict) and {"x", "y", "visibility"} <= value.keys()


def samples_of_mediapipe(reading: Reading) -> Iterator[Sample]:
    """The people, photo by photo."""
    yield from reading.samples(in_pixels(found, reading) for found in _people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    for _, people in read_each(reading, (".json", ".npy"), lambda f: _of_file(f, reading)):
        for name, number, points, world in people:
            order = find_joint_set("mp33") if reading.asked is None else reading.asked
            extra = {} if world is None else {"world_landmarks_m": world}
            yield make_found(
                reading, f"{name}/{number}", points, None, name, order=order,
                has_stem=not Path(name).suffix, extra=extra,
            )  # fmt: skip


def _of_file(file: Path, reading: Reading) -> list[tuple[str, int, Any, Any]]:
    """Photo, number in it, points [33, 3] and world landmarks of each person."""
    if file.suffix == ".npy":
        try:
            array = np.load(file, allow_pickle=False)
        except NUMPY_ERRORS as error:
            raise ValueError(f"{reading.who}: {file} is no array ({error})") from None
        if array.ndim not in (2, 3) or array.shape[-2] != _NUM or array.shape[-1] < 3:
            raise ValueError(
                f"{reading.who}: {file} must be [33, 4] or [people, 33, 4], got {list(array.shape)}"
            )
        array = array[None] if array.ndim == 2 else array
        marks = array[..., 3:4] if array.shape[-1] > 3 else np.ones_like(array[..., :1])
        points = np.concatenate([array[..., :2], marks], axis=-1)
        return [(file.stem, number, each, None) for number, each in enumerate(points)]
    document = load_json(file, reading.who)
    if isinstance(document, dict) and not _has_landmarks(document):
        return [
            (name, *person)
            for name in sorted(document, key=natural_key)
            for person in _of_result(document[name])
        ]
    if isinstance(document, list) and document and _has_landmarks(document[0]):
        found = []
        for place, each in enumerate(document):
            names = [each.get(key) for key in _NAMES] if isinstance(each, dict) else []
            name = next((text for text in names if isinstance(text, str) and text), None)
            found += [(name or f"{file.stem}/{place:06d}", *person) for person in _of_result(each)]
        return found
    return [(file.stem, *person) for person in _of_result(document)]


def _of_result(value: Any) -> list[tuple[int, Any, Any]]:
    """The people of one photo."""
    world = None
    if isinstance(value, dict):
        world = next((value[key] for key in _WORLD if key in value), None)
        value = next((value[key] for key in _KEYS if key in value), None)
    if isinstance(value, dict):  # The older solutions: {"landmark": [...]}.
        value = value.get("landmark")
    if not isinstance(value, list) or not value:
        return []
    several = value if isinstance(value[0], list) and not _is_row(value[0]) else [value]
    if isinstance(value[0], dict) and "landmark" in value[0]:
        several = [each.get("landmark") for each in value if isinstance(each, dict)]
    worlds = world if isinstance(world, list) and len(world) == len(several) else [None]
    worlds = worlds if len(worlds) == len(several) else [None] * len(several)
    return [(number, _points(each), worlds[number]) for number, each in enumerate(several)]


def _is_row(value: list[Any]) -> bool:
    return bool(value) and all(to_number(each) is not None for each in value)


def _points(landmarks: Any) -> Any:
    """x, y, visibility of each landmark; as it is if it is something else."""
    if not isinstance(landmarks, list):
        return landmarks
    if all(isinstance(each, dict) for each in landmarks):
        return [[each.get("x"), each.get("y"), each.get("visibility", 1.0)] for each in landmarks]
    if all(isinstance(each, list) and len(each) >= 4 for each in landmarks):
        return [[each[0], each[1], each[3]] for each in landmarks]
    if all(isinstance(each, list) and len(each) == 3 for each in landmarks):
        return [[each[0], each[1], 1.0] for each in landmarks]  # The third is a depth.
    return landmarks
