"""Fits as training data: choose the good ones, and write them in the formats of trainers."""

from __future__ import annotations

from eft_fast.pseudo_gt.read import LoadedFits, load_fits
from eft_fast.pseudo_gt.select import SelectConfig, Selection, SelectLimits, select_fits
from eft_fast.pseudo_gt.verdicts import (
    Verdict,
    load_verdicts,
    person_keys,
    save_verdicts,
    verdicts_of,
)
from eft_fast.pseudo_gt.words import to_words
from eft_fast.pseudo_gt.write import FORMATS, PersonNames, write_fits

__all__ = [
    "FORMATS",
    "LoadedFits",
    "PersonNames",
    "SelectConfig",
    "SelectLimits",
    "Selection",
    "Verdict",
    "load_fits",
    "load_verdicts",
    "person_keys",
    "save_verdicts",
    "select_fits",
    "to_words",
    "verdicts_of",
    "write_fits",
]
