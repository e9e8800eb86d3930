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
from eft_fast.synth.landmarks import MIRROR_LANDMARKS
from eft_fast.training.cache import CachedFeatures
from eft_fast.training.simulate import make_simulator, mirror_features, simulate
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
    targets: Targets, pool: PosePool, open_body: Smpl, rendered: CachedFeatures
) -> None:
    simulator = make_simulator(pool, 30, 0, SynthConfig(), rendered, targets)
    again = make_simulator(pool, 30, 0, SynthConfig(), rendered, targets)
    assert torch.equal(simulator.rotmat, again.rotmat)
    assert simulator.residual.abs().max() > 0.01
    one = simulate(simulator, open_body, 4, torch.Generator().manual_seed(5))
    two = simulate(simulator, open_body, 4, torch.Generator().manual_seed(5))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1].rotmat, two[1].rotmat)


def test_mirrored_features_are_those_of_mirrored_landmarks(targets: Targets) -> None:
    output = perfect_output(targets)
    rows, swapped = list(LANDMARK_ROWS), [LANDMARK_ROWS[i] for i in MIRROR_LANDMARKS]
    landmarks, world = output.landmarks.clone(), output.world.clone()
    landmarks[:, rows], world[:, rows] = output.landmarks[:, swapped], output.world[:, swapped]
    landmarks[..., 0] = INPUT_SIZE - 1 - landmarks[..., 0]
    world[..., 0] *= -1
    expected = landmark_features(output._replace(landmarks=landmarks, world=world))[0]
    which = torch.tensor([True] * 6 + [False] * 6)
    features = landmark_features(output)[0]
    mirrored = mirror_features(features, which, -2 / INPUT_SIZE)
    torch.testing.assert_close(mirrored[:6], expected[:6], rtol=1e-4, atol=1e-4)
    assert torch.equal(mirrored[6:], features[6:])


def test_features_are_the_networks_own(rendered: CachedFeatures, network: OpenRegressor) -> None:
    width = rendered.landmarks.shape[1] + rendered.trunk.shape[1]
    assert network.head.feature_mean.shape == (width,)
