"""What a report knows of a run beyond its fits: who passes the rules, what was said by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from eft_fast.cli.output import note
from eft_fast.cli.run_folder import VIEW
from eft_fast.pseudo_gt import load_verdicts, select_fits, to_words
from eft_fast.pseudo_gt.select import DOUBTFUL, NEVER, REJECT, Selection
from eft_fast.pseudo_gt.verdicts import SELECTION
from eft_fast.result import FitResult
from eft_fast.viz.report import ReportRow, worst_first
from eft_fast.viz.view3d import write_view

#: People on the 3D page beside a report, unless told otherwise: each takes about 220 kB.
VIEWED: Final = 50


@dataclass(frozen=True)
class JudgedPeople:
    """What the rules say of the people of a run.

    Attributes:
        keys: What each person is called in verdicts.
        chosen: The judgement.
    """

    keys: Sequence[str]
    chosen: Selection

    @property
    def words(self) -> list[str]:
        """What speaks against each fit, in a line; empty: nothing."""
        lines = {DOUBTFUL: "doubtful: ", REJECT: "rejected by the rules: "}
        return [
            lines[level] + ", ".join(words) if words else ""
            for level, words in zip(self.chosen.level, self._reasons, strict=True)
        ]

    @property
    def _reasons(self) -> list[list[str]]:
        pairs = zip(self.chosen.reasons, self.chosen.doubts, strict=True)
        return [to_words(reasons or doubts) for reasons, doubts in pairs]

    def to_rows(self, rows: Sequence[ReportRow]) -> list[ReportRow]:
        """The rows with what the rules say of each person."""
        return [
            replace(
                row,
                key=key,
                level=level,
                reasons=words,
                can_accept=not set(reasons) & set(NEVER),
            )
            for row, key, level, words, reasons in zip(
                rows, self.keys, self.chosen.level, self._reasons, self.chosen.reasons, strict=True
            )
        ]


def judge_people(result: FitResult, keys: Sequence[str]) -> JudgedPeople:
    """Apply the rules to fits.

    Args:
        result: The fits.
        keys: As ``pseudo_gt.person_keys`` makes them.
    """
    return JudgedPeople(keys, select_fits(result))


def add_views(
    rows: Sequence[ReportRow],
    result: FitResult,
    photos: Sequence[str | Path],
    folder: Path,
    limit: int = VIEWED,
) -> list[ReportRow]:
    """Write ``view.html`` with the worst people, and link the rows of those who are on it.

    Args:
        rows: One per person, judged.
        result: Their fits.
        photos: The photo of each.
        folder: Where the report comes to.
        limit: People at most; 0: no page.
    """
    place = folder / VIEW
    names, ids = [row.name for row in rows], [row.person for row in rows]
    shown = write_view(
        place, result, names, photos=photos, ids=ids, order=worst_first(rows), limit=limit
    )
    found = set(shown)
    return [replace(row, view=place) if k in found else row for k, row in enumerate(rows)]


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
