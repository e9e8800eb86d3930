"""One regressor, many sets of weights: layers whose weights have a leading axis of people.

The start weights W0 are shared; each person owns the difference ``delta = W - W0``, so that W0 is
read once per layer and small updates survive whatever precision ``delta`` is kept in. Everything
between the layers is per person anyway, so the regressor's own ``forward`` runs unchanged on a
batch in which row i uses weights i. Batch normalisation is frozen and stays a scale and shift
*behind* the product: folded into trained weights it would change Adam's step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from eft_fast.eft.modes import FeatureShift, leaves, share


class StackedLayer(nn.Module):
    """A layer with shared start weights and one difference per slot.

    Attributes:
        start: The shared weights, by name.
        storage: Differences by name, each ``[slots, *shape]``, in the type of the state.
        delta: The active rows of ``storage`` in the type of the weights; gradients arrive here.
        at_start: All differences are known to be zero: products with the shared weights are then
            ordinary ones of the whole batch, and only weight gradients are private.
    """

    def __init__(
        self, layer: nn.Module, slots: int, tuned: set[int], state: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.start: dict[str, Tensor] = {}
        self.storage: dict[str, Tensor] = {}
        self.delta: dict[str, Tensor] = {}
        self.at_start = False
        for name, parameter in layer.named_parameters(recurse=False):
            self.start[name] = parameter.detach()
            if id(parameter) in tuned:
                shape = (slots, *parameter.shape)
                self.storage[name] = parameter.new_zeros(shape, dtype=state)
        self.narrow(slots)

    def narrow(self, active: int) -> None:
        """Let the first ``active`` slots take part in the next forward pass."""
        self.delta = {
            name: storage[:active].detach().to(self.start[name].dtype).requires_grad_()
            for name, storage in self.storage.items()
        }

    def weight_of(self, name: str) -> Tensor | None:
        """``[active, *shape]``; without an axis of slots if it is not tuned."""
        if name not in self.start:
            return None
        start = self.start[name]
        return start + self.delta[name] if name in self.delta else start

    def shared_product(self, x: Tensor, start: Tensor) -> Tensor:
        """The layer's product with the shared weights, without bias."""
        raise NotImplementedError

    def input_gradient(self, grad: Tensor, x: Tensor, start: Tensor) -> Tensor:
        """Gradient by ``x`` of ``shared_product``."""
        raise NotImplementedError

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Gradient by each slot's own weights, ``[slots, *shape]``."""
        raise NotImplementedError


class _StartProduct(torch.autograd.Function):
    """A product at zero differences: forward and input gradient shared, weight gradient private."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, layer: StackedLayer) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return layer.shared_product(x, layer.start["weight"])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (x,), (grad,), layer = ctx.saved_tensors, grads, ctx.layer
        below = None
        if ctx.needs_input_grad[0]:
            below = layer.input_gradient(grad, x, layer.start["weight"])
        return below, layer.weight_gradient(grad, x), None


class StackedLinear(StackedLayer):
    """``y[i] = x[i] W[i]^T + b[i]`` for x of shape ``[slots, ..., in]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply row i's weights to row i."""
        rows = x.reshape(len(x), -1, x.shape[-1])
        if "weight" not in self.delta:
            out = self.shared_product(rows, self.start["weight"])
        elif self.at_start:
            out = _start_product(rows, self)
        else:
            weight = self.start["weight"] + self.delta["weight"]
            out = torch.bmm(rows, weight.transpose(1, 2))
        out = out.reshape(*x.shape[:-1], out.shape[-1])
        bias = self.weight_of("bias")
        return out if bias is None else out + _beside(bias, out, feature_axis=-1)

    def shared_product(self, x: Tensor, start: Tensor) -> Tensor:
        """``x W0^T`` of rows ``[slots, rows, in]``."""
        return x @ start.T

    def input_gradient(self, grad: Tensor, x: Tensor, start: Tensor) -> Tensor:
        """``dy W0``."""
        return grad @ start

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """``dy^T x`` of each slot."""
        return torch.bmm(grad.transpose(1, 2), x)


class StackedShift(StackedLayer):
    """A vector per slot, added to its row."""

    def forward(self, x: Tensor) -> Tensor:
        """Shift each row by its own vector."""
        shift = self.weight_of("shift")
        assert shift is not None
        return x + shift


class StackedLayerNorm(StackedLayer):
    """Layer normalisation with a scale and shift per slot."""

    def __init__(
        self,
        layer: nn.LayerNorm,
        slots: int,
        tuned: set[int],
        state: torch.dtype | None = None,
    ) -> None:
        super().__init__(layer, slots, tuned, state)
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

    There are four ways to compute it, and ``python -m benchmarks.layers`` times them; the choice is
    what is fastest there on one AVX2 core. 1 x 1 convolutions are batched matrix products. The
    small maps at the end of a ResNet go through unfolding and a batched product, all others
    through one grouped convolution over slots x groups.
    """

    #: Output pixels up to which unfolding beats the grouped convolution.
    UNFOLD_PIXELS: Final = 64

    def __init__(
        self,
        layer: nn.Conv2d,
        slots: int,
        tuned: set[int],
        state: torch.dtype | None = None,
    ) -> None:
        super().__init__(layer, slots, tuned, state)
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
        if "weight" not in self.delta:
            out = self.shared_product(x, self.start["weight"])
        elif self.at_start:
            out = _start_product(x, self)
        else:
            weight = self.start["weight"] + self.delta["weight"]
            out = getattr(self, self.choose(x))(x, weight)
        bias = self.weight_of("bias")
        return out if bias is None else out + _beside(bias, out, feature_axis=1)

    def choose(self, x: Tensor) -> str:
        """The name of the method that computes private weights of this input fastest."""
        if self._is_pointwise():
            return "as_product"
        is_small = self._pixels(x) <= self.UNFOLD_PIXELS
        return "unfolded" if self.groups == 1 and is_small else "grouped"

    def as_product(self, x: Tensor, weight: Tensor) -> Tensor:
        """One batched matrix product; 1 x 1 without groups and padding only."""
        x = self._strided(x)
        slots, channels, height, width = x.shape
        product = torch.bmm(weight.flatten(2), x.reshape(slots, channels, -1))
        return product.reshape(slots, -1, height, width)

    def unfolded(self, x: Tensor, weight: Tensor) -> Tensor:
        """Patches as columns, then a batched matrix product; without groups only."""
        columns = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        height = _out_size(x.shape[2], 0, self)
        return torch.bmm(weight.flatten(2), columns).reshape(len(x), weight.shape[1], height, -1)

    def grouped(self, x: Tensor, weight: Tensor) -> Tensor:
        """One convolution with a group per slot and group."""
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

    def one_by_one(self, x: Tensor, weight: Tensor) -> Tensor:
        """A convolution per slot."""
        rows = [self.shared_product(row[None], own) for row, own in zip(x, weight, strict=True)]
        return torch.cat(rows)

    def shared_product(self, x: Tensor, start: Tensor) -> Tensor:
        """An ordinary convolution of the whole batch."""
        return F.conv2d(x, start, None, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, grad: Tensor, x: Tensor, start: Tensor) -> Tensor:
        """An ordinary transposed convolution of the whole batch."""
        shape, where = list(x.shape), (self.stride, self.padding, self.dilation, self.groups)
        below: Tensor = conv2d_input(shape, start, grad, *where)
        return below

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """A batched product, or the weight gradient of one grouped convolution."""
        shape = self.start["weight"].shape
        if self._is_pointwise():
            columns = self._strided(x).flatten(2)
            return torch.bmm(grad.flatten(2), columns.transpose(1, 2)).reshape(-1, *shape)
        slots = len(x)
        out: Tensor = conv2d_weight(
            x.reshape(1, -1, *x.shape[2:]),
            (slots * shape[0], *shape[1:]),
            grad.reshape(1, -1, *grad.shape[2:]),
            self.stride,
            self.padding,
            self.dilation,
            slots * self.groups,
        )
        return out.reshape(slots, *shape)

    def _is_pointwise(self) -> bool:
        return self.kernel_size == (1, 1) and self.groups == 1 and self.padding == (0, 0)

    def _pixels(self, x: Tensor) -> int:
        return _out_size(x.shape[2], 0, self) * _out_size(x.shape[3], 1, self)

    def _strided(self, x: Tensor) -> Tensor:
        return x if self.stride == (1, 1) else x[:, :, :: self.stride[0], :: self.stride[1]]


class StackedRegressor:
    """A frozen copy of a network whose tuned layers hold one difference per slot.

    Args:
        regressor: The network, or a part of it; it is not changed and its tensors are shared where
            they are frozen.
        tuned: The parameters that are private to a slot.
        slots: People at once.
        state: Type in which differences are kept; default: that of the weights.

    Attributes:
        network: The copy, to be called as the original is, on a batch of ``slots`` rows.

    Raises:
        ValueError: If a tuned parameter belongs to a layer that has no stacked twin.
    """

    def __init__(
        self,
        regressor: nn.Module,
        tuned: list[nn.Parameter],
        slots: int,
        *,
        state: torch.dtype | None = None,
    ) -> None:
        self.slots = slots
        self.network, aliases = share(regressor)
        self.layers: list[StackedLayer] = []
        missing = {id(aliases[id(parameter)]) for parameter in tuned}
        for parent, name, layer in list(leaves(self.network)):
            own = {id(parameter) for parameter in layer.parameters(recurse=False)}
            if not own & missing:
                continue
            twin = make_twin(layer, slots, missing, state)
            setattr(parent, name, twin)
            self.layers.append(twin)
            missing -= own
        if missing:
            raise ValueError(
                f"fit_batch: {len(missing)} tuned weights lie outside of the layers that have a "
                "batched form"
            )

    def narrow(self, active: int) -> None:
        """Let the first ``active`` slots take part."""
        for layer in self.layers:
            layer.narrow(active)

    def set_at_start(self, at_start: bool) -> None:
        """Say whether all differences are zero, see ``StackedLayer.at_start``."""
        for layer in self.layers:
            layer.at_start = at_start

    def deltas(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Storage ``[slots, ...]`` and its narrowed leaf, whose ``grad`` the backward fills."""
        for layer in self.layers:
            for name, storage in layer.storage.items():
                yield storage, layer.delta[name]


def can_stack(network: nn.Module, tuned: list[nn.Parameter]) -> bool:
    """Whether every tuned layer has a batched form."""
    try:
        StackedRegressor(network, tuned, 0)
    except ValueError:
        return False
    return True


_TWINS: Final[dict[type[nn.Module], type[StackedLayer]]] = {
    nn.Conv2d: StackedConv2d,
    nn.Linear: StackedLinear,
    nn.LayerNorm: StackedLayerNorm,
    FeatureShift: StackedShift,
}


def make_twin(
    layer: nn.Module, slots: int, tuned: set[int], state: torch.dtype | None = None
) -> StackedLayer:
    """The stacked form of a layer; ``tuned`` are the ids of its private parameters.

    Raises:
        ValueError: If there is none.
    """
    if type(layer) not in _TWINS:
        raise ValueError(f"fit_batch: {type(layer).__name__} has no batched form")
    return _TWINS[type(layer)](layer, slots, tuned, state)


def _start_product(x: Tensor, layer: StackedLayer) -> Tensor:
    out: Tensor = _StartProduct.apply(x, layer.delta["weight"], layer)  # type: ignore[no-untyped-call]
    return out


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
