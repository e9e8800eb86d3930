"""Options of training: one frozen dataclass per stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

#: Largest count of steps, people or pictures that makes sense.
_MOST: Final = 10**9
#: Odds, shares and rates of decay.
_SHARES: Final = frozenset(
    {
        "dropout", "simulated", "drop_features", "mirror", "stage_decay", "ema", "skeletons",
        "given", "found", "drop_base", "drop_found", "worse_base", "fitted_odds",
    }
)  # fmt: skip
#: Counts that may be zero.
_FROM_ZERO: Final = frozenset(
    {
        "seed",
        "warmup",
        "frozen_stages",
        "train",
        "varied",
        "fitted",
        "standing",
        "num_simulated",
        "calibration",
        "trained_passes",
        "passes",
    }
)


def check_numbers(options: Any, who: str, *, at_least: Mapping[str, int] | None = None) -> None:
    """Raise ValueError unless every number of a dataclass is one that training can use.

    Args:
        options: The dataclass. Its floats must be finite and not negative, shares in [0, 1], counts
            1 to a billion, or from 0 where nothing is a choice.
        who: Opens the sentence of the error.
        at_least: Smallest value of counts with another rule.
    """
    for item in fields(options):
        value = getattr(options, item.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, high = 0.0, math.inf
        # By the declared type: a weight may be given as a whole number, and be 0.
        if item.type in ("int", int):
            low, high = (at_least or {}).get(item.name, item.name not in _FROM_ZERO), _MOST
        if item.name in _SHARES:
            low, high = 0.0, 1.0
        if not (math.isfinite(value) and low <= value <= high):
            most = f" to {high:g}" if math.isfinite(high) else " or more"
            given = f"{value:.3g}" if isinstance(value, float) else str(value)[:40]
            raise ValueError(f"{who}: {item.name} must be {low:g}{most}, got {given}")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms. Points are compared with the true shape in the body.

    With the predicted shape, uncertain poses would pull people small: short limbs err less.

    Attributes:
        rotation: Squared Frobenius distance of rotations.
        points_3d: Absolute error of landmarks and joints about the pelvis, metres.
        points_2d: Absolute error of projected landmarks, in landmark frame sizes.
        betas: Squared error of the shape coefficients.
        log_scale: Absolute error of the logarithm of the camera scale.
        trunk_landmarks: Absolute error of the trunk's own 2D landmarks, when it is trained.
        trunk_world: Absolute error of the trunk's own 3D landmarks, metres, when it is trained.
        clamp_2d: Errors in 2D count no more than this many frame sizes.
    """

    rotation: float = 1.0
    points_3d: float = 8.0
    points_2d: float = 2.0
    betas: float = 0.2
    log_scale: float = 0.3
    trunk_landmarks: float = 2.0
    trunk_world: float = 4.0
    clamp_2d: float = 3.0

    def __post_init__(self) -> None:
        check_numbers(self, "train")


@dataclass(frozen=True)
class HeadConfig:
    """Training of the head on stored outputs of the trunk.

    Attributes:
        seed: Seed of the weights and of every batch.
        steps: Updates.
        batch: People per update.
        lr: Peak learning rate of AdamW; linear warm-up, then cosine.
        warmup: Updates of the warm-up.
        weight_decay: Of AdamW.
        width: Width of the head's hidden layers.
        blocks: Residual blocks of the head.
        dropout: Inside the blocks.
        simulated: Share of the batches that hold simulated landmarks of poses never rendered.
        num_simulated: Poses to simulate.
        drop_features: Share of rendered people whose trunk features are blanked, so that the
            head does not lean on them alone.
        mirror: Share of people that are mirrored.
        max_norm: Gradients longer than this are shortened.
        validate_every: Updates between two looks at the validation split. The weights that did
            best there are kept.
        loss: Weights of the terms.
    """

    seed: int = 0
    steps: int = 3000
    batch: int = 256
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.03
    width: int = 512
    blocks: int = 2
    dropout: float = 0.15
    simulated: float = 0.5
    num_simulated: int = 60_000
    drop_features: float = 0.25
    mirror: float = 0.5
    max_norm: float = 5.0
    validate_every: int = 500
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "train")


@dataclass(frozen=True)
class FinetuneConfig:
    """Training of trunk and head together, on pictures.

    Attributes:
        seed: Seed of every batch.
        steps: Updates.
        batch: Pictures per update.
        trunk_lr: Peak learning rate of the trunk's landmark head. There is no batch norm to hold
            it: at 8e-5 the loss rose by half within 100 updates.
        stage_decay: Rate of an encoder stage over that of the part behind it.
        head_lr: Peak learning rate of the body head.
        warmup: Updates of the warm-up.
        weight_decay: Of AdamW.
        frozen_stages: The trunk's stem and so many encoder stages stay as they are; they run at
            the highest resolution and would take most of the time.
        mirror: Share of pictures that are mirrored.
        ema: Decay of the moving average of the weights, which is what is kept.
        max_norm: Gradients longer than this are shortened.
        validate_every: Updates between two looks at the validation split. The weights that did
            best there are kept.
        half: Run the encoder in bfloat16, with float32 weights; None: on a GPU. It pays on CPUs
            that multiply bfloat16 too (AVX-512 BF16, AMX).
        loss: Weights of the terms.
    """

    seed: int = 0
    steps: int = 5000
    batch: int = 8
    trunk_lr: float = 2e-5
    stage_decay: float = 0.8
    head_lr: float = 2e-4
    warmup: int = 60
    weight_decay: float = 0.02
    frozen_stages: int = 4
    mirror: float = 0.5
    ema: float = 0.997
    max_norm: float = 5.0
    validate_every: int = 400
    half: bool | None = None
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "train")
