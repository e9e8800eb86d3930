"""SPIN: a regressor learns from SMPLify, which starts from the regressor.

One step: predict; fit each person by SMPLify from the prediction; keep the better of that fit and
the best one so far; take an update towards the fits that are good enough, and towards the given
keypoints. The best fits at the end are labels (Kolotouros et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.conventions import HMR_CROP
from eft_fast.geometry.cameras import (
    pinhole_to_weak,
    project_intrinsics,
    weak_project,
    weak_to_pinhole,
)
from eft_fast.geometry.resection import solve_translation
from eft_fast.geometry.rotations import mirror_pose
from eft_fast.losses.keypoints import camera_loss, keypoint_loss
from eft_fast.losses.smpl import betas_loss, rotmat_loss
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.smplify.config import IGNORED, SmplifyConfig, resolve_recipe
from eft_fast.smplify.fit import fit_smplify
from eft_fast.smplify.objective import crop_pinholes
from eft_fast.smplify.prior import load_pose_prior

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_NUM_OPENPOSE: Final = 25
#: Shapes beyond this many standard deviations are not believed: the fit's betas become 0.
_LARGEST_BETA: Final = 3.0


@dataclass(frozen=True)
class SpinConfig:
    """Options of SPIN; the defaults are the published ones.

    Attributes:
        fit: How people are fitted; the start is always the regressor.
        lr: Learning rate of Adam.
        accept: A fit teaches when its score, the mean over 49 keypoints of confidence^2 times
            penalty in square crop pixels, is below this.
        keypoint_weight: Weight of projected keypoints, mean squared error in [-1, 1].
        pose_weight: Weight of the fit's rotations.
        betas_weight: Weight of the fit's shape.
        camera_weight: Weight of exp(-10 s)^2.
        total_weight: Factor of the sum.
        openpose_weight: Weight of the OpenPose block of the 49 keypoints.
    """

    fit: SmplifyConfig = field(default_factory=SmplifyConfig)
    lr: float = 5e-5
    accept: float = 100.0
    keypoint_weight: float = 5.0
    pose_weight: float = 1.0
    betas_weight: float = 1e-3
    camera_weight: float = 1.0
    total_weight: float = 60.0
    openpose_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse options that contradict the method."""
        if resolve_recipe(self.fit).start != "regressor":
            raise ValueError(
                "SpinConfig: fit must start from the regressor, got the start 'mean'; "
                "set SmplifyConfig(start='regressor')"
            )
        if not self.lr >= 0:
            raise ValueError(f"SpinConfig: lr must not be negative, got {self.lr}")


class BestFits:
    """The best fit of every picture so far, in the frame of the picture that is not mirrored.

    Args:
        count: Pictures.
        like: Gives type and device.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        self.rotmat = like.new_zeros(count, 24, 3, 3)
        self.betas = like.new_zeros(count, 10)
        self.camera = like.new_zeros(count, 3)
        self.has_fit = torch.zeros(count, dtype=torch.bool, device=like.device)

    def take(
        self, rows: Int[Tensor, " B"], mirrored: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 24 3 3"], Float[Tensor, "B 10"]]:
        """Rotations and shapes of pictures, as they look mirrored or not."""
        return _mirror(self.rotmat[rows], mirrored), self.betas[rows]

    def put(
        self,
        rows: Int[Tensor, " B"],
        mirrored: Bool[Tensor, " B"],
        output: RegressorOutput,
        which: Bool[Tensor, " B"],
    ) -> None:
        """Store the fits of ``which``."""
        chosen = rows[which]
        self.rotmat[chosen] = _mirror(output.pred_rotmat, mirrored)[which]
        self.betas[chosen] = output.pred_betas[which]
        turned = output.pred_cam * output.pred_cam.new_tensor([1.0, -1.0, 1.0])
        self.camera[chosen] = torch.where(mirrored[:, None], turned, output.pred_cam)[which]
        self.has_fit[chosen] = True


class SpinStep(NamedTuple):
    """What one step did.

    Attributes:
        loss: Training loss of each person before the update.
        score: Score of the fit that taught, or would have.
        is_new: Whose best fit was replaced.
        teaches: Whose fit was good enough.
    """

    loss: Float[Tensor, " B"]
    score: Float[Tensor, " B"]
    is_new: Bool[Tensor, " B"]
    teaches: Bool[Tensor, " B"]


class SpinTrainer:
    """Trains a regressor in the loop with SMPLify.

    Dropout and batch normalisation stay as in use: a person's start must not depend on the others.

    Args:
        regressor: Changed in place.
        body: Body model on the same device.
        count: Pictures of the set, for the store of best fits.
        config: Options.
    """

    def __init__(
        self, regressor: Regressor, body: Smpl, count: int, *, config: SpinConfig | None = None
    ) -> None:
        self.config = config or SpinConfig()
        self._regressor, self._body = regressor.eval(), body
        like = next(regressor.parameters())
        self.best = BestFits(count, like)
        self._prior = load_pose_prior(self.config.fit.prior_source).to(like)
        tuned = [parameter for parameter in regressor.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.Adam(tuned, lr=self.config.lr)

    def step(
        self,
        img: Float[Tensor, "B 3 S S"],
        keypoints_2d: Float[Tensor, "B 49 3"],
        rows: Int[Tensor, " B"],
        *,
        mirrored: Bool[Tensor, " B"] | None = None,
    ) -> SpinStep:
        """Predict, fit, remember, and take one update.

        Args:
            img: Crops, as the regressor takes them, mirrored where ``mirrored`` says so.
            keypoints_2d: Their keypoints in [-1, 1], mirrored alike.
            rows: Number of each picture in the set; each at most once.
            mirrored: Which pictures are mirrored; None: none.
        """
        config = self.config
        if mirrored is None:
            mirrored = torch.zeros_like(rows, dtype=torch.bool)
        # A broken picture would make every weight NaN, however little its loss counts.
        usable = torch.isfinite(img).flatten(1).all(1)
        with torch.enable_grad():
            output = self._regressor(torch.where(usable[:, None, None, None], img, 0.0))
        start = RegressorOutput(*(part.detach() for part in output))
        fits = fit_smplify(self._body, start, keypoints_2d, config=config.fit, prior=self._prior)
        new_score = fit_score(self._body, fits.final, keypoints_2d, config.fit)
        old_rotmat, old_betas = self.best.take(rows, mirrored)
        old = place_fit(self._body, old_rotmat, old_betas, keypoints_2d, config.fit)
        old_score = fit_score(self._body, old, keypoints_2d, config.fit)
        known = self.best.has_fit[rows] & torch.isfinite(old_score)
        is_new = usable & fits.finite & torch.isfinite(new_score)
        is_new &= ~known | (new_score < old_score)
        self.best.put(rows, mirrored, fits.final, is_new)
        score = torch.where(is_new, new_score, torch.where(known, old_score, float("inf")))
        rotmat, betas = self.best.take(rows, mirrored)
        teaches = score < config.accept
        loss = self._loss(output, keypoints_2d, rotmat, believable(betas), teaches)
        self._optimiser.zero_grad(set_to_none=True)
        torch.where(usable, loss, 0.0).mean().backward()
        self._optimiser.step()
        return SpinStep(loss.detach(), score, is_new, teaches)

    def _loss(
        self,
        output: RegressorOutput,
        keypoints_2d: Tensor,
        rotmat: Tensor,
        betas: Tensor,
        teaches: Tensor,
    ) -> Float[Tensor, " B"]:
        config = self.config
        points = _points(self._body, output)
        image = weak_project(points, output.pred_cam)
        weight = torch.ones(49).to(points)
        weight[:_NUM_OPENPOSE] = config.openpose_weight
        given = keypoint_loss(image, keypoints_2d, weight)
        taught = config.pose_weight * rotmat_loss(output.pred_rotmat, rotmat)
        taught = taught + config.betas_weight * betas_loss(output.pred_betas, betas)
        return config.total_weight * (
            config.keypoint_weight * given
            + torch.where(teaches, taught, 0.0)
            + config.camera_weight * camera_loss(output.pred_cam)
        )


@torch.no_grad()
def place_fit(
    body: Smpl,
    rotmat: Float[Tensor, "B 24 3 3"],
    betas: Float[Tensor, "B 10"],
    keypoints_2d: Float[Tensor, "B 49 3"],
    config: SmplifyConfig,
) -> RegressorOutput:
    """A stored fit with the camera that suits the keypoints best, by weighted least squares.

    The weak camera is that of the recipe's pinhole; NaN where too little is labelled.
    """
    nobody = RegressorOutput(rotmat, betas, betas[:, :3])
    pinholes = crop_pinholes(resolve_recipe(config), betas)
    translation = solve_translation(_points(body, nobody), _usable(keypoints_2d), pinholes)
    return RegressorOutput(rotmat, betas, pinhole_to_weak(translation, pinholes))


@torch.no_grad()
def fit_score(
    body: Smpl,
    output: RegressorOutput,
    keypoints_2d: Float[Tensor, "B 49 3"],
    config: SmplifyConfig,
) -> Float[Tensor, " B"]:
    """Mean over 49 keypoints of confidence^2 times the Geman-McClure penalty, square crop pixels.

    Seen by the recipe's pinhole, whatever camera the fit used, so that fits can be compared.
    """
    recipe = resolve_recipe(config)
    pinholes = crop_pinholes(recipe, output.pred_betas)
    placed = weak_to_pinhole(output.pred_cam, pinholes)
    image = project_intrinsics(_points(body, output) + placed[:, None], pinholes)
    given = _usable(keypoints_2d)
    error = HMR_CROP / 2 * (image - given[..., :2])
    sigma = recipe.sigma_px**2
    penalty = sigma * error.square() / (sigma + error.square())
    confidence = given[..., 2]
    return torch.where(confidence > 0, confidence.square() * penalty.sum(-1), 0.0).mean(1)


def believable(betas: Float[Tensor, "B 10"]) -> Float[Tensor, "B 10"]:
    """Shapes with a coefficient beyond three standard deviations become the mean shape."""
    return torch.where(betas.abs().amax(1, keepdim=True) > _LARGEST_BETA, 0.0, betas)


def _usable(keypoints_2d: Tensor) -> Tensor:
    """A copy in which the keypoints that are other points than the body's do not count."""
    kept = torch.where(keypoints_2d[..., 2:] > 0, keypoints_2d, 0.0)
    kept[:, list(IGNORED), 2] = 0
    return kept


def _points(body: Smpl, output: RegressorOutput) -> Float[Tensor, "B 49 3"]:
    return body.keypoints(
        output.pred_betas,
        output.pred_rotmat[:, 1:],
        output.pred_rotmat[:, :1],
        joint_set="spin49",
        pose2rot=False,
    )


def _mirror(rotmat: Float[Tensor, "B 24 3 3"], which: Bool[Tensor, " B"]) -> Tensor:
    """Left and right exchanged, and x reversed, where ``which`` is true."""
    return torch.where(which[:, None, None, None], mirror_pose(rotmat), rotmat)
