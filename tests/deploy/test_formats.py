"""Formats beside ONNX: OpenVINO, Triton, TensorRT, and engines built without a GPU."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from eft_fast.deploy import ExportConfig, export_regressor, verify_folder
from eft_fast.deploy.folder import hash_files
from eft_fast.deploy.formats import convert_folder
from eft_fast.deploy.onnx_graph import save_onnx
from eft_fast.deploy.tensorrt import build_engine
from eft_fast.deploy.triton import make_config
from eft_fast.models import load_regressor
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.serving import load_card, open_session
from eft_fast.serving.card import find_model


@pytest.fixture
def folder(tiny_export, tmp_path):
    """A copy to convert."""
    return shutil.copytree(tiny_export, tmp_path / "copy")


def test_openvino(folder):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    convert_folder(folder, "openvino")
    assert not (folder / "model.onnx").exists()
    report = verify_folder(folder)
    assert report.passed
    assert report.provider == "openvino"
    assert report.max_difference["rotmat"] <= 0.01
    with pytest.raises(ValueError, match="runs in OpenVINO only"):
        open_session(folder, provider="cuda")
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not the file that was exported"):
        open_session(folder)


def test_an_export_replaces_the_files_of_the_one_before(tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    for name in ("openvino", "onnx"):
        config = ExportConfig(format=name, max_batch=2)
        export_regressor(OpenRegressor.make_tiny(), tmp_path, config=config)
    assert not list(tmp_path.glob("model.xml"))
    assert find_model(tmp_path).kind == "onnx"
    assert json.loads((tmp_path / "files.json").read_text()) == hash_files(tmp_path)


def test_triton_repository(folder):
    convert_folder(folder, "triton")
    assert (folder / "eft_fast" / "1" / "model.onnx").is_file()
    text = (folder / "eft_fast" / "config.pbtxt").read_text()
    assert text == make_config(load_card(folder))
    found = parse_text(text)
    assert found["name"] == ["eft_fast"]
    assert found["backend"] == ["onnxruntime"]
    assert found["max_batch_size"] == ["16"]
    card = load_card(folder)
    model = onnx.load(folder / "eft_fast" / "1" / "model.onnx")
    outputs = found["output"][0]
    assert [item["name"] for item in outputs] == [[x.name] for x in model.graph.output]
    assert [item["dims"] for item in outputs] == [
        [list(map(str, shape))] for shape in card.outputs.values()
    ]
    (crop,) = found["input"][0]
    assert crop == {"name": ["image"], "data_type": ["TYPE_UINT8"], "dims": [["256", "256", "3"]]}
    assert found["dynamic_batching"][0]["preferred_batch_size"] == [["8", "16"]]
    assert [item["batch_size"] for item in found["model_warmup"][0]] == [["8"], ["16"]]
    # The repository verifies like any other folder.
    assert verify_folder(folder).passed


def parse_text(text: str) -> dict:
    """Read protobuf's text form: enough of it for such a file, and strict about brackets."""
    tokens = iter(
        text.replace("{", " { ").replace("}", " } ").replace("[", " [ ").replace("]", " ] ")
        .replace(",", " , ").replace(":", " : ").split()
    )  # fmt: skip

    def value(token):
        if token == "{":
            return message("}")
        if token != "[":
            return token.strip('"')
        items = []
        for token in tokens:
            if token == "]":
                return items
            if token != ",":
                items.append(value(token))
        raise AssertionError("a bracket is not closed")

    def message(end):
        fields = {}
        for name in tokens:
            if name == end:
                return fields
            token = next(tokens)
            fields.setdefault(name, []).append(value(next(tokens) if token == ":" else token))
        assert end is None, "a brace is not closed"
        return fields

    return message(None)


class TestTensorRtRtx:
    """Parses and builds every kind of export; needs no GPU, so it guards them all in CI."""

    @pytest.fixture(autouse=True)
    def _library(self):
        if not sys.platform.startswith("linux"):
            pytest.skip("the extra tensorrt-rtx is for Linux")
        pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

    def test_parameters_joints_and_vertices(self, folder):
        convert_folder(folder, "tensorrt-rtx")
        assert (folder / "model.engine").stat().st_size > 1_000_000
        assert "model.engine" in json.loads((folder / "files.json").read_text())
        assert verify_folder(folder).passed

    @pytest.mark.parametrize(
        ("make", "precision"),
        [
            pytest.param(load_regressor, "fp16", id="open-fp16"),
            # The others take a minute each and see little that this one does not.
            pytest.param(lambda: Hmr().eval(), "fp32", id="hmr-fp32", marks=pytest.mark.slow),
            pytest.param(load_regressor, "fp32", id="open-fp32", marks=pytest.mark.slow),
            pytest.param(lambda: Hmr().eval(), "fp16", id="hmr-fp16", marks=pytest.mark.slow),
        ],
    )
    def test_real_networks(self, make, precision, tmp_path):
        config = ExportConfig(format="tensorrt-rtx", precision=precision, max_batch=8)
        report = export_regressor(make(), tmp_path, config=config)
        assert report.passed
        sizes = {name: (tmp_path / f"model.{name}").stat().st_size for name in ("onnx", "engine")}
        # Precisions stay those of the file: an engine in fp32 would be twice as large.
        assert sizes["engine"] < 1.3 * sizes["onnx"] + 2_000_000
        kinds = {
            tensor.data_type
            for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
            if len(tensor.dims) == 4
        }
        half = onnx.TensorProto.FLOAT16
        assert (half in kinds) == (precision == "fp16")

    def test_a_file_that_it_cannot_parse_is_refused(self, tiny_export, tmp_path):
        """Bytes transposed before they are cast: every other runtime takes that."""
        model = onnx.load(tiny_export / "model.onnx")
        cast = next(node for node in model.graph.node if "image" in node.input)
        turn = onnx.helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 1, 2, 3])
        cast.input[0] = "turned"
        model.graph.node.insert(0, turn)
        path = tmp_path / "model.onnx"
        save_onnx(model, load_card(tiny_export), path)
        with pytest.raises(RuntimeError, match="tensorrt_rtx refuses the model") as caught:
            build_engine(path, load_card(tiny_export), library="tensorrt_rtx")
        assert "\n" not in str(caught.value)


def test_tensorrt_must_be_there_and_of_version_10(monkeypatch, tiny_export, tmp_path):
    card, path = load_card(tiny_export), tiny_export / "model.onnx"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ImportError, match="tensorrt cannot be loaded"):
        build_engine(path, card)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0"))
    with pytest.raises(ImportError, match=r"TensorRT 10 is needed.*got 11\.4\.0"):
        build_engine(path, card)


def test_formats_say_what_they_need(monkeypatch, tmp_path):
    from eft_fast.deploy import formats

    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    for name, extra in (("openvino", "openvino"), ("tensorrt", "tensorrt")):
        config = ExportConfig(format=name)
        with pytest.raises(ImportError, match=rf"needs {extra}; pip install .*{extra}"):
            export_regressor(OpenRegressor.make_tiny(), tmp_path, config=config)
    monkeypatch.undo()
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    config = ExportConfig(format="openvino", precision="fp16")
    with pytest.raises(ValueError, match="openvino takes no precision fp16"):
        export_regressor(OpenRegressor.make_tiny(), tmp_path, config=config)


def test_one_batch_size_needs_one_warm_up(tiny_export):
    found = parse_text(make_config(replace(load_card(tiny_export), max_batch=1)))
    assert found["dynamic_batching"][0]["preferred_batch_size"] == [["1"]]
    assert np.size(found["model_warmup"][0]) == 1
