"""Acclaim's ASF (skeleton) and AMC (motion): the files of the CMU motion capture database.

A bone starts where its parent ends. Its own axes C are given in the rest pose, and what the AMC
says turns it about them: L = C M C^-1, where M is made of ``rx``, ``ry``, ``rz`` about fixed axes,
in the order of the skeleton. In the rest pose every bone points in its ``direction``. (Acclaim's
file format as CMU documents it with its database.)
"""

from __future__ import annotations

import re
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

#: CMU's rate; AMC files do not state theirs.
CMU_RATE: Final = 120.0
_WHO: Final = "read_amc"


@dataclass
class _Bone:
    name: str
    direction: np.ndarray = field(default_factory=lambda: np.zeros(3))
    length: float = 0.0
    axis: np.ndarray = field(default_factory=lambda: np.zeros(3))
    axis_order: str = "xyz"
    dof: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class AsfSkeleton:
    """A skeleton file.

    Attributes:
        skeleton: The bones; bone 0 is the root.
        axes: [J, 3, 3] own axes C of each bone.
        channels: What an AMC line of each bone holds, in lower case: tx ty tz rx ry rz l.
        is_in_degrees: Unit of the angles.
    """

    skeleton: Skeleton
    axes: np.ndarray
    channels: tuple[tuple[str, ...], ...]
    is_in_degrees: bool


def read_asf(path: str | Path) -> AsfSkeleton:
    """Read a skeleton.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no ASF file, a bone is given twice, or bones hang together in a circle.
    """
    path = Path(path)
    sections = _split_sections(read_text(path, "read_asf"))
    where = f"read_asf: {path.name}"
    if "bonedata" not in sections or "hierarchy" not in sections:
        raise ValueError(
            f"{where}: expected an ASF with :bonedata and :hierarchy; is it another file?"
        )
    is_in_degrees = True
    for words in sections.get("units", []):
        if words[0] == "angle" and len(words) > 1:
            is_in_degrees = words[1].lower() != "rad"
    bones = {"root": _read_root(sections.get("root", []), where)}
    for bone in _read_bones(sections["bonedata"], where):
        if bone.name in bones:
            raise ValueError(f"{where}: bone {bone.name[:40]!r} is given twice")
        bones[bone.name] = bone
    if len(bones) > MOST_JOINTS:
        raise ValueError(f"{where}: expected at most {MOST_JOINTS} bones, got {len(bones)}")
    order, parents = _read_hierarchy(sections["hierarchy"], bones, where)

    def to_axes(bone: _Bone) -> np.ndarray:
        angles = np.radians(bone.axis) if is_in_degrees else bone.axis
        matrix: np.ndarray = euler_to_matrix(angles[None], bone.axis_order, intrinsic=False)[0]
        return matrix

    ends = np.array([bones[name].direction * bones[name].length for name in order])
    parent_index = np.array([order.index(p) if p else -1 for p in parents], dtype=np.int64)
    offsets = np.where(parent_index[:, None] >= 0, ends[parent_index], 0.0)
    skeleton = Skeleton(tuple(order), parent_index, offsets, ends)
    axes = np.stack([to_axes(bones[name]) for name in order])
    return AsfSkeleton(skeleton, axes, tuple(bones[name].dof for name in order), is_in_degrees)


def _split_sections(text: str) -> dict[str, list[list[str]]]:
    """Lines of each section, split into words; a keyword may have its first words beside it."""
    sections: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith(":"):
            keyword, *rest = line[1:].split() or [""]
            current = sections.setdefault(keyword.lower(), [])
            if rest:
                current.append(rest)
        elif line:
            current.append(line.split())
    return sections


def _read_root(lines: list[list[str]], where: str) -> _Bone:
    root = _Bone("root", dof=("tx", "ty", "tz", "rx", "ry", "rz"))
    for words in lines:
        key = words[0].lower()
        if key == "order":
            root.dof = _channels(words[1:], f"{where}: order of the root")
        elif key == "axis":
            root.axis_order = _axes(words[1:], where)
        elif key == "orientation":
            root.axis = _three(words[1:], f"{where}: orientation of the root")
    return root


def _read_bones(lines: list[list[str]], where: str) -> list[_Bone]:
    bones: list[_Bone] = []
    bone: _Bone | None = None
    for words in lines:
        key = words[0].lower()
        if key == "begin":
            bone = _Bone("")
        elif bone is None:
            raise ValueError(f"{where}: expected begin in :bonedata, got {' '.join(words)[:40]!r}")
        elif key == "end":
            if not bone.name:
                raise ValueError(f"{where}: a bone has no name")
            bones.append(bone)
            bone = None
        elif key == "name":
            bone.name = " ".join(words[1:])
        elif key == "direction":
            bone.direction = _three(words[1:], f"{where}: direction of {bone.name[:40]!r}")
        elif key == "length":
            bone.length = finite(words[1:2] or [""], f"{where}: length of {bone.name[:40]!r}")[0]
        elif key == "axis":
            bone.axis = _three(words[1:4], f"{where}: axis of {bone.name[:40]!r}")
            bone.axis_order = _axes(words[4:5] or ["xyz"], where)
        elif key == "dof":
            bone.dof = _channels(words[1:], f"{where}: dof of {bone.name[:40]!r}")
    return bones


def _channels(words: list[str], where: str) -> tuple[str, ...]:
    names = tuple(word.lower() for word in words)
    if not set(names) <= {"tx", "ty", "tz", "rx", "ry", "rz", "l"} or len(set(names)) != len(names):
        raise ValueError(f"{where}: expected of tx ty tz rx ry rz l, got {' '.join(words)[:40]!r}")
    return names


def _axes(words: list[str], where: str) -> str:
    letters = "".join(words).lower()
    if sorted(letters) != ["x", "y", "z"]:
        raise ValueError(f"{where}: expected an axis order such as XYZ, got {letters[:20]!r}")
    return letters


def _three(words: list[str], where: str) -> np.ndarray:
    values = finite(words, where)
    if len(values) != 3:
        raise ValueError(f"{where}: expected 3 numbers, got {len(values)}")
    return np.array(values)


def _read_hierarchy(
    lines: list[list[str]], bones: dict[str, _Bone], where: str
) -> tuple[list[str], list[str]]:
    """Bones with every parent before its children, and the parent of each ("" of the root)."""
    parent_of: dict[str, str] = {}
    children: dict[str, list[str]] = {}
    for parent, *names in lines:
        if parent.lower() in ("begin", "end"):
            continue
        for name in (parent, *names):
            if name not in bones:
                raise ValueError(f"{where}: :hierarchy names {name[:40]!r}, which :bonedata lacks")
        for name in names:
            if name in parent_of or name == "root":
                raise ValueError(f"{where}: bone {name[:40]!r} has two parents")
            parent_of[name] = parent
            children.setdefault(parent, []).append(name)
    order, waiting = [], ["root"]
    while waiting:
        name = waiting.pop(0)
        order.append(name)
        waiting += children.get(name, [])
    lost = set(parent_of) - set(order)
    if lost:
        raise ValueError(f"{where}: {sorted(lost)[0][:40]!r} does not hang on the root")
    return order, [parent_of.get(name, "") for name in order]


def find_asf(path: Path) -> Path:
    """The skeleton of a motion file: ``07.asf`` beside ``07_01.amc``, or the folder's only one.

    Raises:
        ValueError: If there is none, or several and none of that name.
    """
    subject = re.sub(r"_\d+$", "", path.stem)
    for name in (f"{path.stem}.asf", f"{subject}.asf"):
        if (path.parent / name).is_file():
            return path.parent / name
    found = sorted(each for each in path.parent.iterdir() if each.suffix.lower() == ".asf")
    if len(found) != 1:
        raise ValueError(
            f"{_WHO}: expected the skeleton {subject}.asf beside {path.name}, got "
            f"{len(found) or 'no'} .asf files there; name it with asf"
        )
    return found[0]


def read_amc(
    path: str | Path, asf: str | Path | None = None, *, frame_rate: float = CMU_RATE
) -> SkeletonMotion:
    """Read a motion.

    Args:
        path: The AMC file.
        asf: Its skeleton; None: see ``find_asf``.
        frame_rate: Frames per second, which the file does not state; some subjects of CMU have 60.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no AMC file, a line has the wrong count of numbers, or a frame lacks a
            bone that the frames before have.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{_WHO}: no file {path}")
    source = read_asf(asf if asf is not None else find_asf(path))
    values, is_in_degrees = _read_frames(path, source)
    skeleton = source.skeleton
    count = len(values[0])
    rotations = np.broadcast_to(np.eye(3), (count, len(skeleton.names), 3, 3)).copy()
    root_position = np.zeros((count, 3))
    notes = []
    for joint, channels in enumerate(source.channels):
        turns = [column for column, name in enumerate(channels) if name[0] == "r"]
        angles = values[joint][:, turns]
        letters = "".join(channels[column][1] for column in turns)
        own = euler_to_matrix(
            np.radians(angles) if is_in_degrees else angles, letters, intrinsic=False
        )
        axes = source.axes[joint]
        rotations[:, joint] = axes @ own @ axes.T
        for column, name in enumerate(channels):
            if name[0] == "t" and joint == 0:
                root_position[:, "xyz".index(name[1])] = values[joint][:, column]
            elif name[0] in "tl" and np.ptp(values[joint][:, column]) > 0:
                notes.append(f"{skeleton.names[joint]} also moves; only its turns are read")
    return SkeletonMotion(skeleton, rotations, root_position, frame_rate, tuple(notes))


def _read_frames(path: Path, source: AsfSkeleton) -> tuple[list[np.ndarray], bool]:
    """[F, channels] of each bone, and whether angles are in degrees."""
    where = f"{_WHO}: {path.name}"
    index = {name: joint for joint, name in enumerate(source.skeleton.names)}
    is_in_degrees = source.is_in_degrees
    frames: list[dict[int, list[float]]] = []
    for number, line in enumerate(read_text(path, _WHO).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            is_in_degrees = {":degrees": True, ":radians": False}.get(
                words[0].lower(), is_in_degrees
            )
        elif len(words) == 1 and words[0].isascii() and words[0].isdigit():
            frames.append({})
        else:
            joint = index.get(words[0])
            if joint is None:
                raise ValueError(
                    f"{where} line {number}: the skeleton has no bone {words[0][:40]!r}; "
                    "is it the skeleton of another subject?"
                )
            row = finite(words[1:], f"{where} line {number}")
            if len(row) != len(source.channels[joint]) or not frames:
                raise ValueError(
                    f"{where} line {number}: expected {len(source.channels[joint])} numbers of "
                    f"{words[0][:40]} in a numbered frame, got {len(row)}"
                )
            frames[-1][joint] = row
    if not frames:
        raise ValueError(f"{where}: expected numbered frames, got none; is it an AMC file?")
    moved = set(frames[0])
    for number, frame in enumerate(frames, 1):
        if set(frame) != moved:
            name = source.skeleton.names[min(set(frame) ^ moved)]
            raise ValueError(f"{where}: frame {number} does not hold the same bones ({name[:40]})")
    zeros = [[0.0] * len(channels) for channels in source.channels]
    values = [
        np.array([frame.get(joint, zeros[joint]) for frame in frames], dtype=np.float64).reshape(
            len(frames), len(zeros[joint])
        )
        for joint in range(len(zeros))
    ]
    return values, is_in_degrees
