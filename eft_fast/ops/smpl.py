"""The mesh and the points of bodies: pose and shape in, positions out, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.conventions import NUM_JOINTS
from eft_fast.ops import _checks, reference
from eft_fast.ops._operators import Gradient, RecordedOperator, check_devices, needs_gradient
from eft_fast.ops.plans import TILE, MeshPlan, PointsPlan


def smpl_mesh(
    plan: MeshPlan,
    betas: Float[Tensor, "B 10"],
    pose: Tensor,
    transl: Float[Tensor, "B 3"] | None = None,
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B V 3"], Float[Tensor, "B 24 3"]]:
    """Compute vertices and kinematic joints of bodies.

    One fused operator with a hand-derived backward to betas, pose and transl; second derivatives
    only with ``backend="torch"``. A person's numbers do not depend on who else is in the batch.

    Args:
        plan: Prepared body, on the device and of the type of ``betas``.
        betas: Shape coefficients.
        pose: Rotations of the 24 joints, root first: axis-angle [B,24,3] in radians, 6D [B,24,6]
            in SPIN's layout, or matrices [B,24,3,3], taken as they are.
        transl: Added to vertices and joints, in metres; ``None``: nothing.
        backend: ``native``, ``torch`` (plain torch), or ``auto``: native where it is built.

    Returns:
        Vertices and posed joints, in metres.

    Raises:
        TypeError: If a type is not float32 or float64 throughout.
        ValueError: If shapes or devices do not agree.
        RuntimeError: If the chosen backend is not built.
    """
    if not _checks.use_native("smpl_mesh", backend, betas):
        _checks.check_body("smpl_mesh", plan, betas, pose, transl)
        return reference.smpl_mesh(plan, betas, pose, transl)
    try:
        keep_posed = needs_gradient(betas, pose, transl)
        out = _MESH(betas, pose, transl, plan.tensors, plan.num_vertices, keep_posed)
        return out[0], out[1]
    except (RuntimeError, ValueError, TypeError, AttributeError):
        # The native checks refused; these say it with the right kind of exception.
        _checks.check_body("smpl_mesh", plan, betas, pose, transl)
        raise


def smpl_points(
    plan: PointsPlan,
    betas: Float[Tensor, "B 10"],
    pose: Tensor,
    transl: Float[Tensor, "B 3"] | None = None,
    *,
    backend: str = "auto",
) -> Float[Tensor, "B K 3"]:
    """Compute the points of a plan without the mesh: exact, and about a hundred times less work.

    Arguments and errors as in ``smpl_mesh``.

    Returns:
        The plan's points in its order, in metres.
    """
    if not _checks.use_native("smpl_points", backend, betas):
        _checks.check_body("smpl_points", plan, betas, pose, transl)
        return reference.smpl_points(plan, betas, pose, transl)
    try:
        out: Tensor = _POINTS(betas, pose, transl, plan.tensors)
        return out
    except (RuntimeError, ValueError, TypeError, AttributeError):
        _checks.check_body("smpl_points", plan, betas, pose, transl)
        raise


def body_gradients_fake(betas: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of betas, pose and transl without data."""
    return (
        torch.empty_like(betas, memory_format=torch.contiguous_format),
        torch.empty_like(pose, memory_format=torch.contiguous_format),
        betas.new_empty(betas.shape[0], 3),
    )


def _mesh_fake(
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    plan: list[Tensor],
    num_vertices: int,
    keep_posed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check_devices(betas, pose, transl, *plan)
    people, tiles = betas.shape[0], plan[2].shape[0]
    return (
        betas.new_empty(people, num_vertices, 3),
        betas.new_empty(people, NUM_JOINTS, 3),
        betas.new_empty((people, tiles, 3, TILE) if keep_posed else (0,)),
    )


def _mesh_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    betas, pose, transl, ctx.plan, ctx.num_vertices, keep_posed = inputs
    if not keep_posed:
        raise RuntimeError("smpl_mesh: gradients need keep_posed=True; call ops.smpl_mesh")
    posed = output[2]
    ctx.mark_non_differentiable(posed)
    ctx.save_for_backward(posed, betas, pose, transl)


def _mesh_gradient(
    ctx: Any, g_vertices: Tensor, g_joints: Tensor, *others: Any
) -> tuple[Tensor | None, ...]:
    grads = _MESH_BACKWARD(g_vertices, g_joints, *ctx.saved_tensors, ctx.plan, ctx.num_vertices)
    return grads[0], grads[1], grads[2] if ctx.needs_input_grad[2] else None


def _mesh_backward_fake(
    g_vertices: Tensor, g_joints: Tensor, posed: Tensor, betas: Tensor, pose: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return body_gradients_fake(betas, pose)


def _points_fake(betas: Tensor, pose: Tensor, transl: Tensor | None, plan: list[Tensor]) -> Tensor:
    check_devices(betas, pose, transl, *plan)
    return betas.new_empty(betas.shape[0], plan[9].shape[0], 3)


def _points_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    betas, pose, transl, ctx.plan = inputs
    ctx.save_for_backward(betas, pose, transl)


def _points_gradient(ctx: Any, g_points: Tensor) -> tuple[Tensor | None, ...]:
    grads = _POINTS_BACKWARD(g_points, *ctx.saved_tensors, ctx.plan)
    return grads[0], grads[1], grads[2] if ctx.needs_input_grad[2] else None


def _points_backward_fake(
    g_points: Tensor, betas: Tensor, pose: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return body_gradients_fake(betas, pose)


_MESH = RecordedOperator(
    "smpl_mesh", _mesh_fake, recorded=3, gradient=Gradient(_mesh_setup, _mesh_gradient, 2)
)
_MESH_BACKWARD = RecordedOperator("smpl_mesh_backward", _mesh_backward_fake, recorded=6)
_POINTS = RecordedOperator(
    "smpl_points", _points_fake, recorded=3, gradient=Gradient(_points_setup, _points_gradient)
)
_POINTS_BACKWARD = RecordedOperator("smpl_points_backward", _points_backward_fake, recorded=4)
