"""The file that fits, of a network that reads keypoints: shown the same, under the same prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import eft_fast
from eft_fast.deploy import ExportConfig, export_regressor
from eft_fast.deploy.fit_data import find_reading
from eft_fast.deploy.fit_graph.reading import readable_keypoints
from eft_fast.deploy.onnx_builder import FLOAT
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.fitter import readable_keypoints as readable_in_torch
from eft_fast.map_rules import MIN_READ
from eft_fast.models.error_covariance import OPEN_COVARIANCES, read_error_covariance
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import Predictor
from eft_fast.serving.fit_card import load_fit_card
from eft_fast.serving.fit_model import FitModel
from tests.deploy.fit_program import run_values
from tests.deploy.web import check_in_web, needs_web
from tests.helpers import make_covariance

#: Writing the file takes minutes: the network is traced and fitted in double precision.
takes_minutes = pytest.mark.slow
#: Keypoints that people are given: everybody in one batch.
COUNTS = (17, 0, MIN_READ - 1, MIN_READ, 11, 17)


@pytest.fixture(scope="module")
def tiny():
    return MoveNetRegressor.make_tiny()


def save_covariance(regressor, path):
    """With keypoints the errors are a third of those without."""
    found = make_covariance(regressor)
    replace(found, second_moment_given=found.second_moment / 9).save(path)
    return path


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    covariance = save_covariance(tiny, folder / "covariance.npz")
    config = ExportConfig(max_batch=2, fit="coco17")
    export_regressor(tiny, folder / "out", config=config, covariance=covariance)
    return folder / "out"


def make_people(regressor, counts=COUNTS):
    """Photos, boxes, and keypoints near the answers to the pictures alone."""
    draw = np.random.default_rng(5)
    coarse = draw.integers(0, 256, (len(counts), 7, 9, 3), dtype=np.uint8)
    photos = [np.asarray(Image.fromarray(c).resize((180, 140), Image.Resampling.BICUBIC))
              for c in coarse]  # fmt: skip
    boxes = np.tile([20.0, 10.0, 100.0, 120.0], (len(counts), 1))
    boxes[1::2] = (50.0, 5.0, 90.0, 90.0)
    start = eft_fast.fit_batch(
        photos, np.zeros((len(counts), 17, 3)), bboxes=boxes, method="none", regressor=regressor,
        joint_set="coco17", progress=False,
    )  # fmt: skip
    keypoints = np.ones((len(counts), 17, 3))
    keypoints[..., :2] = start.keypoints_2d_px().numpy()
    keypoints[..., :2] += 4.0 * draw.normal(size=(len(counts), 17, 2))
    keypoints[..., :2] = keypoints[..., :2].clip(1.0, 138.0)
    for row, count in enumerate(counts):
        keypoints[row, draw.permutation(17)[count:], 2] = 0.0
    keypoints[-1, 3, 2], keypoints[-1, 4, 0] = 0.4, np.nan
    return photos, boxes, keypoints


def check_against_map(regressor, folder, covariance):
    """The file's fits of everybody in one batch, beside ``map`` in Python."""
    photos, boxes, keypoints = make_people(regressor)
    config = eft_fast.MapConfig(covariance=covariance)
    options = dict(method="map", regressor=regressor, joint_set="coco17", progress=False)
    want = eft_fast.fit_batch(photos, keypoints, bboxes=boxes, config=config, **options)
    blind = replace(config, read_keypoints=False)
    alone = eft_fast.fit_batch(photos, keypoints, bboxes=boxes, config=blind, **options)
    got = Predictor(folder, provider="cpu", threads=1).fit(photos, keypoints, boxes, engine="graph")
    reads = np.array(COUNTS) >= MIN_READ
    moved = (want.init.pred_cam - alone.init.pred_cam).abs().amax(1).numpy() > 1e-3
    np.testing.assert_array_equal(moved, reads)
    init = want.init.params
    turns = torch.cat([init.global_orient, init.body_pose], 1)
    for name, value in (("rotmat", turns), ("betas", init.betas), ("cam", want.init.pred_cam)):
        np.testing.assert_allclose(getattr(got, f"init_{name}"), value, atol=1e-3)
    crop_px = regressor.input_size / (boxes[:, 2:].max(1) * regressor.box_margin)
    joints = want.joints3d("smpl24").numpy()
    away = got.smpl_joints - got.smpl_joints[:, :1] - (joints - joints[:, :1])
    assert 1000 * np.linalg.norm(away, axis=-1).mean(1).max() < 1.0
    error = np.linalg.norm(got.joints_2d_px - want.keypoints_2d_px().numpy(), axis=-1).max(1)
    assert (error * crop_px).max() < 0.2
    np.testing.assert_allclose(got.joint_sigma_mm, want.joint_sigma_mm, rtol=0.02, atol=1e-3)
    assert (np.asarray(want.joint_sigma_mm) != np.asarray(alone.joint_sigma_mm)).any(1).sum() == 4


@takes_minutes
def test_in_one_batch_it_is_map_with_none_some_and_all(tiny, exported):
    check_against_map(tiny, exported, exported.with_name("covariance.npz"))


@takes_minutes
def test_the_file_says_that_it_reads(exported):
    assert "the network reads them too" in load_fit_card(exported).inputs["keypoints"]
    names = [value.name for value in onnx.load(exported / "fit.onnx").graph.input]
    assert names == ["image", "keypoints", "sigma", "pinhole"]
    with np.load(exported / "fit_samples.npz") as file:
        given = (file["keypoints"][..., 2] > 0).sum(1)
    assert given.min() == 0
    assert ((given > 0) & (given < MIN_READ)).any()
    assert (given >= MIN_READ).any()


@takes_minutes
def test_a_keypoint_without_a_sigma_is_not_read(exported):
    """As one without a confidence, and as one that is not a number."""
    with np.load(exported / "fit_samples.npz") as file:
        images, keypoints, sigma = (file[name][:1] for name in ("images", "keypoints", "sigma"))
    model, keypoints = FitModel(exported, threads=1), np.abs(keypoints)
    keypoints[..., 2] = 1.0
    ways = [(keypoints.copy(), sigma.copy()) for _ in range(3)]
    ways[0][1][0, 9] = 0.0
    ways[1][0][0, 9, 2] = 0.0
    ways[2][0][0, 9, 1] = np.nan
    whole = model.run(images, keypoints, sigma)["init_rotmat"]
    found = [model.run(images, *way)["init_rotmat"] for way in ways]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - whole).max() > 1e-4


@takes_minutes
@needs_web
def test_the_same_in_onnxruntime_web(exported):
    """With people of whom nothing, too little and enough is given."""
    with np.load(exported / "fit_samples.npz") as file:
        samples = dict(file)
    given = (samples["keypoints"][..., 2] > 0).sum(1)
    assert given.min() == 0
    check_in_web(exported, samples, slice(None))


@pytest.mark.parametrize("joint_set", ["lsp14", "spin49", "smpl24"])
def test_keypoints_of_another_set_are_put_in_order(joint_set):
    draw = np.random.default_rng(0)
    keypoints = draw.normal(size=(5, len(JOINT_SETS[joint_set]), 3))
    keypoints[1] = 0.0
    keypoints[2, MIN_READ:, 2] = 0.0
    want, reads = readable_in_torch(torch.from_numpy(keypoints), joint_set, "coco17")

    def build(keypoints, sigma):
        shown, who = readable_keypoints(keypoints, sigma, joint_set, "coco17")
        return [shown, who.to(FLOAT)]

    sigma = np.full(keypoints.shape[:2], 0.015)
    shown, who = run_values(build, keypoints=keypoints, sigma=sigma)
    np.testing.assert_allclose(shown, want, atol=1e-6)
    np.testing.assert_array_equal(who[:, 0] > 0, reads)
    assert 0 < reads.sum() < 5 or joint_set == "smpl24"


def test_without_the_second_matrix_it_sees_the_picture_only(tiny, tmp_path):
    """And so does a network that reads none."""
    make_covariance(tiny).save(tmp_path / "plain.npz")
    assert find_reading(tiny, tmp_path / "plain.npz") is None
    reading = find_reading(tiny, save_covariance(tiny, tmp_path / "both.npz"))
    assert reading.joint_set == "coco17"
    plain = read_error_covariance(tmp_path / "plain.npz").precision()
    assert np.linalg.eigvalsh(reading.precision)[0] > 8 * np.linalg.eigvalsh(plain)[0]
    blind = OpenRegressor.make_tiny()
    assert find_reading(blind, save_covariance(blind, tmp_path / "blind.npz")) is None


@pytest.mark.slow
def test_open2_is_map_with_none_some_and_all(tmp_path):
    regressor = eft_fast.load_regressor("open-2")
    assert read_error_covariance(OPEN_COVARIANCES["open-2"]).second_moment_given is not None
    export_regressor(regressor, tmp_path / "out", config=ExportConfig(max_batch=2, fit="coco17"))
    check_against_map(regressor, tmp_path / "out", None)
