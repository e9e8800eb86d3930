"""Regressors as programs hold them: wrapped, compiled, of another floating type."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from eft_fast.models.base import Regressor

#: Where ``torch.nn.DataParallel`` and ``torch.compile`` keep the network that they wrap.
_WRAPPED: Final = ("module", "_orig_mod")


def accept_regressor(regressor: nn.Module, who: str) -> Regressor:
    """The network behind its wrappers, after a look at whether it can be fitted.

    Fitting runs one person at a time with weights of its own, which neither ``DataParallel`` nor a
    compiled graph would help.

    Args:
        regressor: A ``Regressor``, or one in ``DataParallel`` or ``torch.compile``.
        who: Opens the sentence of the error.

    Raises:
        TypeError: If it is no regressor, or its weights are not of float32.
        ValueError: If its weights have no numbers, or were made under ``inference_mode``.
    """
    network = regressor
    while not isinstance(network, Regressor):
        children = network._modules if isinstance(network, nn.Module) else {}
        inner = next((children[name] for name in _WRAPPED if children.get(name) is not None), None)
        if inner is None:
            raise TypeError(
                f"{who}: regressor must be a Regressor, as load_regressor gives, got "
                f"{type(regressor).__name__}"
            )
        network = inner
    for name, weight in network.named_parameters():
        if weight.dtype != torch.float32:
            raise TypeError(
                f"{who}: regressor must have weights of float32, got {name} of {weight.dtype}; "
                "call regressor.float()"
            )
        if weight.device.type == "meta":
            raise ValueError(f"{who}: regressor must have weights, got {name} on the meta device")
        if weight.is_inference():
            raise ValueError(
                f"{who}: regressor must be built outside torch.inference_mode, got {name} made "
                "inside, which torch cannot fine-tune; load it with load_regressor, or outside"
            )
    return network
