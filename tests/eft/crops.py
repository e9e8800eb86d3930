"""Fits of crops without photos, stacked: what most tests of EFT compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eft_fast.eft.config import DEFAULT_CONFIG
from eft_fast.eft.loop import LoopFitter
from eft_fast.pipeline.fitter import PersonFit
from eft_fast.pipeline.prepare import Prepared
from eft_fast.result import Prediction, SmplParams


@dataclass(frozen=True)
class CropFits:
    final: Prediction
    init: Prediction
    loss: Tensor
    init_loss: Tensor
    steps: Tensor
    stop_reason: tuple[str, ...]


def prepare(img: Tensor, keypoints_2d: Tensor) -> Iterator[Prepared]:
    """One person per row."""
    for index in range(len(img)):
        yield Prepared(index, img[index], keypoints_2d[index])


def collect(fits: Iterable[PersonFit]) -> CropFits:
    """Stack fits in the type that they have."""
    fits = list(fits)

    def stack(answers) -> Prediction:
        rotmat, betas, cam = (torch.cat(parts) for parts in zip(*answers, strict=True))
        return Prediction(SmplParams.from_rotmat(rotmat, betas), cam)

    return CropFits(
        final=stack([fit.final for fit in fits]),
        init=stack([fit.init for fit in fits]),
        loss=torch.cat([fit.loss for fit in fits]),
        init_loss=torch.cat([fit.init_loss for fit in fits]),
        steps=torch.tensor([fit.steps for fit in fits]),
        stop_reason=tuple(fit.stop_reason for fit in fits),
    )


def fit_crops(regressor, body, img, keypoints_2d, *, config=DEFAULT_CONFIG, mode="full"):
    """Fit each row by the loop."""
    fitter = LoopFitter(regressor, body, config=config, mode=mode)
    return collect(fit for _, fit in fitter.fit(prepare(img, keypoints_2d)))
