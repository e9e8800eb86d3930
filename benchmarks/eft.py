"""EFT as published against EFT here: ``python -m benchmarks.compare eft [--json]``.

The peer ``original`` is one person at a time with the step as the released code writes it: the full
mesh in smplx and the 49 points regressed from it, Adam in its ``foreach`` form, all twenty updates
although the last one is never seen. Other rows compare ways of this package with each other. Every
fit runs all its steps; nothing is scaled. The weights are made up, which costs the same time.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks import peers, timing
from benchmarks.cases import Job
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EFT_MODES, STEPS, EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.losses.keypoints import eft_loss
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.hmr import Hmr
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.fitter import Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared

NETWORKS = ("hmr", "open")
#: As published: twenty steps. Threshold 0, so that every fit makes all of them.
CONFIG = EftConfig(threshold=0.0, max_steps=STEPS)


def make_regressor(name: str) -> Regressor:
    """ResNet-50 at 224 px with made-up weights, or the open regressor at 256 px."""
    torch.manual_seed(0)
    regressor = Hmr(weights_camera="scale_shift") if name == "hmr" else load_regressor()
    return regressor.eval()


def make_jobs(regressor: Regressor, count: int) -> list[Prepared]:
    """Noise for crops, and keypoints near the body of the mean pose."""
    generator = torch.Generator().manual_seed(count)
    pose = 0.2 * torch.randn(count, 24, 3, generator=generator)
    pose[:, 0, 0] += torch.pi
    points = peers.body().keypoints(
        torch.zeros(count, 10), pose[:, 1:].flatten(1), pose[:, 0], joint_set="spin49"
    )
    target = torch.cat([0.8 * points[..., :2], torch.ones(count, 49, 1)], -1)
    size = regressor.input_size
    img = torch.randn(count, 3, size, size, generator=generator)
    return [Prepared(index, img[index], target[index]) for index in range(count)]


class OriginalEft:
    """One fit of the released code, written from its description; without its input and output."""

    def __init__(self, regressor: Regressor, config: EftConfig) -> None:
        self.network = copy.deepcopy(regressor)
        self.start = copy.deepcopy(regressor.state_dict())
        self.config, self.weights = config, config.loss
        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        for parameter in (p for norm in norms for p in norm.parameters()):
            parameter.requires_grad_(False)
        used = {id(p) for p in (*self.network.trunk_parameters(), *self.network.head_parameters())}
        self.tuned = [p for p in self.network.parameters() if id(p) in used and p.requires_grad]
        self.points = peers.make_points_of_matrices(peers.body().joint_points("spin49").rows)

    def fit(self, job: Prepared) -> RegressorOutput:
        """The answer before the last update."""
        self.network.load_state_dict(self.start)
        config = self.config
        optimiser = torch.optim.Adam(
            self.tuned, lr=config.lr_of("full"), betas=config.adam_betas, eps=config.adam_eps,
            foreach=True,
        )  # fmt: skip
        for _ in range(config.max_steps):
            output = self.network(job.img[None])
            points = self.points(output.pred_betas, output.pred_rotmat)
            loss = eft_loss(
                points, output.pred_betas, output.pred_cam, job.keypoints_2d[None], self.weights
            )
            optimiser.zero_grad()
            loss.total.mean().backward()
            optimiser.step()
            if loss.keypoint.item() < config.threshold:
                break
        return output


def fit_all(fitter: Fitter, jobs: list[Prepared]) -> list[PersonFit]:
    """Fits in the order of the jobs."""
    fits = dict(fitter.fit(jobs))
    return [fits[job.index] for job in jobs]


def check_equal(name: str, ours: Fitter, original: OriginalEft, job: Prepared) -> None:
    """Both must give the same answer; nothing wrong is ever timed."""
    ((_, fit),) = ours.fit([job])
    expected = original.fit(job)
    error = float((fit.final.pred_rotmat - expected.pred_rotmat.detach()).abs().max())
    moved = float((fit.final.pred_rotmat - fit.init.pred_rotmat).abs().max())
    if not error < max(1e-3, 0.02 * moved):
        raise AssertionError(f"{name}: both must give the same fit, got a difference of {error}")


def loop_rows(name: str, config: EftConfig, modes: list[str], rounds: int) -> list[dict[str, Any]]:
    """Our loop beside the original step, and every mode beside the full fit, in the same rounds."""
    regressor, body = make_regressor(name), peers.body()
    (job,) = make_jobs(regressor, 1)
    # Few steps: made-up weights and rounding drift apart, and not because one of them is wrong.
    short = replace(config, max_steps=3)
    loop = LoopFitter(regressor, body, config=short, mode="full")
    check_equal(name, loop, OriginalEft(regressor, short), job)
    original = OriginalEft(regressor, config)
    jobs: dict[str, Job] = {"original": lambda: original.fit(job)}
    for mode in ("full", *modes):
        jobs[mode] = _job(LoopFitter(regressor, body, config=config, mode=mode), [job])
    times = timing.time_interleaved(jobs, rounds, 0.0)
    pairs = [("full", "original"), *((mode, "full") for mode in modes)]
    return [
        timing.make_row("eft", f"{name}_{ours}", 1, peer, times[ours], times[peer])
        for ours, peer in pairs
    ]


def slot_rows(
    name: str, config: EftConfig, modes: list[str], people: int, rounds: int
) -> list[dict[str, Any]]:
    """Slots beside the loop, computed one by one and in batched calls."""
    regressor, body = make_regressor(name), peers.body()
    people_jobs = make_jobs(regressor, people)
    rows = []
    for mode in ("full", *modes):
        jobs = {"loop": _job(LoopFitter(regressor, body, config=config, mode=mode), people_jobs)}
        for way, batched in (("slotwise", False), ("batched", True)):
            fitter = SlotFitter(
                regressor, body, config=config, mode=mode, slots=people, batched=batched
            )
            jobs[way] = _job(fitter, people_jobs)
        times = timing.time_interleaved(jobs, rounds, 0.0)
        rows += [
            timing.make_row(
                "eft", f"{name}_{mode}_slots_{way}", people, "loop", times[way], times["loop"]
            )
            for way in ("slotwise", "batched")
        ]
    return rows


def _job(fitter: Fitter, jobs: list[Prepared]) -> Job:
    return lambda: fit_all(fitter, jobs)


def time_workers(name: str, config: EftConfig, people: int, count: int) -> dict[str, float]:
    """Milliseconds per person of one and of several workers, started and warm, in one run each."""
    regressor, body = make_regressor(name), peers.body()

    def run(workers: int) -> float:
        fitter: Fitter
        if workers == 1:
            fitter = LoopFitter(regressor, body, config=config, mode="full")
        else:
            fitter = make_fitter(
                regressor, body, method="eft", mode="full", config=config, workers=workers
            )
        warm = 2 * workers
        fits = fitter.fit(make_jobs(regressor, people + warm))
        for _ in range(warm):
            next(fits)
        start = time.perf_counter()
        done = sum(1 for _ in fits)
        return 1000 * (time.perf_counter() - start) / done

    return {"one": run(1), "several": run(count)}


def worker_rows(name: str, config: EftConfig, people: int, rounds: int) -> list[dict[str, Any]]:
    """Two workers beside one."""
    times = [time_workers(name, config, people, 2) for _ in range(rounds)]
    several, one = ([each[key] for each in times] for key in ("several", "one"))
    return [timing.make_row("eft", f"{name}_full_two_workers", 1, "one_worker", several, one)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare eft")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--parts", nargs="+", choices=("loop", "slots", "workers"), default=["loop", "workers"]
    )
    parser.add_argument(
        "--modes", nargs="*", choices=EFT_MODES[1:], default=list(EFT_MODES[1:]), help="and full"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=CONFIG.max_steps)
    parser.add_argument("--people", type=int, default=4, help="in slots, and for workers")
    parser.add_argument("--json", action="store_true", help="one line on stdout")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results")
    options = timing.parse_timed(parser, arguments)
    if "smplx" not in peers.installed():
        print("compare: install a peer first: pip install '.[bench]'", file=sys.stderr)
        return 2
    config = replace(CONFIG, max_steps=options.steps)
    parts: dict[str, Callable[[str], list[dict[str, Any]]]] = {
        "loop": lambda name: loop_rows(name, config, options.modes, options.rounds),
        "slots": lambda name: slot_rows(
            name, config, options.modes, options.people, options.rounds
        ),
        "workers": lambda name: worker_rows(name, config, options.people, options.rounds),
    }
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        for part in options.parts:
            for row in parts[part](name):
                timing.print_row(row)
                rows.append(row)
    if options.save:
        print(f"saved to {timing.save(rows)}", file=sys.stderr)
    if options.json:
        print(json.dumps({"rows": rows}))
    return 0
