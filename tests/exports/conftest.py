"""People in random poses, as fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from eft_fast.body import load_body
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.result import FitResult, Prediction, SmplParams


@pytest.fixture
def make_fits() -> Callable[..., FitResult]:
    def make(count: int, spread: float = 0.5) -> FitResult:
        """``count`` people of one shape, seen from the front by pinholes that stand 5 m away."""
        turns = axis_angle_to_matrix(spread * torch.randn(count, 24, 3))
        turns[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ turns[:, 0]
        params = SmplParams.from_rotmat(turns, (0.8 * torch.randn(1, 10)).repeat(count, 1))
        cam = torch.tensor([[0.8, 0.1, 0.2]]).repeat(count, 1)
        nan = torch.full((count,), float("nan"))
        pinhole = torch.tensor([[800.0, 0, 320], [0, 800, 240], [0, 0, 1]])
        return FitResult(
            params=params, pred_cam=cam, init=Prediction(params, cam.clone()),
            bbox_center=320 + 10 * torch.randn(count, 2), bbox_scale=torch.ones(count), loss=nan,
            init_loss=nan, kp_error_px=torch.zeros(count), init_kp_error_px=torch.ones(count),
            steps=torch.zeros(count, dtype=torch.int64), stop_reason=("converged",) * count,
            message=("",) * count, keypoints=torch.zeros(count, 17, 3), joint_set="coco17",
            body_id="open-1", regressor_id="open-1", method="map", mode="full",
            intrinsics=pinhole.repeat(count, 1, 1), _body=load_body(),
        )  # fmt: skip

    return make
