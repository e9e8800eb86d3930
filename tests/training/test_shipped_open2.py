"""The weights of open-2 that ship: small, known to ``map``, and better told than untold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.body import Smpl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.movenet_keypoints import MOVENET_PATHS
from eft_fast.models.movenet_regressor import Evidence, MoveNetRegressor
from eft_fast.models.registry import OPEN_REGRESSORS, load_regressor
from eft_fast.synth import PosePool, Renderer, SynthArrays, SynthConfig, stack_samples
from eft_fast.training.cache import normalise_images
from eft_fast.training.measure import in_crops_of, predict, predict_given, score_output
from eft_fast.training.targets import body_points, make_targets
from tests.synth.test_poses import knee_bends


@pytest.fixture(scope="module")
def network() -> MoveNetRegressor:
    network = load_regressor("open-2")
    assert isinstance(network, MoveNetRegressor)
    return network


@pytest.fixture(scope="module")
def scenes(open_body: Smpl, pool: PosePool, network: MoveNetRegressor) -> SynthArrays:
    """Of a seed that training never used, in the crops of the network."""
    renderer = Renderer(open_body, pool, "test", config=SynthConfig(seed=99))
    samples = stack_samples(renderer.render(index) for index in range(8))
    return in_crops_of(network, samples)


def test_the_file_holds_a_head_alone(network: MoveNetRegressor) -> None:
    assert OPEN_REGRESSORS["open-2"].stat().st_size < 7_000_000
    assert network.full_id == "open-2:a8b2b61780c6ae29"
    assert network.base is not None
    assert network.base.weights_hash == load_regressor("open-1").weights_hash
    assert network.box_margin == 1.1


def test_its_usual_errors_are_known(network: MoveNetRegressor) -> None:
    """With keypoints it errs less: in the root's rotation, in the place, and as a whole."""
    found = load_error_covariance(network)
    assert found.people == 1250
    alone, told = found.second_moment, found.second_moment_given
    assert told is not None
    alone, told = np.diagonal(alone), np.diagonal(told)
    assert told[:3].sum() < 0.5 * alone[:3].sum()
    assert told[83:].sum() < 0.5 * alone[83:].sum()
    assert told.sum() < alone.sum()


def test_the_small_one_needs_no_other_network() -> None:
    """With MoveNet Lightning beside it, 8 MB; keypoints tell it more than the picture."""
    small = load_regressor("open-2-lite")
    assert isinstance(small, MoveNetRegressor)
    files = (OPEN_REGRESSORS["open-2-lite"], MOVENET_PATHS["lightning"])
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert small.full_id == "open-2-lite:a52b6507b2c3761b"
    assert small.base is None
    assert (small.input_size, small.box_margin) == (192, 1.1)
    found = load_error_covariance(small)
    assert found.people == 1250
    assert found.second_moment_given is not None
    alone, told = np.diagonal(found.second_moment), np.diagonal(found.second_moment_given)
    assert told[:3].sum() < 0.3 * alone[:3].sum()
    photo = np.full((240, 200, 3), 128, np.uint8)
    keypoints = np.ones((1, 17, 3), np.float32)
    keypoints[0, :, :2] = np.random.default_rng(0).uniform(60, 160, (17, 2))
    result = eft_fast.fit_batch([photo], keypoints, regressor=small, progress=False)
    assert result.method == "map"
    assert result.regressor_id == small.full_id


def test_it_understands_rendered_people(
    network: MoveNetRegressor, scenes: SynthArrays, open_body: Smpl
) -> None:
    targets = make_targets(scenes, open_body)
    alone = score_output(predict(network, scenes.image, batch=4), targets, open_body)
    given = torch.from_numpy(scenes.landmarks_2d[:, :17].astype(np.float32))
    given[..., 2] = (given[..., 2] == 2).float()
    (told,) = predict_given(network, scenes.image, [given], batch=4)
    with_points = score_output(told, targets, open_body)
    assert np.median(alone.pa_mpjpe_mm) < 140
    assert with_points.pa_mpjpe_mm.mean() < alone.pa_mpjpe_mm.mean()
    assert with_points.pck.mean() > 0.85


@pytest.mark.parametrize("name", ["open-2", "open-2-lite"])
def test_straight_legs_from_the_front_stay_straight(name: str, open_body: Smpl) -> None:
    """A bent leg and a short one look alike there; people who are photographed mostly stand."""
    network = load_regressor(name)
    assert isinstance(network, MoveNetRegressor)
    rotmat = torch.eye(3).repeat(1, 24, 1, 1)
    arms = torch.tensor([[0.0, 0.0, -1.2], [0.0, 0.0, 1.2]])
    rotmat[:, 16:18] = axis_angle_to_matrix(arms)
    rotmat[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    points = body_points(open_body, rotmat, torch.zeros(1, 10)).landmarks[:, :17, :2]
    places = (points - points.mean(1, keepdim=True)) / 1.1
    found = torch.cat([places, torch.full((1, 17, 1), 0.7)], -1)
    evidence = Evidence(found, places + 0.01, torch.full((1, 17), 0.03), None)
    with torch.no_grad():
        answer = network.head(evidence).outputs[-1]
    assert knee_bends(answer.pred_rotmat.numpy()).max() < 25


def test_confidence_is_a_probability_that_moves(
    network: MoveNetRegressor, scenes: SynthArrays
) -> None:
    with torch.no_grad():
        said = network.joint_confidence(network.features(normalise_images(scenes.image, network)))
    assert said is not None
    assert ((said > 0) & (said < 1)).all()
    assert float(said[:, 1:].std()) > 0.05


def test_it_starts_the_direct_fit_by_name(network: MoveNetRegressor) -> None:
    photo = np.full((240, 200, 3), 128, np.uint8)
    keypoints = np.ones((1, 17, 3), np.float32)
    keypoints[0, :, :2] = np.random.default_rng(0).uniform(60, 160, (17, 2))
    result = eft_fast.fit_batch([photo], keypoints, regressor=network, progress=False)
    assert result.method == "map"
    assert result.regressor_id == network.full_id
    assert torch.isfinite(result.joint_sigma_mm).all()
