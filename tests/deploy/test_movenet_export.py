"""The regressor on MoveNet as an ONNX file: its inner body in standard operators, its own crop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eft_fast.body import load_body
from eft_fast.deploy import ExportConfig, export_regressor
from eft_fast.deploy.body_graph import RigGraph, with_rig_graphs
from eft_fast.deploy.graph import ExportGraph
from eft_fast.geometry.rotations import rot6d_to_matrix
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import load_card


def test_the_rig_is_the_same_in_the_graph():
    rig = KeypointRig.from_plan(load_body().points_plan("coco17"))
    rotmat, betas = rot6d_to_matrix(torch.randn(3, 24, 6)), torch.randn(3, 10)
    torch.testing.assert_close(RigGraph(rig)(rotmat, betas), rig(rotmat, betas), rtol=0, atol=1e-5)


def test_the_network_is_copied_only_if_it_has_a_rig():
    plain, regressor = OpenRegressor.make_tiny(), MoveNetRegressor.make_tiny()
    assert with_rig_graphs(plain) is plain
    copied = with_rig_graphs(regressor)
    assert isinstance(copied.head.rig, RigGraph)
    assert isinstance(regressor.head.rig, KeypointRig)


def test_the_file_answers_as_the_network(tmp_path):
    regressor = MoveNetRegressor.make_tiny()
    # Torch's exporter takes half a minute for each pass, which are all the same.
    regressor.head.passes = 1
    export_regressor(regressor, tmp_path, config=ExportConfig("onnx", max_batch=4))
    card = load_card(tmp_path)
    assert card.box_margin == regressor.box_margin == 1.1
    assert card.input_size == 64
    assert list(card.outputs)[-1] == "confidence"
    assert card.regressor == regressor.full_id
    parity = json.loads((tmp_path / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["checks"]["checker"] == "passed"  # standard operators only
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    answers = session.run(None, {"image": image})
    with torch.no_grad():
        expected = ExportGraph(regressor).eval()(torch.from_numpy(image))
    for got, want in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=5e-3)


def test_half_precision_is_refused(tmp_path):
    """There is no vector at which its trunk ends."""
    with pytest.raises(TypeError, match="needs a network that can be cut at the stage 'feature'"):
        export_regressor(
            MoveNetRegressor.make_tiny(), tmp_path, config=ExportConfig(precision="fp16")
        )
