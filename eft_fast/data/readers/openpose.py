"""OpenPose output: a folder with one ``<photo>_keypoints.json`` per photo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.data.photos import exists, is_file, natural_key
from eft_fast.data.readers.person import Person, Photo
from eft_fast.data.readers.reading import Found, Reading, SampleStream
from eft_fast.data.values import load_json, read_points, shown, to_key, to_whole
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.plausible import order_scores
from eft_fast.sample import Sample, SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos

#: Ending of the files that OpenPose writes for each photo or frame.
ENDING: Final = "_keypoints.json"
#: Keypoints that may shape a person's box, as SPIN and EFT choose them.
BOX_CONFIDENCE: Final = 0.2

_WHO: Final = "read_openpose"
_SETS: Final = {25: "op25", 18: "op18"}
#: BODY_25 and BODY_25B have as many keypoints. The median of the people tells them apart: of 4,000
#: COCO people drawn as BODY_25, 0.1 % score this much better as BODY_25B, and 75 % the other way.
_MARGIN_25B: Final = 0.1


def read_openpose(
    path: PathLike,
    photos: Photos | None,
    *,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    min_confidence: float = 0.0,
    joint_set: str | None = None,
) -> SampleList:
    """Read the people of an OpenPose output folder; BODY_25 is ``op25``, the COCO model ``op18``.

    BODY_25B has 25 keypoints too, in another order, and the files do not say which it is: where the
    people look like it, they are read as ``op25b``, and ``notes`` says so. The box of a person
    spans the keypoints with a confidence above 0.2. Faces and hands are not read.

    Args:
        path: Folder of ``<photo>_keypoints.json`` files, or one such file.
        photos: Folder of the photos, or a list of files; a photo belongs to the file with its name
            without ending. Of a list, only these are wanted. None: photos are not looked for.
        min_keypoints: Fewest keypoints of a person with a confidence above ``min_confidence``.
        min_area: People whose box has not more square pixels are left out. 0 keeps all.
        min_confidence: Keypoints not above this confidence become unlabelled.
        joint_set: Order of the keypoints; None: as above.

    Returns:
        Samples in the order of the file names, then of the people in a file; in ``left_out`` the
        others, counted by reason. A sample that cannot be fitted says why in ``problem``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the folder holds no OpenPose file.
    """
    asked = None if joint_set is None else find_joint_set(joint_set)
    reading = Reading(Path(path), _WHO, "openpose", photos, min_keypoints, min_area, asked)
    return SampleStream(reading, samples_of_openpose(reading, min_confidence)).to_list()


def samples_of_openpose(reading: Reading, min_confidence: float = 0.0) -> Iterator[Sample]:
    """The samples, one after another; arguments and errors as in ``read_openpose``."""
    asked = reading.asked
    sets = _SETS if asked is None else {len(asked): asked.name}
    reading.box_confidence = BOX_CONFIDENCE
    found: list[tuple[Person, Photo]] = []
    for file in list_openpose_files(reading.path):
        stem = file.name[: -len(ENDING)]
        people, declared = _read_people(file, stem, sets, min_confidence)
        photo = reading.find_photo(stem, declared, has_stem=True)
        reading.left_out["photo not asked for"] += not photo.is_wanted
        found += [(person, photo) for person in people if photo.is_wanted]
    if asked is None:
        found, notes = _tell_25b(found)
        reading.notes += notes
    yield from reading.samples(Found(person, photo) for person, photo in found)


def list_openpose_files(path: Path) -> list[Path]:
    """The OpenPose files of a folder, numbers in names sorted as numbers.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If there are none.
    """
    if not exists(path):
        raise FileNotFoundError(f"{_WHO}: no file or folder {path}")
    files = [path] if is_file(path) else list(path.iterdir())
    files = [file for file in files if file.name.endswith(ENDING)]
    if not files:
        raise ValueError(f"{_WHO}: expected files *{ENDING}, got none in {path}")
    return sorted(files, key=lambda file: natural_key(file.name))


def _read_people(
    file: Path, stem: str, sets: dict[int, str], min_confidence: float
) -> tuple[list[Person], tuple[int, int] | None]:
    """The people of one file, and the size of the picture that they were found in, if it says so.

    A file that cannot be read is one person with a fault.
    """
    try:
        document = load_json(file, _WHO)
        if isinstance(document, list) and len(document) == 1:  # Some editors wrap it in a list.
            document = document[0]
        people = document.get("people") if isinstance(document, dict) else None
        if not isinstance(people, list):
            raise ValueError(f"{_WHO}: {shown(file)} must have a list of people")
    except (ValueError, OSError) as error:
        count, name = next(iter(sets.items()))
        return [
            Person(f"{stem}/0", shown(stem), np.zeros((count, 3)), name, fault=str(error))
        ], None
    width, height = (to_whole(document.get(f"canvas_{side}")) for side in ("width", "height"))
    return [
        _make_person(entry, f"{stem}/{number}", sets, min_confidence)
        for number, entry in enumerate(people)
    ], ((width, height) if width and height else None)


def _make_person(entry: Any, sample_id: str, sets: dict[int, str], min_confidence: float) -> Person:
    label, fault = f"person {shown(sample_id)}", None
    points = np.zeros((next(iter(sets)), 3))
    fields = entry if isinstance(entry, dict) else {}
    # Files of OpenPose 1.0 and 1.1 call the body "pose_keypoints".
    values = fields.get("pose_keypoints_2d", fields.get("pose_keypoints"))
    try:
        points = read_points(values, tuple(sets), label, _WHO)
    except ValueError as error:
        fault = str(error)
    if min_confidence > 0.0:
        points[:, 2] = np.where(points[:, 2] > min_confidence, points[:, 2], 0.0)
    known = fields.get("person_id")
    number = known[0] if isinstance(known, list) and known else known
    extra = {} if to_key(number) in (None, "-1") else {"person_id": number}
    return Person(sample_id, label, points, sets[len(points)], fault=fault, extra=extra)


def _tell_25b(
    found: list[tuple[Person, Photo]],
) -> tuple[list[tuple[Person, Photo]], list[str]]:
    """The people, as BODY_25B where the median of them looks like it, and a note about that."""
    orders = ("op25", "op25b")
    readable = [p for p, _ in found if p.fault is None and p.keypoint_set == "op25"]
    scores = np.array([order_scores(person.keypoints, orders) for person in readable])
    margins = scores[:, 0] - scores[:, 1] if len(scores) else np.zeros(0)
    margins = margins[np.isfinite(margins)]
    if not len(margins) or np.median(margins) < _MARGIN_25B:
        return found, []
    note = (
        f"{_WHO}: the 25 keypoints look like those of BODY_25B, and were read as op25b; if they "
        "are BODY_25, name the joint set op25 (--joint-set op25)"
    )
    is_25 = [person.keypoint_set == "op25" for person, _ in found]
    return [
        (replace(person, keypoint_set="op25b") if same else person, photo)
        for (person, photo), same in zip(found, is_25, strict=True)
    ], [note]
