"""What is worst, the same in reports, 3D views and reviews: what rules say, then how far off."""

from __future__ import annotations

import math
from typing import Final

#: What rules can say of a fit, the best first.
LEVELS: Final = ("keep", "doubtful", "reject")
#: Who stopped for these has no fit.
NO_FIT: Final = ("nan", "no_keypoints", "bad_image", "interrupted")


def badness(
    level: str, error: float, stop_reason: str, *, message: str = "", remarks: int = 0
) -> tuple[float, float]:
    """The larger, the worse: a rank by words, then the error. No fit stands behind bad ones.

    A message that no rule knows of lifts somebody above those of whom nothing is said; each remark
    lifts a little.

    Args:
        level: One of ``LEVELS``; empty: nobody has judged.
        error: Keypoint error as a share of the person's box; NaN: not known.
        stop_reason: As of ``FitResult``.
        message: As of ``FitResult``.
        remarks: How many there are on what else is to be known.
    """
    has_fit = stop_reason not in NO_FIT
    rank = float(LEVELS.index(level)) if level else 0.0 if has_fit else 2.0
    if rank == 0.0:
        rank = 0.5 if message else min(0.1 * remarks, 0.4)
    return rank, error if has_fit and math.isfinite(error) else -1.0
