"""Files of fits become the FitResult that they were written from."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.pseudo_gt import FORMATS, PersonNames, load_fits, write_fits
from eft_fast.pseudo_gt.read import READABLE
from eft_fast.result import FitResult, Prediction, SmplParams


@pytest.fixture
def rich(fits: FitResult, tmp_path: Path) -> FitResult:
    """Fits that say everything that a fit can say, in poses of their own, with photos."""
    count = len(fits)
    photos = []
    for row in range(count):
        path = tmp_path / "photos" / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), row, np.uint8)).save(path)
        photos.append(str(path))
    full = axis_angle_to_matrix(0.3 * torch.randn(count, 24, 3)) @ fits.params.full_pose
    start = axis_angle_to_matrix(0.3 * torch.randn(count, 24, 3)) @ fits.params.full_pose
    sigma = 40 * torch.rand(count, 24)
    sigma[2] = float("nan")
    intrinsics = torch.eye(3).expand(count, 3, 3).clone() * 1000
    intrinsics[:, 2, 2] = 1
    intrinsics[4] = float("nan")
    return replace(
        fits,
        params=SmplParams.from_rotmat(full, fits.params.betas),
        init=Prediction(
            SmplParams.from_rotmat(start, torch.randn(count, 10)), torch.randn(count, 3)
        ),
        loss=torch.rand(count),
        init_loss=torch.rand(count),
        steps=torch.arange(count),
        stop_reason=("converged", "max_steps", "nan", "converged", "max_steps", "converged"),
        message=("", "odd", "", "", "", ""),
        joint_confidence=torch.rand(count, 24),
        joint_sigma_mm=sigma,
        intrinsics=intrinsics,
        photo=tuple(photos),
        id=("7", "8", "9", "x/1", "11", "11#2"),
    )


def parts_of(result: FitResult) -> dict[str, object]:
    """Every value of a result under one flat name."""
    values: dict[str, object] = {}
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, SmplParams):
            values |= {f"{item.name}.pose": value.full_pose, f"{item.name}.betas": value.betas}
        elif isinstance(value, Prediction):
            values |= {"init.pose": value.params.full_pose, "init.betas": value.betas}
            values["init.cam"] = value.pred_cam
        elif item.name != "_body":
            values[item.name] = value
    return values


def assert_same(one: FitResult, other: FitResult, names: tuple[str, ...] | None = None) -> None:
    left, right = parts_of(one), parts_of(other)
    for name in names or tuple(left):
        expected, got = left[name], right[name]
        if isinstance(expected, Tensor):
            assert isinstance(got, Tensor), name
            assert got.dtype == expected.dtype, name
            assert np.array_equal(expected.numpy(), got.numpy(), equal_nan=True), name
        else:
            assert got == expected, name


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_our_own_formats_keep_everything(rich: FitResult, tmp_path: Path, kind: str) -> None:
    path, count = write_fits(rich, PersonNames(), kind, tmp_path / f"out.{kind}")
    assert count == len(rich)
    loaded = load_fits(path)
    assert loaded.kind == kind
    assert_same(rich, loaded.result)
    assert loaded.names.photos == rich.photo


#: What formats of other programs have room for; keypoints come back as the 49.
CORE = (
    "params.pose", "params.betas", "pred_cam", "bbox_center", "bbox_scale", "loss", "init_loss",
    "kp_error_px", "init_kp_error_px", "steps", "stop_reason", "joint_sigma_mm", "joint_confidence",
    "intrinsics", "body_id", "regressor_id", "method", "mode",
)  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["eft-json", "eft-pickle", "spin-npz", "hmr2-tar", "humandata-npz"]
)
def test_other_formats_keep_fit_and_error_bars(rich: FitResult, tmp_path: Path, kind: str) -> None:
    ending = {"eft-json": ".json", "hmr2-tar": ".tar", "eft-pickle": ""}.get(kind, ".npz")
    path, count = write_fits(rich, PersonNames(), kind, tmp_path / f"out{ending}")
    assert count == len(rich)
    loaded = load_fits(path)
    assert loaded.kind == kind
    assert loaded.notes == ()
    assert_same(rich, loaded.result, CORE)
    assert loaded.result.joint_set == "spin49"
    assert loaded.result.kp_error_px.equal(rich.kp_error_px)
    # The same people once more, from the result that was read: nothing wears off.
    again = tmp_path / f"again{ending}"
    write_fits(loaded.result, loaded.names, kind, again)
    assert_same(loaded.result, load_fits(again).result)


def test_every_format_but_meshes_is_read() -> None:
    assert set(READABLE) == set(FORMATS)


@pytest.mark.parametrize("kind", ["amass-npz", "smpl"])
def test_motions_come_back(rich: FitResult, tmp_path: Path, kind: str) -> None:
    """Turned to z up and back; one shape for all frames, and of AMASS no hands."""
    betas = rich.params.betas[:1].expand(6, 10).clone()
    cam = torch.tensor([[0.8, 0.1, 0.2]]).repeat(6, 1) + 0.05 * torch.rand(6, 3)
    rich = replace(rich, params=replace(rich.params, betas=betas), pred_cam=cam)
    ending = ".smpl" if kind == "smpl" else ".npz"
    names = PersonNames(tracks=["walker"] * 6)
    path, _ = write_fits(rich, names, kind, tmp_path / f"walk{ending}")
    read = load_fits(path)
    joints = slice(0, 24 if kind == "smpl" else 22)
    torch.testing.assert_close(
        read.result.params.full_pose[:, joints], rich.params.full_pose[:, joints],
        rtol=0, atol=2e-6,
    )  # fmt: skip
    torch.testing.assert_close(read.result.pred_cam, rich.pred_cam, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read.result.params.betas, betas, rtol=0, atol=1e-6)
    assert list(read.names.tracks) == ["walk"] * 6


def test_missing_cameras_are_fitted_to_the_keypoints(fits: FitResult, tmp_path: Path) -> None:
    """SPIN's own files have none; the fixture's keypoints are the projection of its camera."""
    path, _ = write_fits(fits, PersonNames(), "spin-npz", tmp_path / "fits.npz")
    with np.load(path) as archive:
        arrays = {
            name: archive[name] for name in archive.files if name not in ("pred_cam", "rotmat")
        }
    arrays["part"][1] = 0
    np.savez(path, **arrays)
    loaded = load_fits(path)
    cam = loaded.result.pred_cam
    torch.testing.assert_close(cam[2:], fits.pred_cam[2:], rtol=0, atol=2e-3)
    assert torch.isnan(cam[1]).all()
    assert loaded.notes == ("5 people have no camera in the file; it was fitted to the keypoints",)
    del arrays["body_id"]
    np.savez(path, **arrays)
    loaded = load_fits(path)
    assert loaded.result.body_id == "smpl-neutral"
    assert "none can be fitted without the body smpl-neutral" in loaded.notes[0]


def test_what_a_file_does_not_say_is_nan(fits: FitResult, tmp_path: Path) -> None:
    path, _ = write_fits(fits, PersonNames(), "eft-json", tmp_path / "fits.json")
    text = path.read_text()
    import json

    document = json.loads(text)
    keep = ("parm_pose", "parm_shape", "parm_cam", "bbox_scale", "bbox_center",
            "joint_validity_openpose18", "smpltype", "imageName")  # fmt: skip
    document["data"] = [{name: row[name] for name in keep} for row in document["data"]]
    path.write_text(json.dumps(document))
    result = load_fits(path).result
    assert torch.isnan(result.loss).all()
    assert torch.isnan(result.init.params.betas).all()
    assert result.stop_reason == ("converged",) * 6
    assert (result.body_id, result.method, result.regressor_id) == (
        "smpl-neutral", "unknown", "unknown",
    )  # fmt: skip
    assert not result.keypoints.any()


def test_mistakes(fits: FitResult, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="load_fits: no file or folder"):
        load_fits(tmp_path / "absent")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="must be fits in one of eft-json"):
        load_fits(tmp_path / "x.txt")
    (tmp_path / "x.json").write_text('{"ver": 1, "data": []}')
    with pytest.raises(ValueError, match=r"x\.json holds nobody"):
        load_fits(tmp_path / "x.json")
    with pytest.raises(ValueError, match="none can be put there"):
        write_fits(fits, PersonNames(), "hmr2-tar", tmp_path / "x.tar")


@pytest.mark.parametrize(("change", "words"), [
    ({"poses": np.zeros((2, 165))}, "got one of SMPL-X"),
    ({"betas": np.full(16, np.nan)}, "expected finite betas"),
])  # fmt: skip
def test_motions_of_other_bodies_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    arrays = {"poses": np.zeros((2, 156)), "trans": np.ones((2, 3)), "betas": np.zeros(16)}
    arrays |= {"mocap_framerate": np.array(30.0), **change}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        load_fits(tmp_path / "m.npz")


def test_a_gendered_shape_on_another_body_is_told(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "m.npz", poses=np.zeros((2, 156)), trans=np.ones((2, 3)), betas=np.zeros(16),
        mocap_framerate=30.0, gender=np.array("female"),
    )  # fmt: skip
    (note,) = load_fits(tmp_path / "m.npz").notes
    assert "those of a female body, and mean another shape of open-1" in note
