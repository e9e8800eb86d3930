"""Photos and keypoints in, fitted bodies out: the calls that most users need."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.eft.config import DEFAULT_CONFIG, EftConfig
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor
from eft_fast.ops import find_device
from eft_fast.pipeline.assemble import PersonRows, assemble_result
from eft_fast.pipeline.confidence import ConfidenceReader
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.fitter import Fitter
from eft_fast.pipeline.prepare import Pinhole, check_pinholes, unread_person
from eft_fast.pipeline.progress import PeopleProgress
from eft_fast.pipeline.run import GivenPerson, Image, PersonStream, ReasonCallback
from eft_fast.result import FitResult
from eft_fast.smplify.config import RECIPES, SmplifyConfig

__all__ = ["fit_batch", "fit_stream", "load_body", "load_regressor"]

#: How a person can be fitted: fine-tuning, SMPLify by the recipe of the configuration or by name,
#: or the regressor's answer as it is.
METHODS: Final = ("eft", "smplify", *RECIPES, "none")


def fit_batch(
    images: Sequence[Image],
    keypoints: npt.ArrayLike,
    *,
    bboxes: npt.ArrayLike | None = None,
    joint_set: str = "coco17",
    method: str = "eft",
    mode: str = "full",
    regressor: Regressor | None = None,
    body: Smpl | None = None,
    config: EftConfig | SmplifyConfig | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    workers: int = 1,
    slots: int | None = None,
    intrinsics: npt.ArrayLike | float | str | None = None,
) -> FitResult:
    """Fit the body model to N people.

    Nobody's fit depends on anybody else's. A person with an unreadable photo, without a labelled
    keypoint or with NaN in the numbers gets a ``stop_reason`` and a ``message``; the others'
    numbers keep every bit.

    Args:
        images: One whole photo per person: a path, or RGB uint8 ``[H, W, 3]``. A photo that
            stands several times in a row is read once.
        keypoints: ``[N, K, 3]``: x, y in photo pixels and confidence; 0 or NaN = not labelled.
        bboxes: ``[N, 4]``: x, y, width, height in photo pixels. ``None``, or a row of NaN or
            without area: the box of the labelled keypoints.
        joint_set: Name of the order of the K keypoints, see ``keypoints.JOINT_SETS``.
        method: ``"eft"``: fine-tune the regressor on each person; ``"smplify"`` or the name of a
            recipe, such as ``"smplify2016"``: fit the parameters directly; ``"none"``: the
            regressor alone.
        mode: What EFT tunes: ``"full"``, all weights; ``"layer3"``, ``"layer4"``, ``"head"``: those
            from there on; ``"feature"``, ``"lora"``, ``"subspace"``: other, cheaper methods, see
            ``eft.config.EFT_MODES``. Never another one than asked for. SMPLify tunes none; the
            result's ``mode`` names its prior.
        regressor: Start of every fit; default: the open one.
        body: Body model; default: the open one. It must be the one the regressor was trained on.
        config: Options of the fit: an ``EftConfig``, or a ``SmplifyConfig`` for SMPLify.
        device: Where to compute; default: where the regressor is.
        progress: Show a progress bar; default: on a terminal.
        workers: Processes of one thread each, on the CPU only; each fits whole people.
        slots: People fitted together, each with private weights. Default: one by one on the CPU,
            where company gains nothing, and as many as the free memory holds on a GPU.
        intrinsics: Full perspective: the pinhole of each photo, pixels, ``[N, 3, 3]`` or one
            ``[3, 3]`` for all; one number: the focal length, pixels, of a pinhole at the middle of
            every photo; ``"diagonal"``, where nothing is known: the photo's diagonal is taken for
            it. None: the weak camera of the
            crop, as published.

    Returns:
        Parameters, cameras, errors and stop reasons in the order of ``images``.

    Raises:
        ValueError: If the arguments as a whole make no sense: unknown joint set, method or mode,
            lengths that disagree, keypoints of the wrong shape.

    Example:
        >>> result = eft_fast.fit_batch(["skater.jpg"], keypoints, bboxes=boxes)
        >>> result.kp_error_px
        tensor([4.1])
    """
    points_set = find_joint_set(joint_set)
    given, boxes = _check_people(images, keypoints, bboxes, points_set)
    pinholes = check_pinholes(intrinsics, len(images))
    setup = _prepare(points_set, method, mode, config, regressor, body, device, workers, slots)
    people = (
        GivenPerson(image, row, box, None if pinholes is None else _row_of(pinholes, index))
        for index, (image, row, box) in enumerate(zip(images, given, boxes, strict=True))
    )
    with PeopleProgress(len(images), shown=progress) as bar:
        stream = setup.stream(bar.person)
        try:
            for _ in stream.run(people):
                pass
        except KeyboardInterrupt:
            # What is done is worth keeping; everybody else is named as not reached.
            for index in range(len(images)):
                stream.people.setdefault(index, unread_person(given[index]))
    ordered = [stream.people[index] for index in range(len(images))]
    return assemble_result(replace(setup.rows, people=ordered, fits=stream.fits))


def fit_stream(
    people: Iterable[tuple[Image, npt.ArrayLike] | tuple[Image, npt.ArrayLike, npt.ArrayLike]],
    *,
    joint_set: str = "coco17",
    method: str = "eft",
    mode: str = "full",
    regressor: Regressor | None = None,
    body: Smpl | None = None,
    config: EftConfig | SmplifyConfig | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    workers: int = 1,
    slots: int | None = None,
    intrinsics: npt.ArrayLike | float | str | None = None,
) -> Iterator[FitResult]:
    """Fit people as they come, as many as there are, and yield each one's fit in their order.

    The fits are those of ``fit_batch``; the memory is that of the people under way. People are
    taken from the iterable when there is room, some of them ahead of the results.

    Args:
        people: One ``(image, keypoints)`` or ``(image, keypoints, bbox)`` each: a path or RGB uint8
            ``[H, W, 3]``; ``[K, 3]``: x, y in photo pixels and confidence; x, y, width, height.
        joint_set: As of ``fit_batch``.
        method: As of ``fit_batch``.
        mode: As of ``fit_batch``.
        regressor: As of ``fit_batch``.
        body: As of ``fit_batch``.
        config: As of ``fit_batch``.
        device: As of ``fit_batch``.
        progress: As of ``fit_batch``; the time that is left is known where ``people`` has a length.
        workers: As of ``fit_batch``.
        slots: As of ``fit_batch``.
        intrinsics: ``"diagonal"``, or one ``[3, 3]`` for all photos.

    Yields:
        One ``FitResult`` of length 1 per person. Whoever has keypoints or a box of a wrong shape
        gets ``bad_image`` and a message, as an unreadable photo does, and stops nobody.

    Raises:
        ValueError: If joint set, method or mode are unknown or do not go together.

    Example:
        >>> for index, fit in enumerate(eft_fast.fit_stream(people, mode="head")):
        ...     fit.save(f"{index:06d}.npz")
    """
    points_set = find_joint_set(joint_set)
    pinholes = check_pinholes(intrinsics, 1)
    pinhole = None if pinholes is None else _row_of(pinholes, 0)
    setup = _prepare(points_set, method, mode, config, regressor, body, device, workers, slots)
    given = (_given_person(each, points_set, pinhole) for each in people)
    return _stream(setup, given, progress, len(people) if isinstance(people, Sized) else None)


def _stream(
    setup: _Setup, given: Iterator[GivenPerson], progress: bool | None, total: int | None
) -> Iterator[FitResult]:
    with PeopleProgress(total, shown=progress) as bar:
        for person, fit in setup.stream(bar.person).in_order(given):
            fits = {} if fit is None else {0: fit}
            yield assemble_result(replace(setup.rows, people=[person], fits=fits))


@dataclass(frozen=True)
class _Setup:
    """What a run needs besides the people."""

    rows: PersonRows
    fitter: Fitter
    device: torch.device
    strict: bool
    regressor: Regressor

    def stream(self, on_person: ReasonCallback) -> PersonStream:
        return PersonStream(
            self.fitter,
            self.rows.joint_set,
            self.regressor,
            self.device,
            strict=self.strict,
            on_person=on_person,
            confidence=ConfidenceReader(self.regressor) if self.rows.has_confidence else None,
        )


def _prepare(
    points_set: JointSet,
    method: str,
    mode: str,
    config: EftConfig | SmplifyConfig | None,
    regressor: Regressor | None,
    body: Smpl | None,
    device: str | torch.device | None,
    workers: int,
    slots: int | None,
) -> _Setup:
    """Load what was not given and choose the fitter."""
    method, mode, config = _choose_method(method, mode, config)
    regressor = _on_device(regressor or load_regressor(), find_device("fit_batch", device))
    where = next(regressor.parameters()).device
    body = body if body is not None else load_body(device=where)
    _check_same_body(regressor, body)
    fitter = make_fitter(
        regressor, body, method=method, mode=mode, config=config, workers=workers, slots=slots
    )
    precision = config.arithmetic if isinstance(config, EftConfig) and method == "eft" else "fp32"
    sure = regressor.has_confidence
    rows = PersonRows(points_set, body, regressor.id, method, mode, precision, sure)
    strict = config.strict_reference
    return _Setup(rows, fitter, where, strict, regressor)


def _given_person(
    given: tuple[Any, ...], points_set: JointSet, pinhole: Pinhole | None
) -> GivenPerson:
    """One element of a stream; what is wrong with it becomes this person's problem alone."""
    width = len(points_set.names)
    nothing = np.zeros((width, 3), np.float32)
    no_box = np.full(4, np.nan)
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        problem = "fit_stream: a person must be (image, keypoints) or (image, keypoints, bbox)"
        return GivenPerson("", nothing, no_box, problem=problem)
    try:
        keypoints = _as_array(given[1], "keypoints").astype(np.float32)
        box = _as_array(given[2], "bbox") if len(given) == 3 and given[2] is not None else no_box
        if keypoints.shape != (width, 3):
            raise ValueError(
                f"fit_stream: keypoints must be [{width}, 3] for joint set {points_set.name}, "
                f"got {list(keypoints.shape)}"
            )
        if box.shape != (4,):
            raise ValueError(f"fit_stream: bbox must be x, y, width, height, got {box.tolist()}")
    except ValueError as error:
        return GivenPerson(given[0], nothing, no_box, problem=str(error))
    return GivenPerson(given[0], keypoints, box, pinhole)


def _row_of(pinholes: Pinhole, index: int) -> Pinhole:
    return pinholes[index] if isinstance(pinholes, np.ndarray) else pinholes


def _choose_method(
    method: str, mode: str, config: EftConfig | SmplifyConfig | None
) -> tuple[str, str, EftConfig | SmplifyConfig]:
    """Method, mode and configuration as they are reported: recipe and prior go by their names."""
    if method not in METHODS:
        raise ValueError(f"fit_batch: method must be one of {', '.join(METHODS)}, got {method!r}")
    if not method.startswith("smplify"):
        config = config or DEFAULT_CONFIG
        if not isinstance(config, EftConfig):
            raise TypeError(
                f"fit_batch: method {method} takes an EftConfig, got {type(config).__name__}"
            )
        return method, mode, config
    config = config or SmplifyConfig()
    if not isinstance(config, SmplifyConfig):
        raise TypeError(
            f"fit_batch: method {method} takes a SmplifyConfig, got {type(config).__name__}"
        )
    if mode != "full":
        raise ValueError(
            f"fit_batch: method {method} tunes no weights, got mode {mode!r}; "
            "choose the prior with SmplifyConfig(prior=...)"
        )
    if method != "smplify":
        config = replace(config, recipe=method)
    return config.recipe, config.prior, config


def _check_people(
    images: Sequence[Image],
    keypoints: npt.ArrayLike,
    bboxes: npt.ArrayLike | None,
    points_set: JointSet,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    if isinstance(images, str | Path):
        raise TypeError(
            "fit_batch: images must be a sequence with one photo per person, got a single path; "
            "put it into a list"
        )
    count, width = len(images), len(points_set.names)
    given = _as_array(keypoints, "keypoints")
    if count == 0 and given.size == 0:
        given = given.reshape(0, width, 3)
    if given.shape != (count, width, 3):
        raise ValueError(
            f"fit_batch: keypoints must be [{count}, {width}, 3] for {count} photos and joint set "
            f"{points_set.name}, got {list(given.shape)}"
        )
    if bboxes is None:
        return given.astype(np.float32), np.full((count, 4), np.nan)
    boxes = _as_array(bboxes, "bboxes")
    if count == 0 and boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (count, 4):
        raise ValueError(
            f"fit_batch: bboxes must be [{count}, 4] (x, y, width, height), got {list(boxes.shape)}"
        )
    return given.astype(np.float32), boxes


def _as_array(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"fit_batch: {name} must be an array of numbers ({error})") from error


def _on_device(regressor: Regressor, device: torch.device | None) -> Regressor:
    """The regressor on ``device``; the caller's own module stays where it is."""
    if device is None or next(regressor.parameters()).device == device:
        return regressor
    return copy.deepcopy(regressor).to(device)


def _check_same_body(regressor: Regressor, body: Smpl) -> None:
    trained_on = regressor.body_id
    if trained_on != body.id.split(":")[0] and not (
        trained_on == "smpl" and body.id.startswith("smpl")
    ):
        raise ValueError(
            f"fit_batch: regressor {regressor.id} predicts body {trained_on}, got body {body.id}; "
            "their betas and joints differ, so load a pair that belongs together"
        )
