"""Keypoints as annotators and detectors give them, for training: noise, gaps, exchanged limbs.

And keypoints as the trunk would find them of people who were never rendered: the truth, plus the
error that it made on a rendered person who looks alike.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.models.movenet_regressor import Evidence
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
#: Rendered people of whom the one who looks most alike lends the trunk's error.
_CANDIDATES: Final = 24
#: What a keypoint counts that only one of the two shows, in squared metres over all joints.
_SEEN_WEIGHT: Final = 0.15


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
    """What the trunk found of rendered people, against the truth.

    Args:
        evidence: Of the rendered people.
        targets: Their labels, mirrored where the evidence is.
        seen: As of ``give_keypoints``, of the same people.
    """

    def __init__(
        self, evidence: CachedEvidence, targets: Targets, seen: Int[Tensor, "N 17"]
    ) -> None:
        true = targets.landmarks_2d[:, :NUM_COCO]
        size = targets.size[:, :, None]
        self._joints, self._seen = targets.joints, seen == 2
        self._points = (evidence.points[..., :2] - true) / size
        self._about = (evidence.about - true) / size
        self._score = evidence.points[..., 2:]
        self._spread = evidence.spread / targets.size

    def find(self, targets: Targets, seen: Int[Tensor, "N 17"], dice: Dice) -> Evidence:
        """Keypoints as the trunk might find them of people without a picture."""
        count = len(targets.betas)
        rows = torch.randint(len(self._seen), (count, _CANDIDATES), generator=dice.generator)
        gap = (self._joints[rows] - targets.joints[:, None]).square().sum((2, 3))
        differs: Bool[Tensor, "N C 17"] = self._seen[rows] != (seen == 2)[:, None]
        gap = gap + _SEEN_WEIGHT * differs.sum(2)
        donor = rows.gather(1, gap.argmin(1, keepdim=True))[:, 0]
        true, size = targets.landmarks_2d[:, :NUM_COCO], targets.size[:, :, None]
        points = true + self._points[donor] * size
        return Evidence(
            torch.cat([points, self._score[donor]], -1),
            true + self._about[donor] * size,
            self._spread[donor] * targets.size,
            None,
            None,
        )
