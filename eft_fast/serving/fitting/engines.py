"""What fits people in crops: numpy, from the model's answers, or the file that fits as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from eft_fast.keypoints import JointSet, is_labelled
from eft_fast.map_fit.config import MapConfig
from eft_fast.serving.fit_model import FitModel
from eft_fast.serving.fitting.asset import FitAsset
from eft_fast.serving.fitting.energy import State
from eft_fast.serving.fitting.fit import Fits, fit_people

#: Options of ``MapConfig`` that the file leaves to its caller.
_FREE: Final = ("sigma", "sigma_unsure", "sure_above", "keypoint_noise", "posterior", "batch")


@dataclass(frozen=True, eq=False)
class NumpySolver:
    """Fits in numpy.

    Args:
        infer: From crops to the model's outputs.
        asset: Body and covariance.
        points: Joint set of the keypoints.
        config: Options.
    """

    infer: Callable[[np.ndarray], dict[str, np.ndarray]]
    asset: FitAsset
    points: JointSet
    config: MapConfig

    def __call__(
        self, pixels: np.ndarray, keypoints: np.ndarray, pinhole: np.ndarray | None
    ) -> tuple[State, Fits]:
        """The network's answers, and the fits."""
        outputs = self.infer(pixels)
        init = State(*(outputs[name].astype(np.float64) for name in ("rotmat", "betas", "cam")))
        fits = fit_people(
            self.asset,
            init,
            keypoints,
            joint_set=self.points.name,
            config=self.config,
            pinhole=pinhole,
        )
        return init, fits


class GraphSolver:
    """Fits by the file that fits.

    Args:
        model: The file.
        points: Joint set of the keypoints.
        config: Options; those that the file does not leave to its caller must be its own.

    Raises:
        ValueError: If the file reads another joint set, or fits with other options.
    """

    def __init__(self, model: FitModel, points: JointSet, config: MapConfig) -> None:
        if model.card.joint_set != points.name:
            raise ValueError(
                f"serving: the file that fits reads keypoints of {model.card.joint_set}, got "
                f"{points.name}; export with --fit {points.name}, or take engine='numpy'"
            )
        own = replace(MapConfig(), **{name: getattr(config, name) for name in _FREE})
        if own != config:
            raise ValueError(
                f"serving: the file that fits takes no options but {', '.join(_FREE[:4])}; leave "
                "the others as they are, or take engine='numpy'"
            )
        self._model, self._config = model, config

    def __call__(
        self, pixels: np.ndarray, keypoints: np.ndarray, pinhole: np.ndarray | None
    ) -> tuple[State, Fits]:
        """The network's answers, and the fits."""
        given = is_labelled(keypoints)
        confidence = np.where(given, keypoints[..., 2], 0.0)
        sigma = np.where(given, self._sigma(confidence), 0.0)
        size = self._model.card.max_batch
        seen = np.zeros((len(pixels), 4)) if pinhole is None else pinhole
        pieces = [
            self._model.run(pixels[rows], keypoints[rows], sigma[rows], seen[rows])
            for rows in (slice(start, start + size) for start in range(0, len(pixels), size))
        ]
        names = self._model.card.outputs
        out = {
            name: np.concatenate([piece[name] for piece in pieces]).astype(np.float64)
            for name in names
        }
        init = State(*(out[f"init_{name}"] for name in ("rotmat", "betas", "cam")))
        final = State(*(out[name] for name in ("rotmat", "betas", "cam")))
        turned, flipped, arms = (out["hypothesis"] > 0).T
        nobody = np.zeros(len(pixels), bool)
        fits = Fits(
            final=final,
            energy=out["energy"],
            init_energy=out["init_energy"],
            tension=out["tension"],
            steps=np.zeros(len(pixels), np.int64),
            converged=out["converged"] > 0,
            finite=np.isfinite(out["energy"]),
            weight_factor=out["keypoint_weight"],
            turned=turned,
            flipped=flipped,
            swapped_arms=arms,
            swapped_legs=nobody,
            pinhole=out["camera"],
            joint_sigma_mm=out["joint_sigma_mm"],
        )
        return init, fits

    def _sigma(self, confidence: np.ndarray) -> np.ndarray:
        noise, config = self._config.keypoint_noise, self._config
        if noise is None or isinstance(noise, str | Path):  # Read before, see ``checked_config``.
            return np.where(confidence > config.sure_above, config.sigma, config.sigma_unsure)
        return noise.sigma_of(confidence)
