"""What only a GPU can show of the fit in slots: graphs, late reads, arithmetic, devices."""

from __future__ import annotations

import copy
import os
import warnings

import pytest
import torch

from eft_fast.body import load_body
from eft_fast.eft.batched import graph_slots
from eft_fast.eft.batched.graph_slots import GraphSlotFitter
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.prepare import Prepared
from tests.eft import toy

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        if os.environ.get("EFT_FAST_REQUIRE_CUDA") == "1":
            pytest.fail("EFT_FAST_REQUIRE_CUDA=1, but torch sees no GPU")
        pytest.skip("no GPU")


def fit(fitter, img, target):
    """Fits in order; a step that could not be captured fails the test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fit_batch")
        fits = dict(fitter.fit(Prepared(i, img[i], target[i]) for i in range(len(img))))
    return [fits[i] for i in range(len(img))]


def make_toy(dtype: torch.dtype, device: str = "cuda"):
    return toy.make_regressor(dtype).to(device), toy.ToyBody(dtype).to(device)


def rows(fits):
    return torch.cat([fit.final.pred_rotmat.cpu().double() for fit in fits])


@pytest.mark.parametrize("mode", ["full", "layer4", "head", "lora"])
def test_float64_equals_the_loop_on_the_cpu(mode):
    img, target = toy.make_people(5, torch.float64)
    config = EftConfig(lr=toy.LR, max_steps=8, threshold=0.0)
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    want = fit(LoopFitter(net, body, config=config, mode=mode), img, target)
    net, body = make_toy(torch.float64)
    got = fit(GraphSlotFitter(net, body, config=config, mode=mode, slots=3), img, target)
    torch.testing.assert_close(rows(got), rows(want), rtol=0, atol=1e-9)
    assert [each.steps for each in got] == [each.steps for each in want]


def test_lag_and_slots_change_no_bit():
    img, target = toy.make_people(9)
    config = EftConfig(lr=toy.LR, max_steps=8, threshold=2e-2)
    net, body = make_toy(torch.float32)
    options = {"config": config, "mode": "full"}
    first = fit(GraphSlotFitter(net, body, slots=9, lag=0, **options), img, target)
    for slots, lag in ((9, 1), (4, 1), (1, 3), (9, 0)):
        fitter = GraphSlotFitter(net, body, slots=slots, lag=lag, **options)
        for _ in range(2):
            again = fit(fitter, img, target)
            assert torch.equal(rows(again), rows(first))
            assert [(a.steps, a.stop_reason) for a in again] == [
                (b.steps, b.stop_reason) for b in first
            ]


def test_buckets_at_the_drain(monkeypatch):
    monkeypatch.setattr(graph_slots, "BUCKETS", (1, 2, 4))
    img, target = toy.make_people(7)
    config = EftConfig(lr=toy.LR, max_steps=8, threshold=2e-2)
    net, body = make_toy(torch.float32)
    options = {"config": config, "mode": "full"}
    got = fit(GraphSlotFitter(net, body, slots=7, **options), img, target)
    monkeypatch.setattr(graph_slots, "BUCKETS", ())
    assert torch.equal(
        rows(got), rows(fit(GraphSlotFitter(net, body, slots=7, **options), img, target))
    )


@pytest.mark.parametrize(
    ("precision", "state", "limit"),
    [
        ("fp32", "fp32", 5e-4),
        ("3xtf32", "fp32", 1e-3),
        ("tf32", "fp32", 0.1),
        ("fp32", "bf16", 0.1),
    ],
)
def test_arithmetic_stays_near_float64(precision, state, limit):
    img, target = toy.make_people(4, torch.float64)
    config = EftConfig(lr=toy.LR, max_steps=8, threshold=0.0)
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    want = fit(LoopFitter(net, body, config=config, mode="full"), img, target)
    net, body = make_toy(torch.float32)
    config = EftConfig(lr=toy.LR, max_steps=8, threshold=0.0, precision=precision, state=state)
    fitter = make_fitter(net, body, method="eft", mode="full", config=config, slots=4)
    assert isinstance(fitter, GraphSlotFitter)
    got = fit(fitter, img.float(), target.float())
    assert (rows(got) - rows(want)).abs().max() < limit


def test_a_bad_person_leaves_the_others_bits_alone():
    img, target = toy.make_people(3)
    config = EftConfig(lr=toy.LR, max_steps=6, threshold=0.0)
    net, body = make_toy(torch.float32)
    clean = fit(GraphSlotFitter(net, body, config=config, mode="full", slots=3), img, target)
    img[1] = torch.nan
    dirty = fit(GraphSlotFitter(net, body, config=config, mode="full", slots=3), img, target)
    assert dirty[1].stop_reason == "nan"
    for person in (0, 2):
        assert torch.equal(dirty[person].final.pred_rotmat, clean[person].final.pred_rotmat)


@pytest.mark.parametrize("mode", ["full", "head"])
@pytest.mark.parametrize("name", ["hmr", "open"])
def test_both_networks_are_captured_and_stay_near_the_cpu(name, mode):
    torch.manual_seed(0)
    net = Hmr(weights_camera="scale_shift") if name == "hmr" else OpenRegressor.make_tiny()
    net, body = net.eval(), load_body("open")
    img = torch.randn(2, 3, net.input_size, net.input_size)
    target = torch.cat([0.5 * torch.randn(2, 49, 2), torch.ones(2, 49, 1)], -1)
    config = EftConfig(max_steps=4, threshold=0.0)
    want = fit(LoopFitter(net, body, config=config, mode=mode), img, target)
    on_gpu = copy.deepcopy(net).cuda(), copy.deepcopy(body).cuda()
    fitter = make_fitter(*on_gpu, method="eft", mode=mode, config=config, slots=2)
    assert isinstance(fitter, GraphSlotFitter)
    got = fit(fitter, img, target)
    moved = torch.cat([each.final.pred_rotmat - each.init.pred_rotmat for each in want]).abs().max()
    assert (rows(got) - rows(want)).abs().max() < max(2e-4, 0.05 * float(moved))


def test_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU; this test needs two")
    img, target = toy.make_people(3)
    config = EftConfig(lr=toy.LR, max_steps=5, threshold=0.0)
    results = []
    for device in ("cuda:0", "cuda:1"):
        net, body = make_toy(torch.float32, device)
        fitter = GraphSlotFitter(net, body, config=config, mode="full", slots=3)
        results.append(rows(fit(fitter, img, target)))
    assert torch.equal(*results)
