"""JHMDB: ``joint_positions/<action>/<clip>/joint_positions.mat``, ``Rename_Images/.../00001.png``.

``pos_img`` is [2, 15, frames] and counts pixels from 1; samples count from 0. There are no boxes:
a person gets that of the keypoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.matlab import load_mat
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import shown
from eft_fast.sample import Sample

_FILE: Final = "joint_positions.mat"
_NUM_JOINTS: Final = 15


def is_jhmdb(peek: Peek) -> bool:
    """Whether it is a clip's file, or a folder that has such files below."""
    if peek.is_folder:
        return peek.has(_FILE) or peek.has("joint_positions") or _has_clip_below(peek)
    return peek.is_mat and "pos_img" in peek.arrays


def _has_clip_below(peek: Peek, depth: int = 2) -> bool:
    """Whether the first folder has a clip, or the first in it."""
    for name in peek.names:
        child = Peek(peek.path / name)
        if child.is_folder:
            return child.has(_FILE) or (depth > 1 and _has_clip_below(child, depth - 1))
    return False


def samples_of_jhmdb(reading: Reading) -> Iterator[Sample]:
    """The person of each frame, clip by clip."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    order = reading.order("jhmdb15").name
    root = reading.path
    files = [root]
    if root.is_dir():
        files = sorted(root.rglob(_FILE), key=lambda file: natural_key(file.as_posix()))
    if not files:
        raise ValueError(f"{reading.who}: expected files {_FILE}, got none in {root}")
    for file in files:
        try:
            yield from _of_clip(reading, order, file)
        except ValueError as error:
            reading.left_out["unreadable clips"] += 1
            reading.notes.append(str(error))


def _of_clip(reading: Reading, order: str, file: Path) -> Iterator[Found]:
    found = load_mat(file, reading.who)
    joints = np.asarray(found.get("pos_img"))
    joints = joints[..., None] if joints.ndim == 2 else joints  # One frame, squeezed.
    if joints.ndim != 3 or joints.shape[:2] != (2, _NUM_JOINTS) or joints.dtype.kind not in "fiu":
        raise ValueError(
            f"{reading.who}: pos_img of {file} must be [2, 15, frames], got {list(joints.shape)}"
        )
    clip, action = file.parent.name, file.parent.parent.name
    extra: dict[str, Any] = {"action": action}
    if isinstance(found.get("viewpoint"), str):
        extra["viewpoint"] = found["viewpoint"]
    for frame in range(joints.shape[2]):
        points = np.column_stack([joints[:, :, frame].T - 1.0, np.ones(_NUM_JOINTS)])
        name = f"{clip}/{frame + 1:05d}"
        person = Person(name, f"person {shown(name)}", points, order, extra=dict(extra))
        fields = {"track_id": clip, "subject_id": clip, "frame": frame + 1}
        photo = f"Rename_Images/{action}/{name}.png"
        yield Found(person, photo, fields=fields)
