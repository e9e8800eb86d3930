"""``eft-fast demo``: the main job on the sample that ships with the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.fit import add_fit_options, fit_and_write
from eft_fast.cli.output import add_common_options
from eft_fast.cli.people import people_from_annotations

#: Photos, renders and their keypoints; origin and licence stand in SOURCE.md beside them.
SAMPLE: Final = Path(__file__).resolve().parent.parent / "assets" / "demo"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description="Fit the people of the sample: fits, overlays and a report.",
        epilog="example: eft-fast demo --out demo_out",
    )
    add_fit_options(parser)
    parser.add_argument("--out", default="demo_out", metavar="DIR", help="where to write")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fit the sample."""
    people = people_from_annotations(
        f"coco:{SAMPLE / 'people.json'}", SAMPLE, min_keypoints=1, min_area=0.0
    )
    return fit_and_write(people, options, title="eft_fast demo")
