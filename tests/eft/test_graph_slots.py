"""Steps without host syncs equal SlotFitter, however late the host reads; here without a graph."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch

from eft_fast.body import load_body
from eft_fast.eft.batched import graph_slots
from eft_fast.eft.batched.cuda_graph import GraphSteps
from eft_fast.eft.batched.graph_slots import GraphSlotFitter
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EftConfig
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline import dispatch as engine
from eft_fast.pipeline.prepare import Prepared
from tests.eft import toy

MODES = ("full", "layer4", "head", "feature", "lora")


def fit(fitter, img, target):
    fits = dict(fitter.fit(Prepared(i, img[i], target[i]) for i in range(len(img))))
    assert sorted(fits) == list(range(len(img)))
    return [fits[i] for i in range(len(img))]


def assert_same(got, want, *, atol):
    for a, b in zip(got, want, strict=True):
        assert (a.stop_reason, a.steps) == (b.stop_reason, b.steps)
        for left, right in zip((*a.final, *a.init), (*b.final, *b.init), strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=atol, equal_nan=True)
        for left, right in ((a.loss, b.loss), (a.init_loss, b.init_loss)):
            torch.testing.assert_close(left, right, rtol=0, atol=60 * atol, equal_nan=True)


def make_case(people: int, threshold: float = 0.0, steps: int = 6):
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(people, torch.float64)
    return net, body, img, target, EftConfig(lr=toy.LR, max_steps=steps, threshold=threshold)


@lru_cache(maxsize=4)
def separated(mode: str):
    """Seven people who stop at different steps, and what SlotFitter makes of them."""
    rest = {"mode": mode, "slots": 1}
    net, body, img, target, config = make_case(7, steps=5)
    fits = fit(SlotFitter(net, body, config=config, **rest), img, target)
    threshold = float(torch.cat([each.loss for each in fits]).median() / 300)
    net, body, img, target, config = make_case(7, threshold, steps=9)
    want = fit(SlotFitter(net, body, config=config, **rest), img, target)
    assert len({each.steps for each in want}) > 2, "the threshold must separate people"
    return net, body, img, target, config, want


@pytest.mark.parametrize("mode", MODES)
def test_equals_slot_fitter(mode):
    net, body, img, target, config = make_case(3)
    rest = {"config": config, "mode": mode, "slots": 3}
    want = fit(SlotFitter(net, body, **rest), img, target)
    got = fit(GraphSlotFitter(net, body, **rest), img, target)
    assert_same(got, want, atol=1e-10)
    assert {each.steps for each in got} == {5}


@pytest.mark.parametrize(
    ("mode", "slots", "lag"),
    [("head", slots, lag) for slots in (1, 3, 9) for lag in (0, 1, 3)] + [("full", 3, 1)],
)
def test_lag_slots_and_refills_change_nothing(mode, slots, lag):
    """Early stops at different steps; slots are refilled, and the last people move together."""
    net, body, img, target, config, want = separated(mode)
    fitter = GraphSlotFitter(net, body, config=config, mode=mode, slots=slots, lag=lag)
    assert_same(fit(fitter, img, target), want, atol=1e-10)
    assert_same(fit(fitter, img[:2], target[:2]), want[:2], atol=1e-10)


def test_the_last_people_move_together(monkeypatch):
    """With a bucket of every size, each finished person makes the next step smaller."""
    monkeypatch.setattr(graph_slots, "BUCKETS", tuple(range(1, 8)))
    net, body, img, target, config, want = separated("full")
    fitter = GraphSlotFitter(net, body, config=config, mode="full", slots=7, lag=1)
    widths = []
    run = fitter._steps.run
    fitter._steps.run = lambda step, width: (widths.append(width), run(step, width))
    assert_same(fit(fitter, img, target), want, atol=1e-10)
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) > 2


def test_a_bad_person_leaves_the_others_bits_alone():
    net, body, img, target, config = make_case(3)

    def run(images, keypoints):
        fitter = GraphSlotFitter(net, body, config=config, mode="full", slots=3)
        return fit(fitter, images, keypoints)

    clean = run(img, target)
    bad_img, bad_target = img.clone(), target.clone()
    bad_img[1], bad_target[1, :, 2] = torch.nan, 0
    dirty, unlabelled = run(bad_img, target), run(img, bad_target)
    assert dirty[1].stop_reason == "nan"
    assert unlabelled[1].stop_reason == "no_keypoints"
    assert torch.equal(unlabelled[1].final.pred_rotmat, clean[1].init.pred_rotmat)
    for person in (0, 2):
        for other in (dirty, unlabelled):
            assert torch.equal(other[person].final.pred_rotmat, clean[person].final.pred_rotmat)
            assert other[person].steps == 5


def test_numbers_that_stop_being_finite_keep_the_last_answer():
    """A learning rate that throws the weights to infinity after the first answer."""
    net, body, img, target, _ = make_case(2)
    config = EftConfig(lr=1e200, max_steps=6, threshold=0.0)
    rest = {"config": config, "mode": "full", "slots": 2}
    want = fit(SlotFitter(net, body, **rest), img, target)
    got = fit(GraphSlotFitter(net, body, **rest), img, target)
    assert [each.stop_reason for each in got] == ["nan", "nan"]
    assert_same(got, want, atol=1e-10)
    assert got[0].final.pred_rotmat.isfinite().all()


@pytest.mark.parametrize("mode", ["full", "head"])
def test_the_open_network_and_the_fused_loss(mode):
    """Depthwise layers, LayerNorm, and a body whose loss is one operator."""
    net, body = OpenRegressor.make_tiny().double(), load_body("open").double()
    generator = torch.Generator().manual_seed(2)
    img = torch.randn(2, 3, 256, 256, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 49, 3, generator=generator, dtype=torch.float64) * 0.5
    target[..., 2] = (target[..., 2] > 0).double()
    target[:, ::7, :2] = torch.nan
    target[:, ::7, 2] = 0
    config = EftConfig(lr=1e-3, max_steps=4, threshold=0.0)
    rest = {"config": config, "mode": mode, "slots": 2}
    want = fit(SlotFitter(net, body, **rest), img, target)
    got = fit(GraphSlotFitter(net, body, **rest), img, target)
    assert_same(got, want, atol=1e-9)
    assert (got[0].final.pred_rotmat - got[0].init.pred_rotmat).abs().max() > 1e-3


def test_state_in_bfloat16_follows_slot_fitter():
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(2)
    config = EftConfig(lr=toy.LR, max_steps=6, threshold=0.0, state="bf16")
    rest = {"config": config, "mode": "full", "slots": 2}
    want = fit(SlotFitter(net, body, **rest, batched=True), img, target)
    got = fit(GraphSlotFitter(net, body, **rest), img, target)
    assert_same(got, want, atol=2e-3)


def test_an_interrupted_run_leaves_nothing_behind():
    net, body, img, target, config, want = separated("head")
    fitter = GraphSlotFitter(net, body, config=config, mode="head", slots=3)
    run = fitter.fit(Prepared(90 + i, img[i], target[i]) for i in range(7))
    next(run)
    run.close()
    assert_same(fit(fitter, img[3:], target[3:]), want[3:], atol=1e-10)


def test_nobody():
    net, body, *_ = make_case(1)
    fitter = GraphSlotFitter(net, body, config=EftConfig(), mode="full", slots=2)
    assert list(fitter.fit(iter(()))) == []


@pytest.mark.parametrize(("slots", "lag"), [(0, 1), (2, -1)])
def test_senseless_numbers_are_refused(slots, lag):
    net, body, *_ = make_case(1)
    with pytest.raises(ValueError, match="slots must be at least 1 and lag not negative"):
        GraphSlotFitter(net, body, config=EftConfig(), mode="full", slots=slots, lag=lag)


def test_the_engine_takes_the_kernels_where_they_run(monkeypatch):
    net, body, *_ = make_case(1)
    options = {"method": "eft", "mode": "full", "config": EftConfig()}
    assert not isinstance(engine.make_fitter(net, body, slots=2, **options), GraphSlotFitter)
    monkeypatch.setattr(engine, "can_run_on_kernels", lambda *_: True)
    assert isinstance(engine.make_fitter(net, body, slots=2, **options), GraphSlotFitter)


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
@pytest.mark.parametrize("workers", [1, 2])
def test_arithmetic_of_the_kernels_is_refused_without_them(precision, workers):
    net, body, *_ = make_case(1)
    config = EftConfig(precision=precision)
    with pytest.raises(ValueError, match="is that of the CUDA kernels, which do not"):
        engine.make_fitter(net, body, method="eft", mode="full", config=config, workers=workers)


def test_a_fitter_and_its_memory_go_with_the_last_reference():
    """No cycle keeps the state (gigabytes on a GPU) until Python looks for one."""
    net, body, img, target, config = make_case(2)
    fitter = GraphSlotFitter(net, body, config=config, mode="full", slots=2)
    assert len(fit(fitter, img, target)) == 2
    state = next(layer.state("weight") for layer in fitter._network.layers)
    held = [weakref.ref(each) for each in (fitter, fitter._network, state.delta.untyped_storage())]
    gc.collect()
    gc.disable()
    try:
        del fitter, state
        assert [each() for each in held] == [None] * 3
    finally:
        gc.enable()


class FakeGraph:
    """Counts replays, as a CUDA graph that is captured nowhere."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1

    def pool(self) -> int:
        return 7


def test_a_graph_is_captured_once_per_width_and_keeps_no_step(monkeypatch):
    """With stubs in the place of torch.cuda: no GPU is needed to see who holds whom."""
    graphs, options = [], []

    @contextmanager
    def capture(graph, **given):
        graphs.append(graph)
        options.append(given)
        yield

    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_: SimpleNamespace(wait_stream=id))
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda *_: SimpleNamespace(wait_stream=lambda _: None)
    )
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    active = torch.tensor([True, False, True])

    class Owner:
        def __init__(self):
            self.steps, self.seen = GraphSteps(active), []

        def step(self, width):
            self.seen.append((width, active.any().item()))

    owner = Owner()
    for width in (3, 3, 2, 3):
        owner.steps.run(owner.step, width)
    # Two warm-ups and the capture of each width, with nobody taking part; then replays alone.
    assert owner.seen == [(3, False)] * 3 + [(2, False)] * 3
    assert [each.replays for each in graphs] == [3, 1]
    assert [each["capture_error_mode"] for each in options] == ["thread_local"] * 2
    assert [each["pool"] for each in options] == [None, 7]
    assert active.tolist() == [True, False, True]
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()
