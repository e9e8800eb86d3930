"""Adam over stacked weights: every slot has its own moments and its own time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eft_fast.eft.config import EftConfig


@dataclass
class _Moments:
    storage: Tensor
    first: Tensor
    second: Tensor


class StackedAdam:
    """``torch.optim.Adam`` for each slot on its own, in the same order of operations.

    Args:
        storages: Weights, or their differences from a start, each ``[slots, ...]``; updated in
            place. Both moments have their type; a short one is computed in the gradient's.
        config: Learning rate, decay rates, epsilon.
        mode: Whose learning rate it is where the configuration names none.
    """

    def __init__(self, storages: list[Tensor], config: EftConfig, mode: str = "full") -> None:
        self._config, self._lr = config, config.lr_of(mode)
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

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor | None], first: int = 0) -> None:
        """Update as many slots as the gradients have rows, beginning with slot ``first``."""
        beta1, beta2 = self._config.adam_betas
        rows = next((len(grad) for grad in grads if grad is not None), 0)
        active = slice(first, first + rows)
        self.time[active] += 1
        time = self.time[active].double()
        rate = self._lr / (1 - beta1**time)
        root = (1 - beta2**time).sqrt()
        for state, grad in zip(self._state, grads, strict=True):
            if grad is None:
                continue
            shape = (rows,) + (1,) * (grad.ndim - 1)
            mean, square = state.first[active].to(grad), state.second[active].to(grad)
            mean.lerp_(grad, 1 - beta1)
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            denominator = (square.sqrt() / root.to(grad).reshape(shape)).add_(self._config.adam_eps)
            update = (mean / denominator).mul_(rate.to(grad).reshape(shape))
            if mean.dtype != state.first.dtype:
                state.first[active] = mean
                state.second[active] = square
                state.storage[active] = state.storage[active].to(grad) - update
            else:
                state.storage[active].sub_(update)
