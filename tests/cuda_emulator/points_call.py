"""Calls the points launchers as the operators do, with outputs and workspaces full of NaN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eft_fast.ops.plans import PointsPlan
from tests.cuda_emulator.emulator import CudaEmulator
from tests.cuda_emulator.mesh_call import Gradients, divide_up, suffix, unset

SHARED_LIMIT = 160 << 10
BLOCKS_LIMIT = 528


@dataclass
class LossTerms:
    """What the loss takes beside the body."""

    camera: Tensor
    keypoints: Tensor
    limb_index: Tensor | None = None
    limb_target: Tensor | None = None
    weights: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    unit: float = 1.0
    sigma: float = 0.0


def arena_bytes(plan: PointsPlan, scalar_bytes: int) -> int:
    rows, sources = plan.basis.shape[2], len(plan.transl_weight)
    values = 218 + 288 + 72 + 360 + 6 * rows + 3 * sources + 5 * plan.num_points
    return 8 * values * scalar_bytes


def _inputs(
    plan: PointsPlan, betas: Tensor, pose: Tensor, transl: Tensor | None
) -> tuple[object, ...]:
    arena = arena_bytes(plan, betas.element_size())
    blocks = min(divide_up(len(betas), 8), BLOCKS_LIMIT)
    workspace = None
    if arena > SHARED_LIMIT:
        workspace = torch.full((arena * blocks,), 0xFF, dtype=torch.uint8)
    return (
        len(betas),
        plan.basis.shape[2],
        len(plan.term_index),
        len(plan.joint_index),
        len(plan.transl_weight),
        plan.num_points,
        pose.shape[2:].numel(),
        plan.parents,
        plan.skeleton,
        plan.basis,
        plan.basis_t,
        plan.term_index,
        plan.term_weight,
        plan.joint_index,
        plan.joint_weight,
        plan.transl_weight,
        plan.output_index,
        plan.grouping,
        betas,
        pose,
        transl,
        workspace,
    )


def _gradients(betas: Tensor, pose: Tensor) -> Gradients:
    return Gradients(
        unset(betas, len(betas), 10), torch.full_like(pose, torch.nan), unset(betas, len(betas), 3)
    )


def forward(
    gpu: CudaEmulator, plan: PointsPlan, betas: Tensor, pose: Tensor, transl: Tensor | None
) -> Tensor:
    points = unset(betas, len(betas), plan.num_points, 3)
    gpu(f"eft_points_forward_{suffix(betas)}", *_inputs(plan, betas, pose, transl), points, None)
    return points


def backward(
    gpu: CudaEmulator,
    plan: PointsPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    g_points: Tensor,
) -> Gradients:
    out = _gradients(betas, pose)
    gpu(
        f"eft_points_backward_{suffix(betas)}",
        *_inputs(plan, betas, pose, transl),
        g_points,
        out.betas,
        out.pose,
        out.transl,
        None,
    )
    return out


def loss(
    gpu: CudaEmulator,
    plan: PointsPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    terms: LossTerms,
) -> tuple[Tensor, Tensor, Gradients, Tensor]:
    """Loss, parts, gradients of the body, gradient of the camera."""
    out = _gradients(betas, pose)
    value, parts = unset(betas, len(betas)), unset(betas, len(betas), 4)
    g_camera = torch.full_like(terms.camera, torch.nan)
    gpu(
        f"eft_keypoint_loss_{suffix(betas)}",
        *_inputs(plan, betas, pose, transl),
        terms.camera.shape[1],
        terms.camera,
        terms.keypoints,
        0 if terms.limb_index is None else len(terms.limb_index),
        terms.limb_index,
        terms.limb_target,
        *(float(w) for w in (*terms.weights, terms.unit, terms.sigma)),
        value,
        parts,
        g_camera,
        out.betas,
        out.pose,
        out.transl,
        None,
    )
    return value, parts, out, g_camera
