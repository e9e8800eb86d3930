"""Rows of the tables of ``eval``: methods by name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eft_fast.cli.output import UsageError
from eft_fast.errors import expected_name

if TYPE_CHECKING:
    from eft_fast.evaluation.openbench import Method
    from eft_fast.models.base import Regressor


def add_methods(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Which rows the table has."""
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help="rows of the table: regressor, eft, eft_MODE, RECIPE_PRIOR and others; a wrong one is "
        f"told with the names that there are; default: {default}",
    )


def chosen_methods(names: Sequence[str] | None, regressor: Regressor | None) -> tuple[Method, ...]:
    """Methods by name; all that the regressor has, without names.

    Args:
        names: Their names; None: all.
        regressor: Modes that it does not have are left out; None: all modes.

    Raises:
        UsageError: If there is none of a name.
    """
    from eft_fast.evaluation.openbench import default_methods

    known = {method.name: method for method in default_methods(regressor)}
    if not names:
        return tuple(known.values())
    for name in names:
        if name not in known:
            raise UsageError(f"--methods {expected_name(name, known)}")
    return tuple(known[name] for name in names)
