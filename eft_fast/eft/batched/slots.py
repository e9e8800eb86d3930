"""Continuous batching: people stream through slots, each slot with private weights.

A person who is done leaves, and the next one takes the slot with fresh weights, moments and time.
The memory is that of the slots, however many people come.

Results are batch-invariant. On the CPU every slot is computed by calls of one person. In batched
calls the width never changes, and rows do not mix: empty slots are computed along, which costs
something at the very end only, and a smaller batch there would round differently.
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
from eft_fast.eft.loss import EftLoss, EftTarget, resolve_tie
from eft_fast.eft.modes import make_network, share
from eft_fast.models.base import Regressor
from eft_fast.pipeline.fitter import FitRecords, Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Type of differences and moments, by ``EftConfig.state``; None: that of the weights.
STATE_TYPES: Final = {"fp32": None, "bf16": torch.bfloat16}


@dataclass
class _Slot:
    """The person in a slot."""

    index: int
    inputs: Any
    target: EftTarget
    is_new: bool = True


class SlotFitter(Fitter):
    """Fits people in ``slots`` places at once; equal to ``eft.loop`` up to rounding.

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
        config = resolve_tie(config, regressor)
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
        self.adam = StackedAdam(self._engine.storages, config, mode)
        self._prepare = share(network)[0].prepare
        #: Total loss and 2D error of answers.
        self.loss = EftLoss(regressor, body, config)
        #: Whether the camera stays as the weights mean it.
        self.raw_camera = config.strict_reference
        like = next(regressor.parameters()).detach()
        rule = config.stop_rule_of(mode)
        #: Answers, steps and reasons of the people in the slots.
        self.records = FitRecords(slots, rule, like)
        #: Who is where.
        self.slots: list[_Slot | None] = [None] * slots
        #: Whether all slots are always at the same step. Where nobody can stop early, slots are
        #: filled together: everybody's first step is then that of all, and runs on the shared
        #: weights. By the options alone, never by who comes.
        self.in_waves = batched and rule.threshold == 0 and config.precision == "fp32"

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit as soon as it is done."""
        queue = iter(people)
        exhausted = False
        while True:
            is_empty = all(slot is None for slot in self.slots)
            for place, slot in enumerate(self.slots):
                if slot is not None or exhausted or (self.in_waves and not is_empty):
                    continue
                person = next(queue, None)
                exhausted = person is None
                if person is not None:
                    self._admit(place, person)
            if all(slot is None for slot in self.slots):
                return
            yield from self._engine.step(self)

    def _admit(self, place: int, person: Prepared) -> None:
        self.adam.reset(place)
        self.records.admit(place, self.loss.has_target(person))
        inputs = self._prepare(person.crop[None])
        self.slots[place] = _Slot(person.index, inputs, EftTarget.of([person]))

    def leave(self, place: int) -> tuple[int, PersonFit]:
        """Empty the slot of a person who is done."""
        slot = self.slots[place]
        assert slot is not None
        self.slots[place] = None
        return slot.index, self.loss.with_camera(self.records.fit(place))


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
            weights = self._network.leaves(place, at_start=slot.is_new)
            output = self._network.run(weights, slot.inputs, raw_camera=fitter.raw_camera)
            start = fitter.records.start(output, place)
            total, error = fitter.loss(output, slot.target, start)
            slot.is_new = False
            if int(fitter.records.update(output, total, error, place)):
                yield fitter.leave(place)
                continue
            grads = torch.autograd.grad(total.sum(), weights, allow_unused=True)
            rows = [None if grad is None else grad[None] for grad in grads]
            fitter.adam.step(rows, first=place)
            fitter.records.advance(place)


class _Batched:
    """All slots in the same calls; empty ones are computed along."""

    def __init__(self, stack: StackedRegressor) -> None:
        self._stack = stack
        self.storages = [storage for storage, _ in stack.deltas()]
        #: Of each slot, inputs and target of whoever is or was in it; an empty one needs some.
        self._held: list[tuple[Any, EftTarget]] = []

    @torch.enable_grad()
    def step(self, fitter: SlotFitter) -> Iterator[tuple[int, PersonFit]]:
        """One forward pass of everybody, and an update of those who go on."""
        self._hold(fitter.slots)
        self._stack.narrow(self._stack.slots)
        self._stack.set_at_start(
            fitter.in_waves and all(slot is None or slot.is_new for slot in fitter.slots)
        )
        inputs = _concatenate([inputs for inputs, _ in self._held])
        output = self._stack.network(inputs, raw_camera=fitter.raw_camera)
        target = EftTarget.concatenate([each for _, each in self._held])
        total, error = fitter.loss(output, target, fitter.records.start(output))
        codes = fitter.records.update(output, total, error).tolist()
        going = torch.zeros(len(codes), dtype=torch.bool)
        for place, slot in enumerate(fitter.slots):
            if slot is None:
                continue
            slot.is_new = False
            if codes[place]:
                yield fitter.leave(place)
            else:
                going[place] = True
        if bool(going.any()):
            # Rows of those who are done may hold NaN. Rows do not mix, and theirs are reset.
            torch.where(going.to(total.device), total, 0.0).sum().backward()
            fitter.adam.step([leaf.grad for _, leaf in self._stack.deltas()])
            fitter.records.advance(count=len(codes))

    def _hold(self, slots: list[_Slot | None]) -> None:
        if not self._held:
            first = next(slot for slot in slots if slot is not None)
            self._held = [(first.inputs, first.target)] * len(slots)
        for place, slot in enumerate(slots):
            if slot is not None:
                self._held[place] = (slot.inputs, slot.target)


def _concatenate(rows: list[Any]) -> Any:
    """Concatenate tensors, or (named) tuples of tensors, along the people."""
    first = rows[0]
    if isinstance(first, Tensor):
        return torch.cat(rows)
    parts = [_concatenate(list(column)) for column in zip(*rows, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
