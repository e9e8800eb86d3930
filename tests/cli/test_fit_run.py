"""``eft-fast fit`` into a folder again, from a file of options, and over many people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eft_fast.cli import main
from eft_fast.cli.main import make_program
from eft_fast.cli.run_file import to_run_file
from eft_fast.eft.loop import LoopFitter
from eft_fast.result import FitResult
from tests.pseudo_gt.jobs_data import make_dataset

REPO = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("run") / "data", 10)


def arguments(data, out, *more):
    return [
        "fit", str(data), "--annotations", str(data / "people.json"), "--regressor",
        str(data / "tiny.npz"), "--out", str(out), *map(str, more),
    ]  # fmt: skip


def fit(data, out, *more, method="none"):
    return main(arguments(data, out, "--method", method, "--no-pictures", *more))


def test_the_same_run_again_fits_nobody(data, tmp_path, capsys, monkeypatch):
    assert fit(data, tmp_path / "out", "--quiet", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("eft_fast.api.fit_batch", None)
    assert fit(data, tmp_path / "out", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == first
    assert "holds this run already; --restart fits it anew" in printed.err


def test_an_interrupted_run_goes_on(data, tmp_path, capsys, monkeypatch):
    out, real, fitted = tmp_path / "out", LoopFitter.fit_person, []

    def stopped(self, person):
        fitted.append(person.id)
        if len(fitted) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return real(self, person)

    monkeypatch.setattr(LoopFitter, "fit_person", stopped)
    more = ("--mode", "head", "--max-steps", "2")
    assert fit(data, out, *more, method="eft") == 130
    half = FitResult.load(out / "fits.npz")
    assert half.stop_reason.count("interrupted") == 7
    assert fit(data, out, *more, method="eft") == 0
    assert len(fitted) == 4 + 7
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stop_reasons"] == {"max_steps": 10}
    assert summary["fits_per_second"] == pytest.approx(7 / summary["seconds"])
    assert fit(data, tmp_path / "whole", *more, method="eft") == 0
    both = [FitResult.load(folder / "fits.npz") for folder in (out, tmp_path / "whole")]
    assert np.array_equal(*(each.params.full_pose.numpy() for each in both))
    assert np.array_equal(*(each.kp_error_px.numpy() for each in both))
    assert both[0].id == both[1].id == tuple(map(str, range(10)))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--focal", "900"], "with another --focal"),
        (["--strict-reference"], "with other options of the fit"),
        (["--min-keypoints", "1", "--min-area", "9000"], "nobody"),
        (["--shard-size", "5"], "with another --shard-size"),
    ],
)
def test_other_options_are_refused(data, tmp_path, capsys, more, words):
    out = tmp_path / "out"
    assert fit(data, out, "--quiet") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert fit(data, out, *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_file_says_what_the_options_say(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert fit(data, out, "--quiet", "--min-keypoints", "3") == 0
    fits = (out / "fits.npz").read_bytes()
    capsys.readouterr()
    monkeypatch.chdir("/")
    assert main(["fit", "--config", str(out / "run.toml")]) == 0
    assert "holds this run already" in capsys.readouterr().err
    assert (out / "fits.npz").read_bytes() == fits
    # The command line wins, whatever stands first.
    new = ["--out", str(tmp_path / "new")]
    assert main(["fit", *new, "--config", str(out / "run.toml"), "--focal", "diagonal"]) == 0
    text = (tmp_path / "new" / "run.toml").read_text()
    assert 'focal = "diagonal"' in text
    assert "min_keypoints = 3" in text
    assert "no_pictures = true" in text


def test_a_run_file_holds_every_option():
    """Everything that ``fit --help`` lists but how it talks, and what it does with a run."""
    parser = next(
        action.choices["fit"] for action in make_program()._actions if action.dest == "command"
    )
    options = parser.parse_args(["x"])
    for action in parser._actions:
        if action.dest != "help":
            setattr(options, action.dest, True if action.nargs == 0 else "1")
    names = {line.partition(" ")[0] for line in to_run_file(options).splitlines()[1:]}
    known = {action.dest for action in parser._actions} - {"help"}
    assert known - names == {"json", "quiet", "config", "restart"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "--config must be a file, there is none"),
        ("max_steps = ", "must be a TOML file"),
        ("maxsteps = 3", "no option --maxsteps"),
        ("max_steps = 0", "--max-steps must be at least 1"),
        ('method = "mpa"', "did you mean 'map'"),
        ("max_steps = [1, 2]", "max_steps must be one value"),
        ("help = true", "help is no option of a run"),
        ("restart = true", "restart is no option of a run"),
        ("[fit]\nlr = 1", "fit is no option of a run"),
    ],
)
def test_a_wrong_run_file_is_one_sentence(data, tmp_path, capsys, text, words):
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_text(text)
    assert main(["fit", str(data), "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_run_file_in_words_of_its_own(data, tmp_path, capsys):
    (data / "mine.toml").write_text(
        'photos = ["."]\nannotations = "people.json"\nregressor = "tiny.npz"\nmethod = "none"\n'
        'no-pictures = true\nout = "fits"\n'
    )
    assert main(["fit", "--config", str(data / "mine.toml"), "--quiet"]) == 0
    assert len(FitResult.load(data / "fits" / "fits.npz")) == 10


def test_pictures_of_many_people_are_drawn_when_asked_for(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("eft_fast.cli.write.MOST_PICTURES", 5)
    more = ("--method", "none", "--quiet")
    assert main(arguments(data, tmp_path / "few", *more)) == 0
    assert not (tmp_path / "few" / "overlays").exists()
    assert "photo0000.png" in (tmp_path / "few" / "report.html").read_text()
    assert main(arguments(data, tmp_path / "all", *more, "--pictures")) == 0
    assert len(list((tmp_path / "all" / "overlays").iterdir())) == 10


def start(data, out, *more):
    command = arguments(data, out, "--method", "none", "--no-pictures", "--shard-size", 4, *more)
    code = "import sys; from eft_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
    )


def children(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def test_a_run_in_processes_survives_kills(data, tmp_path):
    """A worker is killed, then the driver; the run goes on and is that of a run without kills."""
    out = tmp_path / "out"
    shards = out / "shards"
    process = start(data, out, "--workers", "1")
    wait_for(lambda: children(process), process)
    time.sleep(1.0)
    for child in children(process):
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: shards.is_dir() and any(shards.glob("*.npz")), process)
    workers = children(process)
    process.kill()
    process.wait()
    # Workers end with their parent.
    wait_for_end = time.monotonic() + 20
    while any(Path(f"/proc/{each}").exists() for each in workers):
        assert time.monotonic() < wait_for_end
        time.sleep(0.05)
    process = start(data, out, "--workers", "2", "--quiet", "--json")
    printed, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert json.loads(printed)["people"] == 10
    fits = FitResult.load(out / "fits.npz")
    assert fits.id == tuple(map(str, range(10)))
    assert fits.run_id == json.loads((out / "run.json").read_text())["run_id"]
    # The same people in this process, in one piece.
    assert fit(data, tmp_path / "here", "--quiet") == 0
    here = FitResult.load(tmp_path / "here" / "fits.npz")
    assert np.array_equal(fits.params.full_pose.numpy(), here.params.full_pose.numpy())
    assert np.array_equal(fits.kp_error_px.numpy(), here.kp_error_px.numpy())
    mine, theirs = (
        json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path / "here")
    )
    for name in ("people", "stop_reasons", "selection", "left_out"):
        assert mine[name] == theirs[name]
    for name in ("init_kp_error_px", "pck_0.1"):
        assert mine[name] == pytest.approx(theirs[name], rel=1e-9)
    assert main(["convert", str(out), "--to", "eft-json", "--out", str(tmp_path / "c.json")]) == 0


def test_people_with_and_without_feet_are_one_run(data, tmp_path, capsys):
    document = json.loads((data / "people.json").read_text())
    document["annotations"][7]["foot_kpts"] = [20, 30, 2] * 6
    (data / "feet.json").write_text(json.dumps(document))
    more = ["--method", "none", "--no-pictures", "--quiet"]
    command = arguments(data, tmp_path / "out", *more)
    command[3] = str(data / "feet.json")
    assert main(command) == 0
    fits = FitResult.load(tmp_path / "out" / "fits.npz")
    assert fits.joint_set == "coco23"
    assert (fits.keypoints[:, 17:, 2].sum(1) > 0).nonzero().flatten().tolist() == [7]
