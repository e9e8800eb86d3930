"""Fits of known quality, without running a fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_fast.body import load_body
from eft_fast.keypoints import JOINT_SETS
from eft_fast.result import FitResult, Prediction, SmplParams


@pytest.fixture
def fits() -> FitResult:
    """Six people whose annotation is their own projection, so that the 2D loss is zero."""
    torch.manual_seed(5)
    count = 6
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    pose = torch.eye(3).expand(count, 23, 3, 3).clone()
    params = SmplParams(0.3 * torch.randn(count, 10), flip.expand(count, 1, 3, 3).clone(), pose)
    cam = torch.tensor([[0.8, 0.1, 0.2]]).repeat(count, 1)
    nan = torch.full((count,), float("nan"))
    result = FitResult(
        params=params,
        pred_cam=cam,
        init=Prediction(params, cam.clone()),
        bbox_center=torch.rand(count, 2) * 100 + 200,
        bbox_scale=torch.rand(count) + 0.5,
        loss=nan,
        init_loss=nan,
        kp_error_px=torch.zeros(count),
        init_kp_error_px=torch.ones(count),
        steps=torch.zeros(count, dtype=torch.int64),
        stop_reason=("converged",) * count,
        message=("",) * count,
        keypoints=torch.zeros(count, 17, 3),
        joint_set="coco17",
        body_id="open-1",
        regressor_id="open-1:2d9ea62d0ab9f4fd",
        method="eft",
        mode="full",
        _body=load_body(),
    )
    # The points that the loss compares: names of two sets may stand for slightly other points.
    places = [25 + place for place in JOINT_SETS["coco17"].to_j24]
    points = result.keypoints_2d_px("spin49")[:, places]
    return replace(result, keypoints=torch.cat([points, torch.ones(count, 17, 1)], -1))
