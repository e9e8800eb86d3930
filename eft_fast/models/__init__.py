"""Networks: the open regressor and its trunk, HMR for licensed checkpoints, and a detector."""

from __future__ import annotations

from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.detector import Detection, detect_people
from eft_fast.models.registry import load_regressor

__all__ = ["Detection", "Regressor", "RegressorOutput", "detect_people", "load_regressor"]
