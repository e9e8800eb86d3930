from __future__ import annotations

import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.models.base import RegressorOutput
from eft_fast.models.blazepose import BlazePoseOutput
from eft_fast.models.open_regressor import INPUT_SIZE, LANDMARK_ROWS
from eft_fast.training import LossConfig
from eft_fast.training.loss import regression_loss, trunk_error
from eft_fast.training.targets import Targets, body_points


def truth(targets: Targets) -> RegressorOutput:
    return RegressorOutput(targets.rotmat, targets.betas, targets.camera)


def test_truth_costs_only_what_weak_perspective_cannot_say(
    targets: Targets, open_body: Smpl
) -> None:
    no_2d = LossConfig(points_2d=0)
    loss = regression_loss(truth(targets), targets, open_body, no_2d)
    assert loss.shape == (12,)
    assert float(loss.max()) < 1e-3
    assert float(regression_loss(truth(targets), targets, open_body, LossConfig()).mean()) < 0.3


@pytest.mark.parametrize("part", [0, 1, 2])
def test_every_part_of_the_prediction_counts(targets: Targets, open_body: Smpl, part: int) -> None:
    config = LossConfig()
    start = regression_loss(truth(targets), targets, open_body, config)
    wrong = list(truth(targets))
    wrong[part] = wrong[part].roll(1, 0)
    assert (regression_loss(RegressorOutput(*wrong), targets, open_body, config) > start).all()


def test_points_are_compared_with_the_true_shape(targets: Targets, open_body: Smpl) -> None:
    """A wrong shape costs its own term only: uncertain poses must not shrink people."""
    config = LossConfig(betas=0)
    start = regression_loss(truth(targets), targets, open_body, config)
    wrong = truth(targets)._replace(pred_betas=targets.betas + 1)
    torch.testing.assert_close(regression_loss(wrong, targets, open_body, config), start)


def test_people_do_not_see_each_other(targets: Targets, open_body: Smpl) -> None:
    everyone = regression_loss(truth(targets), targets, open_body, LossConfig())
    rows = torch.tensor([3, 7])
    few = targets.take(rows)
    torch.testing.assert_close(
        regression_loss(truth(few), few, open_body, LossConfig()), everyone[rows]
    )


def test_gradients_are_finite_at_the_truth(targets: Targets, open_body: Smpl) -> None:
    output = RegressorOutput(*(part.clone().requires_grad_() for part in truth(targets)))
    regression_loss(output, targets, open_body, LossConfig()).sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in output)


def test_body_points_are_about_the_pelvis(targets: Targets, open_body: Smpl) -> None:
    points = body_points(open_body, targets.rotmat, targets.betas)
    assert points.joints[:, 0].abs().max() == 0


def test_the_trunks_own_landmarks_are_compared(targets: Targets) -> None:
    """A trunk without error costs nothing; shifts of half a frame or 10 cm cost their weight."""
    rows = list(LANDMARK_ROWS)
    landmarks, world = torch.zeros(12, 39, 5), torch.zeros(12, 39, 3)
    landmarks[:, rows, :2] = (targets.landmarks_2d + 1) * (INPUT_SIZE / 2)
    world[:, rows] = targets.landmarks - targets.landmarks[:, 11:13].mean(1, keepdim=True)
    perfect = BlazePoseOutput(landmarks, world, torch.ones(12), torch.zeros(12, 4))
    config = LossConfig(trunk_landmarks=2, trunk_world=4)
    assert trunk_error(perfect, targets, config).abs().max() < 1e-5

    shifted = landmarks.clone()
    shifted[..., :2] += 0.5 * targets.size[:, None] * (INPUT_SIZE / 2)
    loss = trunk_error(perfect._replace(landmarks=shifted), targets, config)
    torch.testing.assert_close(loss, torch.full((12,), 1.0), rtol=1e-4, atol=1e-4)
    loss = trunk_error(perfect._replace(world=world + 0.1), targets, config)
    torch.testing.assert_close(loss, torch.full((12,), 0.4), rtol=1e-4, atol=1e-4)
