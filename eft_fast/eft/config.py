"""Options of a fit: one frozen dataclass per method."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from eft_fast.errors import unknown_name
from eft_fast.losses.weights import DEFAULT_WEIGHTS, EftLossWeights

if TYPE_CHECKING:
    from eft_fast.models.keypoint_noise import KeypointNoise
    from eft_fast.pipeline.fitter import StopRule

#: What EFT tunes. ``layer3``, ``layer4``: the trunk from that stage on, and the head; ``feature``:
#: the vector that the head reads; ``lora``: low-rank additions to every weight.
EFT_MODES: Final = ("full", "layer3", "layer4", "head", "feature", "lora")
#: Learning rates where ``EftConfig.lr`` is None. That of weights is the reference's own; the others
#: move other quantities, and were chosen on rendered people (docs/fitting.md).
MODE_LR: Final = {"feature": 3e-3, "lora": 1e-4}
WEIGHT_LR: Final = 5e-6
#: The same with the tie, whose loss is on another scale only for Adam's epsilon: it takes the end
#: of the way over from the number of passes, so that steps may be larger (docs/fitting.md).
TIE_LR: Final = {
    "full": 1e-5,
    "layer3": 1e-5,
    "layer4": 2e-5,
    "head": 3e-4,
    "feature": 3e-3,
    "lora": 3e-4,
}
#: Forward passes where ``EftConfig.max_steps`` is None: the reference's; and with the tie in modes
#: whose passes cost little, which follow the keypoints more slowly (docs/fitting.md).
STEPS: Final = 20
TIE_STEPS: Final = {"head": 40, "feature": 40}
#: What holds the answer to where it started.
TIES: Final = ("auto", "residual", None)
#: 2D error at which the released loop ends a fit.
RELEASED_THRESHOLD: Final = 1e-4
#: Hips and ankles count: leaving them out, as the released loop does, leaves ankles worse than
#: before the fit.
ALL_KEYPOINTS: Final = EftLossWeights(with_hips=True, with_ankles=True)
#: Arithmetic of the network's layers; ``3xtf32`` and ``tf32`` are that of the CUDA kernels.
PRECISIONS: Final = ("fp32", "3xtf32", "tf32", "bf16")
TENSOR_CORES: Final = ("3xtf32", "tf32")
#: Types in which slots keep differences and moments.
STATES: Final = ("fp32", "bf16")

_Config = TypeVar("_Config")
#: Names that the weights of ``EftConfig.loss`` had in ``EftConfig`` itself.
_OLD_NAMES: Final = {
    "keypoint_weight": "keypoint",
    "beta_weight": "beta",
    "camera_weight": "camera",
    "leg_weight": "leg",
    "total_weight": "total",
    "openpose_weight": "openpose",
    "gt_weight": "gt",
    "with_hips": "with_hips",
    "with_ankles": "with_ankles",
}


def _accept_old_names(cls: type[_Config]) -> type[_Config]:
    """Let a configuration be made with, and asked for, the names of ``_OLD_NAMES``."""
    make: Any = cls.__init__

    @functools.wraps(make)
    def make_from_either(self: Any, *values: Any, **given: Any) -> None:
        old = {new: given.pop(name) for name, new in _OLD_NAMES.items() if name in given}
        if old:
            default = DEFAULT_WEIGHTS if given.get("strict_reference") else ALL_KEYPOINTS
            given["loss"] = replace(given.get("loss") or default, **old)
        make(self, *values, **given)

    cls.__init__ = make_from_either  # type: ignore[method-assign]
    for name, new in _OLD_NAMES.items():
        setattr(cls, name, property(operator.attrgetter(f"loss.{new}"), doc=f"``loss.{new}``."))
    return cls


@_accept_old_names
@dataclass(frozen=True)
class EftConfig:
    """Options of Exemplar Fine-Tuning; ``released`` has those of the reference implementation.

    With the tie the loss is E of ``losses.tie``: squared errors of the given keypoints over their
    variances, and the squared distance to the network's answer under the covariance of its errors.
    Without it, it is the loss as released.

    Attributes:
        lr: Learning rate of Adam; None: ``TIE_LR`` with the tie; else 5e-6, the reference's, where
            weights are tuned, and ``MODE_LR`` in the modes that tune something else.
        max_steps: Forward passes at most; None: 20, and with the tie ``TIE_STEPS``. The last one
            is not followed by an update, so a fit that never converges returns the result of
            ``max_steps - 1`` updates.
        threshold: A fit has converged when its 2D error falls below this. Without the tie, the
            error is the mean over 49 x 2 squared errors in [-1, 1], not divided by the number of
            labelled keypoints, but by their mean confidence, except in strict mode; with it, the
            weighted mean of squared errors over the variance of a sure keypoint. So it does not
            fall with the confidences. None: 1e-4 without the tie, and 0, never, with it.
        tie: ``residual``: hold the answer by the error covariance of the weights; None: do not;
            ``auto``: hold it where that covariance is known, and never in strict mode.
        covariance: File of the error covariance; None: that of the package's regressor.
        sigma: Standard deviation of a keypoint with the tie, in units of the person's extent
            (``conventions.EXTENT_PER_SIZE`` times f).
        sigma_unsure: The same of keypoints whose confidence is not above ``sure_above``.
        sure_above: Confidence that parts the two.
        keypoint_noise: Where the keypoints come from, instead of the three above: a curve from
            confidence to sigma by its name in ``models.keypoint_noise.CURVES``, a
            ``KeypointNoise``, or a file of ``eft-fast calibrate --keypoint-pairs``.
        robust: With the tie: fit each person by ``map`` first, and go on with the weights that it
            leaves to the keypoints, so that gross errors among them do not pull the fit along.
        distance: With the tie and where no pinhole is given, the distance in metres from which a
            pinhole is assumed to see the person; None: the weak camera.
        loss: Weights of the terms without the tie; None: the reference's with hips and ankles, or
            as they are in strict mode. Their old names (``keypoint_weight``, ``beta_weight``,
            ``camera_weight``, ``leg_weight``, ``total_weight``, ``openpose_weight``,
            ``gt_weight``, ``with_hips``, ``with_ankles``) are taken and can be read as well.
        adam_betas: Decay rates of Adam.
        adam_eps: Epsilon of Adam.
        strict_reference: Repeat the reference's quirks: crop corners and keypoints truncated to
            integers, the raw camera of SPIN checkpoints read as u = s*X + t, and the rule that
            drops ankles near the lower border of the photo.
        precision: ``fp32``, or ``bf16``: matrix products and convolutions of the network round
            their operands to bfloat16. On a GPU also ``tf32``: convolutions with private weights
            run on tensor cores, operands rounded to 10 bits; ``3xtf32``: the same on operands
            split in two, as exact as float32. Weights, moments, body and loss stay in float32.
        state: ``fp32``, or ``bf16``: differences from the start weights and both moments of Adam
            are stored in bfloat16 and computed in float32. Weights themselves never are.
        lora_rank: Rank of the additions of mode ``lora``.
    """

    lr: float | None = None
    max_steps: int | None = None
    threshold: float | None = None
    tie: str | None = "auto"
    covariance: str | Path | None = None
    sigma: float = 0.02
    sigma_unsure: float = 0.06
    sure_above: float = 0.55
    keypoint_noise: str | Path | KeypointNoise | None = None
    robust: bool = True
    distance: float | None = 5.0
    loss: EftLossWeights = None  # type: ignore[assignment]  # never None once it is made
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    strict_reference: bool = False
    precision: str = "fp32"
    state: str = "fp32"
    lora_rank: int = 4

    def __post_init__(self) -> None:
        """Fill in the weights, and refuse values that no fit can use."""
        if self.loss is None:
            weights = DEFAULT_WEIGHTS if self.strict_reference else ALL_KEYPOINTS
            object.__setattr__(self, "loss", weights)
        for name in ("sigma", "sigma_unsure", "distance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"EftConfig: {name} must be positive, got {value}")
        if self.strict_reference and self.tie == "residual":
            raise ValueError(
                "EftConfig: strict_reference repeats the released loop, which knows no tie; "
                "leave one of them out"
            )
        for name in ("max_steps", "lora_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"EftConfig: {name} must be at least 1, got {value}")
        for name in ("lr", "threshold", "adam_eps"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"EftConfig: {name} must not be negative, got {value}")
        for name, known in (("precision", PRECISIONS), ("state", STATES), ("tie", TIES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(unknown_name("EftConfig", name, value, map(str, known)))

    @classmethod
    def released(cls, **changes: Any) -> EftConfig:
        """The loop and loss of the reference implementation, with other options if given."""
        return cls(**{"tie": None, "loss": DEFAULT_WEIGHTS, **changes})

    def lr_of(self, mode: str) -> float:
        """The learning rate that a mode runs with, once the tie is resolved."""
        if self.lr is not None:
            return self.lr
        return TIE_LR[mode] if self.tie == "residual" else MODE_LR.get(mode, WEIGHT_LR)

    def steps_of(self, mode: str) -> int:
        """The forward passes of a mode, once the tie is resolved."""
        if self.max_steps is not None:
            return self.max_steps
        return TIE_STEPS.get(mode, STEPS) if self.tie == "residual" else STEPS

    def stop_rule_of(self, mode: str) -> StopRule:
        """When a fit ends, once the tie is resolved."""
        from eft_fast.pipeline.fitter import StopRule  # brings torch, which options do not need

        default = 0.0 if self.tie == "residual" else RELEASED_THRESHOLD
        threshold = default if self.threshold is None else self.threshold
        return StopRule(threshold, self.steps_of(mode))

    @property
    def arithmetic(self) -> str:
        """How a result names the precision it was computed in: ``fp32``, ``bf16, state fp32``..."""
        if self.precision == self.state == "fp32":
            return "fp32"
        return f"{self.precision}, state {self.state}"


DEFAULT_CONFIG: Final = EftConfig()
