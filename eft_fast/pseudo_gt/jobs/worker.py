"""A process that fits pieces: ``python -m eft_fast.pseudo_gt.jobs.worker``, see ``local``.

It reads one line of JSON per piece from stdin and answers on stdout. When stdin ends, so does the
process, at once: then its parent is gone, and what it has not written is fitted again.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any

import torch

from eft_fast.pseudo_gt.jobs.plan import Piece, RunPlace
from eft_fast.pseudo_gt.jobs.setup import RunSetup
from eft_fast.pseudo_gt.jobs.work import PieceFitter


def main() -> int:
    """Serve one parent."""
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of its workers.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    is_stopped = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, orders, is_stopped), daemon=True).start()
    torch.set_num_threads(1)
    start = orders.get()
    try:
        fitter = PieceFitter(
            RunPlace(Path(start["folder"])),
            RunSetup.from_json(start["setup"]),
            start["run_id"],
            is_stopped=is_stopped.is_set,
        )
        _answer(answers, {"ready": True})
        while True:
            order = orders.get()
            counts = fitter.fit(
                Piece(*order["piece"]),
                is_careful=order["careful"],
                poisoned=order["poisoned"],
                on_person=lambda row: _answer(answers, {"at": row}),
            )
            _answer(answers, {"done": vars(counts)})
    except Exception as error:
        _answer(answers, {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
        return 1


def _listen(
    stdin: IO[str], orders: queue.Queue[dict[str, Any]], is_stopped: threading.Event
) -> None:
    for line in stdin:
        order = json.loads(line)
        if order.get("stop"):
            is_stopped.set()
        else:
            orders.put(order)
    os._exit(0)


def _answer(stream: IO[str], content: dict[str, Any]) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
