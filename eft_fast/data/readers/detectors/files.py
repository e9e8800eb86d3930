"""What readers of detectors share: a file per photo, arrays of points, fractions of the photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.person import Person, Photo
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import shown
from eft_fast.keypoints import JointSet, to_body_set
from eft_fast.keypoints import joint_set as find_joint_set

_T = TypeVar("_T")

#: Orders of detectors that name none, by the number of keypoints.
BY_COUNT: Final = {
    17: "coco17",
    23: "coco23",
    25: "op25",
    26: "halpe26",
    33: "mp33",
    133: "wholebody133",
    136: "halpe136",
}


def list_files(reading: Reading, *endings: str) -> list[Path]:
    """The file that is read, or those of the folder with one of these endings, in steady order.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the folder has none.
    """
    path = reading.path
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{reading.who}: no file or folder {path}")
    files = [file for file in path.iterdir() if file.is_file() and file.name.endswith(endings)]
    if not files:
        raise ValueError(
            f"{reading.who}: expected files *{' or *'.join(endings)}, got none in {path}"
        )
    return sorted(files, key=lambda file: natural_key(file.name))


def read_each(
    reading: Reading, endings: tuple[str, ...], read: Callable[[Path], _T]
) -> Iterator[tuple[Path, _T]]:
    """Read the file, or each file of the folder; of a folder, one that is unreadable is counted.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the one file cannot be read, or the folder has none.
    """
    for file in list_files(reading, *endings):
        try:
            found = read(file)
        except ValueError as error:
            if reading.path.is_file():
                raise
            reading.left_out["unreadable files"] += 1
            reading.notes.append(str(error))
            continue
        yield file, found


def order_of(reading: Reading, count: int) -> JointSet:
    """The joint set of so many keypoints: the user's, else the usual one.

    Raises:
        ValueError: If no set is usual, or the user's has another number of joints.
    """
    if reading.asked is not None:
        if len(reading.asked) != count:
            raise ValueError(
                f"has {count} keypoints, while {reading.asked.name} has {len(reading.asked)}"
            )
        return reading.asked
    if count not in BY_COUNT:
        raise ValueError(
            f"has {count} keypoints, whose order is not known; name the joint set (--joint-set)"
        )
    return find_joint_set(BY_COUNT[count])


def make_found(
    reading: Reading,
    sample_id: str,
    points: Any,
    scores: Any,
    photo: str | Photo | None,
    *,
    box: Any = None,
    size: tuple[int, int] | None = None,
    order: JointSet | None = None,
    has_stem: bool = False,
    fields: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> Found:
    """A person of arrays; what is wrong with them becomes the person's fault.

    Args:
        reading: What is read.
        sample_id: Unique in the file.
        points: x, y of each keypoint, in pixels, and perhaps more numbers behind them.
        scores: Confidence of each; None: the third number of ``points``, else 1.
        photo: As in ``Found``.
        box: x, y, w, h.
        size: Width and height of the photo.
        order: Joint set, or None: by the number of keypoints.
        has_stem: As in ``Found``.
        fields: As in ``Found``.
        extra: As in ``Person``.
    """
    label, fault = f"person {shown(sample_id)}", None
    name, keypoints = "coco17", np.zeros((17, 3))
    kept = dict(extra or {})
    try:
        given = to_rows(points, scores)
        found = order_of(reading, len(given)) if order is None else order
        if len(found) != len(given):
            raise ValueError(f"has {len(given)} keypoints, while {found.name} has {len(found)}")
        body = to_body_set(found)
        keypoints, name = given[: len(body)], body.name
        if len(body) < len(given):
            kept["unused_keypoints_px"] = given[len(body) :]
            note = (
                f"{reading.who}: {len(given) - len(body)} of {len(given)} keypoints (face and "
                "hands) have no place on the body, and are not used"
            )
            reading.notes += [] if note in reading.notes else [note]
    except ValueError as error:
        fault = f"{reading.who}: {label} {error}"
    person = Person(sample_id, label, keypoints, name, box, fault, (), kept)
    return Found(person, photo, size, has_stem=has_stem, fields=fields or {})


def to_rows(points: Any, scores: Any) -> np.ndarray:
    """Points and scores as [K, 3]; ValueError with the end of a sentence if they are none."""
    try:
        xy = np.array(points, dtype=np.float64)
        marks = None if scores is None else np.array(scores, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must have lists of numbers as keypoints, got others") from None
    if xy.ndim != 2 or xy.shape[1] < 2 or not len(xy):
        raise ValueError(f"must have keypoints of x and y, got the shape {list(xy.shape)}")
    if marks is None:
        marks = xy[:, 2] if xy.shape[1] > 2 else np.ones(len(xy))
    if len(marks) != len(xy):
        raise ValueError(f"must have a score for each of {len(xy)} keypoints, got {len(marks)}")
    return np.column_stack([xy[:, :2], marks])


def box_of_corners(corners: Any) -> Any:
    """x, y, w, h of a box x1, y1, x2, y2, perhaps in a list of one and with a score behind it."""
    try:
        values = np.array(corners, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        return corners
    if len(values) not in (4, 5):
        return corners
    return np.concatenate([values[:2], values[2:4] - values[:2]])


def in_pixels(found: Found, reading: Reading) -> Found:
    """The person, from fractions of the photo (0 the left or upper border, 1 the other) to pixels.

    A pixel's centre is an integer: the fraction f of a width w is ``f w - 0.5``.
    """
    photo = found.photo
    if not isinstance(photo, Photo):
        photo = reading.find_photo(photo or "", found.size, has_stem=found.has_stem)
    size = found.size or photo.size
    person = found.person
    if size is None:
        fault = person.fault or photo.problem
        fault = fault or (
            f"{reading.who}: {person.label} is in fractions of a photo whose size is not known; "
            "give the photos"
        )
        return replace(found, photo=photo, person=replace(person, fault=fault))
    scale = np.array([*size, 1.0])
    labelled = person.keypoints[:, 2:] > 0.0
    box = person.box
    with np.errstate(over="ignore", invalid="ignore"):  # the checks of the person tell of them
        points = np.where(labelled, person.keypoints * scale - [0.5, 0.5, 0.0], person.keypoints)
        if isinstance(box, np.ndarray) and box.shape == (4,):
            box = box * np.array([*size, *size]) - [0.5, 0.5, 0.0, 0.0]
    return replace(found, photo=photo, person=replace(person, keypoints=points, box=box))
