"""Options of a fit: one frozen dataclass per method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Which weights EFT tunes. ``layer4``: the last trunk stage and the head.
EFT_MODES: Final = ("full", "layer4", "head")


@dataclass(frozen=True)
class EftConfig:
    """Options of Exemplar Fine-Tuning. The defaults are those of the reference implementation.

    Attributes:
        lr: Learning rate of Adam.
        max_steps: Forward passes at most. The last one is not followed by an update, so a fit
            that never converges returns the result of ``max_steps - 1`` updates.
        threshold: A fit has converged when the 2D term (mean over 49 x 2 squared errors in
            [-1, 1], not divided by the number of labelled keypoints) falls below this.
        keypoint_weight: Weight of the 2D term.
        beta_weight: Weight of the mean square of betas.
        camera_weight: Weight of exp(-10 s)^2, which keeps the scale positive.
        leg_weight: Weight of 1 - cos between shins, given and projected.
        total_weight: Factor of the whole sum; Adam cancels it up to its epsilon.
        openpose_weight: Weight of the OpenPose block of the 49 keypoints; feet live there.
        gt_weight: Weight of the block of 24 annotated keypoints.
        with_hips: Keep hips and pelvis in the 2D term. Annotated hips are noisy, so off.
        with_ankles: Keep ankles in the 2D term; off, since the leg term takes their place.
        adam_betas: Decay rates of Adam.
        adam_eps: Epsilon of Adam.
        strict_reference: Repeat the reference's quirks: crop corners and keypoints truncated to
            integers, the raw camera of SPIN checkpoints read as u = s*X + t, and the rule that
            drops ankles near the lower border of the photo.
    """

    lr: float = 5e-6
    max_steps: int = 20
    threshold: float = 1e-4
    keypoint_weight: float = 5.0
    beta_weight: float = 0.001
    camera_weight: float = 1.0
    leg_weight: float = 0.005
    total_weight: float = 60.0
    openpose_weight: float = 0.0
    gt_weight: float = 1.0
    with_hips: bool = False
    with_ankles: bool = False
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    strict_reference: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no fit can use."""
        if self.max_steps < 1:
            raise ValueError(f"EftConfig: max_steps must be at least 1, got {self.max_steps}")
        for name in ("lr", "threshold", "adam_eps"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"EftConfig: {name} must not be negative, got {value}")


DEFAULT_CONFIG: Final = EftConfig()
