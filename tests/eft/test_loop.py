"""The sequential loop against the released semantics, written out independently in toy.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from eft_fast.eft.config import EFT_MODES, EftConfig
from eft_fast.eft.loss import EftLoss, EftTarget
from eft_fast.eft.modes import tuned_parameters
from eft_fast.losses.weights import EftLossWeights
from eft_fast.models.base import RegressorOutput
from eft_fast.pipeline.predict import RegressorFitter
from tests.eft import toy
from tests.eft.crops import collect, fit_crops, prepare

CONFIG = EftConfig.released(lr=toy.LR, max_steps=toy.STEPS, threshold=0.0)


@pytest.mark.parametrize("mode", ["full", "layer3", "layer4", "head", "feature"])
def test_loop_equals_reference(mode):
    """Float64: parameters, camera, loss and step count of the released loop."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(2, torch.float64)
    lr = toy.RATES.get(mode, toy.LR)
    fits = fit_crops(net, body, img, target, config=replace(CONFIG, lr=lr), mode=mode)
    for person in range(2):
        row = slice(person, person + 1)
        want = toy.reference_fit(net, body, img[row], target[row], lr=lr, mode=mode)
        assert torch.equal(fits.steps[person], torch.tensor(want.steps))
        full_pose = fits.final.params.full_pose[person]
        torch.testing.assert_close(full_pose, want.output.pred_rotmat[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(
            fits.final.betas[person], want.output.pred_betas[0], rtol=0, atol=1e-10
        )
        torch.testing.assert_close(
            fits.final.pred_cam[person], want.output.pred_cam[0], rtol=0, atol=1e-10
        )
        torch.testing.assert_close(fits.loss[person], want.loss, rtol=0, atol=1e-9)
    moved = (fits.final.params.full_pose - fits.init.params.full_pose).abs().max()
    assert moved > 0.05, "the fit must move enough for errors to show"


def test_stop_counts_equal_reference():
    """A threshold that people reach at different steps: equal counts, equal answers."""
    net, body = toy.make_regressor(torch.float64), toy.ToyBody(torch.float64)
    img, target = toy.make_people(4, torch.float64)
    probe = [toy.reference_fit(net, body, img[i : i + 1], target[i : i + 1], steps=9)
             for i in range(4)]  # fmt: skip
    terms = [float((fit.loss / 60).detach()) for fit in probe]
    threshold = sorted(terms)[1] / 5
    config = EftConfig.released(lr=toy.LR, max_steps=toy.STEPS, threshold=threshold)
    fits = fit_crops(net, body, img, target, config=config)
    want = [
        toy.reference_fit(net, body, img[i : i + 1], target[i : i + 1], threshold=threshold)
        for i in range(4)
    ]
    assert fits.steps.tolist() == [fit.steps for fit in want]
    assert fits.stop_reason == tuple("converged" if fit.converged else "max_steps" for fit in want)
    assert len(set(fits.steps.tolist())) > 1, "the threshold must separate people"
    for person, fit in enumerate(want):
        torch.testing.assert_close(
            fits.final.params.full_pose[person], fit.output.pred_rotmat[0], rtol=0, atol=1e-10
        )


def test_one_step_returns_the_regressor():
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(2)
    fits = fit_crops(net, body, img, target, config=EftConfig(lr=toy.LR, max_steps=1))
    plain = collect(fit for _, fit in RegressorFitter(net, body).fit(prepare(img, target)))
    assert torch.equal(fits.final.params.full_pose, plain.final.params.full_pose)
    assert torch.equal(fits.final.pred_cam, fits.init.pred_cam)
    assert fits.steps.tolist() == [0, 0]


def test_regressor_is_left_alone():
    net, body = toy.make_regressor(), toy.ToyBody()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [parameter.requires_grad for parameter in net.parameters()]
    img, target = toy.make_people(1)
    first = fit_crops(net, body, img, target, config=CONFIG)
    second = fit_crops(net, body, img, target, config=CONFIG)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(first.final.params.full_pose, second.final.params.full_pose)


def test_neighbours_do_not_matter():
    """A person alone, in company, in another order, beside NaN and beside nothing: equal bits."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(3)
    config = EftConfig(lr=toy.LR, max_steps=4, threshold=0.0)
    alone = fit_crops(net, body, img[:1], target[:1], config=config)
    order = [2, 0, 1]
    mixed_img, mixed_target = img[order].clone(), target[order].clone()
    mixed_img[0] = float("nan")
    mixed_target[2, :, 2] = 0
    mixed = fit_crops(net, body, mixed_img, mixed_target, config=config)
    assert torch.equal(mixed.final.params.full_pose[1], alone.final.params.full_pose[0])
    assert torch.equal(mixed.loss[1], alone.loss[0])
    assert mixed.stop_reason == ("nan", "max_steps", "no_keypoints")
    assert torch.equal(mixed.final.pred_cam[2], mixed.init.pred_cam[2])
    assert mixed.steps.tolist() == [0, 3, 0]


def test_explosion_keeps_the_last_finite_answer():
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(1)
    fits = fit_crops(net, body, img, target, config=EftConfig(lr=1e30, threshold=0.0))
    assert fits.stop_reason == ("nan",)
    assert torch.isfinite(fits.final.params.full_pose).all()
    assert torch.equal(fits.final.params.full_pose, fits.init.params.full_pose)


def test_zero_length_shin_is_finite():
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(1)
    target[0, 25 + 5] = target[0, 25 + 4]
    target[0, 25:, 2] = 1
    fits = fit_crops(net, body, img, target, config=CONFIG)
    assert fits.stop_reason == ("max_steps",)
    assert torch.isfinite(fits.loss).all()


def test_batch_norm_is_never_tuned():
    net = toy.make_regressor()
    frozen = {
        id(parameter)
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    }
    for mode in EFT_MODES:
        assert not frozen & {id(parameter) for parameter in tuned_parameters(net, mode)}
    counts = [len(tuned_parameters(net, mode)) for mode in ("full", "layer3", "layer4", "head")]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 10


def test_old_names_of_the_weights():
    """They are taken, can be read, and give way to nothing silently."""
    old = EftConfig(keypoint_weight=2.0, with_hips=True, lr=1e-3)
    weights = EftLossWeights(keypoint=2.0, with_hips=True, with_ankles=True)
    assert old == EftConfig(loss=weights, lr=1e-3)
    assert (old.keypoint_weight, old.with_hips, old.leg_weight) == (2.0, True, 0.005)
    assert replace(old, beta_weight=1.0).loss == replace(weights, beta=1.0)
    assert not EftConfig(keypoint_weight=2.0, strict_reference=True).with_hips
    with pytest.raises(TypeError, match="keypoint_wieght"):
        EftConfig(keypoint_wieght=1.0)


@pytest.mark.parametrize("values", [{"max_steps": 0}, {"lr": -1.0}, {"threshold": float("nan")}])
def test_config_refuses_nonsense(values):
    with pytest.raises(ValueError, match="EftConfig"):
        EftConfig(**values)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.05])
def test_the_stop_test_does_not_depend_on_the_scale_of_confidences(scale):
    """Scores of .05 used to pass it at the start; in strict mode they still do, as released."""
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(3)
    target[..., 2] = (target[..., 2] > 0.3).to(target)
    low = target * target.new_tensor([1, 1, scale])
    start = RegressorOutput(*(part.detach() for part in net(img)))
    errors = {}
    for strict in (False, True):
        loss = EftLoss(net, body, EftConfig.released(strict_reference=strict))
        errors[strict] = [loss(start, EftTarget(each), start)[1] for each in (target, low)]
    torch.testing.assert_close(errors[False][1], errors[False][0])
    torch.testing.assert_close(errors[True][1], scale * errors[True][0])
    assert torch.equal(errors[False][0], errors[True][0]), "labels of 0 and 1 are as released"
    threshold = 0.5 * float(errors[False][0].min())
    fits = fit_crops(net, body, img, low, config=replace(CONFIG, threshold=threshold, max_steps=1))
    alone = [RegressorFitter(net, body, threshold=threshold).fit_person(person)
             for person in prepare(img, low)]  # fmt: skip
    assert fits.stop_reason == ("max_steps",) * 3 == tuple(fit.stop_reason for fit in alone)
