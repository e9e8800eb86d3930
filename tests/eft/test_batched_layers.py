"""Stacked layers and their optimiser, one by one against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eft_fast.eft.batched.adam import StackedAdam
from eft_fast.eft.batched.layers import StackedConv2d, StackedRegressor
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import make_network, share, tuned_parameters
from eft_fast.losses.weights import EftLossWeights
from eft_fast.pipeline.predict import output_loss
from tests.eft import toy

#: in, out, kernel, stride, padding, groups, size: every kind that ResNet and BlazePose have.
CONVOLUTIONS = {
    "stem": (3, 8, 7, 2, 3, 1, 17),
    "pointwise": (6, 10, 1, 1, 0, 1, 9),
    "strided pointwise": (6, 10, 1, 2, 0, 1, 9),
    "3x3": (6, 10, 3, 1, 1, 1, 12),
    "strided 3x3": (6, 10, 3, 2, 1, 1, 12),
    "3x3 on a small map": (6, 10, 3, 1, 1, 1, 7),
    "depthwise 5x5": (6, 6, 5, 2, 2, 6, 11),
    "two groups": (6, 10, 3, 1, 1, 2, 11),
    "2x2 to one pixel": (6, 10, 2, 1, 0, 1, 2),
}


class One(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def check_layer(layer, x, methods=(None,)):
    """Answers and all gradients of three slots against three separate layers."""
    stack = StackedRegressor(One(layer), list(layer.parameters()), 3)
    twin = stack.layers[0]
    for storage, _ in stack.deltas():
        storage.normal_()
    stack.narrow(3)
    singles = []
    for slot in range(3):
        (single, mapping) = share(layer, list(layer.parameters()))
        with torch.no_grad():
            for parameter, (storage, _) in zip(layer.parameters(), stack.deltas(), strict=True):
                mapping[id(parameter)] += storage[slot]
        singles.append(single)
    want_x = x.clone().requires_grad_()
    want = torch.cat([single(want_x[i : i + 1]) for i, single in enumerate(singles)])
    factor = torch.randn_like(want)
    (want * factor).sum().backward()
    for method in methods:
        if method is not None:
            twin.choose = lambda _, method=method: method
        stack.narrow(3)
        got_x = x.clone().requires_grad_()
        got = stack.network(got_x)
        (got * factor).sum().backward()
        close(got, want)
        close(got_x.grad, want_x.grad)
        for (_, leaf), parameters in zip(
            stack.deltas(), zip(*(s.parameters() for s in singles), strict=True), strict=True
        ):
            close(leaf.grad, torch.stack([p.grad for p in parameters]))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(kind, bias):
    width, out, kernel, stride, padding, groups, size = CONVOLUTIONS[kind]
    layer = nn.Conv2d(width, out, kernel, stride, padding, groups=groups, bias=bias).double()
    methods = [None, "grouped", "one_by_one"]
    methods += ["unfolded"] if groups == 1 else []
    methods += ["as_product"] if "pointwise" in kind else []
    check_layer(layer, torch.randn(3, width, size, size, dtype=torch.float64), methods)


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    check_layer(nn.Linear(5, 7, bias=bias).double(), torch.randn(shape, dtype=torch.float64))


def test_layer_norm():
    check_layer(nn.LayerNorm(6).double(), torch.randn(3, 6, dtype=torch.float64))


@pytest.mark.parametrize("kind", [*CONVOLUTIONS, "linear"])
def test_shared_start(kind):
    """At zero differences: the same answers and gradients as private weights, both ways."""
    if kind == "linear":
        layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    else:
        width, out, kernel, stride, padding, groups, size = CONVOLUTIONS[kind]
        layer = nn.Conv2d(width, out, kernel, stride, padding, groups=groups).double()
        x = torch.randn(3, width, size, size, dtype=torch.float64)
    stack = StackedRegressor(One(layer), list(layer.parameters()), 3)
    results = []
    for at_start in (False, True):
        stack.narrow(3)
        stack.set_at_start(at_start)
        leaf_x = x.clone().requires_grad_()
        out = stack.network(leaf_x)
        (
            out * torch.linspace(0, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        ).sum().backward()
        results.append([out, leaf_x.grad, *(leaf.grad for _, leaf in stack.deltas())])
    for private, shared in zip(*results, strict=True):
        close(shared, private)


def test_unusual_padding_is_refused():
    for layer in (nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 3, padding_mode="circular")):
        with pytest.raises(ValueError, match="must be padded with zeros by numbers"):
            StackedRegressor(One(layer), list(layer.parameters()), 1)


def test_other_layers_are_refused_by_name():
    layer = nn.ConvTranspose2d(2, 2, 3)
    with pytest.raises(ValueError, match="ConvTranspose2d has no batched form"):
        StackedRegressor(One(layer), list(layer.parameters()), 1)


def test_small_maps_are_unfolded():
    layer = StackedConv2d(nn.Conv2d(4, 4, 3, padding=1), 2, set())
    assert layer.choose(torch.zeros(2, 4, 7, 7)) == "unfolded"
    assert layer.choose(torch.zeros(2, 4, 14, 14)) == "grouped"
    assert F.conv2d(torch.zeros(2, 4, 7, 7), layer.start["weight"], padding=1).shape[-1] == 7


@pytest.mark.parametrize("mode", ["full", "layer3", "layer4", "head", "feature", "lora"])
def test_gradients_are_private_and_complete(mode):
    """Each slot's gradient is that of its own loss, not a mean over the batch; none is missing."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    network, tuned = make_network(net, mode)
    if mode == "lora":
        with torch.no_grad():
            for each in tuned:  # Additions of zero would leave half of the gradients zero.
                each.add_(0.05 * torch.randn_like(each))
    stack = StackedRegressor(network, tuned, 3)
    inputs = network.prepare(img)
    sum_of_losses(body, stack.network(inputs), target).backward()
    grads = [leaf.grad for _, leaf in stack.deltas()]
    assert len(grads) == len(tuned)
    single, parameters = share(network, tuned)
    for person in range(3):
        single.zero_grad()
        row = slice(person, person + 1)
        sum_of_losses(body, single(inputs[row]), target[row]).backward()
        for parameter, grad in zip(tuned, grads, strict=True):
            want = parameters[id(parameter)].grad
            torch.testing.assert_close(grad[person], want, rtol=1e-9, atol=1e-12)
            assert grad[person].abs().max() > 0


def sum_of_losses(body, output, target):
    return output_loss(body, output, target, EftLossWeights())[0].sum()


def test_stack_shares_the_start_weights():
    net = toy.make_regressor()
    stack = StackedRegressor(net, tuned_parameters(net, "full"), 2)
    own = {parameter.data_ptr() for parameter in net.parameters()}
    assert {layer.start["weight"].data_ptr() for layer in stack.layers} <= own


@pytest.mark.parametrize("first", [0, 2])
def test_stacked_adam_is_adam_per_slot(first):
    """Weights and both moments of single layers after 1, 2, 5 and 19 steps."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(8, 3, 7, 7), (16, 16, 3, 3), (32, 64), (144,)]
    storages = [torch.zeros(3 + first, *shape, dtype=torch.float64) for shape in shapes]
    adam = StackedAdam(storages, EftConfig(lr=1e-3))
    single = [
        [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        for _ in range(3)
    ]
    optimisers = [torch.optim.Adam(weights, lr=1e-3) for weights in single]
    for step in range(1, 20):
        grads = [
            torch.randn(3, *shape, generator=generator, dtype=torch.float64)
            * 10.0
            ** torch.tensor([0.0, -3.0, -9.0], dtype=torch.float64).reshape(3, *(1,) * len(shape))
            for shape in shapes
        ]
        adam.step(list(grads), first=first)
        for slot in range(3):
            for weight, grad in zip(single[slot], grads, strict=True):
                weight.grad = grad[slot].clone()
            optimisers[slot].step()
        if step in (1, 2, 5, 19):
            for layer, slot in ((layer, slot) for layer in range(len(shapes)) for slot in range(3)):
                state = optimisers[slot].state[single[slot][layer]]
                for got, want in (
                    (storages[layer][first + slot], single[slot][layer].detach()),
                    (adam._state[layer].first[first + slot], state["exp_avg"]),
                    (adam._state[layer].second[first + slot], state["exp_avg_sq"]),
                ):
                    # Where gradients cancel, rounding is relative to their size before.
                    atol = 1e-14 * float(want.abs().max())
                    torch.testing.assert_close(got, want, rtol=1e-12, atol=atol)
    assert all(float(storage[:first].abs().sum()) == 0 for storage in storages)


def test_weights_and_moments_of_layers_follow_adam():
    """The true gradients of a fit: conv1, a 3x3, a 1x1, a shortcut, fc1 and decpose."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    names = ["conv1", "layer1.0.conv2", "layer4.0.conv3", "layer2.0.downsample.0", "fc1", "decpose"]
    modules = dict(net.named_modules())
    watched = [modules[name].weight for name in names]
    tuned = tuned_parameters(net, "full")
    places = [next(i for i, p in enumerate(tuned) if p is weight) for weight in watched]
    config = EftConfig(lr=toy.LR)
    stack = StackedRegressor(net, tuned, 3)
    # The stack lists layers in the network's order, the mode lists trunk before head.
    order = [
        next(i for i, (_, leaf) in enumerate(stack.deltas()) if leaf.shape[1:] == weight.shape)
        for weight in watched
    ]
    adam = StackedAdam([storage for storage, _ in stack.deltas()], config)
    singles = [share(net, tuned) for _ in range(3)]
    own = [[mapping[id(p)] for p in tuned] for _, mapping in singles]
    optimisers = [torch.optim.Adam(parameters, lr=toy.LR) for parameters in own]
    for step in range(1, 20):
        stack.narrow(3)
        sum_of_losses(body, stack.network(img), target).backward()
        adam.step([leaf.grad for _, leaf in stack.deltas()])
        for slot, (single, _) in enumerate(singles):
            optimisers[slot].zero_grad()
            row = slice(slot, slot + 1)
            sum_of_losses(body, single(img[row]), target[row]).backward()
            optimisers[slot].step()
        if step in (1, 2, 5, 19):
            storages = [storage for storage, _ in stack.deltas()]
            for place, place_in_stack, weight in zip(places, order, watched, strict=True):
                for slot in range(3):
                    state = optimisers[slot].state[own[slot][place]]
                    moved = own[slot][place].detach() - weight.detach()
                    first = adam._state[place_in_stack].first[slot]
                    # Weights are rounded where they are stored, 1e-16 of their own size.
                    torch.testing.assert_close(
                        storages[place_in_stack][slot], moved, rtol=1e-9, atol=1e-12
                    )
                    torch.testing.assert_close(first, state["exp_avg"], rtol=1e-9, atol=1e-12)
