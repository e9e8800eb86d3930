"""Continuous batching: people stream through slots, each slot with private weights.

A person who is done leaves, and the next one takes the slot with fresh weights, moments and time.
Active slots are kept in front, so that the arrays can be narrowed to them at the drain. The memory
is that of the slots, however many people come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eft_fast.fitting.config import EftConfig
from eft_fast.fitting.eft import CropJob, PersonFit, loss_weights, output_loss, tuned_parameters
from eft_fast.fitting.optim import StackedAdam
from eft_fast.fitting.stacked import StackedRegressor
from eft_fast.losses.keypoints import EftLossWeights
from eft_fast.models.base import Regressor, RegressorOutput

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl


@dataclass
class _Slot:
    index: int
    inputs: Any
    keypoints_2d: Tensor
    step: int = 0
    init: tuple[RegressorOutput, Tensor] | None = None
    last: tuple[RegressorOutput, Tensor, int] | None = None


class SlotFitter:
    """Fits people in ``slots`` places at once; equal to ``fit_crops`` up to rounding.

    Args:
        regressor: Start of every fit; it is not changed.
        body: Body model on the same device.
        config: Steps, learning rate, loss weights and stopping rule.
        mode: Which weights are tuned.
        slots: People at once.
    """

    def __init__(
        self, regressor: Regressor, body: Smpl, *, config: EftConfig, mode: str, slots: int
    ) -> None:
        if slots < 1:
            raise ValueError(f"fit_batch: slots must be at least 1, got {slots}")
        self._body, self._config, self._mode = body, config, mode
        self._regressor = regressor
        self._weights: EftLossWeights = loss_weights(config)
        self._stack = StackedRegressor(regressor, tuned_parameters(regressor, mode), slots)
        self._adam = StackedAdam([storage for storage, _ in self._stack.deltas()], config)
        self._slots: list[_Slot] = []

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit as soon as it is done."""
        queue = iter(jobs)
        exhausted = False
        while True:
            while not exhausted and len(self._slots) < self._stack.slots:
                job = next(queue, None)
                if job is None:
                    exhausted = True
                else:
                    self._admit(job)
            if not self._slots:
                return
            yield from self._step()

    def _admit(self, job: CropJob) -> None:
        place = len(self._slots)
        self._adam.reset(place)
        img = job.img[None]
        if self._mode == "head":
            with torch.no_grad():
                inputs = self._regressor.features(img)
        else:
            inputs = img
        self._slots.append(_Slot(job.index, inputs, job.keypoints_2d[None]))

    def _step(self) -> list[tuple[int, PersonFit]]:
        """One forward pass of everybody, and an update of those who go on."""
        self._stack.narrow(len(self._slots))
        output, total, keypoint_term = self._forward()
        done = [
            self._judge(place, output, total, error)
            for place, error in enumerate(_readable(output, total, keypoint_term))
        ]
        going = [fit is None for fit in done]
        if any(going):
            # Those who are done take no part: their loss may be NaN, and 0 * NaN is NaN.
            total[torch.tensor(going, device=total.device)].sum().backward()
            self._adam.step([leaf.grad for _, leaf in self._stack.deltas()])
        finished = [
            (slot.index, fit)
            for slot, fit in zip(self._slots, done, strict=True)
            if fit is not None
        ]
        self._compact(going)
        return finished

    def _forward(self) -> tuple[RegressorOutput, Tensor, Tensor]:
        inputs = _concatenate([slot.inputs for slot in self._slots])
        with torch.enable_grad():
            network = self._stack.network
            raw = {"raw_camera": True} if self._config.strict_reference else {}
            if self._mode == "head":
                output = network.head_forward(inputs, **raw)
            else:
                output = network(inputs, **raw)
            keypoints_2d = torch.cat([slot.keypoints_2d for slot in self._slots])
            total, keypoint_term = output_loss(self._body, output, keypoints_2d, self._weights)
        return output, total, keypoint_term

    def _judge(
        self, place: int, output: RegressorOutput, total: Tensor, error: float
    ) -> PersonFit | None:
        """The fit, if this forward pass was the last one of the person; the loop's own rules."""
        slot = self._slots[place]
        answer = RegressorOutput(*(value[place : place + 1].detach().clone() for value in output))
        loss = total[place : place + 1].detach().clone()
        if slot.init is None:
            slot.init = (answer, loss)
        if not bool((slot.keypoints_2d[..., 2] > 0).any()):
            return PersonFit(answer, answer, loss, loss, 0, "no_keypoints")
        init_answer, init_loss = slot.init
        if error != error:
            final, loss, steps = slot.last if slot.last is not None else (answer, loss, slot.step)
            return PersonFit(final, init_answer, loss, init_loss, steps, "nan")
        slot.last = (answer, loss, slot.step)
        if error < self._config.threshold:
            return PersonFit(answer, init_answer, loss, init_loss, slot.step, "converged")
        if slot.step == self._config.max_steps - 1:
            return PersonFit(answer, init_answer, loss, init_loss, slot.step, "max_steps")
        slot.step += 1
        return None

    def _compact(self, going: list[bool]) -> None:
        """Move the last active slots into the places of those who are done."""
        last = len(going) - 1
        for target in range(len(going)):
            if going[target]:
                continue
            while last > target and not going[last]:
                last -= 1
            if last <= target:
                break
            self._adam.move(last, target)
            self._slots[target] = self._slots[last]
            going[target], going[last] = True, False
        self._slots = self._slots[: sum(going)]


def _readable(output: RegressorOutput, total: Tensor, keypoint_term: Tensor) -> list[float]:
    """The 2D term of each person, NaN where anything is not finite: one read for all."""
    finite = torch.isfinite(total)
    for value in output:
        finite = finite & torch.isfinite(value).flatten(1).all(1)
    values: list[float] = keypoint_term.detach().masked_fill(~finite, float("nan")).tolist()
    return values


def _concatenate(rows: list[Any]) -> Any:
    """Concatenate tensors, or (named) tuples of tensors, along the people."""
    first = rows[0]
    if isinstance(first, Tensor):
        return torch.cat(rows)
    parts = [_concatenate(list(column)) for column in zip(*rows, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
