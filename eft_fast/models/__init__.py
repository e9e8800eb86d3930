"""Networks: the open regressor and its trunk, HMR for licensed checkpoints, and a detector.

Names load on first use: ``keypoint_noise`` is read where torch is not installed, too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eft_fast.models.base import Regressor as Regressor
    from eft_fast.models.base import RegressorOutput as RegressorOutput
    from eft_fast.models.detector import detect_people as detect_people
    from eft_fast.models.registry import load_regressor as load_regressor
    from eft_fast.person_search import Detection as Detection

_HOME = {
    "Detection": "eft_fast.person_search",
    "Regressor": "eft_fast.models.base",
    "RegressorOutput": "eft_fast.models.base",
    "detect_people": "eft_fast.models.detector",
    "load_regressor": "eft_fast.models.registry",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'eft_fast.models' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
