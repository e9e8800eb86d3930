"""Annotation files and photos in, ``Sample`` records out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from eft_fast.data.photos import PHOTO_SUFFIXES, PathLike, Photos, exists, list_photos
from eft_fast.data.readers.coco import read_coco
from eft_fast.data.readers.openpose import ENDING, read_openpose
from eft_fast.sample import SampleList

__all__ = [
    "PHOTO_SUFFIXES",
    "READERS",
    "list_photos",
    "open_annotations",
    "read_coco",
    "read_openpose",
]

#: Readers by name. Each takes a path, the photos, and min_keypoints, min_area and joint_set.
READERS: Final[Mapping[str, Callable[..., SampleList]]] = MappingProxyType(
    {"coco": read_coco, "openpose": read_openpose}
)


def open_annotations(
    path: PathLike,
    photos: Photos,
    *,
    min_keypoints: int = 1,
    min_area: float = 0.0,
    joint_set: str | None = None,
) -> SampleList:
    """Read an annotation file with the reader that it is for.

    Args:
        path: A COCO keypoints JSON, or an OpenPose output folder. ``"name:path"`` names the reader,
            as in ``"coco:people.json"``.
        photos: Folder of the photos, or a list of files; of a list, only these are wanted.
        min_keypoints: Fewest labelled keypoints of a person.
        min_area: Smallest area of a person in square pixels; one of just this is left out.
        joint_set: Order of the keypoints, whatever the file says; None: as the file says.

    Returns:
        The people, in a steady order. One that cannot be fitted says why in ``problem``; those left
        out are counted in ``left_out``; what is odd about the file stands in ``notes``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If no reader takes the file.
    """
    name, file = _choose_reader(str(path))
    return READERS[name](
        file, photos, min_keypoints=min_keypoints, min_area=min_area, joint_set=joint_set
    )


def _choose_reader(path: str) -> tuple[str, Path]:
    name, colon, rest = path.partition(":")
    if colon and name in READERS:
        return name, Path(rest)
    file = Path(path)
    # One letter before a colon is a drive.
    if colon and len(name) > 1 and name.isidentifier() and not exists(file):
        raise ValueError(
            f"open_annotations: no reader is called {name}; expected {' or '.join(READERS)}"
        )
    if not exists(file):
        raise FileNotFoundError(f"open_annotations: no file or folder {path}")
    if file.is_dir() or file.name.endswith(ENDING):
        return "openpose", file
    if file.suffix.lower() == ".json":
        return "coco", file
    raise ValueError(
        f"open_annotations: expected a COCO .json or a folder of *{ENDING} files, got {path}"
    )
