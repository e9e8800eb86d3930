"""Keypoints as annotators and detectors give them, for training: noise, gaps, exchanged limbs.

And what the networks would say of people who were never rendered: the truth, plus the error that
they made on a rendered person who looks alike.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.models.movenet_regressor import BaseAnswer, Evidence
from eft_fast.synth.landmarks import NUM_COCO
from eft_fast.training.movenet_cache import CachedEvidence
from eft_fast.training.simulated_people import Dice
from eft_fast.training.targets import Targets

#: Share of people whose keypoints are exact and sure.
_EXACT: Final = 0.2
#: Largest standard deviation, and that of the exact ones, over the longer side of the person.
_NOISE, _EXACT_NOISE = 0.025, 0.004
#: A hidden keypoint is this many times as far off, and so is one in ten of all.
_WORSE, _ODDS_WORSE = 3.0, 0.1
#: Left and right of both joints, of arms and of legs, and how often they are exchanged.
_LIMBS: Final = (((7, 8), (9, 10)), ((13, 14), (15, 16)))
_ODDS_SWAPPED: Final = 0.02
#: Rows of the legs, which some annotators leave out, and how often.
_LEGS: Final = slice(13, 17)
_ODDS_NO_LEGS: Final = 0.05
#: How often many keypoints are missing at random, and how many then.
_ODDS_SPARSE: Final = 0.2
_SPARSE: Final = (0.1, 0.7)
#: Rendered people of whom the one who looks most alike lends the networks' errors.
_CANDIDATES: Final = 96
#: What a keypoint counts that only one of the two shows, in squared metres over all joints.
_SEEN_WEIGHT: Final = 0.15
#: Rendered people of whom the one whom the base got most wrong lends its error now and then.
_FEW: Final = 6
#: Sizes and scales below it, in crop units, are those of nobody.
_SMALLEST: Final = 0.05


def give_keypoints(
    points: Float[Tensor, "N 17 2"],
    seen: Int[Tensor, "N 17"],
    size: Float[Tensor, " N"],
    dice: Dice,
) -> Float[Tensor, "N 17 3"]:
    """Draw keypoints as they might be given: x, y and confidence, 0 where there is none.

    Args:
        points: True places.
        seen: 2 visible, 1 hidden, 0 outside the picture, where nobody can label.
        size: Longer side of each person, in the unit of the places.
        dice: Random numbers.
    """
    count, shape = len(points), seen.shape
    is_exact = dice.happens(count, _EXACT)[:, None]

    def chance() -> Tensor:
        return torch.rand(shape, generator=dice.generator)

    level = torch.where(
        is_exact,
        dice.uniform(count, 0, _EXACT_NOISE)[:, None],
        dice.uniform(count, 0, _NOISE)[:, None],
    )
    is_visible = seen == 2
    spread = torch.where(is_visible, level, _WORSE * level)
    spread = torch.where(chance() < _ODDS_WORSE, _WORSE * spread, spread) * size[:, None]
    places = points + dice.normal(count, NUM_COCO, 2) * spread[..., None]

    of_visible = torch.where(is_exact, 0.0, dice.uniform(count, 0, 0.1)[:, None])
    all_or_none = dice.happens(count, 0.5)[:, None].float()
    of_hidden = torch.where(is_exact, all_or_none, dice.uniform(count, 0.2, 0.8)[:, None])
    missing = chance() < torch.where(is_visible, of_visible, of_hidden)
    gaps = dice.uniform(count, *_SPARSE) * dice.happens(count, _ODDS_SPARSE)
    missing |= chance() < gaps[:, None]
    missing[:, _LEGS] |= dice.happens(count, _ODDS_NO_LEGS)[:, None]

    unsure = torch.where(dice.happens(count, 0.5)[:, None], 0.5, 0.35 + 0.3 * chance())
    confidence = torch.where(is_visible, 0.6 + 0.4 * chance(), unsure)
    confidence = torch.where(is_exact, 1.0, confidence)
    for limb in _LIMBS:
        swapped = dice.happens(count, _ODDS_SWAPPED)[:, None] & ~is_exact
        for left, right in limb:
            pair, other = [left, right], [right, left]
            places[:, pair] = torch.where(swapped[..., None], places[:, other], places[:, pair])
            lower = 0.8 * confidence[:, other]
            confidence[:, pair] = torch.where(swapped, lower, confidence[:, pair])
    possible = seen > 0
    there = possible & ~missing
    # Whoever is left with too few keeps all.
    there = torch.where((there.sum(1) < 3)[:, None], possible, there)
    given = torch.cat([places, confidence[..., None]], -1)
    return torch.where(there[..., None], given, 0.0)


class TrunkErrors:
    """What the networks said of rendered people, against the truth.

    Args:
        evidence: Of the rendered people.
        targets: Their labels, mirrored where the evidence is.
        seen: As of ``give_keypoints``, of the same people.
        worse_base: Odds of a simulated person to get one of the base's greater errors, since real
            pictures are harder for it than rendered ones.
    """

    def __init__(
        self,
        evidence: CachedEvidence,
        targets: Targets,
        seen: Int[Tensor, "N 17"],
        *,
        worse_base: float = 0.0,
    ) -> None:
        true = targets.landmarks_2d[:, :NUM_COCO]
        size = targets.size[:, :, None]
        self._joints, self._seen = targets.joints, seen == 2
        self._points = (evidence.points[..., :2] - true) / size
        self._about = (evidence.about - true) / size
        self._score = evidence.points[..., 2:]
        self._spread = evidence.spread / targets.size
        center = _mean_place(true, seen > 0)
        self._places = (true - center) / size
        self._base = None if evidence.base is None else _base_errors(evidence.base, targets)
        self._worse_base = worse_base

    def find(self, targets: Targets, seen: Int[Tensor, "N 17"], dice: Dice) -> Evidence:
        """What the networks might say of people without a picture."""
        rows = self._candidates(len(seen), dice)
        gap = (self._joints[rows] - targets.joints[:, None]).square().sum((2, 3))
        differs: Bool[Tensor, "N C 17"] = self._seen[rows] != (seen == 2)[:, None]
        gap = gap + _SEEN_WEIGHT * differs.sum(2)
        donor = rows.gather(1, gap.argmin(1, keepdim=True))[:, 0]
        true, size = targets.landmarks_2d[:, :NUM_COCO], targets.size[:, :, None]
        base = None
        if self._base is not None:
            # Of a few people drawn at random the one whom it got most wrong.
            few = rows[:, :_FEW]
            wrong = few.gather(1, self._base.wrong[few].argmax(1, keepdim=True))[:, 0]
            lender = torch.where(dice.happens(len(donor), self._worse_base), wrong, donor)
            rotmat, betas, ratio, shift, confidence, _ = (part[lender] for part in self._base)
            camera = targets.camera
            place = camera[:, 1:] + shift * targets.size
            base = BaseAnswer(
                targets.rotmat @ rotmat,
                betas,
                torch.cat([camera[:, :1] * ratio, place], 1),
                confidence,
            )
        return self._evidence(donor, true, size, base)

    def find_labelled(self, labels: Float[Tensor, "N 17 3"], dice: Dice) -> Evidence:
        """What the keypoint network might say of labelled people; of the base nobody knows.

        Args:
            labels: x, y and 1 where there is a label, 0 elsewhere. Where there is none, what it
                says of the rendered person who looks most alike stands.
            dice: Random numbers.
        """
        there = labels[..., 2] > 0
        center = _mean_place(labels[..., :2], there)
        away = (labels[..., :2] - center) * there[..., None]
        square = away.square().sum((1, 2)) / there.sum(1).clamp_min(1)
        size = square.sqrt().clamp_min(_SMALLEST)[:, None, None]
        rows = self._candidates(len(labels), dice)
        gap = (self._places[rows] - (away / size)[:, None]).square().sum(3)
        gap = (gap * there[:, None]).sum(2)
        gap = gap + (self._seen[rows] != there[:, None]).sum(2)
        donor = rows.gather(1, gap.argmin(1, keepdim=True))[:, 0]
        guessed = center + self._places[donor] * size
        true = torch.where(there[..., None], labels[..., :2], guessed)
        return self._evidence(donor, true, size, None)

    def _candidates(self, count: int, dice: Dice) -> Int[Tensor, "N C"]:
        shape = (count, _CANDIDATES)
        return torch.randint(len(self._seen), shape, generator=dice.generator)

    def _evidence(
        self, donor: Int[Tensor, " N"], true: Tensor, size: Tensor, base: BaseAnswer | None
    ) -> Evidence:
        points = true + self._points[donor] * size
        return Evidence(
            torch.cat([points, self._score[donor]], -1),
            true + self._about[donor] * size,
            self._spread[donor] * size[:, 0],
            base,
        )


class BaseErrors(NamedTuple):
    """How the base's answer differs from the truth.

    Attributes:
        rotmat: From the true rotation of each joint to the answered one.
        betas: The answered shape itself: it says next to nothing of the true one.
        ratio: Answered over true scale.
        shift: Answered minus true shift, in frame sizes.
        confidence: Of each joint, as answered.
        wrong: Mean angle of the rotations' errors, radians.
    """

    rotmat: Float[Tensor, "N 24 3 3"]
    betas: Float[Tensor, "N 10"]
    ratio: Float[Tensor, "N 1"]
    shift: Float[Tensor, "N 2"]
    confidence: Float[Tensor, "N 24"]
    wrong: Float[Tensor, " N"]


def _base_errors(base: BaseAnswer, targets: Targets) -> BaseErrors:
    true = targets.camera
    rotmat = targets.rotmat.transpose(-1, -2) @ base.rotmat
    cosine = (rotmat.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return BaseErrors(
        rotmat,
        base.betas,
        base.camera[:, :1] / true[:, :1].clamp_min(_SMALLEST),
        (base.camera[:, 1:] - true[:, 1:]) / targets.size,
        base.confidence,
        cosine.clamp(-1, 1).arccos().mean(1),
    )


def _mean_place(
    points: Float[Tensor, "N 17 2"], there: Bool[Tensor, "N 17"]
) -> Float[Tensor, "N 1 2"]:
    weight = there.to(points)[..., None]
    mean: Tensor = (points * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
    return mean
