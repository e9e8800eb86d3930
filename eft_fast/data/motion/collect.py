"""Motion files of a folder or a list -> one pool of poses for rendering."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from eft_fast.data.formats.motion_npz import MotionPoses
from eft_fast.data.motion.amass import read_amass
from eft_fast.data.motion.asf_amc import CMU_RATE, read_amc
from eft_fast.data.motion.bvh import read_bvh
from eft_fast.data.motion.retarget import Motion, retarget

SUFFIXES: Final = (".amc", ".bvh", ".npz")
#: A joint other than the root that turns further than this is a fault of the capture, degrees.
MOST_DEGREES: Final = 150.0
#: Shares of the frames that are held out where ``split`` is "auto".
TEST_SHARE, VAL_SHARE = 0.15, 0.05
SplitChoice = Literal["auto", "train", "test", "val"]


@dataclass
class Collected:
    """What came out of the files.

    Attributes:
        motion: The poses; None where no file gave any.
        failed: A sentence for each file that was left out, in order.
        notes: Notes by file.
        dropped: Frames left out for a joint beyond ``MOST_DEGREES``.
    """

    motion: MotionPoses | None = None
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: int = 0


def read_motion(
    path: str | Path,
    rest_joints: Float[np.ndarray, "24 3"],
    *,
    asf: str | Path | None = None,
    amc_rate: float = CMU_RATE,
    joints: Mapping[str, str] | None = None,
) -> Motion:
    """Read an AMC (with its ASF), a BVH or an npz of AMASS as SMPL poses.

    Args:
        path: The file; its ending says what it is.
        rest_joints: SMPL's joints in the rest pose, metres.
        asf: Skeleton of an AMC; None: the one beside it.
        amc_rate: Frames per second of an AMC, which states none.
        joints: Names of ``smpl24`` to names of the file, where they are not known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as what its ending says.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".npz":
        return read_amass(path, rest_joints)
    if kind == ".bvh":
        return retarget(read_bvh(path), rest_joints, joints)
    if kind == ".amc":
        return retarget(read_amc(path, asf, frame_rate=amc_rate), rest_joints, joints)
    if path.name.lower().endswith("_mmm.xml"):
        raise ValueError(
            f"read_motion: KIT's MMM files are not read, got {path.name}; take the KIT part of "
            "AMASS, which holds the same recordings"
        )
    raise ValueError(f"read_motion: expected a file of {', '.join(SUFFIXES)}, got {path.name}")


def find_motion_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and those of folders by their ending, in a steady order; not AMASS's shapes."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inner = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
            files += sorted(each for each in inner if each.name != "shape.npz" and each.is_file())
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def subject_of(path: Path) -> str:
    """Who moves in a file, by its name: ``02`` of 02_01.amc, else the folder as AMASS has it."""
    name = re.fullmatch(r"(.+?)_\d+", path.stem)
    if name and path.suffix.lower() != ".npz":
        return name[1]
    parent = path.resolve().parent
    return f"{parent.parent.name}/{parent.name}" if path.suffix.lower() == ".npz" else parent.name


def collect_motion(
    files: Sequence[Path],
    rest_joints: Float[np.ndarray, "24 3"],
    *,
    rate: float = 10.0,
    split: SplitChoice = "auto",
    asf: Path | None = None,
    amc_rate: float = CMU_RATE,
    joints: Mapping[str, str] | None = None,
) -> Collected:
    """Read files, thin them out, and hold some subjects out for tests.

    A file that cannot be read is left out with its sentence and changes no other. Frames are
    picked at ``rate`` a second, never blended. Frames with a joint beyond ``MOST_DEGREES`` are left
    out, and so is a first frame in the rest pose, which many BVH files open with. No subject is in
    two splits.

    Args:
        files: Motion files.
        rest_joints: SMPL's joints in the rest pose, metres.
        rate: Frames per second to keep at most.
        split: Where the recordings go; "auto": 15 % of the frames to test and 5 % to val, by
            subject (a hash of the name decides); a single subject goes to test, two to test and
            train.
        asf: See ``read_motion``.
        amc_rate: See ``read_motion``.
        joints: See ``read_motion``.
    """
    result = Collected()
    poses: list[np.ndarray] = []
    names: list[str] = []
    subjects: list[str] = []
    rates: list[float] = []
    for file in files:
        try:
            motion = read_motion(file, rest_joints, asf=asf, amc_rate=amc_rate, joints=joints)
            pose, dropped, step = _thin(motion, rate)
            if not len(pose):
                raise ValueError("read_motion: no frame is left")
        except (ValueError, OSError) as error:
            result.failed[str(file)] = " ".join(str(error).split())
            continue
        if motion.notes:
            result.notes[str(file)] = motion.notes
        result.dropped += dropped
        poses.append(pose)
        subjects.append(subject_of(file))
        names.append(f"{subjects[-1]}/{file.stem}")
        rates.append(motion.frame_rate / step)
    if poses:
        counts = np.array([len(pose) for pose in poses])
        result.motion = MotionPoses(
            pose=np.concatenate(poses).reshape(-1, 72),
            recording=np.repeat(np.arange(len(poses)), counts),
            names=tuple(names),
            subjects=tuple(subjects),
            splits=_split(subjects, counts, split),
            frame_rate=np.array(rates),
        )
    return result


def _thin(motion: Motion, rate: float) -> tuple[np.ndarray, int, int]:
    """Poses at about ``rate`` a second, how many were faulty, and each how many-th was taken."""
    step = max(1, round(motion.frame_rate / rate))
    pose = motion.full_pose[::step]
    if len(pose) > 1 and np.abs(pose[0, 1:]).max() < 1e-3 < np.abs(pose[1, 1:]).max():
        pose = pose[1:]
    turned = np.degrees(np.linalg.norm(pose[:, 1:], axis=-1)).max(axis=1)
    keep = turned <= MOST_DEGREES
    return pose[keep], int((~keep).sum()), step


def _split(subjects: Sequence[str], counts: np.ndarray, choice: SplitChoice) -> tuple[str, ...]:
    """The split of each recording, the same for all of a subject."""
    if choice != "auto":
        return (choice,) * len(subjects)
    frames: dict[str, int] = {}
    for subject, count in zip(subjects, counts.tolist(), strict=True):
        frames[subject] = frames.get(subject, 0) + count
    order = sorted(frames, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest())
    wanted = [("test", TEST_SHARE * counts.sum()), ("val", VAL_SHARE * counts.sum())]
    chosen: dict[str, str] = {}
    for split, least in wanted[: 1 if len(order) < 3 else 2]:
        held = 0
        # One subject at least stays for each split that is still to come.
        spare = len(order) - len(chosen) - (2 if split == "test" and len(order) > 2 else 1)
        for name in [each for each in order if each not in chosen][: max(1, spare)]:
            if held < least or not held:
                chosen[name] = split
                held += frames[name]
    return tuple(chosen.get(subject, "train") for subject in subjects)
