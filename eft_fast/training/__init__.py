"""Training of the open regressor on rendered people.

``RegressorTraining`` holds the stages; ``eft-fast train`` runs them.
"""

from __future__ import annotations

from eft_fast.training.config import FinetuneConfig, HeadConfig, LossConfig
from eft_fast.training.regressor import RegressorTraining

__all__ = ["FinetuneConfig", "HeadConfig", "LossConfig", "RegressorTraining"]
