"""PoseTrack 2018 and 2021: one COCO file per video, in a folder.

Tracks begin anew in every video, and so do annotation ids in some releases: both carry the video.
The two ears are named and never labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from eft_fast.data.photos import natural_key
from eft_fast.data.readers.coco import people_of_coco
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import to_key
from eft_fast.sample import Sample


def is_posetrack(peek: Peek) -> bool:
    """Whether it is a folder of such files, or one with ``annotations`` or train, val and test."""
    if not peek.is_folder:
        return False
    child = peek.child("annotations", "train", "val", "test")
    if child is not None and child.is_folder:
        return is_posetrack(child)
    child = peek.child("*.json")
    return child is not None and bool({"vid_id", "is_labeled"} & child.json_first("images").keys())


def samples_of_posetrack(reading: Reading) -> Iterator[Sample]:
    """The people, video by video, frame by frame."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    root = reading.path / "annotations"
    root = root if root.is_dir() else reading.path
    files = sorted(root.rglob("*.json"), key=lambda file: natural_key(file.as_posix()))
    taken: set[str] = set()
    for file in files:
        try:
            for found in people_of_coco(reading, file):
                yield _unlike(found, file, taken)
        except ValueError as error:
            reading.left_out["unreadable files"] += 1
            reading.notes.append(str(error))


def _unlike(found: Found, file: Path, taken: set[str]) -> Found:
    """The person, with the video in its id where another video has the same one."""
    person, fields = found.person, dict(found.fields)
    if person.id in taken:
        person = replace(person, id=f"{file.stem}/{person.id}")
    taken.add(person.id)
    track = to_key(person.extra.get("track_id"))
    if track is not None and "track_id" not in fields:
        fields["track_id"] = fields["subject_id"] = f"{file.stem}-{track}"
    return replace(found, person=person, fields=fields)
