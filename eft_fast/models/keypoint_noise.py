"""How far keypoints usually are from where they belong: a curve over confidence, of each detector.

``sigma`` is the standard deviation along one axis of the picture, in units of the person's extent
(``EXTENT_PER_SIZE`` times f, the root mean square distance of the twelve limb joints from their
mean, as of ``error_state.answer_frame``). Errors have heavy tails, limbs that are mixed up above
all, so sigma is taken from the median error; whoever fits with it should reweight what does not
fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.conventions import EXTENT_PER_SIZE
from eft_fast.files import save_npz
from eft_fast.keypoints import joint_set as find_joint_set

FORMAT: Final = "eft_fast-keypoint-noise-1"
#: Fewest keypoints of a measurement, and of each of its levels of confidence.
MIN_KEYPOINTS: Final = 100
_PER_LEVEL: Final = 50
_LEVELS: Final = 10
#: Median distance of a round Gaussian in the plane over its standard deviation: sqrt(2 ln 2).
_MEDIAN: Final = 1.1774
#: Smallest sigma: labels are not known better than this.
MIN_SIGMA: Final = 0.005
_LIMBS: Final = ("lsho", "rsho", "lelb", "relb", "lwri", "rwri",
                 "lhip", "rhip", "lkne", "rkne", "lank", "rank")  # fmt: skip


@dataclass(frozen=True, eq=False)
class KeypointNoise:
    """A curve from confidence to sigma: straight lines between knots, level beyond them.

    Attributes:
        confidence: Knots, ascending.
        sigma: Standard deviations there, in units of the person's extent.
        count: Keypoints that it was measured on; 0: chosen.
        source: On which, in a few words.
    """

    confidence: Float[np.ndarray, " M"]
    sigma: Float[np.ndarray, " M"]
    count: int
    source: str

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        knots, sigma = self.confidence, self.sigma
        if knots.ndim != 1 or sigma.shape != knots.shape or not len(knots):
            raise ValueError(
                f"KeypointNoise: confidence and sigma must be [M], got {list(knots.shape)} and "
                f"{list(sigma.shape)}"
            )
        if not (np.isfinite(knots).all() and (np.diff(knots) > 0).all()):
            raise ValueError("KeypointNoise: confidence must be finite and ascend")
        if not (np.isfinite(sigma).all() and (sigma > 0).all()):
            raise ValueError("KeypointNoise: sigma must be finite and positive")

    def sigma_of(self, confidence: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Standard deviations of keypoints with these confidences, of the same shape."""
        values = np.asarray(confidence, np.float64)
        sigma: npt.NDArray[np.float64] = np.interp(values, self.confidence, self.sigma)
        return sigma

    def times(self, factor: float) -> KeypointNoise:
        """The same curve with another sigma."""
        return replace(self, sigma=self.sigma * factor)

    @property
    def knots(self) -> tuple[tuple[float, float], ...]:
        """Confidence and sigma of each knot, as ``losses.tie.keypoint_weights`` takes them."""
        return tuple(zip(self.confidence.tolist(), self.sigma.tolist(), strict=True))

    def save(self, path: str | Path) -> None:
        """Write one ``.npz`` without pickles."""
        card = {"format": FORMAT, "count": self.count, "source": self.source}
        arrays = {
            "card": np.array(json.dumps(card)),
            "confidence": self.confidence,
            "sigma": self.sigma,
        }
        save_npz(path, arrays, compressed=False)


#: Labels that people made: confidence 1. What is unsure in a file is three times as far off. Chosen
#: on withheld keypoints of photos and on renders, not measured.
LABELS: Final = KeypointNoise(
    np.array([0.5, 0.6]), np.array([0.06, 0.02]), 0, "labels: chosen on withheld keypoints"
)

#: The open regressor's own landmarks in the crop of a given box (confidence: visibility times
#: presence): 24 people of those photos. On 1,250 renders of validation motion they are nearer,
#: 0.051 at a confidence of 0.48, 0.027 at 0.996 and 0.020 at 1.
LANDMARKS: Final = KeypointNoise(
    np.array([0.66, 0.998, 1.0]),
    np.array([0.082, 0.055, 0.036]),
    290,
    "landmarks of the open regressor on COCO photos",
)

#: MoveNet Thunder as it ships (``models.movenet_keypoints``) in the crop of a given box, by its
#: score: 300 renders of validation motion, visible and hidden points inside the picture. On 42
#: people of open COCO train photos, which it was trained on, its errors are smaller where it is
#: sure: 0.104 at a score of 0.07, 0.033 at 0.22, 0.018 at 0.35, 0.010 at 0.5 and 0.005 at 0.8.
MOVENET: Final = KeypointNoise(
    np.array([0.11, 0.262, 0.375, 0.464, 0.537, 0.601, 0.719]),
    np.array([0.0843, 0.0371, 0.0224, 0.0189, 0.0168, 0.0148, 0.0132]),
    4753,
    "MoveNet Thunder on renders of validation motion",
)

#: The curves of the package by name, as fits use them. Landmarks come of the trunk that the answer
#: comes of: their errors go with those that the prior already knows, so that they count as several
#: times as wrong as they are alone (docs/map.md). Those of MoveNet come of another network, and
#: count as they are where they fill what labels leave open. ``detector``, where nothing else is
#: known of a person, is MoveNet in boxes of the detector: some of them are cut or of somebody else.
CURVES: Final = {
    "labels": LABELS,
    "detector": MOVENET.times(3.0),
    "landmarks": LANDMARKS.times(3.0),
    "movenet": MOVENET,
}


def find_keypoint_noise(source: str | Path | KeypointNoise | None) -> KeypointNoise | None:
    """A curve as configurations name it: itself, one of ``CURVES`` by name, or that of a file.

    Raises:
        FileNotFoundError: If it is neither a name nor a file.
        ValueError: If the file holds no curve.
    """
    if source is None or isinstance(source, KeypointNoise):
        return source
    if str(source) in CURVES:
        return CURVES[str(source)]
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"keypoint_noise: must be one of {', '.join(CURVES)}, or a file of `eft-fast calibrate "
            f"--keypoint-pairs`, got {source}"
        )
    return load_keypoint_noise(source)


def load_keypoint_noise(path: str | Path) -> KeypointNoise:
    """Read a file of ``KeypointNoise.save``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds no curve.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_keypoint_noise: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            card: Any = json.loads(str(file["card"]))
            knots, sigma = (np.asarray(file[name], np.float64) for name in ("confidence", "sigma"))
        if card["format"] != FORMAT:
            raise KeyError(FORMAT)
        return KeypointNoise(knots, sigma, int(card["count"]), str(card["source"]))
    except NUMPY_ERRORS as error:
        raise ValueError(
            f"load_keypoint_noise: {path} is no curve of keypoint noise, or damaged "
            f"({type(error).__name__}); make one with `eft-fast calibrate --keypoint-pairs FILE`"
        ) from error


def estimate_keypoint_noise(
    confidence: Float[np.ndarray, " N"], error: Float[np.ndarray, " N"], *, source: str
) -> KeypointNoise:
    """Measure the curve of a detector.

    Args:
        confidence: Of keypoints whose true place is known.
        error: Their distances from it, over the person's extent.
        source: On which, in a few words.

    Raises:
        ValueError: If there are too few.
    """
    known = np.isfinite(confidence) & np.isfinite(error) & (confidence > 0)
    confidence, error = confidence[known], error[known]
    if len(error) < MIN_KEYPOINTS:
        raise ValueError(
            f"estimate_keypoint_noise: at least {MIN_KEYPOINTS} keypoints with a known place are "
            f"needed, got {len(error)}"
        )
    order = np.argsort(confidence, kind="stable")
    levels = _split_levels(confidence[order])
    knots = np.array([confidence[order][level].mean() for level in levels])
    sigma = np.array([np.median(error[order][level]) / _MEDIAN for level in levels])
    weight = np.array([level.stop - level.start for level in levels], np.float64)
    sigma = np.maximum(_make_falling(sigma, weight), MIN_SIGMA)
    return KeypointNoise(knots, sigma, len(error), source)


def person_extent(keypoints: Float[np.ndarray, "N K 3"], joint_set: str) -> npt.NDArray[np.float64]:
    """Extent of each person, in the unit of the keypoints; NaN where a limb joint has no label."""
    names = find_joint_set(joint_set).names
    limbs = keypoints[:, [names.index(name) for name in _LIMBS]]
    away = limbs[..., :2] - limbs[..., :2].mean(1, keepdims=True)
    extent = EXTENT_PER_SIZE * np.sqrt(np.square(away).sum(-1).mean(1))
    return np.where((limbs[..., 2] > 0).all(1), extent, np.nan)


def measure_keypoint_pairs(path: str | Path) -> KeypointNoise:
    """Measure a detector on pairs of its keypoints and the true ones in a file.

    Args:
        path: An ``.npz`` with ``keypoints`` [N,K,3] of the detector: x, y in pixels and confidence;
            ``gt_keypoints`` [N,K,3]: the true ones, confidence 0 where unknown; ``joint_set``, the
            name of their order (default coco17); and perhaps ``extent`` [N], the size of each
            person in pixels (``EXTENT_PER_SIZE`` times f). Without it, people need all twelve true
            limb joints, and the others are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold these arrays, or too few keypoints.
    """
    who = f"calibrate: {path}"
    if not Path(path).is_file():
        raise FileNotFoundError(f"calibrate: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            name = str(file["joint_set"]) if "joint_set" in file.files else "coco17"
            found, true = (np.asarray(file[k], np.float64) for k in ("keypoints", "gt_keypoints"))
            extent = np.asarray(file["extent"], np.float64) if "extent" in file.files else None
    except NUMPY_ERRORS as error:
        raise ValueError(
            f"{who} must be an .npz with keypoints and gt_keypoints ({type(error).__name__})"
        ) from error
    width = len(find_joint_set(name).names)
    if true.ndim != 3 or true.shape[1:] != (width, 3) or found.shape != true.shape:
        raise ValueError(
            f"{who}: keypoints and gt_keypoints must be [N, {width}, 3] of joint set {name}, got "
            f"{list(found.shape)} and {list(true.shape)}"
        )
    if extent is None:
        extent = person_extent(true, name)
    if extent.shape != true.shape[:1]:
        raise ValueError(f"{who}: extent must be [{len(true)}], got {list(extent.shape)}")
    distance = np.linalg.norm(found[..., :2] - true[..., :2], axis=-1) / extent[:, None]
    distance[~(true[..., 2] > 0)] = np.nan
    source = f"pairs of {Path(path).name}"
    return estimate_keypoint_noise(found[..., 2].ravel(), distance.ravel(), source=source)


def _split_levels(ascending: npt.NDArray[np.float64]) -> list[slice]:
    """Runs of about equally many keypoints; equal confidences are not parted."""
    count = min(_LEVELS, max(1, len(ascending) // _PER_LEVEL))
    cuts = [round(k * len(ascending) / count) for k in range(1, count)]
    edges = {0, len(ascending)}
    edges |= {int(np.searchsorted(ascending, ascending[cut])) for cut in cuts}
    ends = sorted(edges)
    return [slice(a, b) for a, b in pairwise(ends)]


def _make_falling(
    values: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The nearest values that do not rise: neighbours that do are pooled."""
    pools: list[list[float]] = []
    for value, count in zip(values, weight, strict=True):
        pools.append([value, count, 1])
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            last, before = pools.pop(), pools.pop()
            total = last[1] + before[1]
            mean = (last[0] * last[1] + before[0] * before[1]) / total
            pools.append([mean, total, last[2] + before[2]])
    return np.concatenate([np.full(int(length), mean) for mean, _, length in pools])
