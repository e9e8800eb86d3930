"""The people of a run, one after another: from annotations as they are read, or a detector."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from eft_fast.cli.paths import is_one_folder
from eft_fast.cli.people import People, photos_inside
from eft_fast.keypoints import joint_set
from eft_fast.sample import Sample, in_set

#: People with fewer labelled keypoints, or of at most this area in square pixels, are left out.
MIN_KEYPOINTS, MIN_AREA = 10, 4000.0
#: Sentences that are kept; datasets may lack every photo.
_MOST_PROBLEMS: Final = 1000


#: ``people_from_detector``, or what stands for it.
Detect: TypeAlias = Callable[..., People]


class Gathering:
    """Iterates over the people who can be fitted; the rest is complete at the end.

    Attributes:
        source: Where the keypoints come from.
        left_out: People left out, by reason.
        has_tracks: Whether everybody has a track, and nobody is twice in a photo.
        noise: As of ``People``.
    """

    def __init__(self, options: argparse.Namespace, detect: Detect) -> None:
        self._options, self._detect = options, detect
        self.left_out: dict[str, int] = {}
        self.has_tracks = True
        self._problems: list[str] = []
        self._more = 0
        self._joint_set: str | None = None
        self.source = str(options.annotations or "the built-in detector")
        self.noise = "detector" if options.annotations is None else None

    def __iter__(self) -> Iterator[Sample]:
        self.left_out, self._problems, self._more, self.has_tracks = {}, [], 0, True
        samples = self._detected() if self._options.annotations is None else self._annotated()
        photo, tracks = "", set[str | None]()
        for sample in samples:
            if self._joint_set is not None:
                sample = in_set(sample, self._joint_set)
            if sample.photo != photo:
                photo, tracks = sample.photo, set()
            if sample.track_id is None or sample.track_id in tracks:
                self.has_tracks = False
            tracks.add(sample.track_id)
            yield sample

    def find_joint_set(self) -> None:
        """Look at everybody: they are brought into the largest of their joint sets from now on.

        Raises:
            ValueError: If that does not begin with all of the others.
        """
        sets = sorted({sample.keypoint_set for sample in self}, key=lambda s: len(joint_set(s)))
        names = joint_set(sets[-1]).names
        if any(joint_set(each).names != names[: len(joint_set(each))] for each in sets):
            raise ValueError(
                f"people: one joint set per run is expected, got {', '.join(sorted(sets))}; "
                "split the annotations"
            )
        self._joint_set = sets[-1]

    @property
    def problems(self) -> list[str]:
        """What is wrong with people, and with the file, a sentence each."""
        more = [f"and {self._more} more of these"] if self._more else []
        return self._problems + more

    def key(self) -> str:
        """Names the photos that the detector looks at; empty with annotations."""
        if self._options.annotations is not None:
            return ""
        facts = []
        for photo in self._options.photos:
            state = os.stat(photo)
            facts.append([os.path.abspath(photo), state.st_size, state.st_mtime_ns])
        return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def nobody(self) -> str:
        """Why there is nobody to fit."""
        people = People(joint_set="coco17", source=self.source)
        people.problems, people.left_out = self.problems, self.left_out
        return people.nobody()

    def _annotated(self) -> Iterator[Sample]:
        from eft_fast.data import stream_annotations

        options = self._options
        stream = stream_annotations(
            options.annotations,
            # Of one folder the annotations name the photos; one that is missing there is told of.
            options.photos[0] if is_one_folder(options.photos) else options.photos,
            min_keypoints=options.min_keypoints or MIN_KEYPOINTS,
            min_area=MIN_AREA if options.min_area is None else options.min_area,
            joint_set=options.joint_set,
            format_name=options.format,
        )
        inside: list[str] = []
        for sample in stream:
            if sample.problem is not None:
                self._tell(sample.problem)
            elif sample.image is not None and not isinstance(sample.image, str | Path):
                inside.append(sample.id)
            elif sample.image is not None:
                for note in sample.notes:
                    self._tell(note)
                yield sample
        self.left_out = stream.left_out
        self._problems[:0] = stream.notes
        if inside:
            self._problems.insert(0, photos_inside(len(inside), inside[0]))

    def _detected(self) -> Iterator[Sample]:
        people = self._detect(self._options.photos, quiet=self._options.quiet)
        self._problems += people.problems
        for row, photo in enumerate(people.photos):
            x, y, width, height = np.asarray(people.boxes[row], np.float64)
            yield Sample(
                id=people.ids[row],
                dataset="detector",
                image=Path(photo),
                keypoints_2d_px=people.keypoints[row],
                keypoint_set=people.joint_set,
                bbox_xyxy=np.array([x, y, x + width, y + height]),
            )

    def _tell(self, sentence: str) -> None:
        if len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(sentence)
        else:
            self._more += 1
