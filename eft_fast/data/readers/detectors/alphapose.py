"""AlphaPose in the forms of other programs; its own list of people is read as COCO results are.

``--format cmu`` and ``--format open`` write 18 keypoints in OpenPose's order: ``bodies`` with
``joints``, or ``people`` with ``pose_keypoints_2d``; all photos in one file by their names, or one
file per photo (``sep-json``). Scores of AlphaPose may be above 1, and then count as 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.detectors.files import read_each
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import load_json, read_points, shown
from eft_fast.sample import Sample

_SET: Final = "op18"


def is_alphapose(peek: Peek) -> bool:
    """Whether it is such a file, or the folder of one per photo."""
    if peek.is_folder:
        child = peek.child("sep-json")
        if child is not None and child.is_folder:
            return is_alphapose(child)
        child = peek.child("*.json")
        return child is not None and is_alphapose(child)
    if not isinstance(peek.json, dict):
        return False
    return _is_photo(peek.json) or any(_is_photo(value) for value in peek.json.values())


def _is_photo(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("version", "")).startswith("AlphaPose")


def samples_of_alphapose(reading: Reading) -> Iterator[Sample]:
    """The people, photo by photo in the order of the names."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    order = reading.order(_SET)
    folder = reading.path / "sep-json"
    reading.path = folder if folder.is_dir() else reading.path

    def read(file: Path) -> dict[str, Any]:
        document = load_json(file, reading.who)
        if not isinstance(document, dict):
            raise ValueError(f"{reading.who}: {file} must hold an object of photos")
        return document

    for file, document in read_each(reading, (".json",), read):
        photos = {file.stem: document} if _is_photo(document) else document
        for name in sorted(photos, key=natural_key):
            yield from _of_photo(reading, order.name, name, photos[name])


def _of_photo(reading: Reading, order: str, name: str, photo: Any) -> Iterator[Found]:
    fields = photo if isinstance(photo, dict) else {}
    people = fields.get("bodies", fields.get("people"))
    if not isinstance(people, list):
        reading.left_out["not objects"] += 1
        return
    for number, entry in enumerate(people):
        sample_id = f"{name}/{number}"
        label, fault, points = f"person {shown(sample_id)}", None, np.zeros((18, 3))
        values = (
            entry.get("joints", entry.get("pose_keypoints_2d")) if isinstance(entry, dict) else 0
        )
        try:
            points = read_points(values, (18,), label, reading.who)
        except ValueError as error:
            fault = str(error)
        person = Person(sample_id, label, points, order, fault=fault)
        yield Found(person, name, has_stem=not Path(name).suffix)
