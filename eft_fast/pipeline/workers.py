"""Fit people in processes of one thread each.

On a CPU the exact fit is bound by arithmetic, and private weights share nothing: two processes of
one thread get more out of two cores than one process with two threads. The start weights and the
crops lie in shared memory; a worker owns the memory of what it tunes, and of one person's fit.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Final

import torch
import torch.multiprocessing

from eft_fast.pipeline.fitter import Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared

#: People who wait per worker: enough to keep it busy, few enough to keep memory flat.
_QUEUED_PER_WORKER: Final = 2

_fitter: Fitter | None = None


class WorkerFitter(Fitter):
    """Spreads people over processes; the fits are those of one process with one thread.

    Args:
        make: Makes the fitter of a process; it is pickled.
        count: Processes.
        outputs: Those of the fitters that ``make`` makes.
    """

    def __init__(
        self, make: Callable[[], Fitter], *, count: int, outputs: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._make, self._count, self._outputs = make, count, outputs

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the fitters in the processes."""
        return self._outputs

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit as soon as it is done.

        Raises:
            RuntimeError: If a worker process dies.
        """
        queue = iter(people)
        pool = ProcessPoolExecutor(
            self._count,
            mp_context=torch.multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._make,),
        )
        waiting: set[Future[tuple[int, PersonFit]]] = set()
        try:
            while True:
                while len(waiting) < self._count * (1 + _QUEUED_PER_WORKER):
                    person = next(queue, None)
                    if person is None:
                        break
                    waiting.add(pool.submit(_fit_one, person))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"fit_batch: one of {self._count} workers was ended from outside, perhaps for want "
                "of memory; use fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(make: Callable[[], Fitter]) -> None:
    global _fitter
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _fitter = make()


def _fit_one(person: Prepared) -> tuple[int, PersonFit]:
    assert _fitter is not None
    ((index, fit),) = _fitter.fit([person])
    return index, fit
