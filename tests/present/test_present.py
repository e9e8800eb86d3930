"""Results in words, as a table, and over their photos."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.body import load_body
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.present.table import to_columns
from eft_fast.result import FitResult, Prediction, SmplParams

PHOTO = np.full((120, 100, 3), (40, 90, 30), np.uint8)


@pytest.fixture
def result() -> FitResult:
    """Three people who stand upright, the last of them without a fit."""
    turns = torch.eye(3).repeat(3, 24, 1, 1)
    turns[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    betas = torch.zeros(3, 10)
    betas[1, 0] = 1.5
    betas[2] = float("nan")
    params = SmplParams.from_rotmat(turns, betas)
    cam = torch.tensor([[0.8, 0, 0.2]]).repeat(3, 1)
    nan = float("nan")
    return FitResult(
        params=params, pred_cam=cam, init=Prediction(params, cam.clone()),
        bbox_center=torch.tensor([[50.0, 60]]).repeat(3, 1), bbox_scale=torch.full((3,), 0.6),
        loss=torch.zeros(3), init_loss=torch.zeros(3), kp_error_px=torch.tensor([2.0, 6.0, nan]),
        init_kp_error_px=torch.tensor([9.0, 11.0, nan]), steps=torch.zeros(3, dtype=torch.int64),
        stop_reason=("converged", "converged", "bad_image"), message=("", "", "no file <b>"),
        keypoints=torch.ones(3, 17, 3), joint_set="coco17", body_id="open-1",
        regressor_id="open-1", method="map", mode="open", photo=("a/x.png", "a/y.png", "<i>.png"),
        id=("7", "8", "9"), joint_sigma_mm=torch.full((3, 24), 40.0), _body=load_body(),
    )  # fmt: skip


def test_five_lines(result):
    lines = repr(result).splitlines()
    assert len(lines) == 5
    assert lines[0] == "FitResult: 3 people in 3 photos; method map, mode open, keypoints coco17"
    assert lines[1] == "  ended   2 converged, 1 bad_image; 1 with a message"
    assert lines[2].startswith("  error   median 4.0 px (4.0 % of the box)".replace(" %", "%"))
    assert lines[2].endswith("start 10.0 px; worst 6.0 px, row 1 (y.png)")
    assert lines[3] == "  sure    joints within 40.0 mm with 68 %"
    assert lines[4] == "  models  body open-1, regressor open-1"
    for rows in ([], [0], [2]):
        assert len(repr(result[rows]).splitlines()) == 5
    bare = replace(result, joint_sigma_mm=None, photo=(), id=())
    assert "the method says nothing" in repr(bare)
    assert repr(bare).startswith("FitResult: 3 people; ")


def test_html_escapes_and_limits(result):
    text = result._repr_html_()
    assert "<b>" not in text
    assert "<i>" not in text
    assert "no file &lt;b&gt;" in text
    many = result[[0] * 25]._repr_html_()
    assert many.count("<tr>") == 21
    assert "and 5 more" in many


def test_two_results_become_one(result):
    both = result[:1] + result[1:]
    assert both.photo == result.photo
    assert torch.equal(both.pred_cam, result.pred_cam)
    with pytest.raises(TypeError, match="unsupported operand"):
        result + 3
    with pytest.raises(ValueError, match="must be of one method"):
        result + replace(result, method="eft")


def test_axis_angle_is_the_pose(result):
    vectors = result.params.axis_angle
    assert vectors.shape == (3, 24, 3)
    back = axis_angle_to_matrix(vectors.double()).float()
    np.testing.assert_allclose(back, result.params.full_pose, atol=1e-6)
    assert float(vectors[0, 0].norm()) == pytest.approx(np.pi, abs=1e-5)


def test_measures_are_those_of_the_mesh(result):
    found = result.measures()
    body = load_body()
    mesh = body(result.params.betas[:2], return_verts=True)
    height = mesh.vertices[..., 1].amax(1) - mesh.vertices[..., 1].amin(1)
    np.testing.assert_allclose(found["height"][:2], height, atol=1e-5)
    assert torch.isnan(found["height"][2])
    thigh = (mesh.joints[:, 1] - mesh.joints[:, 4]).norm(dim=1)
    np.testing.assert_allclose(found["left_thigh"][:2], thigh, atol=1e-6)
    assert 1.5 < float(found["height"][0]) < 1.9
    assert 0.2 < float(found["right_forearm"][0]) < 0.35
    assert result[[]].measures()["height"].shape == (0,)


def test_angles_are_those_of_the_bones(result):
    """A knee bent by 70 degrees, an arm from the T-pose, a trunk that leans by 20 degrees."""
    turns = result.params.full_pose[:1].clone()
    turns[:, 4] = axis_angle_to_matrix(torch.tensor([[np.radians(70), 0.0, 0.0]]).float())
    lean = axis_angle_to_matrix(torch.tensor([[0.0, 0.0, np.radians(20)]]).float())
    straight = result[:1].joint_angles_deg()
    turns[:, 0] = turns[:, 0] @ lean
    bent = replace(
        result[:1], params=SmplParams.from_rotmat(turns, torch.zeros(1, 10))
    ).joint_angles_deg()
    assert float(straight["left_knee"][0]) < 10
    assert float(bent["left_knee"][0]) == pytest.approx(70, abs=10)
    assert float(bent["right_knee"][0]) == pytest.approx(float(straight["right_knee"][0]), abs=0.01)
    assert float(straight["left_shoulder"][0]) == pytest.approx(90, abs=12)
    assert float(bent["trunk"][0]) == pytest.approx(20, abs=6)
    assert all(0 <= float(value[0]) <= 180 for value in bent.values())


def test_table(result, monkeypatch):
    columns = to_columns(result, pose=True)
    assert {len(column) for column in columns.values()} == {3}
    assert columns["photo"] == ["a/x.png", "a/y.png", "<i>.png"]
    np.testing.assert_allclose(columns["kp_error_share"][:2], [0.02, 0.06], rtol=1e-5)
    np.testing.assert_allclose(columns["beta_0"][:2], [0, 1.5])
    np.testing.assert_allclose(columns["pose_pelvis_x"][0], np.pi, atol=1e-5)
    assert "pose_pelvis_x" not in to_columns(result)
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = result.to_dataframe()
    assert frame.shape[0] == 3
    assert list(frame.columns) == list(to_columns(result))
    assert frame.sort_values("kp_error_px").iloc[0]["photo"] == "a/x.png"
    assert isinstance(frame, pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="to_dataframe needs pandas; pip install pandas"):
        result.to_dataframe()


def test_pictures(result, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "x.png")
    named = replace(result, photo=(str(tmp_path / "x.png"), str(tmp_path / "gone.png"), ""))
    shown = named.show(0, height=150)
    again = named.show(0, PHOTO, height=150)
    assert np.array_equal(np.asarray(shown), np.asarray(again))
    assert (np.asarray(shown).reshape(-1, 3) == PHOTO[0, 0]).all(1).any()
    tensor = named.show(0, torch.from_numpy(PHOTO).permute(2, 0, 1), height=150)
    assert np.array_equal(np.asarray(shown), np.asarray(tensor))
    for row in (1, 2):  # a photo that is gone, nobody fitted
        assert (np.asarray(named.show(row, height=150)).reshape(-1, 3) == 96).all(1).any()
    sheet = named.plot(height=150)
    assert sheet.height > 3 * 150
    assert sheet._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(IndexError, match="index 3 is out of range for 3 people"):
        named.show(3)
    with pytest.raises(ValueError, match="one photo per person expected, got 1 for 3"):
        named.plot([PHOTO])
    with pytest.raises(ValueError, match="at least one person expected"):
        named[[]].plot()
