"""SPIN in the loop: scores, the store of best fits, and a regressor that learns from its fits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import eft_fast
from eft_fast.geometry import axis_angle_to_matrix
from eft_fast.keypoints import spin49_flip
from eft_fast.models.base import RegressorOutput
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.smplify.config import SmplifyConfig, resolve_recipe
from eft_fast.smplify.fit import fit_smplify
from eft_fast.smplify.objective import kept_rows
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.smplify.spin import (
    BestFits,
    SpinConfig,
    SpinTrainer,
    believable,
    fit_score,
    place_fit,
)

FIT = SmplifyConfig(max_steps=15)


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


def make_truth(body, count: int = 6) -> tuple[RegressorOutput, Tensor]:
    generator = torch.Generator().manual_seed(9)
    pose = load_pose_prior().mixture.mean_pose().float()
    pose = pose + 0.2 * torch.randn(count, 69, generator=generator)
    orient = torch.zeros(count, 3)
    orient[:, 0] = math.pi
    betas = 0.5 * torch.randn(count, 10, generator=generator)
    rotmat = axis_angle_to_matrix(torch.cat([orient, pose], 1).reshape(-1, 24, 3))
    truth = RegressorOutput(rotmat, betas, torch.tensor([0.8, 0.05, -0.1]).expand(count, 3))
    points = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="spin49", pose2rot=False)
    image = 0.8 * points[..., :2] + torch.tensor([0.05, -0.1])
    confidence = 0.5 + 0.5 * torch.rand(count, 49, 1, generator=generator)
    return truth, torch.cat([image, confidence], 2)


def make_images(regressor, count: int = 6) -> Tensor:
    size = regressor.input_size
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))
    # As pixels in [0, 1] that are normalised for this network.
    return 0.45 + 0.225 * noise


def test_score_is_that_of_the_fitter(body):
    """The mean over 49 keypoints that SMPLify reports over the confidences that count."""
    truth, target = make_truth(body)
    off = truth._replace(pred_betas=truth.pred_betas + 1)
    fits = fit_smplify(body, off, target, config=FIT)
    score = fit_score(body, fits.final, target, FIT)
    counting = target[:, kept_rows(resolve_recipe(FIT)), 2].square().mean(1)
    torch.testing.assert_close(score, fits.keypoint * counting, rtol=1e-3, atol=1e-4)
    assert fit_score(body, truth, target, FIT).max() < 1.0


def test_a_stored_fit_finds_its_camera_again(body):
    truth, target = make_truth(body)
    moved = target.clone()
    moved[..., :2] = 0.5 * target[..., :2] + 0.2
    placed = place_fit(body, truth.pred_rotmat, truth.pred_betas, moved, FIT)
    want = torch.tensor([0.4, 0.225, 0.15]).expand(6, 3)
    torch.testing.assert_close(placed.pred_cam, want, rtol=0, atol=5e-3)
    assert fit_score(body, placed, moved, FIT).max() < 0.5


def test_the_store_undoes_the_mirror(body):
    """What a mirrored picture taught is right for the picture as it is."""
    truth, target = make_truth(body)
    rows, mirrored = torch.arange(6), torch.tensor([True, False] * 3)
    best = BestFits(6, target)
    best.put(rows, mirrored, truth, torch.ones(6, dtype=torch.bool))
    back = best.take(rows, mirrored)
    torch.testing.assert_close(back[0], truth.pred_rotmat)
    plain = best.take(rows, torch.zeros(6, dtype=torch.bool))
    seen = place_fit(body, *plain, target, FIT)
    flipped = target.clone()
    flipped[..., 0] *= -1
    flipped = flipped[:, list(spin49_flip)]
    other = place_fit(body, *plain, flipped, FIT)
    # The mirrored person fits the mirrored keypoints: the body is symmetric to a few millimetres.
    good, bad = fit_score(body, other, flipped, FIT), fit_score(body, seen, target, FIT)
    assert (good[mirrored] < 30).all()
    assert (bad[mirrored] > 5 * good[mirrored]).all()
    assert (bad[~mirrored] < 1).all()
    assert best.camera[0, 1] == -truth.pred_cam[0, 1]


def test_steps_keep_the_better_fit_and_lower_the_loss(body):
    regressor = OpenRegressor.make_tiny()
    _, target = make_truth(body)
    img, rows = make_images(regressor), torch.arange(6)
    trainer = SpinTrainer(regressor, body, 6, config=SpinConfig(fit=FIT, lr=1e-3, accept=1e6))
    steps = [trainer.step(img, target, rows) for _ in range(6)]
    assert steps[0].is_new.all()
    assert trainer.best.has_fit.all()
    scores = torch.stack([step.score for step in steps])
    assert (scores[1:] <= scores[:-1] * 1.02 + 0.5).all()
    assert (scores[-1] < scores[0]).any()
    losses = torch.stack([step.loss for step in steps]).mean(1)
    assert losses[-1] < 0.9 * losses[0]
    assert all(step.teaches.all() for step in steps)


def test_bad_fits_do_not_teach(body):
    """With nothing accepted, only the given keypoints and the camera move the weights."""
    _, target = make_truth(body)
    target[:, 25:, 2] = 0
    img, rows = None, torch.arange(6)
    moved = {}
    for accept in (0.0, 1e9):
        regressor = OpenRegressor.make_tiny()
        img = make_images(regressor)
        config = SpinConfig(fit=FIT, accept=accept, camera_weight=0.0)
        trainer = SpinTrainer(regressor, body, 6, config=config)
        before = [parameter.detach().clone() for parameter in regressor.parameters()]
        step = trainer.step(img, target, rows)
        moved[accept] = any(
            not torch.equal(old, new)
            for old, new in zip(before, regressor.parameters(), strict=True)
        )
        assert step.teaches.all() == (accept > 0)
    assert moved == {0.0: False, 1e9: True}


def test_a_bad_person_teaches_nobody(body):
    """NaN in one picture: the weights stay finite, and the others' fits are stored."""
    regressor = OpenRegressor.make_tiny()
    _, target = make_truth(body)
    img = make_images(regressor)
    img[2] = float("nan")
    target[4, :, 2] = 0
    trainer = SpinTrainer(regressor, body, 6, config=SpinConfig(fit=FIT))
    trainer.step(img, target, torch.arange(6))
    assert all(torch.isfinite(parameter).all() for parameter in regressor.parameters())
    assert not trainer.best.has_fit[2]
    assert trainer.best.has_fit[[0, 1, 3, 5]].all()


def test_unbelievable_shapes_become_the_mean():
    betas = torch.tensor([[0.0] * 9 + [3.1], [2.9] * 10])
    assert torch.equal(believable(betas), torch.tensor([[0.0] * 10, [2.9] * 10]))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="fit must start from the regressor"):
        SpinConfig(fit=SmplifyConfig(recipe="smplify2016"))
    with pytest.raises(ValueError, match="lr must not be negative"):
        SpinConfig(lr=-1.0)
    good = SpinConfig(fit=SmplifyConfig(recipe="smplify2016", start="regressor"))
    assert replace(good, lr=0.0).lr == 0
