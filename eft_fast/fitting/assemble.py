"""Fits of chunks of people, and the people that could not be fitted, to one FitResult."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.body.smpl import Smpl
from eft_fast.fitting.eft import CropFits
from eft_fast.fitting.inputs import Person
from eft_fast.fitting.result import FitResult, Prediction, SmplParams
from eft_fast.keypoints import JointSet

_NAN = float("nan")


@dataclass
class PersonRows:
    """What is known of each person, in order; filled chunk by chunk."""

    joint_set: JointSet
    given: npt.NDArray[np.float32]
    body: Smpl
    regressor_id: str
    method: str
    mode: str
    people: list[Person] = field(default_factory=list)
    fits: list[CropFits] = field(default_factory=list)

    def add(self, people: list[Person], fits: CropFits | None) -> None:
        """Append a chunk; ``fits`` has one row per person with an image."""
        self.people += people
        if fits is not None:
            self.fits.append(fits)


def assemble_result(rows: PersonRows) -> FitResult:
    """Put the fitted rows at their places; the other people get NaN and ``bad_image``."""
    people = rows.people
    fitted = torch.tensor([person.img is not None for person in people], dtype=torch.bool)

    def column(values: list[Tensor], shape: tuple[int, ...] = ()) -> Tensor:
        out = torch.full((len(people), *shape), _NAN)
        if values:
            out[fitted] = torch.cat(values).detach().cpu().float()
        return out

    def prediction(which: str) -> Prediction:
        parts: list[Prediction] = [getattr(fit, which) for fit in rows.fits]
        return Prediction(
            SmplParams(
                betas=column([part.betas for part in parts], (10,)),
                global_orient=column([part.global_orient for part in parts], (1, 3, 3)),
                body_pose=column([part.body_pose for part in parts], (23, 3, 3)),
            ),
            column([part.pred_cam for part in parts], (3,)),
        )

    final, init = prediction("final"), prediction("init")
    steps = torch.zeros(len(people), dtype=torch.int64)
    if rows.fits:
        steps[fitted] = torch.cat([fit.steps for fit in rows.fits])
    reasons = iter([reason for fit in rows.fits for reason in fit.stop_reason])
    stop_reason = tuple(next(reasons) if ok else "bad_image" for ok in fitted.tolist())
    width = len(rows.joint_set.names)
    result = FitResult(
        params=final.params,
        pred_cam=final.pred_cam,
        init=init,
        bbox_center=_stack([person.center for person in people], (2,)),
        bbox_scale=_stack([np.asarray(person.scale) for person in people], ()),
        loss=column([fit.loss for fit in rows.fits]),
        init_loss=column([fit.init_loss for fit in rows.fits]),
        kp_error_px=torch.full((len(people),), _NAN),
        init_kp_error_px=torch.full((len(people),), _NAN),
        steps=steps,
        stop_reason=stop_reason,
        message=tuple(_message(person, reason) for person, reason in zip(people, stop_reason)),
        keypoints=_stack([person.keypoints_px for person in people], (width, 3)),
        joint_set=rows.joint_set.name,
        body_id=rows.body.id,
        regressor_id=rows.regressor_id,
        method=rows.method,
        mode=rows.mode,
        _body=rows.body,
    )
    if len(people):
        result.kp_error_px.copy_(keypoint_errors(result, "final"))
        result.init_kp_error_px.copy_(keypoint_errors(result, "init"))
    return result


def keypoint_distances(result: FitResult, which: str = "final") -> Float[Tensor, "N K"]:
    """Distance of each projected to each given keypoint, photo pixels; NaN where not labelled."""
    projected = result.keypoints_2d_px(which=which)
    distance = (projected - result.keypoints[..., :2]).norm(dim=-1)
    return distance.masked_fill(result.keypoints[..., 2] <= 0, _NAN)


def keypoint_errors(result: FitResult, which: str = "final") -> Float[Tensor, " N"]:
    """Mean distance over the labelled keypoints, photo pixels; NaN without any."""
    return keypoint_distances(result, which).nanmean(dim=1)


def _stack(values: list[npt.NDArray[np.float64]], shape: tuple[int, ...]) -> Tensor:
    if not values:
        return torch.zeros((0, *shape))
    return torch.from_numpy(np.stack(values).astype(np.float32))


def _message(person: Person, stop_reason: str) -> str:
    if person.message or stop_reason not in ("no_keypoints", "nan"):
        return person.message
    if stop_reason == "no_keypoints":
        return "fit_batch: no keypoint is labelled; the regressor's answer was kept"
    return "fit_batch: the numbers stopped being finite; the last finite answer was kept"
