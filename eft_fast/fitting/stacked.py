"""One regressor, many sets of weights: layers whose weights have a leading axis of people.

The start weights W0 are shared; each person owns the difference ``delta = W - W0``, so that W0 is
read once per layer and small updates survive whatever precision ``delta`` is kept in. Everything
between the layers is per person anyway, so the regressor's own ``forward`` runs unchanged on a
batch in which row i uses weights i. Batch normalisation is frozen and stays a scale and shift
*behind* the product: folded into trained weights it would change Adam's step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eft_fast.models.base import Regressor

#: Layers that have a stacked twin. Others are refused by name.
STACKABLE: Final = (nn.Conv2d, nn.Linear, nn.LayerNorm)


class StackedLayer(nn.Module):
    """A layer with shared start weights and one difference per slot.

    Attributes:
        start: The shared weights, by name.
        delta: Differences by name, each ``[slots, *shape]``; narrowed to the active slots.
    """

    def __init__(self, layer: nn.Module, slots: int, tuned: set[int]) -> None:
        super().__init__()
        self.start: dict[str, Tensor] = {}
        self.storage: dict[str, Tensor] = {}
        self.delta: dict[str, Tensor] = {}
        for name, parameter in layer.named_parameters(recurse=False):
            self.start[name] = parameter.detach()
            if id(parameter) in tuned:
                self.storage[name] = parameter.new_zeros((slots, *parameter.shape))
        self.narrow(slots)

    def narrow(self, active: int) -> None:
        """Let the first ``active`` slots take part in the next forward pass."""
        self.delta = {
            name: storage[:active].detach().requires_grad_()
            for name, storage in self.storage.items()
        }

    def weight_of(self, name: str) -> Tensor | None:
        """``[active, *shape]``; without an axis of slots if it is not tuned."""
        if name not in self.start:
            return None
        start = self.start[name]
        return start + self.delta[name] if name in self.delta else start


class StackedLinear(StackedLayer):
    """``y[i] = x[i] W[i]^T + b[i]`` for x of shape ``[slots, ..., in]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply row i's weights to row i."""
        weight, bias = self.weight_of("weight"), self.weight_of("bias")
        assert weight is not None
        rows = x.reshape(len(x), -1, x.shape[-1])
        if weight.ndim == 2:
            out = rows @ weight.T
        else:
            out = torch.bmm(rows, weight.transpose(1, 2))
        out = out.reshape(*x.shape[:-1], out.shape[-1])
        if bias is None:
            return out
        return out + _beside(bias, out, feature_axis=-1)


class StackedLayerNorm(StackedLayer):
    """Layer normalisation with a scale and shift per slot."""

    def __init__(self, layer: nn.LayerNorm, slots: int, tuned: set[int]) -> None:
        super().__init__(layer, slots, tuned)
        if len(layer.normalized_shape) != 1:
            raise ValueError(
                "fit_batch: LayerNorm must normalise the last axis only, "
                f"got {list(layer.normalized_shape)}"
            )
        self.normalized_shape, self.eps = layer.normalized_shape, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis, then scale and shift row i by its own numbers."""
        out = F.layer_norm(x, self.normalized_shape, None, None, self.eps)
        weight, bias = self.weight_of("weight"), self.weight_of("bias")
        if weight is not None:
            out = out * _beside(weight, out, feature_axis=-1)
        if bias is not None:
            out = out + _beside(bias, out, feature_axis=-1)
        return out


class StackedConv2d(StackedLayer):
    """A convolution with weights per slot.

    1 x 1 convolutions are batched matrix products; all others one grouped convolution over
    slots x groups. The small maps at the end of a ResNet go through unfolding and a batched product
    (3.4 against 1.7 times the one-by-one loop for 3 x 3, 512 channels at 7 x 7, 8 slots, one core).
    """

    #: Output pixels up to which unfolding beats the grouped convolution.
    UNFOLD_PIXELS: Final = 64

    def __init__(self, layer: nn.Conv2d, slots: int, tuned: set[int]) -> None:
        super().__init__(layer, slots, tuned)
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(
                f"fit_batch: convolutions must be padded with zeros by numbers, got padding "
                f"{layer.padding!r} with mode {layer.padding_mode!r}"
            )
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups
        self.kernel_size = layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Apply row i's weights to row i."""
        weight, bias = self.weight_of("weight"), self.weight_of("bias")
        assert weight is not None
        if weight.ndim == 4:
            out = F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)
        elif self.kernel_size == (1, 1) and self.groups == 1 and self.padding == (0, 0):
            out = self._as_product(x, weight)
        elif self.groups == 1 and self._pixels(x) <= self.UNFOLD_PIXELS:
            out = self._unfolded(x, weight)
        else:
            out = self._grouped(x, weight)
        if bias is None:
            return out
        return out + _beside(bias, out, feature_axis=1)

    def _pixels(self, x: Tensor) -> int:
        height, width = x.shape[2:]
        return (height // self.stride[0]) * (width // self.stride[1])

    def _as_product(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.stride != (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        slots, channels, height, width = x.shape
        product = torch.bmm(weight.flatten(2).flatten(2), x.reshape(slots, channels, -1))
        return product.reshape(slots, -1, height, width)

    def _unfolded(self, x: Tensor, weight: Tensor) -> Tensor:
        columns = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        height = _out_size(x.shape[2], 0, self)
        return torch.bmm(weight.flatten(2), columns).reshape(len(x), weight.shape[1], height, -1)

    def _grouped(self, x: Tensor, weight: Tensor) -> Tensor:
        slots, channels = x.shape[:2]
        out = F.conv2d(
            x.reshape(1, slots * channels, *x.shape[2:]),
            weight.flatten(0, 1),
            None,
            self.stride,
            self.padding,
            self.dilation,
            slots * self.groups,
        )
        return out.reshape(slots, -1, *out.shape[2:])


class StackedRegressor:
    """A frozen copy of a regressor whose tuned layers hold one difference per slot.

    Args:
        regressor: The network; it is not changed and its tensors are shared where they are frozen.
        tuned: The parameters that are private to a slot.
        slots: People at once.

    Raises:
        ValueError: If a tuned parameter belongs to a layer that has no stacked twin.
    """

    def __init__(self, regressor: Regressor, tuned: list[nn.Parameter], slots: int) -> None:
        self.slots = slots
        # Aliases without gradient: the copy shares every number with the regressor, and backward
        # passes leave the regressor's own ``grad`` alone.
        aliases: dict[int, Any] = {
            id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
            for parameter in regressor.parameters()
        }
        shared = aliases | {id(buffer): buffer for buffer in regressor.buffers()}
        self.network = copy.deepcopy(regressor, shared).eval()
        self.layers: list[StackedLayer] = []
        missing = {id(aliases[id(parameter)]) for parameter in tuned}
        for parent, name, layer in list(_leaves(self.network)):
            own = {id(parameter) for parameter in layer.parameters(recurse=False)}
            if not own & missing:
                continue
            if not isinstance(layer, STACKABLE):
                raise ValueError(
                    f"fit_batch: {type(layer).__name__} has no batched form; fit one by one with "
                    "slots=1"
                )
            twin = _twin(layer, slots, missing)
            setattr(parent, name, twin)
            self.layers.append(twin)
            missing -= own
        if missing:
            raise ValueError(
                f"fit_batch: {len(missing)} tuned weights of {regressor.id} lie outside of "
                "Conv2d, Linear and LayerNorm layers; fit one by one with slots=1"
            )

    def narrow(self, active: int) -> None:
        """Let the first ``active`` slots take part."""
        for layer in self.layers:
            layer.narrow(active)

    def deltas(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Storage ``[slots, ...]`` and its narrowed leaf, whose ``grad`` the backward fills."""
        for layer in self.layers:
            for name, storage in layer.storage.items():
                yield storage, layer.delta[name]


def _leaves(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every module with its parent, so that it can be replaced."""
    for name, child in module.named_children():
        yield module, name, child
        yield from _leaves(child)


def _twin(layer: nn.Module, slots: int, tuned: set[int]) -> StackedLayer:
    if isinstance(layer, nn.Conv2d):
        return StackedConv2d(layer, slots, tuned)
    if isinstance(layer, nn.LayerNorm):
        return StackedLayerNorm(layer, slots, tuned)
    return StackedLinear(layer, slots, tuned)


def _beside(values: Tensor, out: Tensor, *, feature_axis: int) -> Tensor:
    """Shape ``[features]`` or ``[slots, features]`` so that it broadcasts against ``out``."""
    shape = [1] * out.ndim
    shape[feature_axis] = values.shape[-1]
    if values.ndim == 2:
        shape[0] = values.shape[0]
    return values.reshape(shape)


def _out_size(size: int, axis: int, layer: StackedConv2d) -> int:
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    return (size + 2 * int(layer.padding[axis]) - reach) // layer.stride[axis] + 1
