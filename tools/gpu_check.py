"""Everything a machine with a GPU can show, in one go and without a network: `make gpu`.

Prints versions, then runs in this order: build, the tests marked ``cuda`` (a missing GPU fails
them), rows of the SMPL operators, of ``map``, of EFT by slots, of a training step, and
compute-sanitizer where it is installed. Before each part it prints what is planned with the time
that is left; a part that no longer fits is skipped by name, which is no failure. A part that fails
does not stop the next ones, but the exit code is 1. Rows are written as they are measured, and how
each part ended is added to a file, so that a kill loses none of it.

``--rehearse`` runs the same on a machine without a GPU: small sizes on the CPU, nothing measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: Seconds of the whole check.
SECONDS: Final = 520.0
NEEDED: Final = ("numpy", "PIL", "jaxtyping", "jinja2", "tqdm", "pytest", "setuptools")


@dataclass
class Part:
    """One step of the check.

    Attributes:
        title: What it is called.
        command: What it runs.
        needs: Seconds without which it is not worth starting.
        limit: Seconds that it may take; ``{seconds}`` in the command becomes what it gets of them.
        environment: Variables beside those of this process.
        is_vital: Whether the rest makes no sense if it fails.
        must_end: Whether it fails where its limit stops it; rows that are there are no failure.
    """

    title: str
    command: Sequence[str]
    needs: float
    limit: float
    environment: dict[str, str] = field(default_factory=dict)
    is_vital: bool = False
    must_end: bool = False


def output_of(*command: str) -> str:
    """What a program prints, or what is wrong with it."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return (result.stdout or result.stderr).strip() or f"{command[0]} says nothing"


def versions(rehearse: bool) -> str | None:
    """Print what is installed; return what is missing, in words, or None."""
    print(f"python {platform.python_version()}, {output_of('nvcc', '--version').splitlines()[-1]}")
    missing = [name for name in ("torch", *NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        return f"these Python packages are needed, and missing: {', '.join(missing)}"
    import torch

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    if rehearse:
        print("REHEARSAL: small sizes on the CPU; no time that follows is that of a GPU")
        return None
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch>=2.11"
        )
    if not torch.cuda.is_available():
        return "torch sees no GPU; check the driver with nvidia-smi"
    gpu = torch.cuda.get_device_properties(0)
    print(f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, {gpu.total_memory >> 30} GiB")
    print(
        f"driver {output_of('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')}"
    )
    return None


def own_archs() -> dict[str, str]:
    """Compile for this machine's GPU alone, unless told otherwise: a third of the time."""
    import torch

    if os.environ.get("EFT_FAST_ARCHS") or not torch.cuda.is_available():
        return {}
    major, minor = torch.cuda.get_device_capability()
    # Of Hopper the arch-specific form, as in the default build.
    return {"EFT_FAST_ARCHS": f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}"}


def runs_on_gpus(text: str) -> bool:
    """Whether a file of tests bears the mark ``cuda``, itself or by the fixture ``device``."""
    return "mark.cuda" in text or bool(re.search(r"def test_\w+\([^)]*\bdevice\b", text))


def make_parts(folder: Path, rehearse: bool) -> list[Part]:
    """All parts in their order: what all need, then what tells most, then the long looks."""
    python, tools = sys.executable, Path(__file__).parent
    ops, eft, deploy = (str(tools / f"gpu_{name}.py") for name in ("ops", "eft", "deploy"))
    small = ["--rehearse"] if rehearse else []
    required = {} if rehearse else {"EFT_FAST_REQUIRE_CUDA": "1"}
    build = [python, "setup.py", "--quiet", "build_ext", "--inplace"]
    make = {"EFT_FAST_CUDA": os.environ.get("EFT_FAST_CUDA", "1")}
    make |= {"MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count() or 1)), **own_archs()}
    tests = [python, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    tests += ["--continue-on-collection-errors", "--durations=5"]
    # Those alone: reading all the others would take a part of the time.
    found = [each for each in (ROOT / "tests").rglob("test_*.py") if runs_on_gpus(each.read_text())]
    tests += sorted(str(each.relative_to(ROOT)) for each in found)

    def timed(script: str, part: str) -> list[str]:
        target = str(folder / f"gpu_{part}.csv")
        return [python, script, "--time", "{seconds}", "--csv", target, *small]

    def rows(script: str, part: str) -> list[str]:
        return [*timed(script, part), "--part", part]

    parts = [
        Part("build", build, 30, 160, make, is_vital=True, must_end=True),
        Part("tests of the operators", tests, 25, 130, required, must_end=True),
        Part("SMPL rows", rows(ops, "smpl"), 20, 70),
        Part("map rows", rows(ops, "map"), 10, 30),
        Part("EFT rows by slots", rows(eft, "eft"), 40, 105),
        Part("training step", rows(eft, "training"), 15, 40),
        Part("exported models", timed(deploy, "deploy"), 15, 60, required),
    ]
    if sanitizer := shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck"):
            for name, script in (("operators", ops), ("EFT", eft)):
                watch = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
                watch += [python, script, "--exercise", *small]
                parts.append(Part(f"compute-sanitizer {tool}, {name}", watch, 25, 60))
    else:
        print("compute-sanitizer is not installed: memory and races are not checked")
    return parts


def print_plan(parts: Sequence[Part], left: float) -> None:
    """What is planned with the seconds that are left, if every part takes what it may."""
    print(f"\n-- plan, {left:.0f} s left:", flush=True)
    for part in parts:
        gets = min(part.limit, left)
        fits = gets >= part.needs
        word = f"up to {gets:.0f} s" if fits else f"left out if no time is saved ({part.needs:.0f})"
        print(f"   {part.title}: {word}", flush=True)
        left -= gets if fits else 0


def run_part(part: Part, seconds: float) -> tuple[str, bool]:
    """Run one part; returns how it ended, in words, and whether that is a failure."""
    command = [word.format(seconds=f"{max(seconds - 10, 1):.0f}") for word in part.command]
    print(f"== {part.title}: {' '.join(command)}", flush=True)
    # A session of its own: what it started ends with it.
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **part.environment}, start_new_session=True
    )
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped at its limit of {seconds:.0f} s", part.must_end
    return ("passed", False) if code == 0 else (f"failed with exit code {code}", True)


class Journal:
    """How every part ended, written as it ends."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._write(("part", "ending", "seconds"))
        self.endings: list[tuple[str, str]] = []
        self.failed = False

    def add(self, title: str, ending: str, seconds: float, failed: bool = False) -> None:
        """Print and keep one ending."""
        self.failed |= failed
        print(f"== {title} {ending} after {seconds:.0f} s", flush=True)
        self.endings.append((title, ending))
        self._write((title, ending, f"{seconds:.0f}"))

    def _write(self, row: Sequence[str]) -> None:
        self._writer.writerow(row)
        self._file.flush()


def run_all(parts: Sequence[Part], journal: Journal, deadline: float) -> None:
    """Run the parts in order while there is time."""
    for number, part in enumerate(parts):
        left = deadline - time.monotonic()
        print_plan(parts[number:], left)
        if left < part.needs:
            journal.add(part.title, f"skipped: {part.needs:.0f} s needed, {left:.0f} left", 0)
            continue
        start = time.monotonic()
        ending, failed = run_part(part, min(part.limit, left))
        journal.add(part.title, ending, time.monotonic() - start, failed)
        if part.is_vital and failed:
            for other in parts[number + 1 :]:
                journal.add(other.title, f"skipped: {part.title} did not pass", 0)
            return


def main() -> int:
    """Run the parts; 0 if all that ran passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder for rows")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="limit of the whole check; with more than the default, parts may take longer as well",
    )
    parser.add_argument("--rehearse", action="store_true", help="small sizes on the CPU")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    problem = versions(arguments.rehearse)
    if problem:
        print(f"gpu_check: {problem}", file=sys.stderr)
        return 2
    journal = Journal(arguments.out / "parts.csv")
    parts = make_parts(arguments.out, arguments.rehearse)
    for part in parts:
        part.limit *= max(arguments.seconds / SECONDS, 1)
    run_all(parts, journal, deadline)
    print(f"\n-- rows are in {arguments.out}")
    for title, ending in journal.endings:
        print(f"   {title}: {ending}")
    return 1 if journal.failed else 0


if __name__ == "__main__":
    sys.exit(main())
