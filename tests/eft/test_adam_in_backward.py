"""Updates inside of the backward pass equal StackedRegressor and StackedAdam."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eft_fast.eft.batched.adam import StackedAdam
from eft_fast.eft.batched.adam_in_backward import AdamInBackwardNetwork, SlotOptimiser
from eft_fast.eft.batched.conv_epilogue import move_into_epilogues
from eft_fast.eft.batched.layers import StackedRegressor
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import make_network
from eft_fast.models.blazepose import HeadBlock
from eft_fast.models.hmr import Bottleneck
from eft_fast.models.mobile import InvertedResidual
from eft_fast.ops.slot_layers import SlotClock, make_adam_options
from eft_fast.pipeline.predict import output_loss
from tests.eft import toy


def make_optimiser(slots: int, config: EftConfig, **options: object) -> SlotOptimiser:
    clock = SlotClock(torch.zeros(slots, dtype=torch.int32), torch.ones(slots, dtype=torch.bool))
    adam = make_adam_options(
        config.lr_of("full"), config.adam_betas, config.adam_eps, 20, torch.device("cpu")
    )
    return SlotOptimiser(clock, adam, **options)


class Everything(nn.Module):
    """Every kind of layer: biases, groups, padding, a stride, and layers that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, padding=1)
        self.expand = nn.Conv2d(6, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 5, 2, padding=2, groups=8)
        self.grouped = nn.Conv2d(8, 4, 3, groups=2, bias=False)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.enter = nn.Linear(16, 12)
        self.norm = nn.LayerNorm(12)
        self.again = nn.Linear(12, 12)
        self.leave = nn.Linear(12, 2, bias=False)
        self.idle = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.expand(self.stem(x)))
        x = torch.relu(self.grouped(nn.functional.relu6(self.depthwise(x))))
        x = self.twice(torch.tanh(self.twice(x)))
        h = torch.tanh(self.norm(self.enter(x.flatten(1))))
        for _ in range(3):
            h = h + torch.tanh(self.again(h))
        return self.leave(h)


def make_everything() -> Everything:
    generator = torch.Generator().manual_seed(4)
    network = Everything().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network


def loss_of(out: Tensor) -> Tensor:
    return (out.square() + out).sum(1)


def make_run(
    inputs: Tensor, loss: Callable[[Any], Tensor], before_update: Callable[[], None] | None = None
) -> tuple[Callable, list[Any]]:
    """What ``AdamInBackwardNetwork.step`` calls, and the outputs that it saw."""
    seen: list[Any] = []

    def run(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        out = network(inputs)
        seen.append(out)
        total = loss(out)
        if before_update is not None:
            before_update()
        return [total], [torch.ones_like(total)]

    return run, seen


@pytest.mark.parametrize("state", [None, torch.bfloat16])
def test_fused_steps_equal_stacked_ones(state):
    """Four steps; the second slot starts late, the third one stops early."""
    network = make_everything().to(torch.float32 if state else torch.float64)
    config = EftConfig(lr=1e-2)
    tuned = [p for name, p in network.named_parameters() if name != "expand.weight"]
    img = torch.randn(3, 3, 16, 16, dtype=tuned[0].dtype)
    stacks = [StackedRegressor(network, tuned, 1, state=state) for _ in range(3)]
    adams = [StackedAdam([each for each, _ in stack.deltas()], config) for stack in stacks]
    fused = AdamInBackwardNetwork(network, tuned, make_optimiser(3, config, state=state))
    clock = fused.optimiser.clock
    for step in range(4):
        going = torch.tensor([True, step > 0, step < 2])
        clock.active.fill_(True)
        run, seen = make_run(img, loss_of, partial(clock.active.copy_, going))
        fused.step(run)
        clock.time.add_(going.int())
        for slot, (stack, adam) in enumerate(zip(stacks, adams, strict=True)):
            stack.narrow(1)
            out = stack.network(img[slot : slot + 1])
            rtol, atol = (1e-3, 1e-3) if state else (1e-10, 1e-12)
            torch.testing.assert_close(seen[0][slot], out[0], rtol=rtol, atol=atol)
            if going[slot]:
                loss_of(out).sum().backward()
                adam.step([leaf.grad for _, leaf in stack.deltas()])
    assert clock.time.tolist() == [int(adam.time) for adam in adams] == [4, 3, 2]
    for slot, (stack, adam) in enumerate(zip(stacks, adams, strict=True)):
        compare(fused, slot, stack, adam, tolerance=3e-2 if state else 1e-8)


def compare(fused, slot: int, stack, adam, *, tolerance: float) -> None:
    """State of every weight, relative to its largest entry."""
    places = [(layer, name) for layer in stack.layers for name in layer.storage]
    twins = dict(zip(map(id, stack.layers), fused.layers, strict=True))
    checked = 0
    for (layer, name), want in zip(places, adam._state, strict=True):
        twin = twins[id(layer)]
        if name not in twin._states:
            assert not want.storage.any(), "only a layer that never ran has no state"
            continue
        got = twin.state(name)
        for part, right in (
            (got.delta, want.storage), (got.first, want.first), (got.second, want.second)
        ):  # fmt: skip
            error = (part[slot].double() - right[0].double()).abs().max()
            scale = right.double().abs().max().clamp(min=1e-30)
            assert error <= tolerance * scale, (type(twin).__name__, name, float(error / scale))
        checked += 1
    assert checked == 15


def test_a_new_person_needs_no_clearing():
    """NaN in everything that a slot left behind changes nothing for the next person."""
    network, config = make_everything(), EftConfig(lr=1e-2)
    img = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def fit(spoil: bool) -> list[Tensor]:
        fused = AdamInBackwardNetwork(
            network, list(network.parameters()), make_optimiser(2, config)
        )
        clock = fused.optimiser.clock
        run, seen = make_run(img, loss_of)
        fused.step(run)
        states = [layer.state(name) for layer in fused.layers for name in layer._states]
        for state in states if spoil else []:
            for part in (state.delta, state.first, state.second):
                part[1] = torch.nan
        clock.time.copy_(torch.tensor([1, 0]))
        fused.step(run)
        clock.time.add_(1)
        fused.step(run)
        return seen

    clean, spoiled = fit(spoil=False), fit(spoil=True)
    assert all(torch.equal(a, b) for a, b in zip(clean, spoiled, strict=True))
    assert torch.equal(clean[1][1], clean[0][1])
    assert not torch.equal(clean[2][1], clean[0][1])


def test_the_network_is_left_alone():
    network, config = make_everything(), EftConfig(lr=1e-2)
    before = [p.detach().clone() for p in network.parameters()]
    fused = AdamInBackwardNetwork(network, list(network.parameters()), make_optimiser(1, config))
    fused.step(make_run(torch.randn(1, 3, 16, 16, dtype=torch.float64), loss_of)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in network.parameters())


def test_a_layer_without_a_batched_form_is_refused():
    network = nn.Sequential(nn.Conv1d(3, 4, 1))
    with pytest.raises(ValueError, match="Conv1d has no batched form"):
        AdamInBackwardNetwork(network, list(network.parameters()), make_optimiser(1, EftConfig()))


@pytest.mark.parametrize("mode", ["full", "layer4", "head", "feature", "lora"])
def test_fused_toy_follows_the_stacked_one(mode):
    """The regressor of the other tests with its real loss, three steps."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    config = EftConfig(lr=toy.LR)
    network, tuned = make_network(net, mode, config)
    inputs, weights = network.prepare(img), config.loss
    stack = StackedRegressor(network, tuned, 3)
    adam = StackedAdam([storage for storage, _ in stack.deltas()], config, mode)
    fused = AdamInBackwardNetwork(network, tuned, make_optimiser(3, config))
    loss = partial(loss_of_output, body, target, weights)
    for _ in range(4):
        run, seen = make_run(inputs, loss)
        fused.step(run)
        fused.optimiser.clock.time.add_(1)
        stack.narrow(3)
        output = stack.network(inputs)
        loss(output).sum().backward()
        adam.step([leaf.grad for _, leaf in stack.deltas()])
        for got, want in zip(seen[0], output, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


def loss_of_output(body, target, weights, output) -> Tensor:
    return output_loss(body, output, target, weights)[0]


class SmallHmr(nn.Module):
    """Bottlenecks with and without a shortcut of their own, and frozen batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Bottleneck(8, 4, 1, stride_in_1x1=False),
            Bottleneck(16, 4, 2, stride_in_1x1=False),
            Bottleneck(16, 4, 2, stride_in_1x1=True),
            Bottleneck(16, 4, 1, stride_in_1x1=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).mean((2, 3))


class SmallBlazePose(nn.Module):
    """Inverted residuals and head blocks with every stride."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            InvertedResidual(8, 6, 3, 2, 4, skip=False),
            InvertedResidual(6, 6, 5, 1, 2, skip=True),
            InvertedResidual(6, 6, 3, 2, 2, skip=False, pad_before=False),
            HeadBlock(6, stride=2),
            HeadBlock(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).mean((2, 3))


@pytest.mark.parametrize("kind", [SmallHmr, SmallBlazePose])
def test_epilogue_blocks_equal_their_layers(kind):
    """Outputs and every weight after three steps; batch norm away from 1 and 0."""
    torch.manual_seed(3)
    network = kind().double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    tuned = [m for c in network.modules() if isinstance(c, nn.Conv2d) for m in c.parameters()]
    img, config = 3 * torch.randn(2, 8, 13, 12, dtype=torch.float64), EftConfig(lr=1e-2)
    pair = [AdamInBackwardNetwork(network, tuned, make_optimiser(2, config)) for _ in range(2)]
    move_into_epilogues(pair[1].network)
    kinds = {type(module).__name__ for module in pair[1].network.modules()}
    assert not kinds & {"Bottleneck", "InvertedResidual", "HeadBlock", "BatchNorm2d"}
    for _ in range(3):
        outs = []
        for fused in pair:
            run, seen = make_run(img, loss_of)
            fused.step(run)
            fused.optimiser.clock.time.add_(1)
            outs += seen
        torch.testing.assert_close(outs[0], outs[1], rtol=1e-9, atol=1e-11)
    for left, right in zip(pair[0].layers, pair[1].layers, strict=True):
        for name in left.tuned:
            a, b = left.state(name), right.state(name)
            torch.testing.assert_close(a.first, b.first, rtol=1e-6, atol=1e-11)
            assert a.first.abs().max() > 1e-9


def test_frozen_blocks_are_left_as_they_are():
    network = SmallHmr().eval()
    tuned = list(network.blocks[3].conv3.parameters())
    fused = AdamInBackwardNetwork(network, tuned, make_optimiser(1, EftConfig()))
    move_into_epilogues(fused.network)
    assert {type(block) for block in fused.network.blocks} == {Bottleneck}
