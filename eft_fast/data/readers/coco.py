"""COCO person keypoints: ``{"images": [...], "annotations": [...], "categories": [...]}``.

Many datasets and tools use this form: COCO's feet and WholeBody, PoseTrack, CrowdPose, OCHuman,
Human-Art, Halpe, AI Challenger and JHMDB as converted for mmpose; and detectors write the list of
annotations alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from eft_fast.data.readers.coco_index import UNKNOWN, CocoIndex, Image
from eft_fast.data.readers.coco_orders import Categories, Order
from eft_fast.data.readers.person import Person, Photo
from eft_fast.data.readers.reading import Found, Reading, SampleStream
from eft_fast.data.values import read_points, shown, to_key, to_number, to_whole
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.keypoints import to_body_set
from eft_fast.plausible import to_box, to_confidence
from eft_fast.sample import Sample, SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos

Entry: TypeAlias = dict[str, Any]

_WHO: Final = "read_coco"
_NUM_FEET: Final = 6
#: Datasets that are known by the names of their keypoints.
_BY_SET: Final = {
    "posetrack17": "posetrack18",
    "crowdpose14": "crowdpose",
    "ochuman19": "ochuman",
    "aic14": "aic",
    "jhmdb15": "jhmdb",
}
_KEPT: Final = ("id", "image_id", "area", "track_id", "score")


def read_coco(
    path: PathLike,
    photos: Photos | None,
    *,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    joint_set: str | None = None,
) -> SampleList:
    """Read the people of a COCO keypoints file, or of a list of detections.

    The order of the keypoints is that of ``categories[].keypoints``: they are brought into the
    joint set that has these names, and people of a category whose names no set has are refused.
    Without names it is told by their number: 17 are COCO's, 23 with its feet, 26 Halpe's. Feet
    behind COCO's 17, or in ``foot_kpts``, make a person's ``coco23``, and are in
    ``extra["foot_keypoints_px"]`` too. Of WholeBody's 133 and Halpe's 136 the points of face and
    hands go to ``extra["unused_keypoints_px"]``: SMPL has no place for them.

    Visibility 1 (hidden) and 2 (seen) both become confidence 1; scores in [0, 1] in their place are
    kept. Crowds and people without labels are left out and counted. Ids match as numbers, floats
    and text.

    Args:
        path: The JSON file.
        photos: Folder of the photos: every annotated photo is expected in it or below. Or a list of
            files: only these are wanted. None: photos are not looked for.
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
    asked = None if joint_set is None else find_joint_set(joint_set)
    reading = Reading(Path(path), _WHO, "coco", photos, min_keypoints, min_area, asked)
    return SampleStream(reading, samples_of_coco(reading)).to_list()


def samples_of_coco(reading: Reading) -> Iterator[Sample]:
    """The samples, one after another; errors as in ``read_coco``."""
    yield from reading.samples(people_of_coco(reading, reading.path), are_ids_unique=True)


def people_of_coco(reading: Reading, path: Path) -> Iterator[Found]:
    """The people of one file, which may be one of several of a reading."""
    with CocoIndex(path, reading.who) as index:
        is_crowd_pose = "crowdIndex" in index.keys_of_images
        usual = find_joint_set("crowdpose14") if is_crowd_pose else None
        listed = index.others.get("categories")
        categories = Categories(listed, reading.asked, reading.who, usual)
        if (numbers := index.unnamed()) and not reading.has_numbered(numbers):
            raise ValueError(
                f"{reading.who}: {path} must hold an object with images and annotations, "
                f"got a list with the image_id {numbers[0]}, which names no photo; add the images: "
                '{"images": [...], "annotations": [the list]}'
            )
        people = _People(index, categories, reading)
        reading.format = people.format
        reading.left_out["not objects"] += index.num_odd
        for row, entry, image in index.entries():
            reason = _reason_to_skip(entry, categories)
            photo = people.photo(entry, image) if reason is None else None
            if photo is not None and not photo.is_wanted:
                reason = "photo not asked for"
            if reason is not None:
                reading.left_out[reason] += 1
                continue
            sample_id, is_repeated = people.ids.take(row, entry)
            if is_repeated:
                reading.left_out["repeated annotations"] += 1
                continue
            yield people.found(entry, sample_id, image, photo)
        notes = categories.notes + people.notes()
        reading.notes += [note for note in notes if note not in reading.notes]


def _reason_to_skip(entry: Entry, categories: Categories) -> str | None:
    """Why an annotation is no person with keypoints."""
    if categories.is_other(entry):
        return "not people"
    if entry.get("iscrowd") in (1, "1"):
        return "crowds"
    if entry.get("keypoints") in (None, []):
        return "without keypoints"
    return None


class _People:
    """Makes a person of each annotation of a document."""

    def __init__(self, index: CocoIndex, categories: Categories, reading: Reading) -> None:
        self._index, self._categories, self._reading = index, categories, reading
        self.ids = _UniqueIds(index)
        #: Keypoints without a place on the body, by the number of all of a person.
        self._unused: dict[int, int] = {}

    @property
    def format(self) -> str:
        """Which of the datasets in this form the file is of, as far as it shows."""
        known = self._reading.format
        if known not in ("coco", "posetrack") or self._index.first is None:
            return known
        keys, images = self._index.first.keys(), self._index.keys_of_images
        named = self._categories.order(self._index.first).named
        values = self._index.first["keypoints"]
        count = len(values) // 3 if isinstance(values, list) else 0
        for name, holds in (
            ("posetrack21", "vid_id" in images and "person_id" in keys),
            ("posetrack18", "vid_id" in images or "is_labeled" in images),
            ("crowdpose", "crowdIndex" in images),
            ("densepose-coco", "dp_x" in keys or "dp_I" in keys),
            ("humanart", "keypoints_21" in keys),
            ("coco-wholebody", count == 133 or "lefthand_kpts" in keys),
            ("halpe", count in (26, 136)),
            ("coco-foot", count == 23 or "foot_kpts" in keys),
        ):
            if holds:
                return name
        return _BY_SET.get(named.joint_set, known) if named is not None else known

    def photo(self, entry: Entry, image: Image) -> Photo:
        """The photo of an annotation, or the sentence that says why there is none."""
        who, reading = self._reading.who, self._reading
        if image.problem is not None:
            text = image.problem
            if text == UNKNOWN:
                name, given = shown(entry.get("id")), shown(entry.get("image_id"))
                text = f"{who}: annotation {name} has an unknown image_id {given}"
            return Photo(None, image.size, text)
        if image.name is None:
            return reading.find_numbered(image.key)
        return reading.find_photo(image.name, image.size)

    def found(self, entry: Entry, sample_id: str, image: Image, photo: Photo | None) -> Found:
        """The person of an annotation."""
        order = self._categories.order(entry)
        person = self._person(entry, sample_id, order)
        fields = _video_fields(entry, image)
        return Found(person, photo, image.size, to_number(entry.get("area")), fields=fields)

    def notes(self) -> list[str]:
        """What holds for the people of the file, a sentence each."""
        who = self._reading.who
        return [
            f"{who}: {number} of {count} keypoints (face and hands) have no place on the body, and "
            "are not used"
            for count, number in self._unused.items()
        ]

    def _person(self, entry: Entry, sample_id: str, order: Order) -> Person:
        who = self._reading.who
        label = f"annotation {shown(sample_id)}"
        notes = [f"{who}: {label} {order.note}"] if order.note else []
        box = entry.get("bbox")
        fault, body = None, to_body_set(order.named.joint_set if order.named else "coco17")
        points = np.zeros((len(body), 3))
        kept = (*_KEPT, *self._reading.keep)
        extra: Entry = {key: entry[key] for key in kept if key in entry}
        try:
            if order.fault is not None:
                raise ValueError(f"{who}: {label} {order.fault}")
            given = read_points(entry["keypoints"], order.counts, label, who)
            points, body, rest = order.apply(given)
            if body.name == "jhmdb15":
                # mmpose's files of JHMDB count pixels from 1, as MATLAB does.
                points = points - [1.0, 1.0, 0.0]
                corners = to_box(box)
                box = box if corners is None else corners - [1.0, 1.0, 0.0, 0.0]
            if len(rest):
                self._unused[len(given)] = len(rest)
                extra["unused_keypoints_px"] = _clean(rest)
        except ValueError as error:
            fault = str(error)
        name = body.name
        if name == "coco17" and entry.get("foot_kpts") not in (None, []):
            try:
                feet = read_points(entry["foot_kpts"], (_NUM_FEET,), f"foot_kpts of {label}", who)
                points, name = np.concatenate([points, feet]), "coco23"
            except ValueError as error:
                notes.append(f"{error}; the feet were left out")
        if name == "coco23":
            extra["foot_keypoints_px"] = _clean(points[-_NUM_FEET:])
        return Person(sample_id, label, points, name, box, fault, tuple(notes), extra)


def _video_fields(entry: Entry, image: Image) -> dict[str, Any]:
    """Frame and track of a person in a video of a dataset, whose tracks begin anew in each."""
    more = image.more or {}
    video, track = to_key(more.get("vid_id")), to_key(entry.get("track_id"))
    fields: dict[str, Any] = {}
    if video is not None and track is not None:
        fields["track_id"] = fields["subject_id"] = f"{video}-{track}"
    frame = to_whole(more.get("frame_id"))
    if video is not None and image.name is not None:
        # PoseTrack's frame_id holds the video too; the photo's name is the number of the frame.
        digits = re.search(r"([0-9]+)\.[A-Za-z]+$", image.name)
        frame = int(digits[1][-9:]) if digits else frame
    return fields if frame is None else {**fields, "frame": frame}


def _clean(points: np.ndarray) -> np.ndarray:
    confidence, _, _ = to_confidence(points[:, 2])
    return np.column_stack([points[:, :2], confidence])


class _UniqueIds:
    """Gives every annotation an id of its own, and knows which are the same one over again."""

    def __init__(self, index: CocoIndex) -> None:
        self._index = index
        #: Row of the first annotation with an id; texts of those with the same one.
        self._first: dict[str, int] = {}
        self._seen: dict[str, set[int]] = {}
        self._count: Counter[str] = Counter()
        self._taken: set[str] = set()

    def take(self, row: int, entry: Entry) -> tuple[str, bool]:
        """An id for an annotation; whether it is one that came before, the whole of it."""
        name = to_key(entry.get("id"))
        if name is not None and self._index.is_single(name):
            return name, False
        name = "without-id" if name is None else _shortened(name)
        if name not in self._first:
            self._first[name] = row
            if name not in self._taken:
                return name, False
        # Texts of entries are compared, each made once: as many steps as there are entries.
        first = self._first[name]
        seen = self._seen.setdefault(name, {_text_hash(self._index.read(first), first)})
        text = _text_hash(entry, row)
        is_repeated = text in seen and row != first
        seen.add(text)
        number = self._count[name] = self._count[name] + 1
        unique = f"{name}#{number + 1}"
        while unique in self._taken or unique in self._first:
            number += 1
            unique = f"{name}#{number + 1}"
        self._taken.add(unique)
        return unique, is_repeated


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "..."


def _text_hash(entry: Entry, row: int) -> int:
    """The same number for the same entry."""
    try:
        return hash(json.dumps(entry, sort_keys=True))
    except (ValueError, RecursionError):  # Nested without end, or with numbers without end.
        return row
