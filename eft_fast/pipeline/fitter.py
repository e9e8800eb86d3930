"""The contract of every method: people in, their fits out, and one rule for when a fit ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.conventions import NUM_BETAS, NUM_JOINTS
from eft_fast.models.base import RegressorOutput

if TYPE_CHECKING:
    from eft_fast.pipeline.prepare import Prepared

#: In shapes of ``Fitter.outputs``: as many as there are given keypoints.
GIVEN: Final = -1
#: Output of fits that weigh the given keypoints, see ``FitResult.keypoint_weight``.
KEYPOINT_WEIGHT: Final = "keypoint_weight"
#: Reasons by their code; 0 goes on.
_REASONS: Final = ("", "converged", "max_steps", "nan", "no_keypoints")
#: Numbers of an answer in a record: pose, shape and camera; the loss follows them.
_SIZES: Final = (NUM_JOINTS * 9, NUM_BETAS, 3)
_ANSWER: Final = sum(_SIZES) + 1


@dataclass(frozen=True)
class PersonFit:
    """The fit of one person; every tensor has one row.

    Attributes:
        final: Answer at the end.
        init: Answer of the regressor alone.
        loss: Loss of ``final``.
        init_loss: Loss of ``init``.
        steps: Updates behind ``final``.
        stop_reason: One of ``result.STOP_REASONS``.
        outputs: What ``Fitter.outputs`` names, as far as this person has it.
        crop_intrinsics: Pinhole that the fit assumed, as seen in the crop; None: that of the
            person, or the weak camera.
        hypothesis: As of ``FitResult``.
        notes: What the fit found wrong with the keypoints, a sentence each.
    """

    final: RegressorOutput
    init: RegressorOutput
    loss: Float[Tensor, " 1"]
    init_loss: Float[Tensor, " 1"]
    steps: int
    stop_reason: str
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    crop_intrinsics: Float[Tensor, "1 3 3"] | None = None
    hypothesis: str = ""
    notes: tuple[str, ...] = ()


class Fitter(ABC):
    """Fits people, in any order and by any method; each result depends on its person alone."""

    #: Whether crops may wait on the CPU: the fitter copies them itself while the device works.
    takes_cpu_crops: bool = False

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Further tensors per person in ``PersonFit.outputs``: name in ``FitResult``, and shape.

        ``GIVEN`` stands for the number of given keypoints.
        """
        return {}

    @abstractmethod
    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's ``index`` and fit as soon as it is done."""


def stop_codes(
    *,
    converged: Bool[Tensor, " B"],
    exhausted: Bool[Tensor, " B"],
    finite: Bool[Tensor, " B"],
    labelled: Bool[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """Which reason counts where several hold: no keypoints, then not finite, then converged."""
    code = torch.where(exhausted, 2, 0)
    code = torch.where(converged, 1, code)
    code = torch.where(finite, code, 3)
    return torch.where(labelled, code, 4)


def stop_reasons(codes: Int[Tensor, " B"]) -> list[str]:
    """The words of ``stop_codes``; empty for who goes on."""
    return [_REASONS[code] for code in codes.tolist()]


@dataclass(frozen=True)
class StopRule:
    """When a fit by repeated forward passes ends; decided before the update, as the reference does.

    Attributes:
        threshold: 2D error below which a person has converged; 0: never.
        max_steps: Forward passes at most; the last one is not followed by an update.
    """

    threshold: float
    max_steps: int

    def has_converged(self, error: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Who is near enough: nobody where the threshold is 0, nor whose error is NaN."""
        if self.threshold == 0:
            return torch.zeros_like(error, dtype=torch.bool)
        near: Tensor = error.double() < self.threshold
        return near

    def codes(
        self,
        error: Float[Tensor, " B"],
        time: Int[Tensor, " B"],
        *,
        finite: Bool[Tensor, " B"],
        labelled: Bool[Tensor, " B"],
    ) -> Int[Tensor, " B"]:
        """The code of each person after the forward pass number ``time``, from 0; 0: goes on."""
        return stop_codes(
            converged=self.has_converged(error),
            exhausted=time >= self.max_steps - 1,
            finite=finite,
            labelled=labelled,
        )


class FitRecords:
    """What is known of the people in so many places: first answer, last finite one, steps, reason.

    Everything lives on the device of the network and no method waits for it, so that a whole step
    can be captured in a CUDA graph.

    Args:
        places: People under way at once.
        rule: When each is done.
        like: Gives type and device.

    Attributes:
        rows: One record per place: start, now (each with its loss), steps, code of the reason.
        time: Forward passes before the present one.
        active: Who is still being fitted.
        labelled: Who has any keypoint that counts.
    """

    def __init__(self, places: int, rule: StopRule, like: Tensor) -> None:
        self._rule = rule
        self.rows = like.new_zeros(places, 2 * _ANSWER + 2)
        self.time = torch.zeros(places, dtype=torch.int32, device=like.device)
        self.active = torch.zeros(places, dtype=torch.bool, device=like.device)
        self.labelled = torch.zeros_like(self.active)

    def admit(self, place: int, labelled: bool) -> None:
        """Give a place to a new person."""
        self.time[place] = 0
        self.active[place] = True
        self.labelled[place] = labelled

    @torch.no_grad()
    def update(
        self,
        output: RegressorOutput,
        loss: Float[Tensor, " B"],
        error: Float[Tensor, " B"],
        first: int = 0,
    ) -> Int[Tensor, " B"]:
        """Take the answers of one forward pass; who is done is no longer active.

        Args:
            output: Answers of the places from ``first`` on.
            loss: Their losses.
            error: Their 2D errors.
            first: First place.

        Returns:
            The code of ``StopRule``; 0 for who goes on or was not active.
        """
        here = slice(first, first + len(loss))
        time, active = self.time[here], self.active[here]
        answer = torch.cat([*(value.detach().flatten(1) for value in output), loss[:, None]], 1)
        start, now, steps, reason = _parts(self.rows[here])
        is_first = active & (time == 0)
        finite = answer.isfinite().all(1)
        # The last finite answer stays; without one, the first.
        keeps = is_first | (active & finite)
        start.copy_(torch.where(is_first[:, None], answer, start))
        now.copy_(torch.where(keeps[:, None], answer, now))
        steps.copy_(torch.where(keeps, time.to(steps.dtype), steps))
        code = self._rule.codes(error, time, finite=finite, labelled=self.labelled[here])
        code = torch.where(active, code, 0)
        reason.copy_(torch.where(active, code.to(reason.dtype), reason))
        active.logical_and_(code == 0)
        return code

    @torch.no_grad()
    def start(self, output: RegressorOutput, first: int = 0) -> RegressorOutput:
        """The answers before any update; where there was none, those that have just come."""
        here = slice(first, first + len(output.pred_cam))
        is_first = (self.time[here] == 0)[:, None]
        parts = self.rows[here, : _ANSWER - 1].split(list(_SIZES), 1)
        return RegressorOutput(
            *(
                torch.where(is_first, new.detach().flatten(1), old).reshape(new.shape)
                for new, old in zip(output, parts, strict=True)
            )
        )

    def advance(self, first: int = 0, count: int = 1) -> None:
        """Count the update that followed ``update``, for who is active."""
        here = slice(first, first + count)
        self.time[here].add_(self.active[here])

    def move(self, source: int, target: int) -> None:
        """Put a person from one place into another, which nobody has."""
        for held in (self.rows, self.time, self.active, self.labelled):
            held[target] = held[source]
        self.active[source] = False

    def fit(self, place: int, outputs: Mapping[str, Tensor] | None = None) -> PersonFit:
        """The fit of a person who is done."""
        return read_record(self.rows[place], outputs)


def read_record(row: Float[Tensor, " R"], outputs: Mapping[str, Tensor] | None = None) -> PersonFit:
    """The fit of a row of ``FitRecords.rows``, or of a copy of it on the host."""
    start, now, steps, reason = row.clone().split([_ANSWER, _ANSWER, 1, 1])
    init, init_loss = _read_answer(start)
    final, loss = _read_answer(now)
    return PersonFit(
        final, init, loss, init_loss, int(steps), _REASONS[int(reason)], dict(outputs or {})
    )


def is_done(row: Float[Tensor, " R"]) -> bool:
    """Whether a record says that its person is done."""
    return bool(row[-1] != 0)


def _parts(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start, now, steps and reason; they share the memory of ``rows``."""
    start, now, steps, reason = rows.split([_ANSWER, _ANSWER, 1, 1], 1)
    return start, now, steps[:, 0], reason[:, 0]


def _read_answer(part: Tensor) -> tuple[RegressorOutput, Tensor]:
    pose, betas, camera, loss = part[None].split([*_SIZES, 1], 1)
    return RegressorOutput(pose.reshape(1, NUM_JOINTS, 3, 3), betas, camera), loss[:, 0]
