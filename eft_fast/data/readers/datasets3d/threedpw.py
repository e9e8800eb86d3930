"""3DPW: one pickle per sequence, SMPL in world coordinates, a moving camera.

``sequenceFiles/<split>/<sequence>.pkl`` (Python 2) has per person ``poses`` [F, 72], ``trans``
[F, 3], ``betas``, ``genders``, ``jointPositions`` [F, 72] (24 joints, world), ``poses2d``
[F, 3, 18] (OpenPose's 18: x, y, confidence in rows) and ``campose_valid`` [F]; for all
``cam_poses`` [F, 4, 4] (world to camera) and ``cam_intrinsics`` [3, 3]. Photos are
``imageFiles/<sequence>/image_00000.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.datasets3d.solid import (
    find_person,
    people_of_files,
    to_gender,
    turn_root,
    turn_transl,
    with_confidence,
)
from eft_fast.pickles.arrays import load_plain

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

_NEEDED = ("sequence", "poses", "trans", "betas", "jointPositions", "poses2d", "cam_poses")


def samples_of_3dpw(reading: Reading, *, split: str | None = None) -> Iterator[Sample]:
    """Read a sequence, a folder of them, or the dataset's root.

    2D keypoints are OpenPose's detections (``op18``), points in space SMPL's 24 joints
    (``keypoint_set_3d``). Pose and translation are turned into the camera frame; the pelvis at
    rest, about which SMPL turns, is ``jointPositions[0] - trans``, so no body model is needed.
    Frames whose camera pose is not valid are left out and counted.

    Args:
        reading: What is asked for.
        split: ``train``, ``validation`` or ``test`` of the root; None: all that are there.
    """
    files = _list_files(reading.path, split, reading.who)
    people = people_of_files(reading, files, lambda file: _people(file, reading))
    yield from reading.samples(people)


def _list_files(path: Path, split: str | None, who: str) -> list[Path]:
    if path.is_file():
        return [path]
    root = path / "sequenceFiles" if (path / "sequenceFiles").is_dir() else path
    root = root / split if split is not None else root
    files = sorted(root.rglob("*.pkl"), key=lambda file: natural_key(file.as_posix()))
    if not files:
        raise FileNotFoundError(f"{who}: no sequence (.pkl) in {root}")
    return files


def _people(file: Path, reading: Reading) -> Iterator[Found]:
    sequence = load_plain(file, reading.who)
    missing = [name for name in _NEEDED if not isinstance(sequence, dict) or name not in sequence]
    if missing:
        raise ValueError(f"{reading.who}: {file} must hold {', '.join(missing)}")
    camera = np.asarray(sequence["cam_poses"], np.float64)
    pinhole = np.asarray(sequence.get("cam_intrinsics", np.full((3, 3), np.nan)), np.float64)
    name = str(sequence["sequence"])
    for person in range(len(sequence["poses"])):
        yield from _frames(sequence, person, name, camera, pinhole, reading)


def _frames(
    sequence: dict[str, Any],
    person: int,
    name: str,
    camera: np.ndarray,
    pinhole: np.ndarray,
    reading: Reading,
) -> Iterator[Found]:
    pose = np.asarray(sequence["poses"][person], np.float64).reshape(-1, 24, 3)
    transl = np.asarray(sequence["trans"][person], np.float64)
    joints = np.asarray(sequence["jointPositions"][person], np.float64).reshape(-1, 24, 3)
    points = np.asarray(sequence["poses2d"][person], np.float64)
    frames = min(len(pose), len(camera), len(transl), len(joints), len(points))
    valid = np.ones(frames, bool)
    if "campose_valid" in sequence:
        valid = np.asarray(sequence["campose_valid"][person]).astype(bool)[:frames]
    rotation, shift = camera[:frames, :3, :3], camera[:frames, :3, 3]
    pelvis = joints[:frames, 0] - transl[:frames]
    root = turn_root(rotation, pose[:frames, 0])
    placed = turn_transl(rotation, shift, transl[:frames], pelvis)
    solid = np.einsum("fij,fkj->fki", rotation, joints[:frames]) + shift[:, None]
    betas = np.asarray(sequence["betas"][person], np.float64).reshape(-1)[:10]
    genders = sequence.get("genders", [])
    gender = to_gender(genders[person]) if person < len(genders) else "neutral"
    reading.left_out["camera pose not valid"] += int((~valid).sum())
    for frame in np.flatnonzero(valid).tolist():
        yield find_person(
            f"{name}_{person}_{frame:05d}",
            points[frame].T,
            "op18",
            photo=f"imageFiles/{name}/image_{frame:05d}.jpg",
            keypoints_3d=with_confidence(solid[frame]),
            keypoint_set_3d="smpl24",
            K=pinhole if np.isfinite(pinhole).all() else None,
            cam_transl=placed[frame],
            full_pose=np.concatenate([root[frame, None], pose[frame, 1:]]),
            betas=betas,
            gender=gender,
            subject_id=f"{name}_{person}",
            track_id=f"{name}_{person}",
            frame=frame,
        )
