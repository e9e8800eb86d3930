"""Who is to be fitted: from an annotation file, or from the built-in detector."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eft_fast.data.values import shown
from eft_fast.sample import Sample, in_one_set


@dataclass
class People:
    """People as ``fit_batch`` takes them, and what to call them.

    Attributes:
        photos: The photo of each person.
        keypoints: ``[N, K, 3]`` in photo pixels.
        boxes: ``[N, 4]``: x, y, width, height; NaN where unknown.
        joint_set: Order of the keypoints.
        names: What each photo is called, fit to be shown.
        ids: Which person of the photo.
        source: Where the keypoints come from, for the report.
        noise: How far off keypoints are, a name of ``models.keypoint_noise.CURVES``; None: as the
            methods take keypoints of which nothing is known.
        problems: A sentence about everything that was left out.
        left_out: People left out, by reason.
        tracks: Who each person is, over the frames of a video; empty where that is not known.
    """

    joint_set: str
    source: str
    noise: str | None = None
    photos: list[Path] = field(default_factory=list)
    keypoints: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 17, 3), np.float32)
    )
    boxes: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    tracks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.photos)

    def nobody(self) -> str:
        """Why there is nobody to fit."""
        if self.problems:
            return f"nobody can be fitted: {self.problems[0]}"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return f"{self.source} has nobody to fit" + (f" ({reasons})" if reasons else "")


def people_from_annotations(
    annotations: str,
    photos: Sequence[Path] | Path,
    *,
    min_keypoints: int,
    min_area: float,
    joint_set: str | None = None,
    format_name: str | None = None,
) -> People:
    """Read an annotation file; people whose photo is missing are told of and left out."""
    from eft_fast.data import open_annotations

    samples = open_annotations(
        annotations,
        photos,
        format_name=format_name,
        min_keypoints=min_keypoints,
        min_area=min_area,
        joint_set=joint_set,
    )
    usable = [sample for sample in samples if sample.problem is None and sample.image is not None]
    inside = [sample for sample in usable if not isinstance(sample.image, str | Path)]
    usable = in_one_set([sample for sample in usable if isinstance(sample.image, str | Path)])
    sets = {sample.keypoint_set for sample in usable}
    if len(sets) > 1:
        raise ValueError(
            f"people: one joint set per run is expected, got {', '.join(sorted(sets))}; "
            "split the annotations"
        )
    people = People(joint_set=sets.pop() if sets else "coco17", source=str(annotations))
    people.left_out = dict(samples.left_out)
    people.problems = [*samples.notes, *samples.problems]
    if inside:
        people.problems.append(photos_inside(len(inside), inside[0].id))
    people.problems += [text for sample in usable for text in sample.notes]
    if usable:
        people.photos = [Path(str(sample.image)) for sample in usable]
        people.keypoints = np.stack([sample.keypoints_2d_px for sample in usable]).astype(
            np.float32
        )
        people.boxes = np.stack([_box(sample) for sample in usable])
        people.names = [shown(photo.name) for photo in people.photos]
        people.ids = [sample.id for sample in usable]
        people.tracks = _tracks(usable)
    return people


def photos_inside(count: int, first: str) -> str:
    """The sentence about people who are left out: runs and reports name photos by their paths."""
    return (
        f"people: {count} people, the first of them {shown(first)}, have photos that are no files "
        "of their own; write those out, or fit with eft_fast.fit_batch"
    )


def people_from_detector(photos: Sequence[Path], *, quiet: bool) -> People:
    """Find people and their keypoints with the built-in detector."""
    from tqdm import tqdm

    from eft_fast import imaging
    from eft_fast.models.detector import detect_people

    people = People(joint_set="coco17", source="the built-in detector", noise="detector")
    keypoints, boxes = [], []
    is_shown = sys.stderr.isatty() and not quiet
    for photo in tqdm(photos, unit="photo", disable=not is_shown, leave=False):
        try:
            found = detect_people(imaging.load_image(photo), joint_set=people.joint_set)
        except (OSError, ValueError) as error:
            people.problems.append(str(error))
            continue
        if not found:
            people.problems.append(f"detector: no person was found in {photo.name}")
        for number, person in enumerate(found):
            people.photos.append(photo)
            people.names.append(shown(photo.name))
            people.ids.append(str(number))
            keypoints.append(person.keypoints)
            boxes.append(person.box)
    if keypoints:
        people.keypoints = np.stack(keypoints).astype(np.float32)
        people.boxes = np.stack(boxes).astype(np.float64)
    return people


def _tracks(samples: Sequence[Sample]) -> list[str]:
    """Tracks, if everybody has one and nobody is twice in a photo."""
    tracks = [sample.track_id for sample in samples if sample.track_id is not None]
    places = {(sample.image, sample.track_id) for sample in samples}
    return tracks if len(tracks) == len(samples) == len(places) else []


def _box(sample: Sample) -> npt.NDArray[np.float64]:
    box = sample.bbox_xywh
    return np.full(4, np.nan) if box is None else np.asarray(box, np.float64)
