"""Options of the direct fit. Every default was chosen on validation people, see docs/map.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eft_fast.models.keypoint_noise import KeypointNoise

#: What fills keypoints that are not given: nothing, the landmarks of the regressor's trunk, or the
#: keypoints of MoveNet, which looks at the same crop.
FILLS: Final = ("none", "landmarks", "movenet")


@dataclass(frozen=True)
class MapConfig:
    """Options of ``method="map"``.

    Lengths called sigma are standard deviations of a keypoint in units of the person's extent,
    ``conventions.EXTENT_PER_SIZE`` times f. Energies and margins are those of ``fit``: twice a
    negative log probability, so that a margin of 10 stands for odds of 150 to 1. The tension of a
    fit is its energy over the number of its data, 1 where model and data agree.

    Attributes:
        covariance: File of the regressor's error covariance; None: that of the package's regressor.
        sigma: Of a keypoint.
        sigma_unsure: Of a keypoint whose confidence is not above ``sure_above``.
        sure_above: Confidence that parts the two.
        keypoint_noise: Where the keypoints come from, instead of the three above: a curve from
            confidence to sigma by its name in ``models.keypoint_noise.CURVES``, a
            ``KeypointNoise``, or a file of ``eft-fast calibrate --keypoint-pairs``.
        sigma_3d: Of a 3D keypoint, metres.
        distance: Where the photo's pinhole is not given, the distance in metres from which a
            pinhole is assumed to see the person; None: the weak camera.
        max_steps: Solves at most; later stages, which begin at an answer, need fewer.
        tolerance: Relative decrease of the energy below which a person is done.
        hard_above: Tension above which a person gets more than one fit: what follows.
        hypotheses: Try the root turned round and the bones flipped in depth.
        flip_steps: Solves of a flipped bone before the best is chosen.
        flip_margin: Decrease of the energy for which a flipped bone is taken.
        turn_margin: The same of the turned root, about which the prior turns as well.
        swaps: Try left and right of the arms exchanged.
        swap_margin: Decrease of the energy for which exchanged arms are taken.
        leg_margin: The same at which exchanged legs are reported; they are never taken.
        robust: Reweight keypoints after convergence.
        robust_margin: Decrease of the energy, its penalty bounded by k^2 for each keypoint, for
            which the reweighted fit is taken.
        robust_k: Errors of this many sigma count a quarter.
        robust_rounds: Rounds of reweighting.
        robust_steps: Solves of each round at most.
        fill: One of ``FILLS``.
        fill_above: Least score of the keypoints of MoveNet that fill. What is hidden or outside of
            the picture mostly has less than 0.3.
        read_keypoints: Let a regressor that can read keypoints (``Regressor.reads_keypoints``) see
            those that are given, if it is known how wrong it is then.
        posterior: Say how sure each joint is.
        batch: People fitted at once.
    """

    covariance: str | Path | None = None
    sigma: float = 0.015
    sigma_unsure: float = 0.045
    sure_above: float = 0.55
    keypoint_noise: str | Path | KeypointNoise | None = None
    sigma_3d: float = 0.02
    distance: float | None = 5.0
    max_steps: int = 40
    tolerance: float = 1e-5
    hard_above: float = 0.75
    hypotheses: bool = True
    flip_steps: int = 10
    flip_margin: float = 2.0
    turn_margin: float = 15.0
    swaps: bool = True
    swap_margin: float = 30.0
    leg_margin: float = 30.0
    robust: bool = True
    robust_margin: float = 30.0
    robust_k: float = 4.0
    robust_rounds: int = 6
    robust_steps: int = 6
    fill: str = "none"
    fill_above: float = 0.0
    read_keypoints: bool = True
    posterior: bool = True
    batch: int = 256

    def __post_init__(self) -> None:
        """Refuse values that no fit can use."""
        if self.fill not in FILLS:
            raise ValueError(
                f"MapConfig: fill must be one of {', '.join(FILLS)}, got {self.fill!r}"
            )
        if not 0 <= self.fill_above <= 1:
            raise ValueError(
                f"MapConfig: fill_above must be a score, 0 to 1, got {self.fill_above}"
            )
        if self.fill_above and self.fill != "movenet":
            raise ValueError(
                "MapConfig: fill_above goes with fill='movenet', got fill="
                f"{self.fill!r}; leave it out"
            )
        for name in ("max_steps", "flip_steps", "robust_rounds", "robust_steps", "batch"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"MapConfig: {name} must be at least 1, got {value}")
        for name in ("sigma", "sigma_unsure", "sigma_3d", "robust_k"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"MapConfig: {name} must be positive and finite, got {value}")
        if self.distance is not None and not 0 < self.distance < float("inf"):
            raise ValueError(
                f"MapConfig: distance must be positive, or None for the weak camera, "
                f"got {self.distance}"
            )
        for name in (
            "tolerance", "hard_above", "flip_margin", "turn_margin", "swap_margin",
            "leg_margin", "robust_margin",
        ):  # fmt: skip
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"MapConfig: {name} must not be negative, got {value}")


#: One solve for everybody: no hypotheses, exchanged arms, robust weights or posterior.
SOLVER_ONLY: Final = MapConfig(hypotheses=False, swaps=False, robust=False, posterior=False)
