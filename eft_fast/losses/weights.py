"""Weights of the loss of Exemplar Fine-Tuning; no torch, so that options are known without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class EftLossWeights:
    """Weights of ``eft_loss``; the defaults are those of the reference implementation.

    Attributes:
        keypoint: Weight of the 2D term.
        beta: Weight of the mean square of betas.
        camera: Weight of exp(-10 s)^2.
        leg: Weight of the direction of the shins.
        total: Factor of the sum.
        openpose: Weight of the first 25 keypoints.
        gt: Weight of the other 24.
        with_hips: Keep hips and pelvis of the second block in the 2D term.
        with_ankles: Keep ankles of the second block in the 2D term.
    """

    keypoint: float = 5.0
    beta: float = 0.001
    camera: float = 1.0
    leg: float = 0.005
    total: float = 60.0
    openpose: float = 0.0
    gt: float = 1.0
    with_hips: bool = False
    with_ankles: bool = False


DEFAULT_WEIGHTS: Final = EftLossWeights()
