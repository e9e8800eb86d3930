"""``eft-fast bench``: speed beside the peers that are installed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options

_TARGETS = ("smpl", "points", "eft", "smplify", "onnx")
_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Measure in interleaved rounds, so that a busy machine slows everybody alike. onnx: an "
            "exported regressor in every runtime that is installed, beside torch. The other "
            "targets run benchmarks/compare.py of the source checkout."
        ),
        epilog="example: eft-fast bench onnx --batch 1 8 --threads 2",
    )
    parser.add_argument("target", choices=_TARGETS, metavar="TARGET", help=", ".join(_TARGETS))
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds that are counted")
    parser.add_argument("--threads", type=int, metavar="N", help="on the CPU")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="instead of wall time: one thread on a machine that others use too",
    )
    parser.add_argument("--regressor", default="open", help="of onnx: open, or a checkpoint")
    parser.add_argument(
        "--model", metavar="DIR", help="of onnx: an fp32 export of it; default: made for the run"
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", metavar="N", help="of onnx: batch sizes (default 1 8)"
    )
    parser.add_argument(
        "--engines", nargs="+", metavar="E", help="of onnx: which runtimes; default: all"
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the suite of the target."""
    if options.target == "onnx":
        from eft_fast.cli.bench_onnx import bench_onnx

        return bench_onnx(options)
    if not (_CHECKOUT / "benchmarks" / "compare.py").is_file():
        raise UsageError(
            f"eft-fast bench: {options.target} is part of the source checkout, which this "
            "installation is not; run it in a clone installed with pip install -e '.[bench]'"
        )
    more = ["--json"] if options.json else []
    more += ["--processor-time"] if options.processor_time else []
    for name in ("rounds", "threads"):
        value = getattr(options, name)
        more += [] if value is None else [f"--{name}", str(value)]
    command = [sys.executable, "-m", "benchmarks.compare", options.target, *more]
    return subprocess.run(command, cwd=_CHECKOUT, check=False).returncode
