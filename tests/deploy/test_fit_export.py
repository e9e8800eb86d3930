"""One file that fits: what the command leaves, and that Predictor and other runtimes use it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

from eft_fast.deploy import ExportConfig, export_regressor, fit_export, verify_folder
from eft_fast.deploy.fit_verify import TOLERANCES
from eft_fast.deploy.formats import convert_folder
from eft_fast.map_fit.config import MapConfig
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import Predictor
from eft_fast.serving.fit_card import load_fit_card
from eft_fast.serving.fit_model import FitModel
from tests.deploy.edit import change_output
from tests.deploy.web import check_in_browser, check_in_web, needs_web
from tests.helpers import make_covariance

BOXES = [[10.0, 5.0, 30.0, 50.0], [40.0, 20.0, 45.0, 45.0], [20.0, 10.0, 50.0, 50.0]]


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def covariance(regressor, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "covariance.npz"
    make_covariance(regressor).save(path)
    return path


@pytest.fixture(scope="module")
def exported(regressor, covariance):
    out = covariance.with_name("exported")
    config = ExportConfig(outputs="joints", max_batch=2, fit="coco17")
    from eft_fast.body import load_body

    export_regressor(regressor, out, body=load_body(), config=config, covariance=covariance)
    return out


@pytest.fixture(scope="module")
def samples(exported):
    with np.load(exported / "fit_samples.npz") as file:
        return dict(file)


def test_the_file_is_verified_with_the_others(exported):
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["checks"]["fit model"] == "passed"
    for name, limit in TOLERANCES.items():
        assert 0 < parity["fit_model_difference"][name] < limit
    hashes = json.loads((exported / "files.json").read_text())
    assert {"fit.onnx", "fit.json", "fit_samples.npz"} <= set(hashes)


def test_the_file_describes_itself(exported):
    card = load_fit_card(exported)
    model = onnx.load(exported / "fit.onnx")
    inside = {item.key: item.value for item in model.metadata_props}
    assert json.loads(inside["fit"]) == json.loads((exported / "fit.json").read_text())
    assert [value.name for value in model.graph.input] == list(card.inputs)
    assert list(card.inputs) == ["image", "keypoints", "sigma", "pinhole"]
    assert [value.name for value in model.graph.output] == list(card.outputs) == list(card.units)
    assert card.outputs["confidence"] == card.outputs["joint_sigma_mm"] == [24]
    assert card.outputs["joints"] == [45, 3]
    assert card.joint_set == "coco17"
    assert card.options["max_steps"] == MapConfig().max_steps
    assert not model.functions
    assert {item.domain for item in model.opset_import} == {""}


def test_keypoints_need_not_be_given(exported, samples):
    """The answer of the network, its confidence, and a posterior that is the prior's."""
    model, images = FitModel(exported, threads=1), samples["images"][:2]
    nothing = model.run(images, np.full((2, 17, 3), np.nan), np.zeros((2, 17)))
    plain = Predictor(exported, provider="cpu", threads=1).infer(images)
    for name in ("rotmat", "betas", "cam", "confidence"):
        np.testing.assert_allclose(nothing[name], plain[name], atol=1e-5)
    assert (nothing["energy"] == 0).all()
    given = model.run(images, samples["keypoints"][:2], samples["sigma"][:2])
    assert (nothing["joint_sigma_mm"][:, 1:] > given["joint_sigma_mm"][:, 1:]).mean() > 0.5
    # A sigma of 0 is as good as a confidence of 0.
    without = model.run(images, samples["keypoints"][:2], np.zeros((2, 17)))
    np.testing.assert_array_equal(without["rotmat"], nothing["rotmat"])


def test_predictor_fits_with_the_file(exported):
    coarse = np.random.default_rng(5).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC))
    predictor = Predictor(exported, provider="cpu", threads=1)
    answers = predictor.fit([photo] * 3, np.zeros((3, 17, 3)), BOXES).joints_2d_px
    keypoints = np.ones((3, 17, 3))
    keypoints[..., :2] = answers + np.random.default_rng(1).normal(size=answers.shape)
    keypoints[:, ::7, 2], keypoints[:, 3, 2] = 0.0, 0.3
    keypoints[1, :, 2] = 0.0
    want = predictor.fit([photo] * 3, keypoints, BOXES, intrinsics="diagonal")
    got = predictor.fit([photo] * 3, keypoints, BOXES, intrinsics="diagonal", engine="graph")
    for name in ("rotmat", "betas", "cam", "init_rotmat", "joints"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=2e-3)
    for name in ("joints_2d_px", "kp_error_px", "init_kp_error_px"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=0.02)
    for name in ("energy", "init_energy", "joint_sigma_mm", "intrinsics", "cam_transl"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=5e-3, atol=1e-3)
    assert got.stop_reason == want.stop_reason
    assert got.stop_reason[1] == "no_keypoints"
    config = replace(MapConfig(), sigma=0.03)
    other = predictor.fit([photo], keypoints[:1], BOXES[:1], config=config, engine="graph")
    assert other.kp_error_px[0] > got.kp_error_px[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "torch"}, "engine must be one of"),
        ({"joint_set": "smpl24"}, "reads keypoints of coco17, got smpl24"),
        ({"config": MapConfig(robust=False)}, "takes no options but sigma"),
        ({"config": MapConfig(distance=None)}, "takes no options but sigma"),
    ],
)
def test_what_the_file_cannot_do_is_refused(exported, change, words):
    count = 24 if "joint_set" in change else 17
    photo = np.zeros((70, 90, 3), np.uint8)
    predictor = Predictor(exported, provider="cpu", threads=1)
    with pytest.raises(ValueError, match=words):
        predictor.fit([photo], np.ones((1, count, 3)), BOXES[:1], **{"engine": "graph"} | change)


def test_wrong_arrays_are_refused(exported, samples):
    model = FitModel(exported, threads=1)
    images, keypoints, sigma = (samples[name][:1] for name in ("images", "keypoints", "sigma"))
    with pytest.raises(ValueError, match=r"sigma must be \[1, 17\], got \[1, 17, 1\]"):
        model.run(images, keypoints, sigma[..., None])
    with pytest.raises(TypeError, match="crops must be a uint8 array"):
        model.run(images.astype(float), keypoints, sigma)
    assert model.run(images[:0], keypoints[:0], sigma[:0])["rotmat"].shape == (0, 24, 3, 3)


def test_without_the_file_a_sentence_says_so(tiny_export):
    photo = np.zeros((70, 90, 3), np.uint8)
    with pytest.raises(FileNotFoundError, match=r"no fit.onnx in .*; export with --fit"):
        Predictor(tiny_export, provider="cpu").fit([photo], np.ones((1, 17, 3)), engine="graph")


@pytest.mark.slow
def test_a_file_that_fits_otherwise_is_not_left(regressor, covariance, monkeypatch, tmp_path):
    real = fit_export.add_fit

    def spoilt(model, asset, options):
        outputs = real(model, asset, options)
        change_output(model, "keypoints_2d", "Mul", 1.01)
        return outputs

    monkeypatch.setattr(fit_export, "add_fit", spoilt)
    with pytest.raises(RuntimeError, match=r"fits of fit.onnx differ from torch's: keypoints_px"):
        export_regressor(
            regressor,
            tmp_path / "out",
            config=ExportConfig(max_batch=1, fit="coco17"),
            covariance=covariance,
        )
    assert not (tmp_path / "out").exists()


def test_a_changed_file_does_not_pass(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    with np.load(folder / "fit_samples.npz") as file:
        stored = dict(file)
    stored["given/keypoints_2d"] = stored["given/keypoints_2d"] + 0.01
    np.savez(folder / "fit_samples.npz", **stored)
    report = verify_folder(folder, provider="cpu")
    assert report.checks["fit model"] == "failed"
    assert any("differ from torch's: keypoints_px" in text for text in report.problems)
    card = load_fit_card(folder)
    (folder / "fit.json").write_text(replace(card, regressor="another").to_json())
    with pytest.raises(ValueError, match=r"fit.onnx is not the file of its card"):
        FitModel(folder)


def test_the_same_in_openvino(exported, samples, tmp_path):
    """Also when memory has to grow, in batches where nobody is hard, and where nobody has a fit."""
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    folder = shutil.copytree(exported, tmp_path / "copy")
    convert_folder(folder, "openvino")
    report = verify_folder(folder, threads=1)
    assert (report.passed, report.provider) == (True, "openvino")
    assert report.checks["fit model"] == "passed"
    assert report.fit_model_difference["joints_mm"] < 0.5
    plain, model = FitModel(exported, threads=1), FitModel(folder, threads=1)
    assert (plain.runtime, model.runtime) == ("onnxruntime", "openvino")
    last = len(samples["images"]) - 1
    for rows in ([last], [0], [last] * 3, list(range(last + 1)), [last] * 7, [1, 0]):
        given = [samples[name][rows] for name in ("images", "keypoints", "sigma")]
        got, want = model.run(*given), plain.run(*given)
        assert list(got) == list(want)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-3, atol=2e-3, err_msg=name)
    with pytest.raises(ValueError, match="runtime must be one of"):
        FitModel(folder, runtime="tensorrt")
    (folder / "fit.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is damaged or not a model"):
        FitModel(folder)


def test_a_fit_needs_a_covariance_and_the_right_format(regressor, tmp_path):
    with pytest.raises(ValueError, match=r"a file that fits is not possible .*calibrate"):
        export_regressor(regressor, tmp_path / "out", config=ExportConfig(fit="coco17"))
    for wrong in ({"format": "triton"}, {"precision": "fp16"}):
        with pytest.raises(ValueError, match="goes with format onnx or openvino and precision"):
            ExportConfig(fit="coco17", **wrong)
    with pytest.raises(ValueError, match="coco71"):
        ExportConfig(fit="coco71")


@needs_web
def test_the_same_in_onnxruntime_web(exported, samples):
    """In WebAssembly, in node."""
    check_in_web(exported, samples, slice(3))


@needs_web
@pytest.mark.parametrize(
    ("provider", "people"),
    [
        ("wasm", slice(3)),
        # Minutes where no GPU is: its shaders are computed on the CPU.
        pytest.param("webgpu", slice(2), marks=pytest.mark.slow),
    ],
)
def test_the_same_in_a_browser(exported, samples, browser, serve, provider, people):
    check_in_browser(browser, serve, provider, exported, samples, people)
