"""One person seen by several calibrated cameras at once: one pose, one shape, one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast import ops
from eft_fast.conventions import BOX_UNIT
from eft_fast.geometry.cameras import crop_intrinsics, project_intrinsics
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.geometry.triangulation import rigid_motion, triangulate
from eft_fast.result import SmplParams
from eft_fast.smplify.config import Recipe, SmplifyConfig, Stage, resolve_recipe
from eft_fast.smplify.fit import to_matrices
from eft_fast.smplify.objective import (
    BETAS,
    BODY_POSE,
    CAMERA,
    NUM_PARAMETERS,
    POSE,
    StageObjective,
)
from eft_fast.smplify.prior import PosePrior, load_pose_prior
from eft_fast.smplify.shared_shape import SharedObjective, make_places, share_weights
from eft_fast.smplify.solvers import Solution, minimise

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_MARGIN: Final = 1.2
#: Smallest side of a view's box, photo pixels: a single point has no size.
_SMALLEST: Final = 8.0
_PRIORS: Final = ("pose", "shape", "angle", "limits", "anchor")


@dataclass(frozen=True)
class PhotoCameras:
    """Calibrated cameras of G scenes with V views each: u = K (R X + t), X in the world.

    Attributes:
        intrinsics: K, pixels.
        rotation: R, world to camera.
        translation: t, metres.
    """

    intrinsics: Float[Tensor, "G V 3 3"]
    rotation: Float[Tensor, "G V 3 3"]
    translation: Float[Tensor, "G V 3"]


@dataclass(frozen=True)
class ViewFits:
    """Fits of G people, in the axes of the world.

    Attributes:
        params: Shape and rotations.
        transl: Translation of the body, metres.
        loss: Value of the last stage at the end, all views together.
        kp_error_px: Mean distance over the labelled keypoints of each view, pixels; NaN without.
        steps: Updates over all stages.
        converged: Who met a stopping rule in the last stage.
        finite: Whose numbers stayed finite; False as well where no start could be triangulated.
    """

    params: SmplParams
    transl: Float[Tensor, "G 3"]
    loss: Float[Tensor, " G"]
    kp_error_px: Float[Tensor, "G V"]
    steps: Int[Tensor, " G"]
    converged: Bool[Tensor, " G"]
    finite: Bool[Tensor, " G"]


def fit_views(
    body: Smpl,
    keypoints_2d: Float[Tensor, "G V 49 3"],
    cameras: PhotoCameras,
    *,
    config: SmplifyConfig | None = None,
    prior: PosePrior | None = None,
) -> ViewFits:
    """Fit people who are seen by several calibrated cameras.

    The start is the prior's mean pose, moved onto the triangulated keypoints; no network is needed.
    The stages are those of the recipe, with the data terms of all views, one set of priors, and the
    translation free in every stage. Each view's errors count in units of its own crop.

    Args:
        body: Body model, which also gives type and device.
        keypoints_2d: The 49 keypoints of ``keypoints.to_spin49`` in each photo: pixels, and
            confidence; 0 leaves a keypoint out of a view. At least three must be seen twice.
        cameras: Calibration of each view.
        config: Recipe, prior and solver; ``start`` does not matter.
        prior: Pose prior; default: that of the configuration.

    Returns:
        One row per person. Nobody's answer depends on the others.

    Raises:
        ValueError: If the shapes do not agree.
    """
    config = config or SmplifyConfig()
    if keypoints_2d.ndim != 4 or tuple(keypoints_2d.shape[2:]) != (49, 3):
        raise ValueError(
            f"fit_views: keypoints_2d must be [G, V, 49, 3], got {list(keypoints_2d.shape)}; "
            "call keypoints.to_spin49 first"
        )
    like = body.v_template
    prior = (prior or load_pose_prior(config.prior_source)).to(like)
    given = torch.where(keypoints_2d[..., 2:] > 0, keypoints_2d, 0.0).to(like)
    cameras = PhotoCameras(
        *(part.to(like) for part in (cameras.intrinsics, cameras.rotation, cameras.translation))
    )
    points = triangulate(given, cameras.intrinsics, cameras.rotation, cameras.translation)
    x, steps, finite, last = _run_stages(
        body, prior, resolve_recipe(config, has_pinholes=True), given, cameras, points
    )
    rotmat = to_matrices(x[:, POSE])
    return ViewFits(
        SmplParams.from_rotmat(rotmat, x[:, BETAS].clone()),
        x[:, CAMERA].clone(),
        last.loss,
        _errors_px(body, x, given, cameras),
        steps,
        last.converged,
        finite,
    )


def _run_stages(
    body: Smpl,
    prior: PosePrior,
    recipe: Recipe,
    keypoints_2d: Tensor,
    cameras: PhotoCameras,
    points: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Solution]:
    """Parameters, updates and finiteness of each person, and how the last stage ended."""
    begin = _start(body, prior, points)
    views = keypoints_2d.shape[1]
    places, size = make_places(views, slice(0, NUM_PARAMETERS))
    target, packed = _to_crops(keypoints_2d, cameras)
    x, anchor = begin, begin.repeat_interleave(views, 0)
    steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    finite = torch.ones_like(steps, dtype=torch.bool)
    for stage in recipe.stages:
        rows = StageObjective(
            body, prior, recipe, _for_views(stage, recipe, views), target, anchor, anchor, packed
        )
        solution = minimise(
            SharedObjective(rows, places, size),
            x,
            solver=recipe.solver,
            steps=stage.steps,
            lr=recipe.lr,
            stop_below=stage.stop_below,
        )
        x, steps, finite = solution.x, steps + solution.steps, finite & solution.finite
    return x, steps, finite, solution


def _for_views(stage: Stage, recipe: Recipe, views: int) -> Stage:
    """The stage with a free translation, without a favourite distance, with one set of priors."""
    free = tuple(dict.fromkeys((*stage.free, "camera")))
    return share_weights(replace(stage, free=free, depth=0.0), recipe, views, _PRIORS)


def _start(body: Smpl, prior: PosePrior, points: Float[Tensor, "G 49 4"]) -> Float[Tensor, "G 85"]:
    """The mean pose where the triangulated points are; NaN where there are too few."""
    x = points.new_zeros(len(points), NUM_PARAMETERS)
    x[:, BODY_POSE] = prior.mixture.mean_pose()
    one = x[:1]
    pose = one[:, POSE].reshape(1, 24, 3)
    source, joints = (
        body.keypoints(one[:, BETAS], pose[:, 1:], pose[:, :1], joint_set=name)
        for name in ("spin49", "smpl24")
    )
    rotation, translation = rigid_motion(
        source.expand(len(points), -1, -1), points[..., :3], points[..., 3]
    )
    # The body turns about its root, not about the origin.
    root = joints[:, 0]
    x[:, :3] = matrix_to_axis_angle(rotation)
    x[:, CAMERA] = translation + (rotation @ root[..., None])[..., 0] - root
    return x


def _to_crops(
    keypoints_2d: Float[Tensor, "G V 49 3"], cameras: PhotoCameras
) -> tuple[Float[Tensor, "N 49 3"], Float[Tensor, "N 21"]]:
    """Keypoints in [-1, 1] of the box around them in each view, and the cameras that see it so."""
    flat = keypoints_2d.flatten(0, 1)
    labelled = flat[..., 2:] > 0
    low = torch.where(labelled, flat[..., :2], float("inf")).amin(1)
    high = torch.where(labelled, flat[..., :2], float("-inf")).amax(1)
    is_seen = labelled.any(1)
    center = torch.where(is_seen, (low + high) / 2, 0.0)
    side = torch.where(is_seen, high - low, 0.0).amax(1).clamp_min(_SMALLEST) * _MARGIN
    xy = (flat[..., :2] - center[:, None]) / (side / 2)[:, None, None]
    target = torch.cat([torch.where(labelled, xy, 0.0), flat[..., 2:]], 2)
    pinholes = crop_intrinsics(cameras.intrinsics.flatten(0, 1), center, side / BOX_UNIT)
    packed = ops.pack_full_camera(
        pinholes, cameras.rotation.flatten(0, 1), cameras.translation.flatten(0, 1)
    )
    return target, packed


def _errors_px(
    body: Smpl, x: Tensor, keypoints_2d: Tensor, cameras: PhotoCameras
) -> Float[Tensor, "G V"]:
    pose = x[:, POSE].reshape(-1, 24, 3)
    points = body.keypoints(x[:, BETAS], pose[:, 1:], pose[:, :1], joint_set="spin49")
    world = (points + x[:, None, CAMERA])[:, None]
    seen = world @ cameras.rotation.transpose(2, 3) + cameras.translation[:, :, None]
    image = project_intrinsics(seen.flatten(0, 1), cameras.intrinsics.flatten(0, 1))
    distance = (image.reshape(*keypoints_2d.shape[:3], 2) - keypoints_2d[..., :2]).norm(dim=-1)
    error: Tensor = distance.masked_fill(keypoints_2d[..., 2] <= 0, float("nan")).nanmean(2)
    return error
