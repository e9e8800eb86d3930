"""Ctrl-C and SIGTERM: the command stops, what is done is saved, and the exit code says which."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final

from eft_fast.cli.output import note

#: Signal -> what is said of it. The exit code of a shell is 128 and the number: 130 and 143.
_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Signals:
    """While it is open, both signals raise ``KeyboardInterrupt`` and are remembered.

    Fits answer the exception by returning what is done, so that a command ends as usual: only who
    remembers the signal can tell.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        # Python lets only the main thread set handlers. An ignored signal stays ignored (nohup).
        if threading.current_thread() is threading.main_thread():
            for each in _WORDS:
                if signal.getsignal(each) not in (signal.SIG_IGN, None):
                    self._former[each] = signal.signal(each, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._former.items():
            signal.signal(each, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
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
        note(f"{prog}: {_WORDS[received]}")
        return 128 + received
