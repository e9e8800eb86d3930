"""SMPLify: fit pose, shape and camera to 2D keypoints directly, many people at once.

No network is tuned. The recipes of ``recipes`` say what is minimised, in which stages; this module
starts people, runs the stages, tries people whose orientation is doubtful the other way round as
well, and puts the better answer into the form that all fits share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.conventions import HMR_CROP
from eft_fast.geometry.cameras import pinhole_to_weak, weak_to_pinhole
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from eft_fast.keypoints import JOINT_SETS
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.pipeline.fitter import Fitter, PersonFit, stop_codes, stop_reasons
from eft_fast.pipeline.predict import RegressorFitter
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics
from eft_fast.smplify.config import (
    OPENPOSE_TORSO,
    TORSO,
    Recipe,
    SmplifyConfig,
    resolve_recipe,
)
from eft_fast.smplify.objective import (
    BETAS,
    BODY_POSE,
    CAMERA,
    POSE,
    StageObjective,
    crop_pinholes,
    kept_rows,
    pack_pinholes,
)
from eft_fast.smplify.prior import PosePrior, load_pose_prior
from eft_fast.smplify.solvers import minimise

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Called with the number of the stage, the number of the update in it, and the losses before it.
TraceCallback = Callable[[int, int, Tensor], None]

_SHOULDERS: Final = (2, 3)  # of TORSO
#: Bones that are long and hardly bend: their longest projection tells the scale of a person.
_BONES: Final = (("rsho", "rhip"), ("lsho", "lhip"), ("rhip", "rkne"), ("lhip", "lkne"),
                 ("rkne", "rank"), ("lkne", "lank"))  # fmt: skip


@dataclass(frozen=True)
class SmplifyFits:
    """Fits of B crops.

    Attributes:
        final: Rotations, betas and weak camera at the end.
        loss: Value of the last stage at the end.
        init_loss: Value of the last stage at the start.
        keypoint: Mean over 49 keypoints of confidence^2 times penalty, square crop pixels; over the
            mean of confidence^2 of those that count, except in strict mode.
        steps: Updates behind the answer, over all stages.
        converged: Who met a stopping rule in the last stage.
        finite: Whose numbers stayed finite.
        turned: Whose answer began turned by 180 degrees.
    """

    final: RegressorOutput
    loss: Float[Tensor, " B"]
    init_loss: Float[Tensor, " B"]
    keypoint: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    converged: Bool[Tensor, " B"]
    finite: Bool[Tensor, " B"]
    turned: Bool[Tensor, " B"]


def fit_smplify(
    body: Smpl,
    init: RegressorOutput,
    keypoints_2d: Float[Tensor, "B 49 3"],
    *,
    config: SmplifyConfig | None = None,
    prior: PosePrior | None = None,
    intrinsics: Float[Tensor, "B 3 3"] | None = None,
    on_step: TraceCallback | None = None,
) -> SmplifyFits:
    """Fit people to their keypoints.

    Nobody's answer depends on who else is fitted.

    Args:
        body: Body model.
        init: Where to begin; with the start ``mean``, only its type and device matter.
        keypoints_2d: The 49 keypoints of ``keypoints.to_spin49``: x and y in [-1, 1] of the crop,
            and confidence; 0 leaves a keypoint out. Not changed.
        config: Recipe, prior and options.
        prior: Pose prior; default: that of the configuration.
        intrinsics: Pinhole of each photo as seen in the crop (``geometry.crop_intrinsics``): the
            full perspective then replaces the recipe's camera. The answer is still a weak camera,
            that which ``geometry.weak_to_pinhole`` turns into the translation that was found.
        on_step: Called before each update; people tried both ways follow behind the others.

    Raises:
        ValueError: If the shapes do not agree.
    """
    config = config or SmplifyConfig()
    _check_inputs(init, keypoints_2d, intrinsics)
    recipe = resolve_recipe(config, has_pinholes=intrinsics is not None)
    like = init.pred_betas
    prior = (prior or load_pose_prior(config.prior_source)).to(like)
    keypoints_2d = torch.where(keypoints_2d[..., 2:] > 0, keypoints_2d, 0.0)
    if recipe.start == "mean":
        x = start_from_mean(body, prior, keypoints_2d)
    else:
        x = start_from(init)
    pinholes = None
    if recipe.camera == "perspective":
        pinholes = crop_pinholes(recipe, x) if intrinsics is None else intrinsics.to(x)
        x[:, CAMERA] = weak_to_pinhole(x[:, CAMERA], pinholes)
    doubtful = _doubtful(recipe, keypoints_2d)
    # Those who are tried both ways are fitted twice, as one more person each.
    twice = torch.cat([torch.arange(len(x), device=x.device), doubtful.nonzero()[:, 0]])
    begin = x[twice]
    begin[len(x) :, :3] = turn_around(begin[len(x) :, :3])
    run = _run_stages(
        body,
        prior,
        recipe,
        keypoints_2d[twice],
        begin,
        None if pinholes is None else pack_pinholes(pinholes[twice]),
        on_step,
    )
    return _choose(run, twice, len(x), pinholes)


@dataclass(frozen=True)
class _Run:
    x: Tensor
    loss: Tensor
    init_loss: Tensor
    keypoint: Tensor
    steps: Tensor
    converged: Tensor
    finite: Tensor


def _run_stages(
    body: Smpl,
    prior: PosePrior,
    recipe: Recipe,
    keypoints_2d: Tensor,
    begin: Tensor,
    cameras: Tensor | None,
    on_step: TraceCallback | None,
) -> _Run:
    x = begin
    steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
    converged = torch.zeros_like(finite)
    for number, stage in enumerate(recipe.stages):
        objective = StageObjective(body, prior, recipe, stage, keypoints_2d, x, begin, cameras)
        solution = minimise(
            objective,
            x,
            solver=recipe.solver,
            steps=stage.steps,
            lr=recipe.lr,
            stop_below=stage.stop_below,
            on_step=None if on_step is None else _bind(on_step, number),
        )
        x, converged = solution.x, solution.converged
        steps, finite = steps + solution.steps, finite & solution.finite
    end, start = objective.evaluate(x), objective.evaluate(begin)
    return _Run(x, end.loss, start.loss, end.keypoint, steps, converged, finite)


def _bind(on_step: TraceCallback, stage: int) -> Callable[[int, Tensor], None]:
    return lambda step, loss: on_step(stage, step, loss)


def _choose(run: _Run, twice: Tensor, people: int, pinholes: Tensor | None) -> SmplifyFits:
    """Take the better of two answers where there are two."""
    place = torch.arange(people, device=run.x.device)
    turned = torch.zeros(people, dtype=torch.bool, device=run.x.device)
    other = torch.arange(people, len(twice), device=run.x.device)
    owner = twice[people:]
    wins = run.finite[other] & ((run.loss[other] < run.loss[owner]) | ~run.finite[owner])
    place[owner[wins]] = other[wins]
    turned[owner[wins]] = True
    x = run.x[place]
    camera = x[:, CAMERA]
    if pinholes is not None:
        camera = pinhole_to_weak(camera, pinholes)
    rotmat = to_matrices(x[:, POSE])
    return SmplifyFits(
        final=RegressorOutput(rotmat, x[:, BETAS].clone(), camera.clone()),
        loss=run.loss[place],
        init_loss=run.init_loss[:people],
        keypoint=run.keypoint[place],
        steps=run.steps[place],
        converged=run.converged[place],
        finite=run.finite[place],
        turned=turned,
    )


def start_from(init: RegressorOutput) -> Float[Tensor, "B 85"]:
    """Parameters of a regressor's answer, with its weak camera."""
    rotmat = init.pred_rotmat.detach()
    # In float64: sines of torch round differently where a vector register is not full, and then a
    # person's bits would depend on the number of people.
    pose = matrix_to_axis_angle(rotmat.double()).to(rotmat).flatten(1)
    return torch.cat([pose, init.pred_betas.detach(), init.pred_cam.detach()], 1)


def start_from_mean(
    body: Smpl, prior: PosePrior, keypoints_2d: Float[Tensor, "B 49 3"]
) -> Float[Tensor, "B 85"]:
    """The prior's mean pose, upright and facing the camera, scaled and placed by the keypoints.

    The scale is the largest that any long bone asks for: projections only shorten.
    """
    like = prior.mixture.means
    x = like.new_zeros(len(keypoints_2d), 85)
    # Half a turn about x: bodies look along +z with y up, cameras have y down.
    x[:, 0] = math.pi
    x[:, BODY_POSE] = prior.mixture.mean_pose()
    one = x[:1]
    points = body.keypoints(one[:, BETAS], one[:, BODY_POSE], one[:, :3], joint_set="spin49")[0]
    scale = keypoints_2d.new_zeros(len(keypoints_2d))
    names = JOINT_SETS["spin49"].names
    for block in ("", "op_"):
        for bone in _BONES:
            a, b = (names.index(block + name) for name in bone)
            given = (keypoints_2d[:, a, :2] - keypoints_2d[:, b, :2]).norm(dim=-1)
            labelled = (keypoints_2d[:, a, 2] > 0) & (keypoints_2d[:, b, 2] > 0)
            ratio = torch.where(labelled, given / (points[a] - points[b]).norm(), 0.0)
            scale = torch.maximum(scale, ratio)
    # Nobody fills less than a fifth of the crop; without any bone, as HMR's mean camera.
    scale = torch.where(scale > 0, scale.clamp_min(0.2), 0.9)
    labelled = (keypoints_2d[..., 2:] > 0).to(like)
    count = labelled.sum(1).clamp_min(1)
    offset = labelled * (keypoints_2d[..., :2] - scale[:, None, None] * points[:, :2])
    x[:, CAMERA] = torch.cat([scale[:, None], offset.sum(1) / count], 1)
    return x


def to_matrices(pose: Float[Tensor, "B 72"]) -> Float[Tensor, "B 24 3 3"]:
    """Rotations of the parameters; in float64 on the way, as in ``start_from``."""
    return axis_angle_to_matrix(pose.reshape(-1, 24, 3).double()).to(pose)


def turn_around(global_orient: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """Turn bodies by 180 degrees about their own vertical axis."""
    half_turn = global_orient.new_tensor([-1.0, 1.0, -1.0]).double()
    turned = axis_angle_to_matrix(global_orient.double()) * half_turn
    return matrix_to_axis_angle(turned).to(global_orient)


def _doubtful(recipe: Recipe, keypoints_2d: Tensor) -> Bool[Tensor, " B"]:
    """Who is tried both ways: everybody from the mean pose, else people seen from the side."""
    if recipe.start == "mean":
        return torch.ones(len(keypoints_2d), dtype=torch.bool, device=keypoints_2d.device)
    narrow = torch.zeros(len(keypoints_2d), dtype=torch.bool, device=keypoints_2d.device)
    if recipe.narrow_px <= 0:
        return narrow
    for block in (TORSO, OPENPOSE_TORSO):
        a, b = (keypoints_2d[:, block[place]] for place in _SHOULDERS)
        distance = (a[:, :2] - b[:, :2]).norm(dim=-1) * HMR_CROP / 2
        narrow |= (a[:, 2] > 0) & (b[:, 2] > 0) & (distance < recipe.narrow_px)
    return narrow


def _check_inputs(init: RegressorOutput, keypoints_2d: Tensor, intrinsics: Tensor | None) -> None:
    people = len(init.pred_betas)
    if intrinsics is not None and tuple(intrinsics.shape) != (people, 3, 3):
        raise ValueError(
            f"fit_smplify: intrinsics must be [{people}, 3, 3], got {list(intrinsics.shape)}"
        )
    if tuple(keypoints_2d.shape) != (people, 49, 3):
        raise ValueError(
            f"fit_smplify: keypoints_2d must be [{people}, 49, 3], got {list(keypoints_2d.shape)}; "
            "call keypoints.to_spin49 first"
        )
    if tuple(init.pred_rotmat.shape) != (people, 24, 3, 3):
        raise ValueError(
            f"fit_smplify: init.pred_rotmat must be [{people}, 24, 3, 3], "
            f"got {list(init.pred_rotmat.shape)}"
        )


class SmplifyFitter(Fitter):
    """Fits people in batches, each started from the regressor's answer or the mean pose.

    Args:
        regressor: Its answers start the fits and are reported beside them.
        body: Body model on the same device.
        config: Recipe, prior and options.
    """

    def __init__(self, regressor: Regressor, body: Smpl, *, config: SmplifyConfig) -> None:
        self._predictor = RegressorFitter(regressor, body, strict=config.strict_reference)
        self._body, self._config = body, config
        self._counting = kept_rows(resolve_recipe(config, has_pinholes=False))
        like = next(regressor.parameters())
        self._prior = load_pose_prior(config.prior_source).to(like)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """How sure the regressor is."""
        return self._predictor.outputs

    def fit(self, people: Iterable[Prepared]) -> Iterator[tuple[int, PersonFit]]:
        """Yield each person's index and fit, a batch at a time."""
        waiting: list[tuple[Prepared, PersonFit]] = []
        for person in people:
            waiting.append((person, self._predictor.fit_person(person)))
            if len(waiting) == self._config.batch:
                yield from self._fit_batch(waiting)
                waiting = []
        if waiting:
            yield from self._fit_batch(waiting)

    def _fit_batch(
        self, people: list[tuple[Prepared, PersonFit]]
    ) -> Iterator[tuple[int, PersonFit]]:
        starts = [start.init for _, start in people]
        init = RegressorOutput(*(torch.cat(parts) for parts in zip(*starts, strict=True)))
        keypoints_2d = torch.stack([person.keypoints_2d for person, _ in people])
        fits = fit_smplify(
            self._body,
            init,
            keypoints_2d,
            config=self._config,
            prior=self._prior,
            intrinsics=stack_intrinsics([person for person, _ in people]),
        )
        codes = stop_codes(
            converged=fits.converged,
            exhausted=torch.ones_like(fits.finite),
            finite=fits.finite,
            labelled=(keypoints_2d[:, self._counting, 2] > 0).any(1),
        )
        for row, ((person, start), reason) in enumerate(
            zip(people, stop_reasons(codes), strict=True)
        ):
            # Without keypoints, or without a finite start, the answer of the regressor stays.
            if reason == "no_keypoints" or start.stop_reason == "nan":
                yield person.index, replace(start, stop_reason=reason)
            else:
                yield person.index, _person_fit(fits, row, start, reason)


def _person_fit(fits: SmplifyFits, row: int, start: PersonFit, reason: str) -> PersonFit:
    """One row of a batch."""
    one = slice(row, row + 1)
    return PersonFit(
        RegressorOutput(*(part[one].clone() for part in fits.final)),
        start.init,
        fits.loss[one].clone(),
        fits.init_loss[one].clone(),
        int(fits.steps[row]),
        reason,
        start.outputs,
    )
