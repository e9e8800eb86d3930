"""Pictures in memory as a source of training, from the first layer on."""

from __future__ import annotations

import numpy as np
import torch

from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.training.cache import normalise_images


class Pictures:
    """A ``training.cache.Source`` over crops ``[N, S, S, 3]``."""

    stages = 0

    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def take(self, rows: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        crops = normalise_images(self._images[rows.numpy()], OpenRegressor)
        return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
