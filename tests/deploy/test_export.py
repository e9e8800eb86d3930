"""Exports: what is in them, and that a wrong one is not left."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from eft_fast.body import load_body
from eft_fast.deploy import ExportConfig, export_regressor, onnx_export, onnx_graph
from eft_fast.deploy.folder import hash_files
from eft_fast.deploy.graph import ExportGraph, HalfTrunk
from eft_fast.deploy.graph_checks import find_trace
from eft_fast.models.base import RegressorOutput
from eft_fast.models.hmr import Hmr
from eft_fast.models.identity import weights_hash, weights_sha256
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import ModelCard, load_card
from tests.deploy.edit import change_output


@pytest.fixture(scope="module")
def model(tiny_export):
    return onnx.load(tiny_export / "model.onnx")


def tiny_graph() -> ExportGraph:
    return ExportGraph(OpenRegressor.make_tiny()).eval()


def test_the_folder_holds_all_that_belongs_together(tiny_export):
    names = {path.name for path in tiny_export.iterdir()}
    assert names == {
        "model.onnx", "export.json", "samples.npz", "fit.npz", "parity.json", "files.json",
    }  # fmt: skip
    parity = json.loads((tiny_export / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["batches"] == [1, 7, 16]
    assert set(parity["checks"].values()) == {"passed"}
    assert parity["max_difference"]["rotmat"] <= 0.01
    for name in ("betas", "cam", "joints", "vertices"):
        assert 0 < parity["max_difference"][name] <= 1e-4


def test_the_file_describes_itself(tiny_export, model):
    inside = {item.key: item.value for item in model.metadata_props}
    card = ModelCard.from_strings(inside, "test")
    assert card == load_card(tiny_export)
    regressor = OpenRegressor.make_tiny()
    assert card.regressor == f"open-1:{weights_hash(regressor)}"
    assert card.weights_sha256 == weights_sha256(regressor)
    assert card.body == load_body().id
    assert card.camera_convention == "scale_shift"
    assert (card.input_size, card.box_margin) == (256, 1.2)
    assert (card.mean, card.std) == ([0, 0, 0], [1, 1, 1])
    assert len(card.joint_names) == card.outputs["joints"][0] == 45
    assert card.outputs["vertices"] == [6890, 3]
    assert card.licence == "Apache-2.0 AND CC0-1.0"
    assert card.notice == ""


def test_the_graph_is_portable(model):
    assert {item.domain: item.version for item in model.opset_import} == {"": 20}
    assert {node.domain for node in model.graph.node} == {""}
    # TensorRT transposes no bytes: the first thing that happens to the picture is the cast.
    first = [node.op_type for node in model.graph.node if "image" in node.input]
    assert first == ["Cast"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"ScatterND", "ScatterElements", "Loop", "If"}


def test_nothing_of_the_exporting_machine_is_left(model):
    assert find_trace(model) is None
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    planted = copy.deepcopy(model)
    planted.graph.node[3].doc_string = 'File "/home/somebody/eft/graph.py", line 7'
    assert "/home/somebody/eft/graph.py" in find_trace(planted)


def test_an_exported_regressor_stays_as_it_was(tmp_path):
    regressor = OpenRegressor.make_tiny().train()
    before = weights_hash(regressor)
    export_regressor(regressor, tmp_path, config=ExportConfig(max_batch=1))
    assert regressor.training
    assert weights_hash(regressor) == before


def swap_colours(model):
    """The graph reads blue, green, red."""
    cast = next(node for node in model.graph.node if "image" in node.input)
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order")
    model.graph.initializer.append(order)
    cast.input[0] = "swapped"
    gather = onnx.helper.make_node("Gather", ["image", "order"], ["swapped"], axis=3)
    model.graph.node.insert(0, gather)


def stretch(model):
    """Rotations that are a little too long."""
    change_output(model, "rotmat", "Mul", 1.0002)


def poison(model):
    change_output(model, "cam", "Mul", np.nan)


@pytest.fixture
def spoil(monkeypatch):
    """Change what the exporter gives, as a bug in it would."""

    def use(change):
        real = onnx_export.to_onnx

        def wrong(graph, card):
            model = real(graph, card)
            change(model)
            return model

        monkeypatch.setattr(onnx_export, "to_onnx", wrong)

    return use


@pytest.mark.parametrize(
    ("change", "words"),
    [(swap_colours, "differ from torch"), (stretch, "orthonormal"), (poison, "cam inf")],
)
def test_a_file_that_answers_otherwise_is_not_left(spoil, tmp_path, change, words):
    out = tmp_path / "deep" / "out"
    spoil(change)
    with pytest.raises(RuntimeError, match=f"was not kept.*{words}"):
        export_regressor(OpenRegressor.make_tiny(), out, config=ExportConfig(max_batch=2))
    assert not out.exists()


def test_a_failed_export_leaves_the_one_before(spoil, tmp_path):
    config = ExportConfig(max_batch=2)
    export_regressor(OpenRegressor.make_tiny(), tmp_path, config=config)
    (tmp_path / "notes.txt").write_text("mine")
    before = hash_files(tmp_path)
    spoil(poison)
    with pytest.raises(RuntimeError, match="was not kept"):
        export_regressor(OpenRegressor.make_tiny(), tmp_path, config=config)
    assert hash_files(tmp_path) == before


def test_an_opset_that_the_exporter_does_not_keep_is_refused(monkeypatch, model, tiny_export):
    """Asked for an old opset, it prints a trace and gives a newer file."""
    newer = copy.deepcopy(model)
    newer.opset_import[0].version = 21
    given = SimpleNamespace(model_proto=newer)
    monkeypatch.setattr(onnx_graph.torch.onnx, "export", lambda *_, **__: given)
    with pytest.raises(RuntimeError, match="opset 20 was asked for, the exporter gave 21"):
        onnx_graph.to_onnx(ExportGraph(OpenRegressor.make_tiny()), load_card(tiny_export))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": 17}, "opset must be one of"),
        ({"outputs": "mesh"}, "outputs must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"format": "coreml"}, "format must be one of"),
        ({"max_batch": 0}, "max_batch must be 1 to 1024"),
        ({"joint_set": "coco71"}, "coco71"),
    ],
)
def test_unknown_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ExportConfig(**options)


def test_the_body_must_be_the_regressors(tmp_path):
    config = ExportConfig(outputs="joints")
    with pytest.raises(ValueError, match="need the body of open-1"):
        export_regressor(OpenRegressor.make_tiny(), tmp_path, config=config)
    with pytest.raises(ValueError, match="predicts body smpl, got body open"):
        export_regressor(Hmr(), tmp_path, body=load_body(), config=config)


def test_a_licensed_body_goes_with_its_notice(tmp_path):
    regressor, body = OpenRegressor.make_tiny(), load_body()
    regressor.body_id, body.id = "smpl", "smpl-neutral"
    export_regressor(regressor, tmp_path, body=body, config=ExportConfig("onnx", "joints"))
    card = load_card(tmp_path)
    assert "do not redistribute" in card.notice
    assert card.licence == "unknown"
    assert card.body == "smpl-neutral"


class WithConfidence(NamedTuple):
    pred_rotmat: Tensor
    pred_betas: Tensor
    pred_cam: Tensor
    pred_confidence: Tensor


def test_a_network_may_answer_more():
    class More(OpenRegressor):
        def head_forward(self, features, *, raw_camera=False):
            return WithConfidence(*super().head_forward(features), features.score)

    regressor = OpenRegressor.make_tiny()
    image = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8)
    expected = ExportGraph(regressor).eval()(image)
    regressor.__class__ = More
    for precision in ("fp32", "fp16"):
        outputs = ExportGraph(regressor, precision=precision).eval()(image)
        assert [x.shape for x in outputs] == [x.shape for x in expected]
        torch.testing.assert_close(outputs, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("make", [OpenRegressor.make_tiny, lambda: Hmr().eval()])
def test_half_precision_stops_where_the_trunk_does(make):
    regressor = make()
    half = HalfTrunk(regressor).network
    behind = {id(p) for p in regressor.parameters_from("feature")}
    kept = {name for name, own in regressor.named_parameters() if id(own) in behind}
    kinds = {name: copied.dtype for name, copied in half.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == kept
    assert set(kinds.values()) == {torch.float16, torch.float32}
    assert all(p.dtype == torch.float32 for p in regressor.parameters())
    size = regressor.input_size
    image = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        outputs = ExportGraph(regressor, precision="fp16").eval()(image)
        exact = ExportGraph(regressor).eval()(image)
    for got, expected in zip(outputs, exact, strict=True):
        assert got.dtype == torch.float32
        assert 0 < (got - expected).abs().max() < 0.1


class Foreign(OpenRegressor):
    """Cannot be cut at its features."""

    stages = ("head",)


class Widening(OpenRegressor):
    """Leaves half precision before its trunk ends."""

    def run_to(self, stage, img):
        return super().run_to(stage, img).float()


class Shared(OpenRegressor):
    """A layer of the trunk whose bias belongs to the head."""

    def parameters_from(self, stage):
        yield from super().parameters_from(stage)
        yield self.trunk.stem.bias


class Headless(OpenRegressor):
    def parameters_from(self, stage):
        return iter(())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Foreign, "cannot; use fp32"),
        (Widening, "ends in float16, got torch.float32"),
        (Shared, "cannot split trunk.stem"),
        (Headless, "no trunk or no head"),
    ],
)
def test_half_precision_refuses_what_it_does_not_understand(kind, words):
    regressor = OpenRegressor.make_tiny()
    regressor.__class__ = kind
    image = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    with pytest.raises(TypeError, match=words):
        ExportGraph(regressor, precision="fp16").eval()(image)


def test_large_variances_do_not_pass_half_precision():
    """Batch norms are multiplied into the convolutions first, in single precision."""
    regressor = Hmr().eval()
    with torch.no_grad():
        regressor.bn1.running_var.fill_(3e5)
        regressor.bn1.weight.fill_(500.0)
        regressor.layer2[1].bn2.running_mean.normal_()
        for decoder in (regressor.decpose, regressor.decshape, regressor.deccam):
            nn.init.xavier_uniform_(decoder.weight, gain=0.1)
    half = HalfTrunk(regressor)
    assert not [m for m in half.modules() if isinstance(m, nn.BatchNorm2d)]
    img = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        for got, expected in zip(half(img), regressor(img), strict=True):
            torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


def test_weights_that_half_precision_cannot_hold_are_named():
    regressor = OpenRegressor.make_tiny()
    with torch.no_grad():
        regressor.trunk.stem.weight[0] = 1e5
    with pytest.raises(TypeError, match=r"fp16 cannot hold trunk\.stem\.weight.* 1e\+05"):
        HalfTrunk(regressor)


def test_a_new_layer_of_the_trunk_is_halved_too():
    regressor = OpenRegressor.make_tiny()
    width = regressor.trunk.stem.out_channels
    regressor.trunk.stem = nn.Sequential(regressor.trunk.stem, nn.Conv2d(width, width, 1)).eval()
    half = HalfTrunk(regressor).network
    assert half.trunk.stem[1].weight.dtype == torch.float16
    img = torch.zeros(1, 3, 256, 256)
    assert isinstance(HalfTrunk(regressor)(img), RegressorOutput)


def test_samples_are_the_answers_of_the_fitting_path(tiny_export):
    """The stored answers come from the regressor and the body as fitting calls them."""
    from eft_fast import imaging

    with np.load(tiny_export / "samples.npz") as file:
        stored = {name: file[name] for name in file.files}
    regressor, body = OpenRegressor.make_tiny(), load_body()
    with torch.no_grad():
        img = imaging.to_input(stored["images"], regressor.img_mean, regressor.img_std)
        output = regressor(torch.from_numpy(img))
        posed = body(
            output.pred_betas, output.pred_rotmat[:, 1:], output.pred_rotmat[:, :1], pose2rot=False
        )
    np.testing.assert_allclose(output.pred_rotmat, stored["rotmat"], atol=1e-4)
    np.testing.assert_allclose(posed.vertices, stored["vertices"], atol=1e-4)
    np.testing.assert_allclose(posed.joints, stored["joints"], atol=1e-4)
    images = stored["images"].reshape(len(stored["images"]), -1)
    assert (images == 0).all(1).any(), "no black crop"
    assert (images == 255).all(1).any(), "no white crop"
    red, green, blue = np.moveaxis(stored["images"][1], -1, 0).reshape(3, -1).mean(1)
    assert red > green > blue, "no crop tells the colour channels apart"
