"""How the steps of ``graph_slots`` run, and how the host learns what they found."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

#: Runs of a step before it is captured: libraries choose and allocate in the first ones.
_WARM_UPS = 2

#: A step of so many slots.
Step = Callable[[int], None]


class Steps(Protocol):
    """Runs steps.

    The step is given with every run and not kept: it belongs to a fitter that keeps this, and two
    that keep each other live on, with all their memory, until Python looks for cycles.
    """

    def run(self, step: Step, width: int) -> None:
        """Start it; on a GPU it may end later."""


class EagerSteps:
    """Runs the step as it is written."""

    def run(self, step: Step, width: int) -> None:
        """Run it."""
        step(width)


class GraphSteps:
    """Captures the step once per width and replays it.

    Args:
        active: Which slots take part. While a step is tried out none does, so nothing changes.
    """

    def __init__(self, active: Tensor) -> None:
        self._active = active
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None

    def run(self, step: Step, width: int) -> None:
        """Replay this width's graph; the step is always the same and asks the device nothing."""
        with torch.cuda.device(self._active.device):
            if width not in self._graphs:
                self._graphs[width] = self._capture(step, width)
            graph = self._graphs[width]
            if graph is None:
                step(width)
            else:
                graph.replay()

    def _capture(self, step: Step, width: int) -> torch.cuda.CUDAGraph | None:
        active = self._active.clone()
        self._active.fill_(False)
        try:
            self._warm_up(step, width)
            graph = torch.cuda.CUDAGraph()
            # Of this thread alone: with the global mode, another thread that allocates (a loader of
            # the user's) would break the capture.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step(width)
        except RuntimeError as error:
            warnings.warn(
                f"fit_batch: a step of {width} slots cannot be captured in a CUDA graph ({error}); "
                "it runs without, with the same results and slower",
                stacklevel=2,
            )
            return None
        finally:
            self._active.copy_(active)
        # Graphs run one after the other, so they may share their memory.
        self._pool = graph.pool()
        return graph

    def _warm_up(self, step: Step, width: int) -> None:
        device = self._active.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step(width)
        torch.cuda.current_stream(device).wait_stream(stream)


class Reader:
    """Gives the host the records of a step ``lag`` steps later; on the CPU by plain copies."""

    def __init__(self, rows: Tensor, lag: int) -> None:
        self._rows, self._lag = rows, lag
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()
        self._spare: list[Tensor] = []

    def record(self, step: int) -> None:
        """Copy the records as they are behind this step, without waiting."""
        if self._rows.device.type != "cuda":
            self._waiting.append((step, self._rows.clone(), None))
            return
        target = (
            self._spare.pop()
            if self._spare
            else torch.empty_like(self._rows, device="cpu", pin_memory=True)
        )
        target.copy_(self._rows, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._rows.device))
        self._waiting.append((step, target, event))

    def arrived(self) -> Iterator[tuple[int, Tensor]]:
        """Step and records, as late as was asked for; valid until the next one."""
        while len(self._waiting) > self._lag:
            step, rows, event = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            yield step, rows
            if event is not None:
                self._spare.append(rows)

    def forget(self) -> None:
        """Drop what is under way: nobody waits for it."""
        for _, rows, event in self._waiting:
            if event is not None:
                event.synchronize()
                self._spare.append(rows)
        self._waiting.clear()
