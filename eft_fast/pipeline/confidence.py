"""How sure the regressor is of people whose fitter does not say it: those in slots."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.models.base import Regressor

#: Crops of one call on a GPU. Always so many: a smaller batch would round differently.
_WIDTH: Final = 32


class ConfidenceReader:
    """Runs ``Regressor.joint_confidence`` beside the fits, on as few calls as the device likes.

    Slots keep the answers of a person but nothing of the network in between, and what is tuned
    there is no longer the network that the confidence is about. So the trunk runs once more.

    Args:
        regressor: The network, untuned, which ``has_confidence``.
    """

    def __init__(self, regressor: Regressor) -> None:
        self._regressor = regressor
        self._device = next(regressor.parameters()).device
        self._width = 1 if self._device.type == "cpu" else _WIDTH
        self._waiting: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {}

    def add(self, index: int, img: Float[Tensor, "3 S S"]) -> None:
        """Remember a person's crop until there are enough of them."""
        self._waiting[index] = img
        if len(self._waiting) == self._width:
            self._run()

    def take(self, index: int) -> Float[Tensor, "1 24"] | None:
        """Return the confidence of a person who was added, and forget it; None: nothing is said."""
        if index in self._waiting:
            self._run()
        return self._known.pop(index, None)

    @torch.no_grad()
    def _run(self) -> None:
        indices, crops = list(self._waiting), list(self._waiting.values())
        self._waiting.clear()
        blank = [torch.zeros_like(crops[0])] * (self._width - len(crops))
        was_training = self._regressor.training
        self._regressor.eval()
        features = self._regressor.features(torch.stack([*crops, *blank]).to(self._device))
        found = self._regressor.joint_confidence(features)
        self._regressor.train(was_training)
        if found is None:
            return
        # One wait for the device per call; rows are copied, so that nobody keeps the others'.
        rows = found.cpu()
        self._known |= {index: rows[k : k + 1].clone() for k, index in enumerate(indices)}
