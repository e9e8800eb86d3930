"""``eft-fast eval cards``: what each published protocol means."""

from __future__ import annotations

import argparse

from eft_fast.cli.output import emit
from eft_fast.cli.parser import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    add_command(
        subparsers,
        "cards",
        run,
        summary="print what each published protocol means",
        description="Print joints, alignment, frames and units of each published protocol.",
        examples=["eft-fast eval cards"],
    )


def run(options: argparse.Namespace) -> int:
    """Print the cards."""
    from eft_fast.evaluation.protocols import PROTOCOLS

    cards = [protocol.card() for protocol in PROTOCOLS.values()]
    emit({"protocols": list(PROTOCOLS)}, ["\n\n".join(cards)], as_json=options.json)
    return 0
