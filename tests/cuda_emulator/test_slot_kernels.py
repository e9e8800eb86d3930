"""The per-slot kernels, run on the CPU, against torch's own layers and Adam, person by person."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.cuda_emulator import slot_call
from tests.cuda_emulator.emulator import ASCENDING, DESCENDING, RANDOM
from tests.cuda_emulator.slot_call import (
    FLOAT32,
    NO_ACTIVATION,
    RELU,
    RELU6,
    TF32,
    THREE_TF32,
    Clock,
    State,
)
from tests.cuda_emulator.slot_people import (
    DTYPES,
    GRADE,
    LAYERS,
    PEOPLE,
    TOLERANCE,
    assert_adam,
    assert_near,
    convolve,
    draw,
    make_state,
    make_weights,
    start_adam,
)

FAST = [name for name in LAYERS if name.startswith("fast")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("people", PEOPLE)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_matches_torch(gpu, name, people, dtype):
    layer = LAYERS[name]
    start, delta, bias, bias_delta = make_weights(layer, people)
    x = draw(people, layer.cin, *layer.size)
    norm = draw(layer.cout), draw(layer.cout, seed=1)
    residual = draw(people, layer.cout, *layer.out_size)
    plain = convolve(layer, x, start, delta)
    full = plain + (bias + bias_delta)[:, :, None, None]
    full = full * norm[0][:, None, None] + norm[1][:, None, None] + residual

    def run(activation: int, **rest: object) -> Tensor:
        return slot_call.conv_forward(
            gpu, layer, x.to(dtype), start.to(dtype), delta.to(dtype), activation=activation,
            **rest,
        )  # fmt: skip

    extras = {
        "bias": bias.to(dtype), "bias_delta": bias_delta.to(dtype),
        "norm": tuple(t.to(dtype) for t in norm), "residual": residual.to(dtype),
    }  # fmt: skip
    assert_near(run(NO_ACTIVATION), plain, TOLERANCE[dtype], "plain")
    assert_near(run(NO_ACTIVATION, **extras), full, TOLERANCE[dtype], "everything")
    assert_near(run(RELU, **extras), full.relu(), TOLERANCE[dtype], "relu")
    assert_near(run(RELU6, **extras), full.clamp(0, 6), TOLERANCE[dtype] * 10, "relu6")


@pytest.mark.parametrize("arithmetic", [THREE_TF32, TF32])
@pytest.mark.parametrize("name", ["stem", "1x1-wide", "3x3", "3x3-stride", *FAST])
def test_tensor_cores_match_torch(gpu, name, arithmetic):
    """Forward, gradient of the input, gradient of the weights (read back from Adam's moment)."""
    layer, people = LAYERS[name], 2
    start, delta, _, _ = make_weights(layer, people)
    x = draw(people, layer.cin, *layer.size).requires_grad_()
    weights = (start + delta).requires_grad_()
    out = torch.stack([layer.convolve(*pair) for pair in zip(x, weights, strict=True)])
    g = draw(*out.shape, seed=5)
    want_x, want_w = torch.autograd.grad((out * g).sum(), (x, weights))
    small = [t.detach().float() for t in (x, start, delta, g)]
    got = slot_call.conv_forward(gpu, layer, *small[:3], arithmetic=arithmetic)
    assert_near(got, out.detach(), GRADE[arithmetic], "forward")
    got = slot_call.conv_backward(gpu, layer, small[3], small[1], small[2], arithmetic=arithmetic)
    assert_near(got, want_x, GRADE[arithmetic], "input gradient")
    state = State(*(torch.full_like(small[2], torch.nan) for _ in range(3)))
    clock = Clock(torch.zeros(people, dtype=torch.int32))
    slot_call.conv_update(gpu, layer, small[3], small[0], state, clock, arithmetic=arithmetic)
    assert_near(state.first / 0.1, want_w, GRADE[arithmetic], "weight gradient")
    # The rounding to 10 bits is there, and the split takes it away.
    error = (state.first.double() / 0.1 - want_w).abs().max() / want_w.abs().max()
    assert (float(error) > 2e-5) == (arithmetic == TF32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("people", PEOPLE)
@pytest.mark.parametrize("name", LAYERS)
def test_input_gradient_matches_torch(gpu, name, people, dtype):
    """With the mask of the activation, the scale of batch norm and the other branch's gradient."""
    layer = LAYERS[name]
    start, delta, _, _ = make_weights(layer, people)
    x = draw(people, layer.cin, *layer.size).requires_grad_()
    scale, add = draw(layer.cout), draw(*x.shape, seed=3)
    plain = convolve(layer, x, start, delta)
    g = draw(*plain.shape, seed=5)
    for activation, end in (
        (NO_ACTIVATION, None),
        (RELU, torch.relu),
        (RELU6, torch.nn.functional.relu6),
    ):
        out = plain * 4 * scale[:, None, None]
        out = out if end is None else end(out)
        (want,) = torch.autograd.grad((out * g).sum(), x, retain_graph=True)
        got = slot_call.conv_backward(
            gpu, layer, g.to(dtype), start.to(dtype), delta.to(dtype), y=out.detach().to(dtype),
            scale=4 * scale.to(dtype), add=add.to(dtype), activation=activation,
        )  # fmt: skip
        assert_near(got, want + add, 3 * TOLERANCE[dtype], f"activation {activation}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_update_is_adam(gpu, name, dtype):
    """Each slot with its own time, a new one included; two updates in a row."""
    layer, times = LAYERS[name], [0, 1, 5]
    start, _, _, _ = make_weights(layer, 3)
    people, state, clock = start_adam(start, times, dtype)
    x = draw(3, layer.cin, *layer.size)
    scale = draw(layer.cout)
    for step in range(2):
        weights = torch.stack([p.weight.detach() for p in people]) + start
        weights.requires_grad_()
        out = torch.stack([layer.convolve(*pair) for pair in zip(x, weights, strict=True)])
        out = (out * scale[:, None, None]).relu()
        g = draw(*out.shape, seed=step)
        (grads,) = torch.autograd.grad((out * g).sum(), weights)
        for person, grad in zip(people, grads, strict=True):
            person.step(grad)
        slot_call.conv_update(
            gpu, layer, g.to(dtype), x.to(dtype), state, clock,
            y=out.detach().to(dtype), scale=scale.to(dtype), activation=RELU,
        )  # fmt: skip
        clock.time += 1
        # Adam divides: where a gradient nearly cancels, its rounding is magnified.
        assert_adam(people, state, 2e-3 if dtype == torch.float32 else 1e-9)
    assert clock.time.tolist() == [2, 3, 7]


@pytest.mark.parametrize("name", ["fast-1x1", "fast-3x3"])
def test_memory_that_fours_cannot_start_in_is_read_one_by_one(gpu, name):
    """A view one number into its memory; on a GPU a move of 16 bytes would fail there."""
    layer = LAYERS[name]
    start, delta, _, _ = make_weights(layer, 2)
    x, y = draw(2, layer.cin, *layer.size), draw(2, layer.cout, *layer.out_size).relu()
    g, scale = draw(*y.shape, seed=5), draw(layer.cout)

    def shifted(values: Tensor) -> Tensor:
        memory = values.new_empty(values.numel() + 1).float()
        return memory[1:].reshape(values.shape).copy_(values)

    exact = slot_call.conv_forward(gpu, layer, x, start, delta)
    got = slot_call.conv_forward(gpu, layer, shifted(x), start.float(), delta.float())
    assert_near(got, exact, TOLERANCE[torch.float32], "forward")
    rest = {"scale": scale, "activation": RELU}
    exact = slot_call.conv_backward(gpu, layer, g, start, delta, y=y, **rest)
    rest["scale"] = shifted(scale)
    got = slot_call.conv_backward(
        gpu, layer, shifted(g), start.float(), delta.float(), y=shifted(y), **rest
    )
    assert_near(got, exact, TOLERANCE[torch.float32], "input gradient")
    states = []
    for dtype, move in ((torch.float64, lambda t: t), (torch.float32, shifted)):
        state = make_state(2, *layer.weight_shape, dtype=dtype)
        clock = Clock(torch.tensor([3, 0], dtype=torch.int32))
        slot_call.conv_update(
            gpu, layer, move(g), move(x), state, clock, y=move(y), scale=move(scale),
            activation=RELU,
        )  # fmt: skip
        states.append(state)
    assert_near(states[1].first, states[0].first, 3e-6, "first moment")


def test_update_keeps_the_moments_exact(gpu):
    """float32 moments after 1, 2, 5 and 19 updates, without the division."""
    layer = LAYERS["3x3"]
    start, _, _, _ = make_weights(layer, 1)
    people, state, clock = start_adam(start, [0], torch.float32)
    for step in range(19):
        x = draw(1, layer.cin, *layer.size, seed=step)
        weights = start.clone().requires_grad_()
        out = layer.convolve(x[0], weights)
        g = draw(1, *out.shape, seed=step)
        (grad,) = torch.autograd.grad((out * g[0]).sum(), weights)
        people[0].step(grad)
        slot_call.conv_update(gpu, layer, g.float(), x.float(), state, clock)
        clock.time += 1
        if step + 1 in (1, 2, 5, 19):
            first, second = people[0].moments
            assert_near(state.first, first[None], 3e-6, f"m after {step + 1}")
            assert_near(state.second, second[None], 3e-6, f"v after {step + 1}")


@pytest.mark.parametrize("name", ["3x3", "depthwise", "in-parts", "fast-1x1", "fast-3x3-odd"])
def test_state_in_bfloat16(gpu, name):
    """Delta and moments are rounded once per update; sums and products stay float32."""
    layer = LAYERS[name]
    start, delta, _, _ = make_weights(layer, 2)
    half = delta.bfloat16()
    x = draw(2, layer.cin, *layer.size)
    got = slot_call.conv_forward(gpu, layer, x.float(), start.float(), half)
    want = convolve(layer, x, start, half.double())
    assert_near(got, want, TOLERANCE[torch.float32], "forward")
    g = draw(*want.shape, seed=2)
    got = slot_call.conv_backward(gpu, layer, g.float(), start.float(), half)
    exact = slot_call.conv_backward(gpu, layer, g, start, half.double())
    assert_near(got, exact, 2 * TOLERANCE[torch.float32], "input gradient")

    def updated(dtype: torch.dtype, state_dtype: torch.dtype) -> State:
        full = make_state(*delta.shape, dtype=torch.bfloat16)
        state = State(*(t.to(state_dtype) for t in (full.delta, full.first, full.second)))
        clock = Clock(torch.tensor([3, 0], dtype=torch.int32))
        slot_call.conv_update(gpu, layer, g.to(dtype), x.to(dtype), state, clock)
        return state

    rounded, exactly = updated(torch.float32, torch.bfloat16), updated(torch.float64, torch.float64)
    for part in ("delta", "first", "second"):
        got, want = getattr(rounded, part), getattr(exactly, part)
        torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=2e-5)
        assert ((got.double() - want).abs() > 1e-6).any(), "bfloat16 rounds"


@pytest.mark.parametrize(
    "name", ["3x3", "1x1-stride", "depthwise-stride", "in-parts", "fast-1x1", "fast-3x3"]
)
def test_idle_slots_are_left_alone(gpu, name):
    """Outputs, state and bits of the others: NaN in a neighbour changes nothing."""
    layer = LAYERS[name]
    start, delta, bias, bias_delta = (t.float() for t in make_weights(layer, 3))
    x, g = draw(3, layer.cin, *layer.size).float(), draw(3, layer.cout, *layer.out_size).float()
    x[1], g[1], delta[1] = torch.nan, torch.nan, torch.nan
    clock = Clock(torch.tensor([4, 4, 0], dtype=torch.int32), torch.tensor([True, False, True]))

    def run(rows: slice, clock: Clock) -> list[Tensor]:
        full = make_state(3, *layer.weight_shape)
        state = State(*(t[rows].clone() for t in (full.delta, full.first, full.second)))
        out = [
            slot_call.conv_forward(
                gpu, layer, x[rows], start, delta[rows], bias=bias,
                bias_delta=bias_delta[rows].contiguous(), clock=clock,
            ),
            slot_call.conv_backward(gpu, layer, g[rows], start, delta[rows], clock=clock),
        ]  # fmt: skip
        slot_call.conv_update(gpu, layer, g[rows], x[rows], state, clock)
        return [*out, state.delta, state.first, state.second]

    together = run(slice(None), clock)
    before = make_state(3, *layer.weight_shape)
    for want, got in zip((before.delta, before.first, before.second), together[2:], strict=True):
        assert torch.equal(got[1], want[1])
    assert all(value[1].isnan().all() for value in together[:2])
    for slot in (0, 2):
        rows = slice(slot, slot + 1)
        alone = run(rows, Clock(clock.time[rows].clone()))
        assert all(torch.equal(a[0], b[slot]) for a, b in zip(alone, together, strict=True))
    # The new person of slot 2 starts from the shared weights.
    want = convolve(layer, x[2:].double(), start.double(), None) + bias.double()[:, None, None]
    assert_near(together[0][2:], want, TOLERANCE[torch.float32])


def test_the_last_update_is_the_last(gpu):
    """A slot that made all its updates makes no more, active or not."""
    state = make_state(2, 5, dtype=torch.float64, steps=4)
    before = make_state(2, 5, dtype=torch.float64)
    clock = Clock(torch.tensor([4, 3], dtype=torch.int32))
    slot_call.adam_update(gpu, draw(2, 1, 5, seed=9), state, clock)
    for got, want in zip(
        (state.delta, state.first, state.second), (before.delta, before.first, before.second),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(got[0], want[0])
        assert not torch.equal(got[1], want[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_update_is_adam(gpu, dtype):
    start = draw(9)
    people, state, clock = start_adam(start, [0, 2], dtype)
    g, scale = draw(2, 3, 9, 35), draw(9)
    y = draw(2, 3, 9, 35, seed=1) * 6
    masked = g * ((y > 0) & (y < 6)) * scale[:, None]
    for person, grad in zip(people, masked.sum((1, 3)), strict=True):
        person.step(grad)
    slot_call.bias_update(
        gpu, g.to(dtype), state, clock, y=y.to(dtype), scale=scale.to(dtype), activation=RELU6
    )
    assert_adam(people, state, 1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 4])
def test_adam_of_parts_is_adam(gpu, parts, dtype):
    people, state, clock = start_adam(draw(300), [0, 2, 7], dtype)
    g = draw(3, parts, 300)
    for person, grad in zip(people, g.sum(1), strict=True):
        person.step(grad)
    slot_call.adam_update(gpu, g.to(dtype), state, clock)
    assert_adam(people, state, 1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "ins", "outs"), [(1, 5, 3), (3, 70, 33), (6, 33, 9)])
@pytest.mark.parametrize("people", [1, 3, 17])
def test_linear_matches_torch(gpu, people, rows, ins, outs, dtype):
    start, delta, bias = draw(outs, ins), draw(people, outs, ins), draw(outs)
    bias_delta, g = draw(people, outs, seed=1), draw(people, rows, outs)
    x = draw(people, rows, ins).requires_grad_()
    weights = (start + delta).requires_grad_()
    out = torch.bmm(x, weights.transpose(1, 2)) + (bias + bias_delta)[:, None]
    want_x, want_w = torch.autograd.grad((out * g).sum(), (x, weights))
    cast = [t.detach().to(dtype) for t in (x, start, delta, bias, bias_delta, g)]
    assert_near(slot_call.linear_forward(gpu, *cast[:5]), out.detach(), TOLERANCE[dtype])
    got = slot_call.linear_backward(gpu, cast[5], cast[1], cast[2])
    assert_near(got, want_x, TOLERANCE[dtype])
    times = [0, 3, 1, 0, 2, *[1] * 12][:people]
    adams, state, clock = start_adam(start, times, dtype)
    for person, grad in zip(adams, want_w, strict=True):
        person.step(grad)
    slot_call.linear_update(gpu, cast[5], cast[0], state, clock)
    assert_adam(adams, state, 2e-3 if dtype == torch.float32 else 1e-9)


def test_linear_leaves_idle_slots_alone(gpu):
    x, g, start = draw(3, 2, 9).float(), draw(3, 2, 5).float(), draw(5, 9).float()
    delta = draw(3, 5, 9).float()
    clock = Clock(torch.tensor([0, 1, 1], dtype=torch.int32), torch.tensor([True, False, True]))
    out = slot_call.linear_forward(gpu, x, start, delta, clock=clock)
    g_x = slot_call.linear_backward(gpu, g, start, delta, clock=clock)
    assert out[1].isnan().all()
    assert g_x[1].isnan().all()
    assert_near(out[0], x[0].double() @ start.T.double(), 2e-6)
    assert_near(g_x[2], g[2].double() @ (start + delta[2]).double(), 2e-6)


@pytest.mark.parametrize("arithmetic", [FLOAT32, THREE_TF32])
@pytest.mark.parametrize("name", ["3x3-stride", "grouped", "fast-1x1", "fast-3x3-odd"])
def test_thread_order_changes_no_bit(kernels, name, arithmetic):
    layer = LAYERS[name]
    start, delta, _, _ = (t.float() for t in make_weights(layer, 2))
    x, g = draw(2, layer.cin, *layer.size).float(), draw(2, layer.cout, *layer.out_size).float()
    clock = Clock(torch.tensor([0, 3], dtype=torch.int32))

    def run(order: int, seed: int = 0) -> list[Tensor]:
        kernels.schedule(order, seed)
        state, bias = make_state(*delta.shape), make_state(2, layer.cout)
        rest = {"arithmetic": arithmetic, "clock": clock}
        out = [
            slot_call.conv_forward(kernels, layer, x, start, delta, **rest),
            slot_call.conv_backward(kernels, layer, g, start, delta, **rest),
        ]
        slot_call.conv_update(kernels, layer, g, x, state, clock, arithmetic=arithmetic)
        slot_call.bias_update(kernels, g.flatten(2)[:, None].contiguous(), bias, clock)
        lines = draw(2, 3, 40).float(), draw(70, 40).float()
        out.append(slot_call.linear_forward(kernels, *lines))
        out.append(slot_call.linear_backward(kernels, draw(2, 3, 70).float(), lines[1]))
        return [*out, state.delta, state.first, state.second, bias.delta]

    first = run(ASCENDING)
    for order, seed in ((DESCENDING, 0), (RANDOM, 1), (RANDOM, 2)):
        again = run(order, seed)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    kernels.schedule(ASCENDING)


def test_wrong_calls_are_refused(gpu):
    """Unknown arithmetic, tensor cores in float64, and an update without a clock."""
    layer = LAYERS["1x1"]
    x, start = draw(1, layer.cin, *layer.size), draw(*layer.weight_shape)
    for dtype, arithmetic in ((torch.float32, 7), (torch.float64, THREE_TF32)):
        with pytest.raises(AssertionError, match="error 1"):
            slot_call.conv_forward(gpu, layer, x.to(dtype), start.to(dtype), arithmetic=arithmetic)
    state = State(*(draw(1, *layer.weight_shape) for _ in range(3)))
    with pytest.raises(AssertionError, match="error 1"):
        slot_call.conv_update(gpu, layer, draw(1, layer.cout, *layer.out_size), x, state, Clock())


def test_nobody(gpu):
    layer = LAYERS["3x3"]
    start, delta, _, _ = make_weights(layer, 0)
    x, g = draw(0, layer.cin, *layer.size), draw(0, layer.cout, *layer.out_size)
    assert slot_call.conv_forward(gpu, layer, x, start, delta).numel() == 0
    assert slot_call.conv_backward(gpu, layer, g, start, delta).numel() == 0


def test_a_grid_beyond_the_limits_is_refused(gpu):
    """A cast to 32 bits would leave all but one of these slots without their update."""
    _, state, clock = start_adam(draw(1), [0], torch.float32)
    gradient = draw(1, 1, 1).float()
    code = gpu.code(
        "eft_slot_adam_update_f32",
        *(2**32 + 1, 1, 1, gradient, *state.arguments(), *clock.arguments()),
    )
    assert code == 9  # cudaErrorInvalidConfiguration
    assert state.delta.isnan().all()  # as it was
