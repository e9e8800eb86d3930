"""What one stage of SMPLify minimises, for many people at once: value, gradient and curvature.

The parameters of a person are one row of 85 numbers: 24 x 3 axis-angle, 10 betas, 3 of the camera.
The keypoint term and its gradient are one native call; the priors have closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast import ops
from eft_fast.conventions import HMR_CROP
from eft_fast.fitting.pose_priors import PosePrior
from eft_fast.fitting.recipes import (
    IGNORED,
    KEYPOINTS,
    OPENPOSE_TORSO,
    TORSO,
    Recipe,
    Stage,
)
from eft_fast.losses import priors

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

NUM_KEYPOINTS: Final = 49
NUM_PARAMETERS: Final = 85
#: Numbers of float32 in a cache line.
ALIGNMENT: Final = 16
POSE: Final = slice(0, 72)
BODY_POSE: Final = slice(3, 72)
BETAS: Final = slice(72, 82)
CAMERA: Final = slice(82, 85)
#: Where each group of parameters lies in the row.
_PLACES: Final = {
    "global_orient": slice(0, 3),
    "body_pose": BODY_POSE,
    "betas": BETAS,
    "camera": CAMERA,
}
_HALF_CROP: Final = HMR_CROP / 2


@dataclass(frozen=True)
class Evaluation:
    """Value of each person, its gradient by the 85 numbers, and the mean penalty of keypoints."""

    loss: Float[Tensor, " B"]
    gradient: Float[Tensor, "B 85"]
    keypoint: Float[Tensor, " B"]


class StageObjective:
    """The sum of a stage's terms.

    Args:
        body: Body model.
        prior: Pose prior of the type and device of the parameters.
        recipe: The variant.
        stage: The stage of it.
        keypoints_2d: The 49 keypoints, x and y in [-1, 1] of the crop, and confidence; not changed.
        start: Parameters at which the stage begins: where the depth term wants to stay.
        anchor: Parameters at which the fit began: where the anchor wants to stay.
    """

    def __init__(
        self,
        body: Smpl,
        prior: PosePrior,
        recipe: Recipe,
        stage: Stage,
        keypoints_2d: Float[Tensor, "B 49 3"],
        start: Float[Tensor, "B 85"],
        anchor: Float[Tensor, "B 85"],
    ) -> None:
        self._body, self._prior, self._recipe, self._stage = body, prior, recipe, stage
        self._plan: Any = body.points_plan("spin49")
        self._start, self._anchor = start, anchor
        self._keypoints = _weigh(recipe, stage, keypoints_2d)
        # The same for everybody, whoever is labelled: nobody's rounding may depend on the others.
        rows = (*OPENPOSE_TORSO, *TORSO) if stage.on_torso else _kept(recipe)
        self._rows = torch.tensor(rows, device=start.device)
        weak_unit = recipe.torso_unit if stage.on_torso else _HALF_CROP
        self._unit = weak_unit if recipe.camera == "weak" else 1.0
        self._sigma = 0.0 if stage.on_torso else recipe.sigma_px
        self._data_weight = recipe.data_weight**2
        self._angle_weight = stage.angle**2 if recipe.angle_is_squared else stage.angle
        self.free = make_free(stage.free, start)

    def _camera(self, x: Tensor) -> Tensor:
        if self._recipe.camera == "weak":
            return x[:, CAMERA].contiguous()
        f, c = self._recipe.focal_length, _HALF_CROP
        fixed = x.new_tensor([f, 0, c, 0, f, c, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1])
        return torch.cat([fixed.expand(len(x), -1), x[:, CAMERA]], 1)

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "B 85"]) -> Evaluation:
        """Value and gradient; the gradient of frozen parameters is zero."""
        out = ops.keypoint_gradients(
            self._plan,
            x[:, BETAS].contiguous(),
            x[:, POSE].reshape(-1, 24, 3),
            self._camera(x),
            self._keypoints,
            # The operator takes the mean over 49 x 2 errors, SMPLify the sum.
            weights=ops.LossWeights(keypoints=2 * NUM_KEYPOINTS * self._data_weight),
            unit=self._unit,
            sigma=self._sigma,
            backend=self._body.backend,
        )
        gradient = torch.cat([out.pose.reshape(-1, 72), out.betas, out.camera[:, -3:]], 1)
        loss = self._add_priors(x, out.loss, gradient)
        return Evaluation(loss, gradient * self.free, 2 * out.parts[:, 0])

    def _add_priors(self, x: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        """Add the other terms to ``gradient`` in place and return the sum of losses."""
        stage, pose = self._stage, x[:, BODY_POSE]
        terms: list[tuple[float, priors.PriorTerm]] = []
        if stage.pose:
            terms.append((stage.pose**2, priors.mixture_term(self._prior.mixture, pose)))
        if self._angle_weight:
            terms.append((self._angle_weight, priors.angle_term(pose)))
        if stage.limits:
            terms.append((stage.limits**2, priors.limits_term(self._prior.limits, pose)))
        for weight, value in terms:
            loss = loss + weight * value.loss
            gradient[:, BODY_POSE] += weight * value.gradient
        for weight, part, target in self._squares():
            loss = loss + weight * (x[:, part] - target).square().sum(1)
            gradient[:, part] += 2 * weight * (x[:, part] - target)
        return loss

    def _squares(self) -> list[tuple[float, slice, Tensor]]:
        """Terms that are squared distances: weight, place and target."""
        stage, depth = self._stage, slice(CAMERA.stop - 1, CAMERA.stop)
        terms = [
            (stage.shape**2, BETAS, torch.zeros_like(self._start[:, BETAS])),
            (stage.depth**2, depth, self._start[:, depth]),
            (stage.anchor**2, BODY_POSE, self._anchor[:, BODY_POSE]),
            (stage.anchor**2, BETAS, self._anchor[:, BETAS]),
        ]
        return [term for term in terms if term[0]]

    @torch.no_grad()
    def curvature(self, x: Float[Tensor, "B 85"]) -> Float[Tensor, "B 85 85"]:
        """Gauss-Newton curvature 2 J^T J of all terms; frozen rows and columns are the identity."""
        jacobian, error, confidence = self._errors(x)
        # The penalty is the square of s e / sqrt(s^2 + e^2), whose slope is this.
        slope = torch.ones_like(error)
        if self._sigma:
            slope = (self._sigma**2 / (self._sigma**2 + error.square())) ** 1.5
        scale = (2 * self._data_weight * confidence).sqrt() * slope * self._unit
        weighted = scale[..., None] * jacobian * self.free
        # Whole cache lines, so that nobody's rounding depends on their place in the batch.
        padded = torch.nn.functional.pad(weighted, (0, -NUM_PARAMETERS % ALIGNMENT))
        total = padded.transpose(1, 2) @ padded
        total = total[:, :NUM_PARAMETERS, :NUM_PARAMETERS].contiguous()
        self._add_prior_curvature(x, total)
        frozen = 1 - self.free
        total = total * self.free * self.free[:, None] + frozen.diag()
        return total

    def _add_prior_curvature(self, x: Tensor, total: Tensor) -> None:
        stage, pose = self._stage, x[:, BODY_POSE]
        if stage.pose:
            mixture = priors.mixture_curvature(self._prior.mixture, pose)
            total[:, BODY_POSE, BODY_POSE] += stage.pose**2 * mixture
        diagonal = total.diagonal(dim1=1, dim2=2)
        if self._angle_weight:
            diagonal[:, BODY_POSE] += self._angle_weight * priors.angle_curvature(pose)
        if stage.limits:
            curvature = priors.limits_curvature(self._prior.limits, pose)
            diagonal[:, BODY_POSE] += stage.limits**2 * curvature
        for weight, part, _ in self._squares():
            diagonal[:, part] += 2 * weight

    def _errors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Jacobian [B,R,85] of the R image coordinates, their errors and confidences [B,R].

        Each image coordinate is one more copy of the person in one backward pass of the points, so
        that the derivative is the operator's own.
        """
        people, rows = len(x), self._rows
        copies = 2 * len(rows)
        wide = x.repeat_interleave(copies, 0)
        with torch.enable_grad():
            betas = wide[:, BETAS].detach().clone().requires_grad_()
            pose = wide[:, POSE].reshape(-1, 24, 3).detach().clone().requires_grad_()
            points = ops.smpl_points(self._plan, betas, pose, backend=self._body.backend)
        seen = points.detach().reshape(people, copies, NUM_KEYPOINTS, 3)[:, 0]
        image, by_point, by_camera = self._project(seen[:, rows], x[:, CAMERA])
        place = rows.repeat_interleave(2)
        cotangent = points.new_zeros(people, copies, NUM_KEYPOINTS, 3)
        cotangent[:, torch.arange(copies, device=x.device), place] = by_point.flatten(1, 2)
        by_pose, by_betas = torch.autograd.grad(
            points, (pose, betas), cotangent.reshape(points.shape)
        )
        jacobian = torch.cat(
            [
                by_pose.reshape(people, copies, 72),
                by_betas.reshape(people, copies, 10),
                by_camera.flatten(1, 2),
            ],
            -1,
        )
        target = self._keypoints[:, rows]
        confidence = target[..., 2:].expand(-1, -1, 2).flatten(1)
        error = self._unit * (image - target[..., :2]).flatten(1)
        return jacobian, torch.where(confidence > 0, error, 0.0), confidence

    def _project(self, points: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image points [B,R,2] and their derivatives [B,R,2,3] by point and by camera."""
        zero = torch.zeros_like(points[..., 0])
        if self._recipe.camera == "weak":
            s = camera[:, None, 0].expand_as(zero)
            one = torch.ones_like(zero)
            image = s[..., None] * points[..., :2] + camera[:, None, 1:]
            by_point = _rows((s, zero, zero), (zero, s, zero))
            by_camera = _rows((points[..., 0], one, zero), (points[..., 1], zero, one))
            return image, by_point, by_camera
        moved = points + camera[:, None]
        depth = moved[..., 2].clamp_min(1e-3)
        f = self._recipe.focal_length
        x, y = f * moved[..., 0] / depth, f * moved[..., 1] / depth
        by_point = _rows((f / depth, zero, -x / depth), (zero, f / depth, -y / depth))
        return torch.stack([x, y], -1) + _HALF_CROP, by_point, by_point


def make_free(groups: tuple[str, ...], like: Tensor) -> Float[Tensor, " 85"]:
    """Ones at the parameters of the groups, zeros elsewhere."""
    free = like.new_zeros(NUM_PARAMETERS)
    for group in groups:
        free[_PLACES[group]] = 1
    return free


def has_openpose_torso(keypoints_2d: Float[Tensor, "B 49 3"]) -> Bool[Tensor, " B"]:
    """Whether hips and shoulders of the OpenPose block are all labelled."""
    return (keypoints_2d[:, OPENPOSE_TORSO, 2] > 0).all(1)


def _weigh(recipe: Recipe, stage: Stage, keypoints_2d: Tensor) -> Tensor:
    """The keypoints in the camera's unit, with the factor of their penalty as confidence."""
    labelled = keypoints_2d[..., 2:] > 0
    xy = torch.where(labelled, keypoints_2d[..., :2], 0.0)
    if recipe.camera == "perspective":
        xy = (xy + 1) * _HALF_CROP
    factor = torch.zeros_like(keypoints_2d[..., 2])
    if stage.on_torso:
        use_openpose = has_openpose_torso(keypoints_2d) & recipe.openpose_torso
        factor[:, OPENPOSE_TORSO] = use_openpose[:, None].to(factor).expand(-1, len(TORSO))
        annotated = (~use_openpose[:, None] & labelled[:, TORSO, 0]).to(factor)
        factor[:, TORSO] = annotated
    else:
        kept = _kept(recipe)
        confidence = torch.where(labelled[..., 0], keypoints_2d[..., 2], 0.0)
        factor[:, kept] = confidence[:, kept].square()
    return torch.cat([xy, factor[..., None]], -1).contiguous()


def _kept(recipe: Recipe) -> list[int]:
    return [row for row in KEYPOINTS[recipe.keypoints] if row not in IGNORED]


def _rows(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([torch.stack(first, -1), torch.stack(second, -1)], -2)
