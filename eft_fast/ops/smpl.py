"""The mesh and the points of bodies: pose and shape in, positions out, differentiable."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.ops import _checks, reference
from eft_fast.ops.plans import MeshPlan, PointsPlan


def mesh_plan_tensors(plan: MeshPlan) -> tuple[Tensor | int, ...]:
    """A plan in the order of the schemas of csrc/ops.cpp."""
    return (
        plan.skeleton,
        plan.parents,
        plan.basis,
        plan.slot_idx,
        plan.slot_weight,
        plan.run_ptr,
        plan.run_joint,
        plan.run_weight,
        plan.num_vertices,
    )


def points_plan_tensors(plan: PointsPlan) -> tuple[Tensor, ...]:
    """A plan without its skeleton, in the order of the schemas of csrc/ops.cpp."""
    return (
        plan.basis,
        plan.basis_t,
        plan.term_index,
        plan.term_weight,
        plan.joint_index,
        plan.joint_weight,
        plan.transl_weight,
        plan.output_index,
    )


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


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
    _checks.check_body("smpl_mesh", plan, betas, pose, transl)
    if not _checks.use_native("smpl_mesh", backend, betas.device):
        return reference.smpl_mesh(plan, betas, pose, transl)
    keep_posed = needs_gradient(betas, pose, transl)
    vertices, joints, _ = torch.ops.eft_fast.smpl_mesh(
        betas, pose, transl, *mesh_plan_tensors(plan), keep_posed
    )
    return vertices, joints


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
    _checks.check_body("smpl_points", plan, betas, pose, transl)
    if not _checks.use_native("smpl_points", backend, betas.device):
        return reference.smpl_points(plan, betas, pose, transl)
    points: Tensor = torch.ops.eft_fast.smpl_points(
        betas, pose, transl, plan.skeleton, plan.parents, *points_plan_tensors(plan)
    )
    return points
