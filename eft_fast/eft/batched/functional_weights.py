"""Private weights of any network: each slot runs on its own, with calls of one person.

The way of the CPU, where a batched call gains nothing and rounds by the company it has, and of
networks with layers that have no stacked twin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eft_fast.eft.modes import share
from eft_fast.models.base import RegressorOutput


class SlotwiseNetwork:
    """Shared start weights and one difference per slot, for a network of any layers.

    Args:
        network: The network, or the part of it that moves; it is not changed.
        tuned: The parameters that are private to a slot.
        slots: How many people have weights at once.
        state: Type in which differences are kept; default: that of the weights.

    Attributes:
        storages: Differences, each ``[slots, *shape]``, in the order of ``tuned``.
    """

    def __init__(
        self,
        network: nn.Module,
        tuned: list[nn.Parameter],
        slots: int,
        *,
        state: torch.dtype | None = None,
    ) -> None:
        self.slots = slots
        self._network, aliases = share(network)
        names = {id(parameter): name for name, parameter in self._network.named_parameters()}
        self._names = [names[id(aliases[id(parameter)])] for parameter in tuned]
        self._start = [parameter.detach() for parameter in tuned]
        self.storages = [
            start.new_zeros((slots, *start.shape), dtype=state) for start in self._start
        ]

    def leaves(self, slot: int, *, at_start: bool = False) -> list[Tensor]:
        """The slot's weights, ready to receive gradients; those of the differences are the same.

        Args:
            slot: Whose.
            at_start: The differences are known to be zero: the start weights are not copied.
        """
        if at_start:
            return [start.detach().requires_grad_() for start in self._start]
        return [
            (start + storage[slot].to(start.dtype)).requires_grad_()
            for start, storage in zip(self._start, self.storages, strict=True)
        ]

    def run(self, weights: list[Tensor], inputs: Any, **options: Any) -> RegressorOutput:
        """Run one person with weights of ``leaves``, or any others of the same shapes."""
        named = dict(zip(self._names, weights, strict=True))
        output: RegressorOutput = functional_call(self._network, named, (inputs,), options)
        return output

    def start(self) -> Iterator[Tensor]:
        """The shared start weights."""
        yield from self._start
