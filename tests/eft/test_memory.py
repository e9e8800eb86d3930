"""How many people fit into memory: counted on the network, bounded by what is free."""

from __future__ import annotations

from dataclasses import replace

import pytest
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
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.slots_that_fit(net, body, mode="full", config=CONFIG) == want


def test_free_memory_of_this_machine():
    free = memory.free_bytes(torch.device("cpu"))
    assert 1 << 20 < free < 1 << 50


@pytest.mark.parametrize(("limit", "want"), [("500000", 400_000), ("max", None), (None, None)])
def test_a_control_group_bounds_the_memory(tmp_path, monkeypatch, limit, want):
    files = (tmp_path / "max", tmp_path / "current")
    if limit is not None:
        files[0].write_text(limit + "\n")
        files[1].write_text("100000\n")
    monkeypatch.setattr(memory, "_GROUP_FILES", ((str(files[0]), str(files[1])),))
    machine = memory._machine_bytes()
    free = memory.free_bytes(torch.device("cpu"))
    assert free == want if want is not None else free > 0.5 * machine
