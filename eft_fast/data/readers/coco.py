"""COCO person keypoints: ``{"images": [...], "annotations": [...], "categories": [...]}``."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from eft_fast import imaging
from eft_fast.data.joint_names import NamedOrder, find_order
from eft_fast.data.photos import PhotoFinder, natural_key
from eft_fast.data.readers.person import (
    Person,
    Photo,
    check_photo,
    make_sample,
    note_other_order,
    reason_too_little,
    with_unit_fault,
)
from eft_fast.data.values import (
    load_json,
    read_points,
    shown,
    to_key,
    to_number,
    to_whole,
)
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.plausible import to_box, to_confidence
from eft_fast.sample import Sample, SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos
    from eft_fast.data.readers.reading import Reading

Entry: TypeAlias = dict[str, Any]

_WHO: Final = "read_coco"
_NUM_KEYPOINTS: Final = 17
_NUM_FEET: Final = 6
#: Orders of files that name none, by the number of keypoints. 133 is COCO-WholeBody, 136 Halpe,
#: whose first ones are the body and the feet.
_BY_COUNT: Final = {17: "coco17", 23: "coco23", 26: "halpe26", 133: "coco23", 136: "halpe26"}

logger = logging.getLogger(__name__)


def read_coco(
    path: PathLike,
    photos: Photos,
    *,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    joint_set: str | None = None,
) -> SampleList:
    """Read the people of a COCO keypoints file, or of a list of results that names its photos.

    The order of the keypoints is that of ``categories[].keypoints``: they are brought into the
    joint set that has these names, and people of a category whose names no set has are refused.
    Without names, 17 keypoints are COCO's and 26 Halpe's. Six foot points behind COCO's 17, or in
    ``foot_kpts``, go to ``extra["foot_keypoints_px"]``.

    Visibility 1 (hidden) and 2 (seen) both become confidence 1; scores in [0, 1] in their place are
    kept. Crowds and people without labels are left out and counted. Ids match as numbers, floats
    and text.

    Args:
        path: The JSON file.
        photos: Folder of the photos: every annotated photo is expected in it or below. Or a list of
            files: only these are wanted.
        min_keypoints: Fewest labelled keypoints of a person.
        min_area: People whose ``area`` in square pixels is not above this are left out. Where the
            file has no area, that of the box or of the keypoints counts. 0 keeps all.
        joint_set: Order of the keypoints, whatever the file names them.

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
    categories = _Categories(document.get("categories"), joint_set)
    ids = _UniqueIds()
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    entries = [entry for entry in document["annotations"] if isinstance(entry, dict)]
    left_out["not objects"] += len(document["annotations"]) - len(entries)
    for entry in sorted(entries, key=index.sort_key):
        reason = categories.reason_to_skip(entry) or index.reason_to_skip(entry)
        if reason is None:
            photo = index.photo(entry)
            person = _make_person(entry, ids.take(entry), categories.order(entry))
            person = with_unit_fault(person, photo, _WHO)
            area = _area(person, entry) if min_area > 0.0 else 0.0
            reason = reason_too_little(person, area, min_keypoints, min_area)
        if reason is None and ids.is_repeated(entry):
            reason = "repeated annotations"
        if reason is None:
            samples.append(make_sample(person, photo, "coco", _WHO))
        else:
            left_out[reason] += 1
    logger.info("%s: %d people; left out: %s", _WHO, len(samples), dict(left_out))
    return SampleList(samples, +left_out, categories.notes + note_other_order(samples, _WHO))


def samples_of_coco(reading: Reading) -> Iterator[Sample]:
    """The same as part of a ``Reading``."""
    samples = read_coco(
        reading.path,
        reading.photos if reading.photos is not None else [],
        min_keypoints=reading.min_keypoints,
        min_area=reading.min_area,
        joint_set=None if reading.asked is None else reading.asked.name,
    )
    reading.left_out.update(samples.left_out)
    reading.notes += samples.notes
    reading.is_judged = True
    yield from samples


def _check_document(document: Any, path: Path) -> dict[str, list[Any]]:
    """The document, if it is COCO keypoints as a whole."""
    if isinstance(document, list):
        document = _from_results(document, path)
    if not isinstance(document, dict):
        raise ValueError(
            f"{_WHO}: {path} must hold an object with images and annotations, got "
            f"{type(document).__name__}"
        )
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            keys = ", ".join(shown(name) for name in sorted(document)[:8]) or "none"
            hint = "; of an OpenPose output give the folder" if "people" in document else ""
            raise ValueError(
                f"{_WHO}: {path} must have a list of objects {key}, got the keys {keys}{hint}"
            )
    annotations = [entry for entry in document["annotations"] if isinstance(entry, dict)]
    if annotations and not any("keypoints" in entry for entry in annotations):
        raise ValueError(
            f"{_WHO}: no annotation of {path} has keypoints; use the person_keypoints file, not "
            "the instances file"
        )
    return document


def _from_results(results: list[Any], path: Path) -> dict[str, list[Any]]:
    """A list of detections as a document: AlphaPose gives the name of the photo as ``image_id``."""
    entries = [entry for entry in results if isinstance(entry, dict)]
    names = [entry.get("image_id") for entry in entries]
    texts = [name for name in names if isinstance(name, str) and Path(name).suffix]
    if not texts:
        got = f"the image_id {shown(names[0])}" if names else "no image_id"
        raise ValueError(
            f"{_WHO}: {path} must hold an object with images and annotations, got a list with "
            f"{got}, which names no photo; add the images: "
            '{"images": [...], "annotations": [the list]}'
        )
    images = [{"id": name, "file_name": name} for name in dict.fromkeys(texts)]
    annotations = [{"bbox": entry.get("box"), **entry} for entry in entries]
    return {"images": images, "annotations": annotations}


@dataclass(frozen=True)
class _Order:
    """The order of the keypoints of a category.

    Attributes:
        counts: Numbers of keypoints that it may have.
        named: How they go into a joint set; None: that is told by their number, or cannot be.
        fault: Why the people of the category cannot be read.
        note: What is odd about people of it.
    """

    counts: tuple[int, ...]
    named: NamedOrder | None = None
    fault: str | None = None
    note: str | None = None

    def with_note(self, note: str) -> _Order:
        """The same, with a note about each of its people."""
        return _Order(self.counts, self.named, self.fault, note)


class _Categories:
    """What a file says about its categories: who is a person, and the order of the keypoints.

    Attributes:
        notes: What holds for the file as a whole, a sentence each.
    """

    def __init__(self, listed: Any, joint_set: str | None) -> None:
        self.notes: list[str] = []
        self._entries: dict[str, Entry] = {}
        for entry in listed if isinstance(listed, list) else []:
            key = to_key(entry.get("id")) if isinstance(entry, dict) else None
            if key is not None:
                self._entries.setdefault(key, entry)
        people = [key for key, entry in self._entries.items() if entry.get("name") == "person"]
        self._people = set(people)
        #: The one category that people without a known one can have.
        self._only = people[0] if len(people) == 1 else None
        if not people and len(self._entries) == 1:
            self._only = next(iter(self._entries))
        self._asked = None if joint_set is None else _identity(joint_set)
        self._orders: dict[str | None, _Order] = {None: self._asked or _Order(tuple(_BY_COUNT))}

    def reason_to_skip(self, entry: Entry) -> str | None:
        """Why an annotation is no person with keypoints."""
        key = to_key(entry.get("category_id"))
        if self._people and key in self._entries and key not in self._people:
            return "not people"
        if entry.get("iscrowd") in (1, "1"):
            return "crowds"
        if entry.get("keypoints") in (None, []):
            return "without keypoints"
        return None

    def order(self, entry: Entry) -> _Order:
        """The order of an annotation's keypoints."""
        given = entry.get("category_id")
        key = to_key(given)
        if key in self._entries or not self._entries:
            return self._order_of(key if key in self._entries else None)
        if self._only is None:
            return _Order((), fault=f"has the category_id {shown(given)}, which is not listed")
        if given is None:
            return self._order_of(self._only)
        name = shown(self._entries[self._only].get("name"))
        note = f"has the category_id {shown(given)}, which is not listed; it was taken for {name}"
        return self._order_of(self._only).with_note(note)

    def _order_of(self, key: str | None) -> _Order:
        if key not in self._orders:
            self._orders[key] = self._read_names(self._entries[str(key)])
        return self._orders[key]

    def _read_names(self, category: Entry) -> _Order:
        names, label = category.get("keypoints"), shown(category.get("name"))
        if names in (None, []):
            return self._orders[None]
        if not isinstance(names, list):
            fault = f"has a category, {label}, whose keypoints are no list of names"
            return self._asked or _Order((), fault=fault)
        try:
            named = find_order(names)
        except ValueError as error:
            return self._asked or _Order((), fault=f"has the category {label}: {error}")
        if self._asked is not None and self._asked.named is not None:
            if self._asked.named != named:
                self.notes.append(
                    f"{_WHO}: the keypoints of category {label} are named as those of "
                    f"{named.joint_set}; they were read as {self._asked.named.joint_set}, as asked"
                )
            return self._asked
        if named.is_reordered:
            self.notes.append(
                f"{_WHO}: the keypoints of category {label} stand in another order than those of "
                f"{named.joint_set}, and were reordered by their names"
            )
        return _with_feet_behind(named, len(names))


def _identity(joint_set: str) -> _Order:
    order = find_joint_set(joint_set)
    return _with_feet_behind(NamedOrder(order.name, tuple(range(len(order)))), len(order))


def _with_feet_behind(named: NamedOrder, count: int) -> _Order:
    """The order; COCO's 17 may have the foot points, or all of WholeBody's, behind them."""
    is_coco = named.joint_set == "coco17" and not named.is_reordered and count == _NUM_KEYPOINTS
    return _Order((17, 23, 133) if is_coco else (count,), named)


def _make_person(entry: Entry, sample_id: str, order: _Order) -> Person:
    label = f"annotation {shown(sample_id)}"
    notes = [f"{_WHO}: {label} {order.note}"] if order.note else []
    name, fault = order.named.joint_set if order.named else "coco17", None
    points = np.zeros((len(find_joint_set(name)), 3))
    feet = np.zeros((0, 3))
    try:
        if order.fault is not None:
            raise ValueError(f"{_WHO}: {label} {order.fault}")
        given = read_points(entry["keypoints"], order.counts, label, _WHO)
        points, name = _to_set(given, order)
        if len(given) >= 23 and name == "coco17":
            feet = given[_NUM_KEYPOINTS : _NUM_KEYPOINTS + _NUM_FEET]
    except ValueError as error:
        fault = str(error)
    if name == "coco23":
        points, feet, name = points[:_NUM_KEYPOINTS], points[_NUM_KEYPOINTS:], "coco17"
    if entry.get("foot_kpts") not in (None, []):
        try:
            feet = read_points(entry["foot_kpts"], (_NUM_FEET,), f"foot_kpts of {label}", _WHO)
        except ValueError as error:
            notes.append(f"{error}; the feet were left out")
    kept = ("id", "image_id", "area", "track_id")
    extra: Entry = {key: entry[key] for key in kept if key in entry}
    if len(feet):
        extra["foot_keypoints_px"] = _clean(feet)
    return Person(sample_id, label, points, name, entry.get("bbox"), fault, tuple(notes), extra)


def _to_set(given: np.ndarray, order: _Order) -> tuple[np.ndarray, str]:
    """Keypoints of a file in the order of a joint set, and its name."""
    if order.named is not None:
        named = order.named
        return named.apply(given[: len(named.places)]), named.joint_set
    name = _BY_COUNT[len(given)]
    return given[: len(find_joint_set(name))], name


def _clean(feet: np.ndarray) -> np.ndarray:
    confidence, _, _ = to_confidence(feet[:, 2])
    return np.column_stack([feet[:, :2], confidence])


def _area(person: Person, entry: Entry) -> float:
    """Area in square pixels as the file tells it, else of the box, else around the keypoints."""
    area, box = to_number(entry.get("area")), to_box(entry.get("bbox"))
    if area is not None and area > 0.0:
        return area
    if box is None and person.num_labelled:
        points = person.keypoints.copy()
        points[:, 2] = to_confidence(points[:, 2])[0]
        box = imaging.keypoints_to_box(points)
    return 0.0 if box is None else float(box[2] * box[3])


class _UniqueIds:
    """Gives every annotation an id of its own, and knows which are the same one over again."""

    def __init__(self) -> None:
        self._first: dict[str, Entry] = {}
        self._seen: dict[str, set[str]] = {}
        self._count: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._repeated: set[int] = set()

    def take(self, entry: Entry) -> str:
        name = to_key(entry.get("id"))
        name = "without-id" if name is None else _shortened(name)
        self._count[name] += 1
        if name not in self._first:
            self._first[name] = entry
        else:
            # Texts of entries are compared, each made once: as many steps as there are entries.
            seen = self._seen.setdefault(name, {_text_of(self._first[name])})
            text = _text_of(entry)
            if text in seen:
                self._repeated.add(id(entry))
            seen.add(text)
        number = self._count[name]
        unique = name if number == 1 else f"{name}#{number}"
        while unique in self._taken:
            number += 1
            unique = f"{name}#{number}"
        self._taken.add(unique)
        return unique

    def is_repeated(self, entry: Entry) -> bool:
        return id(entry) in self._repeated


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "..."


def _text_of(entry: Entry) -> str:
    """The same text for the same entry."""
    try:
        return json.dumps(entry, sort_keys=True)
    except (ValueError, RecursionError):  # Nested without end, or with numbers without end.
        return f"entry {id(entry)}"


class _PhotoIndex:
    """The photos of the file by image id, found on disk when first asked for."""

    def __init__(self, images: list[Any], finder: PhotoFinder) -> None:
        self._finder = finder
        self._entries: dict[str, Entry] = {}
        self._order: dict[str, int] = {}
        self._photos: dict[str, Photo] = {}
        #: Other ways to write an id: without leading zeros, and the photo's name.
        self._other: dict[str, str | None] = {}
        for position, entry in enumerate(images):
            key = to_key(entry.get("id")) if isinstance(entry, dict) else None
            if key is None:
                continue
            first = self._entries.setdefault(key, entry)
            self._order.setdefault(key, position)
            for other in {_without_zeros(key), to_key(first.get("file_name"))} - {None}:
                is_new = self._other.setdefault(str(other), key) == key
                self._other[str(other)] = key if is_new else None
            if first.get("file_name") != entry.get("file_name"):
                self._photos[key] = Photo(
                    None,
                    None,
                    f"{_WHO}: image id {shown(key)} must name one photo, got "
                    f"{shown(first.get('file_name'))} and {shown(entry.get('file_name'))}",
                )

    def _key_of(self, entry: Entry) -> str | None:
        """The key of the image that an annotation means."""
        key = to_key(entry.get("image_id"))
        if key is None or key in self._entries:
            return key
        return self._other.get(_without_zeros(key)) or self._other.get(key)

    def sort_key(self, entry: Entry) -> tuple[float, list[tuple[int, int, str]]]:
        """Order of photos in the file, then of ids."""
        image, name = self._key_of(entry), to_key(entry.get("id"))
        place = float("inf") if image is None else self._order.get(image, float("inf"))
        return place, natural_key(str(name))

    def reason_to_skip(self, entry: Entry) -> str | None:
        """Whether the user named photos, and this person's is not among them."""
        return None if self.photo(entry).is_wanted else "photo not asked for"

    def photo(self, entry: Entry) -> Photo:
        """The photo of an annotation, or the sentence that says why there is none."""
        key = self._key_of(entry)
        if key is None or key not in self._entries:
            name, image = shown(entry.get("id")), shown(entry.get("image_id"))
            return Photo(None, None, f"{_WHO}: annotation {name} has an unknown image_id {image}")
        if key not in self._photos:
            self._photos[key] = self._find(self._entries[key])
        return self._photos[key]

    def _find(self, image: Entry) -> Photo:
        name = image.get("file_name")
        width, height = to_whole(image.get("width")), to_whole(image.get("height"))
        declared = (width, height) if width and height else None
        if not isinstance(name, str) or not name:
            return Photo(None, declared, f"{_WHO}: image {shown(image.get('id'))} has no file_name")
        try:
            return check_photo(self._finder.find(name), declared, _WHO)
        except FileNotFoundError as error:
            is_wanted = not self._finder.is_selection
            return Photo(self._finder.expected(name), declared, str(error), is_wanted)
        except ValueError as error:
            return Photo(None, declared, str(error))


def _without_zeros(key: str) -> str:
    return key.lstrip("0") or "0" if key.isascii() and key.isdigit() else key
