"""Ratios from interleaved rounds: ``python -m benchmarks.compare SUITE [--json]``.

SUITE is smpl, points, map, smplify, eft or onnx; the last three have options of their own. The
table shows medians over the rounds, and the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import cases, eft, peers, smplify, timing
from benchmarks.cases import SIZES, Case
from benchmarks.map import map_cases

SUITES = {**cases.SUITES, "map": map_cases}
#: Suites whose peers are not those of ``peers``.
OWN = ("map",)


def make_rows(suite: str, case: Case, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Time one case and write one row per peer."""
    times = timing.time_interleaved({"ours": case.ours, **case.others}, rounds, seconds)
    theirs = {
        peer: [case.times.get(peer, 1.0) * value for value in times[peer]] for peer in case.others
    }
    return [
        timing.make_row(suite, case.name, case.size, peer, times["ours"], theirs[peer])
        for peer in case.others
    ]


def compare(
    suite: str, sizes: list[int], names: list[str], rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Rows of a suite, as they are measured."""
    for size in sizes:
        for case in SUITES[suite](size, names):
            yield from make_rows(suite, case, rounds, seconds)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["onnx"]:
        from eft_fast.cli import main as program

        return program(["bench", *arguments])
    if arguments[:1] == ["smplify"]:
        return smplify.main(arguments[1:])
    if arguments[:1] == ["eft"]:
        return eft.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=sorted(SUITES), default="smpl")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="people")
    parser.add_argument("--peers", nargs="+", choices=peers.PEERS, help="default: all installed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each job in each round")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="instead of wall time: one thread on a machine that others use too",
    )
    parser.add_argument("--json", action="store_true", help="one line on stdout")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.processor_time:
        if torch.get_num_threads() > 1:
            print("compare: --processor-time needs --threads 1", file=sys.stderr)
            return 2
        timing.use_processor_time()
    names = options.peers or peers.installed()
    if not names and options.suite not in OWN:
        print("compare: install a peer first: pip install '.[bench]'", file=sys.stderr)
        return 2
    rows = []
    for row in compare(options.suite, options.sizes, names, options.rounds, options.seconds):
        timing.print_row(row)
        rows.append(row)
    if options.save:
        print(f"saved to {timing.save(rows)}", file=sys.stderr)
    if options.json:
        print(json.dumps({"rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
