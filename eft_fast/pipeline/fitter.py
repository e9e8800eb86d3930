"""One person of a fit: what goes in, what comes out, and the loss in between.

Every way of fitting takes ``CropJob`` and gives ``PersonFit``, so that none depends on another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eft_fast.eft.config import EftConfig
from eft_fast.losses.fused import fused_eft_loss
from eft_fast.losses.keypoints import EftLossWeights
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.result import Prediction, SmplParams

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

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
        joint_confidence: As of ``FitResult``; None if no fit says it.
    """

    final: Prediction
    init: Prediction
    loss: Float[Tensor, " B"]
    init_loss: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    stop_reason: tuple[str, ...]
    joint_confidence: Float[Tensor, "B 24"] | None = None


@dataclass(frozen=True)
class CropJob:
    """One person: a number to know them by, the crop and the 49 keypoints.

    Attributes:
        index: Which person.
        img: The crop, as the regressor takes it.
        keypoints_2d: x and y in [-1, 1] of the crop, and confidence.
        intrinsics: Pinhole of the photo as seen in the crop (``geometry.crop_intrinsics``), for
            the full perspective; None: the weak camera. All people of a run alike.
    """

    index: int
    img: Float[Tensor, "3 S S"]
    keypoints_2d: Float[Tensor, "49 3"]
    intrinsics: Float[Tensor, "3 3"] | None = None


@dataclass(frozen=True)
class PersonFit:
    """One person's fit; every tensor has one row.

    ``joint_confidence`` is what the network says about ``init``, where it says anything.
    """

    final: RegressorOutput
    init: RegressorOutput
    loss: Tensor
    init_loss: Tensor
    steps: int
    stop_reason: str
    joint_confidence: Tensor | None = None


class Fitter(Protocol):
    """Takes people and yields their fits, in any order."""

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit as soon as it is done."""


def make_jobs(
    img: Float[Tensor, "B 3 S S"], keypoints_2d: Float[Tensor, "B 49 3"]
) -> Iterator[CropJob]:
    """One job per row."""
    for index in range(len(img)):
        yield CropJob(index, img[index], keypoints_2d[index])


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


def output_loss(
    body: Smpl,
    output: RegressorOutput,
    keypoints_2d: Float[Tensor, "B 49 3"],
    weights: EftLossWeights,
    intrinsics: Float[Tensor, "B 3 3"] | None = None,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Total loss and 2D term of each person's prediction: one call, no gradient of the 2D term."""
    return fused_eft_loss(
        body.points_plan("spin49"),
        output.pred_betas,
        output.pred_rotmat,
        output.pred_cam,
        keypoints_2d,
        weights,
        intrinsics=intrinsics,
        backend=body.backend,
    )


def stack_intrinsics(
    jobs: Sequence[CropJob],
) -> Float[Tensor, "B 3 3"] | None:
    """The pinholes of people, or None if they have none.

    Raises:
        ValueError: If only some of them have one.
    """
    given = [job.intrinsics for job in jobs if job.intrinsics is not None]
    if given and len(given) < len(jobs):
        raise ValueError(
            f"fit_batch: all people of a run have a pinhole or none has, got {len(given)} of "
            f"{len(jobs)}"
        )
    return torch.stack(given) if given else None


def readable_errors(output: RegressorOutput, total: Tensor, keypoint_term: Tensor) -> list[float]:
    """The 2D term of each person, NaN where anything is not finite: one read for all."""
    finite = torch.isfinite(total)
    for value in output:
        finite = finite & torch.isfinite(value).flatten(1).all(1)
    values: list[float] = keypoint_term.detach().masked_fill(~finite, float("nan")).tolist()
    return values


def is_labelled(keypoints_2d: Float[Tensor, "49 3"]) -> bool:
    """Whether there is any keypoint to fit to."""
    return bool((keypoints_2d[:, 2] > 0).any())


def check_crops(regressor: Regressor, img: Tensor, keypoints_2d: Tensor) -> None:
    """Raise ValueError unless crops and keypoints have the shapes and units of ``fit_crops``."""
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
        joint_confidence=_stack_confidence(fits),
    )


def _stack_confidence(fits: list[PersonFit]) -> Tensor | None:
    """Rows of NaN where nothing is said; None if nothing is said of anybody."""
    like = next((f.joint_confidence for f in fits if f.joint_confidence is not None), None)
    if like is None:
        return None
    nothing = torch.full_like(like, float("nan"))
    return torch.cat([nothing if (c := f.joint_confidence) is None else c for f in fits])
