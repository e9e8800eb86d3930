"""Annotation files and photos in, ``Sample`` records out."""

from __future__ import annotations

from eft_fast.data.photos import PHOTO_SUFFIXES, list_photos
from eft_fast.data.readers.coco import read_coco
from eft_fast.data.readers.openpose import read_openpose
from eft_fast.data.readers.registry import (
    READERS,
    detect,
    open_annotations,
    stream_annotations,
)

__all__ = [
    "PHOTO_SUFFIXES",
    "READERS",
    "detect",
    "list_photos",
    "open_annotations",
    "read_coco",
    "read_openpose",
    "stream_annotations",
]
