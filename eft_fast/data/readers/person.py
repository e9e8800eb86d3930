"""What every reader of 2D keypoints does alike: numbers, boxes, photos, and a sentence for a fault.

The fault of one person never raises: it goes into ``Sample.problem``, and the others are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast import imaging
from eft_fast.sample import Sample

if TYPE_CHECKING:
    from jaxtyping import Float

#: Labels are rounded, and may stand this many pixels beyond the border without a note.
BORDER: Final = 1.0


@dataclass(frozen=True)
class Photo:
    """A photo that an annotation names, or why it cannot be used.

    Attributes:
        path: Where it is, or should have been.
        size: Width and height, upright.
        problem: Why it cannot be used.
        is_wanted: False if the user named photos, and not this one.
    """

    path: Path | None
    size: tuple[int, int] | None = None
    problem: str | None = None
    is_wanted: bool = True


@dataclass(frozen=True, eq=False)
class Person:
    """One person of an annotation file, not yet checked against the photo.

    Attributes:
        id: Unique in the file.
        label: How a sentence calls this person.
        keypoints: x, y, confidence; may hold values that are not finite.
        keypoint_set: Name of their order.
        box: x, y, w, h in pixels, as it stands in the file.
        fault: Why the keypoints could not be read.
        extra: Other fields to keep.
    """

    id: str
    label: str
    keypoints: Float[np.ndarray, "K 3"]
    keypoint_set: str
    box: Any = None
    fault: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_labelled(self) -> int:
        """Keypoints that are finite and have a confidence above 0."""
        is_finite = np.isfinite(self.keypoints).all(axis=1)
        return int((is_finite & (self.keypoints[:, 2] > 0.0)).sum())


def load_json(path: Path, who: str) -> Any:
    """Parse a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        fault = "is empty (0 bytes)" if path.stat().st_size == 0 else f"is not JSON ({error})"
    except (UnicodeDecodeError, RecursionError) as error:
        fault = f"is not JSON ({type(error).__name__})"
    raise ValueError(f"{who}: {path} {fault}")


def read_numbers(values: Any, counts: tuple[int, ...], label: str, who: str) -> np.ndarray:
    """A flat list x, y, confidence, x, ... as [K, 3]; K must be one of ``counts``.

    Raises:
        ValueError: If the values are not numbers, or not that many.
    """
    expected = " or ".join(str(3 * count) for count in counts)
    try:
        numbers = np.array(values if isinstance(values, list) else "", dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{who}: {label} must have {expected} keypoint numbers, got values that are not numbers"
        ) from None
    if numbers.ndim != 1 or len(numbers) not in [3 * count for count in counts]:
        raise ValueError(
            f"{who}: {label} must have {expected} keypoint numbers, got {numbers.size}"
        )
    return numbers.reshape(-1, 3)


def check_photo(path: Path, declared: tuple[int, int] | None, who: str) -> Photo:
    """Read the head of a photo, and compare its size with the one that the annotations are for."""
    try:
        size = imaging.load_image_size(path)
    except (ValueError, OSError) as error:
        return Photo(path, declared, str(error))
    if declared is not None and declared != size:
        return Photo(
            path,
            size,
            f"{who}: {path} is {size[0]} x {size[1]} pixels, but its annotations are for "
            f"{declared[0]} x {declared[1]}; use the photos as they were annotated",
        )
    return Photo(path, size)


def make_sample(
    person: Person, photo: Photo, dataset: str, who: str, *, box_confidence: float = 0.0
) -> Sample:
    """Check a person and make the sample; a fault becomes ``problem``, an oddity a note.

    A person without a usable box gets the one around the keypoints above ``box_confidence``.
    """
    problem, notes = photo.problem or person.fault, []
    if not np.isfinite(person.keypoints).all():
        notes.append(f"{who}: {person.label} has keypoints that are not finite, left unlabelled")
    try:
        keypoints = imaging.check_keypoints(person.keypoints)
    except ValueError as error:
        keypoints = np.zeros_like(person.keypoints)
        problem = problem or f"{who}: {person.label} cannot be read ({error})"
    if photo.size is not None:
        keypoints, note = _limit_to_photo(keypoints, photo.size)
        notes += [f"{who}: {person.label} has {note}"] if note else []
    if not (keypoints[:, 2] > 0.0).any():
        problem = problem or f"{who}: {person.label} has no labelled keypoint left"
    box = usable_box(person.box)
    if box is None and person.box is not None:
        notes.append(f"{who}: {person.label} has no usable box, so its keypoints give it")
    center, scale = None, None
    try:
        if box is None:
            box = _keypoint_box(keypoints, box_confidence)
        center, scale = imaging.box_to_center_scale(box)
    except ValueError as error:
        problem = problem or f"{who}: {person.label} has no usable box ({error})"
    return Sample(
        id=person.id,
        dataset=dataset,
        image=photo.path,
        keypoints_2d_px=keypoints,
        keypoint_set=person.keypoint_set,
        image_size=photo.size,
        bbox_xyxy=None if box is None else np.concatenate([box[:2], box[:2] + box[2:]]),
        bbox_center=center,
        bbox_scale=scale,
        problem=problem,
        notes=tuple(notes),
        extra=person.extra,
    )


def _limit_to_photo(
    keypoints: Float[np.ndarray, "K 3"], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "K 3"], str]:
    """Keep points a little outside of the photo, and drop those a whole photo away.

    A point beside the photo may be a joint that the frame cuts off. One farther out than the photo
    is wide or high is a mistake, and would pull the fit with it.
    """
    extent = np.asarray(size, dtype=np.float64)
    beyond = np.maximum(-0.5 - keypoints[:, :2], keypoints[:, :2] - (extent - 0.5))
    is_labelled = keypoints[:, 2] > 0.0
    is_outside = is_labelled & (beyond > BORDER).any(axis=1)
    is_far = is_labelled & (beyond > extent).any(axis=1)
    note = ""
    if is_outside.any():
        note = f"{is_outside.sum()} keypoints outside of the {size[0]} x {size[1]} photo"
        note += f", {is_far.sum()} of them so far out that they are dropped" if is_far.any() else ""
    return np.where(is_far[:, None], 0.0, keypoints), note


def usable_box(box: Any) -> Float[np.ndarray, " 4"] | None:
    """The box x, y, w, h as an array, or None if it is not four finite numbers with an area."""
    try:
        values = np.array(box, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if values.shape != (4,) or not np.isfinite(values).all() or values[2:].min() <= 0.0:
        return None
    return values


def _keypoint_box(
    keypoints: Float[np.ndarray, "K 3"], min_confidence: float
) -> Float[np.ndarray, " 4"]:
    """The box around the confident keypoints; around all if there are fewer than two of them."""
    is_enough = np.count_nonzero(keypoints[:, 2] > min_confidence) >= 2
    return imaging.keypoints_to_box(keypoints, min_confidence=min_confidence if is_enough else 0.0)
