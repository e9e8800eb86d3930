"""2D measures: how far projected keypoints lie from the labelled ones."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def pck(
    distance: Float[Tensor, "N K"], size: Float[Tensor, " N"], *, fraction: float = 0.1
) -> float:
    """Share of labelled keypoints that lie within ``fraction`` of the person's size.

    Args:
        distance: Distances in pixels; NaN where a keypoint is not labelled.
        size: Size of each person in pixels, usually the root of the box area.
        fraction: Tolerance as a part of the size.

    Returns:
        A share in [0, 1] over all keypoints of all people; NaN if none is labelled.
    """
    if distance.ndim != 2 or size.shape != distance.shape[:1]:
        raise ValueError(
            f"pck: distance must be [N, K] and size [N], "
            f"got {list(distance.shape)} and {list(size.shape)}"
        )
    labelled = ~distance.isnan()
    within = (distance < fraction * size[:, None]) & labelled
    count = int(labelled.sum())
    return float(within.sum()) / count if count else float("nan")
