"""A run: people are read, cropped, fitted and collected, with the memory of those under way."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from eft_fast import imaging
from eft_fast.models.base import Regressor
from eft_fast.pipeline.fitter import Fitter, PersonFit
from eft_fast.pipeline.prepare import Prepared, prepare_person, without_photo
from eft_fast.pipeline.progress import PeopleProgress
from eft_fast.plausible import FLAGS_NOTE, to_confidence
from eft_fast.result import FitResult
from eft_fast.sample import Image, Sample

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_LOG = logging.getLogger(__name__)

#: A person of a run, and the fit if there is one.
Outcome = tuple[Prepared, PersonFit | None]


@dataclass(frozen=True)
class Run:
    """Everything of a run but the people; ``dispatch.make_run`` makes it.

    Attributes:
        fitter: Fits the people.
        body: Body model of the fits.
        regressor: Whose answers the fits start from.
        method: As of ``FitResult``.
        mode: As of ``FitResult``.
        precision: As of ``FitResult``.
        strict: Truncate corners and keypoints to integers, as the reference does.
    """

    fitter: Fitter
    body: Smpl
    regressor: Regressor
    method: str
    mode: str
    precision: str = "fp32"
    strict: bool = False

    def fit_all(
        self,
        samples: Sequence[Sample],
        *,
        joint_set: str = "coco17",
        progress: bool | None = None,
    ) -> FitResult:
        """Fit people and put them into one result; an interrupt keeps what is done.

        Args:
            samples: The people, all of ``joint_set``.
            joint_set: Order of their keypoints.
            progress: Show a progress bar; default: on a terminal.
        """
        done: dict[int, Outcome] = {}
        with PeopleProgress(len(samples), shown=progress) as bar:
            try:
                for person, fit in self.fit(samples):
                    done[person.index] = person, fit
                    bar.person(_reason(person, fit))
            except KeyboardInterrupt:
                # Who was not reached is named as such; the others keep their fits.
                pass
        for index, sample in enumerate(samples):
            if index not in done:
                done[index] = without_photo(sample, index=index), None
        return self.result([done[index] for index in range(len(samples))], joint_set)

    def fit_stream(
        self,
        samples: Iterable[Sample],
        joint_set: str,
        *,
        total: int | None = None,
        progress: bool | None = None,
    ) -> Iterator[FitResult]:
        """Fit people as they come and yield each one's result in their order.

        Args:
            samples: The people, all of ``joint_set``.
            joint_set: Order of their keypoints.
            total: How many there are, if that is known, for the progress bar.
            progress: Show a progress bar; default: on a terminal.
        """
        waiting: dict[int, Outcome] = {}
        following = 0
        with PeopleProgress(total, shown=progress) as bar:
            for person, fit in self.fit(samples):
                bar.person(_reason(person, fit))
                waiting[person.index] = person, fit
                while following in waiting:
                    yield self.result([waiting.pop(following)], joint_set)
                    following += 1

    def fit(self, samples: Iterable[Sample]) -> Iterator[Outcome]:
        """Yield each person as soon as the fit is done, in any order; without the crop."""
        under_way: dict[int, Prepared] = {}
        refused: list[Prepared] = []
        for index, fit in self.fitter.fit(self._enter(samples, under_way, refused)):
            while refused:
                yield refused.pop(0), None
            yield under_way.pop(index), fit
        for person in refused:
            yield person, None

    def result(self, outcomes: Sequence[Outcome], joint_set: str) -> FitResult:
        """The result of people in this order."""
        return FitResult.from_people(
            [person for person, _ in outcomes],
            [fit for _, fit in outcomes],
            outputs=self.fitter.outputs,
            joint_set=joint_set,
            body=self.body,
            regressor_id=self.regressor.full_id,
            method=self.method,
            mode=self.mode,
            precision=self.precision,
        )

    def _enter(
        self,
        samples: Iterable[Sample],
        under_way: dict[int, Prepared],
        refused: list[Prepared],
    ) -> Iterator[Prepared]:
        """Read, crop and pass on one person after the other; neighbours of one photo read it once.

        The crop does not stay, so that the memory of a run does not grow with its length.
        """
        device = next(self.regressor.parameters()).device
        if self.fitter.takes_cpu_crops:
            device = torch.device("cpu")
        is_told = self.strict
        source: Image | None = None
        photo: npt.NDArray[np.uint8] | Exception | None = None
        for index, sample in enumerate(samples):
            if sample.problem is None and (photo is None or not _same_source(sample.image, source)):
                source, photo = sample.image, _read(sample.image)
            if not is_told and to_confidence(np.asarray(sample.keypoints_2d_px)[:, 2])[1]:
                _LOG.warning("fit_batch: %s", FLAGS_NOTE)
                is_told = True
            person = prepare_person(
                sample,
                ValueError("not read") if photo is None else photo,
                self.regressor,
                index=index,
                strict=self.strict,
            )
            if person.img is None:
                refused.append(person)
                continue
            under_way[index] = person.without_crop()
            yield person.to(device)


def _reason(person: Prepared, fit: PersonFit | None) -> str:
    return person.reason_without_fit if fit is None else fit.stop_reason


def _read(image: Image | None) -> npt.NDArray[np.uint8] | Exception:
    try:
        if image is None:
            raise ValueError("fit_batch: the person has no photo")
        return imaging.load_image(image)
    except (OSError, ValueError, TypeError) as error:
        return error


def _same_source(image: Image | None, other: Image | None) -> bool:
    if isinstance(image, np.ndarray) or isinstance(other, np.ndarray):
        return image is other
    return image == other
