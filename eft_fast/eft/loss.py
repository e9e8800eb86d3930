"""What EFT minimises, for any number of people: the released loss, or keypoints and the tie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast import ops
from eft_fast.conventions import EXTENT_PER_SIZE
from eft_fast.eft.config import EftConfig
from eft_fast.geometry.cameras import weak_to_pinhole
from eft_fast.losses import tie
from eft_fast.losses.keypoints import counting
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.error_covariance import find_error_covariance, load_error_covariance
from eft_fast.models.error_state import AnswerFrame, answer_frame
from eft_fast.models.keypoint_noise import find_keypoint_noise
from eft_fast.pipeline.fitter import PersonFit
from eft_fast.pipeline.predict import output_loss
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_JOINTS: Final = "smpl24"


@dataclass(frozen=True)
class EftTarget:
    """What people are fitted to.

    Attributes:
        keypoints_2d: x and y in [-1, 1] of the crop, and confidence; what the released loss takes.
        intrinsics: Pinholes as seen in the crops; None: the weak camera.
        given: The keypoints in their own joint set, which the loss with the tie takes.
        joint_set: Name of that set.
        weight_factor: What the weights of the given keypoints are multiplied by; None: 1.
    """

    keypoints_2d: Float[Tensor, "B 49 3"]
    intrinsics: Float[Tensor, "B 3 3"] | None = None
    given: Float[Tensor, "B K 3"] | None = None
    joint_set: str = "spin49"
    weight_factor: Float[Tensor, "B K"] | None = None

    @classmethod
    def of(cls, people: Sequence[Prepared]) -> EftTarget:
        """The targets of people."""
        keypoints_2d = torch.stack([person.keypoints_2d for person in people])
        given = [person.given for person in people if person.given is not None]
        if len(given) < len(people):
            return cls(keypoints_2d, stack_intrinsics(people), keypoints_2d)
        factors = [person.weight_factor for person in people]
        return cls(
            keypoints_2d,
            stack_intrinsics(people),
            torch.stack(given),
            people[0].joint_set,
            _join_factors(factors, given, torch.stack),
        )

    @classmethod
    def concatenate(cls, targets: Sequence[EftTarget]) -> EftTarget:
        """The targets of all people in order."""
        pinholes = [each.intrinsics for each in targets if each.intrinsics is not None]
        given = [each.given for each in targets if each.given is not None]
        return cls(
            torch.cat([each.keypoints_2d for each in targets]),
            torch.cat(pinholes) if pinholes else None,
            torch.cat(given) if given else None,
            targets[0].joint_set,
            _join_factors([each.weight_factor for each in targets], given, torch.cat),
        )


def _join_factors(
    factors: Sequence[Tensor | None],
    given: Sequence[Tensor],
    join: Callable[[list[Tensor]], Tensor],
) -> Tensor | None:
    """The factors of people, 1 for who has none; None if nobody has any."""
    if all(factor is None for factor in factors):
        return None
    pairs = zip(factors, given, strict=True)
    return join([torch.ones_like(k[..., 2]) if f is None else f.to(k) for f, k in pairs])


def resolve_tie(config: EftConfig, regressor: Regressor) -> EftConfig:
    """The configuration with ``tie="auto"`` decided: where the network's usual error is known."""
    if config.tie != "auto":
        return config
    known = find_error_covariance(regressor, config.covariance) is not None
    return replace(config, tie="residual" if known and not config.strict_reference else None)


class EftLoss:
    """Loss and 2D error of answers; a loop of any kind calls it once per step.

    Args:
        regressor: The network before any update; with the tie, its error covariance is loaded.
        body: Body model on the device of the network.
        config: Weights of the terms, with the tie resolved.

    Raises:
        ValueError: If the tie is asked for and the error covariance of the network is not known.
    """

    def __init__(self, regressor: Regressor, body: Smpl, config: EftConfig) -> None:
        self._body, self._config = body, config
        self._precision: Tensor | None = None
        noise = find_keypoint_noise(config.keypoint_noise)
        self._curve = () if noise is None else noise.knots
        if config.tie == "residual":
            like = next(regressor.parameters())
            covariance = load_error_covariance(regressor, config.covariance)
            self._precision = torch.from_numpy(covariance.precision()).to(like)

    def __call__(
        self, output: RegressorOutput, target: EftTarget, start: RegressorOutput
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """The loss of each person, and the 2D error of ``StopRule`` without gradient.

        Args:
            output: Answers of the network as it is tuned now.
            target: Of the same people.
            start: Their answers before any update.
        """
        if self._precision is None:
            return output_loss(
                self._body,
                output,
                target.keypoints_2d,
                self._config.loss,
                target.intrinsics,
                as_released=self._config.strict_reference,
            )
        frame = self._frame(start)
        offset = tie.tie_offset(start, output, frame.size)
        keypoints, error = self._keypoint_energy(output, target, start, frame)
        return keypoints + tie.tie_energy(offset, self._precision), error

    def has_target(self, person: Prepared) -> bool:
        """Whether any keypoint of a person counts in this loss."""
        if self._precision is not None:
            given = person.keypoints_2d if person.given is None else person.given
            return bool((given[:, 2] > 0).any())
        return bool(counting(person.keypoints_2d[None], self._config.loss).any())

    def with_camera(self, fit: PersonFit) -> PersonFit:
        """The fit, and the pinhole that was assumed for it; that of the photo counts before."""
        if self._precision is None or self._config.distance is None:
            return fit
        start = RegressorOutput(*(part.to(self._precision) for part in fit.init))
        pinhole = self._assume_pinhole(start, self._frame(start))
        return replace(fit, crop_intrinsics=pinhole)

    @torch.no_grad()
    def _frame(self, start: RegressorOutput) -> AnswerFrame:
        return answer_frame(self._joints(start), start.pred_cam)

    def _assume_pinhole(
        self, start: RegressorOutput, frame: AnswerFrame
    ) -> Float[Tensor, "B 3 3"] | None:
        distance = self._config.distance
        if distance is None:
            return None
        return tie.assumed_pinhole(frame.center, start.pred_cam[:, 0], distance)

    def _joints(self, answer: RegressorOutput) -> Float[Tensor, "B 24 3"]:
        return self._body.keypoints(
            answer.pred_betas,
            answer.pred_rotmat[:, 1:],
            answer.pred_rotmat[:, :1],
            joint_set=_JOINTS,
            pose2rot=False,
        )

    def _keypoint_energy(
        self,
        output: RegressorOutput,
        target: EftTarget,
        start: RegressorOutput,
        frame: AnswerFrame,
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Squared errors over their variances, summed; and their mean, which tells the end.

        The mean is weighted as the sum is and in units of a sure keypoint's variance, so that it
        does not fall with the confidences.
        """
        assert target.given is not None
        config, given = self._config, target.given
        weight = tie.keypoint_weights(
            given[..., 2],
            frame.size,
            sigma=config.sigma,
            sigma_unsure=config.sigma_unsure,
            sure_above=config.sure_above,
            curve=self._curve,
        )
        if target.weight_factor is not None:
            weight = weight * target.weight_factor
        camera = output.pred_cam
        pinhole = target.intrinsics
        if pinhole is None:
            pinhole = self._assume_pinhole(start, frame)
        if pinhole is not None:
            eye = torch.eye(3, dtype=camera.dtype, device=camera.device).expand_as(pinhole)
            camera = ops.pack_full_camera(pinhole, eye, weak_to_pinhole(camera, pinhole))
        count = given.shape[1]
        out = ops.keypoint_loss(
            self._body.points_plan(target.joint_set),
            output.pred_betas,
            output.pred_rotmat,
            camera,
            torch.cat([given[..., :2], weight[..., None]], -1),
            # The operator takes the mean over the 2 K coordinates, the energy is the sum.
            weights=ops.LossWeights(keypoints=2.0 * count),
            backend=self._body.backend,
        )
        summed = 2 * count * out.parts[:, 0].detach()
        sure = (EXTENT_PER_SIZE * frame.size * config.sigma).square()
        total = weight.double().sum(1).to(weight) * sure
        return out.loss, summed / torch.where(total > 0, total, 1.0)
