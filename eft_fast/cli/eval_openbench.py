"""``eft-fast eval openbench``: methods side by side on rendered people whose truth is known."""

from __future__ import annotations

import argparse
import hashlib
import platform
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.eval_methods import add_methods, chosen_methods
from eft_fast.cli.options import (
    add_out_folder,
    add_regressor,
    add_render_sources,
    add_scenes,
    at_least,
    not_negative,
)
from eft_fast.cli.output import emit, note, write_json
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_regressor, check_render_sources, output_file, output_folder
from eft_fast.files import write_text

#: Of the rendered set by default; training renders with seed 0.
SEED: Final = 20
#: People by default, and with ``--quick``.
_COUNT, _QUICK_COUNT = 100, 12
_QUICK_METHODS: Final = ("regressor", "eft_head", "smplify_spin_gmm", "smplify_eft_baseline_gmm")


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "openbench",
        run,
        summary="on rendered people, against their true bodies",
        description=(
            "Render the open body in motion that no training saw, fit it by every method, and "
            "compare with the truth. Writes openbench.json and a page of tables."
        ),
        examples=[
            "eft-fast eval openbench --quick --out bench",
            "eft-fast eval openbench --motion cmu/ --count 200 --out bench",
        ],
    )
    add_render_sources(parser)
    parser.add_argument("--count", type=at_least(1), metavar="N", help=f"people (default {_COUNT})")
    parser.add_argument(
        "--seed",
        type=at_least(0),
        default=SEED,
        metavar="N",
        help=f"of the rendered set (default {SEED}); 0: the test split of a training run",
    )
    parser.add_argument(
        "--noise",
        type=not_negative,
        nargs="+",
        default=[0.0, 0.02],
        metavar="S",
        help="of the keypoints, person sizes; a table each (default 0 0.02: exact, a detector's)",
    )
    parser.add_argument("--quick", action="store_true", help="few people, few methods")
    add_scenes(parser, default="training")
    add_methods(parser, default="all")
    add_regressor(parser)
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="where to write the page of the tables (default DIR/openbench.md)",
    )
    add_out_folder(parser, "eft_fast_bench")


def run(options: argparse.Namespace) -> int:
    """Check everything that can be checked before anything is loaded, then run the bench."""
    names = options.methods or (list(_QUICK_METHODS) if options.quick else None)
    if options.count is None:
        options.count = _QUICK_COUNT if options.quick else _COUNT
    check_render_sources(options)
    check_regressor(options.regressor)
    chosen_methods(names, None)
    if options.motion is None and not options.quiet:
        note("note: without --motion, poses are drawn from the pose prior, which favours its users")
    with output_folder(options.out) as out:
        with output_file(options.table or out / "openbench.md", "--table") as table:
            return _bench(options, names, table)


def _bench(options: argparse.Namespace, names: list[str] | None, table: Path) -> int:
    import torch

    from eft_fast.api import load_body, load_regressor
    from eft_fast.evaluation.bench_table import to_markdown
    from eft_fast.models.identity import weights_sha256
    from eft_fast.training.measure import in_crops_of

    regressor, body = load_regressor(options.regressor), load_body()
    methods = chosen_methods(names, regressor)
    arrays, digest = _render(options, regressor.input_size)
    arrays = in_crops_of(regressor, arrays)
    levels = [_run_level(options, methods, regressor, body, arrays, n) for n in options.noise]
    summary = {
        "people": len(arrays),
        "poses": "prior" if options.motion is None else "motion",
        "noise": levels[0]["noise"],
        "seed": options.seed,
        "scenes": options.scenes,
        "set_sha256": digest,
        "regressor": regressor.full_id,
        "regressor_sha256": weights_sha256(regressor),
        "body": body.id,
        "threads": torch.get_num_threads(),
        "device": platform.machine(),
        "methods": levels[0]["methods"],
        "levels": levels,
    }
    write_json(str(options.out / "openbench.json"), summary)
    write_text(table, to_markdown(summary, _command(options)))
    lines = [line for level in levels for line in [f"noise {level['noise']:g}", *_table(level)]]
    emit(summary, lines, as_json=options.json)
    return 0


def _run_level(
    options: argparse.Namespace,
    methods: Any,
    regressor: Any,
    body: Any,
    arrays: Any,
    noise: float,
) -> dict[str, Any]:
    """All methods on keypoints of one quality."""
    from eft_fast.evaluation import bench_scores, openbench
    from eft_fast.evaluation.bench_people import make_people

    people = make_people(
        arrays.image, arrays.landmarks_2d, arrays.rotmat, arrays.betas, noise=noise
    )
    tell = None if options.quiet else lambda name: note(f"noise {noise:g}: fitting by {name}")
    scores = list(openbench.run_bench(regressor, body, people, methods, on_method=tell))
    hidden = bench_scores.hidden_joints(people)
    return {
        "noise": noise,
        "hidden": {"people": int(hidden.any(1).sum()), "joints": int(hidden.sum())},
        "methods": bench_scores.summarise(scores),
        "equal_error": bench_scores.at_equal_error(scores),
    }


def _command(options: argparse.Namespace) -> str:
    """The command that makes this page again; folders by what they hold."""
    words = ["eft-fast eval openbench"]
    if options.motion is not None:
        words.append("--motion CMU")
    if options.backgrounds is not None:
        words.append("--backgrounds PHOTOS")
    words += [f"--count {options.count}", "--noise " + " ".join(f"{n:g}" for n in options.noise)]
    if options.seed != SEED:
        words.append(f"--seed {options.seed}")
    if options.scenes != "training":
        words.append(f"--scenes {options.scenes}")
    if options.quick:
        words.append("--quick")
    if options.methods:
        words.append("--methods " + " ".join(options.methods))
    return " ".join(words)


def _render(options: argparse.Namespace, size: int) -> tuple[Any, str]:
    """The set and the hash of its pictures and labels; shards that are there are kept."""
    from eft_fast.synth import SynthJob, load_shards, render_shards
    from eft_fast.synth.config import make_scenes

    kind = "prior-" if options.motion is None else ""
    # Sets of the default scenes and seed keep the name that they always had.
    kind += "" if options.scenes == "training" else f"{options.scenes}-"
    kind += "" if options.seed == SEED else f"seed{options.seed}-"
    job = SynthJob(
        out=options.out / f"set-{kind}{options.count}-{size}",
        split="test",
        count=options.count,
        motion=options.motion,
        backgrounds=options.backgrounds,
        config=make_scenes(options.scenes, size, options.seed),
    )
    arrays = load_shards(render_shards(job))
    digest = hashlib.sha256(arrays.image.tobytes() + arrays.landmarks_2d.tobytes()).hexdigest()
    return arrays, digest


def _table(level: dict[str, Any]) -> list[str]:
    lines = [
        f"{'method':34s} {'2D px':>7s} {'PA mm':>7s} {'95 %':>15s} {'MPJPE':>7s} {'hidden':>7s} "
        f"{'PVE':>7s} {'worse':>6s} {'fits/s':>8s}"
    ]
    for name, row in level["methods"].items():
        interval = f"{row['pa_mpjpe_mm_low']:.1f} to {row['pa_mpjpe_mm_high']:.1f}"
        worse = f"{row['worse_than_start']:.0%}" if "worse_than_start" in row else ""
        lines.append(
            f"{name:34s} {row['kp_error_px']:7.2f} {row['pa_mpjpe_mm']:7.1f} {interval:>15s} "
            f"{row['mpjpe_mm']:7.1f} {row['hidden_mpjpe_mm']:7.1f} {row['pve_mm']:7.1f} "
            f"{worse:>6s} {row['fits_per_second']:8.2f}"
        )
    return lines
