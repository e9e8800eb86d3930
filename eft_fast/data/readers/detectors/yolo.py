"""YOLO pose: a text file per photo, of labels or of ultralytics' ``save_txt``; and its ``tojson``.

A line is ``class cx cy w h`` and x, y and visibility or confidence of each keypoint, all in
fractions of the photo; behind them may stand the confidence of the box and the number of the track.
Fractions become pixels by the size of the photo, which has the name of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.readers.detectors.files import (
    BY_COUNT,
    box_of_corners,
    in_pixels,
    list_files,
    make_found,
    read_each,
)
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import load_json, shown, to_number, to_whole
from eft_fast.sample import Sample

#: Numbers in front of the keypoints, and at most behind them.
_FRONT, _BEHIND = 5, 2
_NO_PERSON: Final = "not people"


def is_yolo(peek: Peek) -> bool:
    """Whether it is a file of such lines, or the folder of them (``labels``)."""
    if peek.is_folder:
        child = peek.child("labels") if not peek.has("*.txt") else None
        if child is not None and child.is_folder:
            return is_yolo(child)
        files = [Peek(peek.path / name) for name in peek.names if name.endswith(".txt")]
        return any(is_yolo(file) for file in files[:50])
    if peek.suffix != ".txt":
        return False
    lines = peek.head.decode("ascii", "replace").splitlines()
    words = lines[0].split() if lines else []
    return len(words) > _FRONT + 8 and all(_number(word) is not None for word in words)


def is_ultralytics(peek: Peek) -> bool:
    """Whether it is what ``Results.tojson`` gives, or the folder of one per photo."""
    if peek.is_folder:
        child = peek.child("*.json")
        return child is not None and is_ultralytics(child)
    first = peek.json_first()
    return isinstance(first.get("keypoints"), dict) and isinstance(first.get("box"), dict)


def samples_of_yolo(reading: Reading) -> Iterator[Sample]:
    """The people of text files, file by file."""
    yield from reading.samples(in_pixels(found, reading) for found in _lines(reading))


def samples_of_ultralytics(reading: Reading) -> Iterator[Sample]:
    """The people of ``tojson``, file by file."""
    yield from reading.samples(_entries(reading))


def _lines(reading: Reading) -> Iterator[Found]:
    folder = reading.path / "labels"
    reading.path = folder if folder.is_dir() else reading.path
    for file in list_files(reading, ".txt"):
        text = file.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines()):
            if words := line.split():
                found = _of_line(reading, file, number, words)
                if found is not None:
                    yield found


def _of_line(reading: Reading, file: Path, number: int, words: list[str]) -> Found | None:
    sample_id = f"{file.stem}/{number}"
    values = [_number(word) for word in words]
    label = f"person {shown(sample_id)}"
    if None in values:
        fault = f"{reading.who}: {label} must be numbers, got {shown(' '.join(words), 40)}"
        return Found(Person(sample_id, label, np.zeros((17, 3)), "coco17", fault=fault), file.stem,
                     has_stem=True)  # fmt: skip
    numbers = np.array(values, dtype=np.float64)
    if numbers[0] != 0.0:
        reading.left_out[_NO_PERSON] += 1
        return None
    if len(numbers) <= _FRONT + _BEHIND:
        reading.left_out["without keypoints"] += 1
        return None
    count, width = _layout(reading, len(numbers) - _FRONT)
    points = numbers[_FRONT : _FRONT + count * width].reshape(count, width)
    if width == 2:  # A keypoint at 0, 0 is not there.
        points = np.column_stack([points, (points != 0.0).any(axis=1)])
    rest = numbers[_FRONT + count * width :]
    box = np.concatenate([numbers[1:3] - numbers[3:5] / 2.0, numbers[3:5]])
    extra: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    if len(rest) and not rest[-1].is_integer():
        extra["score"] = float(rest[-1])
    elif len(rest):
        fields["track_id"] = str(int(rest[-1]))
        extra |= {"score": float(rest[0])} if len(rest) > 1 else {}
    return make_found(
        reading, sample_id, points, None, file.stem, box=box, has_stem=True, fields=fields,
        extra=extra,
    )  # fmt: skip


def _layout(reading: Reading, length: int) -> tuple[int, int]:
    """Number of keypoints and numbers of each, of so many numbers behind the box."""
    counts = [len(reading.asked)] if reading.asked is not None else [*BY_COUNT]
    for width in (3, 2):
        for count in counts:
            if 0 <= length - count * width <= _BEHIND:
                return count, width
    return length // 3, 3


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _entries(reading: Reading) -> Iterator[Found]:
    def read(file: Path) -> list[Any]:
        document = load_json(file, reading.who)
        if not isinstance(document, list):
            raise ValueError(f"{reading.who}: {file} must hold a list of detections")
        return document

    for file, document in read_each(reading, (".json",), read):
        for number, entry in enumerate(document):
            if not isinstance(entry, dict):
                reading.left_out["not objects"] += 1
            elif entry.get("name", "person") != "person":
                reading.left_out[_NO_PERSON] += 1
            elif not isinstance(entry.get("keypoints"), dict):
                reading.left_out["without keypoints"] += 1
            else:
                yield _of_entry(reading, file.stem, number, entry)


def _of_entry(reading: Reading, stem: str, number: int, entry: dict[str, Any]) -> Found:
    points, box = entry["keypoints"], entry.get("box")
    box = [box.get(side) for side in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else None
    x, y = points.get("x"), points.get("y")
    is_pair = isinstance(x, list) and isinstance(y, list) and len(x) == len(y)
    found = make_found(
        reading, f"{stem}/{number}",
        [list(pair) for pair in zip(x, y, strict=True)] if is_pair else None,
        points.get("visible"), stem, has_stem=True,
        box=None if box is None or None in box else box_of_corners(box),
        extra={} if to_number(entry.get("confidence")) is None else {"score": entry["confidence"]},
        fields={} if to_whole(entry.get("track_id")) is None
        else {"track_id": str(to_whole(entry["track_id"]))},
    )  # fmt: skip
    # tojson(normalize=True) gives fractions.
    keypoints = found.person.keypoints
    known = keypoints[keypoints[:, 2] > 0.0, :2]
    is_normalised = len(known) > 1 and np.isfinite(known).all() and np.abs(known).max() <= 1.0
    return in_pixels(found, reading) if is_normalised else found
