"""MPI-INF-3DHP: ``S1/Seq1/annot.mat`` of the training set, ``TS1/annot_data.mat`` of the test set.

Training: ``annot2`` [14 cells][F, 56] px and ``annot3`` [F, 84] mm in the camera frame, 28 joints
per camera; ``camera.calibration`` has seven lines per camera, ``intrinsic`` among them. Test
(HDF5): ``annot2`` [F, 1, 17, 2], ``annot3`` mm, ``univ_annot3`` (a skeleton of one size, on which
the test is measured), ``valid_frame``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.datasets3d.solid import (
    MM,
    find_person,
    fit_pinhole,
    people_of_files,
    with_confidence,
)
from eft_fast.data.readers.matlab import open_hdf5, read_mat

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

#: Cameras at the height of a chest, and frames apart, that SPIN trains on.
CAMERAS: Final = (0, 1, 2, 4, 5, 6, 7, 8)
EVERY: Final = 10
_TRAIN_SIZE: Final = (2048, 2048)
#: Two sequences of the test set were filmed in another format.
_TEST_SIZES: Final = {"TS5": (1920, 1080), "TS6": (1920, 1080)}


def samples_of_mpi_inf_3dhp(
    reading: Reading,
    *,
    cameras: Collection[int] = CAMERAS,
    every: int | None = None,
    inside: bool = True,
) -> Iterator[Sample]:
    """Read the root of the training or of the test set, or one of their files.

    Frames of the test set that are not valid are left out, and people who are not whole in the
    picture, as the protocols of both sets ask. ``extra["univ_annot3_m"]`` is the skeleton of one
    size. Photos: ``S1/Seq1/imageFrames/video_0/frame_000001.jpg`` (as SPIN's scripts write them)
    and ``TS1/imageSequence/img_000001.jpg``.

    Args:
        reading: What is asked for.
        cameras: Cameras of the training set.
        every: Only each n-th frame is read; None: ten of the training set, all of the test set.
        inside: Whether people who reach beyond the picture are left out.
    """

    def read(file: Path) -> Iterator[Found]:
        if file.name == "annot.mat":
            return _of_training(file, reading, cameras, every or EVERY)
        return _of_test(file, reading, every or 1)

    people = people_of_files(reading, _list_files(reading.path, reading.who), read)
    yield from reading.samples(_inside_only(people, reading) if inside else people)


def _list_files(path: Path, who: str) -> list[Path]:
    if path.is_file():
        return [path]
    found = [*path.rglob("annot.mat"), *path.rglob("annot_data.mat")]
    if not found:
        raise FileNotFoundError(f"{who}: no annot.mat or annot_data.mat in {path}")
    return sorted(found, key=lambda file: natural_key(file.as_posix()))


def _inside_only(people: Iterator[Found], reading: Reading) -> Iterator[Found]:
    for found in people:
        assert found.size is not None
        points = found.person.keypoints
        if ((points[:, :2] >= 0) & (points[:, :2] < found.size)).all():
            yield found
        else:
            reading.left_out["joints outside of the photo"] += 1


def _of_training(
    file: Path, reading: Reading, cameras: Collection[int], every: int
) -> Iterator[Found]:
    content = read_mat(file, reading.who)
    missing = [name for name in ("annot2", "annot3") if name not in content]
    if missing:
        raise ValueError(f"{reading.who}: {file} must hold {', '.join(missing)}")
    flat, solid = (
        [np.asarray(cell) for cell in content[name].reshape(-1)] for name in ("annot2", "annot3")
    )
    universal = content.get("univ_annot3")
    pinholes = _read_pinholes(file.parent / "camera.calibration")
    where = "/".join(file.parts[-3:-1])
    for camera in sorted(set(cameras)):
        if camera >= min(len(flat), len(solid)):
            continue
        seen = flat[camera].reshape(-1, 28, 2).astype(np.float64)
        placed = solid[camera].reshape(-1, 28, 3).astype(np.float64) / MM
        same = None if universal is None else np.asarray(universal.reshape(-1)[camera], np.float64)
        pinhole = pinholes.get(camera, fit_pinhole(placed.reshape(-1, 3), seen.reshape(-1, 2)))
        for frame in range(0, min(len(seen), len(placed)), every):
            yield find_person(
                f"{where.replace('/', '_')}_{camera}_{frame + 1:06d}",
                with_confidence(seen[frame]),
                "mpiinf28",
                photo=f"{where}/imageFrames/video_{camera}/frame_{frame + 1:06d}.jpg",
                size=_TRAIN_SIZE,
                keypoints_3d=with_confidence(placed[frame]),
                K=pinhole,
                subject_id=where.split("/")[0],
                track_id=f"{where}_{camera}",
                frame=frame,
                extra={} if same is None else {"univ_annot3_m": same[frame].reshape(28, 3) / MM},
            )


def _read_pinholes(path: Path) -> dict[int, np.ndarray]:
    """Pinholes by camera; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pinholes: dict[int, np.ndarray] = {}
    name = -1
    for line in lines:
        words = line.split()
        if words[:1] == ["name"] and len(words) == 2 and re.fullmatch("[0-9]+", words[1]):
            name = int(words[1])
        elif words[:1] == ["intrinsic"] and len(words) == 17:
            pinholes[name] = np.array(words[1:], np.float64).reshape(4, 4)[:3, :3]
    return pinholes


def _of_test(file: Path, reading: Reading, every: int) -> Iterator[Found]:
    with open_hdf5(file, reading.who) as archive:
        missing = [name for name in ("annot2", "annot3") if name not in archive]
        if missing:
            raise ValueError(f"{reading.who}: {file} must hold {', '.join(missing)}")
        flat = np.asarray(archive["annot2"], np.float64).reshape(-1, 17, 2)
        solid = np.asarray(archive["annot3"], np.float64).reshape(-1, 17, 3) / MM
        valid, universal = np.ones(len(flat), bool), None
        if "valid_frame" in archive:
            valid = np.asarray(archive["valid_frame"]).reshape(-1).astype(bool)
        if "univ_annot3" in archive:
            universal = np.asarray(archive["univ_annot3"], np.float64).reshape(-1, 17, 3) / MM
    name = file.parent.name
    pinhole = fit_pinhole(solid[valid].reshape(-1, 3), flat[valid].reshape(-1, 2))
    reading.left_out["frame not valid"] += int((~valid).sum())
    for frame in np.flatnonzero(valid)[::every].tolist():
        extra = {} if universal is None else {"univ_annot3_m": universal[frame]}
        yield find_person(
            f"{name}_{frame + 1:06d}",
            with_confidence(flat[frame]),
            "mpiinf17test",
            photo=f"{name}/imageSequence/img_{frame + 1:06d}.jpg",
            size=_TEST_SIZES.get(name, _TRAIN_SIZE),
            keypoints_3d=with_confidence(solid[frame]),
            K=pinhole,
            subject_id=name,
            track_id=name,
            frame=frame,
            extra=extra,
        )
