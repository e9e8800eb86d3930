"""The direct fit in the shape of a ``Fitter``: the network one by one, the fits in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.conventions import NUM_JOINTS
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fill import (
    check_can_fill,
    finds_as_thunder,
    found_as_fill,
    landmarks_as_fill,
    movenet_as_fill,
    reorder,
)
from eft_fast.map_fit.fit import MapFits, fit_map
from eft_fast.map_rules import MIN_READ
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.keypoint_noise import find_keypoint_noise
from eft_fast.models.movenet_keypoints import shared_movenet
from eft_fast.models.open_regressor import to_landmarks
from eft_fast.pipeline.fitter import (
    GIVEN,
    KEYPOINT_WEIGHT,
    Fitter,
    PersonFit,
    stop_codes,
    stop_reasons,
)
from eft_fast.pipeline.predict import CONFIDENCE, confidence_outputs, evaluating
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Output of fits that say how sure they are, see ``FitResult.joint_sigma_mm``.
JOINT_SIGMA: Final = "joint_sigma_mm"


class MapStart(NamedTuple):
    """What the network says of one person; one row each."""

    answer: RegressorOutput
    fill: Tensor | None
    outputs: dict[str, Tensor]
    #: Whether it read the given keypoints.
    reads: bool = False


#: Sentences about keypoints, see ``PersonFit.notes``.
ARMS_NOTE: Final = "left and right of the arms look exchanged, and were fitted so"
LEGS_NOTE: Final = "left and right of the legs look exchanged; they were fitted as given"
#: Keypoints that are left less than this of their weight are named.
LITTLE_WEIGHT: Final = 0.25


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
        # A file is read once, and before anybody is fitted.
        config = replace(config, keypoint_noise=find_keypoint_noise(config.keypoint_noise))
        self._regressor, self._body, self._config = regressor, body, config
        like = next(regressor.parameters())
        covariance = load_error_covariance(regressor, config.covariance)
        self._precision = torch.from_numpy(covariance.precision()).to(like)
        self._precision_given: Tensor | None = None
        reads = config.read_keypoints and regressor.reads_keypoints is not None
        if reads and covariance.second_moment_given is not None:
            self._precision_given = torch.from_numpy(covariance.precision(given=True)).to(like)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """How sure the regressor is, and how sure the fit is."""
        own: dict[str, tuple[int, ...]] = {KEYPOINT_WEIGHT: (GIVEN,)}
        if self._config.posterior:
            own[JOINT_SIGMA] = (NUM_JOINTS,)
        return {**confidence_outputs(self._regressor), **own}

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit, a batch at a time."""
        waiting: list[tuple[Prepared, MapStart]] = []
        for person in people:
            pair = (person, self.start(person))
            if waiting and group_of(waiting[0]) != group_of(pair):
                yield from self._fit_batch(waiting)
                waiting = []
            waiting.append(pair)
            if len(waiting) == self._config.batch:
                yield from self._fit_batch(waiting)
                waiting = []
        if waiting:
            yield from self._fit_batch(waiting)

    @torch.no_grad()
    def start(self, person: Prepared) -> MapStart:
        """Ask the network: one crop at a time, since other batch sizes round differently."""
        given = self.readable(_keypoints(person), person.joint_set)
        with evaluating(self._regressor):
            features = self._regressor.features(person.crop[None])
            # Only networks that read keypoints know the argument.
            told: dict[str, Any] = {} if given is None else {"given": given}
            answer, said = self._regressor.head_with_confidence(features, **told)
        outputs = {} if said is None else {CONFIDENCE: said}
        fill = None
        if self._config.fill == "landmarks":
            fill = landmarks_as_fill(to_landmarks(features), person.joint_set)
        elif self._config.fill == "movenet" and finds_as_thunder(self._regressor):
            fill = found_as_fill(features.points, person.joint_set, self._config.fill_above)
        elif self._config.fill == "movenet":
            network = shared_movenet(person.crop.device)
            fill = movenet_as_fill(
                network,
                person.crop[None],
                self._regressor,
                person.joint_set,
                self._config.fill_above,
            )
        return MapStart(answer, fill, outputs, reads=given is not None)

    def readable(
        self, keypoints: Float[Tensor, "K 3"], joint_set: str
    ) -> Float[Tensor, "1 N 3"] | None:
        """Given keypoints in the order of the network; None: it sees the picture alone.

        Args:
            keypoints: x, y and confidence in the order of the joint set.
            joint_set: Their order.
        """
        order = self._regressor.reads_keypoints
        if self._precision_given is None or order is None:
            return None
        shown, reads = readable_keypoints(keypoints[None], joint_set, order)
        return shown if bool(reads) else None

    def solve(self, people: list[tuple[Prepared, MapStart]]) -> MapFits:
        """Fit people together who are of one group (``group_of``)."""
        precision = self._precision_given if people[0][1].reads else None
        answers = [start.answer for _, start in people]
        fills = [start.fill for _, start in people if start.fill is not None]
        keypoints = torch.stack([_keypoints(person) for person, _ in people])
        return fit_map(
            self._body,
            RegressorOutput(*(torch.cat(parts) for parts in zip(*answers, strict=True))),
            keypoints,
            self._precision if precision is None else precision,
            joint_set=people[0][0].joint_set,
            config=self._config,
            intrinsics=stack_intrinsics([person for person, _ in people]),
            keypoints_3d=_stack_points(people, keypoints),
            fill=torch.cat(fills) if fills else None,
        )

    def _fit_batch(
        self, people: list[tuple[Prepared, MapStart]]
    ) -> Iterator[tuple[int, PersonFit]]:
        yield from self.to_fits(people, self.solve(people))

    def to_fits(
        self, people: list[tuple[Prepared, MapStart]], fits: MapFits
    ) -> Iterator[tuple[int, PersonFit]]:
        """What ``solve`` found, a person at a time: index and fit."""
        codes = stop_codes(
            converged=fits.converged,
            exhausted=torch.ones_like(fits.finite),
            finite=fits.finite,
            labelled=torch.stack([(_keypoints(each)[:, 2] > 0).any() for each, _ in people]),
        )
        for row, ((person, start), reason) in enumerate(
            zip(people, stop_reasons(codes), strict=True)
        ):
            yield person.index, _person_fit(fits, row, person, start, reason)


def readable_keypoints(
    keypoints: Float[Tensor, "B K 3"], joint_set: str, order: str
) -> tuple[Float[Tensor, "B N 3"], Bool[Tensor, " B"]]:
    """What a network that reads keypoints is shown, and of whom.

    Args:
        keypoints: x, y and confidence in the order of the joint set.
        joint_set: Their order.
        order: That of the network.

    Returns:
        Keypoints, 0 where nothing is given or too little of the person (``MIN_READ``); and who has
        enough.
    """
    given = reorder(keypoints, joint_set, order)
    is_given = given.isfinite().all(-1) & (given[..., 2] > 0)
    reads = is_given.sum(1) >= MIN_READ
    return torch.where((is_given & reads[:, None])[..., None], given, 0.0), reads


def group_of(pair: tuple[Prepared, MapStart]) -> tuple[str, bool]:
    """Who can be fitted together: people of one joint set and one prior."""
    person, start = pair
    return person.joint_set, start.reads


def _stack_points(people: list[tuple[Prepared, MapStart]], keypoints: Tensor) -> Tensor | None:
    """Keypoints in space of those who have any; confidence 0 for the others."""
    given = [person.points_3d for person, _ in people]
    if all(points is None for points in given):
        return None
    nothing = keypoints.new_zeros(keypoints.shape[1], 4)
    return torch.stack([nothing if points is None else points for points in given])


def _keypoints(person: Prepared) -> Tensor:
    """The keypoints in their own joint set, or the 49 where only those are known."""
    return person.keypoints_2d if person.given is None else person.given


def tell_keypoints(fits: MapFits, row: int, person: Prepared) -> tuple[str, tuple[str, ...]]:
    """What was taken for a person: ``FitResult.hypothesis``, and sentences about the keypoints."""
    taken = {"turned": fits.turned, "flipped": fits.flipped, "arms": fits.swapped_arms}
    hypothesis = "+".join(name for name, column in taken.items() if bool(column[row]))
    notes = [ARMS_NOTE] if bool(fits.swapped_arms[row]) else []
    notes += [LEGS_NOTE] if bool(fits.swapped_legs[row]) else []
    given = _keypoints(person)[:, 2] > 0
    little = ((fits.weight_factor[row] < LITTLE_WEIGHT) & given).nonzero()[:, 0].tolist()
    if little:
        names = find_joint_set(person.joint_set).names
        notes.append(
            f"{len(little)} of {int(given.sum())} keypoints lie far from any body that fits the "
            f"others and count little: {', '.join(names[place] for place in little)}"
        )
    return hypothesis, tuple(notes)


def given_weights(fits: MapFits, row: int, person: Prepared) -> Float[Tensor, "1 K"]:
    """What the robust weights left of each given keypoint; NaN for those that are not given."""
    given = _keypoints(person)[:, 2] > 0
    return torch.where(given, fits.weight_factor[row], torch.nan)[None]


def _person_fit(
    fits: MapFits, row: int, person: Prepared, start: MapStart, reason: str
) -> PersonFit:
    """One row of a batch; without keypoints, or without a finite start, the answer stays."""
    one = slice(row, row + 1)
    final, energy, steps = start.answer, fits.init_energy, 0
    outputs = dict(start.outputs)
    hypothesis, notes = "", tuple[str, ...]()
    if reason not in ("no_keypoints", "nan"):
        final = RegressorOutput(*(part[one].clone() for part in fits.final))
        energy, steps = fits.energy, int(fits.steps[row])
        outputs[KEYPOINT_WEIGHT] = given_weights(fits, row, person)
        hypothesis, notes = tell_keypoints(fits, row, person)
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
        hypothesis,
        notes,
    )
