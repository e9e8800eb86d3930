"""Ctrl-C and SIGTERM: the command stops, what is done is saved, and the exit code says which."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final

from eft_fast.cli.output import note

#: Signal -> what is said of it. The exit code of a shell is 128 and the number: 130 and 143.
_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Signals:
    """While it is open, both signals raise ``KeyboardInterrupt`` and are remembered.

    Fits answer the exception by returning what is done, so that a command ends as usual: only who
    remembers the signal can tell.
    """

    _open: ClassVar[list[Signals]] = []

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}
        self._holds = 0
        self._is_late = False
        self._outcome = ""

    def __enter__(self) -> Signals:
        # Python lets only the main thread set handlers. An ignored signal stays ignored (nohup).
        if threading.current_thread() is threading.main_thread():
            for each in _WORDS:
                if signal.getsignal(each) not in (signal.SIG_IGN, None):
                    self._former[each] = signal.signal(each, self._stop)
        self._open.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.remove(self)
        for each, handler in self._former.items():
            signal.signal(each, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        if self._holds:
            self._is_late = True
            return
        raise KeyboardInterrupt

    @contextmanager
    def hold(self) -> Iterator[None]:
        """What arrives in the block is raised at its end: results are saved in it."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._is_late and not self._holds:
            self._is_late = False
            raise KeyboardInterrupt

    def exit_code(self, code: int, *, prog: str, is_interrupted: bool = False) -> int:
        """The exit code, which is that of the signal if one came.

        Args:
            code: That of the command.
            prog: Its name, for the sentence.
            is_interrupted: Whether it ended with ``KeyboardInterrupt``.
        """
        received = self._received or (signal.SIGINT if is_interrupted else None)
        if received is None:
            return code
        note(f"{prog}: {_WORDS[received]}" + (f"; {self._outcome}" if self._outcome else ""))
        return 128 + received

    @classmethod
    def current(cls) -> Signals:
        """Those of the command that runs; outside of one, some that never come."""
        return cls._open[-1] if cls._open else cls()

    @property
    def came(self) -> bool:
        """Whether the command is to stop."""
        return self._received is not None

    def tell(self, outcome: str) -> None:
        """What is to be said if a signal came or comes: what is done, and where it is."""
        self._outcome = outcome
