"""What a long run says: a bar on a terminal, and a line every 30 s elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from tqdm import tqdm

from eft_fast.pseudo_gt.jobs.work import PieceCounts

#: Seconds between two lines.
EVERY_S: Final = 30.0


class RunLog:
    """Counts people who are done.

    Args:
        total: People of the run.
        done: Those of earlier sessions.
        shown: Whether to say anything; None: yes.
        say: Takes a line; default: stderr.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        shown: bool | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.total, self._former, self.counts = total, done, PieceCounts()
        self._is_shown = shown is not False
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._start = self._last = time.monotonic()
        is_terminal = self._is_shown and say is None and sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, unit="person", disable=not is_terminal, leave=False
        )
        self._has_lines = self._is_shown and not is_terminal

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def add(self, counts: PieceCounts) -> None:
        """Count people who have just been done."""
        self.counts.add(counts)
        self._bar.set_postfix(
            converged=self.counts.converged, failed=self.counts.failed, refresh=False
        )
        self._bar.update(counts.people)
        self.tick()

    def note(self, text: str) -> None:
        """Say something at once."""
        if self._is_shown:
            self._bar.clear()
            self._say(text)

    def tick(self) -> None:
        """Say a line if it is time."""
        now = time.monotonic()
        if self._has_lines and now - self._last >= EVERY_S:
            self._last = now
            self._say(self.line())

    def line(self) -> str:
        """Where the run stands."""
        done, left = self._former + self.counts.people, "unknown"
        rate = self.counts.people / self.seconds if self.seconds else 0.0
        if rate > 0:
            seconds = round((self.total - done) / rate)
            left = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return (
            f"{done} of {self.total} people, {rate:.1f} people/s, {left} left, "
            f"{self.counts.converged} converged, {self.counts.rejected} rejected, "
            f"{self.counts.failed} failed"
        )
