"""What each mode of EFT is worth: ``python -m benchmarks.eft_quality --motion DIR [--json]``.

Rendered people of known truth, keypoints with the noise of a detector, the open regressor, no early
stop. ``from_full`` is the mean distance of the 24 joints from those of the full fit: how far the
cheaper method is from the exact one. Rows of ``precision`` and ``state`` are the full fit in
bfloat16, measured where its arithmetic runs; their speed only means something where the processor
has units for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eft_fast import imaging
from eft_fast.api import load_body, load_regressor
from eft_fast.eft.config import EftConfig
from eft_fast.evaluation import bench_people, metrics
from eft_fast.evaluation.protocols import J24_TO_J14
from eft_fast.geometry.cameras import weak_project
from eft_fast.keypoints import to_spin49
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.prepare import Prepared
from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards

CONFIG = EftConfig(threshold=0.0)
Row = tuple[str, dict[str, Any]]
#: Mode and what differs from the defaults. The full fit comes first: others are compared with it.
ROWS: tuple[Row, ...] = (
    ("full", {}),
    ("full", {"lr": 2e-6}),
    ("full", {"precision": "bf16"}),
    ("full", {"state": "bf16"}),
    ("layer3", {}),
    ("layer4", {}),
    ("head", {}),
    ("head", {"lr": 1e-5}),
    ("feature", {"lr": 3e-3}),
    ("feature", {"lr": 1e-2}),
    ("lora", {"lr": 1e-4}),
    ("lora", {"lr": 3e-4}),
    ("lora", {"lr": 1e-3}),
)


def name_of(mode: str, options: dict[str, Any]) -> str:
    """``mode``, and what differs."""
    return " ".join([mode, *(f"{key}={value}" for key, value in options.items())])


def make_people(arguments: argparse.Namespace) -> bench_people.BenchPeople:
    """Render motion that training did not see; a folder that is there already is read."""
    job = SynthJob(
        out=arguments.out,
        split="test",
        count=arguments.count,
        motion=arguments.motion,
        backgrounds=arguments.backgrounds,
        config=SynthConfig(size=256, seed=20),
    )
    arrays = load_shards(render_shards(job))
    return bench_people.make_people(
        arrays.image, arrays.landmarks_2d, arrays.rotmat, arrays.betas, noise=arguments.noise
    )


@torch.no_grad()
def points_of(rotmat: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """14 joints of the evaluation and 24 of the body, from the pelvis, and COCO's 17; metres."""
    body = load_body()
    spin49, smpl24, coco = (
        body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set=name, pose2rot=False)
        for name in ("spin49", "smpl24", "coco17")
    )
    picked = [25 + joint for joint in J24_TO_J14]
    return spin49[:, picked] - smpl24[:, :1], smpl24 - smpl24[:, :1], coco


def fit(
    regressor: Regressor,
    people: bench_people.BenchPeople,
    method: str,
    mode: str,
    config: EftConfig,
) -> RegressorOutput:
    """Answers in order."""
    fitter = make_fitter(regressor, load_body(), method=method, mode=mode, config=config)
    keypoints = to_spin49(people.keypoints_2d.astype(np.float32), "coco17").astype(np.float32)
    crops = imaging.to_input(people.image, regressor.img_mean, regressor.img_std)
    jobs = (
        Prepared(index, torch.from_numpy(image), torch.from_numpy(row))
        for index, (image, row) in enumerate(zip(crops, keypoints, strict=True))
    )
    fits = dict(fitter.fit(jobs))
    parts = zip(*(fits[index].final for index in range(len(people))), strict=True)
    return RegressorOutput(*(torch.cat(part) for part in parts))


def measure(
    regressor: Regressor, people: bench_people.BenchPeople, rows: tuple[Row, ...]
) -> list[dict[str, float | str]]:
    """One line per method, and to stderr as it comes."""
    true, _, _ = points_of(torch.from_numpy(people.rotmat), torch.from_numpy(people.betas))
    labelled = torch.from_numpy(people.true_2d[..., 2] > 0)
    full: Tensor | None = None
    lines: list[dict[str, float | str]] = []
    for name, method, mode, config in [
        ("regressor", "none", "full", CONFIG),
        *((name_of(*row), "eft", row[0], replace(CONFIG, **row[1])) for row in rows),
    ]:
        start = time.process_time()
        output = fit(regressor, people, method, mode, config)
        seconds = (time.process_time() - start) / len(people)
        joints, skeleton, coco = points_of(output.pred_rotmat, output.pred_betas)
        image = weak_project(coco, output.pred_cam)
        error = (image - torch.from_numpy(people.true_2d[..., :2])).norm(dim=-1)
        full = skeleton if name == "full" else full
        apart = torch.tensor(float("nan")) if full is None else (skeleton - full).norm(dim=-1)
        line: dict[str, float | str] = {
            "method": name,
            "kp_error_px": float(error[labelled].mean()) * regressor.input_size / 2,
            "pa_mpjpe_mm": 1000 * float(metrics.pa_mpjpe(joints, true).mean()),
            "mpjpe_mm": 1000 * float(metrics.mpjpe(joints, true).mean()),
            "from_full_mm": 1000 * float(apart.mean()),
            "from_full_max_mm": 1000 * float(apart.max()),
            "cpu_seconds": seconds,
        }
        lines.append(line)
        print(
            f"{name:26s} 2D {line['kp_error_px']:6.2f} px  PA {line['pa_mpjpe_mm']:6.1f}  "
            f"MPJPE {line['mpjpe_mm']:6.1f}  from full {line['from_full_mm']:7.3f} "
            f"(max {line['from_full_max_mm']:7.2f}) mm  {seconds:6.2f} CPU s",
            file=sys.stderr,
            flush=True,
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eft_quality")
    parser.add_argument("--motion", type=Path, required=True, help="folder of converted motion")
    parser.add_argument("--backgrounds", type=Path, help="folder of photographs")
    parser.add_argument("--out", type=Path, default=Path("eft_fast_bench/modes"))
    parser.add_argument("--count", type=int, default=48, help="people (default 48)")
    parser.add_argument("--first", type=int, help="only so many of them")
    parser.add_argument("--noise", type=float, default=0.02, help="of keypoints, person sizes")
    parser.add_argument("--modes", nargs="+", help="only these")
    parser.add_argument("--json", action="store_true", help="one line on stdout")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    people = make_people(options)
    if options.first:
        parts = (getattr(people, name)[: options.first] for name in vars(people))
        people = bench_people.BenchPeople(*parts)
    rows = tuple(row for row in ROWS if not options.modes or row[0] in (*options.modes, "full"))
    lines = measure(load_regressor(), people, rows)
    if options.json:
        print(json.dumps({"rows": lines, "people": len(people), "noise": options.noise}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
