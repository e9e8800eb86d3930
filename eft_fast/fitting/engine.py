"""Which way people are fitted: one by one, in slots, in worker processes, or in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch

from eft_fast.fitting.config import EftConfig
from eft_fast.fitting.eft import CropJob, LoopFitter, PersonFit, Predictor, tuned_parameters
from eft_fast.fitting.recipes import SmplifyConfig
from eft_fast.fitting.slots import SlotFitter
from eft_fast.fitting.smplify import SmplifyFitter
from eft_fast.fitting.workers import WorkerFitter
from eft_fast.models.base import Regressor

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: More slots than this fill any GPU and only delay the first results.
_MOST_SLOTS = 128


class Fitter(Protocol):
    """Takes people and yields their fits, in any order."""

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit as soon as it is done."""


def make_fitter(
    regressor: Regressor,
    body: Smpl,
    *,
    method: str,
    mode: str,
    config: EftConfig | SmplifyConfig,
    workers: int = 1,
    slots: int | None = None,
) -> Fitter:
    """Choose the fitter; what was asked for by name is taken or refused, never replaced.

    Raises:
        ValueError: If the mode is unknown, or workers or slots make no sense together.
    """
    if workers < 1:
        raise ValueError(f"fit_batch: workers must be at least 1, got {workers}")
    if isinstance(config, SmplifyConfig):
        if workers > 1 or slots is not None:
            raise ValueError(
                "fit_batch: smplify fits in batches and takes no workers or slots; "
                "set SmplifyConfig.batch"
            )
        return SmplifyFitter(regressor, body, config=config)
    device = next(regressor.parameters()).device
    tuned_parameters(regressor, mode)
    if workers > 1:
        if device.type != "cpu":
            raise ValueError(f"fit_batch: workers are for the CPU, got device {device}; use slots")
        if slots is not None:
            raise ValueError("fit_batch: workers and slots exclude each other; give one of them")
        return WorkerFitter(regressor, body, method=method, mode=mode, config=config, count=workers)
    if method == "none":
        return Predictor(regressor, body, config=config)
    if slots is None:
        slots = _default_slots(regressor, mode, device)
    if slots == 1:
        return LoopFitter(regressor, body, config=config, mode=mode)
    return SlotFitter(regressor, body, config=config, mode=mode, slots=slots)


def _default_slots(regressor: Regressor, mode: str, device: torch.device) -> int:
    """One on the CPU; on a GPU as many as fit: weights, gradient, two moments and activations."""
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    tuned = sum(p.numel() * p.element_size() for p in tuned_parameters(regressor, mode))
    everything = sum(p.numel() * p.element_size() for p in regressor.parameters())
    return max(1, min(_MOST_SLOTS, int(0.8 * free) // (5 * tuned + everything)))
