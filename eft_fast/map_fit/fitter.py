"""The direct fit in the shape of a ``Fitter``: the network one by one, the fits in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from eft_fast.conventions import NUM_JOINTS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fill import check_can_fill, landmarks_as_fill
from eft_fast.map_fit.fit import MapFits, fit_map
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.open_regressor import to_landmarks
from eft_fast.pipeline.fitter import Fitter, PersonFit, stop_codes, stop_reasons
from eft_fast.pipeline.predict import CONFIDENCE, confidence_outputs, evaluating
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Output of fits that say how sure they are, see ``FitResult.joint_sigma_mm``.
JOINT_SIGMA: Final = "joint_sigma_mm"


class _Start(NamedTuple):
    """What the network says of one person; one row each."""

    answer: RegressorOutput
    fill: Tensor | None
    outputs: dict[str, Tensor]


class MapFitter(Fitter):
    """Fits people in batches, each from the network's answer.

    Args:
        regressor: Its answers start the fits; it is not changed.
        body: Body model on the same device.
        config: Options.

    Raises:
        FileNotFoundError: If ``config.covariance`` is no file.
        ValueError: If the error covariance of the regressor is not known, or it has no landmarks
            to fill with.
    """

    def __init__(self, regressor: Regressor, body: Smpl, *, config: MapConfig) -> None:
        check_can_fill(regressor, config.fill)
        self._regressor, self._body, self._config = regressor, body, config
        like = next(regressor.parameters())
        covariance = load_error_covariance(regressor, config.covariance)
        self._precision = torch.from_numpy(covariance.precision()).to(like)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """How sure the regressor is, and how sure the fit is."""
        own = {JOINT_SIGMA: (NUM_JOINTS,)} if self._config.posterior else {}
        return {**confidence_outputs(self._regressor), **own}

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit, a batch at a time."""
        waiting: list[tuple[Prepared, _Start]] = []
        for person in people:
            if waiting and waiting[0][0].joint_set != person.joint_set:
                yield from self._fit_batch(waiting)
                waiting = []
            waiting.append((person, self._start(person)))
            if len(waiting) == self._config.batch:
                yield from self._fit_batch(waiting)
                waiting = []
        if waiting:
            yield from self._fit_batch(waiting)

    @torch.no_grad()
    def _start(self, person: Prepared) -> _Start:
        """Ask the network: one crop at a time, since other batch sizes round differently."""
        with evaluating(self._regressor):
            features = self._regressor.features(person.crop[None])
            answer, said = self._regressor.head_with_confidence(features)
        outputs = {} if said is None else {CONFIDENCE: said}
        fill = None
        if self._config.fill == "landmarks":
            fill = landmarks_as_fill(to_landmarks(features), person.joint_set)
        return _Start(answer, fill, outputs)

    def _fit_batch(self, people: list[tuple[Prepared, _Start]]) -> Iterator[tuple[int, PersonFit]]:
        answers = [start.answer for _, start in people]
        fills = [start.fill for _, start in people if start.fill is not None]
        keypoints = torch.stack([_keypoints(person) for person, _ in people])
        fits = fit_map(
            self._body,
            RegressorOutput(*(torch.cat(parts) for parts in zip(*answers, strict=True))),
            keypoints,
            self._precision,
            joint_set=people[0][0].joint_set,
            config=self._config,
            intrinsics=stack_intrinsics([person for person, _ in people]),
            keypoints_3d=_stack_points(people, keypoints),
            fill=torch.cat(fills) if fills else None,
        )
        codes = stop_codes(
            converged=fits.converged,
            exhausted=torch.ones_like(fits.finite),
            finite=fits.finite,
            labelled=(keypoints[..., 2] > 0).any(1),
        )
        for row, ((person, start), reason) in enumerate(
            zip(people, stop_reasons(codes), strict=True)
        ):
            yield person.index, _person_fit(fits, row, start, reason)


def _stack_points(people: list[tuple[Prepared, _Start]], keypoints: Tensor) -> Tensor | None:
    """Keypoints in space of those who have any; confidence 0 for the others."""
    given = [person.points_3d for person, _ in people]
    if all(points is None for points in given):
        return None
    nothing = keypoints.new_zeros(keypoints.shape[1], 4)
    return torch.stack([nothing if points is None else points for points in given])


def _keypoints(person: Prepared) -> Tensor:
    """The keypoints in their own joint set, or the 49 where only those are known."""
    return person.keypoints_2d if person.given is None else person.given


def _person_fit(fits: MapFits, row: int, start: _Start, reason: str) -> PersonFit:
    """One row of a batch; without keypoints, or without a finite start, the answer stays."""
    one = slice(row, row + 1)
    final, energy, steps = start.answer, fits.init_energy, 0
    if reason not in ("no_keypoints", "nan"):
        final = RegressorOutput(*(part[one].clone() for part in fits.final))
        energy, steps = fits.energy, int(fits.steps[row])
    outputs = dict(start.outputs)
    if fits.joint_sigma_mm is not None:
        outputs[JOINT_SIGMA] = fits.joint_sigma_mm[one].clone()
    return PersonFit(
        final,
        start.answer,
        energy[one].clone(),
        fits.init_energy[one].clone(),
        steps,
        reason,
        outputs,
        None if fits.intrinsics is None else fits.intrinsics[one].clone(),
    )
