"""OpenPose output: a folder with one ``<photo>_keypoints.json`` per photo."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
)
from eft_fast.sample import Sample, SampleList

if TYPE_CHECKING:
    from eft_fast.data.photos import PathLike, Photos

#: Ending of the files that OpenPose writes for each photo or frame.
ENDING: Final = "_keypoints.json"
#: Keypoints that may shape a person's box, as SPIN and EFT choose them.
BOX_CONFIDENCE: Final = 0.2

_WHO: Final = "read_openpose"
_SETS: Final = {25: "op25", 18: "op18"}

logger = logging.getLogger(__name__)


def read_openpose(
    path: PathLike,
    photos: Photos,
    *,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    min_confidence: float = 0.0,
) -> SampleList:
    """Read the people of an OpenPose output folder; BODY_25 is ``op25``, the COCO model ``op18``.

    The box of a person spans the keypoints with a confidence above 0.2. Faces and hands are not
    read.

    Args:
        path: Folder of ``<photo>_keypoints.json`` files, or one such file.
        photos: Folder of the photos, or a list of files; a photo belongs to the file with its name
            without ending. Of a list, only these are wanted.
        min_keypoints: Fewest keypoints of a person with a confidence above ``min_confidence``.
        min_area: People whose box has not more square pixels are left out. 0 keeps all.
        min_confidence: Keypoints not above this confidence become unlabelled.

    Returns:
        Samples in the order of the file names, then of the people in a file; in ``left_out`` the
        others, counted by reason. A sample that cannot be fitted says why in ``problem``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the folder holds no OpenPose file.
    """
    finder = PhotoFinder(photos, _WHO)
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    for file in list_openpose_files(Path(path)):
        stem = file.name[: -len(ENDING)]
        photo = _find_photo(finder, stem)
        people = _read_people(file, stem, min_confidence) if photo.is_wanted else []
        left_out["photo not asked for"] += not photo.is_wanted
        for person in people:
            reason = _reason_too_little(person, min_keypoints, min_area)
            if reason is None:
                samples.append(
                    make_sample(person, photo, "openpose", _WHO, box_confidence=BOX_CONFIDENCE)
                )
            else:
                left_out[reason] += 1
    logger.info("%s: %d people; left out: %s", _WHO, len(samples), dict(left_out))
    return SampleList(samples, +left_out)


def list_openpose_files(path: Path) -> list[Path]:
    """The OpenPose files of a folder, numbers in names sorted as numbers.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If there are none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{_WHO}: no file or folder {path}")
    files = [path] if path.is_file() else list(path.iterdir())
    files = [file for file in files if file.name.endswith(ENDING)]
    if not files:
        raise ValueError(f"{_WHO}: expected files *{ENDING}, got none in {path}")
    return sorted(files, key=lambda file: natural_key(file.name))


def _find_photo(finder: PhotoFinder, stem: str) -> Photo:
    try:
        return check_photo(finder.find_stem(stem), None, _WHO)
    except FileNotFoundError as error:
        return Photo(None, None, str(error), is_wanted=not finder.is_selection)
    except ValueError as error:
        return Photo(None, None, str(error))


def _read_people(file: Path, stem: str, min_confidence: float) -> list[Person]:
    """The people of one file; a file that cannot be read is one person with a fault."""
    try:
        document = load_json(file, _WHO)
        people = document.get("people") if isinstance(document, dict) else None
        if not isinstance(people, list):
            raise ValueError(f"{_WHO}: {file} must have a list of people")
    except ValueError as error:
        nobody = np.zeros((25, 3))
        return [Person(f"{stem}/0", stem, nobody, _SETS[25], fault=str(error))]
    return [
        _make_person(entry, f"{stem}/{number}", min_confidence)
        for number, entry in enumerate(people)
    ]


def _make_person(entry: Any, sample_id: str, min_confidence: float) -> Person:
    label, fault = f"person {sample_id}", None
    points = np.zeros((25, 3))
    fields = entry if isinstance(entry, dict) else {}
    # Files of OpenPose 1.0 and 1.1 call the body "pose_keypoints".
    values = fields.get("pose_keypoints_2d", fields.get("pose_keypoints"))
    try:
        points = read_numbers(values, tuple(_SETS), label, _WHO)
    except ValueError as error:
        fault = str(error)
    # OpenPose's scores can pass 1 by a little.
    points[:, 2] = np.where(points[:, 2] > min_confidence, np.minimum(points[:, 2], 1.0), 0.0)
    known = fields.get("person_id")
    number = known[0] if isinstance(known, list) and known else known
    extra = {} if number in (None, -1) else {"person_id": number}
    return Person(sample_id, label, points, _SETS[len(points)], fault=fault, extra=extra)


def _reason_too_little(person: Person, min_keypoints: int, min_area: float) -> str | None:
    """Why a readable person is not wanted; one with a fault is kept, so that it is reported."""
    if person.fault is not None or not np.isfinite(person.keypoints).all():
        return None
    if not person.num_labelled:
        return "without keypoints"
    if person.num_labelled < min_keypoints:
        return f"fewer than {min_keypoints} keypoints"
    width, height = imaging.keypoints_to_box(person.keypoints)[2:]
    return f"area of {min_area:g} or less" if 0.0 < min_area >= width * height else None
