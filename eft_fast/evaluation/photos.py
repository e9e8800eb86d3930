"""The withheld-keypoint test: how well methods find, on real photos, what they were not shown.

There is no 3D truth for photos in the wild. What there is: a share of each person's labelled
keypoints is hidden from every method, and the error on the hidden ones is measured in pixels of the
photo, over the root of the box's area. It judges the prior of a method, on real pixels against real
labels; it is a 2D test, and methods end at unequal errors on what they were given, so both are
reported. Four forms: ``random`` hides a random share, ``limb`` a whole arm or leg below the
shoulder or hip, ``outliers`` is ``random`` with some of the given keypoints moved anywhere in the
box, ``all`` hides nothing. All methods see the same crops, boxes and keypoints.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from eft_fast.eft.config import EftConfig
from eft_fast.evaluation import metrics
from eft_fast.imaging import keypoints_to_box
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import SOLVER_ONLY, MapConfig
from eft_fast.pipeline.dispatch import METHODS
from eft_fast.result import FitResult
from eft_fast.sample import Image
from eft_fast.smplify.config import PRIORS, RECIPES, SmplifyConfig

#: ``fit_batch`` with regressor and body.
Fit = Callable[..., FitResult]
Columns = dict[str, npt.NDArray[np.float64]]

FORMS: Final = ("random", "limb", "outliers", "all")
#: What the form ``limb`` hides, one pair of them.
LIMBS: Final = (("lelb", "lwri"), ("relb", "rwri"), ("lkne", "lank"), ("rkne", "rank"))
#: Fewest keypoints that are left to the methods.
MIN_GIVEN: Final = 3
#: Shares of the root of the box's area within which a keypoint is right.
FRACTIONS: Final = (0.05, 0.1)
#: Measures whose paired differences are reported.
COMPARED: Final = ("withheld_error", "withheld_pck_0.1")
_FORM_SEED: Final = {form: number for number, form in enumerate(FORMS)}


@dataclass(frozen=True, eq=False)
class PhotoPeople:
    """People of annotated photos.

    Attributes:
        photos: The photo of each person.
        keypoints: Labels, photo pixels and confidence; 0 = not labelled.
        boxes: x, y, width, height in photo pixels; NaN where unknown: the labels' own box.
        joint_set: Order of the keypoints.
        ids: What each person is called, unlike any other's. A person's hidden keypoints depend on
            it and on nothing else of the set.
    """

    photos: Sequence[Image]
    keypoints: Float[np.ndarray, "N K 3"]
    boxes: Float[np.ndarray, "N 4"]
    joint_set: str
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def is_labelled(self) -> Bool[np.ndarray, "N K"]:
        """Keypoints that have a label."""
        labelled: npt.NDArray[np.bool_] = self.keypoints[..., 2] > 0
        labelled &= np.isfinite(self.keypoints).all(-1)
        return labelled

    def known_boxes(self) -> Float[np.ndarray, "N 4"]:
        """The boxes, those of all labels where none is given.

        Methods get these, not the box of what is left to them, which would tell them less.
        """
        known = np.array(self.boxes, np.float64)
        is_labelled = self.is_labelled
        for row in np.flatnonzero(~np.isfinite(known).all(1) & is_labelled.any(1)):
            known[row] = keypoints_to_box(self.keypoints[row][is_labelled[row]])
        return known


@dataclass(frozen=True)
class Protocol:
    """What is hidden.

    Attributes:
        form: One of ``FORMS``.
        withhold: Share of a person's labelled keypoints that is hidden, of ``random`` and
            ``outliers``.
        draws: How many times, each with other keypoints hidden; with ``all`` once is enough.
        outliers: Probability of a given keypoint to be moved, of ``outliers``.
        seed: Of all draws.
    """

    form: str = "random"
    withhold: float = 0.33
    draws: int = 8
    outliers: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what hides nothing or everything."""
        if self.form not in FORMS:
            raise ValueError(
                f"eval photos: form must be one of {', '.join(FORMS)}, got {self.form}"
            )
        if not 0 < self.withhold < 1:
            raise ValueError(f"eval photos: withhold must be in (0, 1), got {self.withhold:g}")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"eval photos: outliers must be in [0, 1), got {self.outliers:g}")
        if self.draws < 1:
            raise ValueError(f"eval photos: draws must be at least 1, got {self.draws}")


@dataclass(frozen=True, eq=False)
class Draw:
    """What the methods are given once.

    Attributes:
        keypoints: Labels; confidence 0 where hidden.
        is_withheld: Labelled and hidden.
        is_given: Labelled, given and left where it was.
    """

    keypoints: Float[np.ndarray, "N K 3"]
    is_withheld: Bool[np.ndarray, "N K"]
    is_given: Bool[np.ndarray, "N K"]


@dataclass(frozen=True)
class PhotoMethod:
    """One row of the table: a name and what ``fit_batch`` is called with."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PhotoScore:
    """What one method did: means over the draws, one value per person.

    Attributes:
        name: Name of the method.
        values: ``given_*`` over the keypoints that were given and left alone, ``withheld_*`` over
            the hidden ones: ``_error``, over the root of the box's area, and ``_pck_0.05``,
            ``_pck_0.1``. NaN for who had nothing to hide. A person without a fit has no right
            keypoint, and no error.
        fits: Fits of all draws.
        seconds: Of all of them, reading the photos and the regressor included.
    """

    name: str
    values: Columns
    fits: int
    seconds: float


def photo_methods() -> dict[str, PhotoMethod]:
    """All rows that there are, by name: every method as it comes, and what it is compared with."""
    rows = [
        PhotoMethod(name, {"method": name})
        for name in METHODS
        if name not in RECIPES and name != "smplify"
    ]
    rows += [
        PhotoMethod("eft_released", {"method": "eft", "config": EftConfig.released()}),
        PhotoMethod("eft_30", {"method": "eft", "config": EftConfig(max_steps=30)}),
        PhotoMethod("eft_head", {"method": "eft", "mode": "head", "config": EftConfig()}),
        PhotoMethod("map_fill", {"method": "map", "config": MapConfig(fill="landmarks")}),
        PhotoMethod("map_movenet", {"method": "map", "config": MapConfig(fill="movenet")}),
        PhotoMethod("map_solver_only", {"method": "map", "config": SOLVER_ONLY}),
    ]
    for recipe in RECIPES:
        for prior in PRIORS:
            config = SmplifyConfig(recipe=recipe, prior=prior, start="regressor")
            rows.append(PhotoMethod(f"{recipe}_{prior}", {"method": recipe, "config": config}))
    return {row.name: row for row in rows}


def default_names() -> tuple[str, ...]:
    """Rows of a table without other wishes: every method that is not SMPLify, and its best rows."""
    own = [name for name in METHODS if name not in RECIPES and name not in ("smplify", "none")]
    priors = ("none", "gmm", "anchor")
    direct = [f"smplify_{recipe}_{prior}" for recipe in ("spin", "tied") for prior in priors]
    return ("none", *own, "eft_released", *direct)


def make_draw(people: PhotoPeople, protocol: Protocol, number: int) -> Draw:
    """Choose what is hidden, and move the outliers; each person by a generator of their own."""
    labelled, boxes = people.is_labelled, people.known_boxes()
    limbs = _limb_rows(people.joint_set) if protocol.form == "limb" else ()
    keypoints = np.where(labelled[..., None], people.keypoints, 0.0).astype(np.float64)
    withheld, moved = np.zeros_like(labelled), np.zeros_like(labelled)
    for row, name in enumerate(people.ids):
        branch = [protocol.seed, _FORM_SEED[protocol.form], number, zlib.crc32(name.encode())]
        rng = np.random.default_rng(branch)
        if protocol.form == "limb":
            hidden = _hide_limb(rng, labelled[row], limbs)
        elif protocol.form == "all":
            hidden = np.zeros(0, np.intp)
        else:
            hidden = _hide_share(rng, labelled[row], protocol.withhold)
        withheld[row, hidden] = True
        if protocol.form == "outliers":
            chance = rng.random(labelled.shape[1]) < protocol.outliers
            moved[row] = chance & labelled[row] & ~withheld[row]
            anywhere = boxes[row, :2] + rng.random((labelled.shape[1], 2)) * boxes[row, 2:]
            keypoints[row, moved[row], :2] = anywhere[moved[row]]
    keypoints[withheld] = 0.0
    return Draw(keypoints, withheld, labelled & ~withheld & ~moved)


def run_photos(
    fit: Fit,
    people: PhotoPeople,
    methods: Sequence[PhotoMethod],
    protocol: Protocol,
    *,
    on_fit: Callable[[str, int], None] | None = None,
) -> Iterator[PhotoScore]:
    """Fit everybody by every method, on every draw.

    Args:
        fit: ``fit_batch`` with regressor and body.
        people: Whom.
        methods: By what.
        protocol: What is hidden.
        on_fit: Called with the method and the number of the draw before its fits.
    """
    draws = [make_draw(people, protocol, number) for number in range(protocol.draws)]
    boxes = people.known_boxes()
    for method in methods:
        rounds, seconds = [], 0.0
        for number, draw in enumerate(draws):
            if on_fit is not None:
                on_fit(method.name, number)
            begin = time.perf_counter()
            result = fit(
                people.photos,
                draw.keypoints,
                bboxes=boxes,
                joint_set=people.joint_set,
                progress=False,
                **method.arguments,
            )
            seconds += time.perf_counter() - begin
            found = result.keypoints_2d_px(people.joint_set).double().numpy()
            rounds.append(score_draw(found, people, draw))
        values = {
            name: _mean_rows(np.stack([each[name] for each in rounds], 1)) for name in rounds[0]
        }
        yield PhotoScore(method.name, values, len(people) * protocol.draws, seconds)


def score_draw(found: Float[np.ndarray, "N K 2"], people: PhotoPeople, draw: Draw) -> Columns:
    """Measures of one draw.

    Args:
        found: Keypoints of the fitted bodies, photo pixels; NaN of who has no fit.
        people: The labels.
        draw: What was hidden.
    """
    size = np.sqrt(people.known_boxes()[:, 2:].prod(1)).clip(min=1.0)
    distance = np.linalg.norm(found - people.keypoints[..., :2], axis=-1) / size[:, None]
    values: Columns = {}
    for name, which in (("given", draw.is_given), ("withheld", draw.is_withheld)):
        for fraction in FRACTIONS:
            # NaN is not below anything: who has no fit has found nothing.
            right = (distance < fraction).astype(np.float64)
            values[f"{name}_pck_{fraction:g}"] = _mean_rows(np.where(which, right, np.nan))
        values[f"{name}_error"] = _mean_rows(np.where(which, distance, np.nan))
    return values


def summarise(scores: Sequence[PhotoScore]) -> dict[str, dict[str, float]]:
    """Means over people of each measure, with their 95 % bootstrap intervals, and the speed.

    A measure that nobody has, as of what is hidden where nothing is, has no row.
    """
    table: dict[str, dict[str, float]] = {}
    for each in scores:
        row: dict[str, float] = {}
        for name, column in each.values.items():
            if np.isfinite(column).any():
                row |= metrics.mean_row(name, column)
        table[each.name] = row | {"fits_per_second": each.fits / each.seconds}
    return table


def compare(scores: Sequence[PhotoScore]) -> dict[str, dict[str, dict[str, float]]]:
    """Differences of every two methods over the same people, ``first - second``.

    Returns:
        By the first and the second name, of each measure of ``COMPARED``: the mean difference and
        its 95 % interval by resampling people, ``_low`` and ``_high``. Empty if nobody has any.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for first, second in combinations(scores, 2):
        row: dict[str, float] = {}
        for name in COMPARED:
            difference = first.values[name] - second.values[name]
            if np.isfinite(difference).any():
                row |= metrics.mean_row(name, difference)
        if row:
            table.setdefault(first.name, {})[second.name] = row
    return table


def _hide_share(
    rng: np.random.Generator, labelled: Bool[np.ndarray, " K"], share: float
) -> npt.NDArray[np.intp]:
    """A random share of the labels; at least one, while ``MIN_GIVEN`` are left."""
    rows = np.flatnonzero(labelled)
    count = min(max(1, round(share * len(rows))), max(0, len(rows) - MIN_GIVEN))
    return rng.choice(rows, count, replace=False) if count else rows[:0]


def _hide_limb(
    rng: np.random.Generator, labelled: Bool[np.ndarray, " K"], limbs: Sequence[tuple[int, int]]
) -> npt.NDArray[np.intp]:
    """One of the limbs whose two joints are labelled; nothing if there is none."""
    whole = [limb for limb in limbs if labelled[list(limb)].all()]
    if not whole or labelled.sum() < MIN_GIVEN + 2:
        return np.zeros(0, np.intp)
    return np.array(whole[rng.integers(len(whole))])


def _limb_rows(name: str) -> tuple[tuple[int, int], ...]:
    """Where the limbs lie in a joint set; every set has them."""
    place = {joint: row for row, joint in enumerate(find_joint_set(name).names)}
    return tuple((place[first], place[second]) for first, second in LIMBS)


def _mean_rows(values: Float[np.ndarray, "N K"]) -> npt.NDArray[np.float64]:
    """Mean of each row over what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known.any(1), total, np.nan)
