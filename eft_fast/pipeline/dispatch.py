"""Which way people are fitted: one by one, in slots, in worker processes, or in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from eft_fast.eft.batched.graph_slots import GraphSlotFitter, can_run_on_kernels
from eft_fast.eft.batched.memory import slots_that_fit
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import TENSOR_CORES, EftConfig
from eft_fast.eft.loop import Predictor, make_loop
from eft_fast.eft.modes import check_mode
from eft_fast.eft.subspace import SubspaceFitter
from eft_fast.models.base import Regressor
from eft_fast.pipeline.fitter import Fitter
from eft_fast.pipeline.workers import WorkerFitter
from eft_fast.smplify.config import SmplifyConfig
from eft_fast.smplify.fit import SmplifyFitter

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl


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
    check_mode(regressor, mode)
    if config.precision in TENSOR_CORES and not can_run_on_kernels(regressor, mode, config):
        raise ValueError(
            f"fit_batch: precision {config.precision!r} is that of the CUDA kernels, which do not "
            f"fit {regressor.id} on {device} in mode {mode!r}; use 'fp32' or 'bf16'"
        )
    if workers > 1:
        if device.type != "cpu":
            raise ValueError(f"fit_batch: workers are for the CPU, got device {device}; use slots")
        if slots is not None:
            raise ValueError("fit_batch: workers and slots exclude each other; give one of them")
        return WorkerFitter(regressor, body, method=method, mode=mode, config=config, count=workers)
    if method == "none":
        return Predictor(regressor, body, config=config)
    if slots is None:
        slots = _default_slots(regressor, body, mode, config, device)
    return make_slot_fitter(regressor, body, config=config, mode=mode, slots=slots)


def make_slot_fitter(
    regressor: Regressor, body: Smpl, *, config: EftConfig, mode: str, slots: int
) -> Fitter:
    """The loop for one slot, and what shares its work for several; on a GPU our own kernels."""
    if mode == "subspace":
        return SubspaceFitter(regressor, body, config=config, slots=slots)
    if can_run_on_kernels(regressor, mode, config):
        return GraphSlotFitter(regressor, body, config=config, mode=mode, slots=slots)
    # The loop keeps weights, not differences: a state in bfloat16 would swallow its updates.
    if slots == 1 and config.state == "fp32":
        return make_loop(regressor, body, config=config, mode=mode)
    return SlotFitter(regressor, body, config=config, mode=mode, slots=slots)


def _default_slots(
    regressor: Regressor, body: Smpl, mode: str, config: EftConfig, device: torch.device
) -> int:
    """One on the CPU, where company gains nothing; on a GPU as many as its free memory holds."""
    if device.type != "cuda":
        return 1
    return slots_that_fit(regressor, body, mode=mode, config=config)
