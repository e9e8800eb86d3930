"""All people of a photo in one picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.body import load_body
from eft_fast.result import FitResult, Prediction, SmplParams
from eft_fast.viz.fits import write_together
from eft_fast.viz.overlay import overlay
from eft_fast.viz.together import draw_together

PHOTO = np.full((200, 260, 3), (60, 120, 60), np.uint8)


@pytest.fixture
def result() -> FitResult:
    """Two people who stand; the second is nearer, larger, and covers a part of the first."""
    turns = torch.eye(3).repeat(2, 24, 1, 1)
    turns[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    params = SmplParams.from_rotmat(turns, torch.zeros(2, 10))
    cam = torch.tensor([[0.8, 0.0, 0.0], [0.8, 0.0, 0.0]])
    nan = torch.full((2,), float("nan"))
    return FitResult(
        params=params, pred_cam=cam, init=Prediction(params, cam.clone()),
        bbox_center=torch.tensor([[110.0, 100], [128, 100]]),
        bbox_scale=torch.tensor([0.7, 0.9]), loss=nan, init_loss=nan,
        kp_error_px=nan, init_kp_error_px=nan, steps=torch.zeros(2, dtype=torch.int64),
        stop_reason=("converged",) * 2, message=("",) * 2, keypoints=torch.zeros(2, 17, 3),
        joint_set="coco17", body_id="open-1", regressor_id="open-1", method="map", mode="open",
        _body=load_body(),
    )  # fmt: skip


def mask_of(result, row):
    points = result.to_photo(result.vertices())[row].double().numpy()
    white = np.full_like(PHOTO, 255)
    return (overlay(white, points, load_body().faces, samples=2) < 255).any(-1)


def test_the_nearer_hides_the_farther(result):
    far, near = mask_of(result, 0), mask_of(result, 1)
    both = far & near
    assert both.sum() > 300
    for rows in ([0, 1], [1, 0]):
        drawn = draw_together(PHOTO, result[rows]).astype(int)
        alone = draw_together(PHOTO, result[[1]]).astype(int)
        # But for the seam, what both cover looks as if the nearer were alone.
        same = np.abs(drawn - alone).max(-1)[both] <= 3
        assert same.mean() > 0.85
        assert (drawn[~(far | near)] == PHOTO[0, 0]).all()
    # Sizes decide: with the sizes exchanged the other one is in front.
    swapped = replace(result, bbox_scale=result.bbox_scale.flip(0))
    both = mask_of(swapped, 0) & mask_of(swapped, 1)
    drawn = draw_together(PHOTO, swapped).astype(int)
    alone = draw_together(PHOTO, swapped[[0]]).astype(int)
    assert (np.abs(drawn - alone).max(-1)[both] <= 3).mean() > 0.85


def test_opacity_and_those_who_are_not_finite(result):
    lost = replace(result, pred_cam=torch.tensor([[0.8, 0, 0], [float("nan"), 0, 0]]))
    only = draw_together(PHOTO, lost)
    assert np.array_equal(only, draw_together(PHOTO, result[[0]]))
    assert np.array_equal(draw_together(PHOTO, result, opacity=0), PHOTO)
    half = draw_together(PHOTO, result, opacity=0.5).astype(int)
    whole = draw_together(PHOTO, result, opacity=1.0).astype(int)
    np.testing.assert_allclose(half, (whole + PHOTO) / 2, atol=2)
    with pytest.raises(ValueError, match="must be uint8 RGB"):
        draw_together(PHOTO.astype(float), result)


def test_pictures_of_photos_with_several_people(result, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    people = result[[0, 1, 0, 0, 1]]
    a = str(tmp_path / "a.png")
    photos = ["", a, str(tmp_path / "gone.png"), a, str(tmp_path / "gone.png")]
    names = ["", "a.png", "gone.png", "a.png", "gone.png"]
    written = write_together(people, photos, names, tmp_path / "out")
    assert [path.name for path in written] == ["00002_a.jpg"]
    assert Image.open(written[0]).size == (260, 200)
    with pytest.raises(ValueError, match="one photo per fit expected, got 1 for 5"):
        write_together(people, [""], names, tmp_path / "out")
