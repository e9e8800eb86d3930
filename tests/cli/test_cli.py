"""The program from outside: outputs, JSON, exit codes, one sentence per mistake."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eft_fast.api
import eft_fast.cli
from eft_fast import files
from eft_fast.cli import main
from eft_fast.cli.main import make_program
from eft_fast.cli.output import UsageError
from eft_fast.cli.paths import output_folder
from eft_fast.cli.people import people_from_detector
from eft_fast.eft.loop import LoopFitter
from eft_fast.models import load_regressor
from eft_fast.models.error_covariance import covariance_beside, estimate_covariance
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


def run_fit(dataset, tiny, out, *more, steps=("--max-steps", "2")):
    photos, annotations = dataset
    return main(
        ["fit", str(photos), "--annotations", str(annotations), "--regressor", tiny,
         "--out", str(out), *steps, *more]
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
    more = ("--no-pictures", "--method", "none")
    assert run_fit(dataset, tiny, tmp_path / "out", *more, steps=()) == 0
    printed = capsys.readouterr().out
    assert "2 people in" in printed
    assert "keypoint error" in printed
    assert not (tmp_path / "out" / "overlays").exists()


@pytest.fixture
def known(tmp_path):
    """The tiny regressor with its usual error beside it."""
    regressor, path = OpenRegressor.make_tiny(), tmp_path / "known" / "tiny.npz"
    path.parent.mkdir()
    save_open_regressor(regressor, path, licence="Apache-2.0", source_sha256="0")
    states = 0.3 * torch.randn(400, 85, generator=torch.Generator().manual_seed(0))
    covariance = estimate_covariance(states, regressor=load_regressor(path), source="made up")
    covariance.save(covariance_beside(path))
    return path


@pytest.mark.parametrize(
    ("more", "method"),
    [
        ((), "map"),
        (("--method", "eft", "--max-steps", "2"), "eft"),
        (("--mode", "head", "--max-steps", "2"), "eft"),
        (("--threshold", "0", "--max-steps", "2"), "eft"),
        (("--method", "map", "--max-steps", "2"), "map"),
    ],
)
def test_fit_finds_the_usual_error_beside_the_weights(
    dataset, known, tmp_path, capsys, more, method
):
    more = ("--no-pictures", "--json", *more)
    assert run_fit(dataset, str(known), tmp_path / "out", *more, steps=()) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["method"] == method
    assert "error covariance" not in printed.err


def test_fit_says_why_it_takes_eft(dataset, tiny, known, tmp_path, capsys, monkeypatch):
    """The file that is given counts; without any, EFT is taken, with one note."""
    given = ("--covariance", str(covariance_beside(known)), "--no-pictures", "--json")
    assert run_fit(dataset, tiny, tmp_path / "a", *given, steps=()) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "map"
    assert run_fit(dataset, tiny, tmp_path / "b", "--no-pictures", "--json", steps=()) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["method"] == "eft"
    (line,) = [line for line in printed.err.splitlines() if "error covariance" in line]
    assert line.startswith("note: fit_batch: method 'map', the default, needs the error covariance")


def test_keypoints_of_the_detector_get_its_noise(dataset, known, tmp_path, monkeypatch):
    """Without --annotations; what is named goes before, and labels are as they were."""
    found = []
    fit_batch = eft_fast.api.fit_batch

    def watched(*arguments, **options):
        found.append(options["config"])
        return fit_batch(*arguments, **options)

    def detected(photos, *, quiet):
        people = people_from_detector([], quiet=True)
        people.photos, people.names, people.ids = list(photos[:1]), ["a"], ["0"]
        people.keypoints = np.ones((1, 17, 3), np.float32) * [60, 60, 1]
        people.boxes = np.array([[30.0, 20, 80, 80]])
        return people

    monkeypatch.setattr("eft_fast.api.fit_batch", watched)
    monkeypatch.setattr("eft_fast.cli.fit.people_from_detector", detected)
    fit = ["fit", str(dataset[0]), "--regressor", str(known), "--no-pictures", "--quiet"]
    given = ["--annotations", str(dataset[1])]
    for number, more in enumerate(
        [[], ["--keypoint-noise", "labels"], ["--mode", "head"], given, ["--method", "smplify"]]
    ):
        assert main([*fit, "--out", str(tmp_path / str(number)), *more]) == 0
    assert isinstance(found.pop(), eft_fast.SmplifyConfig)
    assert [each.keypoint_noise for each in found] == ["detector", "labels", "detector", None]
    kinds = [eft_fast.MapConfig, eft_fast.MapConfig, eft_fast.EftConfig, eft_fast.MapConfig]
    assert [type(each) for each in found] == kinds


def test_bad_photo_is_named_and_the_others_are_fitted(dataset, tiny, tmp_path, capsys):
    photos, _ = dataset
    data = (photos / "photo0.jpg").read_bytes()
    (photos / "photo0.jpg").write_bytes(data[: len(data) // 2])
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures", "--json") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["stop_reasons"] == {"bad_image": 1, "max_steps": 1}
    result = FitResult.load(tmp_path / "out" / "fits.npz")
    assert summary["with_message"] == sum(map(bool, result.message)) >= 1
    assert sum(summary["hypotheses"].values()) == sum(map(bool, result.hypothesis))
    assert "photo0.jpg" in printed.err


def test_missing_photo_is_named_and_the_others_are_fitted(dataset, tiny, tmp_path, capsys):
    photos, _ = dataset
    (photos / "photo0.jpg").unlink()
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures", "--json") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["people"] == 1
    flags, missing = summary["problems"]
    assert "photo0.jpg" in missing
    assert "visibility flags 0, 1, 2" in flags
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
        (["fti"], "'fti'; did you mean 'fit'?"),
        ([], "a command is needed"),
        (["fit", "no/such/folder"], "no/such/folder"),
        (["fit", "{photos}", "--annotations", "missing.json"], "missing.json"),
        (["fit", "{photos}", "--annotations", "{text}"], "text.json"),
        (["fit", "{photos}", "--annotations", "{people}", "--method", "smplfy"], "mean 'smplify'"),
        (["fit", "{photos}", "--annotations", "{people}", "--mode", "haed"], "mean 'head'"),
        (["fit", "{photos}", "--annotations", "{people}", "--body", "none.pkl"], "none.pkl"),
        (["fit", "{photos}", "--annotations", "{people}", "--body", "{text}"], "text.json"),
        (["fit", "{photos}", "--annotations", "{people}", "--max-steps", "0"], "--max-steps"),
        (["fit", "{photos}", "--annotations", "{people}", "--workers", "0"], "workers"),
        (["fit", "{photos}", "--annotations", "{people}", "--min-keypoints", "18"], "nobody"),
        (["fit", "{text}"], "text.json"),
        (["fit", "{photos}", "--anotations", "{people}"], "did you mean '--annotations'?"),
        (["fit", "{photos}", "--device", "gpu"], "--device must be cpu, cuda or cuda:N"),
        (["fit", "{photos}", "--device", "cuda", "--workers", "2"], "for the CPU"),
        (["fit", "{photos}", "--slots", "2", "--workers", "2"], "exclude each other"),
        (["fit", "{photos}", "--lr", "nan"], "--lr must be finite"),
        (["fit", "{photos}", "--min-area", "5"], "goes with --annotations"),
        (["fit", "{photos}", "--prior", "gmm"], "--prior goes with --method smplify"),
        (["fit", "{photos}", "--start", "mean"], "--start goes with --method smplify"),
        (["fit", "{photos}", "--method", "smplifyx", "--mode", "head"], "--mode goes with"),
        (["fit", "{photos}", "--method", "none", "--mode", "full"], "--mode goes with"),
        (["fit", "{photos}", "--method", "smplify", "--slots", "2"], "--slots goes with"),
        (["fit", "{photos}", "--method", "none", "--lr", "1"], "--lr goes with"),
        (["fit", "{photos}", "--method", "none", "--max-steps", "3"], "--max-steps goes with"),
        (["fit", "{photos}", "--method", "none", "--threshold", "1"], "--threshold goes with"),
        (["fit", "{photos}", "--mode", "head", "--prior", "gmm"], "got no --method; leave it out"),
        (["fit", "{photos}", "--covariance", "none.npz"], "--covariance must be a file"),
        (["fit", "{photos}", "--keypoint-noise", "x"], "must be one of labels, detector, landm"),
        (["fit", "{photos}", "--method", "none", "--keypoint-noise", "labels"], "goes with --me"),
        (["fit", "{photos}", "--method", "smplify", "--covariance", "{text}"], "goes with --meth"),
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
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("{text}", "--out must be a folder, got the file"),
        ("{text}/fits", "--out cannot be written (Not a directory)"),
        ("/proc/fits", "--out cannot be written (No such file or directory)"),
    ],
)
def test_out_is_tried_before_anything_is_loaded(dataset, tmp_path, capsys, monkeypatch, out, words):
    photos, people = dataset
    text = tmp_path / "text"
    text.write_text("mine")
    monkeypatch.setattr("eft_fast.data.open_annotations", None)
    monkeypatch.setattr("eft_fast.api.load_regressor", None)
    arguments = ["fit", str(photos), "--annotations", str(people)]
    assert main([*arguments, "--out", out.format(text=text)]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert text.read_text() == "mine"


def test_wrong_options_are_told_before_torch_is_loaded(dataset):
    photos, people = map(str, dataset)
    fit = ["fit", photos, "--annotations", people]
    cases = [
        [*fit, "--method", "none", "--mode", "head"],
        [*fit, "--regressor", "none.pt"],
        [*fit, "--out", people],
        ["fit", photos, "--annotations", "none.json"],
        ["eval", "openbench", "--motion", "nowhere"],
        ["export", "--out", "x", "--motion", "nowhere"],
        ["train", "--config", "none.toml"],
        ["synth", "--n", "1", "--out", people],
    ]
    code = (
        "import sys; from eft_fast.cli import main\n"
        f"codes = [main(case) for case in {cases!r}]\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(codes) == {2}, codes"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


def test_an_output_folder_that_stays_empty_goes_again(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for out in (there, tmp_path / "a" / "b"):
        with pytest.raises(UsageError), output_folder(out):
            raise UsageError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with output_folder(tmp_path / "a" / "b") as out:
        (out / "fits").touch()
    assert (tmp_path / "a" / "b" / "fits").exists()


@pytest.mark.parametrize(("number", "code", "word"), [(2, 130, "interrupted"), (15, 143, "termin")])
@pytest.mark.parametrize("is_swallowed", [False, True])
def test_signals_have_exit_codes(monkeypatch, capsys, number, code, word, is_swallowed):
    def stopped(options):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt:
            if not is_swallowed:
                raise
        return 0

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr("eft_fast.cli.doctor.run", stopped)
    assert main(["doctor"]) == code
    assert f"eft-fast doctor: {word}" in capsys.readouterr().err
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


def test_an_interrupted_fit_saves_what_is_done(dataset, tiny, tmp_path, capsys, monkeypatch):
    fit_batch = eft_fast.api.fit_batch

    def interrupted(*arguments, **options):
        result = fit_batch(*arguments, **options)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return result

    monkeypatch.setattr("eft_fast.api.fit_batch", interrupted)
    assert run_fit(dataset, tiny, tmp_path / "out", "--no-pictures", "--json") == 130
    assert len(FitResult.load(tmp_path / "out" / "fits.npz")) == 2
    assert json.loads(capsys.readouterr().out)["people"] == 2


def test_an_interrupt_says_what_is_done_in_one_line(dataset, tiny, tmp_path, capsys, monkeypatch):
    """Ctrl-C after the first person: true rates, no pictures of nobody, no line per person."""
    real = LoopFitter.fit_person

    def stopped(self, person):
        if person.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return real(self, person)

    monkeypatch.setattr(LoopFitter, "fit_person", stopped)
    out = tmp_path / "out"
    assert run_fit(dataset, tiny, out, "--method", "eft") == 143
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "eft-fast fit: terminated; 1 of 2 people done" in printed.err
    assert str(out / "fits.npz") in printed.err
    assert FitResult.load(out / "fits.npz").stop_reason == ("max_steps", "interrupted")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["fits_per_second"] == pytest.approx(1 / summary["seconds"])


def test_a_signal_while_fits_are_saved_waits(dataset, tiny, tmp_path, capsys, monkeypatch):
    save, out = FitResult.save, tmp_path / "out"

    def stopped(self, path):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        save(self, path)

    monkeypatch.setattr(FitResult, "save", stopped)
    assert run_fit(dataset, tiny, out) == 130
    assert len(FitResult.load(out / "fits.npz")) == 2
    assert "2 of 2 people done" in capsys.readouterr().err
    assert not (out / "overlays").exists()


def test_a_full_disk_costs_no_fit(dataset, tiny, tmp_path, capsys, monkeypatch):
    """Of the fits: they are saved elsewhere. Of the pictures: the fits are there already."""
    out, real = tmp_path / "out", files.os.fsync
    assert run_fit(dataset, tiny, out, "--no-pictures") == 0
    old = (out / "fits.npz").read_bytes()

    def full(number):
        if is_refused(os.readlink(f"/proc/self/fd/{number}")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(files.os, "fsync", full)
    is_refused = lambda path: "fits.npz" in path and str(out) in path  # noqa: E731
    assert run_fit(dataset, tiny, out, "--restart") == 1
    error = capsys.readouterr().err
    assert "fits.npz cannot be written (No space left on device); what was there before" in error
    rescued = Path(error.rsplit(" ", 1)[1].strip())
    assert len(FitResult.load(rescued)) == 2
    assert (out / "fits.npz").read_bytes() == old
    shutil.rmtree(rescued.parent)

    is_refused = lambda path: ".png" in path  # noqa: E731
    assert run_fit(dataset, tiny, out, "--restart") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("eft-fast fit: the pictures are not drawn: ")
    assert f"the fits are all in {out / 'fits.npz'}" in error
    assert FitResult.load(out / "fits.npz").run_id
    assert not (out / "overlays").exists()


def test_another_run_replaces_everything(dataset, tiny, tmp_path, capsys):
    photos, people = dataset
    out = tmp_path / "out"
    assert run_fit(dataset, tiny, out) == 0
    (out / "mine.txt").touch()
    (out / "view.html").write_text("old")
    document = json.loads(people.read_text())
    document["annotations"] = document["annotations"][1:]
    people.write_text(json.dumps(document))
    old = (out / "fits.npz").read_bytes()
    capsys.readouterr()
    assert run_fit(dataset, tiny, out) == 2
    assert f"{out} holds a run of other people; repeat its options" in capsys.readouterr().err
    assert (out / "fits.npz").read_bytes() == old
    assert run_fit(dataset, tiny, out, "--restart") == 0
    assert [path.name for path in (out / "overlays").iterdir()] == ["00001_photo1.png"]
    assert {path.name for path in out.iterdir()} == {
        "fits.npz", "people.json", "summary.json", "report.html", "overlays", "mine.txt",
        "run.json", "run.toml", "view.html",
    }  # fmt: skip
    assert "photo1.jpg" in (out / "view.html").read_text()
    fits = FitResult.load(out / "fits.npz")
    assert fits.run_id == json.loads((out / "people.json").read_text())["run_id"]
    assert (fits.photo, fits.id) == ((str(photos / "photo1.jpg"),), ("1",))


def test_two_runs_at_once(dataset, tiny, tmp_path, capsys):
    code = (
        "import sys; from eft_fast.folders import locked_folder\n"
        "with locked_folder(sys.argv[1]):\n    print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert run_fit(dataset, tiny, tmp_path) == 2
        other.kill()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"is being written by another eft-fast (process {other.pid}" in error
    assert run_fit(dataset, tiny, tmp_path, "--no-pictures") == 0


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


def leaves(parser):
    """Parsers of all commands, and of the commands in them."""
    groups = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for group in groups:
        for each in group.choices.values():
            yield from leaves(each)
    if not groups:
        yield parser


@pytest.mark.parametrize("parser", [*leaves(make_program())], ids=lambda parser: parser.prog)
def test_every_command_has_examples_that_parse(parser):
    assert parser.format_help().rstrip().splitlines()[-1].startswith(f"example: {parser.prog}")
    for line in parser.epilog.splitlines():
        program, *words = shlex.split(line.removeprefix("example: "))
        assert program == "eft-fast"
        options = make_program().parse_args(words)
        assert options.prog == parser.prog
        assert {"run", "json", "quiet"} <= vars(options).keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["eval", "openbnch"],
            "PROTOCOL must be one of openbench, truth, photos, coco, renders, cards, "
            "got 'openbnch'; d",
        ),
        (["eval"], "eft-fast eval: the following arguments are required: PROTOCOL"),
        (["bench", "smlpify"], "did you mean 'smplify'?"),
        (["eval", "coco", "--photos", "x"], "eft-fast eval coco: the following"),
        (["eval", "cards", "--count", "3"], "eft-fast eval cards: no option --count"),
        (["eval", "openbench", "--photos", "x"], "no option --photos"),
        (["bench", "smpl", "--model", "x"], "no option --model"),
        (["export", "--out", "x", "--joint-set", "cocoo17"], "(see eft-fast export --help)"),
        (["convert", "x", "--to", "eft_json", "--out", "y"], "did you mean 'eft-json'"),
        (["view", "x", "y"], "unexpected argument 'y'"),
    ],
)
def test_what_was_meant(capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_sentences_leave_the_name_of_the_command_to_main():
    for path in Path(eft_fast.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "UsageError":
                words = ast.unparse(node.args[0]).lstrip("f'\"")
                assert not words.startswith("eft-fast"), f"{path.name}:{node.lineno}"


def test_doctor(capsys):
    assert main(["doctor", "--json"]) in (0, 1)
    summary = json.loads(capsys.readouterr().out)
    assert summary["packages"]["torch"]
    assert summary["models"]["body"]["bytes"] > 1_000_000
    assert summary["native"]["simd"] in ("avx512", "avx2", "portable")
