"""The regressor alone, in the shape of a fitter: where every fit starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast.conventions import NUM_JOINTS
from eft_fast.losses.keypoints import confidence_level, counting
from eft_fast.losses.native import native_eft_loss
from eft_fast.losses.weights import DEFAULT_WEIGHTS, EftLossWeights
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.fitter import FitRecords, Fitter, PersonFit, StopRule
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Output of fits whose regressor says how sure it is, see ``FitResult.joint_confidence``.
CONFIDENCE: Final = "joint_confidence"


def confidence_outputs(regressor: Regressor) -> Mapping[str, tuple[int, ...]]:
    """What ``Fitter.outputs`` of a fitter is that asks the regressor how sure it is."""
    return {CONFIDENCE: (NUM_JOINTS,)} if regressor.has_confidence else {}


def output_loss(
    body: Smpl,
    output: RegressorOutput,
    keypoints_2d: Float[Tensor, "B 49 3"],
    weights: EftLossWeights,
    intrinsics: Float[Tensor, "B 3 3"] | None = None,
    *,
    as_released: bool = False,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Total loss and 2D error of each person's answer: one call, no gradient of the error.

    The error is the 2D term over the mean confidence (``confidence_level``), so that a stop test
    does not pass because confidences are low; as released, it is the term itself.
    """
    total, error = native_eft_loss(
        body.points_plan("spin49"),
        output.pred_betas,
        output.pred_rotmat,
        output.pred_cam,
        keypoints_2d,
        weights,
        intrinsics=intrinsics,
        backend=body.backend,
    )
    return total, error if as_released else error / confidence_level(keypoints_2d, weights)


def predict_with_confidence(
    regressor: Regressor, img: Float[Tensor, "B 3 S S"], *, raw_camera: bool = False
) -> tuple[RegressorOutput, dict[str, Tensor]]:
    """The answer, and ``CONFIDENCE`` without gradient if the regressor says it."""
    raw = {"raw_camera": True} if raw_camera else {}
    if not regressor.has_confidence:
        return regressor(img, **raw), {}
    answer, said = regressor.head_with_confidence(regressor.features(img), **raw)
    return answer, {} if said is None else {CONFIDENCE: said}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode; one that is in it already is not touched.

    Setting the mode of every module takes a millisecond, which counts where it is done for each
    person.
    """
    was_training = network.training
    if any(module.training for module in network.modules()):
        network.eval()
    try:
        yield
    finally:
        if was_training:
            network.train()


@torch.no_grad()
def ask_confidence(regressor: Regressor, features: object) -> dict[str, Tensor]:
    """``CONFIDENCE`` of the answer that follows from features, if the regressor says it."""
    confidence = regressor.joint_confidence(features)
    return {} if confidence is None else {CONFIDENCE: confidence}


class RegressorFitter(Fitter):
    """Answers of the regressor, with the loss that EFT would start from.

    One crop at a time: convolutions of another batch size round differently, and results are
    batch-invariant.

    Args:
        regressor: The network.
        body: Body model on the same device.
        weights: Of the loss.
        threshold: Below it an answer counts as converged.
        strict: Leave the camera as the weights mean it, see ``Regressor.forward``, and the error
            as released.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Smpl,
        *,
        weights: EftLossWeights = DEFAULT_WEIGHTS,
        threshold: float = 1e-4,
        strict: bool = False,
    ) -> None:
        self._regressor, self._body, self._weights = regressor, body, weights
        self._rule, self._strict = StopRule(threshold, 1), strict

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """How sure the regressor is."""
        return confidence_outputs(self._regressor)

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and answer."""
        for person in people:
            yield person.index, self.fit_person(person)

    @torch.no_grad()
    def fit_person(self, person: Prepared) -> PersonFit:
        """Predict one person."""
        with evaluating(self._regressor):
            output, said = predict_with_confidence(
                self._regressor, person.crop[None], raw_camera=self._strict
            )
        total, error = output_loss(
            self._body,
            output,
            person.keypoints_2d[None],
            self._weights,
            stack_intrinsics([person]),
            as_released=self._strict,
        )
        records = FitRecords(1, self._rule, total)
        counts = counting(person.keypoints_2d[None], self._weights).any()
        records.admit(0, bool(counts))
        records.update(output, total, error)
        return records.fit(0, said)
