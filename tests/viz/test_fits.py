"""Panels and report rows of a FitResult, with a body of one triangle strip."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast import imaging
from eft_fast.result import FitResult, Prediction, SmplParams
from eft_fast.viz import fits
from eft_fast.viz.fits import write_overlays


class SphereBody:
    """Looks like ``Smpl`` to a FitResult: a sphere of 0.5 m that no parameter moves."""

    id = "sphere"

    def __init__(self, vertices, faces):
        self.v_template = torch.as_tensor(vertices, dtype=torch.float32) / 2
        self.faces = faces

    def __call__(self, betas, **_):
        return SimpleNamespace(vertices=self.v_template.expand(len(betas), -1, 3))

    def keypoints(self, betas, *_, **__):
        return torch.zeros(len(betas), 17, 3)


@pytest.fixture
def result(sphere) -> FitResult:
    """Three people at x = 20, 40 and 60 of a photo; the last one's numbers are NaN."""
    eye = torch.eye(3)
    params = SmplParams(torch.zeros(3, 10), eye.expand(3, 1, 3, 3), eye.expand(3, 23, 3, 3))
    cam = torch.tensor([[1.0, 0, 0]] * 3)
    bad = torch.tensor([1.0, 2.0, float("nan")])
    keypoints = torch.zeros(3, 17, 3)
    keypoints[:, 5:9] = torch.tensor([[20.0, 20, 1], [30, 20, 1], [20, 40, 1], [30, 40, 1]])
    return FitResult(
        params=params,
        pred_cam=cam * (bad / bad)[:, None],
        init=Prediction(params, cam),
        bbox_center=torch.tensor([[20.0, 30], [40, 30], [60, 30]]),
        bbox_scale=torch.full((3,), 40 / 200),
        loss=bad,
        init_loss=2 * bad,
        kp_error_px=bad,
        init_kp_error_px=3 * bad,
        steps=torch.tensor([20, 7, 0]),
        stop_reason=("max_steps", "converged", "nan"),
        message=("", "", "eft: the loss is not finite"),
        keypoints=keypoints,
        joint_set="coco17",
        body_id="sphere",
        regressor_id="open-1",
        method="eft",
        mode="full",
        _body=SphereBody(*sphere),
    )


@pytest.fixture
def photo_file(tmp_path, photo):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


def test_panel_and_row_for_everyone(result, photo_file, tmp_path):
    names = ["a/b<c>.jpg", "x.jpg", "x.jpg"]
    rows = write_overlays(result, [photo_file] * 3, names, ["1", "2", "3"], tmp_path / "overlays")
    assert [row.name for row in rows] == names
    assert [row.person for row in rows] == ["1", "2", "3"]
    assert [row.steps for row in rows] == [20, 7, 0]
    assert [row.kp_error_px for row in rows[:2]] == [1, 2]
    assert [row.init_kp_error_px for row in rows[:2]] == [3, 6]
    assert rows[2].message == "eft: the loss is not finite"
    files = sorted(p.name for p in (tmp_path / "overlays").iterdir())
    assert files == ["00001_b_c_.png", "00002_x.png", "00003_x.png"]
    assert [row.panel.name for row in rows] == files
    # The fit that is not finite leaves its tile and its side view out.
    widths = [Image.open(row.panel).width for row in rows]
    assert widths[2] < 0.7 * widths[1]


def test_rows_carry_the_confidence_of_the_regressor(result, photo_file, tmp_path):
    arguments = [photo_file] * 3, ["x"] * 3, [""] * 3, tmp_path
    assert [row.joint_confidence for row in write_overlays(result, *arguments)] == [None] * 3
    confidence = torch.arange(72).reshape(3, 24) / 72
    rows = write_overlays(replace(result, joint_confidence=confidence), *arguments)
    np.testing.assert_allclose(np.stack([row.joint_confidence for row in rows]), confidence.numpy())


def test_photo_is_read_once(result, photo_file, tmp_path, monkeypatch):
    calls = []
    load = imaging.load_image
    monkeypatch.setattr(fits.imaging, "load_image", lambda p: calls.append(p) or load(p))
    write_overlays(result, [str(photo_file)] * 3, ["x"] * 3, [""] * 3, tmp_path)
    assert len(calls) == 1


def test_arrays_and_unreadable_photos(result, photo, tmp_path):
    counted = []
    rows = write_overlays(
        result,
        [photo, tmp_path / "gone.jpg", photo],
        ["x"] * 3,
        [""] * 3,
        tmp_path,
        on_person=lambda: counted.append(1),
    )
    assert [row.panel is None for row in rows] == [False, True, False]
    assert len(counted) == 3


def test_more_people_than_a_chunk_holds(result, photo, tmp_path, monkeypatch):
    whole = write_overlays(result, [photo] * 3, ["x"] * 3, [""] * 3, tmp_path / "whole")
    monkeypatch.setattr(fits, "_CHUNK", 2)
    parts = write_overlays(result, [photo] * 3, ["x"] * 3, [""] * 3, tmp_path / "parts")
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(Image.open(a.panel), Image.open(b.panel))
        assert replace(a, panel=None) == replace(b, panel=None) or np.isnan(a.loss)


def test_nobody_and_wrong_counts(result, photo, tmp_path):
    assert write_overlays(result[:0], [], [], [], tmp_path) == []
    with pytest.raises(ValueError, match="one name per fit expected, got 2 for 3 fits"):
        write_overlays(result, [photo] * 3, ["x"] * 2, [""] * 3, tmp_path)
