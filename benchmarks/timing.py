"""Times in interleaved rounds, and the rows that are made of them.

In every round each implementation runs once for a while, one after the other, so that a busy
machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.cases import Job
from eft_fast import ops

RESULTS = Path(__file__).resolve().parent / "results"
FIELDS = (
    "suite", "case", "size", "peer", "ours_ms", "peer_ms", "ratio",
    "ours_p10_ms", "ours_p90_ms", "peer_p10_ms", "peer_p90_ms",
    "rounds", "threads", "simd", "load", "peer_version", "clock",
)  # fmt: skip


#: What is read before and after. ``time.process_time`` counts the processor time of this process: a
#: choice for one thread on a machine that others use at the same time.
clock = time.perf_counter


def time_call(job: Job, seconds: float) -> float:
    """Milliseconds per call, from as many calls as fit into the time, at least one."""
    calls, start = 0, clock()
    while True:
        job()
        calls += 1
        spent = clock() - start
        if spent >= seconds:
            return 1000 * spent / calls


def time_interleaved(jobs: dict[str, Job], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of each job in each round; the first round warms up and is dropped."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            times[name].append(time_call(job, seconds))
    return {name: values[1:] for name, values in times.items()}


def _version(peer: str) -> str:
    """Of the package that a peer is; peers of the package's own ways run on torch alone."""
    from importlib.metadata import version

    if peer == "scipy":
        return version("scipy")
    if peer not in peers.PEERS:
        return version("torch")
    return version("smplx" if peer.startswith("smplx") else peer)


def make_row(
    suite: str, case: str, size: int, peer: str, ours: list[float], theirs: list[float]
) -> dict[str, Any]:
    """One row from milliseconds of every round."""

    def figures(times: list[float]) -> tuple[float, float, float]:
        # One round has no spread: quantiles need two values.
        low, *_, high = statistics.quantiles(
            (times * 2)[: max(len(times), 2)], n=10, method="inclusive"
        )
        return statistics.median(times), low, high

    mine, mine_low, mine_high = figures(ours)
    median, low, high = figures(theirs)
    values = (suite, case, size, peer, mine, median, median / mine)
    values += (mine_low, mine_high, low, high, len(ours), torch.get_num_threads())
    values += (ops.build_info()["simd"], round(os.getloadavg()[0], 1), _version(peer))
    values += ("processor" if clock is time.process_time else "wall",)
    return dict(zip(FIELDS, values, strict=True))


def device_name() -> str:
    """The processor, short enough for a file name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        model = found[1] if found else model
    name = re.sub(r"\(.*?\)|CPU|Processor|@.*", "", model)
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{torch.get_num_threads()}threads".lower()).strip("-")


def save(rows: list[dict[str, Any]]) -> Path:
    """Append rows to today's file of this device and torch."""
    version = torch.__version__.split("+")[0]
    path = RESULTS / f"{datetime.date.today()}-{device_name()}-torch{version}.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if is_new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    return path


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['case']:26s} {row['size']:5d}  {row['peer']:15s} ours {row['ours_ms']:9.4f} "
        f"[{row['ours_p10_ms']:.4f} {row['ours_p90_ms']:.4f}]  peer {row['peer_ms']:9.3f} "
        f"[{row['peer_p10_ms']:.3f} {row['peer_p90_ms']:.3f}] ms  ratio {row['ratio']:7.1f}  "
        f"{1000 * row['size'] / row['ours_ms']:.0f} people/s",
        file=sys.stderr,
        flush=True,
    )


def use_processor_time() -> None:
    """From now on, count the processor time of this process."""
    global clock
    clock = time.process_time


def parse_timed(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse options, with ``--threads`` and ``--processor-time``, which are put into force."""
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument(
        "--processor-time", action="store_true", help="instead of wall time, on a busy machine"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.processor_time:
        use_processor_time()
    return options
