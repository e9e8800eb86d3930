"""People stream through slots on a GPU, without the host ever waiting for a step.

A step (forward, loss, stop test, backward with Adam inside) asks the device nothing, so it is
captured once per number of slots in a CUDA graph and replayed. The device itself decides who is
done: it latches that person's answer, step count and reason in a record, and leaves the slot alone
from then on. The host reads the records some steps late through pinned memory and refills the
slots. How late changes no result: a slot that is done stays as it is until somebody else is put
into it.

Without CUDA the same steps run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from eft_fast.eft.batched.adam_in_backward import FusedRegressor, SlotOptimiser
from eft_fast.eft.batched.conv_epilogue import join_layers
from eft_fast.eft.batched.cuda_graph import EagerSteps, GraphSteps, Reader, Steps
from eft_fast.eft.batched.layers import can_stack
from eft_fast.eft.batched.slots import STATE_TYPES
from eft_fast.eft.config import EftConfig
from eft_fast.eft.modes import make_network, share
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.ops.slot_layers import SlotClock, has_kernels, make_adam_options
from eft_fast.pipeline.fitter import (
    CropJob,
    PersonFit,
    is_labelled,
    loss_weights,
    output_loss,
)

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Numbers of slots for which a step is captured; beside them the number that was asked for.
BUCKETS: Final = (1, 8, 32, 64, 128, 256)
#: Steps that the host reads late.
LAG: Final = 1
#: Crops whose fixed part of the network runs together on a GPU, filled up with zeros: always as
#: many, so that nobody's numbers depend on the company.
_PREPARED: Final = 16

#: How the kernels multiply, by ``EftConfig.precision``.
ARITHMETIC_OF: Final = {"fp32": "float32", "3xtf32": "3xtf32", "tf32": "tf32"}

#: What a record says about its person, and the end of the answer in it.
_REASONS: Final = ("", "converged", "max_steps", "nan", "no_keypoints")
_SIZES: Final = (24 * 9, 10, 3)
_ANSWER: Final = sum(_SIZES) + 1  # pose, shape, camera, loss


@dataclass
class _Person:
    """Who sits in a slot, and the first step that is theirs."""

    index: int
    first_step: int


class _Records:
    """What the device latches of each slot: answer at the start, answer now, steps, reason."""

    def __init__(self, slots: int, like: Tensor) -> None:
        self.rows = like.new_zeros(slots, 2 * _ANSWER + 2)

    def first(self, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Start, now, steps and reason of the first slots; they share memory."""
        rows = self.rows[:width]
        return (
            rows[:, :_ANSWER],
            rows[:, _ANSWER : 2 * _ANSWER],
            rows[:, 2 * _ANSWER],
            rows[:, 2 * _ANSWER + 1],
        )


def _read(row: Tensor) -> PersonFit:
    """The fit of a finished slot from its record, on the CPU."""

    def answer(part: Tensor) -> tuple[RegressorOutput, Tensor]:
        pose, betas, camera, loss = part[None].split([*_SIZES, 1], 1)
        return RegressorOutput(pose.reshape(1, 24, 3, 3), betas, camera), loss[:, 0]

    start, now, steps, reason = row.clone().split([_ANSWER, _ANSWER, 1, 1])
    init, init_loss = answer(start)
    final, loss = answer(now)
    return PersonFit(final, init, loss, init_loss, int(steps), _REASONS[int(reason)])


class GraphSlotFitter:
    """Fits people in ``slots`` places at once; equal to ``SlotFitter`` up to rounding.

    Args:
        regressor: Start of every fit; it is not changed.
        body: Body model on the same device.
        config: Steps, learning rate, loss weights and stopping rule.
        mode: What is tuned.
        slots: People at once.
        lag: Steps that the host reads late. No result depends on it.
        arithmetic: How convolutions multiply in float32, one of ``slot_layers.ARITHMETIC``;
            default: by ``config.precision``.

    Raises:
        ValueError: If ``slots`` or ``lag`` make no sense, the regressor has no such mode, or a
            tuned layer has no batched form.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Smpl,
        *,
        config: EftConfig,
        mode: str,
        slots: int,
        lag: int = LAG,
        arithmetic: str | None = None,
    ) -> None:
        if slots < 1 or lag < 0:
            raise ValueError(
                f"fit_batch: slots must be at least 1 and lag not negative, got {slots} and {lag}"
            )
        network, tuned = make_network(regressor, mode, config)
        like = next(regressor.parameters()).detach()
        clock = SlotClock(
            torch.zeros(slots, dtype=torch.int32, device=like.device),
            torch.zeros(slots, dtype=torch.bool, device=like.device),
        )
        adam = make_adam_options(
            config.lr_of(mode), config.adam_betas, config.adam_eps, config.max_steps, like.device
        )
        optimiser = SlotOptimiser(
            clock, adam, STATE_TYPES[config.state], arithmetic or ARITHMETIC_OF[config.precision]
        )
        self._fused = FusedRegressor(network, tuned, optimiser)
        join_layers(self._fused.network)
        self._prepare = share(network)[0].prepare
        self._config, self._clock, self._like = config, clock, like
        self._body, self._weights = body, loss_weights(config)
        self._keypoints = like.new_zeros(slots, 49, 3)
        self._records = _Records(slots, like)
        self._labelled = torch.zeros(slots, dtype=torch.bool, device=like.device)
        #: What the network starts from, and pinholes, if people have any; made for the first one.
        self._inputs: Any = None
        self._pinholes: Tensor | None = None
        self._people: list[_Person | None] = [None] * slots
        self._steps: Steps = EagerSteps(self._step)
        if like.device.type == "cuda":
            self._steps = GraphSteps(self._step, clock.active)
        self._reader = Reader(self._records.rows, lag)
        self._widths = sorted({each for each in BUCKETS if each < slots} | {slots})
        self._count = 0

    #: Crops may stay on the CPU: they are copied while the device works.
    takes_cpu_crops: Final = True

    def fit(self, jobs: Iterable[CropJob]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's number and fit as soon as the host knows it."""
        self._empty()
        queue, exhausted = iter(jobs), False
        while True:
            if not exhausted:
                exhausted = self._refill(queue)
            if all(person is None for person in self._people):
                self._reader.forget()
                return
            width = self._choose_width(exhausted)
            self._fused.optimiser.width = width
            with self._convolutions():
                self._steps.run(width)
            self._count += 1
            self._reader.record(self._count)
            yield from self._collect()

    # ---- host ----------------------------------------------------------------------------------

    def _empty(self) -> None:
        """Forget people whom an interrupted run left behind."""
        self._people = [None] * len(self._people)
        self._clock.active.zero_()
        self._reader.forget()

    def _refill(self, queue: Iterator[CropJob]) -> bool:
        """Put people into the empty slots; returns whether there are no more."""
        places = [place for place, person in enumerate(self._people) if person is None]
        jobs: list[CropJob] = []
        for _ in places:
            job = next(queue, None)
            if job is None:
                break
            jobs.append(job)
        for place, job, inputs in zip(places, jobs, self._make_inputs(jobs), strict=False):
            self._admit(place, job, inputs)
        return len(jobs) < len(places)

    def _make_inputs(self, jobs: list[CropJob]) -> Iterator[Any]:
        """What the moving part of the network starts from, one row per person."""
        group = _PREPARED if self._like.device.type == "cuda" else 1
        for first in range(0, len(jobs), group):
            crops = [_send(job.img, self._like.device) for job in jobs[first : first + group]]
            blank = [torch.zeros_like(crops[0])] * (group - len(crops))
            with self._convolutions():
                prepared = self._prepare(torch.stack([*crops, *blank]))
            for row in range(len(crops)):
                yield _map(itemgetter(row), prepared)

    @contextmanager
    def _convolutions(self) -> Iterator[None]:
        """The library's convolutions, those with shared weights, are as exact as ours."""
        if self._like.device.type != "cuda":
            yield
            return
        library: Any = torch.backends.cudnn
        rounds = self._fused.optimiser.arithmetic == "tf32"
        before = library.conv.fp32_precision, library.deterministic
        try:
            library.conv.fp32_precision, library.deterministic = "tf32" if rounds else "ieee", True
            yield
        finally:
            library.conv.fp32_precision, library.deterministic = before

    def _admit(self, place: int, job: CropJob, inputs: Any) -> None:
        self._prepare_buffers(job, inputs)
        _zip(lambda held, given: held[place].copy_(given), self._inputs, inputs)
        self._keypoints[place] = _send(job.keypoints_2d, self._like.device)
        if self._pinholes is not None and job.intrinsics is not None:
            self._pinholes[place] = _send(job.intrinsics, self._like.device)
        self._labelled[place] = is_labelled(job.keypoints_2d)
        self._clock.time[place] = 0
        self._clock.active[place] = True
        self._people[place] = _Person(job.index, self._count + 1)

    def _prepare_buffers(self, job: CropJob, inputs: Any) -> None:
        slots = len(self._people)
        if self._inputs is None:
            self._inputs = _map(lambda each: each.new_zeros(slots, *each.shape), inputs)
            if job.intrinsics is not None:
                # Something that can be divided by, where nobody sits.
                eye = torch.eye(3, dtype=self._like.dtype, device=self._like.device)
                self._pinholes = eye.repeat(slots, 1, 1)
        if (self._pinholes is None) != (job.intrinsics is None):
            raise ValueError(
                "fit_batch: all people of a run have a pinhole or none has, got one that differs "
                "from the first"
            )

    def _collect(self) -> Iterator[tuple[int, PersonFit]]:
        """Everybody of whom a record that has arrived says that they are done."""
        for step, rows in self._reader.arrived():
            for place, person in enumerate(self._people):
                if person is None or person.first_step > step or rows[place, -1] == 0:
                    continue
                self._people[place] = None
                yield person.index, _read(rows[place])

    def _choose_width(self, is_drain: bool) -> int:
        """As many slots as hold somebody; at the end people move together."""
        taken = [place for place, person in enumerate(self._people) if person is not None]
        if not is_drain:
            return self._widths[-1]
        width = next(each for each in self._widths if each >= len(taken))
        free = iter([place for place in range(width) if self._people[place] is None])
        for source in taken:
            if source >= width:
                self._move(source, next(free))
        return width

    def _move(self, source: int, target: int) -> None:
        person = self._people[source]
        assert person is not None
        self._fused.move(source, target)
        _map(lambda each: each[target].copy_(each[source]), self._inputs)
        clock = self._clock
        held = [self._keypoints, self._labelled, clock.time, clock.active, self._records.rows]
        for tensor in held if self._pinholes is None else [*held, self._pinholes]:
            tensor[target] = tensor[source]
        self._clock.active[source] = False
        # Records that are under way know the person in the old place.
        self._people[target] = _Person(person.index, self._count + 1)
        self._people[source] = None

    # ---- device --------------------------------------------------------------------------------

    def _step(self, width: int) -> None:
        """One step of the first ``width`` slots; nothing in here waits for the device."""
        inputs = _map(lambda each: each[:width], self._inputs)
        pinholes = None if self._pinholes is None else self._pinholes[:width]

        def run(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
            output = network(inputs, raw_camera=self._config.strict_reference)
            total, error = output_loss(
                self._body, output, self._keypoints[:width], self._weights, pinholes
            )
            with torch.no_grad():
                self._latch(output, total, error, width)
            return [total], [torch.ones_like(total)]

        self._fused.step(run)
        clock = self._clock.first(width)
        clock.time.add_(clock.active)

    def _latch(self, output: RegressorOutput, total: Tensor, error: Tensor, width: int) -> None:
        """The rules of the loop: who is done and why; whoever goes on stays active."""
        clock, labelled = self._clock.first(width), self._labelled[:width]
        start, now, steps, reason = self._records.first(width)
        answer = torch.cat([*(value.flatten(1) for value in output), total[:, None]], 1)
        is_first = clock.active & (clock.time == 0)
        is_finite = answer.isfinite().all(1)
        # The last finite answer stays; without one, the first.
        keeps = is_first | (clock.active & is_finite)
        start.copy_(torch.where(is_first[:, None], answer, start))
        now.copy_(torch.where(keeps[:, None], answer, now))
        steps.copy_(torch.where(keeps, clock.time.to(steps.dtype), steps))
        code = torch.where(clock.time >= self._config.max_steps - 1, 2, 0)
        code = torch.where(error.double() < self._config.threshold, 1, code)
        code = torch.where(is_finite, code, 3)
        code = torch.where(labelled, code, 4)
        reason.copy_(torch.where(clock.active, code.to(reason.dtype), reason))
        clock.active.logical_and_(code == 0)


def can_run_on_kernels(regressor: Regressor, mode: str, config: EftConfig) -> bool:
    """Whether ``GraphSlotFitter`` runs this fit on the CUDA kernels: device, build and layers."""
    like = next(regressor.parameters())
    if like.device.type != "cuda" or not has_kernels(like):
        return False
    if mode == "subspace" or config.precision not in ARITHMETIC_OF:
        return False
    return can_stack(*make_network(regressor, mode, config))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device, while the device works."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _map(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply to a tensor, or to every tensor of a (named) tuple."""
    if isinstance(tree, Tensor):
        return function(tree)
    parts = [_map(function, each) for each in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _zip(function: Callable[[Tensor, Tensor], Any], first: Any, second: Any) -> None:
    """Apply to the tensors of two alike trees."""
    if isinstance(first, Tensor):
        function(first, second)
        return
    for a, b in zip(first, second, strict=True):
        _zip(function, a, b)
