"""What commands print: JSON for machines, short lines for people, errors as one sentence."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

from eft_fast.files import write_text

#: What every command says that finds no torch.
NO_TORCH: Final = (
    "torch is not installed: exported regressors run without it (predict, verify), everything else "
    "needs it; pip install torch"
)


class UsageError(Exception):
    """Bad usage or input: exit code 2.

    Args:
        sentence: What is wrong and what to do, without the name of the command.
        prog: The command; None: the one that runs.
    """

    def __init__(self, sentence: str, prog: str | None = None) -> None:
        super().__init__(sentence)
        self.prog = prog


def emit(summary: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Print a result: the summary as one JSON line, or the lines."""
    if as_json:
        print(json.dumps(_without_nan(summary), allow_nan=False))
    else:
        print("\n".join(lines))


def write_json(path: str, summary: dict[str, Any]) -> None:
    """Write a summary to a file; NaN becomes null, as JSON has none."""
    write_text(path, json.dumps(_without_nan(summary), indent=2, allow_nan=False) + "\n")


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
