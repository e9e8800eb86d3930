"""Calls of the native operators: with a recorded backward, or without.

The formulas of ``_register`` serve ``torch.compile``, functorch and direct calls. Eager code takes
these functions, which do the same and cost 67 us less per forward and backward (one person's
points, 2 cores), because torch.library wraps every registered formula in general Python.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eft_fast.ops import _register


def _takes_registered_formula() -> bool:
    """Whether a compiler or a functorch transform is looking: they know registered formulas."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd would record an operator of these inputs."""
    if torch.is_grad_enabled():
        for value in inputs:  # A loop: any() over a generator takes 1 us more.
            if value is not None and value.requires_grad:
                return True
    return False


def mesh(
    betas: Tensor, pose: Tensor, transl: Tensor | None, plan: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """Vertices and joints; ``plan`` in the order of the schema."""
    native = torch.ops.eft_fast
    if needs_gradient(betas, pose, transl):
        if not _takes_registered_formula():
            vertices, joints = _Mesh.apply(betas, pose, transl, plan)  # type: ignore[no-untyped-call]
        else:
            vertices, joints, _ = native.smpl_mesh(betas, pose, transl, *plan, True)
    elif _takes_registered_formula():
        vertices, joints, _ = native.smpl_mesh(betas, pose, transl, *plan, False)
    else:
        vertices, joints, _ = native.smpl_mesh_raw(betas, pose, transl, *plan, False)
    return vertices, joints


def points(betas: Tensor, pose: Tensor, transl: Tensor | None, plan: tuple[Tensor, ...]) -> Tensor:
    """Points; ``plan`` in the order of the schema."""
    native = torch.ops.eft_fast
    if _takes_registered_formula():
        out: Tensor = native.smpl_points(betas, pose, transl, *plan)
    elif needs_gradient(betas, pose, transl):
        out = _Points.apply(betas, pose, transl, plan)  # type: ignore[no-untyped-call]
    else:
        out = native.smpl_points_raw(betas, pose, transl, *plan)
    return out


def loss(
    betas: Tensor, pose: Tensor, transl: Tensor | None, camera: Tensor, rest: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """Loss and parts; ``rest`` is (head of the plan, keypoints and everything after)."""
    head, tail = rest
    if _takes_registered_formula():
        out = torch.ops.eft_fast.keypoint_loss(betas, pose, transl, *head, camera, *tail)
        return out[0], out[1]
    if needs_gradient(betas, pose, transl, camera):
        value, parts = _Loss.apply(betas, pose, transl, camera, head, tail)  # type: ignore[no-untyped-call]
        return value, parts
    out = torch.ops.eft_fast.keypoint_loss_raw(betas, pose, transl, *head, camera, *tail)
    return out[0], out[1]


class _Mesh(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, betas: Tensor, pose: Tensor, transl: Tensor | None, plan: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        vertices, joints, posed = torch.ops.eft_fast.smpl_mesh_raw(betas, pose, transl, *plan, True)
        ctx.save_for_backward(posed, betas, pose, transl)
        ctx.plan = plan
        return vertices, joints

    @staticmethod
    def backward(ctx: Any, g_vertices: Tensor, g_joints: Tensor) -> Any:
        # With a graph of the backward asked for, the registered operator: it refuses in words.
        native = torch.ops.eft_fast
        op = native.smpl_mesh_backward if torch.is_grad_enabled() else native.smpl_mesh_backward_raw
        grads = op(g_vertices, g_joints, *ctx.saved_tensors, *ctx.plan)
        return grads[0], grads[1], grads[2] if ctx.needs_input_grad[2] else None, None


class _Points(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, betas: Tensor, pose: Tensor, transl: Tensor | None, plan: tuple[Tensor, ...]
    ) -> Tensor:
        ctx.save_for_backward(betas, pose, transl)
        ctx.plan = plan
        out: Tensor = torch.ops.eft_fast.smpl_points_raw(betas, pose, transl, *plan)
        return out

    @staticmethod
    def backward(ctx: Any, g_points: Tensor) -> Any:
        native = torch.ops.eft_fast
        again = torch.is_grad_enabled()
        op = native.smpl_points_backward if again else native.smpl_points_backward_raw
        grads = op(g_points, *ctx.saved_tensors, *ctx.plan)
        return grads[0], grads[1], grads[2] if ctx.needs_input_grad[2] else None, None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        betas: Tensor,
        pose: Tensor,
        transl: Tensor | None,
        camera: Tensor,
        head: tuple[Tensor, ...],
        tail: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        out = torch.ops.eft_fast.keypoint_loss_raw(betas, pose, transl, *head, camera, *tail)
        ctx.save_for_backward(*out[2:])
        ctx.mark_non_differentiable(out[1])
        return out[0], out[1]

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor, g_parts: Any) -> Any:
        again = torch.is_grad_enabled()
        scale = torch.ops.eft_fast.scale_gradients if again else _register.scale_gradients
        betas, pose, transl, camera = scale(g_loss, *ctx.saved_tensors)
        return betas, pose, transl if ctx.needs_input_grad[2] else None, camera, None, None
