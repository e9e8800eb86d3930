"""mmpose: what its inferencer and its demos write, a JSON file per photo or video.

A list of people (``keypoints`` [K, 2], ``keypoint_scores`` [K], ``bbox`` x1, y1, x2, y2 in a list),
a list of frames with their ``instances``, or ``instance_info`` with ``meta_info``, which names the
keypoints. The photo has the name of the file. Frames of a video are numbered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.joint_names import NamedOrder, find_order
from eft_fast.data.readers.detectors.files import box_of_corners, make_found, read_each, to_rows
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import load_json, to_number, to_whole
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.sample import Sample

#: mmpose's demos of older releases put this in front of the photo's name.
_PREFIX: Final = "results_"


def is_mmpose(peek: Peek) -> bool:
    """Whether it is such a file, or a folder of them."""
    if peek.is_folder:
        child = peek.child("*.json")
        return child is not None and is_mmpose(child)
    first = peek.json_first()
    if isinstance(peek.json, dict):
        return "instance_info" in peek.json
    is_frame = isinstance(first.get("instances"), list)
    return is_frame or {"keypoints", "keypoint_scores"} <= first.keys()


def samples_of_mmpose(reading: Reading) -> Iterator[Sample]:
    """The people, file by file in the order of the names."""
    yield from reading.samples(_people(reading))


def _people(reading: Reading) -> Iterator[Found]:
    for file, (named, people) in read_each(reading, (".json",), lambda f: _open(f, reading)):
        stem = file.stem.removeprefix(_PREFIX)
        for frame, number, entry in people:
            yield _found(reading, named, stem, frame, number, entry)


def _open(
    file: Path, reading: Reading
) -> tuple[NamedOrder | None, list[tuple[int | None, int, Any]]]:
    """The order that a file names, and its people: frame, number in it, entry."""
    named, document = None, load_json(file, reading.who)
    if isinstance(document, dict):
        meta = document.get("meta_info")
        names = meta.get("keypoint_id2name") if isinstance(meta, dict) else None
        if isinstance(names, dict) and reading.asked is None:
            named = find_order([names[key] for key in sorted(names, key=lambda key: int(key))])
        document = document.get("instance_info")
    if not isinstance(document, list):
        raise ValueError(f"{reading.who}: {file} must hold a list of people or of frames")
    people: list[tuple[int | None, int, Any]] = []
    for place, entry in enumerate(document):
        instances = entry.get("instances") if isinstance(entry, dict) else None
        if isinstance(instances, list):
            frame = to_whole(entry.get("frame_id"))
            frame = place if frame is None else frame
            people += [(frame, number, each) for number, each in enumerate(instances)]
        else:
            people.append((None, place, entry))
    return named, people


def _found(
    reading: Reading,
    named: NamedOrder | None,
    stem: str,
    frame: int | None,
    number: int,
    entry: Any,
) -> Found:
    fields = entry if isinstance(entry, dict) else {}
    points, scores, order = fields.get("keypoints"), fields.get("keypoint_scores"), None
    if named is not None:
        try:
            points, scores = named.apply(to_rows(points, scores)), None
            order = find_joint_set(named.joint_set)
        except (ValueError, IndexError):
            order = None
    extra: dict[str, Any] = {}
    score = fields.get("bbox_score", fields.get("score"))
    score = score[0] if isinstance(score, list) and score else score
    if to_number(score) is not None:
        extra["score"] = score
    more: dict[str, Any] = {}
    if frame is not None:
        more["frame"] = frame
    track = to_whole(fields.get("track_id", fields.get("instance_id")))
    if track is not None and track >= 0:
        more["track_id"] = str(track)
    place = f"{stem}/{number}" if frame is None else f"{stem}/{frame}/{number}"
    found = make_found(
        reading, place, points, scores, _photo_of(stem, frame), order=order,
        box=box_of_corners(fields["bbox"]) if fields.get("bbox") is not None else None,
        has_stem=True, fields=more, extra=extra,
    )  # fmt: skip
    if found.person.fault is None and not np.isfinite(found.person.keypoints).any():
        return replace(found, person=replace(found.person, fault="no keypoint is a number"))
    return found


def _photo_of(stem: str, frame: int | None) -> str:
    """Name of the photo, or of the frame as ffmpeg numbers it in a folder of the video's name."""
    return stem if frame is None else f"{stem}/{frame:06d}"
