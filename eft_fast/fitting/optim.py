"""Adam over stacked weights: every slot has its own moments and its own time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eft_fast.fitting.config import EftConfig


@dataclass
class _Moments:
    storage: Tensor
    first: Tensor
    second: Tensor


class StackedAdam:
    """``torch.optim.Adam`` for each slot on its own, in the same order of operations.

    Args:
        storages: Weights, each ``[slots, ...]``; updated in place.
        config: Learning rate, decay rates, epsilon.
    """

    def __init__(self, storages: list[Tensor], config: EftConfig) -> None:
        self._config = config
        self._state = [
            _Moments(storage, torch.zeros_like(storage), torch.zeros_like(storage))
            for storage in storages
        ]
        slots = len(storages[0]) if storages else 0
        #: Updates that each slot has made.
        self.time = torch.zeros(slots, dtype=torch.int64)

    def reset(self, slot: int) -> None:
        """Give the slot to a new person: start weights, no moments, time 0."""
        self.time[slot] = 0
        for state in self._state:
            for tensor in (state.storage, state.first, state.second):
                tensor[slot].zero_()

    def move(self, source: int, target: int) -> None:
        """Copy everything of one slot to another."""
        self.time[target] = self.time[source]
        for state in self._state:
            for tensor in (state.storage, state.first, state.second):
                tensor[target].copy_(tensor[source])

    @torch.no_grad()
    def step(self, grads: list[Tensor | None]) -> None:
        """Update the first slots: as many as the gradients have rows."""
        beta1, beta2 = self._config.adam_betas
        active = next((len(grad) for grad in grads if grad is not None), 0)
        self.time[:active] += 1
        time = self.time[:active].double()
        rate = self._config.lr / (1 - beta1**time)
        root = (1 - beta2**time).sqrt()
        for state, grad in zip(self._state, grads, strict=True):
            if grad is None:
                continue
            shape = (active,) + (1,) * (grad.ndim - 1)
            first, second = state.first[:active], state.second[:active]
            first.lerp_(grad, 1 - beta1)
            second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            denominator = (second.sqrt() / root.to(grad).reshape(shape)).add_(self._config.adam_eps)
            update = (first / denominator).mul_(rate.to(grad).reshape(shape))
            state.storage[:active].sub_(update)
