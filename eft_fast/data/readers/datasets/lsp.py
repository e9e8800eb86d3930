"""Leeds Sports Pose and its extended set: ``joints.mat`` and numbered photos.

LSP's ``joints`` is [3, 14, N], whose third row tells who is hidden; LSPET's is [14, 3, N], whose
third column tells who is visible. Both count: hidden joints are labelled too, as SPIN and EFT take
them, and are marked in ``extra["hidden"]``. A joint at 0, 0 is not labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from eft_fast.data.readers.matlab import load_mat
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.sample import Sample

_NUM_JOINTS: Final = 14
#: The first thousand of LSP are for training.
_NUM_TRAIN: Final = 1000


def is_lsp(peek: Peek) -> bool:
    """Whether it is a ``joints.mat``, or the folder that has one."""
    if peek.is_folder:
        child = peek.child("joints.mat")
        return child is not None and is_lsp(child)
    shape = peek.arrays.get("joints") if peek.is_mat else None
    return shape is not None and shape[:2] in ((3, _NUM_JOINTS), (_NUM_JOINTS, 3))


def samples_of_lsp(reading: Reading) -> Iterator[Sample]:
    """The people, in the order of the photos."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    path = reading.path / "joints.mat" if reading.path.is_dir() else reading.path
    order = reading.order("lsp14")
    joints = np.asarray(load_mat(path, reading.who).get("joints", []))
    if joints.ndim == 2:  # One person, squeezed.
        joints = joints[..., None]
    shape = list(joints.shape)
    if len(shape) != 3 or shape[:2] not in ([3, _NUM_JOINTS], [_NUM_JOINTS, 3]):
        raise ValueError(
            f"{reading.who}: joints of {path} must be [3, 14, N] (LSP) or [14, 3, N] (LSPET), got "
            f"{shape}"
        )
    is_extended = shape[0] == _NUM_JOINTS
    reading.format = "lspet" if is_extended else "lsp"
    people = np.moveaxis(joints, 2, 0) if is_extended else np.transpose(joints, (2, 1, 0))
    for number, person in enumerate(people.astype(np.float64), start=1):
        is_there = np.isfinite(person[:, :2]).all(axis=1) & (person[:, :2] != 0.0).any(axis=1)
        points = np.column_stack([person[:, :2], is_there.astype(np.float64)])
        flag = person[:, 2] != 0.0
        hidden = (~flag if is_extended else flag) & is_there
        stem = f"im{number:05d}" if is_extended else f"im{number:04d}"
        split = "train" if is_extended or number <= _NUM_TRAIN else "test"
        label = f"person {stem}"
        extra = {"hidden": hidden, "split": split}
        one = Person(stem, label, points, order.name, extra=extra)
        yield Found(one, stem, has_stem=True)
