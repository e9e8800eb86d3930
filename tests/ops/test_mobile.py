"""The convolutions of mobile networks on the CPU against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eft_fast.models.blazepose import BlazePose
from eft_fast.ops import mobile
from eft_fast.ops._operators import load
from eft_fast.ops.mobile import DepthwiseForm, depthwise_conv2d, pointwise_conv2d

F32 = {"rtol": 1e-4, "atol": 2e-5}
#: Batch, channels, height, width, kernel, stride, zeros before and after: the network's own, then
#: odd sizes, parts of a block of channels, maps smaller than the kernel, rows that nothing reads.
SHAPES = [
    (1, 24, 32, 32, 3, 1, 1, 1),
    (1, 64, 32, 32, 3, 2, 1, 1),
    (2, 144, 16, 16, 5, 2, 2, 2),
    (1, 864, 8, 8, 5, 1, 2, 2),
    (3, 288, 8, 8, 3, 2, 0, 1),
    (1, 288, 4, 4, 3, 2, 0, 1),
    (2, 48, 2, 2, 3, 1, 1, 1),
    (1, 7, 2, 2, 5, 2, 2, 2),
    (2, 33, 11, 7, 5, 2, 2, 2),
    (3, 40, 9, 13, 5, 1, 2, 2),
    (1, 5, 1, 1, 3, 1, 1, 1),
    (2, 16, 12, 12, 3, 2, 2, 0),
    (2, 20, 10, 9, 5, 2, 0, 0),
    (1, 16, 6, 6, 5, 1, 4, 4),
    (1, 16, 3, 40, 3, 1, 1, 1),
]


def make_case(shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Input, of which some lies outside of [0, 6], weights and bias."""
    batch, channels, height, width, kernel, *_ = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    inputs = [3 * normal(batch, channels, height, width) + 2, normal(channels, 1, kernel, kernel)]
    return [each.to(dtype).requires_grad_() for each in (*inputs, normal(channels))]


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, form: DepthwiseForm) -> Tensor:
    """What the operator promises, written with torch's."""
    x = F.relu6(x) if form.clamp_in else x
    x = F.pad(x, (form.before, form.after, form.before, form.after))
    y = F.conv2d(x, weight, bias, form.stride, groups=len(weight))
    return F.relu6(y) if form.clamp_out else y


def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the native calls that follow."""
    calls: list[str] = []

    def count(name, function):
        return lambda *args: (calls.append(name), function(*args))[1]

    for name in ("_DEPTHWISE", "_DEPTHWISE_BACKWARD"):
        label = "backward" if name.endswith("BACKWARD") else "forward"
        monkeypatch.setattr(mobile, name, count(label, getattr(mobile, name)))
    return calls


@pytest.mark.parametrize("clamps", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_torch_in_double_precision(simd, shape, clamps):
    form = DepthwiseForm(*shape[5:], *clamps)
    inputs = make_case(shape)
    doubles = [each.detach().double().requires_grad_() for each in inputs]
    y, expected = depthwise_conv2d(*inputs, form), by_torch(*doubles, form)
    torch.testing.assert_close(y.double(), expected, **F32)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(y, inputs, g)
    want = torch.autograd.grad(expected, doubles, g.double())
    for ours, theirs in zip(got, want, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        assert error < 3e-6
    with torch.no_grad():
        assert torch.equal(depthwise_conv2d(*inputs, form), y)


def test_runs_natively_and_stays_channels_last(monkeypatch):
    calls = native_calls(monkeypatch)
    inputs = make_case((2, 24, 9, 9, 3, 1, 1, 1))
    y = depthwise_conv2d(*inputs, DepthwiseForm(1, 1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)
    (g_x,) = torch.autograd.grad(y.sum(), inputs[:1])
    assert calls == ["forward", "backward"]
    assert g_x.is_contiguous(memory_format=torch.channels_last)


def test_layout_of_the_input_does_not_matter():
    form = DepthwiseForm(2, 2, 2, True, True)
    x, weight, bias = make_case((2, 20, 10, 12, 5))
    expected = depthwise_conv2d(x, weight, bias, form)
    layouts = [
        x.contiguous(memory_format=torch.channels_last),
        torch.cat([x, x], 1)[:, :20],
        x.transpose(2, 3).contiguous().transpose(2, 3),
        x.repeat_interleave(2, 3)[..., ::2],
    ]
    for other in layouts:
        assert torch.equal(depthwise_conv2d(other, weight, bias, form), expected)
    g = torch.ones_like(expected)
    wanted = torch.autograd.grad(expected, (x, weight), g, retain_graph=True)
    # A gradient that is expanded has strides of zero.
    got = torch.autograd.grad(expected.sum(), (x, weight))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_gradients_of_some_inputs_alone(needed):
    form = DepthwiseForm(1, 1, 1, True, True)
    inputs = make_case((2, 24, 8, 8, 3))
    every = torch.autograd.grad(depthwise_conv2d(*inputs, form).square().sum(), inputs)
    some = [t.detach().requires_grad_(i in needed) for i, t in enumerate(inputs)]
    y = depthwise_conv2d(*some, form)
    found = torch.autograd.grad(y.square().sum(), [some[i] for i in needed])
    assert all(torch.equal(a, every[i]) for a, i in zip(found, needed, strict=True))


def test_no_bias():
    form = DepthwiseForm(1, 1, 1)
    x, weight, _ = make_case((1, 24, 8, 8, 3))
    y = depthwise_conv2d(x, weight, None, form)
    torch.testing.assert_close(y, by_torch(x, weight, None, form), **F32)
    got = torch.autograd.grad(y.square().sum(), (x, weight))
    want = torch.autograd.grad(by_torch(x, weight, None, form).square().sum(), (x, weight))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_any_number_of_threads_gives_the_same_bits(simd, threads):
    form = DepthwiseForm(1, 2, 2, True, True)
    inputs = make_case((5, 200, 16, 16, 5))
    results = []
    for count in (1, 2, 4, 4):
        torch.set_num_threads(count)
        y = depthwise_conv2d(*inputs, form)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_image_does_not_depend_on_its_neighbours(simd):
    form = DepthwiseForm(2, 1, 1, True, True)
    x, weight, bias = make_case((4, 40, 12, 12, 3))
    with torch.no_grad():
        together = depthwise_conv2d(x, weight, bias, form)
        assert torch.equal(depthwise_conv2d(x[2:3], weight, bias, form), together[2:3])


def test_not_a_number_spreads_as_in_torch():
    form = DepthwiseForm(1, 1, 1, True, True)
    x, weight, bias = (t.detach() for t in make_case((1, 16, 8, 8, 3)))
    x[0, 3, 4, 4] = float("nan")
    found = depthwise_conv2d(x, weight, bias, form).isnan()
    assert torch.equal(found, by_torch(x, weight, bias, form).isnan())
    assert found.sum() == 9


def test_second_derivatives_are_those_of_torch():
    form = DepthwiseForm(2, 1, 1, True, True)
    inputs = make_case((2, 20, 7, 7, 3))

    def second(function):
        y = function(*inputs, form)
        first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), inputs)

    for ours, theirs in zip(second(depthwise_conv2d), second(by_torch), strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_double_precision_passes_gradcheck():
    form = DepthwiseForm(1, 1, 1, True, True)
    inputs = make_case((1, 3, 4, 4, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: depthwise_conv2d(*t, form), inputs)


def _in_double(inputs, form):
    return depthwise_conv2d(*(t.double() for t in inputs), form).float()


def _with_autocast(inputs, form):
    with torch.autocast("cpu", torch.bfloat16):
        return depthwise_conv2d(*inputs, form).float()


def _by_vmap(inputs, form):
    x, *rest = inputs
    return torch.func.vmap(lambda each: depthwise_conv2d(each[None], *rest, form)[0])(x)


def _forward_mode(inputs, form):
    x, *rest = inputs
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        y = torch.autograd.forward_ad.unpack_dual(depthwise_conv2d(dual, *rest, form))
        assert y.tangent is not None
        return y.primal


def _exported(inputs, form):
    class Layer(nn.Module):
        def forward(self, x, weight, bias):
            return depthwise_conv2d(x, weight, bias, form)

    program = torch.export.export(Layer(), tuple(inputs))
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("eft_fast" in name for name in names)
    assert any("conv2d" in name for name in names)
    return program.module()(*inputs)


def _traced(inputs, form):
    return torch.jit.trace(lambda *t: depthwise_conv2d(*t, form), tuple(inputs), check_trace=False)(
        *inputs
    )


def _counted(inputs, form):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        y = depthwise_conv2d(*inputs, form)
    assert counter.get_total_flops() > 0
    return y


@pytest.mark.parametrize(
    "way", [_in_double, _with_autocast, _by_vmap, _forward_mode, _exported, _traced, _counted]
)
def test_whatever_else_looks_sees_torch(monkeypatch, way):
    calls = native_calls(monkeypatch)
    form = DepthwiseForm(1, 1, 1, True, True)
    inputs = [t.detach() for t in make_case((2, 24, 8, 8, 3))]
    found = way(inputs, form)
    assert calls == []
    loose = {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(
        found, by_torch(*inputs, form), **(loose if way is _with_autocast else F32)
    )


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ((1, 6, 8, 8, 7), DepthwiseForm(1, 3, 3)),
        ((1, 6, 9, 9, 3), DepthwiseForm(3, 1, 1)),
        ((1, 6, 8, 8, 3), DepthwiseForm(1, 3, 3)),
        ((0, 6, 8, 8, 3), DepthwiseForm(1, 1, 1)),
    ],
)
def test_other_kernels_and_empty_batches_go_to_torch(monkeypatch, shape, form):
    calls = native_calls(monkeypatch)
    inputs = make_case(shape)
    torch.testing.assert_close(depthwise_conv2d(*inputs, form), by_torch(*inputs, form))
    assert calls == []


def test_several_filters_per_channel_go_to_torch(monkeypatch):
    calls = native_calls(monkeypatch)
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 2, 3, 3)
    with pytest.raises(RuntimeError):
        depthwise_conv2d(x, weight, None, DepthwiseForm(1, 1, 1))
    assert calls == []


def test_operators_pass_opcheck():
    x, weight, bias = (t.detach() for t in make_case((2, 20, 7, 7, 3)))
    load()
    forward = torch.ops.eft_fast.depthwise.default
    backward = torch.ops.eft_fast.depthwise_backward.default
    rows = x.permute(0, 2, 3, 1).contiguous()
    utilities = ("test_schema", "test_faketensor")
    options = (2, 1, 1, True)
    torch.library.opcheck(forward, (rows, weight, bias, *options, True), test_utils=utilities)
    y = forward(rows, weight, bias, *options, True)
    for needs in ((True, True), (True, False), (False, True)):
        arguments = (torch.ones_like(y), rows, weight, y, *options, *needs)
        torch.library.opcheck(backward, arguments, test_utils=utilities)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: torch.ones(2, 7, 7, 21)}, r"weight must be \[21, 1, any, any\], got \[20, 1, 3, 3\]"),
        ({0: torch.ones(2, 20, 7, 7).permute(0, 2, 3, 1)}, "x must be contiguous float32"),
        ({1: torch.ones(20, 1, 7, 7)}, r"weight must be \[C, 1, 3, 3\] or \[C, 1, 5, 5\]"),
        ({1: torch.ones(20, 1, 3, 3).double()}, "weight must be contiguous float32"),
        ({2: torch.ones(3)}, r"bias must be \[20\], got \[3\]"),
        ({3: 3}, "stride must be 1 or 2 and padding less than the kernel, got 3, 1, 1"),
        ({5: 3}, "stride must be 1 or 2 and padding less than the kernel, got 2, 1, 3"),
        ({0: torch.ones(2, 0, 0, 20)}, "x must not be smaller than the kernel"),
    ],
)
def test_direct_calls_are_checked(change, words):
    given = [torch.ones(2, 7, 7, 20), torch.ones(20, 1, 3, 3), torch.ones(20), 2, 1, 1, True, True]
    for at, value in change.items():
        given[at] = value
    with pytest.raises(RuntimeError, match=words):
        mobile._DEPTHWISE(*given)


@pytest.mark.parametrize("last", [True, False])
def test_pointwise_matches_torch(last):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 24, 7, 5, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    weight, bias = torch.randn(40, 24, 1, 1, generator=generator), torch.randn(40)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    y, expected = pointwise_conv2d(*inputs), F.conv2d(*inputs)
    torch.testing.assert_close(y, expected, **F32)
    assert y.is_contiguous(memory_format=torch.channels_last) == last
    got = torch.autograd.grad(y.square().sum(), inputs)
    want = torch.autograd.grad(expected.square().sum(), inputs)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_blazepose_takes_it(monkeypatch):
    """Every depthwise layer that leads to the output, forward and backward; a hook goes round."""
    calls = native_calls(monkeypatch)
    network = BlazePose("tiny")
    depthwise = [
        m
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1 and "lateral" not in name
    ]
    rgb = torch.rand(1, 3, 256, 256)
    network(rgb).features.sum().backward()
    assert calls.count("forward") == calls.count("backward") == len(depthwise)
    calls.clear()
    seen = []
    handle = depthwise[3].register_forward_hook(lambda *args: seen.append(args))
    output = network(rgb)
    handle.remove()
    assert len(seen) == 1
    assert calls.count("forward") == len(depthwise) - 1
    calls.clear()
    with torch.no_grad():
        expected = network.double()(rgb.double())
    assert calls == []
    torch.testing.assert_close(output.features.double(), expected.features, rtol=1e-4, atol=1e-4)
