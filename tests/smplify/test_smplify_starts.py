"""Where fits of SMPLify begin: turned people, people from the side, the mean pose."""

from __future__ import annotations

import math

import pytest
import torch

import eft_fast
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.keypoints import JOINT_SETS
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify.config import RECIPES, SmplifyConfig
from eft_fast.smplify.fit import fit_smplify, start_from_mean, turn_around
from eft_fast.smplify.prior import load_pose_prior
from tests.smplify.test_smplify import make_people


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body(dtype=torch.float64)


@pytest.fixture(scope="module")
def body32():
    return eft_fast.load_body()


def test_turning_is_a_half_turn_about_the_bodys_own_axis():
    orient = torch.randn(4, 3, dtype=torch.float64)
    before, after = axis_angle_to_matrix(orient), axis_angle_to_matrix(turn_around(orient))
    axes = torch.tensor([[-1.0, 1.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(after, before * axes)


def test_people_seen_from_behind_are_found_from_the_mean(body32):
    init, target = make_people(body32, 3, turned=1.0)
    config = SmplifyConfig(recipe="smplify2016")
    fits = fit_smplify(body32, init, target, config=config)
    assert fits.turned.any()
    facing = fits.final.pred_rotmat[:, 0, 2, 2]  # the body's z along the camera's
    assert (facing > 0.7).all()


def test_people_seen_from_the_side_are_tried_both_ways(body32):
    """Shoulders within 25 px: the start is turned the wrong way, and the right way wins."""
    init, target = make_people(body32, 3, noise=0.0)
    wrong = axis_angle_to_matrix(torch.tensor([0.0, math.pi, 0.0]))
    start = RegressorOutput(init.pred_rotmat.clone(), init.pred_betas, init.pred_cam)
    start.pred_rotmat[:, 0] = start.pred_rotmat[:, 0] @ wrong
    config = SmplifyConfig(recipe="smplify2016", start="regressor", max_steps=10)
    wide = fit_smplify(body32, start, target, config=config)
    assert not wide.turned.any()
    names = JOINT_SETS["spin49"].names
    for block in ("", "op_"):
        left, right = (names.index(f"{block}{side}sho") for side in "lr")
        middle = (target[:, left, :2] + target[:, right, :2]) / 2
        target[:, left, :2], target[:, right, :2] = middle + 0.05, middle - 0.05
        target[:, [left, right], 2] = 1
    narrow = fit_smplify(body32, start, target, config=config)
    assert narrow.turned.all()
    facing = narrow.final.pred_rotmat[:, 0, 2, 2] * init.pred_rotmat[:, 0, 2, 2]
    assert (facing > 0).all()


def test_the_mean_start_takes_scale_and_place_from_the_keypoints(body):
    """Of its own projection it finds the camera again, by the longest bone."""
    prior = load_pose_prior()
    like = start_from_mean(body, prior, torch.zeros(1, 49, 3, dtype=torch.float64))
    points = body.keypoints(like[:, 72:82], like[:, 3:72], like[:, :3], joint_set="spin49")
    target = torch.ones(1, 49, 3, dtype=torch.float64)
    shift = torch.tensor([0.2, -0.1], dtype=torch.float64)
    target[..., :2] = 0.7 * points[..., :2] + shift
    target[0, 20:, 2] = 0
    found = start_from_mean(body, prior, target)
    # The longest bone of the OpenPose block is nearly parallel to the picture, not quite.
    torch.testing.assert_close(found[0, 82].item(), 0.7, rtol=0.05, atol=0)
    assert axis_angle_to_matrix(found[:, :3])[0, 1, 1] == pytest.approx(-1.0)


def test_fits_get_nearer(body32):
    init, target = make_people(body32, 4)
    for name in RECIPES:
        config = SmplifyConfig(recipe=name, start="regressor")
        fits = fit_smplify(body32, init, target, config=config)
        assert (fits.loss < fits.init_loss).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "smplify"}, "recipe must be one of smplify2016, smplify_spin"),
        ({"prior": "vposer"}, "prior must be one of none, angle_off, gmm"),
        ({"solver": "sgd"}, "solver must be one of adam"),
        ({"start": "zero"}, "start must be one of regressor, mean"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": -1.0}, "lr must not be negative"),
        ({"anchor_weight": float("nan")}, "anchor_weight must not be negative"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SmplifyConfig(**options)


def test_wrong_shapes_are_refused(body32):
    init, target = make_people(body32, 2)
    with pytest.raises(ValueError, match=r"keypoints_2d must be \[2, 49, 3\]"):
        fit_smplify(body32, init, target[:, :24])
    with pytest.raises(ValueError, match=r"pred_rotmat must be \[2, 24, 3, 3\]"):
        fit_smplify(body32, init._replace(pred_rotmat=init.pred_rotmat[:, :23]), target)
