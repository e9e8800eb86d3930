"""Which fits are good enough to be training data: named rules, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.conventions import BOX_UNIT
from eft_fast.keypoints import to_spin49
from eft_fast.losses.keypoints import eft_loss
from eft_fast.result import FitResult

_FAILED: Final = ("bad_image", "no_keypoints", "interrupted")
#: Ankles, knees, hips, wrists, elbows and shoulders of the 24: what EFT's export asks for.
_LIMBS: Final = tuple(range(25, 37))


@dataclass(frozen=True)
class SelectConfig:
    """Limits of the rules; None switches a rule off.

    The defaults are the limits that EFT's export code names; losses are its 2D loss, the mean over
    49 x 2 of confidence * (difference in half crops)^2 without hips and ankles.

    Attributes:
        max_beta: Largest shape coefficient.
        max_loss_2d: Largest 2D loss of the fit.
        max_init_loss_2d: The same of the regressor alone; a fit that started far off is often
            wrong in depth.
        all_limbs: Whether all twelve limb joints must be labelled.
        min_keypoints: Fewest labelled keypoints.
        min_confidence: Least ``FitResult.person_confidence``: how sure the regressor was of its
            start. A fit that starts in the wrong place can look right in 2D and be wrong in depth.
            People of whom nothing is said pass. On 200 validation renders (EFT's defaults,
            keypoints of a detector's quality) 0.2 takes 2 of the 186 fits that pass the other
            rules, with a MPJPE of 239 mm where all have 128, and none of the 60 with a PA-MPJPE
            below 60 mm; 0.5 takes 66: 18 of the 31 above 120 mm, and 15 of those 60.
    """

    max_beta: float | None = 3.0
    max_loss_2d: float | None = 1e-3
    max_init_loss_2d: float | None = None
    all_limbs: bool = False
    min_keypoints: int = 1
    min_confidence: float | None = 0.2


@dataclass(frozen=True)
class Selection:
    """Who is kept, and why the others are not.

    Attributes:
        keep: One flag per person.
        reasons: Names of the rules that each person broke; empty for those who are kept.
        loss_2d: 2D loss of each fit; NaN where there is none.
        confidence: ``FitResult.person_confidence``, to rank by; NaN where nothing is said.
    """

    keep: Bool[np.ndarray, " N"]
    reasons: tuple[tuple[str, ...], ...]
    loss_2d: Float[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]

    def counts(self) -> dict[str, int]:
        """How many people broke each rule; somebody who broke two is counted twice."""
        return dict(Counter(name for reasons in self.reasons for name in reasons))


def select_fits(result: FitResult, config: SelectConfig | None = None) -> Selection:
    """Apply every rule to each person.

    The rules are ``failed``, ``not_finite``, ``betas``, ``loss_2d``, ``init_loss_2d``, ``limbs``,
    ``few_keypoints`` and ``unsure``.

    Args:
        result: The fits; those of another body than the open one need ``with_body``.
        config: Limits.

    Example:
        >>> chosen = select_fits(result)
        >>> good = result[chosen.keep]
    """
    config = config if config is not None else SelectConfig()
    keypoints = result.keypoints.numpy()
    labelled = to_spin49(keypoints, result.joint_set)[..., 2] > 0
    given = np.isfinite(keypoints).all(-1) & (np.nan_to_num(keypoints[..., 2]) > 0)
    final, init = (loss_2d(result, which).numpy() for which in ("final", "init"))
    betas = result.params.betas.abs().amax(1).numpy()
    finite = (
        torch.isfinite(result.params.full_pose).flatten(1).all(1)
        & torch.isfinite(result.params.betas).all(1)
        & torch.isfinite(result.pred_cam).all(1)
    ).numpy()
    said = result.person_confidence
    confidence = np.full(len(result), np.nan) if said is None else said.double().numpy()
    least = -np.inf if config.min_confidence is None else config.min_confidence
    broken = {
        "failed": np.isin(np.array(result.stop_reason, dtype=np.str_), _FAILED),
        "not_finite": ~finite,
        # A comparison with NaN is false, so that nobody is counted here for being not finite.
        "betas": _above(betas, config.max_beta),
        "loss_2d": _above(final, config.max_loss_2d),
        "init_loss_2d": _above(init, config.max_init_loss_2d),
        "limbs": ~labelled[:, _LIMBS].all(1) if config.all_limbs else np.zeros(len(result), bool),
        "few_keypoints": given.sum(1) < config.min_keypoints,
        "unsure": confidence < least,
    }
    reasons = tuple(
        tuple(name for name, rule in broken.items() if rule[row]) for row in range(len(result))
    )
    keep = np.array([not names for names in reasons], dtype=bool)
    return Selection(keep, reasons, final, confidence)


@torch.no_grad()
def loss_2d(result: FitResult, which: str = "final") -> Float[Tensor, " N"]:
    """Return EFT's 2D loss of each person, ``final`` or of the ``init``."""
    if not len(result):
        return torch.zeros(0)
    prediction = result.init if which == "init" else result
    points = result.joints3d("spin49", which)
    half = (BOX_UNIT / 2 * result.bbox_scale)[:, None, None]
    spin49 = torch.from_numpy(to_spin49(result.keypoints.numpy(), result.joint_set)).float()
    crop = torch.cat([(spin49[..., :2] - result.bbox_center[:, None]) / half, spin49[..., 2:]], -1)
    terms = eft_loss(points, result.params.betas, prediction.pred_cam, crop.to(points))
    return terms.keypoint


def _above(values: np.ndarray, limit: float | None) -> np.ndarray:
    above: np.ndarray = np.zeros(len(values), bool) if limit is None else values > limit
    return above
