"""Where the annotations of a COCO file stand in it, by photo: a few bytes of each person.

A file of all of COCO's people is decoded twice: once for this index, and once in the order of the
photos, an annotation at a time. What an annotation holds is never kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from eft_fast.data.json_stream import Element, JsonFile
from eft_fast.data.photos import natural_key
from eft_fast.data.values import shown, to_key, to_whole

Entry: TypeAlias = dict[str, Any]

#: Keys of an image that tell what dataset it is of, or go into the sample.
_KEPT_OF_IMAGE: Final = ("vid_id", "frame_id", "is_labeled", "crowdIndex")
_NOBODY: Final = -1
#: The problem of an image that is not listed.
UNKNOWN: Final = "unknown"


class Image(NamedTuple):
    """What the file says about a photo.

    Attributes:
        key: Its id, as one text.
        name: Its ``file_name``; None: it has none.
        size: Its width and height.
        place: Its place among the images of the file; of one that is not listed, behind them.
        problem: Why it cannot be told which photo it is.
        more: Other keys that are of use.
    """

    key: str
    name: str | None
    size: tuple[int, int] | None = None
    place: int = 0
    problem: str | None = None
    more: Entry | None = None


class CocoIndex:
    """The images of a document, and where the annotations of each stand.

    Attributes:
        others: What the document holds beside images and annotations: lists with their elements.
        first: The first annotation that has keypoints; None: there is none.
        keys_of_images: Of the images' keys those that tell what dataset it is.
        num_odd: Annotations that are no objects.
        is_results: The document is a list of detections, which names no images.
    """

    def __init__(self, path: Path, who: str) -> None:
        """Read through the document.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not COCO keypoints as a whole.
        """
        self._path, self._who = path, who
        self.others: dict[str, Any] = {}
        self.first: Entry | None = None
        self.keys_of_images: set[str] = set()
        self.num_odd, self.is_results = 0, False
        self._num_entries = 0
        self._rows = array("q")  # start, end and slot of each annotation
        #: Ids of annotations that are numbers, and then those of them that come more than once.
        self._ids, self._repeated = array("q"), frozenset[int]()
        #: Places for images and for mentions of images, by key.
        self._slots: dict[str, int] = {}
        self._images: list[Image | None] = []
        self._num_images = 0
        self._lists: dict[str, None] = {}
        self._file = JsonFile(path, who)
        for element in self._file:
            self._take(element)
        self._check()
        self._settle()

    def __enter__(self) -> CocoIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()

    def __len__(self) -> int:
        return len(self._rows) // 3

    def entries(self) -> Iterator[tuple[int, Entry, Image]]:
        """Row, annotation and image: in the order of the images, then of the annotation ids."""
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 3)
        if not len(rows):
            return
        places = np.array([image.place for image in self._known()], dtype=np.int64)[rows[:, 2]]
        order = np.argsort(places, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(places[order])) + 1):
            found = [(int(row), self.read(int(row))) for row in group]
            for row, entry in sorted(found, key=lambda pair: _id_key(pair[1])):
                yield row, entry, self._known()[self._rows[3 * row + 2]]

    def read(self, row: int) -> Entry:
        """Decode an annotation once more."""
        entry: Entry = self._file.read(*self._rows[3 * row : 3 * row + 2])
        if not self.is_results:
            return entry
        # AlphaPose's names for the box and the track.
        track = entry.get("idx")
        track = track[0] if isinstance(track, list) and track else track
        known = {"bbox": entry.get("box"), "track_id": track}
        return {**{key: value for key, value in known.items() if value is not None}, **entry}

    def is_single(self, annotation_id: str) -> bool:
        """Whether an id is a number that only one annotation has."""
        number = _plain_number(annotation_id)
        return number is not None and number not in self._repeated

    def _known(self) -> list[Image]:
        return self._images  # type: ignore[return-value]  # _settle leaves no None

    def _take(self, element: Element) -> None:
        key, value = element.key, element.value
        if element.place < 0 and value != []:
            self.others[key] = value
            return
        self._lists.setdefault(key)
        if element.place < 0:
            self.others.setdefault(key, [])
        elif key == "images":
            self._take_image(value)
        elif key in ("annotations", ""):
            self._take_annotation(element)
        else:
            self.others.setdefault(key, []).append(value)

    def _take_image(self, entry: Any) -> None:
        place = self._num_images
        self._num_images += 1
        key = to_key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None:
            return
        slot = self._slot(key)
        known, name = self._images[slot], entry.get("file_name")
        if known is None:
            width, height = to_whole(entry.get("width")), to_whole(entry.get("height"))
            size = (width, height) if width and height else None
            more = {name: entry[name] for name in _KEPT_OF_IMAGE if name in entry} or None
            self.keys_of_images.update(more or ())
            text = name if isinstance(name, str) and name else None
            fault = (
                None if text else f"{self._who}: image {shown(entry.get('id'))} has no file_name"
            )
            self._images[slot] = Image(key, text, size, place, fault, more)
        elif known.problem is None and name != known.name:
            fault = (
                f"{self._who}: image id {shown(key)} must name one photo, got "
                f"{shown(known.name)} and {shown(name)}"
            )
            self._images[slot] = known._replace(name=None, size=None, problem=fault)

    def _take_annotation(self, element: Element) -> None:
        entry = element.value
        if not isinstance(entry, dict):
            self.num_odd += 1
            return
        if self.first is None and "keypoints" in entry:
            self.first = entry
        self._num_entries += 1
        number = _plain_number(to_key(entry.get("id")))
        if number is not None:
            self._ids.append(number)
        key = to_key(entry.get("image_id"))
        slot = _NOBODY if key is None else self._slot(key)
        self._rows.extend((element.start, element.end, slot))

    def _slot(self, key: str) -> int:
        slot = self._slots.setdefault(key, len(self._images))
        if slot == len(self._images):
            self._images.append(None)
        return slot

    def _check(self) -> None:
        """Whether the document is COCO keypoints as a whole."""
        if self._lists.keys() == {""}:
            self.is_results = True
            if set(self._rows[2::3]) <= {_NOBODY}:
                raise ValueError(
                    f"{self._who}: {self._path} must hold an object with images and annotations, "
                    "got a list with no image_id, which names no photo; add the images: "
                    '{"images": [...], "annotations": [the list]}'
                )
        elif "" in self.others and not isinstance(self.others[""], dict):
            raise ValueError(
                f"{self._who}: {self._path} must hold an object with images and annotations, got "
                f"{type(self.others['']).__name__}"
            )
        else:
            for key in ("images", "annotations"):
                if key not in self._lists:
                    raise self._lacking(key)
        if self._num_entries and self.first is None:
            raise ValueError(
                f"{self._who}: no annotation of {self._path} has keypoints; use the "
                "person_keypoints file, not the instances file"
            )

    def _lacking(self, key: str) -> ValueError:
        names = sorted({*self._lists, *self.others} - {""})
        keys = ", ".join(shown(name) for name in names[:8]) or "none"
        hint = "; of an OpenPose output give the folder" if "people" in names else ""
        return ValueError(
            f"{self._who}: {self._path} must have a list of objects {key}, got the keys "
            f"{keys}{hint}"
        )

    def _settle(self) -> None:
        """Give every annotation an image, also those whose image is not listed."""
        lost = [key for key, slot in self._slots.items() if self._images[slot] is None]
        if lost and not self.is_results:
            self._find_other_ids(lost)
        for key, slot in self._slots.items():
            if self._images[slot] is None:
                self._images[slot] = self._unlisted(key, slot)
        nobody = len(self._images)
        self._images.append(self._unlisted(None, nobody))
        if _NOBODY in self._rows[2::3]:
            for place in range(2, len(self._rows), 3):
                if self._rows[place] == _NOBODY:
                    self._rows[place] = nobody
        self._slots = {}
        ids, counts = np.unique(np.array(self._ids, dtype=np.int64), return_counts=True)
        self._repeated = frozenset(ids[counts > 1].tolist())
        self._ids = array("q")

    def _unlisted(self, key: str | None, slot: int) -> Image:
        """An image that only annotations mention; of detections, by its name or number."""
        if self.is_results and key is not None:
            return Image(key, key if Path(key).suffix else None, None, slot)
        return Image(key or "", None, None, self._num_images + len(self._slots), UNKNOWN)

    def unnamed(self) -> list[str]:
        """Keys of the images of detections that are numbers rather than names."""
        if not self.is_results:
            return []
        return [image.key for image in self._known() if image.name is None and not image.problem]

    def _find_other_ids(self, lost: list[str]) -> None:
        """Point ids in another writing (zeros in front, the photo's name) to their image."""
        other: dict[str, int | None] = {}
        for image in self._images:
            if image is None:
                continue
            slot = self._slots[image.key]
            for text in {_without_zeros(image.key), to_key(image.name)} - {None}:
                is_new = other.setdefault(str(text), slot) == slot
                other[str(text)] = slot if is_new else None
        for key in lost:
            found = other.get(_without_zeros(key))
            found = other.get(key) if found is None else found
            if found is not None:
                self._images[self._slots[key]] = self._images[found]


def _id_key(entry: Entry) -> list[tuple[int, int, str]]:
    return natural_key(str(to_key(entry.get("id"))))


def _plain_number(key: str | None) -> int | None:
    """The number that an id is, if it is written as numbers are and not endless."""
    if key is None or len(key) > 18 or not (key.isascii() and key.isdigit()):
        return None
    return int(key) if key == "0" or key[0] != "0" else None


def _without_zeros(key: str) -> str:
    return key.lstrip("0") or "0" if key.isascii() and key.isdigit() else key
