"""Robust weights for another method: people are fitted by ``map`` first, and keep its weights.

Fine-tuning follows a keypoint that is far off as it follows the others. The direct fit takes
milliseconds and knows which keypoints no body can meet along with the others, and whose arms were
exchanged; that goes on to the slower fit, and nothing else of it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from jaxtyping import Float
from torch import Tensor

from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fitter import MapFitter, MapStart, given_weights, group_of, tell_keypoints
from eft_fast.map_fit.robust import exchange
from eft_fast.map_rules import ARM, limb_pairs
from eft_fast.models.base import Regressor
from eft_fast.pipeline.fitter import GIVEN, KEYPOINT_WEIGHT, Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: What is given to the other fit of ``FitResult.hypothesis``: its own start is not turned.
_HANDED_ON: Final = "arms"
#: People fitted together on a GPU; on a CPU they come one by one, and memory stays that of one.
_WIDTH: Final = 32


@dataclass(frozen=True)
class _Found:
    """What the direct fit says of the keypoints of one person."""

    weight: Float[Tensor, "1 K"]
    arms: str
    notes: tuple[str, ...]


class WeighedFitter(Fitter):
    """A fitter around a fitter, which takes each person with ``Prepared.weight_factor``.

    Whoever has no gross errors is passed on as they are, so that their fit is bitwise the same.

    Args:
        fitter: Fits the people.
        regressor: The network, untuned, whose error covariance is known.
        body: Body model on the same device.
        config: Options of the direct fit.

    Raises:
        ValueError: If the error covariance of the regressor is not known.
    """

    def __init__(
        self, fitter: Fitter, regressor: Regressor, body: Smpl, *, config: MapConfig
    ) -> None:
        self._fitter = fitter
        self._direct = MapFitter(regressor, body, config=replace(config, posterior=False))
        self._device = next(regressor.parameters()).device
        self._width = 1 if self._device.type == "cpu" else _WIDTH
        self.takes_cpu_crops = fitter.takes_cpu_crops

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the fitter, and the weights of the keypoints."""
        return {**self._fitter.outputs, KEYPOINT_WEIGHT: (GIVEN,)}

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield the fits of the fitter, and what was found about the keypoints."""
        known: dict[int, _Found] = {}
        for index, fit in self._fitter.fit(self._weigh(people, known)):
            found = known.pop(index, None)
            if found is not None:
                outputs = {**fit.outputs, KEYPOINT_WEIGHT: found.weight}
                notes = (*fit.notes, *found.notes)
                fit = replace(fit, outputs=outputs, hypothesis=found.arms, notes=notes)
            yield index, fit

    def _weigh(self, people: Iterable[Prepared], known: dict[int, _Found]) -> Iterator[Prepared]:
        """The people as the fitter takes them, in their order."""
        waiting: list[Prepared] = []
        for person in people:
            waiting.append(person)
            if len(waiting) == self._width:
                yield from self._weigh_all(waiting, known)
                waiting = []
        yield from self._weigh_all(waiting, known)

    def _weigh_all(self, people: list[Prepared], known: dict[int, _Found]) -> Iterator[Prepared]:
        """Fit those who have keypoints, each joint set by itself, and hand on what was found."""
        weighed = {person.index: person for person in people}
        labelled = [person for person in people if person.is_labelled]
        started = [self._start(person) for person in labelled]
        for group in dict.fromkeys(group_of(pair) for pair in started):
            pairs = [pair for pair in started if group_of(pair) == group]
            fits = self._direct.solve(pairs)
            finite = fits.finite.tolist()
            for row, (person, _) in enumerate(pairs):
                if not finite[row]:
                    continue
                hypothesis, notes = tell_keypoints(fits, row, person)
                arms = _HANDED_ON if _HANDED_ON in hypothesis.split("+") else ""
                weight = given_weights(fits, row, person)
                known[person.index] = _Found(weight, arms, notes)
                factor = fits.weight_factor[row]
                weighed[person.index] = _hand_on(weighed[person.index], factor, arms=bool(arms))
        yield from weighed.values()

    def _start(self, person: Prepared) -> tuple[Prepared, MapStart]:
        """The person on the device, and what the network says."""
        here = person.to(self._device)
        return here.without_crop(), self._direct.start(here)


def _hand_on(person: Prepared, factor: Float[Tensor, " K"], *, arms: bool) -> Prepared:
    """The person with factors of the weights and, perhaps, with the arms exchanged."""
    given = person.keypoints_2d if person.given is None else person.given
    if arms:
        pairs = limb_pairs(find_joint_set(person.joint_set).names, ARM)
        person = replace(person, given=exchange(given[None], pairs)[0])
    if bool((factor < 1).any()):
        # Of the crop's own device: fitters that copy people themselves take them from there.
        person = replace(person, weight_factor=factor.to(given.device).clone())
    return person
