"""Every rule of the selection has words."""

from __future__ import annotations

import numpy as np

from eft_fast.pseudo_gt import select, to_words
from eft_fast.pseudo_gt.words import RULE_WORDS


def test_every_rule_has_words():
    """The names of the rules are those of the measures and the three that stand outside."""
    found = select._Measures(
        finite=np.ones(1, bool),
        swapped=np.zeros(1, bool),
        **{
            name: np.zeros(1)
            for name in ("betas", "loss", "init_loss", "limbs", "keypoints", "confidence",
                         "pose", "overbend", "sigma")
        },
    )  # fmt: skip
    rules = {*select._broken(found, select.SelectLimits()), *select.NEVER, select.BY_HAND}
    assert rules == set(RULE_WORDS)
    assert len(set(RULE_WORDS.values())) == len(RULE_WORDS)
    assert to_words(["swapped", "rule of tomorrow"]) == [
        "left and right look exchanged",
        "rule of tomorrow",
    ]
