"""Checks of operator inputs in Python: the right kind of exception, one sentence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eft_fast.conventions import NUM_BETAS, NUM_JOINTS
from eft_fast.ops import _load, _operators
from eft_fast.ops.plans import MeshPlan, PointsPlan

BACKENDS = ("auto", "native", "torch")


def check_tensor(who: str, name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise unless ``value`` is a tensor of this shape, with the type and device of ``like``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{who}: {name} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{who}: {name} must be {list(shape)}, got {list(value.shape)}")
    if value.dtype != like.dtype:
        raise TypeError(f"{who}: {name} must be {like.dtype} as betas, got {value.dtype}")
    if value.device != like.device:
        raise ValueError(f"{who}: {name} must be on {like.device} as betas, got {value.device}")


def check_body(
    who: str, plan: MeshPlan | PointsPlan, betas: Tensor, pose: Tensor, transl: Tensor | None
) -> None:
    """Raise unless betas, pose and transl fit each other and the plan."""
    for name, value in (("betas", betas), ("pose", pose)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{who}: {name} must be a tensor, got {type(value).__name__}")
    if betas.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{who}: betas must be float32 or float64, got {betas.dtype}")
    if betas.ndim != 2 or betas.shape[1] != NUM_BETAS:
        raise ValueError(f"{who}: betas must be [B, {NUM_BETAS}], got {list(betas.shape)}")
    people = betas.shape[0]
    forms = ((people, NUM_JOINTS, 3), (people, NUM_JOINTS, 6), (people, NUM_JOINTS, 3, 3))
    if tuple(pose.shape) not in forms:
        raise ValueError(
            f"{who}: pose must be [B, 24, 3], [B, 24, 6] or [B, 24, 3, 3] with B = {people} as in "
            f"betas, got {list(pose.shape)}"
        )
    check_tensor(who, "pose", pose, tuple(pose.shape), betas)
    if transl is not None:
        check_tensor(who, "transl", transl, (people, 3), betas)
    if plan.dtype != betas.dtype or plan.device != betas.device:
        raise ValueError(
            f"{who}: the plan is {plan.dtype} on {plan.device}, betas are {betas.dtype} on "
            f"{betas.device}; use plan.to(device, dtype)"
        )


def _assume_constant(function: Callable[[], bool]) -> Callable[[], bool]:
    """Let Dynamo run a function while it traces and keep the answer: loading is no part of a graph.

    ``torch.compiler.assume_constant_result`` sets the same mark, but brings all of Dynamo and sympy
    into every program: half of its start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_assume_constant
def _is_built() -> bool:
    return _load.is_built()


@_assume_constant
def _has_cuda() -> bool:
    """Load the library, register the operators, and say whether they run on a GPU."""
    global _is_registered
    _operators.load()
    _is_registered = True
    return _load.has_cuda()


#: Whether a call has already loaded and registered everything: then a tensor on the CPU needs no
#: further question, which takes 4 of 40 us, one person. A compiler must not read it.
_is_registered = False


def use_native(who: str, backend: str, betas: Tensor) -> bool:
    """Decide the backend: only ``auto`` chooses, and it chooses native wherever that can run."""
    if backend == "torch":
        return False
    if (
        not torch.compiler.is_compiling()
        and _is_registered
        and backend in BACKENDS
        and isinstance(betas, Tensor)
        and betas.is_cpu
    ):
        return True
    if not isinstance(betas, Tensor):
        raise TypeError(f"{who}: betas must be a tensor, got {type(betas).__name__}")
    if backend not in BACKENDS:
        raise ValueError(f"{who}: backend must be 'auto', 'native' or 'torch', got {backend!r}")
    if backend == "auto" and not _is_built():
        return False
    has_cuda, device = _has_cuda(), betas.device
    if device.type == "cpu" or (device.type == "cuda" and has_cuda):
        return True
    if backend == "auto":
        return False
    if device.type == "cuda":
        raise RuntimeError(
            f"{who}: eft_fast was built without CUDA, but betas is on {device}; rebuild with "
            "EFT_FAST_CUDA=1, or use backend='torch'"
        )
    raise ValueError(
        f"{who}: the native operators run on cpu and cuda, got {device}; use backend='torch'"
    )
