"""Calls the mesh launchers as the operators do, with outputs and workspaces full of NaN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eft_fast.ops.plans import MeshPlan
from tests.cuda_emulator.emulator import CudaEmulator

FLOAT32, THREE_TF32 = 0, 1


@dataclass
class MeshForward:
    vertices: Tensor
    joints: Tensor
    posed: Tensor


@dataclass
class Gradients:
    betas: Tensor
    pose: Tensor
    transl: Tensor


def unset(like: Tensor, *shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=like.dtype)


def suffix(like: Tensor) -> str:
    return {torch.float32: "f32", torch.float64: "f64"}[like.dtype]


def divide_up(a: int, b: int) -> int:
    return -(-a // b)


def _inputs(plan: MeshPlan, betas: Tensor, pose: Tensor, transl: Tensor | None) -> list[object]:
    form = pose[0, 0].numel() if len(pose) else pose.shape[2:].numel()
    sizes = [len(betas), plan.num_vertices, plan.slot_idx.shape[1], form]
    tensors = [plan.parents, plan.skeleton, plan.basis, plan.slot_idx, plan.slot_weight]
    tensors += [plan.run_ptr, plan.run_joint, plan.run_weight, betas, pose]
    return [*sizes, *tensors, transl]


def forward(
    gpu: CudaEmulator,
    plan: MeshPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    arithmetic: int = FLOAT32,
) -> MeshForward:
    people, tiles = len(betas), len(plan.basis)
    out = MeshForward(
        unset(betas, people, plan.num_vertices, 3),
        unset(betas, people, 24, 3),
        unset(betas, people, tiles, 3, 16),
    )
    transforms = unset(betas, people, 24, 12)
    coefficients = unset(betas, divide_up(people, 16), 218, 16)
    gpu(
        f"eft_mesh_forward_{suffix(betas)}",
        *_inputs(plan, betas, pose, transl),
        arithmetic,
        transforms,
        coefficients,
        out.posed,
        out.vertices,
        out.joints,
        None,
    )
    return out


def backward(
    gpu: CudaEmulator,
    plan: MeshPlan,
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    posed: Tensor,
    g_vertices: Tensor,
    g_joints: Tensor,
) -> Gradients:
    people, tiles = len(betas), len(plan.basis)
    out = Gradients(
        unset(betas, people, 10), torch.full_like(pose, torch.nan), unset(betas, people, 3)
    )
    splits = divide_up(tiles, 8)
    gpu(
        f"eft_mesh_backward_{suffix(betas)}",
        *_inputs(plan, betas, pose, transl),
        posed,
        g_vertices,
        g_joints,
        unset(betas, people, 24, 12),
        unset(betas, divide_up(people, 16), 218, 16),
        unset(betas, people, 24, 3),
        unset(betas, people, tiles, 48),
        unset(betas, people, divide_up(tiles, 32), 24 * 12 + 4),
        unset(betas, people, splits, 218),
        out.betas,
        out.pose,
        out.transl,
        None,
    )
    return out
