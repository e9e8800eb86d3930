"""Exemplar Fine-Tuning: fit a person by fine-tuning a regressor on that person's one photo.

The loop is that of the reference (Joo, Neverova, Vedaldi 2020, and its released code): Adam on the
weights, a weighted 2D keypoint loss, and a stop test on the loss *before* the update, so that what
is returned is the last forward pass. Updates that could not be observed are not computed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eft_fast.fitting.config import DEFAULT_CONFIG, EFT_MODES, EftConfig
from eft_fast.fitting.result import Prediction, SmplParams
from eft_fast.losses.keypoints import EftLossWeights, eft_loss
from eft_fast.models.base import Regressor, RegressorOutput

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Called after each person with the number of people done and the stop reason.
PersonCallback = Callable[[int, str], None]

_NUM_KEYPOINTS: Final = 49
#: Keypoints may lie outside the crop, but one this many crop sides away is a unit mistake.
_KEYPOINT_LIMIT: Final = 50.0


@dataclass(frozen=True)
class CropFits:
    """Fits of B crops, still in the coordinates of the crops.

    Attributes:
        final: Parameters and camera at the end.
        init: Parameters and camera of the regressor alone.
        loss: Total loss of ``final``.
        init_loss: Total loss of ``init``.
        steps: Weight updates behind ``final``.
        stop_reason: One of ``result.STOP_REASONS`` per person.
    """

    final: Prediction
    init: Prediction
    loss: Float[Tensor, " B"]
    init_loss: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    stop_reason: tuple[str, ...]


@dataclass(frozen=True)
class CropJob:
    """One person: a number to know them by, the crop and the 49 keypoints."""

    index: int
    img: Float[Tensor, "3 S S"]
    keypoints_2d: Float[Tensor, "49 3"]


@dataclass(frozen=True)
class PersonFit:
    """One person's fit; every tensor has one row."""

    final: RegressorOutput
    init: RegressorOutput
    loss: Tensor
    init_loss: Tensor
    steps: int
    stop_reason: str


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
        mode: Which weights are tuned, see ``EFT_MODES``.
        on_person: Called after each person.

    Returns:
        Parameters, camera, losses and step count of each person. A person without any labelled
        keypoint keeps the regressor's answer; one whose numbers stop being finite keeps the last
        finite answer.

    Raises:
        ValueError: If shapes disagree, keypoints are not in crop units, or the regressor has no
            such mode.
    """
    _check_inputs(regressor, img, keypoints_2d)
    fitter = LoopFitter(regressor, body, config=config, mode=mode)
    fits = []
    for index, fit in fitter.fit(make_jobs(img, keypoints_2d)):
        fits.append(fit)
        if on_person is not None:
            on_person(index + 1, fit.stop_reason)
    return collect_fits(fits, like=img)


class LoopFitter:
    """Fits people one after the other on one private copy of the regressor.

    Args:
        regressor: Start of every fit; it is not changed.
        body: Body model on the same device.
        config: Steps, learning rate, loss weights and stopping rule.
        mode: Which weights are tuned.
    """

    def __init__(
        self, regressor: Regressor, body: Smpl, *, config: EftConfig, mode: str = "full"
    ) -> None:
        self._private = copy.deepcopy(regressor).eval()
        self._tuned = tuned_parameters(self._private, mode)
        self._start = [parameter.detach().clone() for parameter in self._tuned]
        self._body, self._config, self._mode = body, config, mode
        keep = {id(parameter) for parameter in self._tuned}
        for parameter in self._private.parameters():
            parameter.requires_grad_(id(parameter) in keep)

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit."""
        for job in jobs:
            yield job.index, self.fit_person(job)

    @torch.enable_grad()
    def fit_person(self, job: CropJob) -> PersonFit:
        """Fit one person from the start weights."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._tuned), self._start)
        return _fit_person(
            self._private,
            self._body,
            job.img[None],
            job.keypoints_2d[None],
            self._tuned,
            self._config,
            head_only=self._mode == "head",
        )


def make_jobs(
    img: Float[Tensor, "B 3 S S"], keypoints_2d: Float[Tensor, "B 49 3"]
) -> Iterator[CropJob]:
    """One job per row."""
    for index in range(len(img)):
        yield CropJob(index, img[index], keypoints_2d[index])


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
    _check_inputs(regressor, img, keypoints_2d)
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

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and the regressor's answer."""
        for job in jobs:
            yield job.index, self.fit_person(job)

    @torch.no_grad()
    def fit_person(self, job: CropJob) -> PersonFit:
        """Predict one person."""
        was_training = self._regressor.training
        self._regressor.eval()
        raw = {"raw_camera": True} if self._config.strict_reference else {}
        output = self._regressor(job.img[None], **raw)
        self._regressor.train(was_training)
        target = job.keypoints_2d[None]
        weights = loss_weights(self._config)
        total, keypoint_term = output_loss(self._body, output, target, weights)
        reason = "converged" if float(keypoint_term) < self._config.threshold else "max_steps"
        if not bool((target[..., 2] > 0).any()):
            reason = "no_keypoints"
        elif not _all_finite(output, total):
            reason = "nan"
        return PersonFit(output, output, total, total, 0, reason)


def tuned_parameters(regressor: Regressor, mode: str) -> list[nn.Parameter]:
    """The weights that a mode tunes. Batch normalisation is never among them.

    Args:
        regressor: The network.
        mode: ``full``: every weight; ``layer4``: the last trunk stage and the head; ``head``:
            the layers behind the trunk.

    Raises:
        ValueError: If the mode is unknown, or the regressor has no such part.
    """
    if mode == "full":
        chosen = list(regressor.parameters())
    elif mode == "head":
        chosen = list(regressor.head_parameters())
    elif mode == "layer4":
        stage = getattr(regressor, "layer4", None)
        if stage is None:
            raise ValueError(
                f"fit_batch: mode 'layer4' needs a ResNet regressor, got {regressor.id}; "
                "use 'full' or 'head'"
            )
        chosen = [*stage.parameters(), *regressor.head_parameters()]
    else:
        raise ValueError(f"fit_batch: mode must be one of {', '.join(EFT_MODES)}, got {mode!r}")
    frozen = {
        id(parameter)
        for module in regressor.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters()
    }
    return [parameter for parameter in chosen if id(parameter) not in frozen]


def loss_weights(config: EftConfig) -> EftLossWeights:
    """The loss weights of a configuration."""
    return EftLossWeights(
        keypoint=config.keypoint_weight,
        beta=config.beta_weight,
        camera=config.camera_weight,
        leg=config.leg_weight,
        total=config.total_weight,
        openpose=config.openpose_weight,
        gt=config.gt_weight,
        with_hips=config.with_hips,
        with_ankles=config.with_ankles,
    )


def _fit_person(
    regressor: Regressor,
    body: Smpl,
    img: Float[Tensor, "1 3 S S"],
    keypoints_2d: Float[Tensor, "1 49 3"],
    tuned: list[nn.Parameter],
    config: EftConfig,
    *,
    head_only: bool,
) -> PersonFit:
    forward = make_forward(regressor, img, head_only=head_only, raw_camera=config.strict_reference)
    weights = loss_weights(config)
    if not bool((keypoints_2d[..., 2] > 0).any()):
        with torch.no_grad():
            output = forward()
            total, _ = output_loss(body, output, keypoints_2d, weights)
        return PersonFit(output, output, total, total, 0, "no_keypoints")
    optimiser = torch.optim.Adam(
        tuned, lr=config.lr, betas=config.adam_betas, eps=config.adam_eps, fused=True
    )
    init: tuple[RegressorOutput, Tensor] | None = None
    last: tuple[RegressorOutput, Tensor, int] | None = None
    for step in range(config.max_steps):
        output = forward()
        total, keypoint_term = output_loss(body, output, keypoints_2d, weights)
        answer = RegressorOutput(*(value.detach().clone() for value in output))
        if init is None:
            init = (answer, total.detach())
        # One read per step: NaN compares false, so a single number decides both questions.
        error = float(keypoint_term.detach()) if _all_finite(answer, total) else float("nan")
        if error != error:
            final, loss, done = last if last is not None else (answer, total.detach(), step)
            return PersonFit(final, init[0], loss, init[1], done, "nan")
        last = (answer, total.detach(), step)
        if error < config.threshold or step == config.max_steps - 1:
            break
        optimiser.zero_grad(set_to_none=True)
        total.sum().backward()
        optimiser.step()
    assert init is not None
    assert last is not None
    reason = "converged" if error < config.threshold else "max_steps"
    return PersonFit(last[0], init[0], last[1], init[1], last[2], reason)


def make_forward(
    regressor: Regressor, img: Tensor, *, head_only: bool, raw_camera: bool
) -> Callable[[], RegressorOutput]:
    """The forward pass that a fit repeats; without the trunk if only the head moves."""
    raw = {"raw_camera": True} if raw_camera else {}
    if not head_only:
        return lambda: regressor(img, **raw)
    with torch.no_grad():
        features = regressor.features(img)
    return lambda: regressor.head_forward(features, **raw)


def output_loss(
    body: Smpl,
    output: RegressorOutput,
    keypoints_2d: Float[Tensor, "B 49 3"],
    weights: EftLossWeights,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Total loss and 2D term of each person's prediction."""
    points = body.keypoints(
        output.pred_betas,
        output.pred_rotmat[:, 1:],
        output.pred_rotmat[:, :1],
        joint_set="spin49",
        pose2rot=False,
    )
    terms = eft_loss(points, output.pred_betas, output.pred_cam, keypoints_2d, weights)
    return terms.total, terms.keypoint


def _all_finite(output: RegressorOutput, total: Tensor) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in (*output, total))


def _check_inputs(regressor: Regressor, img: Tensor, keypoints_2d: Tensor) -> None:
    size = regressor.input_size
    if img.ndim != 4 or tuple(img.shape[1:]) != (3, size, size):
        raise ValueError(
            f"fit_crops: img must be [B, 3, {size}, {size}] for {regressor.id}, "
            f"got {list(img.shape)}"
        )
    expected = (len(img), _NUM_KEYPOINTS, 3)
    if tuple(keypoints_2d.shape) != expected:
        raise ValueError(
            f"fit_crops: keypoints_2d must be {list(expected)}, got {list(keypoints_2d.shape)}; "
            "call keypoints.to_spin49 first"
        )
    labelled = keypoints_2d[..., 2] > 0
    far = keypoints_2d[..., :2].abs().amax(-1)[labelled]
    if far.numel() and float(far.nan_to_num().max()) > _KEYPOINT_LIMIT:
        raise ValueError(
            "fit_crops: keypoints_2d must be in [-1, 1] of the crop, "
            f"got {float(far.nan_to_num().max()):.1f}; call Crop.normalise first"
        )


def collect_fits(fits: list[PersonFit], *, like: Tensor) -> CropFits:
    """Stack the fits of people; ``like`` gives type and device when there are none."""

    def stack(outputs: list[RegressorOutput]) -> Prediction:
        rotmat, betas, cam = (
            torch.cat([getattr(output, name) for output in outputs])
            if outputs
            else like.new_zeros((0, *shape))
            for name, shape in (
                ("pred_rotmat", (24, 3, 3)),
                ("pred_betas", (10,)),
                ("pred_cam", (3,)),
            )
        )
        return Prediction(SmplParams.from_rotmat(rotmat, betas), cam)

    def column(values: list[Tensor]) -> Tensor:
        return torch.cat(values) if values else like.new_zeros(0)

    return CropFits(
        final=stack([fit.final for fit in fits]),
        init=stack([fit.init for fit in fits]),
        loss=column([fit.loss for fit in fits]),
        init_loss=column([fit.init_loss for fit in fits]),
        steps=torch.tensor([fit.steps for fit in fits], dtype=torch.int64),
        stop_reason=tuple(fit.stop_reason for fit in fits),
    )
