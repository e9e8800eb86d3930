"""Continuous batching: people stream through slots, each slot with private weights.

A person who is done leaves, and the next one takes the slot with fresh weights, moments and time.
The memory is that of the slots, however many people come.

Nobody's bits depend on the others. On the CPU every slot is computed by calls of one person. In
batched calls the width never changes, and rows do not mix: empty slots are computed along, which
costs something at the very end only, and a smaller batch there would round differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from eft_fast.eft.batched.adam import StackedAdam
from eft_fast.eft.batched.functional_weights import SlotwiseNetwork
from eft_fast.eft.batched.layers import StackedRegressor, can_stack
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import make_network, share
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.fitter import (
    CropJob,
    PersonFit,
    is_labelled,
    loss_weights,
    output_loss,
    readable_errors,
    stack_intrinsics,
)

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Type of differences and moments, by ``EftConfig.state``; None: that of the weights.
STATE_TYPES: Final = {"fp32": None, "bf16": torch.bfloat16}


@dataclass
class _Slot:
    """The person in a slot."""

    index: int
    inputs: Any
    keypoints_2d: Tensor
    intrinsics: Tensor | None
    labelled: bool
    step: int = 0
    init: tuple[RegressorOutput, Tensor] | None = None
    last: tuple[RegressorOutput, Tensor, int] | None = None


class SlotFitter:
    """Fits people in ``slots`` places at once; equal to ``fit_crops`` up to rounding.

    Args:
        regressor: Start of every fit; it is not changed.
        body: Body model on the same device.
        config: Steps, learning rate, loss weights and stopping rule.
        mode: What is tuned.
        slots: People at once.
        batched: Compute all slots in the same calls. Default: on a GPU, if every tuned layer has
            a batched form.

    Raises:
        ValueError: If ``slots`` is not positive, the regressor has no such mode, or ``batched``
            was asked for and a layer has no batched form.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Smpl,
        *,
        config: EftConfig,
        mode: str,
        slots: int,
        batched: bool | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"fit_batch: slots must be at least 1, got {slots}")
        network, tuned = make_network(regressor, mode, config)
        state = STATE_TYPES[config.state]
        if batched is None:
            on_gpu = next(regressor.parameters()).device.type == "cuda"
            batched = on_gpu and can_stack(network, tuned)
        self._engine: _Batched | _Slotwise
        if batched:
            self._engine = _Batched(StackedRegressor(network, tuned, slots, state=state))
        else:
            self._engine = _Slotwise(SlotwiseNetwork(network, tuned, slots, state=state))
        self._adam = StackedAdam(self._engine.storages, config, mode)
        self._prepare = share(network)[0].prepare
        self._body, self._config = body, config
        self._weights = loss_weights(config)
        self._slots: list[_Slot | None] = [None] * slots
        # Where nobody can stop early, slots are filled together: everybody's first step is then
        # that of all, and runs on the shared weights. By the options alone, never by who comes.
        self._in_waves = batched and config.threshold == 0 and config.precision == "fp32"

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit as soon as it is done."""
        queue = iter(jobs)
        exhausted = False
        while True:
            is_empty = all(slot is None for slot in self._slots)
            for place, slot in enumerate(self._slots):
                if slot is not None or exhausted or (self._in_waves and not is_empty):
                    continue
                job = next(queue, None)
                exhausted = job is None
                if job is not None:
                    self._admit(place, job)
            if all(slot is None for slot in self._slots):
                return
            yield from self._engine.step(self)

    def _admit(self, place: int, job: CropJob) -> None:
        self._adam.reset(place)
        inputs = self._prepare(job.img[None])
        labelled = is_labelled(job.keypoints_2d)
        keypoints_2d, pinhole = job.keypoints_2d[None], stack_intrinsics([job])
        self._slots[place] = _Slot(job.index, inputs, keypoints_2d, pinhole, labelled)

    def evaluate(
        self, output: RegressorOutput, keypoints_2d: Tensor, intrinsics: Tensor | None
    ) -> tuple[Tensor, list[float]]:
        """Loss of each row, and its 2D term, NaN where anything is not finite."""
        total, keypoint_term = output_loss(
            self._body, output, keypoints_2d, self._weights, intrinsics
        )
        return total, readable_errors(output, total, keypoint_term)

    def judge(
        self, place: int, output: RegressorOutput, total: Tensor, error: float
    ) -> PersonFit | None:
        """The fit, if this forward pass was the person's last one; the loop's own rules.

        Args:
            place: The slot; it is emptied if the person is done.
            output: The person's row.
            total: Its loss.
            error: Its 2D term, or NaN.
        """
        slot = self._slots[place]
        assert slot is not None
        answer = RegressorOutput(*(value.detach().clone() for value in output))
        fit = _judge(slot, answer, total.detach().clone(), error, self._config)
        if fit is not None:
            self._slots[place] = None
        return fit

    @property
    def raw_camera(self) -> bool:
        """Whether the camera stays as the weights mean it."""
        return self._config.strict_reference

    @property
    def slots(self) -> list[_Slot | None]:
        """Who is where."""
        return self._slots

    @property
    def in_waves(self) -> bool:
        """Whether all slots are always at the same step."""
        return self._in_waves

    @property
    def adam(self) -> StackedAdam:
        """The optimiser of all slots."""
        return self._adam


def _judge(
    slot: _Slot, answer: RegressorOutput, loss: Tensor, error: float, config: EftConfig
) -> PersonFit | None:
    if slot.init is None:
        slot.init = (answer, loss)
    if not slot.labelled:
        return PersonFit(answer, answer, loss, loss, 0, "no_keypoints")
    init_answer, init_loss = slot.init
    if error != error:
        final, loss, steps = slot.last if slot.last is not None else (answer, loss, slot.step)
        return PersonFit(final, init_answer, loss, init_loss, steps, "nan")
    slot.last = (answer, loss, slot.step)
    if error < config.threshold:
        return PersonFit(answer, init_answer, loss, init_loss, slot.step, "converged")
    if slot.step == config.max_steps - 1:
        return PersonFit(answer, init_answer, loss, init_loss, slot.step, "max_steps")
    slot.step += 1
    return None


class _Slotwise:
    """One slot after the other, each with calls of one person."""

    def __init__(self, network: SlotwiseNetwork) -> None:
        self._network = network
        self.storages = network.storages

    @torch.enable_grad()
    def step(self, fitter: SlotFitter) -> Iterator[tuple[int, PersonFit]]:
        """A forward pass of everybody, and an update of those who go on."""
        for place, slot in enumerate(fitter.slots):
            if slot is None:
                continue
            weights = self._network.leaves(place, at_start=slot.step == 0)
            output = self._network.run(weights, slot.inputs, raw_camera=fitter.raw_camera)
            total, (error,) = fitter.evaluate(output, slot.keypoints_2d, slot.intrinsics)
            fit = fitter.judge(place, output, total, error)
            if fit is not None:
                yield slot.index, fit
                continue
            grads = torch.autograd.grad(total.sum(), weights, allow_unused=True)
            rows = [None if grad is None else grad[None] for grad in grads]
            fitter.adam.step(rows, first=place)


class _Batched:
    """All slots in the same calls; empty ones are computed along."""

    def __init__(self, stack: StackedRegressor) -> None:
        self._stack = stack
        self.storages = [storage for storage, _ in stack.deltas()]
        #: Of each slot, whoever is or was in it; an empty slot needs some numbers.
        self._inputs: list[tuple[Any, Tensor, Tensor | None]] = []

    @torch.enable_grad()
    def step(self, fitter: SlotFitter) -> Iterator[tuple[int, PersonFit]]:
        """One forward pass of everybody, and an update of those who go on."""
        self._take_inputs(fitter.slots)
        self._stack.narrow(self._stack.slots)
        self._stack.set_at_start(
            fitter.in_waves and all(slot is None or slot.step == 0 for slot in fitter.slots)
        )
        columns = [list(column) for column in zip(*self._inputs, strict=True)]
        inputs, keypoints_2d = _concatenate(columns[0]), torch.cat(columns[1])
        pinholes = None if columns[2][0] is None else torch.cat(columns[2])
        output = self._stack.network(inputs, raw_camera=fitter.raw_camera)
        total, errors = fitter.evaluate(output, keypoints_2d, pinholes)
        going = torch.zeros(len(errors), dtype=torch.bool)
        for place, slot in enumerate(fitter.slots):
            if slot is None:
                continue
            row = RegressorOutput(*(value[place : place + 1] for value in output))
            fit = fitter.judge(place, row, total[place : place + 1], errors[place])
            if fit is None:
                going[place] = True
            else:
                yield slot.index, fit
        if bool(going.any()):
            # Rows of those who are done may hold NaN. Rows do not mix, and theirs are reset.
            torch.where(going.to(total.device), total, 0.0).sum().backward()
            fitter.adam.step([leaf.grad for _, leaf in self._stack.deltas()])

    def _take_inputs(self, slots: list[_Slot | None]) -> None:
        if not self._inputs:
            first = next(slot for slot in slots if slot is not None)
            self._inputs = [(first.inputs, first.keypoints_2d, first.intrinsics)] * len(slots)
        for place, slot in enumerate(slots):
            if slot is not None:
                self._inputs[place] = (slot.inputs, slot.keypoints_2d, slot.intrinsics)


def _concatenate(rows: list[Any]) -> Any:
    """Concatenate tensors, or (named) tuples of tensors, along the people."""
    first = rows[0]
    if isinstance(first, Tensor):
        return torch.cat(rows)
    parts = [_concatenate(list(column)) for column in zip(*rows, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
