"""How many people fit on a GPU: counted on the network, bounded by what is free."""

from __future__ import annotations

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


def test_slots_follow_the_free_memory(monkeypatch):
    net, body = toy.make_regressor(), toy.ToyBody()
    needed = per_slot()
    for free, want in ((0, 1), (10 * needed, 8), (1 << 60, memory.MOST_SLOTS)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert memory.slots_that_fit(net, body, mode="full", config=CONFIG) == want
