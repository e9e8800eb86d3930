"""Photos and keypoints in, fitted bodies out: the calls that most users need."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eft_fast import imaging
from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.fitting.assemble import PersonRows, assemble_result
from eft_fast.fitting.config import DEFAULT_CONFIG, EftConfig
from eft_fast.fitting.engine import make_fitter
from eft_fast.fitting.inputs import prepare_person, unread_person
from eft_fast.fitting.person import CropJob
from eft_fast.fitting.progress import PeopleProgress
from eft_fast.fitting.recipes import RECIPES, SmplifyConfig
from eft_fast.fitting.result import FitResult
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor
from eft_fast.ops import find_device

__all__ = ["fit_batch", "load_body", "load_regressor"]

#: How a person can be fitted: fine-tuning, SMPLify by the recipe of the configuration or by name,
#: or the regressor's answer as it is.
METHODS: Final = ("eft", "smplify", *RECIPES, "none")
Image = str | Path | npt.NDArray[np.uint8]


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
        mode: Which weights EFT tunes: ``"full"``, ``"layer4"`` or ``"head"``. SMPLify tunes none;
            the result's ``mode`` names its prior.
        regressor: Start of every fit; default: the open one.
        body: Body model; default: the open one. It must be the one the regressor was trained on.
        config: Options of the fit: an ``EftConfig``, or a ``SmplifyConfig`` for SMPLify.
        device: Where to compute; default: where the regressor is.
        progress: Show a progress bar; default: on a terminal.
        workers: Processes of one thread each, on the CPU only; each fits whole people.
        slots: People fitted together, each with private weights. Default: one by one on the CPU,
            where company gains nothing, and as many as the free memory holds on a GPU.

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
    method, mode, config = _choose_method(method, mode, config)
    regressor = _on_device(regressor or load_regressor(), find_device("fit_batch", device))
    where = next(regressor.parameters()).device
    body = body if body is not None else load_body(device=where)
    _check_same_body(regressor, body)
    rows = PersonRows(points_set, body, regressor.id, method, mode)
    fitter = make_fitter(
        regressor, body, method=method, mode=mode, config=config, workers=workers, slots=slots
    )
    with PeopleProgress(len(images), shown=progress) as bar:
        jobs = _jobs(rows, images, given, boxes, regressor.input_size, config, where, bar)
        try:
            for index, fit in fitter.fit(jobs):
                rows.fits[index] = fit
                bar.person(fit.stop_reason)
        except KeyboardInterrupt:
            # What is done is worth keeping; everybody else is named as not reached.
            rows.people += [unread_person(row) for row in given[len(rows.people) :]]
    return assemble_result(rows)


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


def _jobs(
    rows: PersonRows,
    images: Sequence[Image],
    keypoints: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float64],
    input_size: int,
    config: EftConfig | SmplifyConfig,
    device: torch.device,
    bar: PeopleProgress,
) -> Iterator[CropJob]:
    """Read, crop and pass on one person after the other; neighbours of one photo read it once.

    What is known of each person stays in ``rows``; the crop does not, so that the memory of a run
    does not grow with its length.
    """
    source: Image | None = None
    photo: npt.NDArray[np.uint8] | Exception | None = None
    for index, image in enumerate(images):
        if photo is None or not _same_source(image, source):
            source, photo = image, _read(image)
        person = prepare_person(
            photo,
            keypoints[index],
            boxes[index],
            rows.joint_set,
            input_size,
            strict=config.strict_reference,
        )
        rows.people.append(replace(person, img=None))
        if person.img is None:
            bar.person("bad_image")
            continue
        yield CropJob(
            index,
            torch.from_numpy(person.img).to(device),
            torch.from_numpy(person.keypoints_2d).to(device),
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
