"""Fit people in processes of one thread each.

On a CPU the exact fit is bound by arithmetic, and private weights share nothing: two processes of
one thread get more out of two cores than one process with two threads. The start weights and the
crops lie in shared memory; a worker owns the memory of what it tunes, and of one person's fit.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Final

import torch
import torch.multiprocessing

from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loop import Predictor, make_loop
from eft_fast.models.base import Regressor
from eft_fast.pipeline.fitter import CropJob, Fitter, PersonFit

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Jobs that wait per worker: enough to keep it busy, few enough to keep memory flat.
_QUEUED_PER_WORKER: Final = 2

_fitter: Fitter | None = None


class WorkerFitter:
    """Spreads people over processes; the fits are those of ``LoopFitter`` with one thread.

    Args:
        regressor: Start of every fit, on the CPU.
        body: Body model on the CPU.
        method: ``eft`` or ``none``.
        mode: Which weights are tuned.
        config: Options of the fit.
        count: Processes.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Smpl,
        *,
        method: str,
        mode: str,
        config: EftConfig,
        count: int,
    ) -> None:
        self._setup = (regressor, body, method, mode, config)
        self._count = count
        #: Whether its fits say how sure the network was: those of the loop do.
        self.gives_confidence = not (mode == "subspace" or _needs_slots(mode, config))

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit as soon as it is done.

        Raises:
            RuntimeError: If a worker process dies.
        """
        queue = iter(jobs)
        pool = ProcessPoolExecutor(
            self._count,
            mp_context=torch.multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=self._setup,
        )
        waiting: set[Future[tuple[int, PersonFit]]] = set()
        try:
            while True:
                while len(waiting) < self._count * (1 + _QUEUED_PER_WORKER):
                    job = next(queue, None)
                    if job is None:
                        break
                    waiting.add(pool.submit(_fit_one, job))
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


def _start_worker(
    regressor: Regressor, body: Smpl, method: str, mode: str, config: EftConfig
) -> None:
    global _fitter
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if method == "none":
        _fitter = Predictor(regressor, body, config=config)
    elif _needs_slots(mode, config):
        _fitter = SlotFitter(regressor, body, config=config, mode=mode, slots=1)
    else:
        _fitter = make_loop(regressor, body, config=config, mode=mode)


def _needs_slots(mode: str, config: EftConfig) -> bool:
    """The loop keeps weights, not differences, and has no state in a short type."""
    return config.state != "fp32" and mode != "subspace"


def _fit_one(job: CropJob) -> tuple[int, PersonFit]:
    assert _fitter is not None
    ((index, fit),) = _fitter.fit([job])
    return index, fit
