"""Layers with private weights against torch's own layers and Adam, one person after the other.

On a CPU this tests the plain form, on a GPU the kernels, and tests/cuda_emulator runs it on the
kernels without a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eft_fast.ops import slot_layers as ops
from eft_fast.ops.slot_layers import ConvEnd, Geometry, SlotClock, SlotState, SlotWeights

TIMES = (0, 3, 1)
GEOMETRIES = {
    "1x1": (Geometry(), (1, 1)),
    "1x1-stride": (Geometry(stride=(2, 2)), (1, 1)),
    "3x3": (Geometry((2, 2), (1, 1)), (3, 3)),
    "depthwise": (Geometry((1, 1), (2, 2), groups=6), (5, 5)),
}
END = {torch.float64: 1e-10, torch.float32: 2e-4}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_clock(device: torch.device) -> SlotClock:
    active = torch.tensor([True, True, True], device=device)
    return SlotClock(torch.tensor(TIMES, dtype=torch.int32, device=device), active)


class Adams:
    """torch.optim.Adam of three people with 0, 3 and 1 updates behind them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.weights = [torch.zeros(shape, dtype=torch.float64) for _ in TIMES]
        self.adams = [torch.optim.Adam([w], lr=1e-2) for w in self.weights]
        for slot, time in enumerate(TIMES):
            for step in range(time):
                self.step(slot, draw(*shape, seed=10 * step + slot))

    def step(self, slot: int, grad: Tensor) -> None:
        self.weights[slot].grad = grad
        self.adams[slot].step()

    def state(self, device: torch.device, dtype: torch.dtype) -> SlotState:
        """A new person finds NaN, which is somebody else's."""
        nothing = torch.full_like(self.weights[0], torch.nan)
        rows = [(nothing,) * 3]
        for slot in (1, 2):
            (moments,) = self.adams[slot].state.values()
            rows.append((self.weights[slot], moments["exp_avg"], moments["exp_avg_sq"]))
        parts = zip(*rows, strict=True)
        return SlotState(*(ops.by_taps(torch.stack(part).to(device, dtype)) for part in parts))

    def check(self, state: SlotState, tolerance: float) -> None:
        for slot, (weight, adam) in enumerate(zip(self.weights, self.adams, strict=True)):
            (moments,) = adam.state.values()
            pairs = (
                (state.delta, weight), (state.first, moments["exp_avg"]),
                (state.second, moments["exp_avg_sq"]),
            )  # fmt: skip
            for got, want in pairs:
                error = (got[slot].cpu().double() - want).abs().max() / want.abs().max()
                assert error <= tolerance, (slot, float(error))


@pytest.mark.parametrize("dtype", END)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution(name, dtype, device):
    geometry, kernel = GEOMETRIES[name]
    start, bias = draw(6, 6 // geometry.groups, *kernel), draw(6)
    adams, bias_adams = Adams(tuple(start.shape)), Adams((6,))
    x, scale, shift = draw(3, 6, 9, 8), draw(6, seed=1), draw(6, seed=2)
    x.requires_grad_()
    state, bias_state = (a.state(device, dtype) for a in (adams, bias_adams))
    outs, used = [], []
    for slot in range(3):
        own = [(start + adams.weights[slot]).requires_grad_()]
        own.append((bias + bias_adams.weights[slot]).requires_grad_())
        where = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        out = F.conv2d(x[slot : slot + 1], *own, *where)[0]
        outs.append(F.relu6(4 * (out * scale[:, None, None] + shift[:, None, None])))
        used.append(own)
    y = torch.stack(outs)
    g = draw(*y.shape)
    grads = torch.autograd.grad((y * g).sum(), [x, *(p for own in used for p in own)])
    x = x.detach()

    def cast(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, dtype)

    clock, end = make_clock(device), ConvEnd(cast(4 * scale), cast(4 * shift), "relu6")
    weights = SlotWeights(ops.by_taps(cast(start)), state.delta, cast(bias), bias_state.delta)
    got = ops.conv_forward(cast(x), weights, geometry, clock, end=end)
    torch.testing.assert_close(got.cpu().double(), y.detach(), rtol=0, atol=END[dtype])
    gradient = ops.conv_backward(cast(g), weights, geometry, clock, (9, 8), y=got, end=end)
    error = (gradient.cpu().double() - grads[0]).abs().max() / grads[0].abs().max()
    assert error < END[dtype]
    options = ops.make_adam_options(1e-2, (0.9, 0.999), 1e-8, 20, device)
    ops.conv_update(cast(g), cast(x), state, options, geometry, clock, y=got, end=end)
    rows = cast(g).flatten(2)[:, None], got.flatten(2)[:, None]
    ops.bias_update(rows[0], bias_state, options, clock, y=rows[1], end=end)
    for slot in range(3):
        adams.step(slot, grads[1 + 2 * slot])
        bias_adams.step(slot, grads[2 + 2 * slot])
    tolerance = 1e-8 if dtype == torch.float64 else 5e-3
    adams.check(state, tolerance)
    bias_adams.check(bias_state, tolerance)


@pytest.mark.parametrize("dtype", END)
def test_linear(dtype, device):
    start, bias = draw(7, 11), draw(7)
    adams = Adams((7, 11))
    x = draw(3, 2, 11).requires_grad_()
    own = [(start + w).requires_grad_() for w in adams.weights]
    out = torch.stack([F.linear(x[slot], own[slot], bias) for slot in range(3)])
    g = draw(*out.shape)
    g_x, *grads = torch.autograd.grad((out * g).sum(), [x, *own])
    state, clock = adams.state(device, dtype), make_clock(device)
    x, g, start, bias = (t.detach().to(device, dtype) for t in (x, g, start, bias))
    weights = SlotWeights(start, state.delta, bias)
    got = ops.linear_forward(x, weights, clock)
    torch.testing.assert_close(got.cpu().double(), out.detach(), rtol=0, atol=END[dtype])
    got = ops.linear_backward(g, weights, clock)
    torch.testing.assert_close(got.cpu().double(), g_x, rtol=0, atol=END[dtype])
    options = ops.make_adam_options(1e-2, (0.9, 0.999), 1e-8, 20, device)
    ops.linear_update(g, x, state, options, clock)
    for slot in range(3):
        adams.step(slot, grads[slot])
    adams.check(state, 1e-8 if dtype == torch.float64 else 5e-3)


def test_a_gradient_that_is_there(device):
    adams = Adams((4, 5))
    state, g = adams.state(device, torch.float64), draw(3, 4, 5)
    options = ops.make_adam_options(1e-2, (0.9, 0.999), 1e-8, 20, device)
    clock = make_clock(device)
    clock.active[1] = False
    before = state.delta[1].clone()
    ops.adam_update(g.to(device), state, options, clock)
    assert torch.equal(state.delta[1], before)
    clock.active[:] = torch.tensor([False, True, False])
    ops.adam_update(g.to(device), state, options, clock)
    for slot in range(3):
        adams.step(slot, g[slot])
    adams.check(state, 1e-10)


def operator_arguments(device: torch.device) -> dict[str, tuple]:
    """Right arguments of every operator."""
    clock = make_clock(device)
    x, weight = draw(3, 4, 6, 5).to(device), ops.by_taps(draw(2, 4, 3, 3).to(device))
    g, geometry = draw(3, 2, 4, 3).to(device), [1, 1, 0, 0, 1, 1, 1]
    delta = ops.by_taps(draw(3, 2, 4, 3, 3).to(device))
    constants = draw(20, 2).abs().to(device)

    def adam(*shape: int) -> tuple:
        parts = [ops.by_taps(draw(*shape, seed=s).abs().to(device)) for s in range(3)]
        return (*parts, constants, 0.9, 0.999, 1e-8, clock.time, clock.active)

    flat = draw(3, 2, 9).to(device), draw(7, 9).to(device), draw(3, 2, 7).to(device)
    times = clock.time, clock.active
    return {
        "slot_conv_forward": (x, weight, delta, *(None,) * 5, *times, geometry, 0, 0),
        "slot_conv_backward": (g, None, None, weight, delta, None, *times, 6, 5, geometry, 0, 0),
        "slot_conv_update": (g, None, None, x, *adam(3, 2, 4, 3, 3), geometry, 0, 0),
        "slot_bias_update": (g.flatten(2)[:, None].contiguous(), None, None, *adam(3, 2), 0),
        "slot_adam_update": (draw(3, 5).to(device), *adam(3, 5)),
        "slot_linear_forward": (flat[0], flat[1], None, None, None, *times),
        "slot_linear_backward": (flat[2], flat[1], None, *times),
        "slot_linear_update": (flat[2], flat[0], *adam(3, 7, 9)),
    }


def needs_kernels(device: torch.device) -> None:
    if not ops.has_kernels(torch.zeros(1, device=device)):
        pytest.skip("these operators have no kernel here; tests/cuda_emulator runs this test")


@pytest.mark.parametrize("name", operator_arguments(torch.device("cpu")))
def test_operators_keep_their_schemas(name, device):
    """What is changed in place, and shapes without data."""
    needs_kernels(device)
    operator = getattr(torch.ops.eft_fast, name).default
    arguments = operator_arguments(device)[name]
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


WRONG = [
    ("slot_conv_forward", 0, lambda t: t.half(), "float32 or float64"),
    ("slot_conv_forward", 0, lambda t: t[:, :3], r"x must be \[any, 4, any, any\], got \[3, 3, 6"),
    ("slot_conv_forward", 1, lambda t: t.float(), "weight must have the type of the activations"),
    ("slot_conv_forward", 2, lambda t: t[:2], "delta must be"),
    ("slot_conv_forward", 1, lambda t: t.contiguous(), "weight must lie tap by tap"),
    ("slot_conv_forward", 2, lambda t: t.transpose(3, 4), "delta must lie tap by tap"),
    ("slot_conv_update", 6, lambda t: t.contiguous(), "second must lie tap by tap"),
    ("slot_conv_forward", 8, lambda t: t.long(), "time must be int32"),
    ("slot_conv_forward", 9, lambda t: t.int(), "active must be bool"),
    ("slot_conv_forward", 10, lambda _: [1, 1, 0], "geometry must be stride, padding and dilation"),
    ("slot_conv_forward", 10, lambda _: [0, 1, 0, 0, 1, 1, 1], "must be positive"),
    ("slot_conv_forward", 10, lambda _: [1, 1, 0, 0, 9, 9, 1], "larger than the padded input"),
    ("slot_conv_forward", 11, lambda _: 3, "activation must be 0"),
    ("slot_conv_forward", 12, lambda _: 1, "arithmetic must be 0 in float64"),
    ("slot_conv_backward", 10, lambda _: 2, "y, the output, is needed"),
    ("slot_conv_backward", 0, lambda t: t[:, :, 1:], r"g must be \[3, 2, 4, 3\], got"),
    ("slot_conv_update", 5, lambda t: t[:2], "first must be"),
    ("slot_conv_update", 6, lambda t: t.float(), "second must have the type of the activations"),
    ("slot_conv_update", 7, lambda t: t.float(), "constants must be float64"),
    ("slot_linear_update", 0, lambda t: t[:, :1], r"g must be \[3, 2, any\]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "spoil", "words"), WRONG)
def test_wrong_inputs_are_refused(name, place, spoil, words, device):
    needs_kernels(device)
    arguments = list(operator_arguments(device)[name])
    if name == "slot_conv_backward" and place == 10:
        arguments[11] = 2
    else:
        arguments[place] = spoil(arguments[place])
    with pytest.raises(RuntimeError, match=words):
        getattr(torch.ops.eft_fast, name)(*arguments)
