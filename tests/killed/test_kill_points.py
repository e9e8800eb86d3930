"""A command is killed at its file operations, one after the other: what is left, and who takes it.

The shim is compiled here; ``scenes.py`` says what is killed and how the rest is judged. Some of the
points are taken, those at the end above all; ``EFT_FAST_KILL_POINTS=20`` takes 20 times as many.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the shim needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", path, HERE / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    return path


def kill_everywhere(shim: Path, folder: Path, scenes: dict[str, int]) -> dict[str, Any]:
    """What is found after each whole act, and after it was killed at so many points."""
    done = subprocess.run(
        [sys.executable, HERE / "scenes.py", shim, folder, json.dumps(scenes)],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def killed(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All scenes, in one process: most of the time is that of its start."""
    more = int(os.environ.get("EFT_FAST_KILL_POINTS", "1"))
    scenes = {"folder": 40, "fit over a run": 9, "fit": 4, "eft-json": 4, "spin-npz": 4}
    scenes |= {"glb": 4, "train": 6, "synth": 5, "shards": 12}
    folder = tmp_path_factory.mktemp("killed")
    return kill_everywhere(shim, folder, {name: more * count for name, count in scenes.items()})


def test_a_folder_is_the_old_or_the_new_one(killed: dict[str, Any]) -> None:
    whole, found = killed["folder"].values()
    new = {"a.txt": "new", "b/c.txt": "new", "gone/d.txt": "none"}
    old = {"a.txt": "old", "b/c.txt": "old", "gone/d.txt": "old"}
    assert whole["texts"] == new
    assert {tuple(each["texts"].values()) for each in found} == {
        tuple(new.values()),
        tuple(old.values()),
    }
    # What the killed process left is gone after the next one; what others put there is not.
    for each in found:
        assert each["left"] == ["a.txt", "b", "b/c.txt", "mine.txt"]


@pytest.mark.parametrize("is_over_a_run", [True, False])
def test_fits_and_names_are_of_one_run(killed: dict[str, Any], is_over_a_run: bool) -> None:
    whole, found = killed["fit over a run" if is_over_a_run else "fit"].values()
    assert (whole["fits"], whole["names"], whole["report"]) == ("new", "new", "new")
    assert whole["pictures"] == ["new"]
    for each in found:
        assert isinstance(each, dict), each
        assert each["fits"] == each["names"] == each.get("converted", "none")
        assert each["convert"] == (2 if each["fits"] == "none" else 0)
        # Fits and names as they lie there are of one run, or one of them is missing.
        assert "none" in each["raw"] or each["raw"] in ("old old", "new new")
        assert not each["cut"]
        assert not each["journal"]
        # A report is of the fits, or not there yet.
        assert each["report"] in (each["fits"], "none")
        assert set(each["pictures"]) <= {each["fits"]}
    assert "new" in {each["fits"] for each in found}
    assert ("old" if is_over_a_run else "none") in {each["fits"] for each in found}


@pytest.mark.parametrize("scene", ["eft-json", "spin-npz"])
def test_converted_files_are_whole_or_not_there(killed: dict[str, Any], scene: str) -> None:
    whole, found = killed[scene].values()
    assert whole == "whole"
    assert set(found) <= {"none", "whole"}


def test_meshes_are_whole_or_not_there(killed: dict[str, Any]) -> None:
    whole, found = killed["glb"].values()
    assert len(whole) == 2
    for each in found:
        assert set(each) <= set(whole)


def test_a_run_in_shards_has_each_person_once(killed: dict[str, Any]) -> None:
    whole, found = killed["shards"].values()
    assert whole["ids"] == [str(number) for number in range(8)]
    assert whole.pop("again") == 0
    again = [each.pop("again") for each in found]
    assert all(each == whole for each in found)
    # What was whole before the kill is not fitted again.
    assert again == sorted(again, reverse=True)
    assert {0, 1, 2, 3, 4} >= set(again) >= {1, 4}


def test_a_state_of_training_is_whole(killed: dict[str, Any]) -> None:
    whole, found = killed["train"].values()
    assert whole == {"resumed": True, "step": 3}
    assert {each["step"] for each in found} <= {0, 1, 2, 3}
    assert {1, 2} <= {each["step"] for each in found}


def test_a_killed_set_of_renders_goes_on(killed: dict[str, Any]) -> None:
    whole, found = killed["synth"].values()
    assert whole == {"code": 0, "same": True, "others": []}
    assert all(each == whole for each in found), found


@pytest.mark.slow
def test_an_export_is_whole_or_refused(shim: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    whole, found = kill_everywhere(shim, tmp_path, {"export": 10})["export"].values()
    assert whole["verify"] == 0
    for each in found:
        assert each["verify"] in (None, 0)
