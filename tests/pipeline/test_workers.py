"""Worker processes fit as the loop does, in any order, and interruptions lose nothing."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.pipeline import workers
from eft_fast.pipeline.dispatch import make_fitter, make_slot_fitter
from eft_fast.pipeline.prepare import Prepared
from tests.eft import toy

CONFIG = EftConfig(lr=toy.LR, max_steps=4, threshold=0.0)


def jobs(img, target):
    return (Prepared(i, img[i], target[i]) for i in range(len(img)))


def test_two_workers_equal_the_loop():
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loop = dict(LoopFitter(net, body, config=CONFIG).fit(jobs(img, target)))
    finally:
        torch.set_num_threads(threads)
    fitter = make_fitter(net, body, method="eft", mode="full", config=CONFIG, workers=2)
    fits = dict(fitter.fit(jobs(img, target)))
    assert sorted(fits) == [0, 1, 2, 3, 4]
    for index, fit in fits.items():
        assert torch.equal(fit.final.pred_rotmat, loop[index].final.pred_rotmat)
        assert torch.equal(fit.loss, loop[index].loss)


@pytest.mark.parametrize(("mode", "options"), [("lora", {}), ("head", {"state": "bf16"})])
def test_workers_in_other_modes(mode, options):
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(3)
    config = replace(CONFIG, **options)
    loop = dict(
        make_slot_fitter(net, body, config=config, mode=mode, slots=1).fit(jobs(img, target))
    )
    fitter = make_fitter(net, body, method="eft", mode=mode, config=config, workers=2)
    fits = dict(fitter.fit(jobs(img, target)))
    for index, fit in fits.items():
        assert torch.equal(fit.final.pred_rotmat, loop[index].final.pred_rotmat)


def test_a_private_copy_shares_what_it_does_not_tune():
    """Head mode copies the head; every other tensor is the regressor's own memory."""
    net, body = toy.make_regressor(), toy.ToyBody()
    fitter = LoopFitter(net, body, config=CONFIG, mode="head")
    own = {parameter.data_ptr() for parameter in net.parameters()}
    head = {parameter.data_ptr() for parameter in net.head_parameters()}
    copied = [p for p in fitter._network.parameters() if p.data_ptr() not in own]
    assert len(copied) == len(head)
    assert {start.data_ptr() for start in fitter._start} == head


def end_worker(job):
    os._exit(1)


def test_a_dead_worker_is_named(monkeypatch):
    """A worker that is ended from outside, for want of memory for example."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(2)
    monkeypatch.setattr(workers, "_fit_one", end_worker)
    fitter = make_fitter(net, body, method="eft", mode="head", config=CONFIG, workers=2)
    with pytest.raises(RuntimeError, match="one of 2 workers was ended from outside"):
        list(fitter.fit(jobs(img, target)))


def test_choice_of_fitter():
    net, body = toy.make_regressor(), toy.ToyBody()

    def make(**options):
        return make_fitter(net, body, method="eft", mode="full", config=CONFIG, **options)

    assert isinstance(make(), LoopFitter)
    assert isinstance(make(slots=3), SlotFitter)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        make(workers=0)
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        make(slots=0)
    with pytest.raises(ValueError, match="workers and slots exclude each other"):
        make(workers=2, slots=2)
