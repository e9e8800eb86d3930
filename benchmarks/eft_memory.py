"""Peak memory of a fit, each in a process of its own: ``python -m benchmarks.eft_memory``.

Printed are the resident set after import and loading, and its peak over two people's fits of three
steps; with workers, also the peak of the largest worker.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import replace

import torch

from benchmarks import peers
from benchmarks.eft import CONFIG, NETWORKS, fit_all, make_jobs, make_regressor
from eft_fast.eft.batched.memory import bytes_per_slot
from eft_fast.pipeline.dispatch import make_fitter, make_slot_fitter
from eft_fast.pipeline.fitter import Fitter

CASES = ("full", "layer4", "head", "lora", "full:slots=4", "head:slots=4")
CASES += ("full:workers=2",)
_MIB = 1 << 20


def peak(who: int = resource.RUSAGE_SELF) -> float:
    """MiB."""
    return resource.getrusage(who).ru_maxrss / 1024


def run_case(network: str, case: str) -> str:
    """Fit, and one line about it."""
    torch.set_num_threads(1)
    mode, _, option = case.partition(":")
    key, _, count = option.partition("=")
    regressor, body = make_regressor(network), peers.body()
    config = replace(CONFIG, max_steps=3)
    jobs = make_jobs(regressor, int(count or 2))
    loaded = peak()
    fitter: Fitter
    if key == "workers":
        fitter = make_fitter(
            regressor, body, method="eft", mode=mode, config=config, workers=int(count)
        )
    else:
        slots = int(count) if key == "slots" else 1
        fitter = make_slot_fitter(regressor, body, config=config, mode=mode, slots=slots)
    fit_all(fitter, jobs)
    line = f"{network:5s} {case:16s} loaded {loaded:6.0f} MiB, peak {peak():6.0f} MiB"
    if key == "workers":
        line += f", largest worker {peak(resource.RUSAGE_CHILDREN):6.0f} MiB"
    counted = bytes_per_slot(regressor, body, mode=mode, config=config) / _MIB
    line += f", counted per slot {counted:6.0f} MiB"
    return line


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eft_memory")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(run_case(*options.one))
        return 0
    for network in options.networks:
        for case in options.cases:
            command = [sys.executable, "-m", "benchmarks.eft_memory", "--one", network, case]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
            print(done.stdout.strip() or f"{network} {case}: failed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
