"""Which fits are good enough to be training data: named rules on two levels, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.conventions import BOX_UNIT
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import to_spin49
from eft_fast.losses.keypoints import eft_loss
from eft_fast.losses.priors import mixture_loss
from eft_fast.plausible import find_swapped_sides
from eft_fast.result import FitResult
from eft_fast.smplify.prior import load_pose_prior

KEEP: Final = "keep"
DOUBTFUL: Final = "doubtful"
REJECT: Final = "reject"
LEVELS: Final = (KEEP, DOUBTFUL, REJECT)
#: Rule of people whom somebody has rejected.
BY_HAND: Final = "by_hand"
#: Rules that no verdict by hand overrides: there is nothing to learn from.
NEVER: Final = ("failed", "not_finite")

_FAILED: Final = ("bad_image", "no_keypoints", "interrupted")
#: Ankles, knees, hips, wrists, elbows and shoulders of the 24: what EFT's export asks for.
_LIMBS: Final = tuple(range(25, 37))


@dataclass(frozen=True)
class SelectLimits:
    """Limits of the rules; None, 0 or False switches a rule off, as they do here.

    Attributes:
        max_beta: Largest shape coefficient.
        max_loss_2d: Largest 2D loss of the fit.
        max_init_loss_2d: The same of the regressor alone.
        min_limbs: Fewest labelled ones of the twelve limb joints.
        min_keypoints: Fewest labelled keypoints.
        min_confidence: Least ``FitResult.person_confidence``; people of whom nothing is said pass.
        max_pose: How unlikely the pose may be under the open pose prior: the negative logarithm of
            the most likely Gaussian (``losses.priors.mixture_loss``).
        max_overbend_deg: How far one of the 69 numbers of the pose may leave the range of the open
            prior, degrees.
        max_sigma_mm: Largest mean of ``FitResult.joint_sigma_mm``; people of whom nothing is said
            pass.
        swapped: Whether left and right of the keypoints must not look exchanged against the
            regressor's answer (``plausible.find_swapped_sides``).
    """

    max_beta: float | None = None
    max_loss_2d: float | None = None
    max_init_loss_2d: float | None = None
    min_limbs: int = 0
    min_keypoints: int = 0
    min_confidence: float | None = None
    max_pose: float | None = None
    max_overbend_deg: float | None = None
    max_sigma_mm: float | None = None
    swapped: bool = False


#: What makes a fit doubtful. An angle beyond its range by 10 degrees: 0.7 % of 1,418 validation
#: frames of motion capture, 0.7 % of 3,000 drawn postures (sitting, crouching, riding ...), 74 %
#: and 72 % of the same with one limb joint turned by 90 degrees. A pose above 500: none, 5 %, 26 %
#: and 43 %. Losses: EFT's strict final one, its initial one.
DOUBTS: Final = SelectLimits(
    max_beta=2.0,
    max_loss_2d=3e-4,
    max_init_loss_2d=0.03,
    min_limbs=6,
    min_confidence=0.5,
    max_pose=500.0,
    max_overbend_deg=10.0,
)


@dataclass(frozen=True)
class SelectConfig:
    """Limits beyond which a fit is rejected, and those beyond which it is doubtful.

    The defaults are the limits that EFT's export code names; losses are its 2D loss, the mean over
    49 x 2 of confidence * (difference in half crops)^2 without hips and ankles.

    Attributes:
        max_beta: As of ``SelectLimits``, and so are the following.
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
        min_limbs: Fewest labelled limb joints.
        max_pose: Off by default: the prior knows standing, dancing and sports, and hardly any
            sitting. 200 takes 0.07 % of validation motion capture, but 85 % of drawn postures.
        max_overbend_deg: 30 degrees take 0.4 % of validation motion capture, 0.03 % of drawn
            postures, and 53 % and 54 % of those with one limb joint turned by 90 degrees.
        max_sigma_mm: Off by default.
        swapped: Whether exchanged sides reject.
        doubt: Limits of the level below; None: nobody is doubtful.
        strict: Whether the doubtful are left out as well.
    """

    max_beta: float | None = 3.0
    max_loss_2d: float | None = 1e-3
    max_init_loss_2d: float | None = None
    all_limbs: bool = False
    min_keypoints: int = 1
    min_confidence: float | None = 0.2
    min_limbs: int = 0
    max_pose: float | None = None
    max_overbend_deg: float | None = 30.0
    max_sigma_mm: float | None = None
    swapped: bool = True
    doubt: SelectLimits | None = DOUBTS
    strict: bool = False

    @property
    def limits(self) -> SelectLimits:
        """The limits of rejection."""
        return SelectLimits(
            max_beta=self.max_beta,
            max_loss_2d=self.max_loss_2d,
            max_init_loss_2d=self.max_init_loss_2d,
            min_limbs=len(_LIMBS) if self.all_limbs else self.min_limbs,
            min_keypoints=self.min_keypoints,
            min_confidence=self.min_confidence,
            max_pose=self.max_pose,
            max_overbend_deg=self.max_overbend_deg,
            max_sigma_mm=self.max_sigma_mm,
            swapped=self.swapped,
        )


@dataclass(frozen=True)
class Selection:
    """Who is kept, and why the others are not.

    Attributes:
        keep: One flag per person: not rejected, and not doubtful either if ``strict``.
        reasons: Names of the rules for which each person is rejected; empty for the others.
        loss_2d: 2D loss of each fit; NaN where there is none.
        confidence: ``FitResult.person_confidence``, to rank by; NaN where nothing is said.
        level: ``keep``, ``doubtful`` or ``reject`` of each person.
        doubts: Names of the rules for which each person is doubtful at least.
    """

    keep: Bool[np.ndarray, " N"]
    reasons: tuple[tuple[str, ...], ...]
    loss_2d: Float[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    level: tuple[str, ...] = ()
    doubts: tuple[tuple[str, ...], ...] = ()

    def counts(self) -> dict[str, int]:
        """How many people each rule rejects; somebody who broke two is counted twice."""
        return dict(Counter(name for reasons in self.reasons for name in reasons))

    def doubt_counts(self) -> dict[str, int]:
        """How many of the doubtful people are so by each rule."""
        pairs = zip(self.level, self.doubts, strict=True)
        return dict(Counter(n for level, names in pairs if level == DOUBTFUL for n in names))

    def statistics(self) -> dict[str, object]:
        """People on each level and by rule: what reports print."""
        found = Counter(self.level)
        return {
            **{level: found[level] for level in LEVELS},
            "rejected_by": self.counts(),
            "doubtful_by": self.doubt_counts(),
        }

    def with_verdicts(self, verdicts: Sequence[str | None], *, strict: bool = False) -> Selection:
        """The same after somebody has looked: ``keep`` or ``reject`` of each person, or None.

        A verdict overrides every rule but ``NEVER``.

        Raises:
            ValueError: If there are more or fewer verdicts than people, or one is another word.
        """
        if len(verdicts) != len(self.level) or not set(verdicts) <= {None, KEEP, REJECT}:
            raise ValueError(
                f"Selection.with_verdicts: expected {len(self.level)} of keep, reject and None, "
                f"got {len(verdicts)} of {sorted(map(str, set(verdicts)))}"
            )
        level, reasons = list(self.level), list(self.reasons)
        doubts = list(self.doubts)
        for row, verdict in enumerate(verdicts):
            if verdict == REJECT:
                level[row], reasons[row] = REJECT, (*reasons[row], BY_HAND)
            elif verdict == KEEP and not set(reasons[row]) & set(NEVER):
                level[row], reasons[row], doubts[row] = KEEP, (), ()
        return replace(
            self,
            keep=_kept(level, strict),
            level=tuple(level),
            reasons=tuple(reasons),
            doubts=tuple(doubts),
        )


def select_fits(
    result: FitResult,
    config: SelectConfig | None = None,
    *,
    verdicts: Sequence[str | None] | None = None,
) -> Selection:
    """Apply every rule to each person.

    The rules are ``failed``, ``not_finite``, ``betas``, ``loss_2d``, ``init_loss_2d``, ``limbs``,
    ``few_keypoints``, ``unsure``, ``pose``, ``overbend``, ``sigma``, ``swapped`` and, of verdicts,
    ``by_hand``.

    Args:
        result: The fits; those of another body than the open one need ``with_body``.
        config: Limits.
        verdicts: What somebody said of each person, see ``Selection.with_verdicts``.

    Example:
        >>> chosen = select_fits(result)
        >>> good = result[chosen.keep]
    """
    config = config if config is not None else SelectConfig()
    measures = _measure(result)
    broken = {
        "failed": np.isin(np.array(result.stop_reason, dtype=np.str_), _FAILED),
        "not_finite": ~measures.finite,
        **_broken(measures, config.limits),
    }
    doubted = (
        broken
        if config.doubt is None
        else broken | _either(broken, _broken(measures, config.doubt))
    )
    reasons, doubts = (_names(rules, len(result)) for rules in (broken, doubted))
    level = [
        REJECT if why else DOUBTFUL if doubt else KEEP
        for why, doubt in zip(reasons, doubts, strict=True)
    ]
    chosen = Selection(
        keep=_kept(level, config.strict),
        reasons=reasons,
        loss_2d=measures.loss,
        confidence=measures.confidence,
        level=tuple(level),
        doubts=doubts,
    )
    return chosen if verdicts is None else chosen.with_verdicts(verdicts, strict=config.strict)


@dataclass(frozen=True, eq=False)
class _Measures:
    """What the rules look at, one value per person; NaN where there is nothing to look at."""

    finite: Bool[np.ndarray, " N"]
    betas: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    init_loss: npt.NDArray[np.float64]
    limbs: npt.NDArray[np.int64]
    keypoints: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    pose: npt.NDArray[np.float64]
    overbend: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]
    swapped: Bool[np.ndarray, " N"]


def _measure(result: FitResult) -> _Measures:
    keypoints = result.keypoints.numpy()
    labelled = to_spin49(keypoints, result.joint_set)[..., 2] > 0
    given = np.isfinite(keypoints).all(-1) & (np.nan_to_num(keypoints[..., 2]) > 0)
    final, init = (loss_2d(result, which).numpy() for which in ("final", "init"))
    finite = (
        torch.isfinite(result.params.full_pose).flatten(1).all(1)
        & torch.isfinite(result.params.betas).all(1)
        & torch.isfinite(result.pred_cam).all(1)
    ).numpy()
    pose, overbend = _pose_measures(result)
    sigma = result.joint_sigma_mm
    return _Measures(
        finite=finite,
        betas=result.params.betas.abs().amax(1).double().numpy(),
        loss=final,
        init_loss=init,
        limbs=labelled[:, _LIMBS].sum(1),
        keypoints=given.sum(1),
        confidence=_or_nan(result.person_confidence, len(result)),
        pose=pose,
        overbend=overbend,
        sigma=_or_nan(None if sigma is None else sigma.mean(1), len(result)),
        swapped=_swapped(result),
    )


def _or_nan(values: Tensor | None, count: int) -> npt.NDArray[np.float64]:
    return np.full(count, np.nan) if values is None else values.double().numpy()


@torch.no_grad()
def _pose_measures(result: FitResult) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How unlikely each pose is, and how far its worst angle leaves its range, degrees."""
    prior = load_pose_prior()
    pose = matrix_to_axis_angle(result.params.body_pose.double()).reshape(len(result), 69)
    finite = torch.isfinite(pose).all(1)
    held = torch.where(finite[:, None], pose, 0.0)
    unlikely = torch.where(finite, mixture_loss(prior.mixture, held), float("nan"))
    excess = torch.maximum(prior.limits.lower - pose, pose - prior.limits.upper).clamp_min(0.0)
    return unlikely.numpy(), torch.rad2deg(excess.amax(1)).numpy()


def _swapped(result: FitResult) -> Bool[np.ndarray, " N"]:
    """Whose labels look exchanged against the regressor's answer."""
    if not len(result):
        return np.zeros(0, bool)
    projected = result.keypoints_2d_px(which="init").double().numpy()
    keypoints = result.keypoints.double().numpy()
    pairs = zip(projected, keypoints, strict=True)
    return np.array([bool(find_swapped_sides(*pair, result.joint_set)) for pair in pairs], bool)


def _broken(found: _Measures, limits: SelectLimits) -> dict[str, npt.NDArray[np.bool_]]:
    """Who breaks each rule. A comparison with NaN is false: what is not known breaks nothing."""
    least = -np.inf if limits.min_confidence is None else limits.min_confidence
    return {
        "betas": _above(found.betas, limits.max_beta),
        "loss_2d": _above(found.loss, limits.max_loss_2d),
        "init_loss_2d": _above(found.init_loss, limits.max_init_loss_2d),
        "limbs": found.limbs < limits.min_limbs,
        "few_keypoints": found.keypoints < limits.min_keypoints,
        "unsure": found.confidence < least,
        "pose": _above(found.pose, limits.max_pose),
        "overbend": _above(found.overbend, limits.max_overbend_deg),
        "sigma": _above(found.sigma, limits.max_sigma_mm),
        "swapped": found.swapped & limits.swapped,
    }


def _either(
    one: Mapping[str, npt.NDArray[np.bool_]], other: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, npt.NDArray[np.bool_]]:
    return {name: one[name] | rule for name, rule in other.items()}


def _names(broken: Mapping[str, npt.NDArray[np.bool_]], count: int) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(name for name, rule in broken.items() if rule[row]) for row in range(count))


def _kept(level: Sequence[str], strict: bool) -> npt.NDArray[np.bool_]:
    return np.array([name == KEEP or (name == DOUBTFUL and not strict) for name in level], bool)


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
