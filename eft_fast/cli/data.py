"""``eft-fast data``: what is in datasets and runs; a module per command."""

from __future__ import annotations

from typing import Final

from eft_fast.cli import data_inspect, data_select
from eft_fast.cli.parser import Subparsers, add_group

#: Modules of the commands. Each has ``add(subparsers)`` and ``run(options)``.
COMMANDS: Final = (data_inspect, data_select)


def add(subparsers: Subparsers) -> None:
    """Register the command and its own."""
    commands = add_group(
        subparsers,
        "data",
        metavar="WHAT",
        summary="look into datasets, and choose among fits",
        description="Look into datasets, and choose among fits.",
        examples=[
            "eft-fast data inspect person_keypoints_val2017.json",
            "eft-fast data select fits/ --reject 12,15",
        ],
    )
    for module in COMMANDS:
        module.add(commands)
