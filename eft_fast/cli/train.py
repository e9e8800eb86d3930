"""``eft-fast train``: make a regressor from rendered people."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.output import UsageError, add_common_options, emit, note

_EXAMPLE = """example: eft-fast train --config train.toml
example: eft-fast train --work run --motion cmu --trunk full.npz --train 3000"""

#: Option of the command line -> place in the file.
_PLACES: Final = {
    "work": "recipe.work",
    "motion": "recipe.motion",
    "backgrounds": "recipe.backgrounds",
    "trunk": "recipe.trunk",
    "start": "recipe.start",
    "train": "recipe.train",
    "varied": "recipe.varied",
    "val": "recipe.val",
    "test": "recipe.test",
    "head_steps": "recipe.head.steps",
    "finetune_steps": "recipe.finetune_config.steps",
    "stages": "stages",
    "processes": "processes",
    "threads": "threads",
    "device": "device",
    "out": "out",
    "source_sha256": "source_sha256",
}


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Train the open regressor: render people, train the head on the trunk's stored "
            "outputs, train everything together, and score the held-out pictures. Every stage "
            "goes on where it was stopped. Options win over the file."
        ),
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of options")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--motion", type=Path, metavar="DIR", help="folder of motion capture")
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", help="folder of photographs")
    parser.add_argument(
        "--trunk", type=Path, metavar="FILE", help="weights of tools/convert_blazepose.py"
    )
    parser.add_argument(
        "--start", type=Path, metavar="FILE", help="fine-tune these weights; default: the head's"
    )
    parser.add_argument("--train", type=int, metavar="N", help="rendered training pictures")
    parser.add_argument(
        "--varied", type=int, metavar="N", help="more of them, with children, floors, seats"
    )
    parser.add_argument("--val", type=int, metavar="N", help="rendered pictures to choose on")
    parser.add_argument("--test", type=int, metavar="N", help="rendered held-out pictures")
    parser.add_argument("--head-steps", type=int, metavar="N", help="updates of the head")
    parser.add_argument("--finetune-steps", type=int, metavar="N", help="updates of everything")
    parser.add_argument(
        "--stages", nargs="+", metavar="S", help="render, head, finetune, evaluate; default: all"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="of the stage render")
    parser.add_argument("--threads", type=int, metavar="N", help="of the other stages")
    parser.add_argument("--device", metavar="D", help="of the stage finetune: cpu, cuda ...")
    parser.add_argument("--out", type=Path, metavar="FILE", help="export the weights to this file")
    parser.add_argument("--source-sha256", metavar="HEX", help="hash of the trunk's source file")
    parser.add_argument("--seed", type=int, help="of pictures, weights and batches")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the stages in order; print the score of the last one that gives one."""
    import torch

    from eft_fast.training.config_file import load_run, run_from_table

    changes = {
        place: getattr(options, name)
        for name, place in _PLACES.items()
        if getattr(options, name) is not None
    }
    if options.seed is not None:
        seeded = ("recipe.synth.seed", "recipe.head.seed", "recipe.finetune_config.seed")
        changes |= dict.fromkeys(seeded, options.seed)
    if options.config is not None:
        job = load_run(options.config, changes)
    elif options.work is None or options.motion is None:
        raise UsageError("eft-fast train: --config, or --work and --motion, expected; got neither")
    else:
        job = run_from_table({}, Path(), changes)
    if not options.quiet:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(job.threads)
    seconds: dict[str, float] = {}
    score: dict[str, float] | None = None
    for stage in job.stages:
        if not options.quiet:
            note(f"stage {stage}")
        start = time.perf_counter()
        if stage == "render":
            job.recipe.render(processes=job.processes)
        else:
            score = _STAGES[stage](job)
        seconds[stage] = time.perf_counter() - start
    if job.out is not None:
        job.recipe.export(job.out, source_sha256=job.source_sha256)
    summary = {"work": str(job.recipe.work), "seconds": seconds, "score": score}
    lines = [f"{stage:10s} {took:8.1f} s" for stage, took in seconds.items()]
    lines += [f"{name:20s} {value:.4g}" for name, value in (score or {}).items()]
    emit(summary, lines, as_json=options.json)
    return 0


_STAGES: Final[dict[str, Any]] = {
    "head": lambda job: job.recipe.train_head(),
    "finetune": lambda job: job.recipe.finetune(job.device),
    "evaluate": lambda job: job.recipe.evaluate(),
}
