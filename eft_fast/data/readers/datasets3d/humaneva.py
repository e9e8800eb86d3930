"""HumanEva-I in VideoPose3D's files: ``data_3d_humaneva15.npz``, ``data_2d_humaneva15_*.npz``.

``positions_3d``[subject][action] is [F, 15, 3] in metres in the world, ``positions_2d`` alike a
list of [F, 15, 2] per camera. The cameras are not in the files: they stand still, so each is solved
from its own points (DLT), which also gives its pinhole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.data.formats.npz import read_members
from eft_fast.data.readers.datasets3d.solid import find_person, people_of_files, with_confidence
from eft_fast.keypoints import JOINT_SETS

if TYPE_CHECKING:
    from jaxtyping import Float

    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

#: The 15 joints in their order: thorax and head stand for J24's, the rest are the same joints.
NAMES: Final = (
    "pelvis", "thorax", "lsho", "lelb", "lwri", "rsho", "relb", "rwri", "lhip", "lkne", "lank",
    "rhip", "rkne", "rank", "head",
)  # fmt: skip
_J24: Final = {name: place for place, name in enumerate(JOINT_SETS["j24"].names)}
#: Frames by which a camera is solved, and the largest error of it that is believed, pixels.
_MOST_FRAMES: Final = 400
_MOST_ERROR: Final = 5.0


def samples_of_humaneva(reading: Reading, *, every: int = 1) -> Iterator[Sample]:
    """Read the file of 2D or of 3D positions; the other one lies beside it.

    Keypoints are of the set ``j24``: nine of its joints are not labelled. Photos are called
    ``S1/Image_Data/Walking_1_C1/000001.png``, counted from 1.

    Args:
        reading: What is asked for.
        every: Only each n-th frame is read.
    """
    solid, flat = (_find(reading.path, kind, reading.who) for kind in ("3d", "2d"))
    people = people_of_files(
        reading, [reading.path], lambda _: _people(solid, flat, reading, every)
    )
    yield from reading.samples(people)


def _find(path: Path, kind: str, who: str) -> dict[str, Any]:
    folder = path if path.is_dir() else path.parent
    given = path.name if path.is_file() else ""
    files = [path] if re.match(rf"data_{kind}_humaneva", given) else []
    files = files or sorted(folder.glob(f"data_{kind}_humaneva*.npz"))
    # Detections of a network are 2D files too; the truth is called gt.
    files = sorted(files, key=lambda file: "gt" not in file.stem)
    if not files:
        raise FileNotFoundError(f"{who}: no data_{kind}_humaneva*.npz in {folder}")
    found = read_members(files[0], who).get(f"positions_{kind}")
    if not isinstance(found, dict):
        raise ValueError(f"{who}: {files[0]} must hold positions_{kind} by subject and action")
    return found


def _people(
    solid: dict[str, Any], flat: dict[str, Any], reading: Reading, every: int
) -> Iterator[Found]:
    for subject, actions in solid.items():
        for action, world in actions.items():
            cameras = flat.get(subject, {}).get(action, [])
            for number, seen in enumerate(cameras):
                name = f"{subject}/{action}, camera {number + 1}"
                yield from _frames(
                    np.asarray(world, np.float64),
                    np.asarray(seen, np.float64),
                    name,
                    reading,
                    every,
                )


def _frames(
    world: np.ndarray, seen: np.ndarray, name: str, reading: Reading, every: int
) -> Iterator[Found]:
    frames = min(len(world), len(seen))
    if frames == 0 or world.shape[1:] != (15, 3) or seen.shape[1:] != (15, 2):
        reading.left_out["without 15 joints in 2D and 3D"] += frames
        return
    step = max(1, frames // _MOST_FRAMES)
    camera = solve_camera(world[:frames:step].reshape(-1, 3), seen[:frames:step].reshape(-1, 2))
    if camera is None:
        reading.notes.append(f"{reading.who}: the camera of {name} cannot be told from its points")
        reading.left_out["without a camera"] += frames
        return
    pinhole, rotation, shift = camera
    video, number = name.rsplit(", camera ", 1)
    subject, action = video.rsplit("/", 1)
    start = f"{subject}/Image_Data/{action.replace(' ', '_')}_C{number}"
    for frame in range(0, frames, every):
        yield find_person(
            f"{subject}_{action}_C{number}_{frame + 1:06d}".replace(" ", "_"),
            _to_j24(with_confidence(seen[frame])),
            "j24",
            photo=f"{start}/{frame + 1:06d}.png",
            keypoints_3d=_to_j24(with_confidence(world[frame] @ rotation.T + shift)),
            K=pinhole,
            subject_id=subject.rpartition("/")[2],
            track_id=start,
            frame=frame,
        )


def _to_j24(points: np.ndarray) -> np.ndarray:
    placed = np.zeros((24, points.shape[1]))
    placed[[_J24[name] for name in NAMES]] = points
    return placed


def solve_camera(
    world: Float[np.ndarray, "P 3"], pixels: Float[np.ndarray, "P 2"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pinhole, rotation and shift of a camera that stands still: the direct linear transform.

    None where the points do not tell it, or it explains them badly.
    """
    usable = np.isfinite(world).all(1) & np.isfinite(pixels).all(1)
    world, pixels = world[usable], pixels[usable]
    if len(world) < 12:
        return None
    middle, size = world.mean(0), world.std()
    center, spread = pixels.mean(0), pixels.std()
    if not (size > 0 and spread > 0):
        return None
    points = np.column_stack([(world - middle) / size, np.ones(len(world))])
    flat = (pixels - center) / spread
    zero = np.zeros_like(points)
    rows = np.concatenate(
        [
            np.concatenate([points, zero, -flat[:, :1] * points], 1),
            np.concatenate([zero, points, -flat[:, 1:] * points], 1),
        ]
    )
    _, singular, right = np.linalg.svd(rows.T @ rows)
    if singular[-2] <= 1e-12 * singular[0]:
        return None
    unit = np.eye(4)
    unit[:3, :3], unit[:3, 3] = np.eye(3) / size, -middle / size
    grow = np.array([[spread, 0, center[0]], [0, spread, center[1]], [0, 0, 1]])
    matrix = grow @ right[-1].reshape(3, 4) @ unit
    return _decompose(matrix, world, pixels)


def _decompose(
    matrix: np.ndarray, world: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """K [R | t] of a projection; the part before R is upper triangular."""
    flip = np.eye(3)[::-1]
    q, r = np.linalg.qr((flip @ matrix[:, :3]).T)
    pinhole, rotation = flip @ r.T @ flip, flip @ q.T
    signs = np.diag(np.sign(np.diag(pinhole)))
    pinhole, rotation = pinhole @ signs, signs @ rotation
    shift = np.linalg.solve(pinhole, matrix[:, 3])
    if np.linalg.det(rotation) < 0:
        rotation, shift = -rotation, -shift
    pinhole = pinhole / pinhole[2, 2]
    scale = np.linalg.norm(np.linalg.solve(pinhole, matrix[:, :3]), axis=0).mean()
    sign = np.sign(np.linalg.det(np.linalg.solve(pinhole, matrix[:, :3])))
    shift = np.linalg.solve(pinhole, matrix[:, 3]) * sign / scale
    seen = world @ rotation.T + shift
    if not (seen[:, 2] > 0).all():
        return None
    projected = seen @ pinhole.T
    error = np.linalg.norm(projected[:, :2] / projected[:, 2:] - pixels, axis=1)
    return (pinhole, rotation, shift) if float(np.median(error)) < _MOST_ERROR else None
