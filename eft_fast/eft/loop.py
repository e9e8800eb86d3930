"""Exemplar Fine-Tuning: fit a person by fine-tuning a regressor on that person's one photo.

The loop is that of the reference (Joo, Neverova, Vedaldi 2020, and its released code): Adam on the
weights, a weighted 2D keypoint loss, and a stop test on the loss *before* the update, so that what
is returned is the last forward pass. Updates that could not be observed are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eft_fast.eft.config import EftConfig
from eft_fast.eft.loss import EftLoss, EftTarget, resolve_tie
from eft_fast.eft.modes import make_network, share
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.fitter import FitRecords, Fitter, PersonFit
from eft_fast.pipeline.predict import confidence_outputs
from eft_fast.pipeline.prepare import Prepared

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Called with a person's index, the number of a forward pass, and its answer.
StepCallback = Callable[[int, int, RegressorOutput], None]


class LoopFitter(Fitter):
    """Fits people one after the other on one private copy of the regressor.

    Only the memory of what is tuned is copied; the rest is that of the regressor, which is not
    changed. Each person starts from the same weights with a fresh optimiser.

    Args:
        regressor: Start of every fit.
        body: Body model on the same device.
        config: Steps, learning rate, loss weights and stopping rule.
        mode: What is tuned, see ``EFT_MODES``.
        on_step: Called with the person's index, the number of the pass, and the answer after it.

    Raises:
        ValueError: If the regressor has no such mode.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Smpl,
        *,
        config: EftConfig,
        mode: str = "full",
        on_step: StepCallback | None = None,
    ) -> None:
        self._on_step = on_step
        config = resolve_tie(config, regressor)
        network, tuned = make_network(regressor, mode, config)
        self._network, parameters = share(network, tuned)
        self._tuned = [parameters[id(parameter)] for parameter in tuned]
        self._start = [parameter.detach() for parameter in tuned]
        self._config, self._lr = config, config.lr_of(mode)
        self._loss = EftLoss(regressor, body, config)
        self._rule = config.stop_rule_of(mode)
        self._outputs = confidence_outputs(regressor)
        self._like = next(regressor.parameters()).detach()

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """How sure the regressor is."""
        return self._outputs

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit."""
        for person in people:
            yield person.index, self.fit_person(person)

    def fit_person(self, person: Prepared) -> PersonFit:
        """Fit one person from the start weights.

        A person without any keypoint that counts keeps the regressor's answer; one whose numbers
        stop being finite keeps the last finite one.
        """
        with torch.no_grad():
            torch._foreach_copy_(list(self._tuned), self._start)
        config = self._config
        optimiser = torch.optim.Adam(
            self._tuned, lr=self._lr, betas=config.adam_betas, eps=config.adam_eps, fused=True
        )
        # Nothing is recorded for a person whom no update will follow.
        has_target = self._loss.has_target(person)
        with torch.set_grad_enabled(has_target):
            return self._descend(person, optimiser, has_target)

    def _descend(
        self, person: Prepared, optimiser: torch.optim.Optimizer, has_target: bool
    ) -> PersonFit:
        inputs, target = self._network.prepare(person.crop[None]), EftTarget.of([person])
        records = FitRecords(1, self._rule, self._like)
        records.admit(0, has_target)
        raw_camera = self._config.strict_reference
        said: dict[str, Tensor] = {}
        for step in count():
            if step == 0:
                output, said = self._network.first(inputs, raw_camera=raw_camera)
            else:
                output = self._network(inputs, raw_camera=raw_camera)
            total, error = self._loss(output, target, records.start(output))
            if self._on_step is not None:
                answer = RegressorOutput(*(value.detach().clone() for value in output))
                self._on_step(person.index, step, answer)
            # The one read per step: one number says whether the person is done.
            if int(records.update(output, total, error)):
                break
            optimiser.zero_grad(set_to_none=True)
            total.sum().backward()
            optimiser.step()
            records.advance()
        return self._loss.with_camera(records.fit(0, said))
