"""tools/gpu_check.py plans, skips by name, and loses no row; none of this needs a GPU."""

from __future__ import annotations

import csv
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "gpu_check.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="runs in a source checkout")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def part(check, title: str, code: str, *, needs: float = 1, limit: float = 20, **rest: object):
    return check.Part(title, [sys.executable, "-c", code], needs, limit, **rest)


def run(check, tmp_path: Path, parts: list, seconds: float) -> dict:
    journal = check.Journal(tmp_path / "gpu" / "parts.csv")
    check.run_all(parts, journal, time.monotonic() + seconds)
    with (tmp_path / "gpu" / "parts.csv").open() as file:
        written = {row["part"]: row["ending"] for row in csv.DictReader(file)}
    assert written == dict(journal.endings)
    return {**written, "failed": journal.failed}


def test_a_failure_does_not_stop_the_next_part(check, tmp_path, capfd):
    parts = [
        part(check, "first", "raise SystemExit(3)"),
        part(check, "second", "print('rows of the second')"),
    ]
    endings = run(check, tmp_path, parts, 60)
    assert endings == {"first": "failed with exit code 3", "second": "passed", "failed": True}
    said = capfd.readouterr().out
    assert said.count("-- plan, ") == 2
    assert said.index("second: up to 20 s") < said.index("== first:")
    assert "rows of the second" in said


def test_what_no_longer_fits_is_skipped_by_name(check, tmp_path, capfd):
    parts = [
        part(check, "long", "pass", needs=500, limit=600),
        part(check, "short", "pass"),
    ]
    endings = run(check, tmp_path, parts, 60)
    assert endings["long"].startswith("skipped: 500 s needed, ")
    assert endings["short"] == "passed"
    assert not endings["failed"]
    assert "long: left out if no time is saved (500)" in capfd.readouterr().out


def test_a_part_ends_at_its_limit_with_all_that_it_started(check, tmp_path):
    mark = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(4); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); "
    code += "time.sleep(60)"
    endings = run(check, tmp_path, [part(check, "rows", code, limit=1.5)], 60)
    assert endings == {"rows": "stopped at its limit of 2 s", "failed": False}
    tests = part(check, "tests", "import time; time.sleep(60)", limit=0.5, needs=0, must_end=True)
    assert run(check, tmp_path, [tests], 60)["failed"]
    time.sleep(4)
    assert not mark.exists()


def test_nothing_runs_behind_a_build_that_failed(check, tmp_path):
    parts = [
        part(check, "build", "raise SystemExit(1)", is_vital=True),
        part(check, "rows", "pass"),
    ]
    endings = run(check, tmp_path, parts, 60)
    assert endings == {
        "build": "failed with exit code 1",
        "rows": "skipped: build did not pass",
        "failed": True,
    }


def test_the_order_and_the_time_of_the_parts(check, tmp_path, monkeypatch):
    """The long looks come last, and what everything is for fits even if each part takes its all."""
    monkeypatch.setattr(check.shutil, "which", lambda name: f"/bin/{name}")
    parts = check.make_parts(tmp_path, rehearse=False)
    assert [each.title for each in parts[:7]] == [
        "build", "tests of the operators", "SMPL rows", "map rows", "EFT rows by slots",
        "training step", "exported models",
    ]  # fmt: skip
    assert all(each.title.startswith("compute-sanitizer") for each in parts[7:])
    assert len(parts) == 11
    assert parts[6].environment == {"EFT_FAST_REQUIRE_CUDA": "1"}
    left = check.SECONDS
    for each in parts[:6]:
        assert left >= each.needs, each.title
        left -= min(each.limit, left)
    assert sum(each.needs for each in parts) <= check.SECONDS
    files = [word for word in parts[1].command if word.startswith("tests/")]
    # By their own mark, by the fixture of devices, and not those that have neither.
    assert {"tests/ops/test_cuda.py", "tests/ops/test_smpl_mesh.py", "tests/ops/test_map.py"} < set(
        files
    )
    assert "tests/test_errors.py" not in files
    assert all("{seconds}" in each.command for each in parts[2:7])
