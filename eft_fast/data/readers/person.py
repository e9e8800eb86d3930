"""What every reader of 2D keypoints does alike: boxes, photos, filters, and a sentence for a fault.

The fault of one person never raises: it goes into ``Sample.problem``, and the others are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast import imaging
from eft_fast.data.values import shown, to_key
from eft_fast.plausible import FLAGS_NOTE, check_person, find_other_order_of_all, find_unit_problem
from eft_fast.sample import Sample

if TYPE_CHECKING:
    from jaxtyping import Float

#: Labels are rounded, and may stand this many pixels beyond the border without a note.
BORDER: Final = 1.0
#: Where ``Sample.extra`` keeps the flags 0, 1, 2 that became confidences 0, 1, 1.
VISIBILITY: Final = "visibility"
#: People by whom the order of a file is judged.
TO_TELL_ORDER: Final = 200


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
        notes: What is odd about the entry, a sentence each.
        extra: Other fields to keep.
    """

    id: str
    label: str
    keypoints: Float[np.ndarray, "K 3"]
    keypoint_set: str
    box: Any = None
    fault: str | None = None
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_labelled(self) -> int:
        """Keypoints that are finite and have a confidence above 0."""
        is_finite = np.isfinite(self.keypoints).all(axis=1)
        return int((is_finite & (self.keypoints[:, 2] > 0.0)).sum())


def check_photo(path: Path, declared: tuple[int, int] | None, who: str) -> Photo:
    """Read the head of a photo, and compare its size with the one that the annotations are for."""
    try:
        size = imaging.load_image_size(path)
    except (ValueError, OSError) as error:
        return Photo(path, declared, str(error))
    if declared is None or declared == size:
        return Photo(path, size)
    hint = "use the photos as they were annotated"
    if declared == size[::-1]:
        hint = "they were annotated without the rotation that the photo's EXIF asks for"
    return Photo(
        path,
        size,
        f"{who}: {shown(path)} is {size[0]} x {size[1]} pixels, but its annotations are for "
        f"{declared[0]} x {declared[1]}; {hint}",
    )


def note_file(samples: list[Sample], who: str) -> list[str]:
    """What is odd about a file as a whole, a sentence each."""
    has_flags = any(VISIBILITY in sample.extra for sample in samples)
    flags = [f"{who}: {FLAGS_NOTE}"] if has_flags else []
    return flags + note_other_order(samples, who)


def note_other_order(samples: list[Sample], who: str) -> list[str]:
    """A note where most of the people, of the first 200, look like those of another joint set."""
    usable = [sample for sample in samples if sample.problem is None][:TO_TELL_ORDER]
    notes = []
    for name in dict.fromkeys(sample.keypoint_set for sample in usable):
        keypoints = [s.keypoints_2d_px for s in usable if s.keypoint_set == name]
        note = find_other_order_of_all(keypoints, name)
        notes += [f"{who}: {note} (--joint-set)"] if note else []
    return notes


def with_unit_fault(person: Person, photo: Photo, who: str) -> Person:
    """The person, with a fault if the keypoints are no pixels: no filter then takes the blame."""
    if person.fault is not None:
        return person
    problem = find_unit_problem(person.keypoints, photo.size)
    return replace(person, fault=problem and f"{who}: {person.label}: {problem}")


def reason_too_little(
    person: Person, area: float, min_keypoints: int, min_area: float
) -> str | None:
    """Why a readable person is not wanted; one with a fault is kept, so that it is reported."""
    if person.fault is not None:
        return None
    is_finite = bool(np.isfinite(person.keypoints).all())
    if is_finite and not person.num_labelled:
        return "without keypoints"
    if is_finite and person.num_labelled < min_keypoints:
        return f"fewer than {min_keypoints} keypoints"
    return f"area of {min_area:g} or less" if 0.0 < min_area and not area > min_area else None


def make_sample(
    person: Person, photo: Photo, dataset: str, who: str, *, box_confidence: float = 0.0
) -> Sample:
    """Check a person and make the sample; a fault becomes ``problem``, an oddity a note.

    A person without a usable box gets the one around the keypoints above ``box_confidence``.
    """
    problem, notes = photo.problem or person.fault, list(person.notes)
    start = f"{who}: {person.label}"
    if not np.isfinite(person.keypoints).all():
        notes.append(f"{start} has keypoints that are not finite, left unlabelled")
    # Whether the order can be right is said of the file as a whole (note_file).
    checked = check_person(
        person.keypoints, person.box, photo.size, person.keypoint_set, is_order_known=True
    )
    notes += [f"{start}: {note}" for note in checked.notes]
    problem = problem or (checked.problem and f"{start}: {checked.problem}")
    extra = person.extra
    if checked.has_flags:
        extra = {**extra, VISIBILITY: person.keypoints[:, 2]}
    keypoints = imaging.check_keypoints(checked.keypoints)
    if photo.size is not None:
        keypoints, note = _limit_to_photo(keypoints, photo.size)
        notes += [f"{start} has {note}"] if note else []
    if not (keypoints[:, 2] > 0.0).any():
        problem = problem or f"{start} has no labelled keypoint left"
    box = checked.box
    center, scale = None, None
    try:
        if box is None:
            box = _keypoint_box(keypoints, box_confidence)
        center, scale = imaging.box_to_center_scale(box)
    except ValueError as error:
        problem = problem or f"{start} has no usable box ({error})"
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
        track_id=to_key(person.extra.get("track_id")),
        problem=problem,
        notes=tuple(notes),
        extra=extra,
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


def _keypoint_box(
    keypoints: Float[np.ndarray, "K 3"], min_confidence: float
) -> Float[np.ndarray, " 4"]:
    """The box around the confident keypoints; around all if there are fewer than two of them."""
    is_enough = np.count_nonzero(keypoints[:, 2] > min_confidence) >= 2
    return imaging.keypoints_to_box(keypoints, min_confidence=min_confidence if is_enough else 0.0)
