"""Training of the open regressor on rendered people.

``Recipe`` holds the stages; ``eft-fast train`` runs them.
"""

from __future__ import annotations

from eft_fast.training.config import FinetuneConfig, HeadConfig, LossConfig
from eft_fast.training.recipe import Recipe

__all__ = ["FinetuneConfig", "HeadConfig", "LossConfig", "Recipe"]
