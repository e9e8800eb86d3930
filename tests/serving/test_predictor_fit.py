"""Photos and keypoints to fitted bodies through an export: as fit_batch, and without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eft_fast.deploy import verify_folder
from eft_fast.map_fit.config import MapConfig
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import Predictor, load_card
from eft_fast.serving.fitting.asset import load_asset, read_asset
from tests.helpers import make_covariance

BOXES = [[10.0, 5.0, 30.0, 50.0], [40.0, 20.0, 45.0, 45.0], [20.0, 10.0, 50.0, 50.0]]


@pytest.fixture(scope="module")
def predictor(tiny_export):
    return Predictor(tiny_export, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def photo():
    coarse = np.random.default_rng(5).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def keypoints(predictor, photo):
    """Kinematic joints near those of the answers, some not given."""
    answers = predictor([photo] * 3, BOXES).joints_2d_px[:, :24]
    draw = np.random.default_rng(1)
    given = np.ones((3, 24, 3))
    given[..., :2] = answers + draw.normal(size=answers.shape)
    given[:, ::7, 2] = 0.0
    given[:, 1, 0] = np.nan
    return given


@pytest.mark.parametrize("intrinsics", [None, "diagonal", 200.0])
def test_equals_fit_batch(predictor, photo, keypoints, tmp_path, intrinsics):
    from eft_fast.api import fit_batch

    regressor = OpenRegressor.make_tiny()
    make_covariance(regressor).save(tmp_path / "covariance.npz")
    given = {"joint_set": "smpl24", "intrinsics": intrinsics}
    want = fit_batch(
        [photo] * 3,
        keypoints,
        bboxes=BOXES,
        method="map",
        regressor=regressor,
        config=MapConfig(covariance=tmp_path / "covariance.npz"),
        **given,
    )
    got = predictor.fit([photo] * 3, keypoints, BOXES, **given)
    # There the network and the solver run in single precision.
    pose = want.params.full_pose.numpy()
    np.testing.assert_allclose(got.rotmat, pose, atol=2e-3)
    np.testing.assert_allclose(got.betas, want.params.betas, atol=2e-3)
    np.testing.assert_allclose(got.cam, want.pred_cam, atol=1e-3)
    np.testing.assert_allclose(got.bbox_scale, want.bbox_scale, rtol=1e-6)
    np.testing.assert_allclose(got.energy, want.loss, rtol=1e-2)
    np.testing.assert_allclose(got.init_energy, want.init_loss, rtol=1e-3)
    np.testing.assert_allclose(got.kp_error_px, want.kp_error_px, atol=0.02)
    np.testing.assert_allclose(got.init_kp_error_px, want.init_kp_error_px, atol=0.02)
    np.testing.assert_allclose(got.joint_sigma_mm, want.joint_sigma_mm, rtol=1e-2)
    np.testing.assert_allclose(got.joints, want.joints3d(), atol=2e-3)
    np.testing.assert_allclose(got.joints_2d_px, want.keypoints_2d_px(), atol=0.1)
    np.testing.assert_allclose(got.keypoints, want.keypoints, atol=1e-6)
    np.testing.assert_allclose(got.intrinsics, want.intrinsics, rtol=1e-3)
    np.testing.assert_allclose(got.cam_transl, want.cam_transl(), rtol=1e-2, atol=1e-3)
    assert got.stop_reason == want.stop_reason
    assert (got.kp_error_px < got.init_kp_error_px).all()


def test_the_weak_camera_has_no_pinhole(predictor, photo, keypoints):
    config = MapConfig(distance=None, posterior=False)
    fits = predictor.fit([photo] * 3, keypoints, BOXES, joint_set="smpl24", config=config)
    assert np.isnan(fits.intrinsics).all()
    assert np.isnan(fits.cam_transl).all()
    assert np.isnan(fits.joint_sigma_mm).all()
    side = 100 * fits.bbox_scale[:, None, None]
    weak = fits.cam[:, None, :1] * fits.joints[..., :2] + fits.cam[:, None, 1:]
    np.testing.assert_allclose(
        fits.joints_2d_px, fits.bbox_center[:, None] + side * weak, atol=1e-3
    )


def test_bad_people_are_named_and_change_nobody(predictor, photo, keypoints, tmp_path):
    good = predictor.fit([photo] * 3, keypoints, BOXES, joint_set="smpl24")
    points = np.concatenate([keypoints, np.zeros((2, 24, 3)), keypoints[:1]])
    points[4] = np.nan
    photos = [photo, photo, photo, photo, photo, tmp_path / "none.jpg"]
    fits = predictor.fit(photos, points, [*BOXES, *BOXES], joint_set="smpl24")
    assert np.array_equal(fits.rotmat[:3], good.rotmat) or np.allclose(
        fits.rotmat[:3], good.rotmat, atol=1e-4
    )  # another batch of the network may round otherwise
    assert fits.stop_reason[:3] == good.stop_reason
    assert fits.stop_reason[3:] == ("no_keypoints", "no_keypoints", "bad_image")
    answers = predictor([photo] * 2, BOXES[:2])
    for row in (3, 4):
        np.testing.assert_allclose(fits.rotmat[row], answers.rotmat[row - 3], atol=1e-6)
        assert fits.steps[row] == 0
        assert np.isnan(fits.kp_error_px[row])
        assert "no keypoint is labelled" in fits.message[row]
    assert "none.jpg" in fits.message[5]
    assert np.isnan(fits.betas[5]).all()
    fits.save(tmp_path / "fits.npz")
    with np.load(tmp_path / "fits.npz", allow_pickle=False) as file:
        assert list(file["stop_reason"]) == list(fits.stop_reason)
        np.testing.assert_array_equal(file["joint_sigma_mm"], fits.joint_sigma_mm)
    nobody = predictor.fit([], np.zeros((0, 24, 3)), joint_set="smpl24")
    assert nobody.rotmat.shape == (0, 24, 3, 3)


def test_no_boxes_means_those_of_the_keypoints(predictor, photo, keypoints):
    from eft_fast.imaging import Crop, keypoints_to_box

    fits = predictor.fit([photo], np.nan_to_num(keypoints[:1]), joint_set="smpl24")
    crop = Crop.from_box(keypoints_to_box(fits.keypoints[0]), 256)
    np.testing.assert_allclose(fits.bbox_center[0], crop.center)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": np.zeros((3, 17, 3))}, r"keypoints must be \[3, 24, 3\]"),
        ({"keypoints": "none"}, "keypoints must be numbers"),
        ({"boxes": np.zeros((2, 4))}, r"boxes must be \[3, 4\]"),
        ({"joint_set": "coco71"}, "coco71"),
        ({"joint_set": "mpiinf28"}, "joint_set must be one of"),
        ({"intrinsics": -1.0}, "focal length must be positive"),
        ({"config": MapConfig(fill="landmarks")}, "fill must be 'none'"),
    ],
)
def test_wrong_calls_are_refused(predictor, photo, keypoints, change, words):
    call = {"keypoints": keypoints, "boxes": BOXES, "joint_set": "smpl24"} | change
    with pytest.raises(ValueError, match=words):
        predictor.fit([photo] * 3, **call)


def copy_with(tiny_export, folder, **changes):
    """The export with other data to fit with, told of in card and hashes as if it were right."""
    shutil.copytree(tiny_export, folder)
    asset = replace(read_asset(folder / "fit.npz"), **changes)
    (folder / "fit.npz").write_bytes(asset.to_bytes())
    card = load_card(folder)
    digest = hashlib.sha256((folder / "fit.npz").read_bytes()).hexdigest()
    return replace(card, fit_sha256=digest)


def test_the_covariance_of_other_weights_is_refused(tiny_export, tmp_path):
    card = copy_with(tiny_export, tmp_path / "a", weights_hash="0123456789abcdef")
    with pytest.raises(ValueError, match="belongs to weights 0123456789abcdef, the model is open"):
        load_asset(tmp_path / "a", card)
    card = copy_with(tiny_export, tmp_path / "b", body_id="smpl-neutral")
    with pytest.raises(ValueError, match="is about body smpl-neutral"):
        load_asset(tmp_path / "b", card)
    indefinite = np.diag(np.r_[-1.0, np.ones(84)])
    card = copy_with(tiny_export, tmp_path / "c", precision=indefinite)
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        load_asset(tmp_path / "c", card)
    body = read_asset(tiny_export / "fit.npz").body
    card = copy_with(tiny_export, tmp_path / "d", body=replace(body, parents=body.parents + 1))
    with pytest.raises(ValueError, match="its parents belong to no body"):
        load_asset(tmp_path / "d", card)


def test_a_file_that_was_not_exported_is_refused(tiny_export, tmp_path, photo, keypoints):
    folder = shutil.copytree(tiny_export, tmp_path / "copy")
    predictor = Predictor(folder, provider="cpu")
    (folder / "fit.npz").write_bytes((folder / "fit.npz").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"fit.npz is not the file that was exported"):
        predictor.fit([photo] * 3, keypoints, BOXES, joint_set="smpl24")
    with pytest.raises(ValueError, match=r"fit.npz is not the file that was exported"):
        Predictor(folder, provider="cpu")
    report = verify_folder(folder, provider="cpu")
    assert report.checks["fit"] == "failed"
    (folder / "fit.npz").unlink()
    with pytest.raises(ValueError, match=r"no fit.npz in .*; export again"):
        predictor.fit([photo] * 3, keypoints, BOXES, joint_set="smpl24")


def test_damaged_files_are_told_in_a_sentence(tmp_path):
    for number, content in enumerate((b"", b"PK\x03\x04", b"text")):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds nothing to fit with, or is damaged"):
            read_asset(path)


def test_verify_compares_fits_with_torchs(tiny_export, tmp_path):
    report = verify_folder(tiny_export, provider="cpu")
    assert report.checks["fit"] == "passed"
    assert report.fit_difference["rotmat"] < 1e-4
    folder = shutil.copytree(tiny_export, tmp_path / "copy")
    with np.load(folder / "samples.npz") as file:
        samples = dict(file)
    samples["fit/assumed/betas"] = samples["fit/assumed/betas"] + 1e-3
    np.savez(folder / "samples.npz", **samples)
    report = verify_folder(folder, provider="cpu")
    assert report.checks["fit"] == "failed"
    assert "fits in numpy differ from torch's: betas 0.001" in " ".join(report.problems)


def test_without_a_covariance_fits_are_not_possible_in_a_sentence(
    tiny_export, tmp_path, photo, keypoints
):
    from eft_fast.deploy.fit_data import find_fit_asset

    asset, reason = find_fit_asset(OpenRegressor.make_tiny(), None, None)
    assert asset is None
    assert "no error covariance is known of open-1" in reason
    assert "eft-fast calibrate --regressor R --out FILE" in reason
    card = replace(load_card(tiny_export), fit_sha256="")
    with pytest.raises(
        ValueError, match=r"fits are not possible with this export of open-1.*calib"
    ):
        load_asset(tiny_export, card)


def test_a_covariance_of_other_weights_is_not_exported(tmp_path):
    from eft_fast.deploy.fit_data import find_fit_asset

    found = make_covariance(OpenRegressor.make_tiny())
    replace(found, weights_hash="0123456789abcdef").save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="belongs to weights 0123456789abcdef"):
        find_fit_asset(OpenRegressor.make_tiny(), None, tmp_path / "other.npz")


def test_the_command_fits_where_torch_is_not(tiny_export, tmp_path, photo, keypoints):
    Image.fromarray(photo).save(tmp_path / "a.png")
    points = np.zeros((17, 3))
    points[5:] = np.nan_to_num(keypoints[0, 5:17])
    points[5:, 2] = 2
    person = {
        "id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "bbox": BOXES[0],
        "area": 1500, "num_keypoints": 12, "keypoints": points.ravel().tolist(),
    }  # fmt: skip
    people = {
        "images": [{"id": 0, "file_name": "a.png", "width": 90, "height": 70}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [person],
    }
    (tmp_path / "people.json").write_text(json.dumps(people))
    command = ["predict", str(tmp_path / "a.png"), "--model", str(tiny_export), "--json"]
    command += ["--keypoints", str(tmp_path / "people.json"), "--out", str(tmp_path / "f.npz")]
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from eft_fast.cli import main\n"
        f"assert main({command!r}) == 0\n"
        f"assert main(['verify', {str(tiny_export)!r}, '--json']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    fitted, verified = (json.loads(line) for line in done.stdout.splitlines())
    assert fitted["people"] == 1
    assert fitted["stop_reasons"] == {"converged": 1}
    assert fitted["kp_error_px"] < fitted["init_kp_error_px"]
    assert verified["checks"]["fit"] == "passed"
    with np.load(tmp_path / "f.npz") as file:
        assert file["rotmat"].shape == (1, 24, 3, 3)
        assert str(file["joint_set"]) == "coco17"
