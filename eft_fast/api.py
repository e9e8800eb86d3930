"""Photos and keypoints in, fitted bodies out: the calls that most users need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor
from eft_fast.ops.ambient import in_plain_torch, plain_torch
from eft_fast.pipeline.dispatch import Config, make_run, method_of_options
from eft_fast.result import FitResult
from eft_fast.sample import Sample, check_pinholes

if TYPE_CHECKING:
    from eft_fast.sample import Photo

__all__ = ["fit_batch", "fit_stream", "load_body", "load_regressor"]


def fit_batch(
    images: Sequence[Photo],
    keypoints: npt.ArrayLike,
    *,
    bboxes: npt.ArrayLike | None = None,
    joint_set: str = "coco17",
    method: str | None = None,
    mode: str | None = None,
    regressor: Regressor | None = None,
    body: Smpl | None = None,
    config: Config | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    workers: int = 1,
    slots: int | None = None,
    intrinsics: npt.ArrayLike | float | str | None = None,
    keypoints_3d: npt.ArrayLike | None = None,
) -> FitResult:
    """Fit the body model to N people.

    Fits are batch-invariant: a person with an unreadable photo, without a labelled keypoint or with
    NaN in the numbers gets a ``stop_reason`` and a ``message``, and the others' results stay
    bitwise identical.

    Args:
        images: One whole photo per person: a path, an opened file, the bytes of one, RGB uint8
            ``[H, W, 3]``, or a torch tensor, uint8 or floats in [0, 1], also ``[3, H, W]``. A photo
            that stands several times in a row is read once.
        keypoints: ``[N, K, 3]``: x, y in photo pixels and confidence; 0 or NaN = not labelled.
        bboxes: ``[N, 4]``: x, y, width, height in photo pixels. ``None``, or a row of NaN or
            without area: the box of the labelled keypoints.
        joint_set: Name of the order of the K keypoints, see ``keypoints.JOINT_SETS``. Of whole
            bodies (``wholebody133``, ``halpe136``) face and hands are not used, and the result is
            in their ``body_set``.
        method: ``"map"``: fit the parameters directly under the covariance of the regressor's
            errors; ``"eft"``: fine-tune the regressor on each person; ``"smplify"`` or the name of
            a recipe, such as ``"smplify2016"``: under a prior that knows nothing of the photo;
            ``"none"``: the regressor alone. None: the method of ``config``; ``"eft"`` if ``mode``
            or ``slots`` are given; else ``"map"``, or ``"eft"`` with a warning where the
            regressor's error covariance is not known.
        mode: What EFT tunes: ``"full"``, all weights, the default; ``"layer3"``, ``"layer4"``,
            ``"head"``: those from there on; ``"feature"``, ``"lora"``: see
            ``eft.config.EFT_MODES``. Direct fits tune none; the result's ``mode`` names their
            prior.
        regressor: Start of every fit; default: the open one.
        body: Body model; default: the open one. It must be the one the regressor was trained on.
        config: Options of the fit: an ``EftConfig``, a ``MapConfig`` for ``"map"``, a
            ``SmplifyConfig`` for SMPLify.
        device: Where to compute; default: where the regressor is.
        progress: Show a progress bar; default: on a terminal.
        workers: Processes of one thread each, on the CPU only; each fits whole people.
        slots: Of EFT: people under way at once, each with private weights. Default: one on the CPU,
            where company gains nothing, and as many as the free memory holds on a GPU.
        intrinsics: Full perspective: the pinhole of each photo, pixels, ``[N, 3, 3]`` or one
            ``[3, 3]`` for all; one number: the focal length, pixels, of a pinhole at the middle of
            every photo; ``"diagonal"``, where nothing is known: the photo's diagonal is taken for
            it. None: the weak camera of the crop, as published.
        keypoints_3d: ``[N, K, 4]``, for ``"map"`` alone: the same points in space, triangulated
            joints for example: x, y, z in metres in the axes of the camera, about any origin, and
            confidence; 0 or NaN = not known.

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
    samples = Sample.from_arrays(
        images,
        keypoints,
        bboxes=bboxes,
        joint_set=joint_set,
        intrinsics=intrinsics,
        keypoints_3d=keypoints_3d,
    )
    if keypoints_3d is not None:
        # They are data of map alone, so that they name it.
        method = method_of_options(method, mode=mode, config=config, slots=slots)
        method = method or "map"
        if method != "map":
            raise ValueError(
                f"fit_batch: keypoints_3d are data of method 'map', got method {method!r}; leave "
                "them out, or fit by map"
            )
    with plain_torch():
        run = make_run(
            regressor,
            body,
            method=method,
            mode=mode,
            config=config,
            device=device,
            workers=workers,
            slots=slots,
        )
        order = find_joint_set(joint_set).body_set or joint_set
        return run.fit_all(samples, progress=progress, joint_set=order)


def fit_stream(
    people: Iterable[tuple[Photo, npt.ArrayLike] | tuple[Photo, npt.ArrayLike, npt.ArrayLike]],
    *,
    joint_set: str = "coco17",
    method: str | None = None,
    mode: str | None = None,
    regressor: Regressor | None = None,
    body: Smpl | None = None,
    config: Config | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    workers: int = 1,
    slots: int | None = None,
    intrinsics: npt.ArrayLike | float | str | None = None,
) -> Iterator[FitResult]:
    """Fit people as they come, as many as there are, and yield each one's fit in their order.

    The fits are bitwise those of ``fit_batch``; the memory is that of the people under way. People
    are taken from the iterable when there is room, some of them ahead of the results.

    Args:
        people: One ``(image, keypoints)`` or ``(image, keypoints, bbox)`` each: a path or RGB uint8
            ``[H, W, 3]``; ``[K, 3]``: x, y in photo pixels and confidence; x, y, width, height.
        joint_set: Name of the order of the K keypoints, see ``keypoints.JOINT_SETS``. Of whole
            bodies (``wholebody133``, ``halpe136``) face and hands are not used, and the result is
            in their ``body_set``.
        method: One of ``pipeline.dispatch.METHODS``; None: as in ``fit_batch``.
        mode: What EFT tunes, one of ``eft.config.EFT_MODES``; default: ``"full"``.
        regressor: Start of every fit; default: the open one.
        body: Body model that the regressor was trained on; default: the open one.
        config: Options of the fit: an ``EftConfig``, a ``MapConfig`` for ``"map"``, a
            ``SmplifyConfig`` for SMPLify.
        device: Where to compute; default: where the regressor is.
        progress: Show a progress bar, with the time left where ``people`` has a length; default: on
            a terminal.
        workers: Processes of one thread each, on the CPU only.
        slots: People fitted together, each with private weights; default: what the device can use.
        intrinsics: ``"diagonal"``, or one ``[3, 3]`` for all photos.

    Yields:
        One ``FitResult`` of length 1 per person. Whoever has keypoints or a box of a wrong shape
        gets ``bad_image`` and a message, as an unreadable photo does, and stops nobody.

    Raises:
        ValueError: If joint set, method or mode are unknown or do not go together.

    Example:
        >>> for index, fit in enumerate(eft_fast.fit_stream(people)):
        ...     fit.save(f"{index:06d}.npz")
    """
    points_set = find_joint_set(joint_set)
    pinhole = check_pinholes(intrinsics, 1)
    one = pinhole[0] if isinstance(pinhole, np.ndarray) else pinhole
    with plain_torch():
        run = make_run(
            regressor,
            body,
            method=method,
            mode=mode,
            config=config,
            device=device,
            workers=workers,
            slots=slots,
        )
    samples = (Sample.from_tuple(each, index, points_set, one) for index, each in enumerate(people))
    total = len(people) if isinstance(people, Sized) else None
    order = points_set.body_set or joint_set
    return in_plain_torch(run.fit_stream(samples, order, total=total, progress=progress))
