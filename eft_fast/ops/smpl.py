"""The mesh and the points of bodies: pose and shape in, positions out, differentiable."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eft_fast.ops import _autograd, _checks, reference
from eft_fast.ops.plans import MeshPlan, PointsPlan


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
        return _autograd.mesh(betas, pose, transl, plan.arguments)
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
        return _autograd.points(betas, pose, transl, plan.arguments)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        _checks.check_body("smpl_points", plan, betas, pose, transl)
        raise
