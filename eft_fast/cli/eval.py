"""``eft-fast eval``: methods side by side; a module per protocol."""

from __future__ import annotations

from typing import Final

from eft_fast.cli import (
    eval_cards,
    eval_coco,
    eval_openbench,
    eval_photos,
    eval_renders,
    eval_truth,
)
from eft_fast.cli.parser import Subparsers, add_group

#: Modules of the protocols. Each has ``add(subparsers)`` and ``run(options)``, as commands have.
PROTOCOLS: Final = (eval_openbench, eval_truth, eval_photos, eval_coco, eval_renders, eval_cards)


def add(subparsers: Subparsers) -> None:
    """Register the command and its protocols."""
    protocols = add_group(
        subparsers,
        "eval",
        metavar="PROTOCOL",
        summary="measure methods side by side",
        description=(
            "Measure methods: on rendered people or datasets against the truth, or on annotated "
            "photos. "
            "`eft-fast eval PROTOCOL --help` has the options of each."
        ),
        examples=["eft-fast eval openbench --motion cmu/ --count 200 --out bench"],
    )
    for module in PROTOCOLS:
        module.add(protocols)
