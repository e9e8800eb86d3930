"""What every export is made from: weights, their licence, the body, photos."""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

from eft_fast.cli.output import note


def load_export_body(options: argparse.Namespace) -> Any:
    """The body of joints, vertices and fits; None where none goes into the folder by request."""
    if options.outputs == "params" and (options.covariance is None or options.body == "open"):
        return None
    from eft_fast.body import load_body

    return load_body(options.body)


def describe_source(source: str) -> tuple[str | None, str]:
    """Licence, where the file tells, and hash of the file that weights come from."""
    from eft_fast.models.open_file import read_card
    from eft_fast.models.registry import find_weights

    path = find_weights(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    is_ours = path.suffix == ".npz"
    return (str(read_card(path)["licence"]) if is_ours else None), digest


def tell_notice(options: argparse.Namespace) -> None:
    """Say who may have the file, if that is not everybody."""
    from eft_fast.serving.card import load_card

    notice = load_card(options.out).notice
    if notice and not options.quiet:
        note(f"note: {options.out} {notice}")
