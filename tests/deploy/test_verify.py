"""Verification finds what is wrong with a folder, and needs no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from eft_fast.deploy import verify_folder
from eft_fast.deploy.verify import difference, rotation_angle
from tests.deploy.edit import change_output


@pytest.fixture
def folder(tiny_export, tmp_path):
    """A copy to break."""
    return shutil.copytree(tiny_export, tmp_path / "copy")


def edit_card(folder, **values):
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_model(folder, change):
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")


def test_an_untouched_copy_passes(folder):
    report = verify_folder(folder)
    assert report.passed
    assert report.provider == "cpu"
    assert set(report.checks.values()) == {"passed"}


def test_changed_weights_are_found(folder):
    edit_model(folder, lambda model: change_output(model, "betas", "Add", 0.01))
    (folder / "files.json").unlink()
    report = verify_folder(folder)
    assert not report.passed
    assert len(report.problems) == 1
    for words in ("differ from torch", "rotmat", "degrees", "betas", "at most 0.0001"):
        assert words in report.problems[0]
    assert report.max_difference["betas"] == pytest.approx(0.01, rel=0.1)


def test_a_file_that_is_not_the_exported_one_is_found(folder):
    def annotate(model):
        model.graph.node[0].doc_string = "changed"

    edit_model(folder, annotate)
    report = verify_folder(folder)
    assert report.problems == ("model.onnx is not the file that was exported",)
    assert report.checks["answers"] == "passed"


def test_traces_are_found(folder):
    def annotate(model):
        model.graph.node[0].doc_string = "/home/somebody/graph.py"

    edit_model(folder, annotate)
    (folder / "files.json").unlink()
    (problem,) = verify_folder(folder).problems
    assert "/home/somebody/graph.py" in problem


def test_graphs_that_contradict_their_shapes_are_found(folder):
    def widen(model):
        model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 11

    edit_model(folder, widen)
    (folder / "files.json").unlink()
    (problem,) = verify_folder(folder).problems
    assert "the ONNX checker refuses the file" in problem


def test_another_opset_is_found(folder):
    edit_model(folder, lambda model: model.metadata_props.remove(find(model, "opset")))
    edit_model(folder, lambda model: model.metadata_props.add(key="opset", value="18"))
    edit_card(folder, opset=18)
    (folder / "files.json").unlink()
    assert verify_folder(folder).problems == ("the opset must be 18, got 20",)


def find(model, key):
    return next(item for item in model.metadata_props if item.key == key)


def test_cards_must_agree(folder):
    edit_card(folder, box_margin=1.3)
    report = verify_folder(folder)
    assert report.checks["metadata"] == "failed"
    assert any("box_margin is 1.2 in the one and 1.3" in text for text in report.problems)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda f: (f / "samples.npz").unlink(), FileNotFoundError, "no samples.npz"),
        (lambda f: (f / "export.json").unlink(), FileNotFoundError, "no export.json"),
        (lambda f: (f / "model.onnx").unlink(), FileNotFoundError, "holds no model.onnx"),
        (lambda f: (f / "export.json").write_text("{"), ValueError, "is damaged"),
        (lambda f: edit_card(f, format="eft_fast-export-9"), ValueError, "must be of format"),
        (lambda f: edit_card(f, mean="none"), ValueError, "mean is missing or wrong"),
        (lambda f: edit_card(f, outputs={"rotmat": "x"}), ValueError, "outputs is missing or"),
        (lambda f: edit_card(f, precision="fp8"), ValueError, "precision must be one of"),
    ],
)
def test_incomplete_folders_are_refused_in_a_sentence(folder, spoil, kind, words):
    spoil(folder)
    with pytest.raises(kind, match=words):
        verify_folder(folder)


def test_damaged_samples_are_refused(folder):
    path = folder / "samples.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"samples\.npz is damaged"):
        verify_folder(folder)
    np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="must hold images"):
        verify_folder(folder)


def test_wrong_or_unknown_answers_of_torch_are_found(folder):
    path = folder / "samples.npz"
    with np.load(path) as file:
        samples = dict(file)
    samples["cam"][2, 1] = np.nan
    np.savez(path, **samples)
    report = verify_folder(folder)
    assert report.max_difference["cam"] == np.inf
    assert not report.passed


@pytest.mark.parametrize(("rounding", "passes"), [(0.006, True), (0.004, False)])
def test_a_crop_may_differ_as_much_as_torch_itself(folder, rounding, passes):
    """Twice torch's own rounding on that crop, and on that crop alone."""
    path = folder / "samples.npz"
    with np.load(path) as file:
        samples = dict(file)
    assert (samples["rounding/betas"] < 1e-4).all()
    assert (samples["rounding/betas"] > 0).any()
    samples["betas"][2] += 0.01
    samples["rounding/betas"][2] = rounding
    np.savez(path, **samples)
    (folder / "files.json").unlink()
    report = verify_folder(folder)
    assert report.passed == passes
    assert report.torch_rounding["betas"] == pytest.approx(rounding)
    assert passes or "torch itself 0.004" in report.problems[0]
    samples["rounding/betas"] = np.roll(samples["rounding/betas"], 1)
    np.savez(path, **samples)
    assert not verify_folder(folder).passed


def test_no_torch_is_needed(tiny_export):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from eft_fast.deploy.verify import verify_folder\n"
        f"sys.exit(not verify_folder({str(tiny_export)!r}).passed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 0.5, 90.0, 179.0])
def test_rotation_angle_is_exact_for_small_angles_too(degrees):
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    assert rotation_angle(np.eye(3), turn) == pytest.approx(degrees, rel=1e-6, abs=1e-9)
    both = np.broadcast_to(np.eye(3), (2, 24, 3, 3)).copy()
    turned = both.copy()
    turned[1, 5] = turn
    np.testing.assert_allclose(difference("rotmat", turned, both), [0, degrees], atol=1e-6)
