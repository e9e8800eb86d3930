"""bfloat16 by name: what is stored or computed in it, and how far the fits move."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import RoundedLayer, make_network
from eft_fast.pipeline.dispatch import make_slot_fitter
from tests.eft import toy
from tests.eft.crops import fit_crops
from tests.eft.test_slots import fit_in_slots, make_config

CONFIG = make_config(max_steps=10)


@pytest.fixture(scope="module")
def exact():
    """Fits of the loop in float64, and the float32 inputs of all tests here."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    return fit_crops(net, body, img, target, config=CONFIG), img.float(), target.float()


def worst(fits, exact):
    rows = torch.cat([fit.final.pred_rotmat for fit in fits]).double()
    return float((rows - exact.final.params.full_pose).abs().max())


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "slotwise"])
def test_float32_slots_are_exact(exact, batched):
    fits, img, target = exact
    net, body = toy.make_regressor(), toy.ToyBody()
    got = fit_in_slots(net, body, img, target, config=CONFIG, slots=3, batched=batched)
    assert worst(got, fits) < 1e-4


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "slotwise"])
def test_state_in_bfloat16_is_close(exact, batched):
    """Differences and moments lose little in 8 bits; whole weights would lose every update."""
    fits, img, target = exact
    net, body = toy.make_regressor(), toy.ToyBody()
    config = replace(CONFIG, state="bf16")
    got = fit_in_slots(net, body, img, target, config=config, slots=3, batched=batched)
    moved = float((fits.final.params.full_pose - fits.init.params.full_pose).abs().max())
    error = worst(got, fits)
    assert 1e-5 < error < 0.05 * moved, "bfloat16 was not used, or is too coarse"


def test_state_is_stored_in_bfloat16():
    net, body = toy.make_regressor(), toy.ToyBody()
    config = EftConfig(state="bf16")
    for batched in (True, False):
        fitter = SlotFitter(net, body, config=config, mode="head", slots=2, batched=batched)
        for state in fitter.adam._state:
            kinds = {state.storage.dtype, state.first.dtype, state.second.dtype}
            assert kinds == {torch.bfloat16}
    assert isinstance(make_slot_fitter(net, body, config=config, mode="full", slots=1), SlotFitter)


@pytest.mark.parametrize("mode", ["full", "head", "lora"])
def test_products_in_bfloat16_are_close(mode):
    """The loop and the slots round the same operands, and stay near the float32 fit."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(2)
    config = make_config(mode, max_steps=6)
    exact = fit_crops(net, body, img, target, config=config, mode=mode)
    rounded = replace(config, precision="bf16")
    loop = fit_crops(net, body, img, target, config=rounded, mode=mode)
    moved = (exact.final.params.full_pose - exact.init.params.full_pose).abs().max()
    for batched in (True, False):
        slots = fit_in_slots(
            net, body, img, target, config=rounded, mode=mode, slots=2, batched=batched
        )
        rows = torch.cat([fit.final.pred_rotmat for fit in slots])
        assert (rows - loop.final.params.full_pose).abs().max() < 0.3 * moved
    error = (loop.final.params.full_pose - exact.final.params.full_pose).abs().max()
    assert 1e-5 < error < 0.3 * moved
    assert loop.final.params.full_pose.dtype == torch.float32


def test_only_products_are_rounded():
    """Every convolution and linear layer, nothing else; the regressor itself is not touched."""
    net = toy.make_regressor()
    network, tuned = make_network(net, "full", EftConfig(precision="bf16"))
    kinds = {type(module.layer) for module in network.modules() if isinstance(module, RoundedLayer)}
    assert kinds == {torch.nn.Conv2d, torch.nn.Linear}
    assert not any(isinstance(module, RoundedLayer) for module in net.modules())
    assert [each.dtype for each in tuned] == [torch.float32] * len(tuned)
    own = {parameter.data_ptr() for parameter in net.parameters()}
    assert {each.data_ptr() for each in tuned} <= own


@pytest.mark.parametrize(
    ("values", "known"),
    [({"precision": "fp16"}, "fp32, 3xtf32, tf32, bf16"), ({"state": "tf32"}, "fp32, bf16")],
)
def test_other_types_are_refused(values, known):
    with pytest.raises(ValueError, match=f"must be one of {known}, got"):
        EftConfig(**values)
