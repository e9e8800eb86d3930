"""Fit people in processes of one thread each.

On a CPU the exact fit is bound by arithmetic, and private weights share nothing: two processes of
one thread get more out of two cores than one process with two threads. The start weights and the
crops lie in shared memory; a worker owns the memory of what it tunes, and of one person's fit.

``ProcessPoolExecutor`` is not used: it hands what a worker needs to a process that may be dead
already, and waits for ever; its processes outlive a parent that is killed; and an interrupt waits
for all fits that were handed out.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import torch
import torch.multiprocessing

from eft_fast.pipeline.fitter import Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared

#: Bundles that are with a worker: one under way and one that waits, so that it is never idle.
_BUNDLES_PER_WORKER: Final = 2
#: By its name a process knows that it is to become one of our workers.
_NAME: Final = "eft_fast worker"
#: Exit code of a worker whose program called for workers before it was one.
_UNGUARDED: Final = 75
#: Seconds for a signal to all processes of a group to reach this one, too.
_SIGNAL_DELAY: Final = 0.3

#: Answers of a worker: it runs, its fitter is made, the fit of a person, an exception.
_STARTED, _READY, _FIT, _ERROR = range(4)


def check_workers(count: int) -> None:
    """Refuse workers where the program cannot have any, in one sentence.

    A worker runs the program's file anew, up to ``if __name__ == "__main__":``, as all processes do
    that are not forked.

    Raises:
        RuntimeError: If this process is a daemon, the program came from standard input, or this
            process is being started by a program that does not guard its main part.
        SystemExit: If that process is one of our own workers: the one that started it says why.
    """
    if count < 2:
        return
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        if process.name.startswith(_NAME):
            raise SystemExit(_UNGUARDED)
        raise RuntimeError(_need_guard(count))
    if process.daemon:
        raise RuntimeError(
            f"fit_batch: a daemonic process, such as those of multiprocessing.Pool, cannot have "
            f"workers, got workers={count}; leave them out there, or let the pool's owner call "
            "fit_batch"
        )
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is not None and getattr(main, "__spec__", None) is None and not Path(file).exists():
        raise RuntimeError(
            f"fit_batch: workers read the program's file anew, and there is no file {file}, got "
            f"workers={count}; save the program in a file, or leave workers out"
        )


def _need_guard(count: int) -> str:
    return (
        "fit_batch: workers run the program's file anew, and it calls fit_batch when it is run, "
        f'got workers={count}; put the call under if __name__ == "__main__":, or leave workers out'
    )


class WorkerFitter(Fitter):
    """Spreads people over processes; the fits are those of one process with one thread.

    Args:
        make: Makes the fitter of a process; it is pickled.
        count: Processes.
        outputs: Those of the fitters that ``make`` makes.
        bundle: People who are handed over together, for fitters that gain by company.
    """

    def __init__(
        self,
        make: Callable[[], Fitter],
        *,
        count: int,
        outputs: Mapping[str, tuple[int, ...]],
        bundle: int = 1,
    ) -> None:
        self._make, self._count, self._outputs = make, count, outputs
        self._bundle = bundle

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the fitters in the processes."""
        return self._outputs

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit as soon as it is done.

        However the caller ends, by an interrupt for example, the processes end at once.

        Raises:
            RuntimeError: If the program cannot have workers, or one of them dies.
        """
        check_workers(self._count)
        crew: list[_Worker] = []
        try:
            crew += [_Worker(number, self._count) for number in range(self._count)]
            yield from self._share_out(iter(people), crew)
        finally:
            for worker in crew:
                worker.end()

    def _share_out(
        self, queue: Iterator[Prepared], crew: list[_Worker]
    ) -> Iterator[tuple[int, PersonFit]]:
        """Give people to whoever has room, and yield the fits."""
        while True:
            # Nobody waits with one worker for another that has nothing to do yet.
            most = _BUNDLES_PER_WORKER if all(worker.is_ready for worker in crew) else 1
            for count, worker in itertools.product(range(1, most + 1), crew):
                if not worker.has_room(count):
                    continue
                if people := list(itertools.islice(queue, self._bundle)):
                    worker.take(people)
            busy = [worker for worker in crew if worker.is_busy]
            if not busy:
                return
            heard = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in heard and (fit := worker.listen(self._make)) is not None:
                    yield fit


class _Worker:
    """One process, as the parent sees it.

    Attributes:
        connection: To the process.
        is_ready: Whether its fitter is made.
    """

    def __init__(self, number: int, count: int) -> None:
        self._count = count
        context = torch.multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # A daemon ends with this program, also where nobody closes the generator of fits. What it
        # is given at the start is short: a process that dies at once would never read the rest,
        # and Python would wait for it.
        self._process = context.Process(
            target=_work, args=(theirs,), name=f"{_NAME} {number + 1}", daemon=True
        )
        self._process.start()
        theirs.close()
        self._is_started = self.is_ready = False
        #: People of each bundle that is with the process, whose fits are still to come.
        self._bundles: list[int] = []

    def has_room(self, most: int) -> bool:
        """Whether a bundle can be handed over, so that the process has at most so many."""
        return self.is_ready and len(self._bundles) < most

    @property
    def is_busy(self) -> bool:
        """Whether an answer is to be expected."""
        return not self.is_ready or bool(self._bundles)

    def take(self, people: list[Prepared]) -> None:
        """Hand people over."""
        self._send(people)
        self._bundles.append(len(people))

    def listen(self, make: Callable[[], Fitter]) -> tuple[int, PersonFit] | None:
        """Take one answer: index and fit of a person, or None for news of the process itself."""
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            raise self._failure() from None
        if kind == _ERROR:
            raise content
        if kind == _STARTED:
            self._is_started = True
            self._send(make)
        elif kind == _READY:
            self.is_ready = True
        else:
            self._bundles[0] -= 1
            if not self._bundles[0]:
                del self._bundles[0]
            index, fit = content
            return index, fit
        return None

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _send(self, content: Any) -> None:
        try:
            self.connection.send(content)
        except (BrokenPipeError, ConnectionResetError):
            raise self._failure() from None

    def _failure(self) -> RuntimeError:
        """Why a process is gone."""
        # Ctrl-C and SIGTERM often reach a whole group of processes: then that is the reason.
        time.sleep(_SIGNAL_DELAY)
        self._process.join()
        code = self._process.exitcode
        if code == _UNGUARDED:
            return RuntimeError(_need_guard(self._count))
        if not self._is_started:
            return RuntimeError(
                f"fit_batch: one of {self._count} workers ended before it was started (exit code "
                f"{code}); workers run the program's file anew: put what they should not run under "
                'if __name__ == "__main__":'
            )
        return RuntimeError(
            f"fit_batch: one of {self._count} workers was ended from outside, perhaps for want "
            "of memory; use fewer workers"
        )


def _work(connection: Connection) -> None:
    """Fit whoever comes, until the parent ends this process or ends itself."""
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        connection.send((_STARTED, None))
        fitter = _receive(connection)()
        connection.send((_READY, None))
        while True:
            for fit in fitter.fit(connection.recv()):
                connection.send((_FIT, fit))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # The parent is gone.
    except Exception as error:
        _send_error(connection, error)


def _send_error(connection: Connection, error: Exception) -> None:
    try:
        connection.send((_ERROR, error))
    except Exception:  # An exception can hold what cannot be sent.
        connection.send((_ERROR, RuntimeError(f"{type(error).__name__}: {error}")))


def _receive(connection: Connection) -> Callable[[], Fitter]:
    """What makes the fitter; a class of a notebook or of the guarded part is not known here."""
    try:
        make: Callable[[], Fitter] = connection.recv()
    except AttributeError as error:
        raise TypeError(
            f"fit_batch: a worker cannot load what it is to fit with ({error}); define it in a "
            "module, or leave workers out"
        ) from None
    return make


def _end_with_parent() -> None:
    """End this process as soon as the parent is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
