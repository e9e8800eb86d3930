"""Make the open regressor: ``python -m eft_fast.training STAGE``.

Stages, in order: ``render``, ``head``, ``finetune``, ``export``; ``evaluate`` scores what a stage
left behind. Every stage goes on where it was stopped. Files of a run lie in one folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from eft_fast.synth import SynthConfig
from eft_fast.training.config import FinetuneConfig, HeadConfig
from eft_fast.training.recipe import Recipe

_STAGES = ("render", "head", "finetune", "export", "evaluate")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eft_fast.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m eft_fast.training head --work run --motion cmu --trunk full.npz",
    )
    parser.add_argument("stage", choices=_STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--motion", type=Path, required=True, help="folder of motion capture")
    parser.add_argument("--backgrounds", type=Path, help="folder of photographs")
    parser.add_argument("--trunk", type=Path, help="weights of tools/convert_blazepose.py")
    parser.add_argument("--start", type=Path, help="fine-tune these weights, not the head stage's")
    parser.add_argument("--train", type=int, default=Recipe.train, help="training images")
    parser.add_argument(
        "--varied", type=int, default=0, help="more of them: children, floors, seats, loose clothes"
    )
    parser.add_argument("--val", type=int, default=Recipe.val, help="images to choose on")
    parser.add_argument("--test", type=int, default=Recipe.test, help="held-out images")
    parser.add_argument("--device", default="cpu", help="of the stage finetune: cpu or cuda")
    parser.add_argument("--head-steps", type=int, default=HeadConfig.steps)
    parser.add_argument("--finetune-steps", type=int, default=FinetuneConfig.steps)
    parser.add_argument("--processes", type=int, default=1, help="of the render stage")
    parser.add_argument("--threads", type=int, default=1, help="of the other stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of the export stage")
    parser.add_argument("--source-sha256", default="", help="hash of the trunk's source file")
    parser.add_argument("--model", type=Path, help="evaluate this weights file, not the run's")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; return the exit code."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(args.threads)
    recipe = Recipe(
        work=args.work,
        motion=args.motion,
        backgrounds=args.backgrounds,
        trunk=args.trunk,
        start=args.start,
        train=args.train,
        varied=args.varied,
        val=args.val,
        test=args.test,
        synth=SynthConfig(seed=args.seed),
        head=HeadConfig(seed=args.seed, steps=args.head_steps),
        finetune_config=FinetuneConfig(seed=args.seed, steps=args.finetune_steps),
    )
    try:
        if args.stage == "render":
            recipe.render(processes=args.processes)
        elif args.stage == "head":
            print(json.dumps(recipe.train_head()))
        elif args.stage == "finetune":
            print(json.dumps(recipe.finetune(args.device)))
        elif args.stage == "export":
            print(recipe.export(args.out, source_sha256=args.source_sha256))
        else:
            print(json.dumps(recipe.evaluate(args.model)))
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
