"""What readers of datasets with truth in space share: people, cameras, numbers out of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.data.readers.person import Person
from eft_fast.data.readers.reading import Found
from eft_fast.data.values import expected_form
from eft_fast.keypoints import JOINT_SETS

if TYPE_CHECKING:
    from jaxtyping import Float

    from eft_fast.data.readers.reading import Reading

#: Millimetres and centimetres of a metre.
MM: Final = 1000.0
CM: Final = 100.0
_GENDERS: Final = {"m": "male", "f": "female", "n": "neutral"}
#: Least spread of x/z or y/z over the points by which a pinhole is told.
_LEAST_SPREAD: Final = 1e-3


def to_gender(value: Any) -> str:
    """``male``, ``female`` or ``neutral``, however a file writes it; neutral if it does not."""
    text = value.decode("latin1") if isinstance(value, bytes) else str(value)
    return _GENDERS.get(text.strip().lower()[:1], "neutral")


def find_person(
    key: str,
    keypoints: Float[np.ndarray, "K 3"],
    keypoint_set: str,
    *,
    photo: str | None,
    size: tuple[int, int] | None = None,
    box: npt.ArrayLike | None = None,
    extra: Mapping[str, Any] | None = None,
    fault: str | None = None,
    **fields: Any,
) -> Found:
    """A person of a dataset: 2D keypoints in photo pixels, and what is known in space.

    Args:
        key: Unique in the dataset.
        keypoints: x, y, confidence.
        keypoint_set: Their order.
        photo: Name of the photo, folders included.
        size: Width and height that the photo should have.
        box: x, y, w, h; None: that of the keypoints.
        extra: Other fields of the file.
        fault: Why the person cannot be used.
        fields: Fields of ``Sample``; those that are None are left out.

    Raises:
        ValueError: If the keypoints are not as many as the set has.
    """
    given = np.asarray(keypoints, np.float64)
    if given.shape != (len(JOINT_SETS[keypoint_set]), 3):
        raise ValueError(
            f"person {key}: keypoints must be [{len(JOINT_SETS[keypoint_set])}, 3] for "
            f"{keypoint_set}, got {list(given.shape)}"
        )
    person = Person(
        id=key,
        label=f"person {key}",
        keypoints=given,
        keypoint_set=keypoint_set,
        box=None if box is None else [float(number) for number in np.asarray(box).reshape(-1)],
        fault=fault,
        extra=dict(extra or {}),
    )
    # Arrays of pickles lie in the file's bytes, which nobody may write into.
    kept = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
        if value is not None
    }
    return Found(person, photo=photo, size=size, fields=kept)


def people_of_files(
    reading: Reading, files: Sequence[Path], people: Callable[[Path], Iterable[Found]]
) -> Iterator[Found]:
    """The people of all files. One that cannot be read is told of and counted, and costs no other.

    Raises:
        ValueError: If there is but one file, and it cannot be read; the same of FileNotFoundError.
    """
    for file in files:
        try:
            with expected_form(reading.who, file):
                yield from people(file)
        except (ValueError, FileNotFoundError) as error:
            if len(files) == 1:
                raise
            reading.notes.append(str(error))
            reading.left_out["files that cannot be read"] += 1


def with_confidence(
    points: npt.ArrayLike, confidence: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """Points and a last column of confidence: 1 where nothing is said, 0 where not finite."""
    given = np.asarray(points, np.float64)
    sure = np.ones(len(given)) if confidence is None else np.asarray(confidence, np.float64)
    known = np.isfinite(given).all(-1) & np.isfinite(sure)
    return np.column_stack([np.where(known[:, None], given, 0.0), np.where(known, sure, 0.0)])


def fit_pinhole(
    points: Float[np.ndarray, "P 3"], pixels: Float[np.ndarray, "P 2"]
) -> Float[np.ndarray, "3 3"] | None:
    """The pinhole by which points of the camera frame, metres, are seen at pixels; None: not told.

    u = f x/z + c is linear in f and c, for each axis; a median of the errors decides nothing here,
    since files give exact projections. Lens distortion that a file applied is averaged over.
    """
    usable = np.isfinite(points).all(1) & np.isfinite(pixels).all(1) & (points[:, 2] > 1e-6)
    if usable.sum() < 4:
        return None
    flat = points[usable, :2] / points[usable, 2:]
    matrix = np.eye(3)
    for axis in range(2):
        spread = flat[:, axis] - flat[:, axis].mean()
        if spread.std() < _LEAST_SPREAD:
            return None
        seen = pixels[usable, axis]
        focal = float(spread @ (seen - seen.mean()) / (spread @ spread))
        matrix[axis, axis], matrix[axis, 2] = focal, seen.mean() - focal * flat[:, axis].mean()
    return matrix if matrix[0, 0] > 0 and matrix[1, 1] > 0 else None


def project(
    points: Float[np.ndarray, "P 3"],
    pinhole: Float[np.ndarray, "3 3"],
    distortion: npt.ArrayLike = (),
) -> Float[np.ndarray, "P 2"]:
    """Pixels of points in the camera frame, through OpenCV's distortion (k1, k2, p1, p2, k3)."""
    x, y = (points[:, :2] / points[:, 2:]).T
    k1, k2, p1, p2, k3 = np.pad(np.asarray(distortion, np.float64).reshape(-1), (0, 5))[:5]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.column_stack([u, v, np.ones(len(u))]) @ np.asarray(pinhole, np.float64)[:2].T


def turn_root(
    rotation: Float[np.ndarray, "*F 3 3"], root: Float[np.ndarray, "F 3"]
) -> Float[np.ndarray, "F 3"]:
    """Rotation vectors of roots seen by a camera: R_camera R_root."""
    import torch

    from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle

    matrix = axis_angle_to_matrix(torch.from_numpy(np.array(root, np.float64)))
    turned = torch.from_numpy(np.array(rotation, np.float64)) @ matrix
    vectors: np.ndarray = matrix_to_axis_angle(turned).numpy()
    return vectors


def turn_transl(
    rotation: Float[np.ndarray, "*F 3 3"],
    shift: Float[np.ndarray, "*F 3"],
    transl: Float[np.ndarray, "F 3"],
    pelvis: Float[np.ndarray, "*F 3"],
) -> Float[np.ndarray, "F 3"]:
    """Translation of SMPL seen by a camera: R (J0 + t) + s - J0.

    SMPL turns about its pelvis at rest, J0, and not about the origin: with the root turned by R, a
    vertex x goes to R' (x - J0) + J0 + t', which is to be R (R_root (x - J0) + J0 + t) + s.
    """
    moved: np.ndarray = np.einsum("...ij,...j->...i", rotation, pelvis + transl)
    placed: np.ndarray = moved + shift - pelvis
    return placed
