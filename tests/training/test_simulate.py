from __future__ import annotations

import torch

from eft_fast.body import Smpl
from eft_fast.models.blazepose import BlazePoseOutput
from eft_fast.models.open_regressor import (
    INPUT_SIZE,
    LANDMARK_ROWS,
    OpenRegressor,
    landmark_features,
)
from eft_fast.synth import PosePool, SynthConfig
from eft_fast.training.cache import CachedFeatures, CachedPair
from eft_fast.training.simulate import make_simulator, simulate
from eft_fast.training.targets import Targets


def perfect_output(targets: Targets) -> BlazePoseOutput:
    """What a trunk without error would say about these people."""
    count = len(targets.rotmat)
    landmarks = torch.randn(count, 39, 5, generator=torch.Generator().manual_seed(0))
    world = torch.zeros(count, 39, 3)
    rows = list(LANDMARK_ROWS)
    hips = targets.landmarks[:, 11:13].mean(1, keepdim=True)
    half = INPUT_SIZE / 2
    # The camera that the targets carry projects points about the body's origin; about the
    # pelvis only the shift differs.
    scale = targets.camera[:, :1, None]
    flat = scale * targets.landmarks[..., :2]
    shift = targets.landmarks_2d.mean(1, keepdim=True) - flat.mean(1, keepdim=True)
    landmarks[:, rows, :2] = (flat + shift + 1) * half
    landmarks[:, rows, 2:3] = scale * (targets.landmarks - hips)[..., 2:] * half
    world[:, rows] = targets.landmarks - hips
    return BlazePoseOutput(landmarks, world, torch.ones(count), torch.zeros(count, 4))


def test_simulated_landmarks_are_features_of_a_perfect_trunk(
    targets: Targets, pool: PosePool, open_body: Smpl
) -> None:
    """With a trunk that makes no errors, simulation adds none, so features and labels agree."""
    perfect = landmark_features(perfect_output(targets))[0]
    rendered = CachedFeatures(perfect, torch.zeros(len(perfect), 4), torch.ones(len(perfect)))
    simulator = make_simulator(pool, 30, 0, SynthConfig(), rendered, targets)
    assert simulator.residual.abs().max() < 1e-4
    assert simulator.center_shift.abs().max() < 1e-4
    torch.testing.assert_close(simulator.size_ratio, torch.ones(len(perfect), 1))

    features, people = simulate(simulator, open_body, 8, torch.Generator().manual_seed(0))
    expected = landmark_features(perfect_output(people))[0]
    confidence = slice(27 * 6, 27 * 8)
    features[:, confidence] = expected[:, confidence]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_simulation_repeats_and_lends_errors(
    targets: Targets, pool: PosePool, open_body: Smpl, rendered: CachedPair
) -> None:
    simulator = make_simulator(pool, 30, 0, SynthConfig(), rendered.plain, targets)
    again = make_simulator(pool, 30, 0, SynthConfig(), rendered.plain, targets)
    assert torch.equal(simulator.rotmat, again.rotmat)
    assert simulator.residual.abs().max() > 0.01
    one = simulate(simulator, open_body, 4, torch.Generator().manual_seed(5))
    two = simulate(simulator, open_body, 4, torch.Generator().manual_seed(5))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1].rotmat, two[1].rotmat)


def test_features_are_the_networks_own(rendered: CachedPair, network: OpenRegressor) -> None:
    width = rendered.plain.landmarks.shape[1] + rendered.plain.trunk.shape[1]
    assert network.head.feature_mean.shape == (width,)
