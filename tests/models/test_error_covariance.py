"""The covariance of a regressor's errors: the right numbers, and files that must be refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eft_fast.body import load_body
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.map_rules import BETAS, POSE, SCALE, SHIFT
from eft_fast.models import load_regressor
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import (
    ErrorCovariance,
    estimate_covariance,
    load_error_covariance,
    read_error_covariance,
)
from eft_fast.models.error_state import answer_frame, error_state
from eft_fast.models.identity import weights_hash
from eft_fast.models.open_regressor import OpenRegressor


@pytest.fixture(scope="module")
def tiny():
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def states():
    """Errors of 200 people with known variances."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.linspace(0.1, 2.0, 85, dtype=torch.float64)
    return spread * torch.randn(200, 85, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def measured(tiny, states):
    return estimate_covariance(states, regressor=tiny, source="made up")


def test_error_state_is_what_was_done_to_the_answer():
    """Turn joints, change betas, zoom and move by known amounts: the row says them."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = RegressorOutput(axis_angle_to_matrix(draw(3, 24, 3)), draw(3, 10), draw(3, 3).abs())
    turn, shape, zoom, move = 0.5 * draw(3, 24, 3), draw(3, 10), 0.2 * draw(3, 1), draw(3, 2)
    size = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    camera = torch.cat(
        [start.pred_cam[:, :1] * zoom.exp(), start.pred_cam[:, 1:] + size[:, None] * move], 1
    )
    truth = RegressorOutput(
        start.pred_rotmat @ axis_angle_to_matrix(turn), start.pred_betas + shape, camera
    )
    row = error_state(start, truth, size)
    torch.testing.assert_close(row[:, POSE], turn.flatten(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(row[:, BETAS], shape, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(row[:, SCALE], zoom[:, 0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(row[:, SHIFT], move, rtol=1e-9, atol=1e-9)


def test_frame_is_that_of_the_limbs():
    """Twice the camera's scale is twice the frame; head and spine do not count."""
    body = load_body()
    pose = torch.zeros(1, 24, 3)
    joints = body.keypoints(torch.zeros(1, 10), pose[:, 1:], pose[:, :1], joint_set="smpl24")
    camera = torch.tensor([[0.8, 0.1, -0.2]])
    frame = answer_frame(joints, camera)
    limbs = 0.8 * joints[0, [1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21], :2]
    limbs = limbs + torch.tensor([0.1, -0.2])
    spread = limbs - limbs.mean(0)
    torch.testing.assert_close(frame.center[0], limbs.mean(0))
    torch.testing.assert_close(frame.size[0], spread.square().sum(-1).mean().sqrt())
    far = joints.clone()
    far[:, 15] += 5
    torch.testing.assert_close(answer_frame(far, camera).size, frame.size)
    assert answer_frame(joints, 0 * camera).size[0] == pytest.approx(0.05)


def test_covariance_and_precision(measured, states):
    """About zero, not about the mean; shrunk off the diagonal; the precision is its inverse."""
    rows = states.numpy()
    moment = rows.T @ rows / len(rows)
    np.testing.assert_allclose(measured.second_moment, moment, rtol=1e-12, atol=1e-12)
    sigma = measured.covariance()
    np.testing.assert_allclose(np.diagonal(sigma), np.diagonal(moment) + 1e-6, rtol=1e-12)
    assert sigma[3, 40] == pytest.approx(0.95 * moment[3, 40], rel=1e-12)
    precision = measured.precision()
    assert (precision == precision.T).all()
    np.testing.assert_allclose(precision @ sigma, np.eye(85), atol=1e-9)


def test_a_bias_widens_it(tiny, states):
    moved = estimate_covariance(states + 3, regressor=tiny, source="")
    assert moved.second_moment[0, 0] > 8.5


def test_people_without_numbers_are_left_out(tiny, states, measured):
    bad = torch.cat([states, torch.full((5, 85), float("nan"), dtype=torch.float64)])
    found = estimate_covariance(bad, regressor=tiny, source="")
    assert found.people == 200
    assert (found.second_moment == measured.second_moment).all()
    with pytest.raises(
        ValueError, match="at least 85 people with finite numbers are needed, got 9"
    ):
        estimate_covariance(states[:9], regressor=tiny, source="")


def test_file_keeps_everything(tiny, measured, tmp_path):
    measured.save(tmp_path / "c.npz")
    found = load_error_covariance(tiny, tmp_path / "c.npz")
    assert (found.second_moment == measured.second_moment).all()
    assert (found.people, found.source, found.body_id) == (200, "made up", "open-1")
    assert found.weights_hash == weights_hash(tiny)


def test_other_weights_are_refused(measured, tmp_path):
    measured.save(tmp_path / "c.npz")
    other = OpenRegressor.make_tiny(seed=1)
    with pytest.raises(ValueError, match="eft-fast calibrate") as error:
        load_error_covariance(other, tmp_path / "c.npz")
    assert measured.weights_hash in str(error.value)
    assert weights_hash(other) in str(error.value)
    with pytest.raises(ValueError, match="no error covariance is known of regressor"):
        load_error_covariance(other)


def test_another_body_is_refused(measured, tmp_path):
    measured.save(tmp_path / "c.npz")
    other = OpenRegressor.make_tiny()
    other.body_id = "smpl"
    with pytest.raises(
        ValueError, match=r"is about body open-1, the regressor .* predicts body smpl"
    ):
        load_error_covariance(other, tmp_path / "c.npz")


def _broken(moment: np.ndarray, how: str) -> np.ndarray:
    moment = moment.copy()
    if how == "shape":
        return moment[:84, :84]
    if how == "nan":
        moment[2, 2] = np.nan
    elif how == "asymmetric":
        moment[0, 1] += 0.5
    elif how == "singular":
        moment[5], moment[:, 5] = moment[4], moment[:, 4]
        moment[5, 5] = moment[4, 4]
    elif how == "indefinite":
        moment[5, 5] = -1
    return moment


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("shape", r"must be \[85, 85\], got \[84, 84\]"),
        ("nan", "must be finite"),
        ("asymmetric", "must be symmetric, got differences of 0.5"),
        ("singular", "must be positive definite"),
        ("indefinite", "must be positive definite"),
    ],
)
def test_what_is_no_covariance_is_refused(how, words, measured, tmp_path):
    moment = _broken(measured.second_moment, how)
    with pytest.raises(ValueError, match=words):
        ErrorCovariance(moment, "", "open-1", 200, "")
    path = tmp_path / "bad.npz"
    measured.save(path)
    with np.load(path) as file:
        card = file["card"]
    np.savez(path, card=card, second_moment=moment)
    with pytest.raises(ValueError, match=words) as error:
        read_error_covariance(path)
    assert "bad.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_files_are_refused(measured, tmp_path):
    path = tmp_path / "c.npz"
    with pytest.raises(FileNotFoundError, match="no file"):
        read_error_covariance(path)
    measured.save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="is no error covariance, or damaged"):
        read_error_covariance(path)
    card = np.array(json.dumps({"format": "something else"}))
    np.savez(path, card=card, second_moment=measured.second_moment)
    with pytest.raises(ValueError, match="is no error covariance"):
        read_error_covariance(path)


def test_the_package_ships_one_for_its_regressor():
    found = load_error_covariance(load_regressor())
    assert found.people >= 1000
    # Depth is what a network knows least: knees bend by more than spines.
    spread = np.sqrt(np.diagonal(found.covariance()))
    assert 0.1 < spread[:3].max() < 1.5
    assert np.linalg.eigvalsh(found.precision())[0] > 0
