"""Priors of pose and shape in one native call, on the CPU; ``losses.priors`` says what they are."""

from __future__ import annotations

from torch import Tensor

from eft_fast.ops import _checks
from eft_fast.ops._operators import Operator

#: Loss [B], parts [B,5], and the gradients of body pose and betas.
PriorOutput = tuple[Tensor, Tensor, Tensor, Tensor]


def use_native_priors(who: str, backend: str, betas: Tensor) -> bool:
    """Whether the native call runs: on the CPU. Elsewhere only ``auto`` may choose another way.

    Raises:
        ValueError: If ``backend`` is ``native`` and there is no such kernel for the device.
    """
    if betas.device.type == "cpu":
        return _checks.use_native(who, backend, betas)
    if backend == "native":
        raise ValueError(
            f"{who}: the native priors run on cpu, got {betas.device}; use backend='auto'"
        )
    return False


def body_priors(
    body_pose: Tensor,
    betas: Tensor,
    mixture: tuple[Tensor, Tensor, Tensor],
    limits: tuple[Tensor, Tensor, float],
    weights: tuple[float, float, float, float, float],
    anchor: tuple[Tensor, Tensor] | None = None,
) -> PriorOutput:
    """Weighted priors with their gradients.

    Args:
        body_pose: Axis-angle [B,69], radians.
        betas: Shape [B,10].
        mixture: Means [M,D], factors [D,M*D] and offsets [M] of the Gaussians.
        limits: Lower and upper ends [69], and how softly they end.
        weights: Of mixture, bending, limits, squared betas, squared distance to the anchor; what
            weighs 0 is not computed.
        anchor: Pose [B,69] and betas [B,10] of the start; None: zeros.

    Returns:
        Loss, its five parts before weighting, and the loss's gradients of pose and betas.

    Raises:
        RuntimeError: If shapes, types or devices do not agree.
    """
    pose_start, betas_start = (None, None) if anchor is None else anchor
    lower, upper, softness = limits
    out: PriorOutput = _PRIORS(
        body_pose, betas, *mixture, lower, upper, pose_start, betas_start, softness, *weights
    )
    return out


def _priors_fake(body_pose: Tensor, betas: Tensor, *rest: object) -> PriorOutput:
    people = betas.shape[0]
    return (
        betas.new_empty(people),
        betas.new_empty(people, 5),
        betas.new_empty(people, body_pose.shape[1]),
        betas.new_empty(people, betas.shape[1]),
    )


_PRIORS = Operator("body_priors", _priors_fake)
