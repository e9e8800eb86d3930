"""BVH: a tree of joints with offsets, then one row of channels a frame.

In the rest pose (all angles zero) a joint stands at its offset from its parent. Angles are degrees;
the matrices of a joint's rotation channels multiply in the order in which the file lists them. The
position channels of the root are its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from eft_fast.data.motion.skeleton import (
    MOST_JOINTS,
    Skeleton,
    SkeletonMotion,
    euler_to_matrix,
    finite,
    read_text,
)

_WHO: Final = "read_bvh"
_CHANNELS: Final = {
    f"{axis}{kind}": (axis, kind) for axis in "xyz" for kind in ("rotation", "position")
}
_MOTION: Final = re.compile(r"^\s*MOTION\s*$", re.MULTILINE | re.IGNORECASE)
_HEAD: Final = re.compile(r"\s*Frames\s*:\s*(\S+)\s+Frame\s+Time\s*:\s*(\S+)", re.IGNORECASE)
_Fail = Callable[[str, int], ValueError]


@dataclass
class _Joint:
    name: str
    parent: int
    offset: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    channels: list[tuple[str, str]] = field(default_factory=list)
    ends: list[list[float]] = field(default_factory=list)


def read_bvh(path: str | Path) -> SkeletonMotion:
    """Read a motion.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no BVH file, or its frames do not hold the numbers that it declares.
    """
    path = Path(path)
    text = read_text(path, _WHO)
    where = f"{_WHO}: {path.name}"
    motion = _MOTION.search(text)
    joints = _read_hierarchy((text[: motion.start()] if motion else text).split(), where)
    if motion is None:
        raise ValueError(f"{where}: expected MOTION behind the joints, got the end of the file")
    width = sum(len(joint.channels) for joint in joints)
    values, frame_rate, notes = _read_motion(text[motion.end() :], width, where)

    offsets = np.array([joint.offset for joint in joints])
    offsets[0] = 0.0
    skeleton = Skeleton(
        names=tuple(joint.name for joint in joints),
        parents=np.array([joint.parent for joint in joints], dtype=np.int64),
        offsets=offsets,
        bones=np.array([np.mean(joint.ends or [[0.0] * 3], axis=0) for joint in joints]),
    )
    rotations = np.broadcast_to(np.eye(3), (len(values), len(joints), 3, 3)).copy()
    root_position = np.broadcast_to(joints[0].offset, (len(values), 3)).astype(np.float64)
    column = 0
    for index, joint in enumerate(joints):
        own = values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [n for n, (_, kind) in enumerate(joint.channels) if kind == "rotation"]
        letters = "".join(joint.channels[n][0] for n in turns)
        rotations[:, index] = euler_to_matrix(np.radians(own[:, turns]), letters, intrinsic=True)
        moves = [n for n, (_, kind) in enumerate(joint.channels) if kind == "position"]
        if index == 0:
            for n in moves:
                root_position[:, "xyz".index(joint.channels[n][0])] = own[:, n]
        elif moves and np.ptp(own[:, moves], axis=0).max() > 1e-3 * (
            1 + np.abs(joint.offset).max()
        ):
            notes.append(f"{joint.name[:40]} also moves; only its turns are read")
    return SkeletonMotion(skeleton, rotations, root_position, frame_rate, tuple(notes))


def _read_hierarchy(words: list[str], where: str) -> list[_Joint]:
    """Joints in the order of the file."""

    def fail(expected: str, index: int) -> ValueError:
        got = repr(words[index][:40]) if index < len(words) else "the end of the file"
        return ValueError(f"{where}: expected {expected}, got {got}")

    if not words or words[0].upper() != "HIERARCHY":
        raise fail("HIERARCHY; is it a BVH file?", 0)
    joints: list[_Joint] = []
    open_joints: list[int | None] = []  # None: an end site
    index = 1
    while True:
        word = words[index].upper() if index < len(words) else ""
        if word in ("ROOT", "JOINT", "END"):
            brace = index + 1
            while brace < len(words) and words[brace] != "{":
                brace += 1
            if brace >= len(words) or (word == "ROOT") == bool(joints):
                raise fail("one ROOT, and { behind each name", min(brace, index))
            parent = open_joints[-1] if open_joints else -1
            if parent is None or (parent < 0 and word != "ROOT"):
                raise fail("joints inside of the root and not in an end site", index)
            if word == "END":
                open_joints.append(None)
            else:
                joints.append(_Joint(" ".join(words[index + 1 : brace])[:200], parent))
                open_joints.append(len(joints) - 1)
            if len(joints) > MOST_JOINTS:
                raise ValueError(f"{where}: expected at most {MOST_JOINTS} joints")
            index = brace + 1
        elif word == "OFFSET" and open_joints:
            offset = finite(words[index + 1 : index + 4], f"{where}: OFFSET")
            if len(offset) != 3:
                raise fail("3 numbers of OFFSET", index + 1)
            owner = open_joints[-1]
            if owner is not None:
                joints[owner].offset = offset
                above = joints[owner].parent
            else:
                above = next((j for j in reversed(open_joints) if j is not None), -1)
            if above >= 0:
                joints[above].ends.append(offset)
            index += 4
        elif word == "CHANNELS" and open_joints and open_joints[-1] is not None:
            index = _read_channels(words, index, joints[open_joints[-1]], fail)
        elif word == "}" and open_joints:
            open_joints.pop()
            index += 1
        elif index == len(words) and joints and not open_joints:
            return joints
        else:
            raise fail("a joint, OFFSET, CHANNELS or }", index)


def _read_channels(words: list[str], index: int, joint: _Joint, fail: _Fail) -> int:
    """Fill in the channels of a joint; return the index of the word behind them."""
    count = words[index + 1] if index + 1 < len(words) else ""
    if not re.fullmatch("[0-6]", count):
        raise fail("the count of CHANNELS, at most 6", index + 1)
    names = [word.lower() for word in words[index + 2 : index + 2 + int(count)]]
    if len(set(names)) != int(count) or not set(names) <= set(_CHANNELS):
        raise fail(f"{count} channels such as Xrotation", index + 2)
    joint.channels = [_CHANNELS[name] for name in names]
    return index + 2 + int(count)


def _read_motion(text: str, width: int, where: str) -> tuple[np.ndarray, float, list[str]]:
    """[F, width] numbers, frames per second, and notes."""
    head = _HEAD.match(text)
    if head is None:
        raise ValueError(f"{where}: expected Frames: and Frame Time: behind MOTION")
    count, seconds = finite(list(head.groups()), f"{where}: Frames and Frame Time")
    if not 1e-4 <= seconds <= 10:
        raise ValueError(f"{where}: expected a Frame Time of seconds, got {head[2][:20]}")
    try:
        rows = [
            np.array(line.split(), dtype=np.float64) for line in text[head.end() :].splitlines()
        ]
    except ValueError as error:
        raise ValueError(f"{where}: expected numbers in the frames ({error})") from None
    numbers = np.concatenate(rows) if rows else np.zeros(0)
    if width == 0 or len(numbers) < width:
        raise ValueError(f"{where}: expected rows of {width} numbers, got {len(numbers)} in all")
    frames, rest = divmod(len(numbers), width)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{where}: expected finite numbers in the frames")
    notes = []
    if frames != count or rest:
        notes.append(f"{count:.0f} frames of {width} numbers declared, {frames} whole ones there")
    return numbers[: frames * width].reshape(frames, width), 1.0 / seconds, notes
