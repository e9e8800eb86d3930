"""tools/gpu_deploy.py: what is not installed is left out by name, and nothing falls back unseen."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from tests.serving.fake_runtime import CPU, CUDA, FakeRuntime

TOOL = Path(__file__).resolve().parent.parent / "tools" / "gpu_deploy.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="runs in a source checkout")


@pytest.fixture
def tool(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_deploy", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_deploy", module)
    spec.loader.exec_module(module)
    module.BATCHES, module.ROUNDS = (1, 2), 1
    monkeypatch.delenv("EFT_FAST_REQUIRE_CUDA", raising=False)
    return module


@pytest.fixture
def exports(tool, tiny_export, tmp_path):
    made = tool.Exports(tmp_path)
    made.made["fp32"] = shutil.copytree(tiny_export, tmp_path / "fp32")
    return made


@pytest.fixture
def rows(tool, tmp_path):
    return tool.Rows(tmp_path / "gpu" / "rows.csv", "somewhere")


def read(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "gpu" / "rows.csv").open() as file:
        return list(csv.DictReader(file))


class NoExports:
    """Exporting takes a minute: nobody asks for it in vain."""

    def folder(self, precision: str) -> Path:
        raise AssertionError("nothing needs an export")


def test_what_is_not_installed_is_left_out_by_name(tool, rows, tmp_path, monkeypatch, capsys):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built for CUDA")
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    monkeypatch.setenv("EFT_FAST_REQUIRE_CUDA", "1")
    outcomes = tool.check_all(NoExports(), rows, time.monotonic() + 60)
    assert len(outcomes) == 6
    assert not any(outcome.failed for outcome in outcomes)
    said = capsys.readouterr().out
    assert "cuda fp16: left out: onnxruntime-gpu is not installed" in said
    assert "tensorrt fp32: left out: onnxruntime-gpu is not installed" in said
    assert "TensorRT engine fp32: left out: tensorrt is not installed" in said
    assert read(tmp_path) == []


def test_nothing_starts_when_the_time_is_over(tool, rows, capsys):
    assert tool.check_all(NoExports(), rows, time.monotonic() - 1) == []
    assert "no time left: cuda fp32 and what follows is not checked" in capsys.readouterr().out


def test_a_provider_that_runs_has_rows(tool, exports, rows, tmp_path):
    assert tool.try_provider(exports, "cpu", "fp32", rows) == tool.Outcome("cpu fp32", "passed")
    written = read(tmp_path)
    assert [(row["provider"], row["batch"]) for row in written] == [("cpu", "1"), ("cpu", "2")]
    assert all(float(row["images_per_second"]) > 0 for row in written)
    assert all(0 <= float(row["rotation_difference_degrees"]) < 0.01 for row in written)


def test_a_silent_fall_back_fails_where_a_gpu_is_required(
    tool, exports, rows, tmp_path, monkeypatch
):
    """ONNX Runtime does not raise: it lists the provider, and the session runs on the CPU."""
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime([CPU], []))
    outcome = tool.try_provider(exports, "cuda", "fp32", rows)
    assert not outcome.failed
    assert "left out: serving: provider cuda was asked for, but the model would" in outcome.ending
    monkeypatch.setenv("EFT_FAST_REQUIRE_CUDA", "1")
    outcome = tool.try_provider(exports, "cuda", "fp32", rows)
    assert outcome.failed
    assert outcome.ending.startswith("failed: serving: provider cuda was asked for")
    assert read(tmp_path) == []


def test_heavy_operators_on_the_cpu_fail_as_well(tool, exports, rows, monkeypatch):
    monkeypatch.setenv("EFT_FAST_REQUIRE_CUDA", "1")
    fake = FakeRuntime([CUDA, CPU], [(CUDA, ["Conv"]), (CPU, ["Gemm"])])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    outcome = tool.try_provider(exports, "cuda", "fp32", rows)
    assert outcome.failed
    assert "Gemm of this model would run on the CPU" in outcome.ending
    fake.parts = [(CUDA, ["Conv", "Gemm"])]
    assert tool.try_provider(exports, "cuda", "fp32", rows).ending == "passed"


def test_wrong_answers_fail(tool, exports, rows, tmp_path):
    import onnx

    from tests.deploy.edit import change_output

    folder = exports.folder("fp32")
    model = onnx.load(folder / "model.onnx")
    change_output(model, "betas", "Add", 0.01)
    onnx.save(model, folder / "model.onnx")
    (folder / "files.json").unlink()
    outcome = tool.try_provider(exports, "cpu", "fp32", rows)
    assert outcome.failed
    assert "differ from torch" in outcome.ending
    assert read(tmp_path) == []


def fake_tensorrt(monkeypatch, version: str) -> None:
    module = ModuleType("tensorrt")
    module.__version__ = version
    module.__spec__ = ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)


def test_tensorrt_needs_its_own_libraries(tool, exports, rows, monkeypatch):
    """onnxruntime-gpu lists the provider whether they are there or not."""
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    monkeypatch.setenv("EFT_FAST_REQUIRE_CUDA", "1")
    fake = FakeRuntime(["TensorrtExecutionProvider", CUDA, CPU], [])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    outcome = tool.try_provider(exports, "tensorrt", "fp32", rows)
    assert (outcome.ending, outcome.failed) == ("left out: tensorrt is not installed", False)
    fake_tensorrt(monkeypatch, "10.13")
    assert tool.try_provider(exports, "tensorrt", "fp32", rows).ending == "passed"


def test_an_engine_that_cannot_be_built_fails_where_a_gpu_is_required(tool, exports, monkeypatch):
    fake_tensorrt(monkeypatch, "11.0")
    outcome = tool.try_engine(exports, "fp32")
    assert (outcome.what, outcome.failed) == ("TensorRT engine fp32", False)
    assert "left out: export: TensorRT 10 is needed" in outcome.ending
    monkeypatch.setenv("EFT_FAST_REQUIRE_CUDA", "1")
    assert tool.try_engine(exports, "fp32").failed


def test_without_onnx_the_whole_check_is_left_out(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    assert tool.main(["--csv", str(tmp_path / "rows.csv")]) == 0
    assert "left out: onnx, onnxscript, onnxruntime not installed" in capsys.readouterr().out
