"""People as they come: read, cropped, fitted and handed on, with the memory of those under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from eft_fast import imaging
from eft_fast.keypoints import JointSet
from eft_fast.models.base import Regressor
from eft_fast.pipeline.confidence import ConfidenceReader
from eft_fast.pipeline.fitter import CropJob, Fitter, PersonFit
from eft_fast.pipeline.prepare import Person, Pinhole, prepare_person, refused_person

Image = str | Path | npt.NDArray[np.uint8]
#: Called with the stop reason of each person.
ReasonCallback = Callable[[str], None]


@dataclass(frozen=True)
class GivenPerson:
    """One person as they were given.

    Attributes:
        image: A path, or RGB uint8 ``[H, W, 3]``.
        keypoints: ``[K, 3]``: x, y in photo pixels and confidence.
        box: x, y, width, height in photo pixels; NaN: of the keypoints.
        pinhole: Of the photo, see ``inputs.Pinhole``; None: weak camera.
        problem: What makes this person impossible to fit; None if nothing does.
    """

    image: Image
    keypoints: npt.NDArray[np.float32]
    box: npt.NDArray[np.float64]
    pinhole: Pinhole | None = None
    problem: str | None = None


class PersonStream:
    """Prepares people for a fitter and keeps what is known of each.

    Args:
        fitter: Where crops go.
        joint_set: Order of the keypoints.
        regressor: Says the side of the crops and how they are normalised.
        device: Where crops are put.
        strict: Truncate corners and keypoints to integers, as the reference does.
        on_person: Called after each person.
        confidence: Asks how sure the network is, where the fitter does not say it.

    Attributes:
        people: Everyone who was prepared, by number; without their crops.
        fits: Their fits, by number; nobody without a crop has one.
    """

    def __init__(
        self,
        fitter: Fitter,
        joint_set: JointSet,
        regressor: Regressor,
        device: torch.device,
        *,
        strict: bool,
        on_person: ReasonCallback,
        confidence: ConfidenceReader | None = None,
    ) -> None:
        self._fitter, self._joint_set, self._regressor = fitter, joint_set, regressor
        # Crops wait on the CPU for a fitter that copies them while the device works.
        self._device = torch.device("cpu") if getattr(fitter, "takes_cpu_crops", False) else device
        self._strict, self._on_person = strict, on_person
        self.people: dict[int, Person] = {}
        self.fits: dict[int, PersonFit] = {}
        self._waiting: set[int] = set()
        self._confidence = None if getattr(fitter, "gives_confidence", False) else confidence

    def run(self, given: Iterable[GivenPerson]) -> Iterator[None]:
        """Fit everybody; returns the control after each fit, in any order."""
        for index, fit in self._fitter.fit(self._jobs(given)):
            if self._confidence is not None:
                fit = replace(fit, joint_confidence=self._confidence.take(index))
            self.fits[index] = fit
            self._waiting.discard(index)
            self._on_person(fit.stop_reason)
            yield

    def in_order(self, given: Iterable[GivenPerson]) -> Iterator[tuple[Person, PersonFit | None]]:
        """Fit everybody and yield them in the order in which they came, forgetting them then."""
        following = 0
        for _ in self.run(given):
            while self._is_done(following):
                yield self.people.pop(following), self.fits.pop(following, None)
                following += 1
        while following in self.people:
            yield self.people.pop(following), self.fits.pop(following, None)
            following += 1

    def _is_done(self, index: int) -> bool:
        return index in self.people and index not in self._waiting

    def _jobs(self, given: Iterable[GivenPerson]) -> Iterator[CropJob]:
        """Read, crop and pass on one person after the other; neighbours of one photo read it once.

        The crop does not stay, so that the memory of a run does not grow with its length.
        """
        source: Image | None = None
        photo: npt.NDArray[np.uint8] | Exception | None = None
        for index, each in enumerate(given):
            if each.problem is not None:
                self.people[index] = refused_person(each.keypoints, each.problem)
                self._on_person("bad_image")
                continue
            if photo is None or not _same_source(each.image, source):
                source, photo = each.image, _read(each.image)
            person = prepare_person(
                photo,
                each.keypoints,
                each.box,
                self._joint_set,
                self._regressor.input_size,
                mean=self._regressor.img_mean,
                std=self._regressor.img_std,
                strict=self._strict,
                pinhole=each.pinhole,
            )
            self.people[index] = replace(person, img=None)
            if person.img is None:
                self._on_person("bad_image")
                continue
            self._waiting.add(index)
            img = torch.from_numpy(person.img).to(self._device)
            if self._confidence is not None:
                self._confidence.add(index, img)
            yield CropJob(
                index,
                img,
                torch.from_numpy(person.keypoints_2d).to(self._device),
                person.crop_pinhole(self._device),
            )


def _read(image: Image) -> npt.NDArray[np.uint8] | Exception:
    try:
        return imaging.load_image(image)
    except (OSError, ValueError, TypeError) as error:
        return error


def _same_source(image: Image, other: Image | None) -> bool:
    if isinstance(image, np.ndarray) or isinstance(other, np.ndarray):
        return image is other
    return image == other
