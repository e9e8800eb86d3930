"""int8 and bf16: what is quantised, what the gate measures, and that it refuses."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from eft_fast.body import load_body
from eft_fast.deploy import ExportConfig, gate, verify_folder
from eft_fast.deploy.gate import GateSet, one_step_noise, run_gate
from eft_fast.deploy.quantise import find_trunk, quantise_file
from eft_fast.deploy.reduced import GateError, export_reduced
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import load_card, open_session
from eft_fast.serving.base import Session


def crops(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def gate_set():
    betas = np.random.default_rng(1).normal(size=(32, 10)).astype(np.float32)
    rotmat = np.broadcast_to(np.eye(3, dtype=np.float32), (32, 24, 3, 3))
    return GateSet(crops(8), crops(32, 1), rotmat, betas)


class Fake(Session):
    """Answers the truth of the gate set, moved by what it is told."""

    def __init__(self, gate_set, betas=0.0, degrees=0.0):
        self.truth, self.betas = gate_set, betas
        angle = np.radians(degrees)
        self.turn = np.eye(3, dtype=np.float32)
        self.turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]

    def run(self, images):
        rows = np.arange(len(images)) % len(self.truth.betas)
        return {
            "rotmat": self.truth.rotmat[rows] @ self.turn,
            "betas": self.truth.betas[rows] + np.float32(self.betas),
        }

    def _run(self, images):
        raise NotImplementedError


def test_the_same_model_passes_with_zeros(gate_set):
    report = run_gate("same", Fake(gate_set), Fake(gate_set), load_body(), gate_set)
    assert report.passed
    fp32, control, same = report.rows
    assert same.rotation_deg == same.shift_mm == same.mpjpe_change_mm == 0
    assert fp32.mpjpe_mm < 1e-3
    assert np.isnan(control.ratio)
    assert fp32.ratio == 1
    assert (report.photos, report.people) == (8, 32)


def test_changes_are_measured_in_degrees_and_millimetres(gate_set):
    report = run_gate("turned", Fake(gate_set), Fake(gate_set, degrees=3), load_body(), gate_set)
    row = report.rows[-1]
    assert row.rotation_deg == pytest.approx(3, rel=1e-3)
    assert row.rotation_p99_deg == pytest.approx(3, rel=1e-3)
    assert 5 < row.shift_mm < 100
    assert row.mpjpe_change_mm == pytest.approx(row.mpjpe_mm, abs=1e-2)
    assert 0 < row.pa_mpjpe_change_mm < row.mpjpe_change_mm
    assert not report.passed
    assert len(report.problems) == 3
    assert all("at most" in text for text in report.problems)


def test_an_improvement_is_a_change_as_well(gate_set):
    """What moves the answers so far is not the same model, even where it happens to be right."""
    report = run_gate("x", Fake(gate_set, betas=2), Fake(gate_set), load_body(), gate_set)
    assert report.rows[-1].mpjpe_change_mm < -0.5
    assert "the error of rendered people moves by" in report.problems[0]


def test_nan_passes_no_gate(gate_set):
    report = run_gate("x", Fake(gate_set), Fake(gate_set, betas=np.nan), load_body(), gate_set)
    assert len(report.problems) == 3


def test_the_control_moves_every_value_by_one_step():
    images = crops(2)
    moved = one_step_noise(images).astype(int) - images
    assert set(np.unique(moved)) == {-1, 0, 1}
    inner = (images > 0) & (images < 255)
    assert (np.abs(moved[inner]) == 1).all()


@pytest.mark.parametrize(("photos", "people"), [(7, 32), (8, 31)])
def test_a_verdict_needs_enough_people(photos, people):
    with pytest.raises(ValueError, match=r"or more are needed, got (7|31)"):
        GateSet(crops(photos), crops(people), np.zeros((people, 24, 3, 3)), np.zeros((people, 10)))


def test_only_the_trunk_is_quantised(tiny_export, tmp_path):
    regressor, card = OpenRegressor.make_tiny(), load_card(tiny_export)
    quantise_file(tiny_export / "model.onnx", tmp_path / "model.onnx", regressor, card, crops(8))
    model = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    made_by = {name: node for node in model.graph.node for name in node.output}
    quantised = set()
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight = made_by.get(node.input[1])
            if weight is not None and weight.op_type == "DequantizeLinear":
                quantised.add(weight.input[0].removesuffix("_quantized"))
    assert "regressor.trunk.stem.weight" in quantised
    assert len(quantised) > 50
    assert not [name for name in quantised if "_out." in name or ".head.enter" in name]
    path = tmp_path / "export.json"
    path.write_text(card.to_json())
    images = crops(4, 3)
    exact = open_session(tiny_export, provider="cpu").run(images)
    got = open_session(tmp_path, provider="cpu").run(images)
    assert 0 < np.abs(got["betas"] - exact["betas"]).max() < 1


def test_int8_is_refused_where_the_head_cannot_be_told(tiny_export, tmp_path):
    model, card = onnx.load(tiny_export / "model.onnx"), load_card(tiny_export)
    regressor = OpenRegressor.make_tiny()
    with pytest.raises(ValueError, match="calibrated on 8 crops or more, got 3"):
        quantise_file(tiny_export / "model.onnx", tmp_path / "m", regressor, card, crops(3))
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("landmark_out", "renamed")
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = name.replace("landmark_out", "renamed")
    with pytest.raises(ValueError, match=r"does not find regressor\.trunk\.landmark_out"):
        find_trunk(model, regressor)
    regressor.__class__ = type("Foreign", (OpenRegressor,), {"stages": ("head",)})
    with pytest.raises(ValueError, match="cannot; use fp32"):
        find_trunk(model, regressor)
    with pytest.raises(ValueError, match="finds no convolution"):
        find_trunk(onnx.ModelProto(), Hmr())


def export_int8(out, gate_set, **options):
    return export_reduced(
        OpenRegressor.make_tiny(),
        out,
        options.pop("precision", "int8"),
        config=ExportConfig(max_batch=2, **options),
        body=load_body(),
        calibration=crops(8, 7),
        gate_set=gate_set,
        with_body=False,
    )


def test_int8_is_left_only_behind_the_gate(monkeypatch, gate_set, tmp_path):
    monkeypatch.setattr(gate, "MAX_SHIFT_MM", 1e-9)
    with pytest.raises(GateError, match=r"the gate does not pass: int8") as caught:
        export_int8(tmp_path / "out", gate_set)
    assert caught.value.report.rows[-1].rotation_deg > 0
    assert not (tmp_path / "out").exists()

    monkeypatch.setattr(gate, "MAX_SHIFT_MM", np.inf)
    monkeypatch.setattr(gate, "MAX_ERROR_CHANGE_MM", np.inf)
    report, found = export_int8(tmp_path / "out", gate_set)
    assert report.passed
    assert found.passed
    assert load_card(tmp_path / "out").precision == "int8"
    stored = json.loads((tmp_path / "out" / "gate.json").read_text())
    assert stored["rows"][-1]["name"] == "int8"
    assert verify_folder(tmp_path / "out").passed


def test_precisions_and_formats_must_fit(gate_set, tmp_path):
    with pytest.raises(ValueError, match="int8 goes with format onnx or openvino or triton"):
        export_int8(tmp_path, gate_set, format="tensorrt-rtx")
    with pytest.raises(ValueError, match="bf16 goes with format openvino"):
        export_int8(tmp_path, gate_set, precision="bf16")
    with pytest.raises(ValueError, match="precision must be one of"):
        export_int8(tmp_path, gate_set, precision="fp8")


def test_bf16_runs_or_is_refused(monkeypatch, gate_set, tmp_path):
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setattr(gate, "MAX_SHIFT_MM", np.inf)
    monkeypatch.setattr(gate, "MAX_ERROR_CHANGE_MM", np.inf)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        report, _ = export_int8(tmp_path / "out", gate_set, precision="bf16", format="openvino")
        assert report.passed
        return
    with pytest.raises(RuntimeError, match="OpenVINO finds none in this processor"):
        export_int8(tmp_path / "out", gate_set, precision="bf16", format="openvino")
    assert not (tmp_path / "out").exists()
