"""Options of a fit: one frozen dataclass per method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: What EFT tunes. ``layer3``, ``layer4``: the trunk from that stage on, and the head; ``feature``:
#: the vector that the head reads; ``lora``: low-rank additions to every weight; ``subspace``: one
#: step length for each of a few sign directions.
EFT_MODES: Final = ("full", "layer3", "layer4", "head", "feature", "lora", "subspace")
#: Learning rates where ``EftConfig.lr`` is None. That of weights is the reference's own; the others
#: move other quantities, and were chosen on rendered people (docs/fitting.md).
MODE_LR: Final = {"feature": 3e-3, "lora": 1e-4}
WEIGHT_LR: Final = 5e-6
#: Arithmetic of the network's layers; ``3xtf32`` and ``tf32`` are that of the CUDA kernels.
PRECISIONS: Final = ("fp32", "3xtf32", "tf32", "bf16")
TENSOR_CORES: Final = ("3xtf32", "tf32")
#: Types in which slots keep differences and moments.
STATES: Final = ("fp32", "bf16")


@dataclass(frozen=True)
class EftConfig:
    """Options of Exemplar Fine-Tuning. The defaults are those of the reference implementation.

    Attributes:
        lr: Learning rate of Adam; None: 5e-6, the reference's, where weights are tuned, and
            ``MODE_LR`` in the modes that tune something else.
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
        precision: ``fp32``, or ``bf16``: matrix products and convolutions of the network round
            their operands to bfloat16. On a GPU also ``tf32``: convolutions with private weights
            run on tensor cores, operands rounded to 10 bits; ``3xtf32``: the same on operands
            split in two, as exact as float32. Weights, moments, body and loss stay in float32.
        state: ``fp32``, or ``bf16``: differences from the start weights and both moments of Adam
            are stored in bfloat16 and computed in float32. Weights themselves never are.
        lora_rank: Rank of the additions of mode ``lora``.
        directions: Directions of mode ``subspace``: gradient evaluations of the network.
    """

    lr: float | None = None
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
    precision: str = "fp32"
    state: str = "fp32"
    lora_rank: int = 4
    directions: int = 3

    def __post_init__(self) -> None:
        """Refuse values that no fit can use."""
        for name in ("max_steps", "lora_rank", "directions"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"EftConfig: {name} must be at least 1, got {value}")
        for name in ("lr", "threshold", "adam_eps"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"EftConfig: {name} must not be negative, got {value}")
        for name, known in (("precision", PRECISIONS), ("state", STATES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"EftConfig: {name} must be one of {', '.join(known)}, got {value!r}"
                )

    def lr_of(self, mode: str) -> float:
        """The learning rate that a mode runs with."""
        return MODE_LR.get(mode, WEIGHT_LR) if self.lr is None else self.lr

    @property
    def arithmetic(self) -> str:
        """How a result names the precision it was computed in: ``fp32``, ``bf16, state fp32``..."""
        if self.precision == self.state == "fp32":
            return "fp32"
        return f"{self.precision}, state {self.state}"


DEFAULT_CONFIG: Final = EftConfig()
