"""Processes of this machine, of one thread each, that fit the pieces of a run."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eft_fast.pseudo_gt.jobs.log import RunLog
from eft_fast.pseudo_gt.jobs.plan import PIECE_SIZE, Piece, RunPlace, Shard
from eft_fast.pseudo_gt.jobs.setup import RunSetup
from eft_fast.pseudo_gt.jobs.work import PieceCounts, close_shard

#: Ends of processes on one piece before it is fitted person by person.
_PATIENCE: Final = 1
#: Ends on one person before that person is left out.
_MOST_ENDS: Final = 2
#: Seconds that processes have to write what they have done when the run is stopped.
_TO_STOP_S: Final = 60.0
#: Seconds between two looks at the log.
_TICK_S: Final = 1.0


@dataclass(eq=False)
class _Worker:
    """A process and what it is at."""

    process: subprocess.Popen[str]
    piece: Piece | None = None
    at: int | None = None
    is_ready: bool = False

    def send(self, order: dict[str, Any]) -> None:
        """Give it an order; if it has ended, its end is told by the queue."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass


@dataclass(eq=False)
class LocalRun:
    """Fits the pieces of a run in processes.

    Attributes:
        place: Where the run is.
        setup: How it fits.
        run_id: Its name.
        log: Told of everybody who is done.
    """

    place: RunPlace
    setup: RunSetup
    run_id: str
    log: RunLog
    piece_size: int = PIECE_SIZE
    _answers: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = field(
        default_factory=queue.Queue
    )
    _workers: list[_Worker] = field(default_factory=list)
    _todo: deque[Piece] = field(default_factory=deque)
    _left: Counter[str] = field(default_factory=Counter)
    _ends: Counter[Piece] = field(default_factory=Counter)
    _ends_at: Counter[tuple[str, int]] = field(default_factory=Counter)

    def fit(self, todo: Iterable[tuple[Shard, Sequence[Piece]]], workers: int) -> None:
        """Fit pieces and close their shards; an interrupt leaves files that a run goes on from.

        Raises:
            RuntimeError: If processes cannot work, whatever they are given.
            KeyboardInterrupt: After the processes have written what they have done.
        """
        shards: dict[str, Shard] = {}
        for shard, pieces in todo:
            shards[shard.name] = shard
            self._left[shard.name] = len(pieces)
            self._todo.extend(pieces)
            if not pieces:
                close_shard(self.place, shard, self.piece_size)
        try:
            for _ in range(min(workers, len(self._todo))):
                self._start()
            while self._left.total():
                worker, answer = self._next()
                if worker is None:
                    continue
                if answer is None:
                    self._bury(worker)
                elif "error" in answer:
                    raise RuntimeError(f"fit: a process cannot go on ({answer['error']})")
                elif "at" in answer:
                    worker.at = answer["at"]
                elif "ready" in answer:
                    worker.is_ready = True
                    self._give(worker)
                else:
                    self._take(worker, PieceCounts(**answer["done"]), shards)
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self._end()

    def _next(self) -> tuple[_Worker | None, dict[str, Any] | None]:
        try:
            return self._answers.get(timeout=_TICK_S)
        except queue.Empty:
            self.log.tick()
            return None, None

    def _take(self, worker: _Worker, counts: PieceCounts, shards: dict[str, Shard]) -> None:
        """A piece is done: count it, close its shard if it was the last, and give another."""
        piece, worker.piece, worker.at = worker.piece, None, None
        assert piece is not None
        self.log.add(counts)
        self._left[piece.shard] -= 1
        if not self._left[piece.shard]:
            close_shard(self.place, shards[piece.shard], self.piece_size)
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        if not self._todo:
            return
        worker.piece = piece = self._todo.popleft()
        rows = [
            row
            for (shard, row), ends in self._ends_at.items()
            if shard == piece.shard and ends >= _MOST_ENDS
        ]
        worker.send(
            {
                "piece": [piece.shard, piece.first, piece.end],
                "careful": self._ends[piece] > _PATIENCE,
                "poisoned": rows,
            }
        )

    def _bury(self, worker: _Worker) -> None:
        """A process has ended: what it was at is for another one."""
        self._workers.remove(worker)
        code = worker.process.wait()
        if not worker.is_ready:
            raise RuntimeError(
                f"fit: a process ended before it could begin (code {code}), perhaps for want of "
                "memory; use fewer --workers"
            )
        piece = worker.piece
        if piece is not None:
            self.log.note(f"note: a process ended (code {code}); its people are fitted again")
            self._ends[piece] += 1
            if worker.at is not None:
                self._ends_at[piece.shard, worker.at] += 1
            if self._ends[piece] > _PATIENCE + _MOST_ENDS * len(piece):
                raise RuntimeError("fit: processes end again and again; use fewer --workers")
            self._todo.appendleft(piece)
        if len(self._workers) < len(self._todo):
            self._start()

    def _start(self) -> None:
        package = str(Path(__file__).resolve().parents[3])
        paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        worker = _Worker(
            subprocess.Popen(
                [sys.executable, "-m", "eft_fast.pseudo_gt.jobs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
        )
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        folder = str(self.place.folder.absolute())
        worker.send({"folder": folder, "setup": self.setup.to_json(), "run_id": self.run_id})

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self._answers.put((worker, json.loads(line)))
        self._answers.put((worker, None))

    def _stop(self) -> None:
        """Ask processes to write what they have; each ends with the person that it is at."""
        waiting = {worker for worker in self._workers if worker.piece is not None}
        for worker in waiting:
            worker.send({"stop": True})
        while waiting:
            try:
                worker, answer = self._answers.get(timeout=_TO_STOP_S)
            except queue.Empty:
                return
            if answer is None or "error" in answer:
                waiting.discard(worker)
            elif "done" in answer:
                self.log.add(PieceCounts(**answer["done"]))
                waiting.discard(worker)

    def _end(self) -> None:
        for worker in self._workers:
            assert worker.process.stdin is not None
            try:
                worker.process.stdin.close()
            except OSError:
                pass
        for worker in self._workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
