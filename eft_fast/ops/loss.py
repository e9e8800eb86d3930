"""The fitting loop's one call: pose, shape and camera in, loss of each person and gradients out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eft_fast.ops import _checks, reference
from eft_fast.ops._operators import (
    Gradient,
    PythonOperator,
    RecordedOperator,
    check_devices,
    needs_gradient,
)
from eft_fast.ops.plans import PointsPlan
from eft_fast.ops.smpl import body_gradients_fake


@dataclass(frozen=True)
class LossWeights:
    """What each part of the keypoint loss counts.

    Attributes:
        keypoints: Of the mean over the 2K coordinates of confidence times penalty.
        betas: Of the mean of squared betas.
        camera: Of exp(-10 s)^2, which keeps the scale of a weak camera positive.
        limbs: Of the sum over limbs of weight times (1 - cos).
    """

    keypoints: float = 1.0
    betas: float = 0.0
    camera: float = 0.0
    limbs: float = 0.0

    def as_tuple(self) -> tuple[float, float, float, float]:
        """In the order of ``KeypointLoss.parts``."""
        return self.keypoints, self.betas, self.camera, self.limbs


@dataclass(frozen=True, eq=False)
class LimbTargets:
    """Image directions that projected limbs should have; made once per fit.

    Attributes:
        index: First and last point of each limb, among the plan's outputs.
        target: Unit direction x, y and a weight; weight 0 leaves a limb out.
    """

    index: Int[Tensor, "L 2"]
    target: Float[Tensor, "B L 3"]


class KeypointLoss(NamedTuple):
    """Loss of each person, and its parts before weighting: keypoints, betas, camera, limbs."""

    loss: Float[Tensor, " B"]
    parts: Float[Tensor, "B 4"]


class KeypointGradients(NamedTuple):
    """Loss of each person, its parts, and the gradients of that loss."""

    loss: Float[Tensor, " B"]
    parts: Float[Tensor, "B 4"]
    betas: Float[Tensor, "B 10"]
    pose: Tensor
    transl: Float[Tensor, "B 3"]
    camera: Tensor


def make_limb_targets(
    keypoints: Float[Tensor, "B K 3"],
    limbs: tuple[tuple[int, int], ...],
    *,
    min_length: float = 0.0,
) -> LimbTargets:
    """Take limb directions from given keypoints.

    Args:
        keypoints: x, y and confidence.
        limbs: First and last point of each limb.
        min_length: A given limb that is not longer than this has no direction and counts 0.

    Returns:
        Directions, weighted with the product of the two confidences.
    """
    worst = max((p for limb in limbs for p in limb), key=lambda p: abs(p + 0.5), default=0)
    if limbs and not 0 <= worst < keypoints.shape[1]:
        raise ValueError(
            f"make_limb_targets: limbs must join points 0..{keypoints.shape[1] - 1}, got {worst}"
        )
    index, first, last = _limb_index(limbs, str(keypoints.device))
    start, end = keypoints[:, first], keypoints[:, last]
    limb = end[..., :2] - start[..., :2]
    length = limb.norm(dim=-1, keepdim=True)
    weight = start[..., 2:] * end[..., 2:]
    counts = (length > min_length) & (length > 0) & (weight != 0)
    target = torch.cat([limb / torch.where(counts, length, 1.0), weight], -1)
    return LimbTargets(index, torch.where(counts, target, 0.0).contiguous())


@lru_cache(maxsize=32)
def _limb_index(
    limbs: tuple[tuple[int, int], ...], device: str
) -> tuple[Int[Tensor, "L 2"], Int[Tensor, " L"], Int[Tensor, " L"]]:
    """The points of limbs, and both ends for indexing: a copy to the device once, not per call."""
    index = torch.tensor(limbs, dtype=torch.int32).reshape(-1, 2)
    first, last = (ends.contiguous().to(device, torch.int64) for ends in index.unbind(1))
    return index.to(device), first, last


def pack_full_camera(
    intrinsics: Float[Tensor, "B 3 3"],
    rotation: Float[Tensor, "B 3 3"],
    translation: Float[Tensor, "B 3"],
) -> Float[Tensor, "B 21"]:
    """Pack a full-perspective camera: Y = R X + t, u = K Y / Y_z with the third row of K (0, 0, 1).

    Depth is held at 1 mm or more, so points behind the camera stay finite.
    """
    return torch.cat([intrinsics.flatten(1), rotation.flatten(1), translation], 1)


def _check_loss(
    who: str,
    plan: PointsPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    camera: Tensor,
    keypoints: Tensor,
    limbs: LimbTargets | None,
) -> None:
    _checks.check_body(who, plan, betas, pose, transl)
    people = betas.shape[0]
    if camera.ndim != 2 or camera.shape[1] not in (3, 21):
        raise ValueError(
            f"{who}: camera must be [B, 3] (s, tx, ty) or [B, 21] (pack_full_camera), got "
            f"{list(camera.shape)}"
        )
    _checks.check_tensor(who, "camera", camera, (people, camera.shape[1]), betas)
    _checks.check_tensor(who, "keypoints", keypoints, (people, plan.num_points, 3), betas)
    if limbs is not None:
        shape = (people, limbs.index.shape[0], 3)
        _checks.check_tensor(who, "limbs.target", limbs.target, shape, betas)
        if limbs.index.dtype != torch.int32:
            raise TypeError(f"{who}: limbs.index must be torch.int32, got {limbs.index.dtype}")


def _inputs(
    plan: PointsPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    camera: Tensor,
    keypoints: Tensor,
    limbs: LimbTargets | None,
    weights: LossWeights,
    unit: float,
    sigma: float,
) -> tuple[Any, ...]:
    """Everything in the order of the schema."""
    index, target = (None, None) if limbs is None else (limbs.index, limbs.target)
    head = (betas, pose, transl, camera, plan.tensors, keypoints, index, target)
    return *head, *weights.as_tuple(), unit, sigma


def keypoint_loss(
    plan: PointsPlan,
    betas: Float[Tensor, "B 10"],
    pose: Tensor,
    camera: Tensor,
    keypoints: Float[Tensor, "B K 3"],
    *,
    transl: Float[Tensor, "B 3"] | None = None,
    limbs: LimbTargets | None = None,
    weights: LossWeights = LossWeights(),
    unit: float = 1.0,
    sigma: float = 0.0,
    backend: str = "auto",
) -> KeypointLoss:
    """Project a body's points and compare them with keypoints: one loss per person.

    Points, projection, loss and all gradients are one native call; autograd only multiplies the
    gradients by what arrives at ``loss``. ``parts`` carries no gradient.

    Args:
        plan: Prepared points, one per keypoint.
        betas: Shape coefficients.
        pose: As in ``smpl_mesh``.
        camera: Weak perspective (s, tx, ty) [B,3], u = s X + t, in the unit of ``keypoints``; or a
            full camera of ``pack_full_camera`` [B,21].
        keypoints: x, y and confidence. Confidence 0 leaves a point out, whatever its x and y;
            it multiplies the penalty as it is.
        transl: Added to the points before the projection, in metres.
        limbs: Image directions of limbs, from ``make_limb_targets``.
        weights: What each part counts.
        unit: Errors are multiplied by this before the penalty: 112 makes crop pixels of [-1, 1].
        sigma: Scale of the Geman-McClure penalty sigma^2 e^2 / (sigma^2 + e^2), per coordinate;
            0 is the squared error.
        backend: As in ``smpl_mesh``.

    Returns:
        Loss and parts of each person. Never a mean over the batch.
    """
    if _checks.use_native("keypoint_loss", backend, betas):
        try:
            out = _LOSS(
                *_inputs(plan, betas, pose, transl, camera, keypoints, limbs, weights, unit, sigma)
            )
            return KeypointLoss(out[0], out[1])
        except (RuntimeError, ValueError, TypeError, AttributeError):
            # The native checks refused; these say it with the right kind of exception.
            _check_loss("keypoint_loss", plan, betas, pose, transl, camera, keypoints, limbs)
            raise
    _check_loss("keypoint_loss", plan, betas, pose, transl, camera, keypoints, limbs)
    return KeypointLoss(
        *reference.keypoint_loss(
            plan,
            betas,
            pose,
            transl,
            camera,
            keypoints,
            None if limbs is None else limbs.index,
            None if limbs is None else limbs.target,
            weights.as_tuple(),
            unit,
            sigma,
        )
    )


def keypoint_gradients(
    plan: PointsPlan,
    betas: Float[Tensor, "B 10"],
    pose: Tensor,
    camera: Tensor,
    keypoints: Float[Tensor, "B K 3"],
    *,
    transl: Float[Tensor, "B 3"] | None = None,
    limbs: LimbTargets | None = None,
    weights: LossWeights = LossWeights(),
    unit: float = 1.0,
    sigma: float = 0.0,
    backend: str = "auto",
) -> KeypointGradients:
    """Return the loss of ``keypoint_loss`` and its gradients at once, without autograd.

    What a fitting loop of its own wants: nothing is recorded, so a step costs one native call.
    Arguments as in ``keypoint_loss``.
    """
    if _checks.use_native("keypoint_gradients", backend, betas):
        try:
            inputs = _inputs(
                plan, betas, pose, transl, camera, keypoints, limbs, weights, unit, sigma
            )
            if not needs_gradient(betas, pose, transl, camera, keypoints):
                # Entering no_grad costs 5 of 40 us, one person.
                return KeypointGradients(*_LOSS.raw(*inputs))
            with torch.no_grad():
                return KeypointGradients(*_LOSS.raw(*inputs))
        except (RuntimeError, ValueError, TypeError, AttributeError):
            _check_loss("keypoint_gradients", plan, betas, pose, transl, camera, keypoints, limbs)
            raise
    _check_loss("keypoint_gradients", plan, betas, pose, transl, camera, keypoints, limbs)
    shift = betas.new_zeros(betas.shape[0], 3) if transl is None else transl
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (betas, pose, shift, camera)]
        loss, parts = keypoint_loss(
            plan,
            leaves[0],
            leaves[1],
            leaves[3],
            keypoints.detach(),
            transl=leaves[2],
            limbs=limbs,
            weights=weights,
            unit=unit,
            sigma=sigma,
            backend="torch",
        )
        grads = torch.autograd.grad(loss.sum(), leaves)
    return KeypointGradients(loss.detach(), parts, *grads)


def _loss_fake(
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    camera: Tensor,
    plan: list[Tensor],
    keypoints: Tensor,
    limb_index: Tensor | None,
    limb_target: Tensor | None,
    *options: float,
) -> tuple[Tensor, ...]:
    check_devices(betas, pose, transl, camera, keypoints, limb_index, limb_target, *plan)
    people = betas.shape[0]
    g_camera = torch.empty_like(camera, memory_format=torch.contiguous_format)
    parts = betas.new_empty(people, 4)
    return betas.new_empty(people), parts, *body_gradients_fake(betas, pose), g_camera


def _loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[2:])


def _loss_gradient(ctx: Any, g_loss: Tensor | None, *others: Any) -> tuple[Tensor | None, ...]:
    if g_loss is None:
        return None, None, None, None
    betas, pose, transl, camera = _SCALE(g_loss, *ctx.saved_tensors)
    return betas, pose, transl if ctx.needs_input_grad[2] else None, camera


def _scale_gradients(
    g_loss: Tensor, betas: Tensor, pose: Tensor, transl: Tensor, camera: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Multiply each person's gradients by the one that arrives."""
    factor = g_loss[:, None]
    people = (-1, *(1,) * (pose.ndim - 1))
    return betas * factor, pose * g_loss.reshape(people), transl * factor, camera * factor


_LOSS = RecordedOperator(
    "keypoint_loss", _loss_fake, recorded=4, gradient=Gradient(_loss_setup, _loss_gradient, 2)
)
_SCALE = PythonOperator(
    "scale_gradients",
    "(Tensor g_loss, Tensor betas, Tensor pose, Tensor transl, Tensor camera) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _scale_gradients,
    recorded=5,
)
