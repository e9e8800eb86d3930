"""MPII Human Pose in its three forms: the release's .mat, the .json of HRNet and mmpose, an .h5.

All three count pixels from 1, as MATLAB does; samples count from 0. A joint that stands at -1, -1
or 0, 0 is not labelled; a hidden one is labelled, and is marked in ``extra["hidden"]``. The crop is
the dataset's own: ``bbox_center`` and ``bbox_scale`` as shipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from eft_fast.conventions import BOX_MARGIN, BOX_UNIT
from eft_fast.data.json_stream import JsonFile
from eft_fast.data.readers.matlab import (
    fields_of,
    items_of,
    load_mat,
    number_of,
    open_hdf5,
    text_of,
)
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import shown, to_number
from eft_fast.keypoints import JointSet
from eft_fast.sample import Sample

_SET: Final = "mpii16"
_NUM_JOINTS: Final = 16


def is_mpii_mat(peek: Peek) -> bool:
    """Whether it is the release's file."""
    return peek.is_mat and "RELEASE" in peek.arrays


def is_mpii_json(peek: Peek) -> bool:
    """Whether it is a list of people with joints and their visibility."""
    return {"image", "center", "scale"} <= peek.json_first().keys() and isinstance(peek.json, list)


def is_mpii_h5(peek: Peek) -> bool:
    """Whether it holds parts of people with centre and scale."""
    return peek.is_hdf5 and {"part", "center", "scale", "imgname"} <= peek.arrays.keys()


def samples_of_mpii(reading: Reading) -> Iterator[Sample]:
    """The samples of whichever form it is."""
    peek = Peek(reading.path)
    order = reading.order(_SET)
    if peek.is_hdf5:
        people = _of_h5(reading, order)
    elif peek.json is not None:
        people = _of_json(reading, order)
    else:
        people = _of_mat(reading, order)
    yield from reading.samples(people)


def _of_mat(reading: Reading, order: JointSet) -> Iterator[Found]:
    release = fields_of(load_mat(reading.path, reading.who).get("RELEASE"))
    if "annolist" not in release:
        raise ValueError(f"{reading.who}: {reading.path} must have RELEASE.annolist, got none")
    is_train = np.asarray(release.get("img_train", [])).reshape(-1)
    for number, entry in enumerate(items_of(release["annolist"])):
        image = fields_of(entry)
        name = text_of(fields_of(image.get("image")).get("name"))
        split = None
        if number < len(is_train):
            split = "train" if is_train[number] == 1 else "test"
        for place, rect in enumerate(items_of(image.get("annorect"))):
            fields = fields_of(rect)
            points = items_of(fields_of(fields.get("annopoints")).get("point"))
            if not points:
                # Test images, and people of whom only the place is known.
                reading.left_out["without keypoints"] += 1
                continue
            joints, hidden, fault = _read_mat_points(points)
            head = [number_of(fields.get(side)) for side in ("x1", "y1", "x2", "y2")]
            extra: dict[str, Any] = {"annolist": number, "annorect": place, "hidden": hidden}
            if split is not None:
                extra["split"] = split
            if None not in head:
                extra["head_xyxy"] = np.array(head, dtype=np.float64) - 1.0
            position = fields_of(fields.get("objpos"))
            center = [number_of(position.get(axis)) for axis in ("x", "y")]
            yield _found(
                reading, order, f"{number}/{place}", name, joints, fault,
                center, number_of(fields.get("scale")), extra,
            )  # fmt: skip


def _read_mat_points(points: list[Any]) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Joints [16, 3], which of them are hidden, and what is wrong with them."""
    joints, hidden, fault = np.zeros((_NUM_JOINTS, 3)), np.zeros(_NUM_JOINTS, bool), None
    for point in points:
        fields = fields_of(point)
        place, x, y = (number_of(fields.get(name)) for name in ("id", "x", "y"))
        if place is None or x is None or y is None or place not in range(_NUM_JOINTS):
            fault = "must have points with x, y and an id of 0 to 15, got others"
            continue
        joints[int(place)] = x, y, 1.0
        # Numbers, text, or nothing, depending on the person.
        hidden[int(place)] = number_of(fields.get("is_visible")) == 0.0
    return joints, hidden, fault


def _of_json(reading: Reading, order: JointSet) -> Iterator[Found]:
    with JsonFile(reading.path, reading.who) as file:
        for number, element in enumerate(file):
            entry = element.value
            if not isinstance(entry, dict):
                reading.left_out["not objects"] += element.place >= 0
                continue
            if "joints" not in entry:
                reading.left_out["without keypoints"] += 1
                continue
            fault, joints = None, np.zeros((_NUM_JOINTS, 3))
            try:
                joints[:, :2] = _rows(entry["joints"], (_NUM_JOINTS, 2))
                visible = _rows(entry.get("joints_vis", [1] * _NUM_JOINTS), (_NUM_JOINTS,))
                joints[:, 2] = visible > 0.0
            except ValueError as error:
                cause = shown(str(error), 200)
                fault = f"must have 16 joints x, y and joints_vis, got others ({cause})"
            name, center = entry.get("image"), entry.get("center")
            center = center if isinstance(center, list) and len(center) == 2 else [None, None]
            yield _found(
                reading, order, str(number), name if isinstance(name, str) and name else None,
                joints, fault, [to_number(value) for value in center],
                to_number(entry.get("scale")), {},
            )  # fmt: skip


def _of_h5(reading: Reading, order: JointSet) -> Iterator[Found]:
    with open_hdf5(reading.path, reading.who) as file:
        keys = {name.lower(): name for name in file}
        part = file[keys["part"]]
        if part.ndim != 3 or part.shape[1:] != (_NUM_JOINTS, 2):
            raise ValueError(
                f"{reading.who}: part of {reading.path} must be [N, 16, 2], got {list(part.shape)}"
            )
        names, centers, scales = (file[keys[name]] for name in ("imgname", "center", "scale"))
        visible = file[keys["visible"]] if "visible" in keys else None
        others = [name for name in ("index", "person", "normalize", "torsoangle") if name in keys]
        for number in range(len(part)):
            joints = np.concatenate([part[number], np.ones((_NUM_JOINTS, 1))], axis=1)
            extra = {name: file[keys[name]][number].item() for name in others}
            if visible is not None:
                extra["hidden"] = np.asarray(visible[number]).reshape(-1) == 0
            scale = number_of(scales[number])
            center = [number_of(value) for value in centers[number]]
            name = _to_name(names[number])
            yield _found(reading, order, str(number), name, joints, None, center, scale, extra)


def _to_name(value: Any) -> str | None:
    """A file name that is text, bytes, or the codes of its characters as some files have it."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
    else:
        text = bytes(int(code) for code in np.asarray(value).reshape(-1) if 0 < code < 256).decode(
            "latin-1"
        )
    return text.strip(" \0") or None


def _rows(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("they are not numbers") from None
    if array.shape != shape:
        raise ValueError(f"they have the shape {list(array.shape)}")
    return array


def _found(
    reading: Reading,
    order: JointSet,
    sample_id: str,
    photo: str | None,
    joints: np.ndarray,
    fault: str | None,
    center: list[float | None],
    scale: float | None,
    extra: Mapping[str, Any],
) -> Found:
    """The person, with pixels counted from 0."""
    label = f"person {shown(sample_id)}"
    xy = joints[:, :2]
    is_missing = ((xy == -1.0).all(axis=1)) | ((xy == 0.0).all(axis=1))
    points = np.where((is_missing | (joints[:, 2] <= 0.0))[:, None], 0.0, joints - [1.0, 1.0, 0.0])
    if "hidden" in extra:
        extra = {**extra, "hidden": np.asarray(extra["hidden"]) & (points[:, 2] > 0.0)}
    box, fields = None, {}
    if scale is not None and scale > 0.0 and None not in center:
        middle = np.array(center, dtype=np.float64) - 1.0
        side = scale * BOX_UNIT / BOX_MARGIN
        box = np.concatenate([middle - side / 2.0, [side, side]])
        fields = {"bbox_center": middle, "bbox_scale": scale}
    fault = fault and f"{reading.who}: {label} {fault}"
    person = Person(sample_id, label, points, order.name, box, fault, (), dict(extra))
    return Found(person, photo, fields=fields)
