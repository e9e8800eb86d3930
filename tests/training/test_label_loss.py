"""The loss of learning from labels: each term by hand, and what unknown labels cost."""

from __future__ import annotations

import pytest
import torch

from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.training.label_loss import LabelLossConfig, label_loss, points_loss
from eft_fast.training.labels import Labels

NOTHING = LabelLossConfig(
    keypoint=0, points_3d=0, pose=0, betas=0, camera=0, prior=0, prior_betas=0, total=1
)


def make_output(seed: int, count: int = 3) -> RegressorOutput:
    generator = torch.Generator().manual_seed(seed)
    pose = 0.3 * torch.randn(count, 24, 3, generator=generator)
    betas = torch.randn(count, 10, generator=generator)
    camera = torch.tensor([[0.9, 0.1, -0.2]]).expand(count, 3)
    return RegressorOutput(axis_angle_to_matrix(pose), betas, camera)


def points_of(body, output):
    return body.keypoints(
        output.pred_betas,
        output.pred_rotmat[:, 1:],
        output.pred_rotmat[:, :1],
        joint_set="spin49",
        pose2rot=False,
    )


def make_labels(body, output: RegressorOutput) -> Labels:
    points = points_of(body, output)
    flat = weak_project(points, output.pred_cam)
    ones = torch.ones(len(flat), 49, 1)
    return Labels(
        torch.cat([flat, ones], -1),
        output.pred_rotmat,
        torch.ones(len(flat), 24),
        output.pred_betas,
        torch.ones(len(flat)),
        torch.cat([points[:, 25:], torch.ones(len(flat), 24, 1)], -1),
    )


def only(**weights: float) -> LabelLossConfig:
    return LabelLossConfig(**{**vars(NOTHING), **weights})


def test_the_truth_costs_nothing_but_its_camera(open_body):
    truth = make_output(0)
    labels = make_labels(open_body, truth)
    still = only(keypoint=1, points_3d=1, pose=1, betas=1)
    torch.testing.assert_close(label_loss(open_body, truth, labels, still), torch.zeros(3))
    camera = label_loss(open_body, truth, labels, only(camera=2.0))
    torch.testing.assert_close(camera, 2 * torch.exp(-20 * truth.pred_cam[:, 0]))


def test_each_term_by_hand(open_body):
    truth, other = make_output(0), make_output(1)
    labels = make_labels(open_body, truth)
    weights = torch.rand(3, 24, generator=torch.Generator().manual_seed(2))
    labels = labels._replace(rotmat_weight=weights, betas_weight=torch.tensor([1.0, 0.0, 0.5]))
    gap = (other.pred_rotmat - truth.pred_rotmat).square().flatten(2).mean(2)
    found = label_loss(open_body, other, labels, only(pose=3.0))
    torch.testing.assert_close(found, 3 * (gap * weights).mean(1))
    shape = (other.pred_betas - truth.pred_betas).square().mean(1)
    found = label_loss(open_body, other, labels, only(betas=2.0))
    torch.testing.assert_close(found, 2 * shape * labels.betas_weight)
    flat = weak_project(points_of(open_body, other), other.pred_cam)
    # The OpenPose block holds the same points again and does not count.
    squared = (flat - labels.keypoints_2d[..., :2])[:, 25:].square().sum((1, 2)) / 98
    found = label_loss(open_body, other, labels, only(keypoint=1.0))
    torch.testing.assert_close(found, squared)


def test_points_in_space_are_about_the_hips(open_body):
    points = points_of(open_body, make_output(0))[:, 25:]
    labels = torch.cat([points + 3.0, torch.ones(3, 24, 1)], -1)
    torch.testing.assert_close(points_loss(points, labels), torch.zeros(3), atol=1e-10, rtol=0)
    labels[1, 2, 3] = 0  # right hip not known: nothing to compare about
    labels[2, 6, :3] += torch.tensor([0.1, 0.0, 0.0])
    expected = torch.tensor([0.0, 0.0, 0.01 / 72])
    torch.testing.assert_close(points_loss(points, labels), expected, atol=1e-7, rtol=1e-4)


def test_priors_count_for_whom_nothing_is_known(open_body):
    output = make_output(1)
    labels = make_labels(open_body, make_output(0))
    labels.rotmat_weight[1] = 0
    labels.betas_weight[1] = 0
    prior = load_pose_prior().mixture.to(open_body.v_template)
    found = label_loss(open_body, output, labels, only(prior=1.0), prior)
    assert found[0] == found[2] == 0
    assert found[1] > 1
    shape = label_loss(open_body, output, labels, only(prior_betas=1.0))
    torch.testing.assert_close(shape[1], output.pred_betas[1].square().mean())
    assert shape[0] == 0


def test_unlabelled_keypoints_may_hold_anything(open_body):
    output = make_output(1)
    labels = make_labels(open_body, make_output(0))
    labels.keypoints_2d[:, 30:, 2] = 0
    expected = label_loss(open_body, output, labels, LabelLossConfig(prior=0))
    labels.keypoints_2d[:, 30:, :2] = float("nan")
    assert torch.equal(label_loss(open_body, output, labels, LabelLossConfig(prior=0)), expected)


def test_weights_must_be_numbers():
    with pytest.raises(ValueError, match="pose must be 0 or more, got nan"):
        LabelLossConfig(pose=float("nan"))
