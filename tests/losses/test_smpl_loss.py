from __future__ import annotations

import torch

from eft_fast.losses.smpl import betas_loss, rotmat_loss


def test_parameter_losses_are_means_per_person():
    zeros, ones = torch.zeros(2, 24, 3, 3), torch.ones(2, 24, 3, 3)
    ones[1] = 2
    assert rotmat_loss(zeros, ones).tolist() == [1, 4]
    assert betas_loss(torch.zeros(1, 10), torch.full((1, 10), 3.0)).tolist() == [9]
