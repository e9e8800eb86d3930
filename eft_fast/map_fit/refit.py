"""One person of a result again, with other keypoints: from the network's answer, which it holds.

What somebody decides by looking at a photo goes in as it is: keypoints, and bones mirrored in
depth, from which the solver goes on although their energy may be higher.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from eft_fast import imaging, ops
from eft_fast.conventions import EXTENT_PER_SIZE
from eft_fast.geometry.cameras import crop_intrinsics
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import MapFits
from eft_fast.map_fit.fitter import MapFitter, MapStart
from eft_fast.map_fit.hypotheses import flip_bone
from eft_fast.map_fit.posterior import joint_sigma, keypoint_gain
from eft_fast.map_fit.problem import state_of
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.ops.map import MapState
from eft_fast.pipeline.fitter import PersonFit
from eft_fast.pipeline.predict import CONFIDENCE
from eft_fast.pipeline.prepare import Prepared
from eft_fast.result import FitResult

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl


@dataclass(frozen=True, eq=False)
class OpenPerson:
    """A person of a result, as the fitter takes one.

    Attributes:
        person: In the crop of the result, which stays where it is however keypoints move.
        start: What the network said.
    """

    person: Prepared
    start: MapStart


@dataclass(frozen=True, eq=False)
class Refit:
    """A fit to changed keypoints.

    Attributes:
        person: With the keypoints of the fit.
        fit: As of any fitter.
        gain_mm: By how many mm the joints would be surer, each keypoint that is not given if it
            were; 0 for those that are.
        seconds: Time of the solver.
    """

    person: Prepared
    fit: PersonFit
    gain_mm: Float[np.ndarray, " K"]
    seconds: float


class Refitter:
    """Fits single people by ``map``, without filling in keypoints.

    Args:
        regressor: Whose answers started the fits; its error covariance is the prior.
        body: Body model on the same device.
        config: Options of the fits.
    """

    def __init__(self, regressor: Regressor, body: Smpl, config: MapConfig) -> None:
        config = replace(config, fill="none")
        self._body, self._config = body, config
        self._fitters = {True: MapFitter(regressor, body, config=config)}
        # Whose fit had the weak camera keeps it.
        weak = replace(config, distance=None)
        self._fitters[False] = MapFitter(regressor, body, config=weak)
        self.outputs = self._fitters[True].outputs

    def open(self, result: FitResult) -> OpenPerson:
        """Take the only person of a result.

        Args:
            result: Crop, pinhole and the network's answer are taken from it.

        Raises:
            ValueError: If the person has no crop or no answer of the network.
        """
        init, center, scale = result.init, result.bbox_center, result.bbox_scale
        known = (init.params.full_pose, init.betas, init.pred_cam, center, scale)
        if not all(bool(torch.isfinite(part).all()) for part in known):
            raise ValueError(f"refit: this person was not fitted: {result.message[0]}")
        like = self._body.v_template
        pinhole = seen = None
        assert result.intrinsics is not None
        if bool(torch.isfinite(result.intrinsics).all()):
            pinhole = result.intrinsics[0].double().numpy()
            seen = crop_intrinsics(result.intrinsics.double(), center.double(), scale.double())
            seen = seen[0].to(like)
        person = Prepared(
            index=0,
            img=None,
            keypoints_2d=torch.zeros(49, 3).to(like),
            crop_intrinsics=seen,
            joint_set=result.joint_set,
            center=center[0].double().numpy(),
            scale=float(scale[0]),
            intrinsics=pinhole,
            photo=result.photo[0],
            id=result.id[0],
        )
        answer = RegressorOutput(init.params.full_pose, init.betas, init.pred_cam)
        outputs = {}
        if CONFIDENCE in self.outputs and result.joint_confidence is not None:
            outputs[CONFIDENCE] = result.joint_confidence
        start = RegressorOutput(*(part.to(like) for part in answer))
        fitter = self._fitters[seen is not None]
        reads = fitter.readable(result.keypoints[0].to(like), result.joint_set) is not None
        return OpenPerson(person, MapStart(start, None, outputs, reads=reads))

    @torch.no_grad()
    def fit(
        self,
        opened: OpenPerson,
        keypoints_px: Float[np.ndarray, "K 3"],
        flips: Sequence[tuple[int, int]] = (),
    ) -> Refit:
        """Fit to these keypoints.

        Args:
            opened: The person.
            keypoints_px: x, y in photo pixels and confidence, in the order of the sample.
            flips: Bones of ``map_rules.BONES`` to mirror in depth after the fit, from where the
                solver goes on.

        Raises:
            ValueError: If no keypoint has a confidence above 0.
        """
        if not (np.asarray(keypoints_px)[:, 2] > 0).any():
            raise ValueError("refit: at least one keypoint must be given, got none")
        person = _with_keypoints(opened.person, keypoints_px)
        fitter = self._fitters[person.crop_intrinsics is not None]
        begin = time.perf_counter()
        fits = fitter.solve([(person, opened.start)])
        if flips:
            fits = flip_limbs(fits, self._body, flips, self._config)
        seconds = time.perf_counter() - begin
        ((_, found),) = fitter.to_fits([(person, opened.start)], fits)
        state = MapState(*fits.final)
        # Of a further keypoint as sure as a label is.
        sigma = self._config.sigma * EXTENT_PER_SIZE * fits.problem.frame
        gain = keypoint_gain(fits.problem, state, sigma, self._body)[0].double().cpu().numpy()
        return Refit(person, found, gain, seconds)


def flip_limbs(
    fits: MapFits, body: Smpl, flips: Sequence[tuple[int, int]], config: MapConfig
) -> MapFits:
    """The fits with bones mirrored in depth, and gone on from there, whatever their energy is.

    A bone that the solver takes back is mirrored in the network's answer as well, about which the
    prior is centred: who looks at the photo knows better.
    """
    plan, problem = body.points_plan("smpl24"), fits.problem
    state = MapState(*fits.final)
    for bone in flips:
        state = flip_bone(plan, state, bone, backend=body.backend)
    found = problem.solve(config, begin=state)
    wanted, got, centre = (
        _depths(body, each, flips) for each in (state, state_of(found), problem.centre)
    )
    for k, bone in enumerate(flips):
        if wanted[k] * got[k] < 0 and wanted[k] * centre[k] < 0:
            mirrored = flip_bone(plan, problem.centre, bone, backend=body.backend)
            problem = replace(problem, centre=mirrored)
    if problem is not fits.problem:
        found = problem.solve(config, begin=state)
    sure = fits.joint_sigma_mm
    if sure is not None:
        sure = joint_sigma(problem, state_of(found), found.energy, body)
    return replace(
        fits,
        final=RegressorOutput(found.rotmat, found.betas, found.cam),
        energy=found.energy,
        steps=fits.steps + found.steps,
        converged=found.converged,
        finite=fits.finite & found.finite,
        flipped=torch.ones_like(fits.flipped),
        joint_sigma_mm=sure,
        problem=problem,
    )


def _depths(body: Smpl, state: MapState, bones: Sequence[tuple[int, int]]) -> list[float]:
    """How far the end of each bone of one person is behind its joint, metres."""
    plan = body.points_plan("smpl24")
    places = ops.smpl_points(plan, state.betas, state.rotmat, backend=body.backend)[0]
    return [float(places[end, 2] - places[joint, 2]) for joint, end in bones]


def _with_keypoints(person: Prepared, keypoints_px: Float[np.ndarray, "K 3"]) -> Prepared:
    """The person with other keypoints in the same crop; only ``map`` reads them from ``given``."""
    points = np.array(keypoints_px, np.float64)
    points[points[:, 2] <= 0] = 0.0
    assert person.center is not None
    crop = imaging.Crop(person.center, person.scale)
    given = np.where(points[:, 2:] > 0, crop.normalise(points), 0.0)
    return replace(
        person,
        given=torch.from_numpy(given).to(person.keypoints_2d),
        keypoints_px=points.astype(np.float32),
    )
