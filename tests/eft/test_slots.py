"""Many people at once equal the one-by-one loop, whatever is tuned and whoever else is there.

``python -m tests.eft.mutants`` breaks the fitter in every way that this file must notice.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EftConfig
from tests.eft import toy
from tests.eft.crops import fit_crops, prepare

MODES = ("full", "layer3", "layer4", "head", "feature", "lora")
PEOPLE = 7


def make_config(mode="full", **options):
    options = {"lr": toy.RATES.get(mode, toy.LR), "max_steps": toy.STEPS, "threshold": 0} | options
    return EftConfig(**options)


def fit_in_slots(net, body, img, target, *, config, mode="full", slots=4, batched=True):
    options = {"config": config, "slots": slots, "batched": batched}
    fits = dict(SlotFitter(net, body, mode=mode, **options).fit(prepare(img, target)))
    return [fits[i] for i in range(len(img))]


def assert_same(batch, loop, *, atol):
    for person, fit in enumerate(batch):
        assert fit.stop_reason == loop.stop_reason[person]
        assert fit.steps == int(loop.steps[person])
        for got, want in (
            (fit.final.pred_rotmat[0], loop.final.params.full_pose[person]),
            (fit.final.pred_betas[0], loop.final.betas[person]),
            (fit.final.pred_cam[0], loop.final.pred_cam[person]),
            (fit.init.pred_rotmat[0], loop.init.params.full_pose[person]),
        ):
            torch.testing.assert_close(got, want, rtol=0, atol=atol, equal_nan=True)
        torch.testing.assert_close(fit.loss[0], loop.loss[person], rtol=0, atol=60 * atol)


def bits(fit):
    """Everything of a fit, in a form that == compares bit by bit, NaN included."""
    tensors = (*fit.final, *fit.init, fit.loss, fit.init_loss)
    return [fit.steps, fit.stop_reason, *(t.numpy().tobytes() for t in tensors)]


@lru_cache(maxsize=16)
def loop_in_float64(mode):
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(PEOPLE, torch.float64)
    return fit_crops(net, body, img, target, config=make_config(mode), mode=mode)


#: Calls of one person do not depend on how many there are: two sizes are enough for them.
SIZES = [(people, True) for people in (1, 2, 4, 7)] + [(people, False) for people in (1, 4)]


@pytest.mark.parametrize(("people", "batched"), SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_batch_equals_loop_in_float64(mode, people, batched):
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(people, torch.float64)
    loop = loop_in_float64(mode)
    batch = fit_in_slots(
        net, body, img, target, config=make_config(mode), mode=mode, slots=people, batched=batched
    )
    assert_same(batch, loop, atol=1e-10)
    moved = (loop.final.params.full_pose - loop.init.params.full_pose).abs().amax((1, 2, 3))
    assert moved.min() > 0.05, "every fit must move enough for errors to show"


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "slotwise"])
def test_batch_in_float32_is_as_good_as_the_loop(batched):
    """Both stay equally close to the float64 loop: the difference is rounding, not method."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = (each[:4].float() for each in toy.make_people(PEOPLE, torch.float64))
    want = loop_in_float64("full").final.params.full_pose[:4]
    loop = fit_crops(net, body, img, target, config=make_config())
    batch = fit_in_slots(net, body, img, target, config=make_config(), batched=batched)
    loop_error = (loop.final.params.full_pose.double() - want).abs().max().item()
    rows = torch.cat([fit.final.pred_rotmat for fit in batch]).double()
    batch_error = (rows - want).abs().max().item()
    assert batch_error <= min(4 * max(loop_error, 1e-5), 5e-4)


@lru_cache(maxsize=2)
def separating_threshold():
    """The median of the 2D terms at step 8."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(PEOPLE, torch.float64)
    fits = fit_crops(net, body, img, target, config=make_config(max_steps=8))
    return float((fits.loss / 300).median())


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "slotwise"])
@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_refilled_slots_equal_fresh_ones(slots, batched):
    """Early stops at different steps, fewer slots than people: same counts, same answers."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(PEOPLE, torch.float64)
    config = make_config(max_steps=12, threshold=separating_threshold())
    loop = fit_crops(net, body, img, target, config=config)
    assert len(set(loop.steps.tolist())) > 2, "the threshold must separate people"
    fits = fit_in_slots(net, body, img, target, config=config, slots=slots, batched=batched)
    assert_same(fits, loop, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_order_does_not_matter(mode):
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(5, torch.float64)
    config = make_config(mode, max_steps=6)
    order = [4, 2, 0, 3, 1]
    for batched, atol in ((True, 1e-12), (False, 0)):
        options = {"config": config, "mode": mode, "slots": 3, "batched": batched}
        straight = fit_in_slots(net, body, img, target, **options)
        mixed = fit_in_slots(net, body, img[order], target[order], **options)
        for place, person in enumerate(order):
            torch.testing.assert_close(
                mixed[place].final.pred_rotmat, straight[person].final.pred_rotmat,
                rtol=0, atol=atol,
            )  # fmt: skip


def spoil(img, target, person, how):
    """Copies in which one person cannot be fitted."""
    img, target = img.clone(), target.clone()
    if how == "nan_image":
        img[person] = float("nan")
    elif how == "nan_pixel":
        img[person, 1, 3, 4] = float("nan")
    elif how == "infinite_image":
        img[person] = float("inf")
    elif how == "nan_keypoint":
        target[person, 30] = torch.tensor([float("nan"), 0.1, 1.0])
    elif how == "unlabelled":
        target[person, :, 2] = 0
    elif how == "zero_shin":
        target[person, 25:, 2] = 1
        target[person, 25 + 5] = target[person, 25 + 4]
    return img, target


REASONS = {
    "nan_image": "nan",
    "nan_pixel": "nan",
    "infinite_image": "nan",
    "nan_keypoint": "nan",
    "unlabelled": "no_keypoints",
    "zero_shin": "max_steps",
}


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "slotwise"])
@pytest.mark.parametrize("how", REASONS)
@pytest.mark.parametrize("mode", ["full", "head", "feature", "lora"])
def test_a_bad_person_leaves_the_others_bits_alone(mode, how, batched):
    """More people than slots, so that the bad person's end changes who comes when."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(5)
    options = {"config": make_config(mode, max_steps=4), "mode": mode, "slots": 2}
    clean = fit_in_slots(net, body, img, target, **options, batched=batched)
    dirty = fit_in_slots(net, body, *spoil(img, target, 1, how), **options, batched=batched)
    reason = REASONS[how]
    assert dirty[1].stop_reason == reason
    if reason != "nan":
        assert all(torch.isfinite(value).all() for value in dirty[1].final)
    for person in (0, 2, 3, 4):
        assert bits(dirty[person]) == bits(clean[person])


@pytest.mark.parametrize("mode", ["full", "head", "feature", "lora"])
def test_nobody_else_is_in_the_bits(mode):
    """On the CPU: alone, in company, without one, in any order, early stops: the same bits."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(5)
    threshold = separating_threshold()
    options = {"config": make_config(mode, max_steps=6, threshold=threshold), "mode": mode}
    together = fit_in_slots(net, body, img, target, **options, slots=3, batched=False)
    for rows, slots in (([0], 1), ([1, 0], 3), ([4, 3, 0, 2], 2), ([2, 1, 0, 4, 3], 5)):
        fits = fit_in_slots(
            net, body, img[rows], target[rows], **options, slots=slots, batched=False
        )
        for fit, person in zip(fits, rows, strict=True):
            assert bits(fit) == bits(together[person])


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "slotwise"])
def test_regressor_is_left_alone(batched):
    net, body = toy.make_regressor(), toy.ToyBody()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    img, target = toy.make_people(2)
    for mode in MODES:
        options = {"config": make_config(mode, max_steps=3), "mode": mode, "batched": batched}
        first = fit_in_slots(net, body, img, target, **options)
        second = fit_in_slots(net, body, img, target, **options)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())
        assert [bits(fit) for fit in first] == [bits(fit) for fit in second]


def test_one_step_returns_the_regressor():
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(3, torch.float64)
    for mode in MODES:
        for fit, row in zip(
            fit_in_slots(net, body, img, target, config=make_config(mode, max_steps=1), mode=mode),
            net(img).pred_rotmat,
            strict=True,
        ):
            assert fit.steps == 0
            torch.testing.assert_close(fit.final.pred_rotmat[0], row, rtol=0, atol=1e-12)


def test_nobody():
    net, body = toy.make_regressor(), toy.ToyBody()
    empty = (torch.zeros(0, 3, 64, 64), torch.zeros(0, 49, 3))
    assert fit_in_slots(net, body, *empty, config=make_config(), slots=2) == []


def test_slots_must_be_positive():
    net, body = toy.make_regressor(), toy.ToyBody()
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        SlotFitter(net, body, config=EftConfig(), mode="full", slots=0)
