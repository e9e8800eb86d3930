"""``eft-fast eval renders``: a regressor alone on rendered people that no training saw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from eft_fast.cli.eval_openbench import SEED
from eft_fast.cli.options import (
    add_out_folder,
    add_regressor,
    add_render_sources,
    add_scenes,
    at_least,
)
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_regressor, check_render_sources, output_folder

#: People by default: as many as the card of the shipped regressor was measured on.
_COUNT: Final = 1000


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "renders",
        run,
        summary="a regressor alone, on rendered people that no training saw",
        description=(
            "Render the open body in motion that no training saw and print the errors of a "
            "regressor's answers, without any fit."
        ),
        examples=["eft-fast eval renders --motion cmu/ --out bench"],
    )
    add_render_sources(parser)
    parser.add_argument(
        "--count", type=at_least(1), default=_COUNT, metavar="N", help=f"people (default {_COUNT})"
    )
    parser.add_argument(
        "--seed",
        type=at_least(0),
        default=SEED,
        metavar="N",
        help=f"of the rendered set (default {SEED}); 0: the test split of a training run",
    )
    add_scenes(parser, default="training")
    add_regressor(parser)
    add_out_folder(parser, "eft_fast_bench")


def run(options: argparse.Namespace) -> int:
    """Render the set, or take the one that is there, and print the errors of the regressor."""
    check_regressor(options.regressor)
    check_render_sources(options)
    with output_folder(options.out) as out:
        return _measure(options, out)


def _measure(options: argparse.Namespace, out: Path) -> int:
    count = options.count
    from eft_fast.body import load_body
    from eft_fast.models import load_regressor
    from eft_fast.models.movenet_regressor import MoveNetRegressor
    from eft_fast.models.open_regressor import OpenRegressor
    from eft_fast.synth import SynthJob, load_shards, render_shards
    from eft_fast.synth.config import make_scenes
    from eft_fast.training.measure import count_seen, score_renders

    regressor = load_regressor(options.regressor)
    if not isinstance(regressor, OpenRegressor | MoveNetRegressor):
        raise UsageError(
            f"renders needs a network for the body that is drawn, got "
            f"{regressor.id}; pass open or a weights file of the open regressor"
        )
    size, poses = regressor.input_size, "prior" if options.motion is None else "motion"
    # Sets of the first kind of scenes keep the name that they always had.
    kind = "" if options.scenes == "training" else f"{options.scenes}-"
    job = SynthJob(
        out=out / f"renders-{kind}{poses}-seed{options.seed}-{count}-{size}",
        split="test",
        count=count,
        motion=options.motion,
        backgrounds=options.backgrounds,
        config=make_scenes(options.scenes, size, options.seed),
    )
    arrays = load_shards(render_shards(job, progress=not options.quiet))
    if not options.quiet:
        note(f"predicting {count} people")
    errors = score_renders(regressor, load_body(), arrays)
    score, rows = errors.summary(), errors.rows_by_seen(count_seen(arrays))
    summary = {
        "regressor": regressor.full_id,
        "poses": poses,
        "seed": options.seed,
        "scenes": options.scenes,
    }
    summary |= score
    summary["by_seen"] = rows
    lines = [f"{name:20s} {value:.4g}" for name, value in score.items()]
    lines += ["", "keypoints seen  people  MPJPE, mm  PA-MPJPE, mm  turned by > 90 degrees"]
    lines += [
        f"{row['seen']:>14s} {row['people']:7d} {row['mpjpe_mm']:10.1f} {row['pa_mpjpe_mm']:13.1f} "
        f"{row['root_flips']:23.3f}"
        for row in rows
    ]
    emit(summary, lines, as_json=options.json)
    return 0
