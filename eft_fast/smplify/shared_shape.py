"""Several photos of one person: what they share is one set of parameters, fitted to all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eft_fast.geometry.cameras import pinhole_to_weak, weak_to_pinhole
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify.config import GROUPS, Recipe, SmplifyConfig, Stage, resolve_recipe
from eft_fast.smplify.fit import SmplifyFits, fit_smplify, start_from, to_matrices
from eft_fast.smplify.objective import (
    BETAS,
    CAMERA,
    NUM_PARAMETERS,
    POSE,
    Evaluation,
    StageObjective,
    crop_pinholes,
    pack_pinholes,
)
from eft_fast.smplify.prior import PosePrior, load_pose_prior
from eft_fast.smplify.solvers import minimise

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl


def make_places(photos: int, shared: slice) -> tuple[Int[Tensor, "V 85"], int]:
    """Where the numbers of each photo lie among those of its person; the shared ones come first.

    Returns:
        Places, and how many numbers a person has.
    """
    is_shared = torch.zeros(NUM_PARAMETERS, dtype=torch.bool)
    is_shared[shared] = True
    common = int(is_shared.sum())
    own = NUM_PARAMETERS - common
    places = torch.zeros(photos, NUM_PARAMETERS, dtype=torch.int64)
    places[:, is_shared] = torch.arange(common)
    places[:, ~is_shared] = common + torch.arange(photos * own).reshape(photos, own)
    return places, common + photos * own


class SharedObjective:
    """Sum of the objectives of a person's photos, as a function of the person's parameters.

    Args:
        photos: Objective of all photos; those of a person follow each other.
        places: As of ``make_places``.
        size: How many numbers a person has.
    """

    def __init__(self, photos: StageObjective, places: Int[Tensor, "V 85"], size: int) -> None:
        self._photos, self._size = photos, size
        self._places = places.to(photos.free.device)
        self.free = photos.free.new_zeros(size)
        self.free[self._places.flatten()] = photos.free.repeat(len(places))

    def expand(self, x: Float[Tensor, "G P"]) -> Float[Tensor, "N 85"]:
        """Parameters of every photo."""
        return x[:, self._places].reshape(-1, NUM_PARAMETERS)

    def evaluate(self, x: Float[Tensor, "G P"]) -> Evaluation:
        """Value and gradient; a shared number collects the slopes of all photos."""
        value = self._photos.evaluate(self.expand(x))
        rows = value.gradient.reshape(len(x), -1)
        gradient = torch.zeros_like(x).index_add_(1, self._places.flatten(), rows)
        loss, keypoint = (part.reshape(len(x), -1) for part in (value.loss, value.keypoint))
        return Evaluation(loss.sum(1), gradient, keypoint.mean(1))

    def curvature(self, x: Float[Tensor, "G P"]) -> Float[Tensor, "G P P"]:
        """Gauss-Newton curvature; frozen rows and columns are the identity."""
        blocks = self._photos.curvature(self.expand(x))
        blocks = blocks.reshape(len(x), -1, NUM_PARAMETERS, NUM_PARAMETERS)
        total = x.new_zeros(len(x), self._size, self._size)
        for photo, places in enumerate(self._places):
            total[:, places[:, None], places] += blocks[:, photo]
        return total * self.free * self.free[:, None] + (1 - self.free).diag()


def share_weights(stage: Stage, recipe: Recipe, photos: int, names: tuple[str, ...]) -> Stage:
    """The stage with priors that count once, however many photos they are summed over."""
    parts: dict[str, Any] = {}
    for name in names:
        is_squared = name != "angle" or recipe.angle_is_squared
        parts[name] = getattr(stage, name) / (photos**0.5 if is_squared else photos)
    return replace(stage, **parts)


def fit_subjects(
    body: Smpl,
    init: RegressorOutput,
    keypoints_2d: Float[Tensor, "N 49 3"],
    subject: Int[Tensor, " N"],
    *,
    config: SmplifyConfig | None = None,
    prior: PosePrior | None = None,
    intrinsics: Float[Tensor, "N 3 3"] | None = None,
) -> SmplifyFits:
    """Fit photos of which several show the same person: one shape per person.

    Every photo is first fitted on its own. The photos of a person then go through the last stage
    together, from the mean of their shapes, with cameras free. Poses stay each photo's own.

    Args:
        body: Body model.
        init: Where to begin.
        keypoints_2d: As of ``fit_smplify``.
        subject: Who is on each photo: any numbers, in any order.
        config: As of ``fit_smplify``.
        prior: As of ``fit_smplify``.
        intrinsics: As of ``fit_smplify``.

    Returns:
        One row per photo; betas of a person's photos are the same bits. Nobody depends on others.

    Raises:
        ValueError: If the shapes do not agree.
    """
    config = config or SmplifyConfig()
    if subject.shape != (len(keypoints_2d),) or subject.is_floating_point():
        raise ValueError(
            f"fit_subjects: subject must be {len(keypoints_2d)} whole numbers, "
            f"got {subject.dtype} {list(subject.shape)}"
        )
    prior = prior or load_pose_prior(config.prior_source)
    fits = fit_smplify(body, init, keypoints_2d, config=config, prior=prior, intrinsics=intrinsics)
    recipe = resolve_recipe(config, has_pinholes=intrinsics is not None)
    setting = _Setting(body, prior.to(init.pred_betas), recipe, keypoints_2d, intrinsics)
    _, owner, count = torch.unique(subject, return_inverse=True, return_counts=True)
    for photos in sorted({int(c) for c in count if c > 1}):
        groups = (count == photos).nonzero()[:, 0]
        rows = torch.stack([(owner == group).nonzero()[:, 0] for group in groups])
        fits = _refit(setting, fits, rows)
    return fits


@dataclass(frozen=True)
class _Setting:
    body: Smpl
    prior: PosePrior
    recipe: Recipe
    keypoints_2d: Tensor
    intrinsics: Tensor | None


def _refit(setting: _Setting, fits: SmplifyFits, rows: Int[Tensor, "G V"]) -> SmplifyFits:
    """The last stage of G people with V photos each, with one shape per person."""
    recipe, flat = setting.recipe, rows.flatten()
    begin = start_from(RegressorOutput(*(part[flat] for part in fits.final)))
    pinholes = None
    if recipe.camera == "perspective":
        given = setting.intrinsics
        pinholes = crop_pinholes(recipe, begin) if given is None else given[flat].to(begin)
        begin[:, CAMERA] = weak_to_pinhole(begin[:, CAMERA], pinholes)
    betas = begin[:, BETAS].reshape(*rows.shape, -1).mean(1, keepdim=True)
    begin[:, BETAS] = betas.expand(-1, rows.shape[1], -1).flatten(0, 1)
    stage = replace(recipe.stages[-1], free=GROUPS)
    photos = StageObjective(
        setting.body,
        setting.prior,
        recipe,
        share_weights(stage, recipe, rows.shape[1], ("shape",)),
        setting.keypoints_2d[flat],
        begin,
        begin,
        None if pinholes is None else pack_pinholes(pinholes),
    )
    places, size = make_places(rows.shape[1], BETAS)
    shared = SharedObjective(photos, places, size)
    x = begin.new_zeros(len(rows), size)
    x[:, places.flatten().to(x.device)] = begin.reshape(len(rows), -1)
    solution = minimise(
        shared,
        x,
        solver=recipe.solver,
        steps=stage.steps,
        lr=recipe.lr,
        stop_below=stage.stop_below,
    )
    end = shared.expand(solution.x)
    value = photos.evaluate(end)
    camera = end[:, CAMERA] if pinholes is None else pinhole_to_weak(end[:, CAMERA], pinholes)
    rotmat = to_matrices(end[:, POSE])
    each = solution.steps.repeat_interleave(rows.shape[1])
    finite = solution.finite.repeat_interleave(rows.shape[1])
    return replace(
        fits,
        final=RegressorOutput(
            *(
                _put(old, flat, new)
                for old, new in zip(fits.final, (rotmat, end[:, BETAS], camera), strict=True)
            )
        ),
        loss=_put(fits.loss, flat, value.loss),
        keypoint=_put(fits.keypoint, flat, value.keypoint),
        steps=_put(fits.steps, flat, fits.steps[flat] + each),
        converged=_put(fits.converged, flat, solution.converged.repeat_interleave(rows.shape[1])),
        finite=_put(fits.finite, flat, fits.finite[flat] & finite),
    )


def _put(old: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """A copy with other rows."""
    out = old.clone()
    out[rows] = new
    return out
