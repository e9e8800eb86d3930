"""Native operators as Python sees them: each is declared once, beside the call that uses it.

A declaration holds what torch asks of an operator: its outputs without data (the fake kernel) and,
where it has one, its gradient. The schema and the kernels are those of ``csrc/<family>_ops.cpp``.
Nothing is loaded until an operator is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import Any, NoReturn

import torch
from torch import Tensor

from eft_fast.ops import _load


@dataclass(frozen=True)
class Gradient:
    """Backward formula of an operator, for eager autograd and for compilers alike.

    Attributes:
        setup: ``setup(ctx, inputs, output)`` keeps what the formula reads.
        backward: ``backward(ctx, *gradients of the outputs)`` gives the gradients of the first
            inputs, those that may have one; the others have none.
        outputs: How many of the outputs eager code gets; further ones, which only ``setup`` reads,
            would cost a microsecond each.
    """

    setup: Callable[[Any, Any, Any], None]
    backward: Callable[..., tuple[Tensor | None, ...]]
    outputs: int | None = None


class Operator:
    """An operator of the native library that records nothing.

    Args:
        name: As in the schema, without the name space.
        fake: Outputs without data, from the inputs of the schema.
        refuses_vmap: Whether ``torch.func.vmap``, which would call it once per person, is refused.
    """

    def __init__(self, name: str, fake: Callable[..., Any], *, refuses_vmap: bool = True) -> None:
        self.name = name
        self._fake = fake
        self._refuses_vmap = refuses_vmap
        self._registered: Callable[..., Any] = self._load_and_call
        _waiting.append(self)

    def __call__(self, *inputs: Any) -> Any:
        """Call it with the inputs of its schema, in their order."""
        return self._registered(*inputs)

    def _load_and_call(self, *inputs: Any) -> Any:
        """The first call."""
        self._load()
        return self._registered(*inputs)

    def _load(self) -> None:
        load()
        if not self.is_built():
            raise RuntimeError(
                f"{self.name}: the native library has no such operator; rebuild it (make native), "
                "or use backend='torch'"
            )

    def is_built(self) -> bool:
        """Whether the loaded library defines it: one of an older build, or of some families."""
        return hasattr(torch.ops.eft_fast, self.name)

    def _register(self) -> None:
        """Tell torch everything; the library is loaded."""
        path = f"eft_fast::{self.name}"
        torch.library.register_fake(path, self._fake)
        if self._refuses_vmap:
            torch.library.register_vmap(path, self._refuse_vmap)
        self._registered = getattr(torch.ops.eft_fast, self.name).default

    def _refuse_vmap(self, info: Any, in_dims: Any, *inputs: Any) -> NoReturn:
        raise RuntimeError(
            f"{self.name}: vmap is not supported, the operator takes the whole batch itself; pass "
            "all people at once, or use backend='torch'"
        )


class RecordedOperator(Operator):
    """An operator that autograd may record, and its twin ``<name>_raw`` for when it does not.

    The registered formula serves compilers, functorch and direct calls. Eager code takes an
    ``autograd.Function`` with the same formula, which costs 67 us less per forward and backward
    (one person's points, 2 cores), because torch.library wraps every registered formula in general
    Python.

    Args:
        name: As in ``Operator``.
        fake: As in ``Operator``.
        recorded: How many of the first inputs may require a gradient.
        gradient: The formula. None: the operator is itself the backward of another one, and a
            derivative of it, which would be silently wrong, is refused in words.
    """

    def __init__(
        self,
        name: str,
        fake: Callable[..., Any],
        *,
        recorded: int,
        gradient: Gradient | None = None,
    ) -> None:
        super().__init__(name, fake)
        self._recorded = recorded
        self._gradient = gradient
        #: The call where nothing is recorded.
        self.raw: Callable[..., Any] = self._load_and_call_raw
        self._eager: Callable[..., Any] = self._call_registered
        if gradient is not None:
            self._eager = _eager_function(self, gradient).apply

    def __call__(self, *inputs: Any) -> Any:
        """Call it with the inputs of its schema, in their order."""
        # A compiler or a functorch transform is looking: they know registered formulas.
        if _is_compiling() or _is_transforming():
            return self._registered(*inputs)
        if _is_recording():
            for value in inputs[: self._recorded]:
                if value is not None and value.requires_grad:
                    return self._eager(*inputs)
        return self.raw(*inputs)

    def _call_registered(self, *inputs: Any) -> Any:
        return self._registered(*inputs)

    def _load_and_call_raw(self, *inputs: Any) -> Any:
        self._load()
        return self.raw(*inputs)

    def _register(self) -> None:
        super()._register()
        formula = self._gradient or Gradient(_keep_nothing, self._refuse_derivative)
        torch.library.register_autograd(
            f"eft_fast::{self.name}", _filled_up(formula.backward), setup_context=formula.setup
        )
        self.raw = self._register_raw()

    def _register_raw(self) -> Any:
        torch.library.register_fake(f"eft_fast::{self.name}_raw", self._fake)
        return getattr(torch.ops.eft_fast, f"{self.name}_raw").default

    def _refuse_derivative(self, ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"{self.name}: second derivatives are not implemented natively; use backend='torch'"
        )


class PythonOperator(RecordedOperator):
    """A backward that is plain torch, made an operator so that its derivative is refused."""

    def __init__(self, name: str, schema: str, kernel: Callable[..., Any], recorded: int) -> None:
        super().__init__(name, kernel, recorded=recorded)
        self._schema = schema

    def is_built(self) -> bool:
        """It needs no library."""
        return True

    def _register(self) -> None:
        torch.library.define(f"eft_fast::{self.name}", self._schema)
        torch.library.impl(f"eft_fast::{self.name}", "default", self._fake)
        super()._register()

    def _register_raw(self) -> Any:
        return self._fake


_is_compiling = torch.compiler.is_compiling
_is_transforming = torch._C._are_functorch_transforms_active
_is_recording = torch.is_grad_enabled

#: Declared, and not yet known to torch.
_waiting: list[Operator] = []
_lock = RLock()


def load() -> None:
    """Load the library and tell torch of every declared operator; a second call costs nothing."""
    with _lock:
        _load.load()
        while _waiting:
            if _waiting[-1].is_built():
                _waiting[-1]._register()
            _waiting.pop()


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd would record an operator of these inputs."""
    if _is_recording():
        for value in inputs:  # A loop: any() over a generator takes 1 us more.
            if value is not None and value.requires_grad:
                return True
    return False


def check_devices(betas: Tensor, *others: Tensor | None) -> None:
    """Shapes without data hide a wrong device until it is too late; fake kernels say it here."""
    for other in others:
        if other is not None and other.device != betas.device:
            raise ValueError(
                f"eft_fast: all inputs must be on {betas.device} as betas, got {other.device}"
            )


def _keep_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Save nothing: the formula only refuses."""


def _filled_up(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """The formula, with None for the inputs behind those that may have a gradient."""

    def filled(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        own = backward(ctx, *grads)
        rest = ctx.needs_input_grad[len(own) :]
        # Where the schema has a list, torch.library wants one of as many.
        nothing = ([None] * len(each) if isinstance(each, list) else None for each in rest)
        return (*own, *nothing)

    return filled


def _eager_function(
    operator: RecordedOperator, gradient: Gradient
) -> type[torch.autograd.Function]:
    """An ``autograd.Function`` of the operator; a forward with a context is the quicker kind."""
    setup, outputs = gradient.setup, gradient.outputs

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = operator.raw(*inputs)
        setup(ctx, inputs, output)
        return output if outputs is None else output[:outputs]

    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        own = gradient.backward(ctx, *grads)
        return own + (None,) * (len(ctx.needs_input_grad) - len(own))

    body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"Eager_{operator.name}", (torch.autograd.Function,), body)
