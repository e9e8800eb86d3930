"""How wrong a regressor usually is: the covariance of its errors, an asset of its weights.

The second moment of ``error_state`` over people whose truth is known, about the answer itself, not
about the mean error: a bias of the network widens it, as it should. Its inverse is the prior of
``map`` and of EFT's tie. It says nothing about other weights, so the file carries their hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.conventions import COVARIANCE_SUFFIX
from eft_fast.files import save_npz
from eft_fast.map_rules import NUM_STATE
from eft_fast.models.base import Regressor
from eft_fast.models.identity import weights_hash
from eft_fast.models.open_file import OPEN_REGRESSOR_PATH

FORMAT: Final = "eft_fast-error-covariance-1"
#: The covariance of the weights that ship with the package.
OPEN_COVARIANCE_PATH: Final = OPEN_REGRESSOR_PATH.with_name("open_error_covariance.npz")
#: The same by ``Regressor.id``.
OPEN_COVARIANCES: Final[Mapping[str, Path]] = {
    "open-1": OPEN_COVARIANCE_PATH,
    "open-2": OPEN_REGRESSOR_PATH.with_name("open2_error_covariance.npz"),
    "open-2-lite": OPEN_REGRESSOR_PATH.with_name("open2_lite_error_covariance.npz"),
}
#: What off-diagonal entries count: a thousand people do not know 3,570 of them better.
OFF_DIAGONAL: Final = 0.95
#: Added to the diagonal, so that numbers that hardly move keep a finite weight.
FLOOR: Final = 1e-6
#: Fewest people of a measurement: with fewer than 85 the second moment has no inverse.
MIN_PEOPLE: Final = NUM_STATE
#: Smallest eigenvalue over the largest; below, rounding alone decides the inverse.
_MIN_CONDITION: Final = 1e-10
#: Where a file holds the matrix of answers that read given keypoints.
_GIVEN: Final = "second_moment_given"
_HOW: Final = "make one with `eft-fast calibrate --regressor R --out FILE`"


@dataclass(frozen=True, eq=False)
class ErrorCovariance:
    """Errors of one network: E[x x^T] of ``error_state``.

    Attributes:
        second_moment: The matrix, in the order of ``error_state``: radians, standard deviations of
            shape, log scale, frame sizes.
        weights_hash: ``identity.weights_hash`` of the network.
        body_id: ``Regressor.body_id``: the body that the betas belong to.
        people: How many people it was measured on.
        source: On which people, in a few words.
        second_moment_given: The matrix of answers that read given keypoints, of a network that does
            (``Regressor.reads_keypoints``); None: not known.
    """

    second_moment: Float[np.ndarray, "85 85"]
    weights_hash: str
    body_id: str
    people: int
    source: str
    second_moment_given: Float[np.ndarray, "85 85"] | None = None

    def __post_init__(self) -> None:
        """Refuse a matrix that is no covariance."""
        check_second_moment(self.second_moment, "ErrorCovariance")
        if self.second_moment_given is not None:
            check_second_moment(self.second_moment_given, "ErrorCovariance, of given keypoints")

    def covariance(self, *, given: bool = False) -> Float[np.ndarray, "85 85"]:
        """Sigma as it is used: off-diagonal entries times 0.95, 1e-6 on the diagonal.

        Args:
            given: Of answers that read given keypoints.

        Raises:
            ValueError: If that is not known.
        """
        moment = self.second_moment_given if given else self.second_moment
        if moment is None:
            raise ValueError(
                f"ErrorCovariance: nothing is known of answers of weights {self.weights_hash} that "
                "read given keypoints; measure them with `eft-fast calibrate`"
            )
        sigma = OFF_DIAGONAL * moment
        sigma[np.diag_indices(NUM_STATE)] = np.diagonal(moment) + FLOOR
        return sigma

    def precision(self, *, given: bool = False) -> Float[np.ndarray, "85 85"]:
        """Sigma^-1, symmetric to the last bit; arguments as of ``covariance``."""
        inverse = np.linalg.inv(self.covariance(given=given))
        return (inverse + inverse.T) / 2

    def save(self, path: str | Path) -> None:
        """Write one ``.npz`` without pickles."""
        card = {
            "format": FORMAT,
            "weights_hash": self.weights_hash,
            "body_id": self.body_id,
            "people": self.people,
            "source": self.source,
        }
        arrays = {"card": np.array(json.dumps(card)), "second_moment": self.second_moment}
        if self.second_moment_given is not None:
            arrays[_GIVEN] = self.second_moment_given
        save_npz(path, arrays)


def covariance_beside(weights: str | Path) -> Path:
    """Where the error covariance of a weights file is kept: ``run/mine.error_covariance.npz``."""
    return Path(weights).with_suffix(COVARIANCE_SUFFIX)


def estimate_covariance(
    states: Float[Tensor, "N 85"],
    *,
    regressor: Regressor,
    source: str,
    given: Float[Tensor, "M 85"] | None = None,
) -> ErrorCovariance:
    """Take the second moment of errors.

    Args:
        states: ``error_state`` of people whose truth is known. Whoever has a number that is not
            finite is left out.
        regressor: The network that answered.
        source: On which people, in a few words.
        given: The same of answers that read given keypoints; None: not known.

    Raises:
        ValueError: If there are fewer people than numbers, or some number never moves.
    """
    people, moment = _second_moment(states)
    return ErrorCovariance(
        second_moment=moment,
        weights_hash=weights_hash(regressor),
        body_id=regressor.body_id,
        people=people,
        source=source,
        second_moment_given=None if given is None else _second_moment(given)[1],
    )


def _second_moment(states: Float[Tensor, "N 85"]) -> tuple[int, Float[np.ndarray, "85 85"]]:
    """How many people have finite errors, and the second moment of theirs."""
    rows = states.detach().double().cpu().numpy()
    rows = rows[np.isfinite(rows).all(1)]
    if len(rows) < MIN_PEOPLE:
        raise ValueError(
            f"estimate_covariance: at least {MIN_PEOPLE} people with finite numbers are needed, "
            f"got {len(rows)}; 1,000 or more are better"
        )
    moment = rows.T @ rows / len(rows)
    return len(rows), (moment + moment.T) / 2


def load_error_covariance(regressor: Regressor, path: str | Path | None = None) -> ErrorCovariance:
    """Load the error covariance of a regressor.

    Args:
        regressor: The network whose errors are meant.
        path: A file of ``ErrorCovariance.save``; None: that of the package, which belongs to the
            regressor of the package.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or belongs to other weights or another body; without a
            path: if the regressor is not that of the package.
    """
    found = find_error_covariance(regressor, path)
    if found is None:
        raise ValueError(
            f"load_error_covariance: no error covariance is known of regressor {regressor.id} "
            f"(weights {weights_hash(regressor)}); {_HOW} and give the file"
        )
    return found


def find_error_covariance(
    regressor: Regressor, path: str | Path | None = None
) -> ErrorCovariance | None:
    """As ``load_error_covariance``; without a path None, if nothing is known of the regressor."""
    own = weights_hash(regressor)
    found = _read_open_covariance(regressor.id) if path is None else read_error_covariance(path)
    if found is None:
        return None
    if found.weights_hash != own and path is None:
        return None
    if found.weights_hash != own:
        raise ValueError(
            f"load_error_covariance: {path} belongs to weights {found.weights_hash}, the regressor "
            f"{regressor.id} has weights {own}; {_HOW}"
        )
    if found.body_id != regressor.body_id:
        raise ValueError(
            f"load_error_covariance: {path} is about body {found.body_id}, the regressor "
            f"{regressor.id} predicts body {regressor.body_id}; {_HOW}"
        )
    return found


@lru_cache(maxsize=len(OPEN_COVARIANCES))
def _read_open_covariance(regressor_id: str) -> ErrorCovariance | None:
    """The file of the package for a kind of network, read once; nobody may write to it."""
    path = OPEN_COVARIANCES.get(regressor_id)
    if path is None or not path.is_file():
        return None
    found = read_error_covariance(path)
    for moment in (found.second_moment, found.second_moment_given):
        if moment is not None:
            moment.setflags(write=False)
    return found


def read_error_covariance(path: str | Path) -> ErrorCovariance:
    """Read a file, whichever weights it belongs to; see ``load_error_covariance``."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_error_covariance: no file {path}; {_HOW}")
    try:
        with np.load(path, allow_pickle=False) as file:
            card: Any = json.loads(str(file["card"]))
            moment = np.asarray(file["second_moment"], np.float64)
            given = np.asarray(file[_GIVEN], np.float64) if _GIVEN in file.files else None
        if card["format"] != FORMAT:
            raise KeyError(FORMAT)
        texts = [str(card[key]) for key in ("weights_hash", "body_id", "source")]
        people = int(card["people"])
    except NUMPY_ERRORS as error:
        raise ValueError(
            f"load_error_covariance: {path} is no error covariance, or damaged "
            f"({type(error).__name__}); {_HOW}"
        ) from error
    check_second_moment(moment, f"load_error_covariance: {path}")
    if given is not None:
        check_second_moment(given, f"load_error_covariance: {path}, of given keypoints")
    return ErrorCovariance(moment, texts[0], texts[1], people, texts[2], given)


def check_second_moment(moment: Float[np.ndarray, "85 85"], who: str) -> None:
    """Raise ValueError unless the matrix is a covariance with an inverse."""
    if moment.shape != (NUM_STATE, NUM_STATE):
        raise ValueError(
            f"{who}: second_moment must be [{NUM_STATE}, {NUM_STATE}], got {list(moment.shape)}"
        )
    if not np.isfinite(moment).all():
        raise ValueError(f"{who}: second_moment must be finite, got NaN or infinity")
    asymmetry = float(np.abs(moment - moment.T).max())
    if asymmetry > 1e-9 * float(np.abs(moment).max()):
        raise ValueError(
            f"{who}: second_moment must be symmetric, got differences of {asymmetry:g}"
        )
    eigenvalues = np.linalg.eigvalsh(moment)
    if not eigenvalues[0] > _MIN_CONDITION * eigenvalues[-1]:
        raise ValueError(
            f"{who}: second_moment must be positive definite, got eigenvalues {eigenvalues[0]:.2g} "
            f"to {eigenvalues[-1]:.2g}; measure it on more people"
        )
