"""A fitter around a fitter that adds how sure the regressor was, for people in slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.models.base import Regressor
from eft_fast.pipeline.fitter import Fitter, PersonFit
from eft_fast.pipeline.predict import CONFIDENCE, ask_confidence, confidence_outputs, evaluating
from eft_fast.pipeline.prepare import Prepared

#: Crops of one call on a GPU. Always so many: a smaller batch would round differently.
_WIDTH: Final = 32


def with_confidence(fitter: Fitter, regressor: Regressor) -> Fitter:
    """The fitter itself if it says the confidence or nobody can, else one around it."""
    if CONFIDENCE in fitter.outputs or not regressor.has_confidence:
        return fitter
    return ConfidenceFitter(fitter, regressor)


class ConfidenceFitter(Fitter):
    """Runs ``Regressor.joint_confidence`` beside the fits of another fitter.

    Slots keep the answers of a person but nothing of the network in between, and what is tuned
    there is no longer the network that the confidence is about. So the trunk runs once more.

    Args:
        fitter: Fits the people.
        regressor: The network, untuned, which ``has_confidence``.
    """

    def __init__(self, fitter: Fitter, regressor: Regressor) -> None:
        self._fitter, self._regressor = fitter, regressor
        self._device = next(regressor.parameters()).device
        self._width = 1 if self._device.type == "cpu" else _WIDTH
        self._waiting: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {}
        self.takes_cpu_crops = fitter.takes_cpu_crops

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the fitter, and the confidence."""
        return {**self._fitter.outputs, **confidence_outputs(self._regressor)}

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield the fits of the fitter with the confidence of each person."""
        for index, fit in self._fitter.fit(self._watch(people)):
            said = self.take(index)
            if said is not None:
                fit = replace(fit, outputs={**fit.outputs, CONFIDENCE: said})
            yield index, fit

    def _watch(self, people: Iterable[Prepared]) -> Iterator[Prepared]:
        for person in people:
            self.add(person.index, person.crop)
            yield person

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
        with evaluating(self._regressor):
            features = self._regressor.features(torch.stack([*crops, *blank]).to(self._device))
            found = ask_confidence(self._regressor, features)
        if not found:
            return
        # One wait for the device per call; rows are copied, so that none keeps the others' memory.
        rows = found[CONFIDENCE].cpu()
        self._known |= {index: rows[k : k + 1].clone() for k, index in enumerate(indices)}
