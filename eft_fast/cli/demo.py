"""``eft-fast demo``: the main job on the sample that ships with the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from eft_fast.cli.fitting import add_fit_options, check_fit_options, fit_and_write
from eft_fast.cli.options import add_out_folder
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import output_folder
from eft_fast.cli.people import people_from_annotations

#: Photos, renders and their keypoints; origin and licence stand in SOURCE.md beside them.
SAMPLE: Final = Path(__file__).resolve().parent.parent / "assets" / "demo"


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "demo",
        run,
        summary="fit the sample that ships with the package",
        description="Fit the people of the sample: fits, overlays and a report.",
        examples=["eft-fast demo --out demo_out", "eft-fast demo --mode head --no-pictures"],
    )
    add_fit_options(parser)
    add_out_folder(parser, "demo_out")


def run(options: argparse.Namespace) -> int:
    """Fit the sample."""
    check_fit_options(options)
    with output_folder(options.out) as out:
        people = people_from_annotations(
            f"coco:{SAMPLE / 'people.json'}", SAMPLE, min_keypoints=1, min_area=0.0
        )
        return fit_and_write(people, options, out, title="eft_fast demo")
