"""What a report knows of a run beyond its fits: who passes the rules, what was said by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eft_fast.cli.output import note
from eft_fast.pseudo_gt import load_verdicts, select_fits, to_words
from eft_fast.pseudo_gt.select import NEVER
from eft_fast.pseudo_gt.verdicts import SELECTION
from eft_fast.result import FitResult
from eft_fast.viz.report import ReportRow


def judge_rows(
    rows: Sequence[ReportRow], result: FitResult, keys: Sequence[str]
) -> list[ReportRow]:
    """The rows with what the rules say of each person, and what each is called in verdicts.

    Args:
        rows: One per person.
        result: Their fits.
        keys: As ``pseudo_gt.person_keys`` makes them.
    """
    chosen = select_fits(result)
    return [
        replace(
            row,
            key=key,
            level=level,
            reasons=to_words(reasons or doubts),
            can_accept=not set(reasons) & set(NEVER),
        )
        for row, key, level, reasons, doubts in zip(
            rows, keys, chosen.level, chosen.reasons, chosen.doubts, strict=True
        )
    ]


def read_verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    """What ``selection.json`` of a run says; a file that cannot be read costs no report."""
    path = folder / SELECTION
    if not path.is_file():
        return {}
    try:
        return {key: (one.verdict, one.note) for key, one in load_verdicts(path).items()}
    except (OSError, ValueError) as error:
        note(f"note: the report starts without verdicts: {error}")
        return {}
