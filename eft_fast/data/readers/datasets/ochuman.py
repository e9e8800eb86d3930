"""OCHuman's own file: photos with their people, and the names of the keypoints.

Boxes are x1, y1, x2, y2. Of the keypoints the third number is 0 for missing, 1 for visible, 2 for
hidden by the person and 3 for hidden by somebody else. People without keypoints have null there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from eft_fast.data.joint_names import NamedOrder, find_order
from eft_fast.data.json_stream import JsonFile
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import read_points, shown, to_key, to_whole
from eft_fast.plausible import to_box
from eft_fast.sample import Sample

_SET: Final = "ochuman19"


def is_ochuman(peek: Peek) -> bool:
    """Whether its images hold their annotations."""
    return isinstance(peek.json_first("images").get("annotations"), list)


def samples_of_ochuman(reading: Reading) -> Iterator[Sample]:
    """The people, photo by photo in the order of the file."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    with JsonFile(reading.path, reading.who) as file:
        names = [e.value for e in file if e.key == "keypoint_names" and e.value != []]
        order = _order(reading, names)
        for element in file:
            if element.key != "images" or element.place < 0:
                continue
            image = element.value
            people = image.get("annotations") if isinstance(image, dict) else None
            if not isinstance(people, list):
                reading.left_out["not objects"] += 1
                continue
            for number, entry in enumerate(people):
                if not isinstance(entry, dict):
                    reading.left_out["not objects"] += 1
                elif not entry.get("keypoints"):
                    reading.left_out["without keypoints"] += 1
                else:
                    yield _found(reading, order, image, number, entry)


def _order(reading: Reading, names: list[Any]) -> NamedOrder:
    """The order that the file names, or OCHuman's; the user's before both."""
    if not names or reading.asked is not None:
        order = reading.order(_SET)
        return NamedOrder(order.name, tuple(range(len(order))))
    try:
        order_of_names = find_order(names)
    except ValueError as error:
        raise ValueError(f"{reading.who}: {reading.path}: {error}") from None
    if order_of_names.is_reordered:
        reading.notes.append(
            f"{reading.who}: the keypoints stand in another order than those of "
            f"{order_of_names.joint_set}, and were reordered by their names"
        )
    return order_of_names


def _found(
    reading: Reading, order: NamedOrder, image: dict[str, Any], number: int, entry: dict[str, Any]
) -> Found:
    key = to_key(image.get("image_id")) or to_key(image.get("id"))
    sample_id = f"{key}/{number}"
    label, fault = f"person {shown(sample_id)}", None
    points = np.zeros((len(order.places), 3))
    try:
        points = read_points(entry["keypoints"], (len(order.places),), label, reading.who)
    except ValueError as error:
        fault = str(error)
    flags = points[:, 2].copy()
    points[:, 2] = flags > 0.0
    box = entry.get("bbox")
    corners = to_box(box)
    if corners is not None:
        box = np.concatenate([corners[:2], corners[2:] - corners[:2]])
    extra = {
        "image_id": image.get("image_id"),
        "max_iou": entry.get("max_iou"),
        "hidden": order.apply(np.column_stack([points[:, :2], flags >= 2.0]))[:, 2] > 0.0,
    }
    person = Person(sample_id, label, order.apply(points), order.joint_set, box, fault, (), extra)
    name = image.get("file_name")
    width, height = to_whole(image.get("width")), to_whole(image.get("height"))
    size = (width, height) if width and height else None
    return Found(person, name if isinstance(name, str) and name else None, size)
