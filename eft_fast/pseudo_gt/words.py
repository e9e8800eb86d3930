"""The rules of ``select`` in the words of a reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Name of a rule to what it says of a fit.
RULE_WORDS: Final = {
    "failed": "no fit",
    "not_finite": "numbers are not finite",
    "betas": "unusual shape",
    "loss_2d": "far from its keypoints",
    "init_loss_2d": "started far off",
    "limbs": "few limb joints labelled",
    "few_keypoints": "few keypoints labelled",
    "unsure": "the regressor was unsure of its start",
    "pose": "implausible pose",
    "overbend": "a joint bent beyond its range",
    "sigma": "wide error bars",
    "swapped": "left and right look exchanged",
    "by_hand": "rejected by hand",
}


def to_words(rules: Sequence[str]) -> list[str]:
    """What each rule says of a fit; rules without words keep their names."""
    return [RULE_WORDS.get(rule, rule) for rule in rules]
