"""Fits of chunks of people, and the people that could not be fitted, to one FitResult."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.body.smpl import Smpl
from eft_fast.conventions import NUM_JOINTS
from eft_fast.keypoints import JointSet
from eft_fast.pipeline.fitter import PersonFit, collect_fits
from eft_fast.pipeline.prepare import Person
from eft_fast.result import FitResult, Prediction, SmplParams

_NAN: Final = float("nan")
_EXPLANATIONS: Final = {
    "no_keypoints": "fit_batch: no keypoint is labelled; the regressor's answer was kept",
    "nan": "fit_batch: the numbers stopped being finite; the last finite answer was kept",
    "interrupted": "fit_batch: the run was interrupted before this person was done",
}


@dataclass
class PersonRows:
    """What is known of each person, in order, and the fits by number, in any order."""

    joint_set: JointSet
    body: Smpl
    regressor_id: str
    method: str
    mode: str
    precision: str = "fp32"
    has_confidence: bool = False
    people: list[Person] = field(default_factory=list)
    fits: dict[int, PersonFit] = field(default_factory=dict)


def assemble_result(rows: PersonRows) -> FitResult:
    """Put the fitted rows at their places; people without a fit get NaN and a reason."""
    people = rows.people
    fitted = torch.tensor([index in rows.fits for index in range(len(people))], dtype=torch.bool)
    fits = collect_fits([rows.fits[index] for index in sorted(rows.fits)], like=torch.zeros(0))

    def column(values: Tensor) -> Tensor:
        out = torch.full((len(people), *values.shape[1:]), _NAN)
        out[fitted] = values.detach().cpu().float()
        return out

    def prediction(part: Prediction) -> Prediction:
        params = SmplParams(
            betas=column(part.betas),
            global_orient=column(part.global_orient),
            body_pose=column(part.body_pose),
        )
        return Prediction(params, column(part.pred_cam))

    final, init = prediction(fits.final), prediction(fits.init)
    steps = torch.zeros(len(people), dtype=torch.int64)
    steps[fitted] = fits.steps
    stop_reason = tuple(
        rows.fits[index].stop_reason if index in rows.fits else _reason_without_fit(person)
        for index, person in enumerate(people)
    )
    width = len(rows.joint_set.names)
    result = FitResult(
        params=final.params,
        pred_cam=final.pred_cam,
        init=init,
        bbox_center=_stack([person.center for person in people], (2,)),
        bbox_scale=_stack([np.asarray(person.scale) for person in people], ()),
        loss=column(fits.loss),
        init_loss=column(fits.init_loss),
        kp_error_px=torch.full((len(people),), _NAN),
        init_kp_error_px=torch.full((len(people),), _NAN),
        steps=steps,
        stop_reason=stop_reason,
        message=tuple(
            _message(person, reason) for person, reason in zip(people, stop_reason, strict=True)
        ),
        keypoints=_stack([person.keypoints_px for person in people], (width, 3)),
        intrinsics=_stack([_intrinsics(person) for person in people], (3, 3)),
        joint_set=rows.joint_set.name,
        body_id=rows.body.id,
        regressor_id=rows.regressor_id,
        method=rows.method,
        mode=rows.mode,
        precision=rows.precision,
        joint_confidence=_confidence(rows, fits.joint_confidence, column),
        _body=rows.body,
    )
    if len(people):
        result.kp_error_px.copy_(keypoint_errors(result, "final"))
        result.init_kp_error_px.copy_(keypoint_errors(result, "init"))
    return result


def _confidence(
    rows: PersonRows, said: Tensor | None, column: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """None only where no person of the run can have any, so that results of a stream agree."""
    if said is not None:
        return column(said)
    if not rows.has_confidence:
        return None
    return torch.full((len(rows.people), NUM_JOINTS), _NAN)


def keypoint_distances(result: FitResult, which: str = "final") -> Float[Tensor, "N K"]:
    """Distance of each projected to each given keypoint, photo pixels; NaN where not labelled."""
    projected = result.keypoints_2d_px(which=which)
    distance = (projected - result.keypoints[..., :2]).norm(dim=-1)
    masked: Tensor = distance.masked_fill(result.keypoints[..., 2] <= 0, _NAN)
    return masked


def keypoint_errors(result: FitResult, which: str = "final") -> Float[Tensor, " N"]:
    """Mean distance over the labelled keypoints, photo pixels; NaN without any."""
    return keypoint_distances(result, which).nanmean(dim=1)


def _stack(values: Sequence[npt.NDArray[Any]], shape: tuple[int, ...]) -> Tensor:
    if not values:
        return torch.zeros((0, *shape))
    return torch.from_numpy(np.stack(values).astype(np.float32))


def _intrinsics(person: Person) -> npt.NDArray[np.float64]:
    return np.full((3, 3), _NAN) if person.intrinsics is None else person.intrinsics


def _reason_without_fit(person: Person) -> str:
    """Unreadable, or not reached before the run was interrupted."""
    return "bad_image" if np.isnan(person.scale) and person.message else "interrupted"


def _message(person: Person, stop_reason: str) -> str:
    return person.message or _EXPLANATIONS.get(stop_reason, "")
