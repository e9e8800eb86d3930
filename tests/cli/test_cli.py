"""The program from outside: outputs, JSON, exit codes, one sentence per mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from eft_fast.cli import main
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.result import FitResult


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A regressor file a thousandth of the size of the shipped one."""
    path = tmp_path_factory.mktemp("regressor") / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="Apache-2.0", source_sha256="0")
    return str(path)


@pytest.fixture
def dataset(tmp_path):
    """Two photos; three people in the annotations, one of them too small to be fitted."""
    generator = np.random.default_rng(3)
    photos = tmp_path / "photos"
    photos.mkdir()
    images, annotations = [], []
    for number in range(2):
        name = f"photo{number}.jpg"
        pixels = generator.integers(0, 256, (200, 260, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / name)
        images.append({"id": number, "file_name": name, "width": 260, "height": 200})
    for number, (image, side) in enumerate(((0, 120), (1, 130), (1, 20))):
        xy = generator.uniform(30, 30 + side, (17, 2))
        keypoints = np.concatenate([xy, np.full((17, 1), 2)], 1)
        annotations.append(
            {
                "id": number, "image_id": image, "category_id": 1, "iscrowd": 0,
                "bbox": [30, 30, side, side], "area": side * side, "num_keypoints": 17,
                "keypoints": keypoints.ravel().tolist(),
            }
        )  # fmt: skip
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    path = tmp_path / "people.json"
    path.write_text(json.dumps(document))
    return photos, path


def run_fit(dataset, tiny, out, *more):
    photos, annotations = dataset
    return main(
        ["fit", str(photos), "--annotations", str(annotations), "--regressor", tiny,
         "--out", str(out), "--max-steps", "2", *more]
    )  # fmt: skip


def test_fit_writes_everything(dataset, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_fit(dataset, tiny, out, "--json") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert printed.out.count("\n") == 1
    assert summary["people"] == 2
    assert summary["stop_reasons"] == {"max_steps": 2}
    assert sum(summary["left_out"].values()) == 1
    for key in ("init_kp_error_px", "kp_error_px", "seconds", "fits_per_second", "pck_0.1"):
        assert isinstance(summary[key], float)
    assert json.loads((out / "summary.json").read_text()) == summary
    fits = FitResult.load(out / "fits.npz")
    assert len(fits) == 2
    np.testing.assert_allclose(float(fits.kp_error_px.mean()), summary["kp_error_px"], rtol=1e-6)
    pictures = sorted(path.name for path in (out / "overlays").glob("*.png"))
    assert len(pictures) == 2
    for name in pictures:
        picture = np.asarray(Image.open(out / "overlays" / name))
        assert picture.shape[0] > 100
        assert picture.std() > 5
    report = (out / "report.html").read_text()
    assert "photo0.jpg" in report
    assert "photo1.jpg" in report


def test_fit_lines_for_people(dataset, tiny, tmp_path, capsys):
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures", "--method", "none") == 0
    printed = capsys.readouterr().out
    assert "2 people in" in printed
    assert "keypoint error" in printed
    assert not (tmp_path / "out" / "overlays").exists()


def test_bad_photo_is_named_and_the_others_are_fitted(dataset, tiny, tmp_path, capsys):
    photos, _ = dataset
    data = (photos / "photo0.jpg").read_bytes()
    (photos / "photo0.jpg").write_bytes(data[: len(data) // 2])
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["stop_reasons"] == {"bad_image": 1, "max_steps": 1}
    assert "photo0.jpg" in printed.err


def test_missing_photo_is_named_and_the_others_are_fitted(dataset, tiny, tmp_path, capsys):
    photos, _ = dataset
    (photos / "photo0.jpg").unlink()
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures", "--json") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["people"] == 1
    assert len(summary["problems"]) == 1
    assert "photo0.jpg" in summary["problems"][0]
    assert "photo0.jpg" in printed.err


def test_all_photos_bad_is_a_failure(dataset, tiny, tmp_path, capsys):
    photos, _ = dataset
    for photo in photos.iterdir():
        photo.write_bytes(photo.read_bytes()[:2000])
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures") == 1
    assert "photo1.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit"], "PHOTOS"),
        (["fti"], "fti"),
        ([], "a command is needed"),
        (["fit", "no/such/folder"], "no/such/folder"),
        (["fit", "{photos}", "--annotations", "missing.json"], "missing.json"),
        (["fit", "{photos}", "--annotations", "{text}"], "text.json"),
        (["fit", "{photos}", "--annotations", "{people}", "--method", "magic"], "magic"),
        (["fit", "{photos}", "--annotations", "{people}", "--mode", "haed"], "haed"),
        (["fit", "{photos}", "--annotations", "{people}", "--body", "none.pkl"], "none.pkl"),
        (["fit", "{photos}", "--annotations", "{people}", "--body", "{text}"], "text.json"),
        (["fit", "{photos}", "--annotations", "{people}", "--max-steps", "0"], "max_steps"),
        (["fit", "{photos}", "--annotations", "{people}", "--workers", "0"], "workers"),
        (["fit", "{photos}", "--annotations", "{people}", "--min-keypoints", "18"], "nobody"),
        (["fit", "{text}"], "text.json"),
    ],
)
def test_mistakes_are_one_sentence(dataset, tiny, tmp_path, capsys, arguments, words):
    photos, people = dataset
    text = tmp_path / "text.json"
    text.write_text("no json")
    places = {"photos": photos, "people": people, "text": text}
    filled = [argument.format(**places) for argument in arguments]
    if "{people}" in arguments:
        filled += ["--regressor", tiny]
    if filled[:1] == ["fit"]:
        filled += ["--out", str(tmp_path / "out")]
    assert main(filled) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_help_needs_no_torch():
    code = (
        "import sys; from eft_fast.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"doctor" in done.stdout


@pytest.mark.parametrize("command", ["demo", "fit", "doctor"])
def test_every_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "example: eft-fast" in capsys.readouterr().out


def test_doctor(capsys):
    assert main(["doctor", "--json"]) in (0, 1)
    summary = json.loads(capsys.readouterr().out)
    assert summary["packages"]["torch"]
    assert summary["models"]["body"]["bytes"] > 1_000_000
    assert summary["native"]["simd"] in ("avx512", "avx2", "portable")
