from __future__ import annotations

import pytest
import torch

from eft_fast.losses.smpl import betas_loss, joints3d_loss, rotmat_loss, vertices_loss


def test_parameter_losses_are_means_per_person():
    zeros, ones = torch.zeros(2, 24, 3, 3), torch.ones(2, 24, 3, 3)
    ones[1] = 2
    assert rotmat_loss(zeros, ones).tolist() == [1, 4]
    assert betas_loss(torch.zeros(1, 10), torch.full((1, 10), 3.0)).tolist() == [9]
    assert vertices_loss(torch.zeros(1, 5, 3), torch.full((1, 5, 3), -0.5)).tolist() == [0.5]


def test_joints_are_compared_after_centring_on_the_hips():
    joints = torch.randn(2, 24, 3, dtype=torch.float64)
    target = torch.cat([joints + 7, torch.ones(2, 24, 1)], -1)
    torch.testing.assert_close(joints3d_loss(joints, target), torch.zeros(2, dtype=torch.float64))
    target[0, 10, 0] += 0.3
    expected = torch.tensor([0.3**2 / 72, 0], dtype=torch.float64)
    torch.testing.assert_close(joints3d_loss(joints, target), expected)
    target[0, 10, 3] = 0
    torch.testing.assert_close(joints3d_loss(joints, target), torch.zeros(2, dtype=torch.float64))


def test_without_hips_there_is_no_loss():
    joints = torch.randn(1, 24, 3, requires_grad=True)
    target = torch.randn(1, 24, 4).abs()
    target[0, 2, 3] = 0
    loss = joints3d_loss(joints, target)
    loss.sum().backward()
    assert float(loss.detach()) == 0
    assert joints.grad is not None
    assert not joints.grad.any()


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"pred_joints must be \[B, 24, 3\]"):
        joints3d_loss(torch.zeros(1, 49, 3), torch.zeros(1, 24, 4))
