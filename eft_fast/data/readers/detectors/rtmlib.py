"""rtmlib and DWPose: the arrays ``keypoints`` and ``scores`` of a photo's people, and ``bodies``.

rtmlib gives ``keypoints`` [people, K, 2] in pixels and ``scores`` [people, K]: of one photo in a
file of its name, as ``.npz`` or JSON, or many by their names. K tells the joint set: 17 COCO, 26
Halpe, 133 WholeBody. An ``.npy`` is [people, K, 3] with the scores in it. DWPose gives ``bodies``
(``candidate`` and ``subset``, OpenPose's 18) in fractions of the photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.data.photos import natural_key
from eft_fast.data.readers.detectors.files import BY_COUNT, in_pixels, make_found, read_each
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import load_json, shown
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.sample import Sample

_ENDINGS: Final = (".json", ".npz", ".npy")
_SCORES: Final = ("scores", "keypoint_scores")
_NUM_BODY: Final = 18


def is_rtmlib(peek: Peek) -> bool:
    """Whether it is such a file, or the folder of them."""
    if peek.is_folder:
        child = peek.child("*.json", "*.npz", "*.npy")
        return child is not None and is_rtmlib(child)
    if peek.suffix == ".npy":
        shape = peek.npy_shape
        return len(shape) in (2, 3) and shape[-2] in BY_COUNT and shape[-1] == 3
    if "keypoints" in peek.arrays and any(name in peek.arrays for name in _SCORES):
        return True
    document = peek.json
    if not isinstance(document, dict):
        return False
    values = list(document.values())[:1]
    return _is_result(document) or any(_is_result(value) for value in values)


def is_dwpose(peek: Peek) -> bool:
    """Whether it is DWPose's ``bodies``, or the folder of one per photo."""
    if peek.is_folder:
        child = peek.child("*.json")
        return child is not None and is_dwpose(child)
    bodies = peek.json.get("bodies") if isinstance(peek.json, dict) else None
    return isinstance(bodies, dict) and "candidate" in bodies


def _is_result(value: Any) -> bool:
    if not isinstance(value, dict) or "keypoints" not in value:
        return False
    return any(name in value for name in _SCORES) and "bbox" not in value


def samples_of_rtmlib(reading: Reading) -> Iterator[Sample]:
    """The people, photo by photo."""
    yield from reading.samples(_people(reading))


def samples_of_dwpose(reading: Reading) -> Iterator[Sample]:
    """The people, photo by photo."""
    yield from reading.samples(in_pixels(found, reading) for found in _bodies(reading))


def _is_many(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _people(reading: Reading) -> Iterator[Found]:
    for _, results in read_each(reading, _ENDINGS, lambda f: _of_file(f, reading)):
        for name, points, scores in results:
            people = list(points) if _is_many(points) else [points]
            marks = list(scores) if _is_many(scores) else [scores]
            if len(people) in BY_COUNT and all(_is_point(each) for each in people):
                people, marks = [points], [scores]  # One person, without the axis of people.
            if scores is None or len(marks) != len(people):
                marks = [None if scores is None else []] * len(people)
            for number, each in enumerate(people):
                yield make_found(
                    reading, f"{name}/{number}", each, marks[number], name,
                    has_stem=not Path(name).suffix,
                )  # fmt: skip


def _is_point(value: Any) -> bool:
    """Whether it is a row of numbers, rather than a list of them."""
    return _is_many(value) and all(isinstance(each, (int, float, np.number)) for each in value)


def _of_file(file: Path, reading: Reading) -> list[tuple[str, Any, Any]]:
    """Photo, points and scores of its people, of each photo."""
    if file.suffix in (".npy", ".npz"):
        try:
            loaded = np.load(file, allow_pickle=False)
            if file.suffix == ".npy":
                points = loaded[None] if loaded.ndim == 2 else loaded
                return [(file.stem, points, None)]
            with loaded:
                scores = next((loaded[name] for name in _SCORES if name in loaded), None)
                return [(file.stem, loaded["keypoints"], scores)]
        except NUMPY_ERRORS as error:
            raise ValueError(f"{reading.who}: {file} cannot be read ({error})") from None
    document = load_json(file, reading.who)
    if not isinstance(document, dict):
        raise ValueError(f"{reading.who}: {file} must hold an object with keypoints and scores")
    photos = {file.stem: document} if _is_result(document) else document
    results = []
    for name in sorted(photos, key=natural_key):
        result = photos[name]
        if not _is_result(result):
            reading.left_out["not objects"] += 1
            continue
        scores = next(result[key] for key in _SCORES if key in result)
        results.append((name, result["keypoints"], scores))
    return results


def _bodies(reading: Reading) -> Iterator[Found]:
    order = find_joint_set("op18") if reading.asked is None else reading.asked
    for file, points in read_each(reading, (".json",), lambda f: _read_bodies(f, reading.who)):
        for number, each in enumerate(points):
            name = f"{file.stem}/{number}"
            yield make_found(reading, name, each, None, file.stem, order=order, has_stem=True)


def _read_bodies(file: Path, who: str) -> np.ndarray:
    """Points [people, 18, 3]: ``subset`` holds the rows of ``candidate``, -1 for none."""
    document = load_json(file, who)
    document = document if isinstance(document, dict) else {}
    bodies = document.get("bodies")
    bodies = bodies if isinstance(bodies, dict) else {}
    try:
        candidate = np.array(bodies["candidate"], dtype=np.float64).reshape(-1, _NUM_BODY, 2)
        subset = np.array(bodies["subset"], dtype=np.float64).reshape(-1, _NUM_BODY)
        given = document.get("scores", bodies.get("score"))
        scores = subset if given is None else np.array(given, dtype=np.float64)[:, :_NUM_BODY]
        if not len(candidate) == len(subset) == len(scores):
            raise ValueError("they are not equally many")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{who}: {file} must have bodies with candidate [people * 18, 2] and subset "
            f"[people, 18] ({shown(str(error), 200)})"
        ) from None
    marks = np.ones_like(scores) if given is None else scores
    return np.concatenate([candidate, np.where(subset >= 0.0, marks, 0.0)[..., None]], axis=-1)
