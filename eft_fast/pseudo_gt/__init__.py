"""Fits as training data: choose the good ones, and write them in the formats of trainers."""

from __future__ import annotations

from eft_fast.pseudo_gt.read import LoadedFits, load_fits
from eft_fast.pseudo_gt.select import SelectConfig, Selection, select_fits
from eft_fast.pseudo_gt.write import FORMATS, PersonNames, write_fits

__all__ = [
    "FORMATS",
    "LoadedFits",
    "PersonNames",
    "SelectConfig",
    "Selection",
    "load_fits",
    "select_fits",
    "write_fits",
]
