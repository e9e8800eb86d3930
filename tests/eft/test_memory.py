"""How many people fit on a GPU: counted on the network, bounded by what is free."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from eft_fast.eft.batched import memory
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import tuned_parameters
from tests.eft import toy

CONFIG = EftConfig()


def per_slot(mode="full", config=CONFIG):
    return memory.bytes_per_slot(toy.make_regressor(), toy.ToyBody(), mode=mode, config=config)


def test_a_slot_holds_state_and_activations():
    """Weights, gradient, difference and moments, and about as much as backward keeps."""
    net = toy.make_regressor()
    numbers = sum(parameter.numel() for parameter in tuned_parameters(net, "full"))
    assert per_slot() > 20 * numbers
    # The largest map, 8 x 32 x 32, is kept by several layers.
    assert 4 * 8 * 32 * 32 < per_slot() - 20 * numbers < 100 * 4 * 8 * 32 * 32
    assert per_slot("head") < per_slot("layer4") < per_slot("layer3") < per_slot()
    assert per_slot() - per_slot(config=replace(CONFIG, state="bf16")) == 6 * numbers


class Gpu:
    """A GPU whose allocator keeps what earlier work has left."""

    def __init__(self, monkeypatch, free: int, kept: int = 0) -> None:
        self.free, self.kept = free, kept
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "empty_cache", self.give_back)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (self.free, 1 << 60))

    def give_back(self) -> None:
        self.free, self.kept = self.free + self.kept, 0


def test_slots_follow_the_free_memory(monkeypatch):
    net, body = toy.make_regressor(), toy.ToyBody()
    needed = per_slot()
    for free, want in ((0, 1), (10 * needed, 8), (1 << 60, memory.MOST_SLOTS)):
        Gpu(monkeypatch, free)
        assert memory.slots_that_fit(net, body, mode="full", config=CONFIG) == want


def test_what_the_last_fit_left_is_free(monkeypatch):
    Gpu(monkeypatch, 0, kept=10 * per_slot())
    net, body = toy.make_regressor(), toy.ToyBody()
    assert memory.slots_that_fit(net, body, mode="full", config=CONFIG) == 8
