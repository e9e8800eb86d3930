"""Private weights whose update happens inside of the backward pass.

The twin of ``stacked`` and ``optim`` for GPUs: a layer's backward makes the gradient of its input,
and then the gradient of its weights together with Adam's step, so that no gradient is ever stored
and weights, moments and clock are touched once. What remains after backward is ``finish``.

Slots are never cleared. A slot at time 0 starts from the shared weights, whatever lies in its
differences, and a slot that is not active is left alone. Nothing here asks the device anything, so
a step can be captured in a CUDA graph; on a CPU the same code runs on plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eft_fast.eft.batched.layers import StackedLayer, make_twin
from eft_fast.eft.modes import leaves, share
from eft_fast.ops import slot_layers as ops
from eft_fast.ops.slot_layers import (
    AdamOptions,
    ConvEnd,
    Geometry,
    SlotClock,
    SlotState,
    SlotWeights,
)


@dataclass
class SlotOptimiser:
    """Clock, Adam and numbers that all layers of a network share.

    Attributes:
        clock: Time and activity of all slots.
        adam: Learning rate and so on.
        state: Type of differences and moments; None: that of the weights.
        arithmetic: How convolutions multiply, one of ``slot_layers.ARITHMETIC``.
        width: How many slots, counted from the first, take part.
        anchor: Makes the output of every layer depend on something with a gradient.
    """

    clock: SlotClock
    adam: AdamOptions
    state: torch.dtype | None = None
    arithmetic: str = "float32"
    width: int = field(init=False)
    anchor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Let all slots take part."""
        self.width = len(self.clock.time)
        self.anchor = torch.zeros((), device=self.clock.time.device, requires_grad=True)

    @property
    def slots(self) -> int:
        """All slots, taking part or not."""
        return len(self.clock.time)

    def now(self) -> SlotClock:
        """The clock of the slots that take part."""
        return self.clock.first(self.width)


class AdamLayer(nn.Module):
    """A layer with private weights; ``use`` counts, ``collect`` updates after the last use.

    A network may use a layer several times in one pass. Its weights stay as they are until every
    use has sent its gradient.
    """

    def __init__(self, layer: nn.Module, tuned: set[int], optimiser: SlotOptimiser) -> None:
        super().__init__()
        self.optimiser = optimiser
        parameters = dict(layer.named_parameters(recurse=False))
        self.start = {name: self.lay(each.detach()) for name, each in parameters.items()}
        self.tuned = {name for name, each in parameters.items() if id(each) in tuned}
        self._states: dict[str, SlotState] = {}
        self._uses = 0
        self._collected: list[Any] = []

    def lay(self, values: Tensor) -> Tensor:
        """Weights in the order in which the kernels want them; their state follows."""
        return values.contiguous()

    def begin(self) -> None:
        """Forget the uses of the pass before."""
        self._uses, self._collected = 0, []

    def finish(self) -> None:
        """Update with what was collected, if a use sent no gradient."""
        if self._collected:
            self.update(self._collected)
        self.begin()

    def collect(self, *parts: Any) -> None:
        """Keep what one use contributes; update after the last."""
        self._collected.append(parts)
        if len(self._collected) == self._uses:
            self.finish()

    def count(self) -> None:
        """Note one use."""
        self._uses += 1

    def update(self, uses: list[Any]) -> None:
        """Make the weight gradients of all uses, and Adam's step."""
        raise NotImplementedError

    def state(self, name: str) -> SlotState:
        """Difference and moments of the slots that take part.

        Memory is taken at the first use; layers that a network never runs cost nothing.
        """
        if name not in self._states:
            each = self.start[name], self.optimiser.slots, self.optimiser.state
            self._states[name] = SlotState(*(ops.empty_state(*each) for _ in range(3)))
        full, width = self._states[name], self.optimiser.width
        return SlotState(full.delta[:width], full.first[:width], full.second[:width])

    def move(self, source: int, target: int) -> None:
        """Copy everything of one slot to another."""
        for state in self._states.values():
            for tensor in (state.delta, state.first, state.second):
                tensor[target].copy_(tensor[source])

    def weights(self) -> SlotWeights:
        """Start weights and differences of the slots that take part."""

        def delta(name: str) -> Tensor | None:
            return self.state(name).delta if name in self.tuned else None

        bias = self.start.get("bias")
        return SlotWeights(self.start["weight"], delta("weight"), bias, delta("bias"))


class AdamConv2d(AdamLayer):
    """A convolution with private weights, and what follows it.

    Args:
        layer: The convolution.
        tuned: Ids of the parameters that are private.
        optimiser: Shared by all layers.
        end: Frozen batch norm and activation behind the convolution.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        tuned: set[int],
        optimiser: SlotOptimiser,
        end: ConvEnd = ConvEnd(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(layer, tuned, optimiser)
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(
                f"fit_batch: convolutions must be padded with zeros by numbers, got padding "
                f"{layer.padding!r} with mode {layer.padding_mode!r}"
            )
        stride: Any = layer.stride
        padding: Any = layer.padding
        dilation: Any = layer.dilation
        self.geometry = Geometry(stride, padding, dilation, layer.groups)
        self.end = end

    def lay(self, values: Tensor) -> Tensor:
        """Tap by tap for the kernels; plain torch keeps its own order."""
        return ops.by_taps(values) if ops.has_kernels(values) else values.contiguous()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Apply row i's weights to row i, then what follows; ``residual`` is added before the end.

        The activation comes behind the sum.
        """
        out: Tensor = _FusedConv.apply(x, residual, self.optimiser.anchor, self)  # type: ignore[no-untyped-call]
        return out

    def update(self, uses: list[Any]) -> None:
        """See ``AdamLayer``; the gradients of several uses are added in plain torch."""
        clock, adam = self.optimiser.now(), self.optimiser.adam
        arithmetic = self.optimiser.arithmetic
        if "weight" in self.tuned and len(uses) == 1:
            ((x, g, y, end),) = uses
            state = self.state("weight")
            ops.conv_update(
                g, x, state, adam, self.geometry, clock, y=y, end=end, arithmetic=arithmetic
            )
        elif "weight" in self.tuned:
            state = self.state("weight")
            gradient = sum(
                ops.conv_gradient(g, x, state, self.geometry, y=y, end=end) for x, g, y, end in uses
            )
            ops.adam_update(gradient, state, adam, clock)  # type: ignore[arg-type]
        if "bias" in self.tuned and len(uses) == 1:
            ((_, g, y, end),) = uses
            flat = g.flatten(2)[:, None], None if y is None else y.flatten(2)[:, None]
            ops.bias_update(flat[0], self.state("bias"), adam, clock, y=flat[1], end=end)
        elif "bias" in self.tuned:
            masked = [ops.masked(g, y, end).flatten(2)[:, None] for _, g, y, end in uses]
            ops.bias_update(torch.cat(masked, -1), self.state("bias"), adam, clock)


class _FusedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, anchor: Tensor, layer: AdamConv2d
    ) -> Tensor:
        optimiser, ctx.layer = layer.optimiser, layer
        layer.count()
        out = ops.conv_forward(
            *(x, layer.weights(), layer.geometry, optimiser.now()),
            end=layer.end,
            residual=residual,
            arithmetic=optimiser.arithmetic,
        )
        ctx.save_for_backward(x, out if layer.end.activation != "none" else None)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, y), (g,), layer = ctx.saved_tensors, grads, ctx.layer
        end, below, beside = layer.end, None, None
        if ctx.needs_input_grad[1]:
            # The other branch needs the masked gradient; the kernels mask while they load.
            beside = g = ops.masked(g, y, ConvEnd(activation=end.activation))
            y, end = None, ConvEnd(end.scale)
        if ctx.needs_input_grad[0]:
            below = ops.conv_backward(
                *(g, layer.weights(), layer.geometry, layer.optimiser.now(), tuple(x.shape[2:])),
                y=y,
                end=end,
                arithmetic=layer.optimiser.arithmetic,
            )
        layer.collect(x, g, y, end)
        return below, beside, None, None


class AdamLinear(AdamLayer):
    """A linear layer with private weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply row i's weights to row i of ``x`` [slots, ..., in]."""
        rows = x.reshape(len(x), -1, x.shape[-1])
        out: Tensor = _AdamLinear.apply(rows, self.optimiser.anchor, self)  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], out.shape[-1])

    def update(self, uses: list[Any]) -> None:
        """See ``AdamLayer``."""
        clock, adam = self.optimiser.now(), self.optimiser.adam
        x, g = (torch.cat(rows, 1) for rows in zip(*uses, strict=True))
        if "weight" in self.tuned:
            ops.linear_update(g, x, self.state("weight"), adam, clock)
        if "bias" in self.tuned:
            ops.bias_update(g[..., None], self.state("bias"), adam, clock)


class _AdamLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: AdamLinear) -> Tensor:
        layer.count()
        ctx.layer = layer
        ctx.save_for_backward(x)
        return ops.linear_forward(x, layer.weights(), layer.optimiser.now())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (x,), (g,), layer = ctx.saved_tensors, grads, ctx.layer
        below = None
        if ctx.needs_input_grad[0]:
            below = ops.linear_backward(g, layer.weights(), layer.optimiser.now())
        layer.collect(x, g)
        return below, None, None


class GradientLayer(AdamLayer):
    """A small layer without kernels: its stacked twin, whose gradients Adam takes at the end."""

    def __init__(self, layer: nn.Module, tuned: set[int], optimiser: SlotOptimiser) -> None:
        super().__init__(layer, tuned, optimiser)
        self.twin: StackedLayer = make_twin(layer, 0, tuned)

    def begin(self) -> None:
        """Take the differences of this pass as leaves, which collect gradients."""
        super().begin()
        time = self.optimiser.now().time
        self.twin.delta = {}
        for name in self.tuned:
            start = self.start[name]
            is_new = (time == 0).reshape(-1, *(1,) * start.ndim)
            delta = torch.where(is_new, 0.0, self.state(name).delta.to(start.dtype))
            self.twin.delta[name] = delta.requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the twin."""
        out: Tensor = self.twin(x)
        return out

    def finish(self) -> None:
        """Adam's step with the gradients that arrived."""
        for name, leaf in self.twin.delta.items():
            if leaf.grad is not None:
                clock, adam = self.optimiser.now(), self.optimiser.adam
                ops.adam_update(leaf.grad, self.state(name), adam, clock)
                leaf.grad = None


class AdamInBackwardNetwork:
    """A frozen copy of a network whose tuned layers update themselves in the backward pass.

    Args:
        network: The network, or a part of it; it is not changed and its tensors are shared.
        tuned: The parameters that are private to a slot.
        optimiser: Clock and Adam of all slots.

    Attributes:
        network: The copy, to be called as the original is, on a batch of ``optimiser.width`` rows.

    Raises:
        ValueError: If a tuned parameter belongs to a layer that has no batched form.
    """

    def __init__(
        self, network: nn.Module, tuned: list[nn.Parameter], optimiser: SlotOptimiser
    ) -> None:
        self.optimiser = optimiser
        self.network, aliases = share(network)
        self.layers: list[AdamLayer] = []
        missing = {id(aliases[id(parameter)]) for parameter in tuned}
        for parent, name, layer in list(leaves(self.network)):
            own = {id(parameter) for parameter in layer.parameters(recurse=False)}
            if own & missing:
                fused = _fuse(layer, missing, optimiser)
                setattr(parent, name, fused)
                self.layers.append(fused)
                missing -= own
        if missing:
            raise ValueError(
                f"fit_batch: {len(missing)} tuned weights lie outside of the layers that have a "
                "batched form"
            )

    def step(self, run: Callable[[nn.Module], tuple[list[Tensor], list[Tensor]]]) -> None:
        """One pass forward and back, with everybody's update.

        Args:
            run: Gets the network; returns outputs and their gradients. Before it returns it sets
                ``clock.active`` to those who go on: only they are updated.
        """
        for layer in self.layers:
            layer.begin()
        with torch.enable_grad():
            outputs, gradients = run(self.network)
            torch.autograd.backward(outputs, gradients)
        with torch.no_grad():
            for layer in self.layers:
                layer.finish()

    def move(self, source: int, target: int) -> None:
        """Copy the private weights of one slot to another."""
        for layer in self.layers:
            layer.move(source, target)


def _fuse(layer: nn.Module, tuned: set[int], optimiser: SlotOptimiser) -> AdamLayer:
    if type(layer) is nn.Conv2d:
        return AdamConv2d(layer, tuned, optimiser)
    if type(layer) is nn.Linear:
        return AdamLinear(layer, tuned, optimiser)
    return GradientLayer(layer, tuned, optimiser)
