"""``eft-fast train``: make a regressor from rendered people."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli import train_labels
from eft_fast.cli.choices import NETWORKS, REGRESSORS, STAGES
from eft_fast.cli.options import at_least, device_name
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_file, check_folder, output_file, output_folder

if TYPE_CHECKING:
    from eft_fast.training.config_file import TrainingRun

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
    "network": "network",
    "skeletons": "recipe.skeletons",
    "head_steps": "recipe.head.steps",
    "finetune_steps": "recipe.finetune_config.steps",
    "stages": "stages",
    "processes": "processes",
    "threads": "threads",
    "device": "device",
    "out": "out",
    "source_sha256": "source_sha256",
}


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "train",
        run,
        summary="train a regressor on rendered people, or on fits and annotated photos",
        description=(
            "Train the open regressor: render people, train the head on the trunk's stored "
            "outputs, train everything together, and score the held-out pictures. With --data "
            "(or a file with [[data]]): train a regressor on labelled photos, fits above all. "
            "Either goes on where it was stopped. Options win over the file."
        ),
        examples=[
            "eft-fast train --config train.toml",
            "eft-fast train --work run --motion cmu --trunk full.npz --train 3000",
            "eft-fast train --data coco_fits mpii_fits --share 0.7 0.3 --work trained",
        ],
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of options")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--motion", type=Path, metavar="DIR", help="folder of motion capture")
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", help="folder of photographs")
    parser.add_argument(
        "--trunk", type=Path, metavar="FILE", help="weights of tools/convert_blazepose.py"
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="fine-tune these weights; default: the head's. Of --data: open (default), fresh: a "
        "new head on the published trunk, or a file",
    )
    parser.add_argument("--train", type=at_least(0), metavar="N", help="rendered training pictures")
    parser.add_argument(
        "--varied", type=at_least(0), metavar="N", help="more of them, with children, floors, seats"
    )
    parser.add_argument(
        "--val", type=at_least(0), metavar="N", help="rendered pictures to choose on"
    )
    parser.add_argument("--test", type=at_least(0), metavar="N", help="rendered held-out pictures")
    parser.add_argument("--head-steps", type=at_least(0), metavar="N", help="updates of the head")
    parser.add_argument(
        "--finetune-steps", type=at_least(0), metavar="N", help="updates of everything"
    )
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        help="which one to make (default open-1); open-2 is a head on MoveNet, whose trunk stays",
    )
    parser.add_argument(
        "--skeletons",
        type=Path,
        metavar="FILE",
        help="of open-2: labelled people without photos, an .npz with kp, bbox_xywh and val",
    )
    parser.add_argument(
        "--stages",
        choices=STAGES,
        nargs="+",
        metavar="S",
        help=f"{', '.join(STAGES)}; default: all",
    )
    parser.add_argument("--processes", type=at_least(1), metavar="N", help="of the stage render")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="of the other stages")
    parser.add_argument(
        "--device", type=device_name, metavar="D", help="of the stage finetune: cpu, cuda ..."
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="export the weights to this file")
    parser.add_argument("--source-sha256", metavar="HEX", help="hash of the trunk's source file")
    parser.add_argument("--seed", type=at_least(0), help="of pictures, weights and batches")
    train_labels.add_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run the stages in order; print the score of the last one that gives one."""
    if options.config is not None:
        check_file("--config", options.config)
    if options.data is not None or _has_data(options.config):
        if options.config is None and options.work is None:
            raise UsageError("--work expected beside --data; got none")
        if str(options.start) not in ("None", "fresh", *REGRESSORS):
            check_file("--start", options.start)
        return train_labels.run(options)
    for name in train_labels.OWN:
        if getattr(options, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} goes with --data; give both or leave it out")
    if options.config is None and (options.work is None or options.motion is None):
        raise UsageError("--config, or --work and --motion, expected; got neither")
    for name in ("trunk", "start", "skeletons"):
        if getattr(options, name) is not None:
            check_file(f"--{name}", getattr(options, name))
    for name in ("motion", "backgrounds"):
        if getattr(options, name) is not None:
            check_folder(f"--{name}", getattr(options, name))
    job = _read_job(options)
    with output_folder(job.recipe.work, "--work"):
        if job.out is None:
            return _train(job, options)
        with output_file(job.out):
            return _train(job, options)


def _has_data(config: Path | None) -> bool:
    if config is None:
        return False
    from eft_fast.training.config_file import is_label_run

    return is_label_run(config)


def _read_job(options: argparse.Namespace) -> TrainingRun:
    from eft_fast.ops import find_device
    from eft_fast.training.config_file import load_run, run_from_table

    changes = {
        place: getattr(options, name)
        for name, place in _PLACES.items()
        if getattr(options, name) is not None
    }
    if options.seed is not None:
        seeded = ("recipe.synth.seed", "recipe.head.seed", "recipe.finetune_config.seed")
        if _makes_open_2(options):
            seeded = ("recipe.synth.seed", "recipe.lift.seed", "recipe.head.seed")
        changes |= dict.fromkeys(seeded, options.seed)
    if options.config is None:
        job = run_from_table({}, Path(), changes)
    else:
        job = load_run(options.config, changes)
    find_device("train", job.device)
    return job


def _makes_open_2(options: argparse.Namespace) -> bool:
    """Whether the options or the file say so; the options win."""
    if options.network is not None or options.config is None:
        return bool(options.network == "open-2")
    from eft_fast.training.config_file import network_of

    return network_of(options.config) == "open-2"


def _train(job: TrainingRun, options: argparse.Namespace) -> int:
    import torch

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
