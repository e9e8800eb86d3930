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

from eft_fast.eft.batched.adam_in_backward import AdamInBackwardNetwork, SlotOptimiser
from eft_fast.eft.batched.conv_epilogue import move_into_epilogues
from eft_fast.eft.batched.cuda_graph import EagerSteps, GraphSteps, Reader, Steps
from eft_fast.eft.batched.layers import can_stack
from eft_fast.eft.batched.slots import STATE_TYPES
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loss import EftLoss, EftTarget, resolve_tie
from eft_fast.eft.modes import make_network, share
from eft_fast.models.base import Regressor
from eft_fast.ops.slot_layers import SlotClock, has_kernels, make_adam_options
from eft_fast.pipeline.fitter import (
    FitRecords,
    Fitter,
    PersonFit,
    is_done,
    read_record,
)
from eft_fast.pipeline.prepare import Prepared

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


@dataclass
class _Seat:
    """Who sits in a slot, and the first step that is theirs."""

    index: int
    first_step: int


class GraphSlotFitter(Fitter):
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
        config = resolve_tie(config, regressor)
        network, tuned = make_network(regressor, mode, config)
        like = next(regressor.parameters()).detach()
        self._records = FitRecords(slots, config.stop_rule_of(mode), like)
        clock = SlotClock(self._records.time, self._records.active)
        adam = make_adam_options(
            config.lr_of(mode),
            config.adam_betas,
            config.adam_eps,
            config.steps_of(mode),
            like.device,
        )
        optimiser = SlotOptimiser(
            clock, adam, STATE_TYPES[config.state], arithmetic or ARITHMETIC_OF[config.precision]
        )
        self._network = AdamInBackwardNetwork(network, tuned, optimiser)
        move_into_epilogues(self._network.network)
        self._prepare = share(network)[0].prepare
        self._config, self._like, self._loss = config, like, EftLoss(regressor, body, config)
        self._keypoints = like.new_zeros(slots, 49, 3)
        #: What the network starts from, and pinholes, if people have any; made for the first one.
        self._inputs: Any = None
        self._pinholes: Tensor | None = None
        self._given: Tensor | None = None
        self._factor: Tensor | None = None
        self._joint_set = "spin49"
        self._seats: list[_Seat | None] = [None] * slots
        self._steps: Steps = EagerSteps()
        if like.device.type == "cuda":
            self._steps = GraphSteps(clock.active)
        self._reader = Reader(self._records.rows, lag)
        self._widths = sorted({each for each in BUCKETS if each < slots} | {slots})
        self._count = 0

    takes_cpu_crops = True

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit as soon as the host knows it."""
        self._empty()
        queue, exhausted = iter(people), False
        while True:
            if not exhausted:
                exhausted = self._refill(queue)
            if all(seat is None for seat in self._seats):
                self._reader.forget()
                return
            width = self._choose_width(exhausted)
            self._network.optimiser.width = width
            with self._convolutions():
                self._steps.run(self._step, width)
            self._count += 1
            self._reader.record(self._count)
            yield from self._collect()

    # ---- host ----------------------------------------------------------------------------------

    def _empty(self) -> None:
        """Forget people whom an interrupted run left behind."""
        self._seats = [None] * len(self._seats)
        self._records.active.zero_()
        self._reader.forget()

    def _refill(self, queue: Iterator[Prepared]) -> bool:
        """Put people into the empty slots; returns whether there are no more."""
        places = [place for place, seat in enumerate(self._seats) if seat is None]
        people: list[Prepared] = []
        for _ in places:
            person = next(queue, None)
            if person is None:
                break
            people.append(person)
        for place, person, inputs in zip(places, people, self._make_inputs(people), strict=False):
            self._admit(place, person, inputs)
        return len(people) < len(places)

    def _make_inputs(self, people: list[Prepared]) -> Iterator[Any]:
        """What the moving part of the network starts from, one row per person."""
        group = _PREPARED if self._like.device.type == "cuda" else 1
        for first in range(0, len(people), group):
            crops = [_send(each.crop, self._like.device) for each in people[first : first + group]]
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
        rounds = self._network.optimiser.arithmetic == "tf32"
        before = library.conv.fp32_precision, library.deterministic
        try:
            library.conv.fp32_precision, library.deterministic = "tf32" if rounds else "ieee", True
            yield
        finally:
            library.conv.fp32_precision, library.deterministic = before

    def _admit(self, place: int, person: Prepared, inputs: Any) -> None:
        self._prepare_buffers(person, inputs)
        _zip(lambda held, given: held[place].copy_(given), self._inputs, inputs)
        self._keypoints[place] = _send(person.keypoints_2d, self._like.device)
        if self._pinholes is not None and person.crop_intrinsics is not None:
            self._pinholes[place] = _send(person.crop_intrinsics, self._like.device)
        if self._given is not None and person.given is not None:
            self._given[place] = _send(person.given, self._like.device)
        if self._factor is not None:
            factor = person.weight_factor
            self._factor[place] = 1.0 if factor is None else _send(factor, self._like.device)
        self._records.admit(place, self._loss.has_target(person))
        self._seats[place] = _Seat(person.index, self._count + 1)

    def _prepare_buffers(self, person: Prepared, inputs: Any) -> None:
        slots = len(self._seats)
        if self._inputs is None:
            self._inputs = _map(lambda each: each.new_zeros(slots, *each.shape), inputs)
            if person.crop_intrinsics is not None:
                # Something that can be divided by, where nobody sits.
                eye = torch.eye(3, dtype=self._like.dtype, device=self._like.device)
                self._pinholes = eye.repeat(slots, 1, 1)
            if person.given is not None:
                self._given = self._like.new_zeros(slots, *person.given.shape)
                self._factor = self._like.new_ones(slots, len(person.given))
                self._joint_set = person.joint_set
        if (self._pinholes is None) != (person.crop_intrinsics is None):
            raise ValueError(
                "fit_batch: all people of a run have a pinhole or none has, got one that differs "
                "from the first"
            )

    def _collect(self) -> Iterator[tuple[int, PersonFit]]:
        """Everybody of whom a record that has arrived says that they are done."""
        for step, rows in self._reader.arrived():
            for place, seat in enumerate(self._seats):
                if seat is None or seat.first_step > step or not is_done(rows[place]):
                    continue
                self._seats[place] = None
                yield seat.index, self._loss.with_camera(read_record(rows[place]))

    def _choose_width(self, is_drain: bool) -> int:
        """As many slots as hold somebody; at the end people move together."""
        taken = [place for place, seat in enumerate(self._seats) if seat is not None]
        if not is_drain:
            return self._widths[-1]
        width = next(each for each in self._widths if each >= len(taken))
        free = iter([place for place in range(width) if self._seats[place] is None])
        for source in taken:
            if source >= width:
                self._move(source, next(free))
        return width

    def _move(self, source: int, target: int) -> None:
        seat = self._seats[source]
        assert seat is not None
        self._network.move(source, target)
        _map(lambda each: each[target].copy_(each[source]), self._inputs)
        self._keypoints[target] = self._keypoints[source]
        for held in (self._pinholes, self._given, self._factor):
            if held is not None:
                held[target] = held[source]
        self._records.move(source, target)
        # Records that are under way know the person in the old place.
        self._seats[target] = _Seat(seat.index, self._count + 1)
        self._seats[source] = None

    # ---- device --------------------------------------------------------------------------------

    def _step(self, width: int) -> None:
        """One step of the first ``width`` slots; nothing in here waits for the device."""
        inputs = _map(lambda each: each[:width], self._inputs)
        pinholes = None if self._pinholes is None else self._pinholes[:width]
        given = None if self._given is None else self._given[:width]
        factor = None if self._factor is None else self._factor[:width]
        target = EftTarget(self._keypoints[:width], pinholes, given, self._joint_set, factor)

        def run(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
            output = network(inputs, raw_camera=self._config.strict_reference)
            total, error = self._loss(output, target, self._records.start(output))
            self._records.update(output, total, error)
            return [total], [torch.ones_like(total)]

        self._network.step(run)
        self._records.advance(count=width)


def can_run_on_kernels(regressor: Regressor, mode: str, config: EftConfig) -> bool:
    """Whether ``GraphSlotFitter`` runs this fit on the CUDA kernels: device, build and layers."""
    like = next(regressor.parameters())
    if like.device.type != "cuda" or not has_kernels(like):
        return False
    if config.precision not in ARITHMETIC_OF:
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
