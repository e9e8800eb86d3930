"""Worker processes fit as the loop does, in any order, and interruptions lose nothing."""

from __future__ import annotations

import pytest
import torch

from eft_fast.fitting.config import EftConfig
from eft_fast.fitting.eft import LoopFitter
from eft_fast.fitting.engine import make_fitter
from eft_fast.fitting.person import CropJob
from eft_fast.fitting.slots import SlotFitter
from tests.fitting import toy

CONFIG = EftConfig(lr=toy.LR, max_steps=4, threshold=0.0)


def jobs(img, target):
    return (CropJob(i, img[i], target[i]) for i in range(len(img)))


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
