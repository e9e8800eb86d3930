"""The exported detector: what is in it, and that a wrong one is found."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from eft_fast.cli import main
from eft_fast.deploy import ExportConfig, verify_folder
from eft_fast.deploy.detector_verify import TOLERANCES, detector_problems
from eft_fast.deploy.half_weights import store_halves
from eft_fast.models.keypoint_noise import CURVES
from eft_fast.serving.detector_card import DetectorCard, load_detector_card

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")


def product(weights: np.ndarray) -> onnx.ModelProto:
    """A graph that multiplies by a matrix of its own."""
    helper, kinds = onnx.helper, onnx.TensorProto
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["batch", columns])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("spoil", [0.0, 1e-4, 7e4])
def test_only_weights_that_lose_nothing_become_halves(spoil):
    runtime = pytest.importorskip("onnxruntime")
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((16, 8)).astype(np.float16).astype(np.float32)
    weights[3, 3] += np.float32(spoil)
    model = product(weights)
    before = len(model.SerializeToString())
    assert store_halves(model) == int(spoil == 0)
    assert (len(model.SerializeToString()) < before) == (spoil == 0)
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = generator.standard_normal((3, 16)).astype(np.float32)
    plain = runtime.InferenceSession(
        product(weights).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], plain.run(None, {"x": x})[0])


def test_a_difference_beyond_its_limit_or_no_number_is_a_problem():
    assert detector_problems(dict.fromkeys(TOLERANCES, 0.0)) == []
    for name in TOLERANCES:
        for value in (2 * TOLERANCES[name], np.nan, np.inf):
            (problem,) = detector_problems(dict.fromkeys(TOLERANCES, 0.0) | {name: value})
            assert f"{name} " in problem


def test_a_model_repository_has_no_detector():
    with pytest.raises(ValueError, match="every format but triton"):
        ExportConfig(format="triton", detector=True)


CARD = {
    "boxes": "b", "keypoints": "k", "weights_sha256": ["0", "1"], "picture_size": 640,
    "crop_size": 256, "smaller_crops": [[48.0, 128]], "crop_factor": 1.1, "joint_set": "coco17",
    "noise_confidence": [0.1, 0.7], "noise_sigma": [0.08, 0.01], "noise_source": "s",
    "opset": 20, "licence": "Apache-2.0", "notice": "n", "eft_fast_version": "v",
    "exported": "t", "max_difference": {"cells": 0.0},
    "format": "eft_fast-detector-2",
}  # fmt: skip


def test_a_card_says_all_that_is_needed():
    card = DetectorCard.from_text(json.dumps(CARD), "test")
    assert DetectorCard.from_text(card.to_strings()["detector"], "test") == card
    assert DetectorCard.from_text(card.to_json(), "test") == card
    assert card.noise.sigma_of([0.1, 0.4, 0.9]).tolist() == pytest.approx([0.08, 0.045, 0.01])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": "eft_fast-detector-9"}, "must be of format eft_fast-detector-2"),
        ({"crop_size": "256"}, "crop_size is missing or wrong"),
        ({"crop_factor": 99.0}, "pictures or crops that no detector here takes"),
        ({"smaller_crops": [[48.0, 300]]}, "pictures or crops that no detector here takes"),
        ({"smaller_crops": [[48.0]]}, "pictures or crops that no detector here takes"),
        ({"picture_size": 320}, "pictures or crops that no detector here takes"),
        ({"noise_confidence": [0.7, 0.1]}, "confidence must be finite and ascend"),
    ],
)
def test_a_wrong_card_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        DetectorCard.from_text(json.dumps(CARD | values), "test")
    with pytest.raises(ValueError, match="test is damaged"):
        DetectorCard.from_text("{", "test")


@pytest.mark.slow
def test_the_folder_holds_both_networks_and_their_licences(detector_export):
    names = {path.name for path in (detector_export / "detector").iterdir()}
    assert names == {
        "boxes.onnx", "keypoints.onnx", "detector.json", "samples.npz", "yolox_nano.md",
        "movenet_thunder.md",
    }  # fmt: skip
    hashes = json.loads((detector_export / "files.json").read_text())
    assert {f"detector/{name}" for name in names} <= set(hashes)
    card = load_detector_card(detector_export / "detector")
    assert card.licence == "Apache-2.0"
    for owner in ("Megvii", "Google LLC"):
        assert owner in card.notice
    np.testing.assert_array_equal(card.noise.sigma, CURVES["detector"].sigma)
    sizes = {path.name: path.stat().st_size for path in (detector_export / "detector").iterdir()}
    assert sizes["keypoints.onnx"] < 13e6  # half of single precision
    assert sizes["boxes.onnx"] < 2.5e6
    for name in ("boxes.onnx", "keypoints.onnx"):
        model = onnx.load(detector_export / "detector" / name)
        assert {node.domain for node in model.graph.node} == {""}
        assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
def test_verify_checks_the_detector(detector_export, tmp_path, capsys):
    report = verify_folder(detector_export)
    assert report.passed
    assert report.checks["detector"] == "passed"
    for name, limit in TOLERANCES.items():
        assert 0 <= report.detector_difference[name] <= limit
    folder = shutil.copytree(detector_export, tmp_path / "copy")
    (folder / "files.json").unlink()
    path = folder / "detector" / "keypoints.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * 1.05, tensor.name))
            break
    onnx.save(model, path)
    report = verify_folder(folder)
    assert report.checks["detector"] == "failed"
    assert "the detector's answers differ from torch: " in report.problems[0]
    assert main(["verify", str(folder)]) == 1
    assert "the detector's answers differ" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "samples.npz").unlink(), "no samples.npz"),
        (lambda d: (d / "samples.npz").write_bytes(b"PK"), "is damaged"),
        (lambda d: (d / "boxes.onnx").unlink(), "no boxes.onnx"),
        (lambda d: (d / "detector.json").write_text("{"), "is damaged"),
        (lambda d: shutil.copy(d / "boxes.onnx", d / "keypoints.onnx"), "is not the network of"),
    ],
)
def test_what_is_missing_or_exchanged_is_found(detector_export, tmp_path, spoil, words):
    folder = shutil.copytree(detector_export, tmp_path / "copy")
    (folder / "files.json").unlink()
    spoil(folder / "detector")
    report = verify_folder(folder)
    assert report.checks["detector"] == "failed"
    assert any(words in problem for problem in report.problems)
