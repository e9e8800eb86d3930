"""AI Challenger's own file: a list of photos with people by name.

``human_annotations`` are x1, y1, x2, y2; of ``keypoint_annotations`` the third number is 1 for
visible, 2 for hidden and 3 for not labelled, other than COCO's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from eft_fast.data.json_stream import JsonFile
from eft_fast.data.photos import natural_key
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import read_points, shown, to_key
from eft_fast.plausible import to_box
from eft_fast.sample import Sample

_NUM_JOINTS: Final = 14
_HIDDEN, _UNLABELLED = 2.0, 3.0


def is_aic(peek: Peek) -> bool:
    """Whether it is a list of photos with ``keypoint_annotations``."""
    return {"image_id", "keypoint_annotations"} <= peek.json_first().keys()


def samples_of_aic(reading: Reading) -> Iterator[Sample]:
    """The people, photo by photo in the order of the file."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    order = reading.order("aic14").name
    with JsonFile(reading.path, reading.who) as file:
        for element in file:
            entry = element.value
            people = entry.get("keypoint_annotations") if isinstance(entry, dict) else None
            if not isinstance(people, dict):
                reading.left_out["not objects"] += element.place >= 0
                continue
            boxes = entry.get("human_annotations")
            for name in sorted(people, key=natural_key):
                box = boxes.get(name) if isinstance(boxes, dict) else None
                yield _found(reading, order, to_key(entry.get("image_id")), name, people[name], box)


def _found(
    reading: Reading, order: str, image: str | None, name: str, values: Any, box: Any
) -> Found:
    sample_id = f"{image}/{name}"
    label, fault = f"person {shown(sample_id)}", None
    points = np.zeros((_NUM_JOINTS, 3))
    try:
        points = read_points(values, (_NUM_JOINTS,), label, reading.who)
    except ValueError as error:
        fault = str(error)
    flags = points[:, 2].copy()
    is_there = (flags > 0.0) & (flags != _UNLABELLED)
    points = np.where(is_there[:, None], np.column_stack([points[:, :2], is_there]), 0.0)
    corners = to_box(box)
    if corners is not None:
        box = np.concatenate([corners[:2], corners[2:] - corners[:2]])
    extra = {"image_id": image, "hidden": flags == _HIDDEN}
    return Found(Person(sample_id, label, points, order, box, fault, (), extra), image, None,
                 has_stem=True)  # fmt: skip
