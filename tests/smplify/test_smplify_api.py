"""fit_batch with SMPLify: names, recipes, bad people, saving."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.smplify.config import RECIPES


@pytest.fixture(scope="module")
def pair():
    return OpenRegressor.make_tiny(), eft_fast.load_body()


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(3)
    photos = [rng.integers(0, 256, (120, 100, 3), dtype=np.uint8) for _ in range(4)]
    xy = rng.uniform([20, 20], [80, 100], (4, 17, 2))
    keypoints = np.concatenate([xy, np.ones((4, 17, 1))], 2)
    return photos, keypoints


def fit(people, pair, **options):
    photos, keypoints = people
    regressor, body = pair
    options = {"config": eft_fast.SmplifyConfig(max_steps=4), "progress": False} | options
    return eft_fast.fit_batch(photos, keypoints, regressor=regressor, body=body, **options)


@pytest.mark.parametrize("method", ["smplify", *RECIPES])
def test_every_recipe_is_a_method(method, people, pair):
    result = fit(people, pair, method=method)
    assert result.method == ("smplify_spin" if method == "smplify" else method)
    assert result.mode == "gmm"
    assert (result.loss < result.init_loss).all()
    assert (result.steps > 0).all()
    assert set(result.stop_reason) <= {"max_steps", "converged"}
    assert torch.isfinite(result.kp_error_px).all()
    rotations = result.params.full_pose
    identity = rotations @ rotations.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), rtol=0, atol=1e-5)


def test_the_regressors_answer_is_kept_beside_the_fit(people, pair):
    result = fit(people, pair, method="smplify")
    alone = fit(people, pair, method="none", config=None)
    assert torch.equal(result.init.betas, alone.params.betas)
    assert torch.equal(result.init.pred_cam, alone.pred_cam)
    assert torch.equal(result.init_kp_error_px, alone.kp_error_px)


def test_the_error_falls(people, pair):
    config = eft_fast.SmplifyConfig(prior="none")
    result = fit(people, pair, method="smplify", config=config)
    assert result.mode == "none"
    assert (result.kp_error_px < 0.8 * result.init_kp_error_px).all()


def test_bad_people_change_nobodys_bits(people, pair):
    photos, keypoints = list(people[0]), people[1].copy()
    expected = fit(people, pair, method="smplify")
    photos[0], keypoints[2, :, 2] = "absent.jpg", 0
    got = fit((photos, keypoints), pair, method="smplify")
    assert got.stop_reason[0] == "bad_image"
    assert got.stop_reason[2] == "no_keypoints"
    assert torch.equal(got.params.betas[2], got.init.betas[2])
    for row in (1, 3):
        assert torch.equal(got.params.body_pose[row], expected.params.body_pose[row])
        assert torch.equal(got.params.betas[row], expected.params.betas[row])
        assert torch.equal(got.pred_cam[row], expected.pred_cam[row])
        assert got.loss[row] == expected.loss[row]


def test_batches_do_not_show(people, pair):
    expected = fit(people, pair, method="smplify")
    for batch in (1, 3):
        config = eft_fast.SmplifyConfig(max_steps=4, batch=batch)
        got = fit(people, pair, method="smplify", config=config)
        assert torch.equal(got.params.body_pose, expected.params.body_pose)
        assert torch.equal(got.loss, expected.loss)


def test_saving(people, pair, tmp_path):
    result = fit(people, pair, method="smplifyx")
    result.save(tmp_path / "fits.npz")
    loaded = eft_fast.FitResult.load(tmp_path / "fits.npz")
    assert (loaded.method, loaded.mode) == ("smplifyx", "gmm")
    assert torch.equal(loaded.params.betas, result.params.betas)


def test_wrong_use_is_refused(people, pair):
    with pytest.raises(ValueError, match="method must be one of eft, map, smplify"):
        fit(people, pair, method="smplify_2016")
    with pytest.raises(TypeError, match="takes a SmplifyConfig, got EftConfig"):
        fit(people, pair, method="smplify", config=eft_fast.EftConfig())
    with pytest.raises(TypeError, match="takes an EftConfig, got SmplifyConfig"):
        fit(people, pair, method="eft")
    with pytest.raises(ValueError, match="tunes no weights, got mode 'head'"):
        fit(people, pair, method="smplify", mode="head")
    with pytest.raises(ValueError, match="takes no slots"):
        fit(people, pair, method="smplify", slots=2)
    config = eft_fast.SmplifyConfig(prior_source="absent.pkl")
    with pytest.raises(FileNotFoundError, match="load_pose_prior"):
        fit(people, pair, method="smplify", config=config)
