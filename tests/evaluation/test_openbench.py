"""The bench: zero errors for the truth, the same people for every method, honest summaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.evaluation import openbench
from eft_fast.fitting.recipes import SmplifyConfig
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models.base import RegressorOutput
from eft_fast.models.open_regressor import OpenRegressor

CAMERA = [0.8, 0.05, -0.1]


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny()


def make_set(body, size: int, count: int = 3, **options):
    """People under a weak camera, so that their truth has no error at all."""
    generator = torch.Generator().manual_seed(4)
    pose = 0.2 * torch.randn(count, 24, 3, generator=generator)
    pose[:, 0, 0] += torch.pi
    rotmat = axis_angle_to_matrix(pose)
    betas = torch.randn(count, 10, generator=generator)
    points = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="mp33", pose2rot=False)
    coco = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="coco17", pose2rot=False)
    flat = torch.cat([coco, points[:, :10]], 1)[..., :2]
    landmarks = np.full((count, 27, 3), 2.0, np.float32)
    landmarks[..., :2] = CAMERA[0] * flat.numpy() + np.array(CAMERA[1:])
    landmarks[1, :5, 2], landmarks[2, 7:9, 2] = 0, 1
    image = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return openbench.make_people(image, landmarks, rotmat.numpy(), betas.numpy(), **options)


def truth_of(people):
    camera = torch.tensor([CAMERA]).expand(len(people), 3)
    return RegressorOutput(torch.from_numpy(people.rotmat), torch.from_numpy(people.betas), camera)


def measured(body, people):
    output = truth_of(people)
    return openbench._measure_body(body, output.pred_rotmat, output.pred_betas)


def test_the_truth_has_no_error(body):
    people = make_set(body, 64)
    values = openbench.score(body, truth_of(people), people, measured(body, people))
    for name in ("pa_mpjpe_mm", "mpjpe_mm", "pve_mm", "kp_error_px"):
        assert values[name].shape == (3,)
        assert values[name].max() < 0.05
    assert values["rotation_deg"].max() < 0.1
    assert not values["flipped"].any()


def test_errors_are_in_their_units(body):
    people = make_set(body, 64)
    truth = measured(body, people)
    moved = truth_of(people)
    moved = moved._replace(pred_cam=moved.pred_cam + torch.tensor([0.0, 0.25, 0.0]))
    values = openbench.score(body, moved, people, truth)
    np.testing.assert_allclose(values["kp_error_px"], 0.25 * 32, rtol=1e-3)
    turn = axis_angle_to_matrix(torch.tensor([[0.0, torch.pi, 0.0]]))
    turned = truth_of(people)
    rotmat = turned.pred_rotmat.clone()
    rotmat[:, 0] = rotmat[:, 0] @ turn
    values = openbench.score(body, turned._replace(pred_rotmat=rotmat), people, truth)
    assert values["flipped"].all()
    assert values["mpjpe_mm"].min() > 100
    assert values["pa_mpjpe_mm"].max() < 0.05


def test_noise_is_that_of_a_detector(body):
    exact = make_set(body, 64)
    np.testing.assert_array_equal(exact.keypoints_2d, exact.true_2d)
    assert not exact.true_2d[1, :5, 2].any()
    noisy = make_set(body, 64, noise=0.02)
    assert (noisy.keypoints_2d[..., :2] != noisy.true_2d[..., :2]).any()
    assert not noisy.keypoints_2d[1, :5, 2].any()
    np.testing.assert_array_equal(noisy.true_2d, exact.true_2d)
    again = make_set(body, 64, noise=0.02)
    np.testing.assert_array_equal(noisy.keypoints_2d, again.keypoints_2d)


def test_methods_run_on_the_same_people(body, regressor):
    people = make_set(body, regressor.input_size)
    spin = SmplifyConfig(max_steps=5)
    methods = (
        *openbench.default_methods()[:1],
        openbench.Method("smplify_spin_gmm", "smplify_spin", "gmm", spin),
    )
    named: list[str] = []
    scores = list(openbench.run_bench(regressor, body, people, methods, on_method=named.append))
    assert named == ["regressor", "smplify_spin_gmm"]
    table = openbench.summarise(scores)
    start, fitted = table["regressor"], table["smplify_spin_gmm"]
    assert fitted["kp_error_px"] < start["kp_error_px"]
    assert fitted["kp_error_px_low"] <= fitted["kp_error_px"] <= fitted["kp_error_px_high"]
    assert start["fits_per_second"] > 0
    assert "worse_than_start" not in start
    worse = scores[1].values["pa_mpjpe_mm"] > scores[0].values["pa_mpjpe_mm"]
    assert fitted["worse_than_start"] == pytest.approx(worse.mean())


def test_names_are_those_of_the_contract():
    names = [method.name for method in openbench.default_methods()]
    assert names[:3] == ["regressor", "eft", "eft_head"]
    assert {"smplify_spin_gmm", "smplify_eft_baseline_angle_off", "smplify2016_gmm_mean"} <= set(
        names
    )
    assert len(set(names)) == len(names)


def test_wrong_size_is_refused(body, regressor):
    people = make_set(body, regressor.input_size + 2)
    with pytest.raises(ValueError, match="takes crops of"):
        list(openbench.run_bench(regressor, body, people, openbench.default_methods()))
