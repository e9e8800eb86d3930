"""One reading of an annotation file: what was asked for, what is counted, and the way to samples.

A reader is a ``Reader``: how its files are recognised, and a function that takes a ``Reading`` and
yields samples. Most only parse: they yield a ``Found`` per person, and ``Reading.samples`` does for
all of them alike what has to be done about photos, units, boxes and filters.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast import imaging
from eft_fast.data.photos import PhotoFinder
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.person import (
    TO_TELL_ORDER,
    Person,
    Photo,
    check_photo,
    make_sample,
    note_file,
    reason_too_little,
    with_unit_fault,
)
from eft_fast.data.values import shown
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.plausible import to_box, to_confidence
from eft_fast.sample import Sample, SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos

#: Names of COCO's photos: 000000000139.jpg, COCO_val2014_000000000139.jpg.
_COCO_NAME: Final = re.compile(r"(?:^|/|COCO_(?:train|val|test)[0-9]{4}_)([0-9]{12})\.jpg$")
#: Photos that are remembered: those of people who stand together in a file.
_PHOTOS_KEPT: Final = 256


@dataclass(frozen=True, eq=False)
class Found:
    """A person as a file tells it, before anything is checked.

    Attributes:
        person: The person.
        photo: Name of the photo, with as many folders as the file gives; None: it names none. Or
            the photo, where a reader has looked for it.
        size: Width and height that the photo should have.
        area: Square pixels of the person; None: that of the box, else of the keypoints.
        has_stem: ``photo`` has no ending such as ``.jpg``.
        fields: More fields of ``Sample``: ``frame``, ``keypoints_3d``, ``K``, ``full_pose`` ...
    """

    person: Person
    photo: str | Photo | None = None
    size: tuple[int, int] | None = None
    area: float | None = None
    has_stem: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Reading:
    """What one reading asks for, and what it finds on the way.

    Attributes:
        path: The annotation file or folder.
        who: Opens every sentence: ``read_coco``.
        format: Name of the format; a reader may say it more closely.
        photos: Where the photos are; None: they are not looked for, and samples have no photo.
        min_keypoints: Fewest labelled keypoints of a person.
        min_area: People with no more square pixels are left out; 0 keeps all.
        asked: Joint set that the user named.
        keep: Further keys of an annotation that go into ``extra``.
        box_confidence: Keypoints above it shape the box of a person without one.
        left_out: People who are left out, by reason.
        notes: What is odd about the file as a whole, a sentence each.
        problems: People who cannot be fitted, by kind of reason.
        is_judged: Whether the people are those of their joint set has been looked at.
    """

    path: Path
    who: str
    format: str
    photos: Photos | None = None
    min_keypoints: int = 1
    min_area: float = 0.0
    asked: JointSet | None = None
    keep: tuple[str, ...] = ()
    box_confidence: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    is_judged: bool = False

    def order(self, joint_set: str) -> JointSet:
        """The joint set of the file's keypoints: the format's own, or what the user named.

        Raises:
            ValueError: If the user's has another number of joints.
        """
        own = find_joint_set(joint_set)
        if self.asked is None or self.asked.name == own.name:
            return own
        if len(self.asked) != len(own):
            raise ValueError(
                f"{self.who}: {self.path} has the {len(own)} keypoints of {own.name}, while "
                f"{self.asked.name} has {len(self.asked)}; leave out --joint-set"
            )
        return self.asked

    def samples(self, people: Iterable[Found], *, are_ids_unique: bool = False) -> Iterator[Sample]:
        """Check every person, leave out and count the unwanted, and make samples of the others.

        An id that comes again gets a number behind it.
        """
        taken: Counter[str] = Counter()
        for found in people:
            if not are_ids_unique:
                found = _with_unique_id(found, taken)
            photo = self._photo(found)
            if not photo.is_wanted:
                self.left_out["photo not asked for"] += 1
                continue
            person = with_unit_fault(found.person, photo, self.who)
            area = 0.0 if self.min_area <= 0.0 else _area(person, found.area)
            reason = reason_too_little(person, area, self.min_keypoints, self.min_area)
            if reason is not None:
                self.left_out[reason] += 1
                continue
            sample = make_sample(
                person, photo, self.format, self.who, box_confidence=self.box_confidence
            )
            if sample.problem is not None:
                self.problems[_kind_of_problem(photo, person)] += 1
            yield replace(sample, **found.fields) if found.fields else sample

    def find_photo(
        self, name: str, size: tuple[int, int] | None = None, *, has_stem: bool = False
    ) -> Photo:
        """The photo with this name, or the sentence that says why there is none."""
        return self._finding(name, size, has_stem)

    def find_numbered(self, number: str) -> Photo:
        """The photo whose name ends in this number, as COCO's do: 000000000139.jpg for 139."""
        if self._finder is None:
            return Photo(None)
        stem = self._numbered.get(number.lstrip("0") or "0")
        if stem is None:
            text = f"{self.who}: no photo, or several, with the number {shown(number)} in its name"
            return Photo(None, None, text, is_wanted=not self._finder.is_selection)
        return self.find_photo(stem, has_stem=True)

    def has_numbered(self, numbers: Iterable[str]) -> bool:
        """Whether a photo has one of these numbers; photos that are not looked for may have all."""
        return self._finder is None or any(
            self._numbered.get(number.lstrip("0") or "0") for number in numbers
        )

    def _photo(self, found: Found) -> Photo:
        if isinstance(found.photo, Photo):
            return found.photo
        if found.photo is None and self._finder is not None:
            text = f"{self.who}: {found.person.label} names no photo"
            return Photo(None, found.size, text)
        return self.find_photo(found.photo or "", found.size, has_stem=found.has_stem)

    @functools.cached_property
    def _finder(self) -> PhotoFinder | None:
        return None if self.photos is None else PhotoFinder(self.photos, self.who)

    @functools.cached_property
    def _numbered(self) -> dict[str, str | None]:
        """Photos by the number at the end of their names; None: several."""
        found: dict[str, str | None] = {}
        for stem in sorted(self._finder.stems()) if self._finder is not None else ():
            digits = re.search(r"[0-9]+$", stem)
            if digits is not None:
                number = digits[0].lstrip("0") or "0"
                found[number] = None if number in found else stem
        return found

    @functools.cached_property
    def _finding(self) -> Callable[[str, tuple[int, int] | None, bool], Photo]:
        finder, who = self._finder, self.who

        @functools.lru_cache(maxsize=_PHOTOS_KEPT)
        def find(name: str, size: tuple[int, int] | None, has_stem: bool) -> Photo:
            if finder is None:
                return Photo(None, size)
            try:
                path = finder.find_stem(name) if has_stem else finder.find(name)
                return check_photo(path, size, who)
            except FileNotFoundError as error:
                number = _COCO_NAME.search(name)
                stem = self._numbered.get(number[1].lstrip("0")) if number else None
                if stem is not None:  # COCO's photos of 2014 and of 2017 differ in their names.
                    return find(stem, size, True)
                expected = None if has_stem else finder.expected(name)
                return Photo(expected, size, str(error), is_wanted=not finder.is_selection)
            except ValueError as error:
                return Photo(None, size, str(error))

        return find


@dataclass(frozen=True)
class Reader:
    """A format that is read.

    Attributes:
        name: What ``--format`` calls it.
        title: What a sentence calls it.
        matches: Whether a file or folder is one, told at a glance. Cheap, and raises nothing.
        module: Where the reader is; imported when it is first used.
        function: Its function there: a ``Reading`` in, samples out one after another.
        joint_set: The order of its keypoints, or how it is told.
    """

    name: str
    title: str
    matches: Callable[[Peek], bool]
    module: str
    function: str
    joint_set: str

    def start(
        self,
        path: PathLike,
        photos: Photos | None = None,
        *,
        min_keypoints: int = 1,
        min_area: float = 0.0,
        joint_set: str | None = None,
        **options: Any,
    ) -> SampleStream:
        """Begin to read; arguments as in ``stream_annotations``."""
        reading = Reading(
            path=Path(path),
            who=self.function.replace("samples_of_", "read_"),
            format=self.name,
            photos=photos,
            min_keypoints=min_keypoints,
            min_area=min_area,
            asked=None if joint_set is None else find_joint_set(joint_set),
        )
        read = getattr(importlib.import_module(self.module), self.function)
        return SampleStream(reading, read(reading, **options), self.title)


class SampleStream(Iterator[Sample]):
    """Samples one after another; what was left out is complete when they have all been taken.

    Attributes:
        title: What a sentence calls the format.
        joint_sets: How many samples came in each joint set.
    """

    def __init__(self, reading: Reading, samples: Iterable[Sample], title: str = "") -> None:
        self._reading = reading
        self.title = title
        self._samples = iter(samples)
        self._first: list[Sample] = []
        self.joint_sets: Counter[str] = Counter()

    def __iter__(self) -> SampleStream:
        return self

    def __next__(self) -> Sample:
        try:
            sample = next(self._samples)
        except StopIteration:
            self._judge()
            raise
        self.joint_sets[sample.keypoint_set] += 1
        if sample.problem is None and not self._reading.is_judged:
            self._first.append(sample)
            if len(self._first) == TO_TELL_ORDER:
                self._judge()
        return sample

    @property
    def format(self) -> str:
        """Name of the format, as closely as it is known."""
        return self._reading.format

    @property
    def left_out(self) -> dict[str, int]:
        """People who are left out, by reason; so far."""
        return dict(+self._reading.left_out)

    @property
    def problems(self) -> dict[str, int]:
        """Samples that cannot be fitted, by kind of reason; so far."""
        return dict(+self._reading.problems)

    @property
    def notes(self) -> list[str]:
        """What is odd about the file as a whole, a sentence each; so far."""
        return list(self._reading.notes)

    def to_list(self) -> SampleList:
        """Take all that are left."""
        samples = list(self)
        return SampleList(samples, self.left_out, self.notes)

    def _judge(self) -> None:
        """Whether the first people look like those of the joint set that they are read in."""
        if not self._reading.is_judged:
            self._reading.is_judged = True
            self._reading.notes += note_file(self._first, self._reading.who)
            self._first = []


def _kind_of_problem(photo: Photo, person: Person) -> str:
    if photo.problem is not None:
        return "without a usable photo"
    return "unreadable keypoints" if person.fault is not None else "unusable keypoints or box"


def _with_unique_id(found: Found, taken: Counter[str]) -> Found:
    """The person, with the id or the id and the next number that is free."""
    given = found.person.id
    taken[given] += 1
    if taken[given] == 1:
        return found
    while taken[name := f"{given}#{taken[given]}"]:
        taken[given] += 1
    taken[name] += 1
    return replace(found, person=replace(found.person, id=name))


def _area(person: Person, area: float | None) -> float:
    """Square pixels as the file tells them, else of the box, else around the keypoints."""
    if area is not None and area > 0.0:
        return area
    box = to_box(person.box)
    if box is None and person.num_labelled:
        points = person.keypoints.copy()
        points[:, 2] = to_confidence(points[:, 2])[0]
        box = imaging.keypoints_to_box(points)
    return 0.0 if box is None else float(np.prod(box[2:]))
