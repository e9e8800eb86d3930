"""Fake kernels and autograd formulas of the native operators, in the order of ops.cpp.

Importing this module needs the native library; ``ensure`` does both once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from eft_fast.ops import _load

# Plan tensors and sizes after betas, pose and transl in each schema: none has a gradient.
_MESH_REST = 9
_POINTS_REST = 10


def _refuse_second_derivative(name: str) -> Callable[..., NoReturn]:
    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}: second derivatives are not implemented natively; use backend='torch'"
        )

    return refuse


def _refuse_vmap(name: str) -> Callable[..., NoReturn]:
    def refuse(info: Any, in_dims: Any, *args: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}: vmap is not supported, the operator takes the whole batch itself; pass all "
            "people at once, or use backend='torch'"
        )

    return refuse


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Save nothing: the formula only refuses."""


def _check_devices(betas: Tensor, *others: Any) -> None:
    """Shapes without data hide a wrong device until it is too late; say it here."""
    for other in others:
        if isinstance(other, Tensor) and other.device != betas.device:
            raise ValueError(
                f"eft_fast: all inputs must be on {betas.device} as betas, got {other.device}"
            )


def _smpl_mesh_fake(betas: Tensor, pose: Tensor, transl: Tensor | None, *rest: Any) -> Any:
    *_, num_vertices, keep_posed = rest
    _check_devices(betas, pose, transl, *rest)
    people, tiles = betas.shape[0], rest[2].shape[0]
    posed = (people, tiles, 3, 16) if keep_posed else (0,)
    return (
        betas.new_empty(people, num_vertices, 3),
        betas.new_empty(people, 24, 3),
        betas.new_empty(posed),
    )


def _mesh_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, num_vertices, keep_posed = inputs
    if not keep_posed:
        raise RuntimeError("smpl_mesh: gradients need keep_posed=True; call ops.smpl_mesh")
    ctx.num_vertices = num_vertices
    ctx.has_transl = inputs[2] is not None
    ctx.mark_non_differentiable(output[2])
    saved = [output[2], *(t for t in tensors if t is not None)]
    ctx.save_for_backward(*saved)


def _mesh_backward(ctx: Any, g_vertices: Tensor, g_joints: Tensor, g_posed: Any) -> Any:
    posed, betas, pose, *rest = ctx.saved_tensors
    transl, plan = (rest[0], rest[1:]) if ctx.has_transl else (None, rest)
    g_betas, g_pose, g_transl = torch.ops.eft_fast.smpl_mesh_backward(
        g_vertices, g_joints, posed, betas, pose, transl, *plan, ctx.num_vertices
    )
    return g_betas, g_pose, g_transl if ctx.has_transl else None, *((None,) * (_MESH_REST + 1))


def _body_gradients_fake(betas: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(betas, memory_format=torch.contiguous_format),
        torch.empty_like(pose, memory_format=torch.contiguous_format),
        betas.new_empty(betas.shape[0], 3),
    )


def _smpl_mesh_backward_fake(
    g_vertices: Tensor, g_joints: Tensor, posed: Tensor, betas: Tensor, pose: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _body_gradients_fake(betas, pose)


def _smpl_points_fake(betas: Tensor, pose: Tensor, transl: Tensor | None, *plan: Tensor) -> Tensor:
    _check_devices(betas, pose, transl, *plan)
    return betas.new_empty(betas.shape[0], plan[-1].shape[0], 3)


def _points_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.has_transl = inputs[2] is not None
    ctx.save_for_backward(*(t for t in inputs if t is not None))


def _points_backward(ctx: Any, g_points: Tensor) -> Any:
    betas, pose, *rest = ctx.saved_tensors
    transl, plan = (rest[0], rest[1:]) if ctx.has_transl else (None, rest)
    g_betas, g_pose, g_transl = torch.ops.eft_fast.smpl_points_backward(
        g_points, betas, pose, transl, *plan
    )
    return g_betas, g_pose, g_transl if ctx.has_transl else None, *((None,) * _POINTS_REST)


def _smpl_points_backward_fake(
    g_points: Tensor, betas: Tensor, pose: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _body_gradients_fake(betas, pose)


def _keypoint_loss_fake(
    betas: Tensor,
    pose: Tensor,
    transl: Tensor | None,
    skeleton: Tensor,
    parents: Tensor,
    camera: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    _check_devices(betas, pose, transl, camera, *rest)
    people = betas.shape[0]
    g_camera = torch.empty_like(camera, memory_format=torch.contiguous_format)
    return (
        betas.new_empty(people),
        betas.new_empty(people, 4),
        *_body_gradients_fake(betas, pose),
        g_camera,
    )


def _loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.has_transl = inputs[2] is not None
    ctx.num_rest = len(inputs) - 6
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[2:])


def _loss_backward(ctx: Any, g_loss: Tensor | None, *others: Any) -> Any:
    nothing = (None,) * ctx.num_rest
    if g_loss is None:
        return None, None, None, None, None, None, *nothing
    scaled = torch.ops.eft_fast.scale_gradients(g_loss, *ctx.saved_tensors)
    g_betas, g_pose, g_transl, g_camera = scaled
    return g_betas, g_pose, g_transl if ctx.has_transl else None, None, None, g_camera, *nothing


def scale_gradients(
    g_loss: Tensor, betas: Tensor, pose: Tensor, transl: Tensor, camera: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Multiply each person's gradients by the one that arrives."""
    factor = g_loss[:, None]
    people = (-1, *(1,) * (pose.ndim - 1))
    return betas * factor, pose * g_loss.reshape(people), transl * factor, camera * factor


def _refuse_all(name: str, setup: bool = True) -> None:
    op = f"eft_fast::{name}"
    torch.library.register_vmap(op, _refuse_vmap(name))
    if setup:
        torch.library.register_autograd(op, _refuse_second_derivative(name), setup_context=_nothing)


@lru_cache(maxsize=1)
def ensure() -> None:
    """Load the library and register everything; a second call costs nothing."""
    _load.load()
    lib = torch.library
    torch.library.define(
        "eft_fast::scale_gradients",
        "(Tensor g_loss, Tensor betas, Tensor pose, Tensor transl, Tensor camera) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
    )
    lib.impl("eft_fast::scale_gradients", "default", scale_gradients)
    lib.register_fake("eft_fast::scale_gradients", scale_gradients)
    for name, fake in (
        ("smpl_mesh", _smpl_mesh_fake),
        ("smpl_mesh_backward", _smpl_mesh_backward_fake),
        ("smpl_points", _smpl_points_fake),
        ("smpl_points_backward", _smpl_points_backward_fake),
        ("keypoint_loss", _keypoint_loss_fake),
    ):
        lib.register_fake(f"eft_fast::{name}", fake)
        lib.register_fake(f"eft_fast::{name}_raw", fake)
    lib.register_autograd("eft_fast::smpl_mesh", _mesh_backward, setup_context=_mesh_setup)
    lib.register_autograd("eft_fast::smpl_points", _points_backward, setup_context=_points_setup)
    lib.register_autograd("eft_fast::keypoint_loss", _loss_backward, setup_context=_loss_setup)
    # Without these refusals a second derivative would be silently wrong, and vmap would run the
    # operator once per person.
    for name in ("smpl_mesh_backward", "smpl_points_backward", "scale_gradients"):
        _refuse_all(name)
    for name in ("smpl_mesh", "smpl_points", "keypoint_loss"):
        _refuse_all(name, setup=False)
