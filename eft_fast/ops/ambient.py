"""What a program has set in torch for its own work must not change ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

_T = TypeVar("_T")


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute as torch does by default, whatever surrounds the call.

    Gradients are on; ``inference_mode``, autocast, another default type and another default device
    are off, and come back at the end.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        default = torch.get_default_dtype()
        if default != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, default)
        yield


def in_plain_torch(values: Iterator[_T]) -> Iterator[_T]:
    """Take each value under ``plain_torch``; between them the caller's own settings hold."""
    while True:
        with plain_torch():
            value = next(values, values)
        if value is values:
            return
        yield value  # type: ignore[misc]
