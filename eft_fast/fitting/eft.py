"""Exemplar Fine-Tuning: fit a person by fine-tuning a regressor on that person's one photo.

The loop is that of the reference (Joo, Neverova, Vedaldi 2020, and its released code): Adam on the
weights, a weighted 2D keypoint loss, and a stop test on the loss *before* the update, so that what
is returned is the last forward pass. Updates that could not be observed are not computed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    private = copy.deepcopy(regressor).eval()
    tuned = tuned_parameters(private, mode)
    start = [parameter.detach().clone() for parameter in tuned]
    fits: list[PersonFit] = []
    with _only_these_require_grad(private, tuned):
        for person in range(len(img)):
            with torch.no_grad():
                torch._foreach_copy_(list(tuned), start)
            fits.append(
                _fit_person(
                    private,
                    body,
                    img[person : person + 1],
                    keypoints_2d[person : person + 1],
                    tuned,
                    config,
                    head_only=mode == "head",
                )
            )
            if on_person is not None:
                on_person(person + 1, fits[-1].stop_reason)
    return _collect(fits, img)


@torch.no_grad()
def predict_crops(
    regressor: Regressor,
    body: Smpl,
    img: Float[Tensor, "B 3 S S"],
    keypoints_2d: Float[Tensor, "B 49 3"],
    *,
    config: EftConfig = DEFAULT_CONFIG,
) -> CropFits:
    """The regressor's answers as they are, with the loss that EFT would start from.

    One crop at a time: convolutions of another batch size round differently, and nobody's bits
    may depend on who else is there. Arguments and errors are those of ``fit_crops``.
    """
    _check_inputs(regressor, img, keypoints_2d)
    was_training = regressor.training
    regressor.eval()
    weights = loss_weights(config)
    fits = []
    for person in range(len(img)):
        output = regressor(img[person : person + 1])
        target = keypoints_2d[person : person + 1]
        total, keypoint_term = output_loss(body, output, target, weights)
        reason = "converged" if float(keypoint_term) < config.threshold else "max_steps"
        if not bool((target[..., 2] > 0).any()):
            reason = "no_keypoints"
        elif not _all_finite(output, total):
            reason = "nan"
        fits.append(PersonFit(output, output, total, total, 0, reason))
    regressor.train(was_training)
    return _collect(fits, img)


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
    forward = _make_forward(regressor, img, head_only=head_only)
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
    assert init is not None and last is not None
    reason = "converged" if error < config.threshold else "max_steps"
    return PersonFit(last[0], init[0], last[1], init[1], last[2], reason)


def _make_forward(
    regressor: Regressor, img: Tensor, *, head_only: bool
) -> Callable[[], RegressorOutput]:
    if not head_only:
        return lambda: regressor(img)
    with torch.no_grad():
        features = regressor.features(img)
    return lambda: regressor.head_forward(features)


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


@contextmanager
def _only_these_require_grad(module: nn.Module, chosen: list[nn.Parameter]) -> Iterator[None]:
    """Keep gradients from weights that are not tuned; the module is a private copy."""
    keep = {id(parameter) for parameter in chosen}
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in keep)
    with torch.enable_grad():
        yield


def _collect(fits: list[PersonFit], img: Tensor) -> CropFits:
    def stack(outputs: list[RegressorOutput]) -> Prediction:
        rotmat, betas, cam = (
            torch.cat([getattr(output, name) for output in outputs])
            if outputs
            else img.new_zeros((0, *shape))
            for name, shape in (
                ("pred_rotmat", (24, 3, 3)),
                ("pred_betas", (10,)),
                ("pred_cam", (3,)),
            )
        )
        return Prediction(SmplParams.from_rotmat(rotmat, betas), cam)

    def column(values: list[Tensor]) -> Tensor:
        return torch.cat(values) if values else img.new_zeros(0)

    return CropFits(
        final=stack([fit.final for fit in fits]),
        init=stack([fit.init for fit in fits]),
        loss=column([fit.loss for fit in fits]),
        init_loss=column([fit.init_loss for fit in fits]),
        steps=torch.tensor([fit.steps for fit in fits], dtype=torch.int64),
        stop_reason=tuple(fit.stop_reason for fit in fits),
    )
