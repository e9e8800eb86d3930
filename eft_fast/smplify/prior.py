"""Pose priors from files: the open one that ships with the package, or the user's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eft_fast.losses.priors import GaussianMixture, JointLimits, make_mixture
from eft_fast.pickles.arrays import read_pickle, to_numpy

OPEN_PRIOR_PATH: Final = Path(__file__).resolve().parent.parent / "assets" / "pose_prior.npz"
_KEYS: Final = ("means", "covars", "weights")


@dataclass(frozen=True, eq=False)
class PosePrior:
    """What body poses are usual.

    Attributes:
        id: ``open``, or the name of the file.
        mixture: Gaussians over the body pose.
        limits: Range of each of its numbers; those of the open prior if the file has none.
    """

    id: str
    mixture: GaussianMixture
    limits: JointLimits

    def to(self, like: Tensor) -> PosePrior:
        """The same on the device and of the type of ``like``."""
        return PosePrior(self.id, self.mixture.to(like), self.limits.to(like))


def load_pose_prior(source: str | os.PathLike[str] = "open") -> PosePrior:
    """Load a pose prior, in float64.

    Args:
        source: ``"open"``, or a file with ``means`` [M,D], ``covars`` [M,D,D] and ``weights`` [M],
            D = 69 or 63: an .npz, or a pickle such as ``gmm_08.pkl``, of which nothing is run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.
    """
    path = OPEN_PRIOR_PATH if source == "open" else Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"load_pose_prior: no file {path}; give 'open' or the path of a mixture"
        )
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_mixture_pickle(path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise ValueError(
            f"load_pose_prior: expected {', '.join(_KEYS)} in {path}, got no {missing[0]}"
        )
    mixture = make_mixture(*(arrays[key] for key in _KEYS))
    if "limits_lower" not in arrays:
        arrays |= _read_npz(OPEN_PRIOR_PATH)
    lower, upper = (
        torch.from_numpy(arrays[f"limits_{end}"].astype(np.float64)) for end in ("lower", "upper")
    )
    return PosePrior("open" if source == "open" else path.name, mixture, JointLimits(lower, upper))


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and numpy have no common base
        raise ValueError(f"load_pose_prior: {path} is damaged or no .npz ({error})") from error


def _read_mixture_pickle(path: Path) -> dict[str, Any]:
    content = read_pickle(path, "load_pose_prior")
    try:
        return {key: to_numpy(content[key]) for key in _KEYS if key in content}
    except ValueError as error:
        raise ValueError(f"load_pose_prior: {path} holds {error}") from error
