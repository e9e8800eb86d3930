"""``eft-fast bench``: speed beside the peers that are installed; a command per suite."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

from eft_fast.cli import bench_onnx
from eft_fast.cli.options import at_least
from eft_fast.cli.output import UsageError
from eft_fast.cli.parser import Subparsers, add_command, add_group

#: Suites of ``benchmarks/compare.py``.
_SUITES: Final = {
    "smpl": "the body model beside smplx and others",
    "points": "keypoints of the body without the mesh",
    "eft": "EFT as published against EFT here",
    "smplify": "SMPLify as published against SMPLify here",
}
_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def add(subparsers: Subparsers) -> None:
    """Register the command and its suites."""
    targets = add_group(
        subparsers,
        "bench",
        metavar="TARGET",
        summary="measure speed beside the peers that are installed",
        description=(
            "Measure in interleaved rounds, so that a busy machine slows everybody alike. onnx "
            "runs from any installation, the other targets run benchmarks/compare.py of the "
            "source checkout."
        ),
        examples=["eft-fast bench smpl --threads 1", "eft-fast bench onnx --batch 1 8"],
    )
    for name, summary in _SUITES.items():
        _add_suite(targets, name, summary)
    bench_onnx.add(targets)


def _add_suite(targets: Subparsers, name: str, summary: str) -> None:
    parser = add_command(
        targets,
        name,
        run,
        summary=summary,
        description=f"Measure {summary}, in rounds of each in turn.",
        examples=[f"eft-fast bench {name} --threads 1"],
    )
    parser.add_argument("--rounds", type=at_least(1), metavar="N", help="rounds that are counted")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="on the CPU")
    if name == "smplify":
        # It measures wall and processor time at once and has no such option.
        parser.set_defaults(processor_time=False)
    else:
        parser.add_argument(
            "--processor-time",
            action="store_true",
            help="instead of wall time: one thread on a machine that others use too",
        )


def run(options: argparse.Namespace) -> int:
    """Run a suite of the source checkout."""
    if not (_CHECKOUT / "benchmarks" / "compare.py").is_file():
        raise UsageError(
            f"{options.target} is part of the source checkout, which this installation is not; "
            "run it in a clone installed with pip install -e '.[bench]'"
        )
    more = ["--json"] if options.json else []
    more += ["--processor-time"] if options.processor_time else []
    for name in ("rounds", "threads"):
        value = getattr(options, name)
        more += [] if value is None else [f"--{name}", str(value)]
    command = [sys.executable, "-m", "benchmarks.compare", options.target, *more]
    return subprocess.run(command, cwd=_CHECKOUT, check=False).returncode
