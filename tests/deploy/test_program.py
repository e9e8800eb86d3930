"""export, verify, predict and bench from outside: outputs, JSON, exit codes, sentences."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from eft_fast.cli import bench, main
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A regressor file a thousandth of the size of the shipped one."""
    path = tmp_path_factory.mktemp("regressor") / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="MIT", source_sha256="0")
    return str(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder


def test_export_and_verify(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(["export", "--regressor", tiny, "--out", str(out), "--max-batch", "2", "--json"]) == 0
    )
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert printed.out.count("\n") == 1
    assert summary["passed"]
    assert summary["max_difference"]["rotmat"] <= 0.01
    card = json.loads((out / "export.json").read_text())
    assert card["licence"] == "MIT"
    assert len(card["source_sha256"]) == 64
    assert main(["verify", str(out)]) == 0
    assert "verified on cpu" in capsys.readouterr().out
    (out / "model.onnx").write_bytes((out / "model.onnx").read_bytes() + b"\n")
    assert main(["verify", str(out), "--json"]) in (1, 2)


def test_verify_fails_with_1_and_names_the_difference(tiny_export, tmp_path, capsys):
    folder = shutil.copytree(tiny_export, tmp_path / "copy")
    path = folder / "samples.npz"
    with np.load(path) as file:
        samples = dict(file)
    samples["betas"] += 0.01
    np.savez(path, **samples)
    assert main(["verify", str(folder), "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert not summary["passed"]
    assert "differ from torch" in " ".join(summary["problems"])


def test_predict_photos(tiny_export, photos, tmp_path, capsys):
    out = tmp_path / "p.npz"
    (photos / "photo1.png").write_bytes(b"")
    command = ["predict", str(photos), "--model", str(tiny_export), "--out", str(out)]
    assert main([*command, "--box", "5", "5", "40", "60", "--json"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert (summary["people"], summary["failed"]) == (3, 1)
    assert summary["provider"] == "cpu"
    assert "photo1.png" in printed.err
    assert summary["predictions"][1]["betas"][0] is None
    with np.load(out) as file:
        np.testing.assert_allclose(summary["predictions"][2]["cam"], file["cam"][2], rtol=1e-6)
        assert file["joints_2d_px"].shape == (3, 45, 2)
    for photo in photos.iterdir():
        photo.write_bytes(b"no picture")
    assert main([*command, "--quiet"]) == 1


def test_predict_takes_boxes_from_annotations(tiny_export, photos, tmp_path, capsys):
    from eft_fast.serving import Predictor

    boxes = [[5, 5, 40, 60], [10, 8, 30, 50]]
    people = {
        "images": [{"id": 0, "file_name": "photo2.png", "width": 60, "height": 80}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": row, "image_id": 0, "category_id": 1, "iscrowd": 0, "bbox": box,
                "area": 2000, "num_keypoints": 17, "keypoints": [20, 30, 2] * 17,
            }
            for row, box in enumerate(boxes)
        ],
    }  # fmt: skip
    path = tmp_path / "people.json"
    path.write_text(json.dumps(people))
    command = ["predict", str(photos), "--annotations", str(path), "--model", str(tiny_export)]
    assert main([*command, "--out", str(tmp_path / "p.npz"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    expected = Predictor(tiny_export)([photos / "photo2.png"] * 2, boxes)
    np.testing.assert_allclose([row["cam"] for row in rows], expected.cam, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["export"], 2, "--out"),
        (["export", "--out", "{out}", "--regressor", "none.npz"], 2, "none.npz"),
        (["export", "--out", "{out}", "--precision", "fp8"], 2, "precision"),
        (["export", "--out", "{out}", "--format", "coreml"], 2, "format"),
        (["export", "--out", "{out}", "--opset", "17"], 2, "opset"),
        (["export", "--out", "{out}", "--precision", "int8"], 2, "--photos"),
        (["export", "--out", "{out}", "--motion", "x"], 2, "--motion"),
        (["export", "--out", "{out}", "--joint-set", "coco17"], 2, "goes with --outputs"),
        (["export", "--out", "{out}", "--precision", "int8", "--photos", "{photos}",
          "--format", "tensorrt"], 2, "goes with --format onnx or openvino or triton"),
        (["export", "--out", "{out}", "--outputs", "joints", "--body", "no.pkl"], 2, "no.pkl"),
        (["export", "--out", "{out}", "--detector", "--format", "triton"], 2, "but triton"),
        (["predict", "{photos}", "--model", "{out}", "--fit"], 2, "--fit goes with --find"),
        (["predict", "{photos}", "--model", "{out}", "--find", "--box", "0", "0", "9", "9"], 2,
         "--find or --box, not both"),
        (["predict", "{photos}", "--model", "{model}", "--find"], 2, "again with --detector"),
        (["verify", "{out}"], 2, "no folder or model"),
        (["verify", "{photos}"], 2, "holds no model.onnx"),
        (["verify", "{model}", "--provider", "gpu"], 2, "provider must be one of"),
        (["verify", "{model}", "--threads", "0"], 2, "threads"),
        (["predict", "{photos}"], 2, "--model"),
        (["predict", "{photos}", "--model", "{out}"], 2, "no folder or model"),
        (["predict", "{out}", "--model", "{model}"], 2, "out"),
        (["predict", "{photos}", "--model", "{model}", "--batch-size", "0"], 2, "--batch-size"),
        (
            ["predict", "{photos}", "--model", "{model}", "--box", "1", "2", "3", "4",
             "--annotations", "a.json"], 2, "not both",
        ),
        (["bench"], 2, "TARGET"),
        (["bench", "cats"], 2, "cats"),
        (["bench", "onnx", "--batch", "0"], 2, "--batch"),
        (["bench", "onnx", "--model", "{model}"], 2, "holds other weights than regressor"),
        (["bench", "onnx", "--processor-time", "--threads", "2"], 2, "needs --threads 1"),
        (["bench", "onnx", "--engines", "tflite"], 2, "--engines"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(tiny_export, photos, tmp_path, capsys, arguments, code, words):
    places = {"out": tmp_path / "out", "photos": photos, "model": tiny_export}
    assert main([argument.format(**places) for argument in arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "verify"])
def test_a_missing_gpu_is_one_sentence(tiny_export, photos, capsys, command):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built for CUDA")
    target = [str(photos), "--model"] if command == "predict" else []
    assert main([command, *target, str(tiny_export), "--provider", "cuda"]) == 1
    printed = capsys.readouterr()
    assert "provider cuda was asked for" in printed.err
    assert printed.err.count("\n") == 1


def test_bench_onnx(tiny, capsys):
    command = ["bench", "onnx", "--regressor", tiny, "--batch", "2", "--rounds", "2", "--json"]
    assert main([*command, "--threads", "1", "--engines", "onnxruntime", "torch_eager"]) == 0
    summary = json.loads(capsys.readouterr().out)
    (row,) = summary["rows"]
    assert (row["case"], row["size"], row["peer"]) == ("open-1", 2, "torch_eager")
    assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
    assert row["peer_images_per_second"] == pytest.approx(2000 / row["peer_ms"])
    assert row["ours_provider"] == "cpu"
    assert 0 < row["ours_max_difference"]["rotmat"] < 0.01
    assert summary["threads"] == 1


def test_other_targets_need_the_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "_CHECKOUT", tmp_path)
    assert main(["bench", "smpl"]) == 2
    assert "part of the source checkout" in capsys.readouterr().err
    called = []
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "compare.py").touch()
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: called.append(command) or _Done(returncode=3)
    )
    assert main(["bench", "points", "--json", "--rounds", "4"]) == 3
    assert called[0][1:] == ["-m", "benchmarks.compare", "points", "--json", "--rounds", "4"]


class _Done:
    def __init__(self, returncode):
        self.returncode = returncode


@pytest.mark.parametrize(
    ("installed", "providers", "words"),
    [
        ({"onnxruntime": "1.32", "onnxruntime-gpu": "1.31"}, ["CPU"], "pip uninstall -y"),
        ({"onnxruntime-gpu": "1.31"}, ["CPU"], "has no CUDA"),
        ({"onnxruntime-gpu": "1.31"}, ["CUDA", "CPU"], None),
        ({"onnxruntime": "1.32"}, ["CPU"], None),
        ({}, [], None),
    ],
)
def test_doctor_finds_packages_that_fight(monkeypatch, installed, providers, words):
    from types import SimpleNamespace

    from eft_fast.cli import doctor

    names = [f"{name}ExecutionProvider" for name in providers]
    fake = SimpleNamespace(get_available_providers=lambda: names)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", fake)
    monkeypatch.setattr(doctor, "_version", installed.get)
    problems = []
    assert doctor._runtime(problems) == {"providers": providers}
    assert len(problems) == (words is not None)
    assert words is None or words in problems[0]
