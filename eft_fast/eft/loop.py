"""Exemplar Fine-Tuning: fit a person by fine-tuning a regressor on that person's one photo.

The loop is that of the reference (Joo, Neverova, Vedaldi 2020, and its released code): Adam on the
weights, a weighted 2D keypoint loss, and a stop test on the loss *before* the update, so that what
is returned is the last forward pass. Updates that could not be observed are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.eft.config import DEFAULT_CONFIG, EftConfig
from eft_fast.eft.modes import FitNetwork, make_network, share
from eft_fast.eft.subspace import SubspaceFitter
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.fitter import (
    CropFits,
    CropJob,
    Fitter,
    PersonFit,
    check_crops,
    collect_fits,
    is_labelled,
    loss_weights,
    make_jobs,
    output_loss,
    readable_errors,
    stack_intrinsics,
)

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Called after each person with the number of people done and the stop reason.
PersonCallback = Callable[[int, str], None]
#: Called with a person's number, the number of a forward pass, and its answer.
StepCallback = Callable[[int, int, RegressorOutput], None]


def fit_crops(
    regressor: Regressor,
    body: Smpl,
    img: Float[Tensor, "B 3 S S"],
    keypoints_2d: Float[Tensor, "B 49 3"],
    *,
    config: EftConfig = DEFAULT_CONFIG,
    mode: str = "full",
    on_person: PersonCallback | None = None,
) -> CropFits:
    """Fit each person by fine-tuning a private copy of the regressor, one after the other.

    The regressor passed in is not changed. No person depends on the others: each starts from the
    same weights with a fresh optimiser.

    Args:
        regressor: Trained network; its weights are the start of every fit.
        body: Body model on the device of ``img``.
        img: Crops, normalised with ``conventions.IMG_MEAN`` and ``IMG_STD``.
        keypoints_2d: The 49 keypoints of ``keypoints.to_spin49``: x and y in [-1, 1] of the
            crop, and confidence; 0 leaves a keypoint out.
        config: Learning rate, steps, loss weights and stopping rule.
        mode: What is tuned, see ``EFT_MODES``.
        on_person: Called after each person.

    Returns:
        Parameters, camera, losses and step count of each person. A person without any labelled
        keypoint keeps the regressor's answer; one whose numbers stop being finite keeps the last
        finite answer.

    Raises:
        ValueError: If shapes disagree, keypoints are not in crop units, or the regressor has no
            such mode.
    """
    check_crops(regressor, img, keypoints_2d)
    fits = []
    for index, fit in make_loop(regressor, body, config=config, mode=mode).fit(
        make_jobs(img, keypoints_2d)
    ):
        fits.append(fit)
        if on_person is not None:
            on_person(index + 1, fit.stop_reason)
    return collect_fits(fits, like=img)


def make_loop(regressor: Regressor, body: Smpl, *, config: EftConfig, mode: str) -> Fitter:
    """What fits one person after the other in a mode."""
    if mode == "subspace":
        return SubspaceFitter(regressor, body, config=config)
    return LoopFitter(regressor, body, config=config, mode=mode)


class LoopFitter:
    """Fits people one after the other on one private copy of the regressor.

    Only the memory of what is tuned is copied; the rest is that of the regressor.

    Args:
        regressor: Start of every fit; it is not changed.
        body: Body model on the same device.
        config: Steps, learning rate, loss weights and stopping rule.
        mode: What is tuned.
        on_step: Called with the person's number, the number of the pass, and the answer after it.
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
        network, tuned = make_network(regressor, mode, config)
        self._network, parameters = share(network, tuned)
        self._tuned = [parameters[id(parameter)] for parameter in tuned]
        self._start = [parameter.detach() for parameter in tuned]
        self._body, self._config, self._lr = body, config, config.lr_of(mode)

    #: Its fits say how sure the network was.
    gives_confidence: Final = True

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit."""
        for job in jobs:
            yield job.index, self.fit_person(job)

    @torch.enable_grad()
    def fit_person(self, job: CropJob) -> PersonFit:
        """Fit one person from the start weights."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._tuned), self._start)
        config = self._config
        optimiser = torch.optim.Adam(
            self._tuned, lr=self._lr, betas=config.adam_betas, eps=config.adam_eps, fused=True
        )
        return _fit_person(self._network, self._body, job, optimiser, config, self._on_step)


def _fit_person(
    network: FitNetwork,
    body: Smpl,
    job: CropJob,
    optimiser: torch.optim.Optimizer,
    config: EftConfig,
    on_step: StepCallback | None = None,
) -> PersonFit:
    inputs, keypoints_2d = network.prepare(job.img[None]), job.keypoints_2d[None]
    weights, raw_camera = loss_weights(config), config.strict_reference
    pinhole = stack_intrinsics([job])
    if not is_labelled(job.keypoints_2d):
        with torch.no_grad():
            output, said = network.first(inputs, raw_camera=raw_camera)
            total, _ = output_loss(body, output, keypoints_2d, weights, pinhole)
        return PersonFit(output, output, total, total, 0, "no_keypoints", said)
    init: tuple[RegressorOutput, Tensor] | None = None
    last: tuple[RegressorOutput, Tensor, int] | None = None
    sure: Tensor | None = None
    for step in range(config.max_steps):
        if step == 0:
            output, sure = network.first(inputs, raw_camera=raw_camera)
        else:
            output = network(inputs, raw_camera=raw_camera)
        total, keypoint_term = output_loss(body, output, keypoints_2d, weights, pinhole)
        answer = RegressorOutput(*(value.detach().clone() for value in output))
        if init is None:
            init = (answer, total.detach())
        if on_step is not None:
            on_step(job.index, step, answer)
        # One read per step: NaN compares false, so a single number decides both questions.
        (error,) = readable_errors(answer, total, keypoint_term)
        if error != error:
            final, loss, done = last if last is not None else (answer, total.detach(), step)
            return PersonFit(final, init[0], loss, init[1], done, "nan", sure)
        last = (answer, total.detach(), step)
        if error < config.threshold or step == config.max_steps - 1:
            break
        optimiser.zero_grad(set_to_none=True)
        total.sum().backward()
        optimiser.step()
    assert init is not None
    assert last is not None
    reason = "converged" if error < config.threshold else "max_steps"
    return PersonFit(last[0], init[0], last[1], init[1], last[2], reason, sure)


def predict_crops(
    regressor: Regressor,
    body: Smpl,
    img: Float[Tensor, "B 3 S S"],
    keypoints_2d: Float[Tensor, "B 49 3"],
    *,
    config: EftConfig = DEFAULT_CONFIG,
) -> CropFits:
    """The regressor's answers as they are, with the loss that EFT would start from.

    Arguments and errors are those of ``fit_crops``.
    """
    check_crops(regressor, img, keypoints_2d)
    predictor = Predictor(regressor, body, config=config)
    fits = [fit for _, fit in predictor.fit(make_jobs(img, keypoints_2d))]
    return collect_fits(fits, like=img)


class Predictor:
    """The regressor alone, in the shape of a fitter.

    One crop at a time: convolutions of another batch size round differently, and nobody's bits
    may depend on who else is there.
    """

    def __init__(self, regressor: Regressor, body: Smpl, *, config: EftConfig) -> None:
        self._regressor, self._body, self._config = regressor, body, config
        self._network = FitNetwork(regressor)

    #: Its fits say how sure the network is.
    gives_confidence: Final = True

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and the regressor's answer."""
        for job in jobs:
            yield job.index, self.fit_person(job)

    @torch.no_grad()
    def fit_person(self, job: CropJob) -> PersonFit:
        """Predict one person."""
        was_training = self._regressor.training
        self._regressor.eval()
        raw_camera = self._config.strict_reference
        output, sure = self._network.first(job.img[None], raw_camera=raw_camera)
        self._regressor.train(was_training)
        weights = loss_weights(self._config)
        total, keypoint_term = output_loss(
            self._body, output, job.keypoints_2d[None], weights, stack_intrinsics([job])
        )
        (error,) = readable_errors(output, total, keypoint_term)
        reason = "converged" if error < self._config.threshold else "max_steps"
        if not is_labelled(job.keypoints_2d):
            reason = "no_keypoints"
        elif error != error:
            reason = "nan"
        return PersonFit(output, output, total, total, 0, reason, sure)
