"""COCO person keypoints: ``{"images": [...], "annotations": [...], "categories": [...]}``."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from eft_fast import imaging
from eft_fast.data.photos import PhotoFinder, natural_key
from eft_fast.data.readers.person import (
    Person,
    Photo,
    check_photo,
    load_json,
    make_sample,
    read_numbers,
    usable_box,
)
from eft_fast.sample import Sample, SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos

Entry: TypeAlias = dict[str, Any]

_WHO: Final = "read_coco"
_NUM_KEYPOINTS: Final = 17
#: With the six foot points of COCO's foot files behind: big toe, small toe, heel; left, then right.
_NUM_WITH_FEET: Final = 23

logger = logging.getLogger(__name__)


def read_coco(
    path: PathLike, photos: Photos, *, min_keypoints: int = 1, min_area: float = 0.0
) -> SampleList:
    """Read the people of a COCO keypoints file.

    Visibility 1 (hidden) and 2 (seen) both become confidence 1; scores in [0, 1] in their place are
    kept. Crowds and people without labels are left out and counted. PoseTrack files, known by the
    names of their keypoints, are read as ``posetrack17``. Six foot points behind the 17, or in
    ``foot_kpts``, go to ``extra["foot_keypoints_px"]``.

    Args:
        path: The JSON file.
        photos: Folder of the photos: every annotated photo is expected in it or below. Or a list of
            files: only these are wanted.
        min_keypoints: Fewest labelled keypoints of a person.
        min_area: People whose ``area`` in square pixels is not above this are left out. Where the
            file has no area, that of the box or of the keypoints counts. 0 keeps all.

    Returns:
        Samples in the order of the photos in the file, then of the annotation ids; in ``left_out``
        the others, counted by reason. A sample that cannot be fitted says why in ``problem``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file as a whole is not COCO keypoints.
    """
    path = Path(path)
    document = _check_document(load_json(path, _WHO), path)
    index = _PhotoIndex(document["images"], PhotoFinder(photos, _WHO))
    categories = _categories(document)
    ids = _UniqueIds()
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    for entry in sorted(document["annotations"], key=index.sort_key):
        reason = _reason_to_skip(entry, categories) or index.reason_to_skip(entry)
        if reason is None:
            person = _make_person(entry, ids.take(entry), _keypoint_set(entry, categories))
            reason = _reason_too_little(person, entry, min_keypoints, min_area)
        if reason is None and ids.is_repeated(entry):
            reason = "repeated annotations"
        if reason is None:
            samples.append(make_sample(person, index.photo(entry), "coco", _WHO))
        else:
            left_out[reason] += 1
    logger.info("%s: %d people; left out: %s", _WHO, len(samples), dict(left_out))
    return SampleList(samples, left_out)


def _check_document(document: Any, path: Path) -> dict[str, list[Entry]]:
    """The document, if it is COCO keypoints as a whole."""
    if not isinstance(document, dict):
        hint = "; a list of detections lacks the photo names" if isinstance(document, list) else ""
        raise ValueError(
            f"{_WHO}: {path} must hold an object with images and annotations, got "
            f"{type(document).__name__}{hint}"
        )
    for key in ("images", "annotations"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            keys = ", ".join(sorted(document)[:8]) or "none"
            hint = "; of an OpenPose output give the folder" if "people" in document else ""
            raise ValueError(
                f"{_WHO}: {path} must have a list of objects {key}, got the keys {keys}{hint}"
            )
    annotations = document["annotations"]
    if annotations and not any("keypoints" in entry for entry in annotations):
        raise ValueError(
            f"{_WHO}: no annotation of {path} has keypoints; use the person_keypoints file, not "
            "the instances file"
        )
    return document


def _categories(document: dict[str, list[Entry]]) -> dict[Any, Entry]:
    listed = document.get("categories")
    entries = [entry for entry in listed if isinstance(entry, dict)] if listed else []
    return {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), (int, str))}


def _reason_to_skip(entry: Entry, categories: dict[Any, Entry]) -> str | None:
    names = {key: category.get("name") for key, category in categories.items()}
    category = entry.get("category_id")
    if "person" in names.values() and _is_id(category) and names.get(category) != "person":
        return "not people"
    if entry.get("iscrowd") == 1:
        return "crowds"
    if entry.get("keypoints") in (None, []):
        return "without keypoints"
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _keypoint_set(entry: Entry, categories: dict[Any, Entry]) -> str:
    category = entry.get("category_id")
    names = categories.get(category, {}).get("keypoints") if _is_id(category) else None
    if isinstance(names, list) and names[1:3] == ["head_bottom", "head_top"]:
        return "posetrack17"
    return "coco17"


def _make_person(entry: Entry, sample_id: str, keypoint_set: str) -> Person:
    label, fault = f"annotation {sample_id}", None
    keypoints = np.zeros((_NUM_KEYPOINTS, 3))
    feet = np.zeros((0, 3))
    try:
        points = read_numbers(entry["keypoints"], (_NUM_KEYPOINTS, _NUM_WITH_FEET), label, _WHO)
        if "foot_kpts" in entry:
            feet = read_numbers(entry["foot_kpts"], (_NUM_WITH_FEET - _NUM_KEYPOINTS,), label, _WHO)
            points = np.concatenate([points[:_NUM_KEYPOINTS], feet])
        points = _to_confidence(points, label)
        keypoints, feet = points[:_NUM_KEYPOINTS], points[_NUM_KEYPOINTS:]
    except ValueError as error:
        fault = str(error)
    kept = ("id", "image_id", "area", "track_id")
    extra: Entry = {key: entry[key] for key in kept if key in entry}
    if len(feet):
        extra["foot_keypoints_px"] = feet
    return Person(sample_id, label, keypoints, keypoint_set, entry.get("bbox"), fault, extra)


def _to_confidence(points: np.ndarray, label: str) -> np.ndarray:
    """Visibility flags 0, 1, 2 to confidences 0, 1, 1; scores stay."""
    flags = points[:, 2]
    known = flags[np.isfinite(flags)]
    if np.isin(known, (0.0, 1.0, 2.0)).all():
        confidence = np.where(np.isfinite(flags), np.minimum(flags, 1.0), flags)
        return np.column_stack([points[:, :2], confidence])
    if known.min() < 0.0 or known.max() > 1.0:
        raise ValueError(
            f"{_WHO}: {label} must have visibility flags 0, 1, 2 or scores in [0, 1], got "
            f"{known.min():g} to {known.max():g}"
        )
    return points


def _reason_too_little(
    person: Person, entry: Entry, min_keypoints: int, min_area: float
) -> str | None:
    """Why a readable person is not wanted; one with a fault is kept, so that it is reported."""
    if person.fault is not None:
        return None
    is_finite = bool(np.isfinite(person.keypoints).all())
    if is_finite and not person.num_labelled:
        return "without keypoints"
    if is_finite and person.num_labelled < min_keypoints:
        return f"fewer than {min_keypoints} keypoints"
    if min_area > 0.0 and not _area(person, entry) > min_area:
        return f"area of {min_area:g} or less"
    return None


def _area(person: Person, entry: Entry) -> float:
    """Area in square pixels as the file tells it, else of the box, else around the keypoints."""
    area, box = entry.get("area"), usable_box(entry.get("bbox"))
    if isinstance(area, (int, float)) and np.isfinite(area):
        return float(area)
    if box is None and person.num_labelled:
        box = imaging.keypoints_to_box(person.keypoints)
    return 0.0 if box is None else float(box[2] * box[3])


class _UniqueIds:
    """Gives every annotation an id of its own, and knows which are the same one over again."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}

    def take(self, entry: Entry) -> str:
        name = str(entry["id"]) if _is_id(entry.get("id")) else "without-id"
        before = self._entries.setdefault(name, [])
        before.append(entry)
        return name if len(before) == 1 else f"{name}#{len(before)}"

    def is_repeated(self, entry: Entry) -> bool:
        name = str(entry["id"]) if _is_id(entry.get("id")) else "without-id"
        return entry in self._entries[name][:-1]


class _PhotoIndex:
    """The photos of the file by image id, found on disk when first asked for."""

    def __init__(self, images: list[Entry], finder: PhotoFinder) -> None:
        self._finder = finder
        self._entries: dict[Any, Entry] = {}
        self._order: dict[Any, int] = {}
        self._photos: dict[Any, Photo] = {}
        for position, entry in enumerate(images):
            key = entry.get("id")
            if not _is_id(key):
                continue
            first = self._entries.setdefault(key, entry)
            self._order.setdefault(key, position)
            if first.get("file_name") != entry.get("file_name"):
                self._photos[key] = Photo(
                    None,
                    None,
                    f"{_WHO}: image id {key} must name one photo, got {first.get('file_name')} and "
                    f"{entry.get('file_name')}",
                )

    def sort_key(self, entry: Entry) -> tuple[float, list[tuple[int, int, str]]]:
        """Order of photos in the file, then of ids."""
        image, annotation = entry.get("image_id"), entry.get("id")
        place = self._order.get(image, float("inf")) if _is_id(image) else float("inf")
        return place, natural_key(str(annotation))

    def reason_to_skip(self, entry: Entry) -> str | None:
        """Whether the user named photos, and this person's is not among them."""
        return None if self.photo(entry).is_wanted else "photo not asked for"

    def photo(self, entry: Entry) -> Photo:
        """The photo of an annotation, or the sentence that says why there is none."""
        key = entry.get("image_id")
        if not _is_id(key) or key not in self._entries:
            name = entry.get("id")
            return Photo(None, None, f"{_WHO}: annotation {name} has an unknown image_id {key}")
        if key not in self._photos:
            self._photos[key] = self._find(self._entries[key])
        return self._photos[key]

    def _find(self, image: Entry) -> Photo:
        name, width, height = (image.get(key) for key in ("file_name", "width", "height"))
        declared = (width, height) if isinstance(width, int) and isinstance(height, int) else None
        if not isinstance(name, str) or not name:
            return Photo(None, declared, f"{_WHO}: image {image.get('id')} has no file_name")
        try:
            return check_photo(self._finder.find(name), declared, _WHO)
        except FileNotFoundError as error:
            is_wanted = not self._finder.is_selection
            return Photo(self._finder.expected(name), declared, str(error), is_wanted)
        except ValueError as error:
            return Photo(None, declared, str(error))
