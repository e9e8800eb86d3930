"""``eft-fast calibrate`` and ``eft-fast eval photos`` from outside."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast.body import load_body
from eft_fast.cli import main
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models import load_regressor
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.keypoint_noise import load_keypoint_noise
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("regressor") / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="Apache-2.0", source_sha256="0")
    return str(path)


def make_pairs(count: int = 200) -> dict[str, np.ndarray]:
    """Answers that are off by known amounts: 0.1 rad in every number of the pose."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    gt_rotmat, turn = axis_angle_to_matrix(0.3 * draw(24, 3)), 0.1 * draw(24, 3)
    gt_cam = torch.tensor([0.8, 0.0, 0.1]) + 0.05 * draw(3)
    gt_betas = draw(10)
    return {
        "pred_rotmat": (gt_rotmat @ axis_angle_to_matrix(turn)).numpy(),
        "pred_betas": (gt_betas + 0.5 * draw(10)).numpy(),
        "pred_cam": (gt_cam + 0.02 * draw(3)).numpy(),
        "gt_rotmat": gt_rotmat.numpy(),
        "gt_betas": gt_betas.numpy(),
        "gt_cam": gt_cam.numpy(),
    }


def test_calibrate_on_renders(tiny, tmp_path, capsys):
    out = tmp_path / "new" / "tiny.error_covariance.npz"
    arguments = ["calibrate", "--regressor", tiny, "--out", str(out), "--count", "86", "--json"]
    assert main([*arguments, "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["people"], summary["body"]) == (86, "open-1")
    assert summary["source"] == "86 renders, poses of the shipped prior, seed 101"
    found = load_error_covariance(load_regressor(tiny), out)
    assert found.weights_hash == summary["weights_hash"]
    assert np.isfinite(found.precision()).all()
    with pytest.raises(ValueError, match="belongs to weights"):
        load_error_covariance(load_regressor(), out)


def test_calibrate_on_pairs(tiny, tmp_path, capsys):
    pairs, out = tmp_path / "pairs.npz", tmp_path / "c.npz"
    arrays = make_pairs()
    np.savez(pairs, **arrays)
    arguments = ["calibrate", "--regressor", tiny, "--pairs", str(pairs), "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    degrees = np.rad2deg(0.1 * 3**0.5)
    assert summary["root_deg"] == pytest.approx(degrees, rel=0.1)
    assert summary["joints_deg"] == pytest.approx(degrees, rel=0.05)
    assert summary["betas"] == pytest.approx(0.5, rel=0.05)
    spread = np.diagonal(load_error_covariance(load_regressor(tiny), out).second_moment)

    # The same truth as joints in the crop instead of a camera: the camera is found again.
    body = load_body()
    rotmat = torch.from_numpy(arrays["gt_rotmat"])
    joints = body.keypoints(
        torch.from_numpy(arrays["gt_betas"]), rotmat[:, 1:], rotmat[:, :1], joint_set="smpl24",
        pose2rot=False,
    ).numpy()  # fmt: skip
    cam = arrays.pop("gt_cam")
    arrays["gt_joints_2d"] = cam[:, None, :1] * joints[..., :2] + cam[:, None, 1:]
    np.savez(pairs, **arrays)
    assert main(arguments) == 0
    again = load_error_covariance(load_regressor(tiny), out)
    np.testing.assert_allclose(np.diagonal(again.second_moment), spread, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gt_betas": None}, "got no gt_betas"),
        ({"gt_cam": None}, "got no gt_joints_2d"),
        ({"pred_cam": np.zeros((200, 4))}, "pred_cam must be [200, 3], got [200, 4]"),
        ({name: part[:9] for name, part in make_pairs().items()}, "at least 85 people"),
    ],
)
def test_wrong_pairs_are_one_sentence(change, words, tiny, tmp_path, capsys):
    arrays = {k: v for k, v in (make_pairs() | change).items() if v is not None}
    np.savez(tmp_path / "pairs.npz", **arrays)
    arguments = ["calibrate", "--regressor", tiny, "--pairs", str(tmp_path / "pairs.npz")]
    assert main([*arguments, "--out", str(tmp_path / "c.npz"), "--quiet"]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert words in sentence
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--out", "c.txt"], "--out must be an .npz"),
        (["--out", "c.npz", "--count", "84"], "at least 85"),
        (["--out", "c.npz", "--motion", "absent"], "--motion must be a folder"),
        (["--out", "c.npz", "--pairs", "absent.npz"], "--pairs must be a file"),
        (["--out", "c.npz", "--regressor", "absent.pt"], "--regressor must be one of open, open-1"),
    ],
)
def test_wrong_use_of_calibrate(more, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *more]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert words in sentence
    assert sentence.startswith("eft-fast calibrate: ")
    assert sentence.count("eft-fast calibrate") == 1 or "see" in sentence


def test_pairs_and_renders_exclude_each_other(tmp_path, capsys):
    np.savez(tmp_path / "p.npz", **make_pairs(3))
    arguments = ["calibrate", "--pairs", str(tmp_path / "p.npz"), "--count", "100"]
    assert main([*arguments, "--out", str(tmp_path / "c.npz")]) == 2
    assert "--count is about rendered people" in capsys.readouterr().err


def test_calibrate_a_detector(tmp_path, capsys):
    rng = np.random.default_rng(0)
    true = np.concatenate([rng.uniform(0, 300, (30, 17, 2)), np.ones((30, 17, 1))], 2)
    found = true + rng.normal(size=true.shape) * [3, 3, 0]
    np.savez(tmp_path / "p.npz", keypoints=found, gt_keypoints=true, extent=np.full(30, 100.0))
    arguments = ["calibrate", "--keypoint-pairs", str(tmp_path / "p.npz"), "--json"]
    assert main([*arguments, "--out", str(tmp_path / "n.npz")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["keypoints"], summary["confidence"]) == (510, [1.0])
    noise = load_keypoint_noise(tmp_path / "n.npz")
    assert noise.sigma.tolist() == summary["sigma"]
    assert noise.sigma_of(1.0) == pytest.approx(0.03, rel=0.1)
    assert main([*arguments, "--out", str(tmp_path / "m.npz"), "--seed", "3"]) == 2
    assert "leave it out beside --keypoint-pairs" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path):
    """Two photos with one labelled person each, as COCO writes them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2):
        name = f"{number}.png"
        pixels = rng.integers(0, 256, (240, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        points = np.column_stack([rng.uniform(60, 140, 17), rng.uniform(30, 210, 17)])
        flags = np.full(17, 2)
        flags[number] = 0
        annotations.append({
            "id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
            "bbox": [50, 20, 100, 200], "area": 20000.0, "num_keypoints": 16,
            "keypoints": np.column_stack([points, flags]).ravel().tolist(),
        })  # fmt: skip
        images.append({"id": number, "file_name": name, "width": 200, "height": 240})
    path = tmp_path / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder, path


def test_eval_photos(photos, tiny, tmp_path, capsys):
    folder, annotations = photos
    page = tmp_path / "out" / "page.md"
    arguments = ["eval", "photos", str(folder), "--annotations", str(annotations), "--draws", "2"]
    arguments += ["--methods", "none", "smplify_spin_gmm", "--limb", "--outliers", "0.1"]
    arguments += ["--all-given"]
    arguments += ["--regressor", tiny, "--out", str(page), "--quiet", "--json"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["people"] == 2
    assert list(summary["methods"]) == ["none", "smplify_spin_gmm"]
    for row in summary["methods"].values():
        for key in ("given_pck_0.1", "given_pck_0.05", "withheld_pck_0.1"):
            assert 0 <= row[key] <= 1
        assert row["withheld_error"] > 0
        assert row["fits_per_second"] > 0
    assert [form["form"] for form in summary["forms"]] == ["random", "limb", "outliers", "all"]
    assert summary["forms"][0]["methods"] == summary["methods"]
    text = page.read_text()
    assert "--draws 2 --limb --outliers 0.1 --all-given --methods none smplify_spin_gmm" in text
    assert str(folder) not in text
    assert json.loads(page.with_suffix(".json").read_text()) == summary


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods", "smplify_spn_gmm"], "did you mean 'smplify_spin_gmm'"),
        (["--withhold", "1"], "withhold must be in (0, 1)"),
        (["--out", "page.html"], "--out must be an .md"),
        (["--min-area", "1e9"], "nobody to fit"),
    ],
)
def test_wrong_use_of_eval_photos(more, words, photos, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", "photos", str(photos[0]), "--annotations", str(photos[1])]
    assert main([*arguments, "--regressor", tiny, "--quiet", *more]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert words in sentence
    assert not (tmp_path / "photo_truth.md").exists()
