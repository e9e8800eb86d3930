"""A progress bar over people: how many are done, how fast, how many converged or failed."""

from __future__ import annotations

import sys
from collections import Counter
from types import TracebackType
from typing import Final

from tqdm import tqdm

_FAILURES: Final = ("nan", "bad_image")


class PeopleProgress:
    """Counts people on stderr; silent unless stderr is a terminal or ``shown`` says otherwise.

    The bar shows people done, the rate, the time that is left where the total is known, and how
    many converged and failed.
    """

    def __init__(self, total: int | None, *, shown: bool | None = None) -> None:
        shown = sys.stderr.isatty() if shown is None else shown
        self._counts: Counter[str] = Counter()
        self._bar = tqdm(total=total, unit="person", disable=not shown, leave=False)

    def __enter__(self) -> PeopleProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def person(self, stop_reason: str) -> None:
        """Count one person."""
        self._counts[stop_reason] += 1
        failed = sum(self._counts[reason] for reason in _FAILURES)
        self._bar.set_postfix(converged=self._counts["converged"], failed=failed, refresh=False)
        self._bar.update()
