"""Whether the numbers of one person can be what they are taken for: keypoints, box, pinhole, fit.

Readers of annotation files and calls with arrays judge by these functions, so that the same numbers
get the same answer from both. Nothing here raises for bad numbers or changes an argument. Sentences
name no person: the caller puts that in front. What one person is told never depends on others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.keypoints import JOINT_SETS, JointSet, is_labelled, joint_set
from eft_fast.person_boxes import box_overlap

if TYPE_CHECKING:
    from jaxtyping import Float

#: What COCO's flags (not labelled, hidden, seen) become; for callers to say once per run.
FLAGS_NOTE: Final = "visibility flags 0, 1, 2 were read as confidences 0, 1, 1"
#: Scores this little above 1 are rounding, and are not worth a word.
ROUNDING: Final = 1e-4
#: A box holds a keypoint within this share of its longer side beyond its border: joints that cloth
#: or the frame hides are labelled a little outside of a box around what is seen.
BOX_SLACK: Final = 0.1
#: A box must hold at least this share of the labelled keypoints.
HELD_SHARE: Final = 0.5
#: Another reading of a box or of keypoints is named when it brings their overlap (intersection over
#: union) to ``READING_FIT``, at least ``READING_GAIN`` above what it is as given.
READING_FIT: Final = 0.5
READING_GAIN: Final = 0.25
#: Labelled keypoints below which no other reading is guessed.
FEWEST_TO_GUESS: Final = 6
#: Another order is named when it makes limbs shorter, in mean log, by this much for one person, or
#: by ``ORDER_MARGIN_OF_ALL`` for the median of at least ``PEOPLE_TO_TELL`` people. Of 4,000 people
#: of COCO's training labels in the right order under 1 in 1,000 pass the first, 7 % the second.
ORDER_MARGIN: Final = 0.7
ORDER_MARGIN_OF_ALL: Final = 0.25
PEOPLE_TO_TELL: Final = 8
#: Mean keypoint error at the end over the longer side of the box, above which a fit is bad: half of
#: the width of a person who is twice as high as wide. Of 25 labelled people of open photos nobody
#: ended beyond 0.05 by map, and two of the regressor's answers alone lie beyond.
BAD_ERROR: Final = 0.25
#: Left and right look swapped when exchanging the labels cuts the error to this share, and the
#: error is more than ``SWAP_ERROR`` of the longer side of the labelled points. Of the same 25 it
#: is said of nobody as labelled, and of 16 with the sides exchanged.
SWAP_RATIO: Final = 0.5
SWAP_ERROR: Final = 0.06
#: Shape coefficients beyond this many standard deviations, and heights, that no person has.
MAX_BETA: Final = 5.0
HEIGHTS_M: Final = (0.4, 3.0)
#: Views wider than this, in degrees across the longer side of a photo, are no usual lens.
WIDEST_VIEW: Final = 130.0
#: Width of the film that focal lengths in millimetres are often given for.
FILM_MM: Final = 36.0

#: x, y, width, height.
Box = tuple[float, float, float, float]

#: Limbs by which orders are told apart, and their usual length over the diagonal of the box around
#: the keypoints: medians of COCO's training labels; of joints that COCO lacks, from their place.
_LIMBS: Final = (
    ("lsho", "lelb", 0.19), ("rsho", "relb", 0.19), ("lelb", "lwri", 0.15), ("relb", "rwri", 0.15),
    ("lhip", "lkne", 0.25), ("rhip", "rkne", 0.25), ("lkne", "lank", 0.25), ("rkne", "rank", 0.25),
    ("lhip", "rhip", 0.13), ("lsho", "rsho", 0.20), ("lsho", "lhip", 0.34), ("rsho", "rhip", 0.34),
    ("nose", "leye", 0.035), ("nose", "reye", 0.035), ("leye", "lear", 0.06),
    ("reye", "rear", 0.06), ("nose", "lsho", 0.165), ("nose", "rsho", 0.165),
    ("neck", "lsho", 0.08), ("neck", "rsho", 0.08), ("neck", "headtop", 0.14),
    ("neck", "head", 0.14), ("pelvis", "lhip", 0.05), ("pelvis", "rhip", 0.05),
    ("spine", "pelvis", 0.13), ("lank", "lheel", 0.06), ("rank", "rheel", 0.06),
    ("lank", "lbtoe", 0.06), ("rank", "rbtoe", 0.06),
)  # fmt: skip
_FEWEST_LIMBS: Final = 6
#: Pixels beyond which no photo reaches.
_FARTHEST: Final = 1e6


@dataclass(frozen=True, eq=False)
class CheckedPerson:
    """The numbers of a person as they are to be used, and what is wrong or odd about them.

    Attributes:
        keypoints: As given, with confidences by the one rule (``to_confidence``).
        box: x, y, w, h in pixels; None: take the box of the keypoints.
        problem: Why these numbers cannot be fitted, or None.
        notes: What is odd but does not hinder a fit, a sentence each.
        has_flags: The confidences were visibility flags; ``FLAGS_NOTE`` is not among the notes.
    """

    keypoints: Float[np.ndarray, "K 3"]
    box: Float[np.ndarray, " 4"] | None
    problem: str | None
    notes: tuple[str, ...]
    has_flags: bool


def check_person(
    keypoints: Float[np.ndarray, "K 3"],
    box: npt.ArrayLike | None,
    size: tuple[int, int] | None,
    order: str | JointSet,
    *,
    pinhole: Float[np.ndarray, "3 3"] | None = None,
    is_order_known: bool = False,
) -> CheckedPerson:
    """Check all numbers of a person that stand beside a photo.

    Args:
        keypoints: x, y in photo pixels and confidence; rows with NaN count as not labelled.
        box: x, y, w, h in pixels; None or all NaN: not given.
        size: Width and height of the photo, or None where it is not known.
        order: Joint set of the keypoints.
        pinhole: Camera matrix of the photo, if one was given.
        is_order_known: Do not doubt the order; a file's is judged by all of its people.
    """
    confidence, has_flags, note = to_confidence(keypoints[:, 2])
    points = keypoints.copy()
    points[:, 2] = confidence
    notes = [note] if note else []
    problem = find_unit_problem(points, size)
    if problem is None:
        other = "" if is_order_known else find_other_order(points, order)
        notes += [text for text in (other, find_upside_down(points, order)) if text]
    usable, more = check_box(box, points, size)
    notes += more if problem is None else ()
    if pinhole is not None and size is not None:
        notes += check_pinhole(pinhole, size)
    return CheckedPerson(points, usable, problem, tuple(notes), has_flags)


def to_confidence(
    scores: Float[np.ndarray, " K"],
) -> tuple[Float[np.ndarray, " K"], bool, str]:
    """The one rule for confidences: numbers in [0, 1], where 0 is not labelled.

    COCO's flags 0, 1, 2 become 0, 1, 1: if nothing but these three stands there. Other scores above
    1 count as 1, and those below 0 as 0. What is not finite stays.

    Returns:
        The confidences; whether they were flags; a sentence about scores out of range, or "".
    """
    known = scores[np.isfinite(scores)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    clipped = np.where(np.isfinite(scores), np.clip(scores, 0.0, 1.0), scores)
    if low >= 0.0 and high <= 1.0 + ROUNDING:
        return clipped.astype(scores.dtype), False, ""
    if low >= 0.0 and high == 2.0 and (known == np.rint(known)).all():
        return clipped.astype(scores.dtype), True, ""
    parts = [f"confidences must lie in [0, 1], got {low:g} to {high:g}"]
    if high > 1.0 + ROUNDING:
        parts.append("those above 1 count as 1")
    if low < 0.0:
        parts.append("those below 0 as not labelled")
    if 2.0 < high <= 100.0:
        parts.append("divide percentages by 100")
    return clipped.astype(scores.dtype), False, "; ".join(parts)


def _can_judge(keypoints: Float[np.ndarray, "K 3"]) -> npt.NDArray[np.bool_]:
    """Labelled points in reach of a photo: others are mistakes by themselves, and judge nothing."""
    near: npt.NDArray[np.bool_] = (np.abs(keypoints[:, :2]) <= _FARTHEST).all(axis=1)
    return near & is_labelled(keypoints)


def find_unit_problem(
    keypoints: Float[np.ndarray, "K 3"], size: tuple[int, int] | None = None
) -> str | None:
    """Say that keypoints are fractions of the photo where they all lie within a pixel or two.

    No person is that small: it takes two labelled points, and a photo, if its size is known, of
    more than 4 pixels.
    """
    points = keypoints[is_labelled(keypoints), :2]
    if len(points) < 2 or (size is not None and max(size) <= 4):
        return None
    low, high = float(points.min()), float(points.max())
    if low < -1.0 or high > 1.0:
        return None
    kind = "[0, 1]" if low >= 0.0 else "[-1, 1]"
    photo = f" of the {size[0]} x {size[1]} photo" if size else ""
    how = "multiply x by its width and y by its height"
    if low < 0.0:
        how = "take (x + 1) / 2 of its width and (y + 1) / 2 of its height"
    return (
        f"keypoints must be in pixels{photo}, got all of them within {kind}, so they are "
        f"normalised; {how}"
    )


def find_other_order(keypoints: Float[np.ndarray, "K 3"], order: str | JointSet) -> str:
    """Say that the keypoints look like those of another set of as many joints, or "".

    In the right order limbs are about as long as usual. One person shows that only where it is
    plain; ``find_other_order_of_all`` sees more. Orders that differ in left and right alone cannot
    be told apart this way.
    """
    given = joint_set(order)
    others = _orders_like(given.name)
    if not others:
        return ""
    return _name_other_order(order_scores(keypoints, (given.name, *others)), given, ORDER_MARGIN)


def find_other_order_of_all(
    keypoints: Iterable[Float[np.ndarray, "K 3"]], order: str | JointSet
) -> str:
    """Say that most people of a file or a call look like those of another set, or "".

    This is about all of them: say it once, beside what each person is told.
    """
    given = joint_set(order)
    others = _orders_like(given.name)
    if not others:
        return ""
    rows = [order_scores(points, (given.name, *others)) for points in keypoints]
    known = np.array([row for row in rows if not math.isnan(row[0])])
    if len(known) < PEOPLE_TO_TELL:
        return ""
    medians = [float(np.median(column[~np.isnan(column)])) for column in known.T]
    return _name_other_order(medians, given, ORDER_MARGIN_OF_ALL)


def _name_other_order(scores: list[float], given: JointSet, margin: float) -> str:
    score, *rest = scores
    best = min((value for value in rest if not math.isnan(value)), default=math.inf)
    if math.isnan(score) or score - best < margin:
        return ""
    pairs = zip(_orders_like(given.name), rest, strict=True)
    names = [name for name, value in pairs if value <= best + 1e-3]
    return (
        f"the keypoints look like {' or '.join(names)} rather than {given.name}: limbs are "
        f"{math.exp(best - score):.2f} times as long in that order; name the right joint set"
    )


def order_scores(keypoints: Float[np.ndarray, "K 3"], orders: tuple[str, ...]) -> list[float]:
    """Mean log of limb lengths over the usual ones, in each of several orders of the keypoints.

    The right order scores about 0 or below; NaN: too few keypoints are labelled.
    """
    first, second, usual = _limb_places(orders)
    labelled = _can_judge(keypoints)
    if labelled.sum() < FEWEST_TO_GUESS:
        return [math.nan] * len(orders)
    points = np.where(labelled[:, None], keypoints[:, :2], np.nan).astype(np.float64)
    _, _, w, h = _hull(points[labelled])
    diagonal = math.hypot(w, h)
    if diagonal <= 0.0:
        return [math.nan] * len(orders)
    points = np.concatenate([points, [[np.nan, np.nan]]])
    step = points[first] - points[second]
    length = np.sqrt(step[..., 0] ** 2 + step[..., 1] ** 2) / diagonal
    is_there = ~np.isnan(length)
    ratio = np.clip(np.log(np.maximum(length, 1e-6) / usual), -1.0, 2.0)
    count = is_there.sum(axis=1)
    total = np.where(is_there, ratio, 0.0).sum(axis=1)
    means: list[float] = np.where(
        count >= _FEWEST_LIMBS, total / np.maximum(count, 1), np.nan
    ).tolist()
    return means


def find_upside_down(keypoints: Float[np.ndarray, "K 3"], order: str | JointSet) -> str:
    """Say that a body stands on its head, or "": the usual cause is a y axis that points up.

    Of COCO's training labels, 6 in 15,000 people do.
    """
    labelled = _can_judge(keypoints)
    last = math.inf
    for ends in _levels(joint_set(order).name):
        there = ends[labelled[ends]]
        height = float(keypoints[there, 1].sum()) / len(there) if len(there) else math.nan
        if not height < last:
            return ""
        last = height
    return "the body stands on its head; if the photo does not show that, y was taken upwards"


@functools.cache
def _levels(name: str) -> list[npt.NDArray[np.intp]]:
    """Joints of a set from head to feet: nose, shoulders, hips, knees, ankles."""
    names = JOINT_SETS[name].names
    head = ("nose",) if "nose" in names else ("headtop", "head")
    levels = (head, ("lsho", "rsho"), ("lhip", "rhip"), ("lkne", "rkne"), ("lank", "rank"))
    return [
        np.array([i for i, joint in enumerate(names) if joint in level], dtype=np.intp)
        for level in levels
    ]


@functools.cache
def _orders_like(name: str) -> tuple[str, ...]:
    """Other sets of as many joints."""
    given = JOINT_SETS[name]
    return tuple(
        other.name
        for other in JOINT_SETS.values()
        if len(other) == len(given) and other.names != given.names
    )


@functools.cache
def _limb_places(
    orders: tuple[str, ...],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Both ends of the limbs, [orders, limbs], -1 where an order lacks one; usual lengths."""
    ends = []
    for order in orders:
        place = {name: index for index, name in enumerate(JOINT_SETS[order].names)}
        ends.append([[place.get(a, -1), place.get(b, -1)] for a, b, _ in _LIMBS])
    array = np.array(ends, dtype=np.intp)
    return array[..., 0], array[..., 1], np.array([usual for _, _, usual in _LIMBS])


def check_box(
    box: Any, keypoints: Float[np.ndarray, "K 3"], size: tuple[int, int] | None
) -> tuple[Float[np.ndarray, " 4"] | None, list[str]]:
    """Choose between a given box and that of the keypoints, and say what is odd about it.

    A box is used as it is given, also where it looks like another convention: that is only said.
    One that is no box, lies beside the photo, or holds none of at least two labelled keypoints, is
    not used: its crop would not show the person.

    Args:
        box: x, y, w, h in pixels, of any type; None or all NaN: not given.
        keypoints: x, y in pixels, and confidence.
        size: Width and height of the photo, or None.

    Returns:
        The box, or None for that of the keypoints; sentences.
    """
    if box is None or _is_nan(box):
        return None, []
    values = to_box(box)
    if values is None:
        return None, [
            "a box must be four numbers x, y, w, h with an area, got "
            f"{_shown(box)}; that of the keypoints was taken"
        ]
    points = keypoints[_can_judge(keypoints), :2].astype(np.float64)
    x, y, w, h = values.tolist()
    held = _count_held(points, (x, y, w, h))
    is_held = held >= HELD_SHARE * len(points)
    other = _other_reading((x, y, w, h), points, size, is_held=is_held)
    hint = f"; {other}" if other else ""
    text = f"the box {box_text((x, y, w, h))}"
    if size is not None and not meets_photo((x, y, w, h), size):
        photo = f"the {size[0]} x {size[1]} photo"
        return None, [f"{text} lies beside {photo}{hint}; that of the keypoints was taken"]
    if is_held or len(points) < 2:
        return values, [f"{text} does not fit the keypoints{hint}"] if other else []
    if held == 0:
        return None, [
            f"{text} holds none of {len(points)} labelled keypoints{hint}; that of the keypoints "
            "was taken"
        ]
    return values, [f"{text} holds {held} of {len(points)} labelled keypoints{hint}"]


def to_box(box: Any) -> Float[np.ndarray, " 4"] | None:
    """The box x, y, w, h as an array, or None if it is not four finite numbers with an area."""
    if isinstance(box, (list, tuple)) and not {type(value) for value in box} <= {int, float}:
        return None
    try:
        values = np.array(box, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if values.shape != (4,) or not np.isfinite(values).all() or values[2:].min() <= 0.0:
        return None
    return values


def _is_nan(box: Any) -> bool:
    if not isinstance(box, np.ndarray) or box.dtype.kind != "f":
        return False
    return bool(np.isnan(box).all())


def _shown(value: Any) -> str:
    """A value for a sentence, however long it is."""
    text = repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def box_text(box: Box) -> str:
    """A box for a sentence."""
    return "[" + ", ".join(f"{round(value, 1):g}" for value in box) + "]"


def meets_photo(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box and the photo overlap; pixel i covers i - 0.5 to i + 0.5."""
    x, y, w, h = box
    return x + w > -0.5 and y + h > -0.5 and x < size[0] - 0.5 and y < size[1] - 0.5


def _count_held(points: Float[np.ndarray, "K 2"], box: Box) -> int:
    x, y, w, h = box
    slack = BOX_SLACK * max(w, h)
    low, high = (x - slack, y - slack), (x + w + slack, y + h + slack)
    return int(((points >= low) & (points <= high)).all(axis=1).sum())


def _other_reading(
    box: Box, points: Float[np.ndarray, "K 2"], size: tuple[int, int] | None, *, is_held: bool
) -> str:
    """Another convention of the box, or of the keypoints, in which the two agree, or "".

    Keypoints are doubted only where the box does not hold most of them.
    """
    if len(points) < FEWEST_TO_GUESS:
        return ""
    hull = _hull(points)
    best, sentence = max(READING_FIT, box_overlap(box, hull) + READING_GAIN), ""
    if best > 1.0:
        return ""
    for name, reading in _box_readings(box, size).items():
        if (overlap := box_overlap(reading, hull)) >= best:
            best, sentence = overlap, f"it looks like {name}, not x, y, width, height"
    for name, moved in {} if is_held else _hull_readings(box, hull, size).items():
        # The box is the likelier fault: a file with wrong axes seldom has right boxes.
        if (overlap := box_overlap(box, moved)) >= best + 0.05:
            best, sentence = overlap, f"the keypoints look like {name}"
    return sentence


def _box_readings(box: Box, size: tuple[int, int] | None) -> dict[str, Box]:
    """The same four numbers in other conventions, as x, y, w, h."""
    a, b, c, d = box
    readings = {
        "centre x, centre y, width, height": (a - c / 2, b - d / 2, c, d),
        "y, x, height, width (or the keypoints like y, x)": (b, a, d, c),
    }
    if c > a and d > b:
        readings["x1, y1, x2, y2"] = (a, b, c - a, d - b)
    if size is not None and max(box) <= 1.5:
        w, h = size
        readings["fractions of the photo"] = (w * a, h * b, w * c, h * d)
        center = (w * (a - c / 2), h * (b - d / 2), w * c, h * d)
        readings["fractions of the photo, about the centre"] = center
    return readings


def _hull_readings(box: Box, hull: Box, size: tuple[int, int] | None) -> dict[str, Box]:
    """Where the same keypoints would be in other conventions: the box around them."""
    x, y, w, h = hull
    readings = {}
    if size is not None:
        readings["those with y upwards"] = (x, size[1] - 1 - y - h, w, h)
    # A common factor moves the centre of the keypoints along a ray; the factor with the least
    # square distance to the centre of the box.
    center, target = (x + w / 2, y + h / 2), (box[0] + box[2] / 2, box[1] + box[3] / 2)
    square = center[0] * center[0] + center[1] * center[1]
    zoom = (center[0] * target[0] + center[1] * target[1]) / square if square > 0.0 else 1.0
    if zoom > 0.0 and not 0.8 < zoom < 1.25:
        name = f"those of a picture {1 / zoom:.2g} times as large as that of the box"
        readings[name] = (x * zoom, y * zoom, w * zoom, h * zoom)
    return readings


def _hull(points: Float[np.ndarray, "K 2"]) -> Box:
    x1, y1 = points.min(axis=0).tolist()
    x2, y2 = points.max(axis=0).tolist()
    return x1, y1, x2 - x1, y2 - y1


def check_pinhole(pinhole: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> list[str]:
    """Say that a camera matrix cannot be in the pixels of its photo.

    Args:
        pinhole: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
        size: Width and height of the photo, pixels.
    """
    focal = float(min(pinhole[0, 0], pinhole[1, 1]))
    center = np.array([pinhole[0, 2], pinhole[1, 2]], dtype=np.float64)
    longer = max(size)
    middle = f"{(size[0] - 1) / 2:g}, {(size[1] - 1) / 2:g}"
    photo = f"the {size[0]} x {size[1]} photo"
    if longer > 16 and focal < 10.0 and (np.abs(center) <= 1.0).all() and center.any():
        return [
            f"the camera matrix must be in pixels of {photo}, got a focal length of {focal:g} and "
            f"a principal point of {center[0]:g}, {center[1]:g}; multiply by its width and height"
        ]
    notes = []
    view = 2.0 * np.degrees(np.arctan2(longer / 2.0, focal))
    if view > WIDEST_VIEW:
        guess = (
            f"one in millimetres of {FILM_MM:g} mm film is {focal * longer / FILM_MM:.0f} pixels"
        )
        if focal < 5.0:
            guess = f"one in widths of the photo is {focal * longer:.0f} pixels"
        notes.append(
            f"a focal length of {focal:g} pixels is a view of {view:.0f} degrees across {photo}; "
            f"{guess}"
        )
    if longer > 16 and (np.abs(center) <= 1.0).all():
        notes.append(
            f"a principal point of {center[0]:g}, {center[1]:g} is the corner of {photo}; its "
            f"middle is {middle}"
        )
    elif not ((center >= -0.5) & (center <= np.asarray(size) - 0.5)).all():
        notes.append(
            f"the principal point {center[0]:g}, {center[1]:g} lies beside {photo}; its middle is "
            f"{middle}"
        )
    return notes


def check_error(error_px: float, box: npt.ArrayLike) -> str:
    """Say that a fit ended far from its keypoints, or "".

    Args:
        error_px: Mean distance over the labelled keypoints at the end.
        box: x, y, w, h of the person, pixels; or width and height only.
    """
    side = float(np.asarray(box, dtype=np.float64)[-2:].max())
    if not error_px > BAD_ERROR * side:
        return ""
    return (
        f"the fit ended {error_px:.3g} pixels from its keypoints on average, "
        f"{error_px / side:.2f} of the person's box; look at it before you use it"
    )


def find_swapped_sides(
    projected: Float[np.ndarray, "K 2"], keypoints: Float[np.ndarray, "K 3"], order: str | JointSet
) -> str:
    """Say that left and right of the labels look exchanged, or "".

    Give the projection of the regressor's answer: it has not seen the labels, while a fit turns
    the body to meet them.

    Args:
        projected: The keypoints of a body, photo pixels.
        keypoints: The labels, photo pixels and confidence.
        order: Joint set of both.
    """
    labelled = is_labelled(keypoints)
    flip = np.array(joint_set(order).flip)
    pairs = labelled & labelled[flip] & (flip != np.arange(len(flip)))
    if pairs.sum() < FEWEST_TO_GUESS or not np.isfinite(projected[pairs]).all():
        return ""
    labels = keypoints[:, :2].astype(np.float64)
    side = max(_hull(labels[labelled])[2:])
    as_given = float(np.linalg.norm(projected - labels, axis=1)[pairs].mean())
    exchanged = float(np.linalg.norm(projected - labels[flip], axis=1)[pairs].mean())
    if not (exchanged < SWAP_RATIO * as_given and as_given > SWAP_ERROR * side):
        return ""
    return (
        f"left and right of the keypoints look exchanged: before the fit the body is "
        f"{as_given:.3g} pixels away, and {exchanged:.3g} with the sides exchanged"
    )


def find_body_fault(
    betas: Float[np.ndarray, " C"], camera_scale: float, height_m: float | None = None
) -> str:
    """Say that a fitted body is none that people have, or "".

    Args:
        betas: Shape coefficients, in standard deviations.
        camera_scale: The s of ``pred_cam``; 0 or below shows the body from behind the camera.
        height_m: Height of the body at rest, metres, if known.
    """
    if not (np.isfinite(betas).all() and np.isfinite(camera_scale)):
        return ""
    largest = float(np.abs(betas).max(initial=0.0))
    if camera_scale <= 0.0:
        return f"the body ended behind the camera (scale {camera_scale:.3g})"
    if largest > MAX_BETA:
        return (
            f"the body's shape is no person's: a coefficient of {largest:.1f} standard "
            f"deviations, more than {MAX_BETA:g}"
        )
    if height_m is not None and not HEIGHTS_M[0] <= height_m <= HEIGHTS_M[1]:
        return (
            f"the body is {height_m:.2f} m tall; people are {HEIGHTS_M[0]:g} to {HEIGHTS_M[1]:g} m"
        )
    return ""
