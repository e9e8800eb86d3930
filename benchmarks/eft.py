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
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks import peers
from benchmarks.cases import Case, Job
from eft_fast.fitting.config import EFT_MODES, EftConfig
from eft_fast.fitting.eft import make_loop
from eft_fast.fitting.person import CropJob, Fitter, PersonFit, loss_weights
from eft_fast.fitting.slots import SlotFitter
from eft_fast.fitting.workers import WorkerFitter
from eft_fast.losses.keypoints import eft_loss
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.hmr import Hmr

NETWORKS = ("hmr", "open")
#: As published: twenty steps. Threshold 0, so that every fit makes all of them.
CONFIG = EftConfig(threshold=0.0)


def make_regressor(name: str) -> Regressor:
    """ResNet-50 at 224 px with made-up weights, or the open regressor at 256 px."""
    torch.manual_seed(0)
    regressor = Hmr(weights_camera="scale_shift") if name == "hmr" else load_regressor()
    return regressor.eval()


def make_jobs(regressor: Regressor, count: int) -> list[CropJob]:
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
    return [CropJob(index, img[index], target[index]) for index in range(count)]


class OriginalEft:
    """One fit of the released code, written from its description; without its input and output."""

    def __init__(self, regressor: Regressor, config: EftConfig) -> None:
        self.network = copy.deepcopy(regressor)
        self.start = copy.deepcopy(regressor.state_dict())
        self.config, self.weights = config, loss_weights(config)
        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        for parameter in (p for norm in norms for p in norm.parameters()):
            parameter.requires_grad_(False)
        used = {id(p) for p in (*self.network.trunk_parameters(), *self.network.head_parameters())}
        self.tuned = [p for p in self.network.parameters() if id(p) in used and p.requires_grad]
        self.points = peers.make_points_of_matrices(peers.body().joint_points("spin49").rows)

    def fit(self, job: CropJob) -> RegressorOutput:
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


def fit_all(fitter: Fitter, jobs: list[CropJob]) -> list[PersonFit]:
    """Fits in the order of the jobs."""
    fits = dict(fitter.fit(jobs))
    return [fits[job.index] for job in jobs]


def check_equal(name: str, ours: Fitter, original: OriginalEft, job: CropJob) -> None:
    """Both must give the same answer; nothing wrong is ever timed."""
    ((_, fit),) = ours.fit([job])
    expected = original.fit(job)
    error = float((fit.final.pred_rotmat - expected.pred_rotmat).abs().max())
    moved = float((fit.final.pred_rotmat - fit.init.pred_rotmat).abs().max())
    if not error < max(1e-3, 0.02 * moved):
        raise AssertionError(f"{name}: both must give the same fit, got a difference of {error}")


def loop_cases(name: str, config: EftConfig) -> Iterator[Case]:
    """Our loop beside the original step, and every mode beside the full fit."""
    regressor, body = make_regressor(name), peers.body()
    (job,) = make_jobs(regressor, 1)
    loop = make_loop(regressor, body, config=config, mode="full")
    original = OriginalEft(regressor, config)
    # Few steps: made-up weights and rounding drift apart, and not because one of them is wrong.
    short = replace(config, max_steps=3)
    check_equal(
        name,
        make_loop(regressor, body, config=short, mode="full"),
        OriginalEft(regressor, short),
        job,
    )
    full = _job(loop, [job])
    yield Case(f"{name}_full", 1, full, {"original": lambda: original.fit(job)})
    for mode in EFT_MODES[1:]:
        fitter = make_loop(regressor, body, config=config, mode=mode)
        yield Case(f"{name}_{mode}", 1, _job(fitter, [job]), {"full": full})


def slot_cases(name: str, config: EftConfig, people: int) -> Iterator[Case]:
    """Slots beside the loop, computed one by one and in batched calls."""
    regressor, body = make_regressor(name), peers.body()
    jobs = make_jobs(regressor, people)
    for mode in ("full", "head"):
        loop = make_loop(regressor, body, config=config, mode=mode)
        for batched in (False, True):
            fitter = SlotFitter(
                regressor, body, config=config, mode=mode, slots=people, batched=batched
            )
            case = f"{name}_{mode}_slots_{'batched' if batched else 'slotwise'}"
            yield Case(case, people, _job(fitter, jobs), {"loop": _job(loop, jobs)})


def _job(fitter: Fitter, jobs: list[CropJob]) -> Job:
    return lambda: fit_all(fitter, jobs)


def time_workers(name: str, config: EftConfig, people: int, count: int) -> dict[str, float]:
    """Milliseconds per person of one and of several workers, started and warm, in one run each."""
    regressor, body = make_regressor(name), peers.body()

    def run(workers: int) -> float:
        fitter: Fitter
        if workers == 1:
            fitter = make_loop(regressor, body, config=config, mode="full")
        else:
            fitter = WorkerFitter(
                regressor, body, method="eft", mode="full", config=config, count=workers
            )
        warm = 2 * workers
        fits = fitter.fit(make_jobs(regressor, people + warm))
        for _ in range(warm):
            next(fits)
        start = time.perf_counter()
        done = sum(1 for _ in fits)
        return 1000 * (time.perf_counter() - start) / done

    return {"one": run(1), "several": run(count)}


def worker_rows(
    make_row: Callable[..., dict[str, Any]], name: str, config: EftConfig, rounds: int
) -> dict[str, Any]:
    """Two workers beside one."""
    times = [time_workers(name, config, 6, 2) for _ in range(rounds)]
    return make_row(
        "eft",
        f"{name}_full_two_workers",
        1,
        "one_worker",
        [each["several"] for each in times],
        [each["one"] for each in times],
    )


def main(arguments: list[str] | None = None) -> int:
    from benchmarks import compare

    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare eft")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--parts", nargs="+", choices=("loop", "slots", "workers"), default=["loop", "workers"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=CONFIG.max_steps)
    parser.add_argument("--people", type=int, default=4, help="in slots")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--json", action="store_true", help="one line on stdout")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if "smplx" not in peers.installed():
        print("compare: install a peer first: pip install '.[bench]'", file=sys.stderr)
        return 2
    config = replace(CONFIG, max_steps=options.steps)
    rows: list[dict[str, Any]] = []

    def add(new: list[dict[str, Any]]) -> None:
        for row in new:
            compare._print_row(row)
            rows.append(row)

    for name in options.networks:
        cases: list[Iterator[Case]] = []
        if "loop" in options.parts:
            cases.append(loop_cases(name, config))
        if "slots" in options.parts:
            cases.append(slot_cases(name, config, options.people))
        for case in (case for group in cases for case in group):
            add(compare.make_rows("eft", case, options.rounds, 0.0))
        if "workers" in options.parts:
            add([worker_rows(compare.make_row, name, config, options.rounds)])
    if options.save:
        print(f"saved to {compare.save(rows)}", file=sys.stderr)
    if options.json:
        print(json.dumps({"rows": rows}))
    return 0
