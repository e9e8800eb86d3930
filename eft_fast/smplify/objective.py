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
from eft_fast.losses import priors
from eft_fast.smplify.config import (
    KEYPOINTS,
    OPENPOSE_TORSO,
    TORSO,
    Recipe,
    Stage,
)
from eft_fast.smplify.prior import PosePrior

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

NUM_KEYPOINTS: Final = 49
NUM_PARAMETERS: Final = 85
#: Numbers of float32 in a cache line.
ALIGNMENT: Final = 16
POSE: Final = slice(0, 72)
ROOT: Final = slice(0, 3)
BODY_POSE: Final = slice(3, 72)
BETAS: Final = slice(72, 82)
CAMERA: Final = slice(82, 85)
#: Distance of a pinhole; of a weak camera t_y.
DEPTH: Final = slice(84, 85)
#: Where each group of parameters lies in the row.
_PLACES: Final = {
    "global_orient": ROOT,
    "body_pose": BODY_POSE,
    "betas": BETAS,
    "camera": CAMERA,
}
_HALF_CROP: Final = HMR_CROP / 2


@dataclass(frozen=True)
class Evaluation:
    """Value of each person, its gradient by the 85 numbers, and the mean penalty of keypoints.

    That mean is over the mean square of the confidences, except in strict mode.
    """

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
        cameras: Of a recipe with a perspective camera: the pinhole of each person, packed by
            ``ops.pack_full_camera``, which images the crop to [-1, 1]; default: the recipe's own.
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
        cameras: Float[Tensor, "B 21"] | None = None,
    ) -> None:
        self._body, self._prior, self._stage = body, prior, stage
        self._plan: Any = body.points_plan("spin49")
        self._start, self._anchor = start, anchor
        self._keypoints = _weigh(recipe, stage, keypoints_2d)
        self._level: Tensor | float = 1.0
        if recipe.is_stop_scaled:
            self._level = _level(self._keypoints)
        self._is_weak = recipe.camera == "weak"
        self._cameras = pack_pinholes(crop_pinholes(recipe, start)) if cameras is None else cameras
        # The same for everybody, whoever is labelled: nobody's rounding may depend on the others.
        rows = (*OPENPOSE_TORSO, *TORSO) if stage.on_torso else kept_rows(recipe)
        self._rows = torch.tensor(rows, device=start.device)
        self._unit = recipe.torso_unit if stage.on_torso and self._is_weak else _HALF_CROP
        self._sigma = 0.0 if stage.on_torso else recipe.sigma_px
        self._data_weight = recipe.data_weight**2
        self._priors = priors.PriorWeights(
            pose=stage.pose**2,
            angle=stage.angle**2 if recipe.angle_is_squared else stage.angle,
            limits=stage.limits**2,
            shape=stage.shape**2,
            anchor=stage.anchor**2,
        )
        self.free = make_free(stage.free, start)

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "B 85"]) -> Evaluation:
        """Value and gradient; the gradient of frozen parameters is zero."""
        moving = x[:, CAMERA].contiguous()
        out = ops.keypoint_gradients(
            self._plan,
            x[:, BETAS].contiguous(),
            x[:, POSE].reshape(-1, 24, 3),
            moving if self._is_weak else self._cameras,
            self._keypoints,
            transl=None if self._is_weak else moving,
            # The operator takes the mean over 49 x 2 errors, SMPLify the sum.
            weights=ops.LossWeights(keypoints=2 * NUM_KEYPOINTS * self._data_weight),
            unit=self._unit,
            sigma=self._sigma,
            backend=self._body.backend,
        )
        by_camera = out.camera if self._is_weak else out.transl
        gradient = torch.cat([out.pose.reshape(-1, 72), out.betas, by_camera], 1)
        loss = out.loss
        if any(self._priors.as_tuple()):
            prior = self._prior_gradients(x)
            loss = loss + prior.loss
            gradient[:, BODY_POSE] += prior.body_pose
            gradient[:, BETAS] += prior.betas
        if self._stage.root_anchor:
            turned = x[:, ROOT] - self._anchor[:, ROOT]
            loss = loss + self._stage.root_anchor**2 * turned.square().sum(1)
            gradient[:, ROOT] += 2 * self._stage.root_anchor**2 * turned
        if self._stage.depth:
            away = x[:, DEPTH] - self._start[:, DEPTH]
            loss = loss + self._stage.depth**2 * away.square().sum(1)
            gradient[:, DEPTH] += 2 * self._stage.depth**2 * away
        return Evaluation(loss, gradient.mul_(self.free), 2 * out.parts[:, 0] / self._level)

    def _prior_gradients(self, x: Tensor) -> priors.PriorGradients:
        anchor = None
        if self._priors.anchor:
            anchor = self._anchor[:, BODY_POSE], self._anchor[:, BETAS]
        return priors.prior_gradients(
            self._prior.mixture,
            self._prior.limits,
            x[:, BODY_POSE],
            x[:, BETAS],
            self._priors,
            anchor=anchor,
            backend=self._body.backend,
        )

    @torch.no_grad()
    def curvature(self, x: Float[Tensor, "B 85"]) -> Float[Tensor, "B 85 85"]:
        """Gauss-Newton curvature 2 J^T J of all terms; frozen rows and columns are the identity."""
        jacobian, error, confidence = self._errors(x)
        # The penalty is the square of s e / sqrt(s^2 + e^2), whose slope is this.
        slope = torch.ones_like(error)
        if self._sigma:
            # Not a power: those of torch round differently where a vector register is not full.
            root = (self._sigma**2 / (self._sigma**2 + error.square())).sqrt()
            slope = root * root * root
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
        weights, pose = self._priors, x[:, BODY_POSE]
        if weights.pose:
            mixture = priors.mixture_curvature(self._prior.mixture, pose)
            total[:, BODY_POSE, BODY_POSE] += weights.pose * mixture
        diagonal = total.diagonal(dim1=1, dim2=2)
        if weights.angle:
            diagonal[:, BODY_POSE] += weights.angle * priors.angle_curvature(pose)
        if weights.limits:
            diagonal[:, BODY_POSE] += weights.limits * priors.limits_curvature(
                self._prior.limits, pose
            )
        diagonal[:, BODY_POSE] += 2 * weights.anchor
        diagonal[:, BETAS] += 2 * (weights.shape + weights.anchor)
        diagonal[:, ROOT] += 2 * self._stage.root_anchor**2
        diagonal[:, DEPTH] += 2 * self._stage.depth**2

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
        if self._is_weak:
            zero, one = torch.zeros_like(points[..., 0]), torch.ones_like(points[..., 0])
            s = camera[:, None, 0].expand_as(zero)
            image = s[..., None] * points[..., :2] + camera[:, None, 1:]
            by_point = _rows((s, zero, zero), (zero, s, zero))
            by_camera = _rows((points[..., 0], one, zero), (points[..., 1], zero, one))
            return image, by_point, by_camera
        image, by_point = project_packed(points + camera[:, None], self._cameras)
        return image, by_point, by_point


def crop_pinholes(recipe: Recipe, like: Tensor) -> Float[Tensor, "B 3 3"]:
    """The pinhole of a recipe, the same for everybody: it looks at the middle of the crop."""
    f = recipe.focal_length / _HALF_CROP
    return torch.diag(like.new_tensor([f, f, 1.0])).expand(len(like), 3, 3)


def pack_pinholes(intrinsics: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 21"]:
    """Pinholes in the axes of the body's own frame, for ``ops.keypoint_gradients``."""
    identity = torch.eye(3, dtype=intrinsics.dtype, device=intrinsics.device)
    people = len(intrinsics)
    return ops.pack_full_camera(
        intrinsics, identity.expand(people, 3, 3), intrinsics.new_zeros(people, 3)
    )


def project_packed(
    points: Float[Tensor, "B R 3"], cameras: Float[Tensor, "B 21"]
) -> tuple[Float[Tensor, "B R 2"], Float[Tensor, "B R 2 3"]]:
    """Image points of packed pinholes, and their derivatives by the points."""
    intrinsics, rotation = (cameras[:, a : a + 9].reshape(-1, 3, 3) for a in (0, 9))
    # Sums instead of products of matrices: nobody's rounding may depend on the others.
    moved = (points[..., None, :] * rotation[:, None]).sum(-1) + cameras[:, None, 18:]
    depth = moved[..., 2:].clamp_min(1e-3)
    flat = moved[..., :2] / depth
    scale = intrinsics[:, None, :2, :2]
    image = (flat[..., None, :] * scale).sum(-1) + intrinsics[:, None, :2, 2]
    zero, inverse = torch.zeros_like(depth[..., 0]), 1 / depth[..., 0]
    by_flat = _rows(
        (inverse, zero, -flat[..., 0] * inverse), (zero, inverse, -flat[..., 1] * inverse)
    )
    by_moved = (scale[..., None] * by_flat[..., None, :, :]).sum(-2)
    return image, (by_moved[..., None] * rotation[:, None, None]).sum(-2)


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
    """The keypoints with the factor of their penalty as confidence."""
    labelled = keypoints_2d[..., 2:] > 0
    xy = torch.where(labelled, keypoints_2d[..., :2], 0.0)
    factor = torch.zeros_like(keypoints_2d[..., 2])
    if stage.on_torso:
        use_openpose = has_openpose_torso(keypoints_2d) & recipe.openpose_torso
        factor[:, OPENPOSE_TORSO] = use_openpose[:, None].to(factor).expand(-1, len(TORSO))
        annotated = (~use_openpose[:, None] & labelled[:, TORSO, 0]).to(factor)
        factor[:, TORSO] = annotated
    else:
        kept = kept_rows(recipe)
        confidence = torch.where(labelled[..., 0], keypoints_2d[..., 2], 0.0)
        factor[:, kept] = confidence[:, kept].square()
    return torch.cat([xy, factor[..., None]], -1).contiguous()


def _level(keypoints: Float[Tensor, "B 49 3"]) -> Float[Tensor, " B"]:
    """Mean factor of the keypoints that count, so that low confidences pass no stop test."""
    factor = keypoints[..., 2].double()  # whose sum, rounded, does not depend on its order
    level = factor.sum(1) / (factor > 0).sum(1).clamp_min(1)
    return torch.where(level > 0, level, 1.0).to(keypoints)


def kept_rows(recipe: Recipe) -> list[int]:
    """Which of the 49 keypoints count, hips and shoulders of a first stage aside."""
    return [row for row in KEYPOINTS[recipe.keypoints] if row not in recipe.ignored]


def _rows(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([torch.stack(first, -1), torch.stack(second, -1)], -2)
