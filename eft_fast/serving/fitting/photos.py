"""From photos, keypoints and the regressor's answers to ``PhotoFits``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.conventions import BOX_UNIT, NUM_BETAS, NUM_JOINTS
from eft_fast.keypoints import JointSet
from eft_fast.person import PlacedPerson, photo_pinhole
from eft_fast.plausible import check_error
from eft_fast.serving.card import ModelCard
from eft_fast.serving.fitting.asset import FitAsset
from eft_fast.serving.fitting.energy import Problem, State
from eft_fast.serving.fitting.fit import Fits
from eft_fast.serving.fitting.record import PhotoFits

if TYPE_CHECKING:
    from jaxtyping import Float64

    from eft_fast.sample import Sample

_NO_KEYPOINTS: Final = "Predictor.fit: no keypoint is labelled; the regressor's answer was kept"
_NOT_FINITE: Final = (
    "Predictor.fit: the regressor's answer is not finite, or not before the camera; it was kept"
)


@dataclass(frozen=True, eq=False)
class _Group:
    """People who are fitted in one call: all of them have a pinhole, or none has."""

    rows: list[int]
    keypoints: Float64[np.ndarray, "B K 3"]
    center: Float64[np.ndarray, "B 2"]
    half: Float64[np.ndarray, " B"]
    pinhole: Float64[np.ndarray, "B 4"] | None


def fit_placed(
    people: Sequence[PlacedPerson | str],
    samples: Sequence[Sample],
    sizes: Sequence[tuple[int, int]],
    solve: Callable[[np.ndarray, np.ndarray, np.ndarray | None], tuple[State, Fits]],
    asset: FitAsset,
    points: JointSet,
    card: ModelCard,
) -> PhotoFits:
    """Fit everybody who has a crop.

    Args:
        people: Who was placed, or why not.
        samples: The same people as given.
        sizes: Width and height of each photo.
        solve: From crops, keypoints in them and pinholes, if any is given, to the network's answers
            and the fits, see ``engines``.
        asset: Body and covariance.
        points: Joint set of the keypoints.
        card: The model.
    """
    columns = _empty_columns(people, samples, points)
    rows = [row for row, person in enumerate(people) if isinstance(person, PlacedPerson)]
    if rows:
        placed = [person for person in people if isinstance(person, PlacedPerson)]
        pixels = np.stack([person.pixels for person in placed])
        group = _make_group(rows, placed, samples, sizes)
        init, fits = solve(pixels, group.keypoints, group.pinhole)
        _fill_columns(columns, group, placed, init, fits, asset, points)
    columns["stop_reason"] = tuple(columns["stop_reason"])
    columns["message"] = tuple(columns["message"])
    return PhotoFits(**columns, joint_set=points.name, card=card)


def _make_group(
    rows: list[int],
    placed: Sequence[PlacedPerson],
    samples: Sequence[Sample],
    sizes: Sequence[tuple[int, int]],
) -> _Group:
    center = np.stack([person.crop.center for person in placed])
    half = np.array([person.crop.side / 2 for person in placed])
    pinholes = [photo_pinhole(samples[row].K, *sizes[row]) for row in rows]
    given = [pinhole for pinhole in pinholes if pinhole is not None]
    seen = None
    if given:
        matrix = np.stack(given)
        focal, middle = matrix[:, (0, 1), (0, 1)], matrix[:, :2, 2]
        seen = np.concatenate([focal, middle - center], 1) / half[:, None]
    keypoints = np.stack([person.given for person in placed]).astype(np.float64)
    return _Group(rows, keypoints, center, half, seen)


def _empty_columns(
    people: Sequence[PlacedPerson | str], samples: Sequence[Sample], points: JointSet
) -> dict[str, Any]:
    """The fields of a result in which nobody has a fit."""
    count, width = len(people), len(points)
    shapes: dict[str, tuple[int, ...]] = {
        "rotmat": (NUM_JOINTS, 3, 3),
        "betas": (NUM_BETAS,),
        "cam": (3,),
        "joints": (width, 3),
        "joints_2d_px": (width, 2),
        "smpl_joints": (NUM_JOINTS, 3),
        "cam_transl": (3,),
        "joint_sigma_mm": (NUM_JOINTS,),
        "weight_factor": (width,),
        **dict.fromkeys(("kp_error_px", "init_kp_error_px", "energy", "init_energy"), ()),
        "tension": (),
    }
    shapes |= {f"init_{name}": shapes[name] for name in ("rotmat", "betas", "cam")}
    columns: dict[str, Any] = {
        name: np.full((count, *shape), np.nan, np.float32) for name, shape in shapes.items()
    }
    for name, shape in (("intrinsics", (3, 3)), ("bbox_center", (2,)), ("bbox_scale", ())):
        columns[name] = np.full((count, *shape), np.nan)
    for name in ("turned", "flipped", "swapped_arms", "swapped_legs"):
        columns[name] = np.zeros(count, bool)
    columns["steps"] = np.zeros(count, np.int64)
    columns["stop_reason"] = ["bad_image"] * count
    columns["message"] = [
        person if isinstance(person, str) else "; ".join(person.notes) for person in people
    ]
    given = [np.nan_to_num(np.asarray(each.keypoints_2d_px, np.float32)) for each in samples]
    columns["keypoints"] = np.stack(given) if given else np.zeros((0, width, 3), np.float32)
    return columns


def _fill_columns(
    columns: dict[str, Any],
    group: _Group,
    placed: Sequence[PlacedPerson],
    init: State,
    fits: Fits,
    asset: FitAsset,
    points: JointSet,
) -> None:
    """Put the fits of a group into their rows; people without a fit keep the answer."""
    rows = group.rows
    labelled = (group.keypoints[..., 2] > 0).any(1)
    is_kept = ~(labelled & fits.finite)
    final = State(
        *(
            np.where(is_kept.reshape(len(rows), *(1,) * (old.ndim - 1)), old, new)
            for old, new in zip(init, fits.final, strict=True)
        )
    )
    reasons = np.where(fits.converged, "converged", "max_steps")
    reasons = np.where(labelled, np.where(fits.finite, reasons, "nan"), "no_keypoints")
    energy = np.where(is_kept, fits.init_energy, fits.energy)
    pinhole = None if np.isnan(fits.pinhole).all() else fits.pinhole
    seen = Problem(
        asset.points(points), final, group.keypoints, asset.precision, group.half, pinhole
    )
    for which, state in (("", final), ("init_", init)):
        for name, value in state._asdict().items():
            columns[which + name][rows] = value
        with np.errstate(all="ignore"):
            body = seen.points.pose(state.betas, state.rotmat)
            image = seen.project(state.cam, body.points)
        photo = group.center[:, None] + group.half[:, None, None] * image
        columns[f"{which}kp_error_px"][rows] = _mean_distance(photo, placed)
        if not which:
            columns["joints"][rows], columns["joints_2d_px"][rows] = body.points, photo
            columns["smpl_joints"][rows] = body.joints
    if pinhole is not None:
        columns["cam_transl"][rows] = seen.place(final.cam)
        columns["intrinsics"][rows] = _photo_matrix(pinhole, group)
    columns["bbox_center"][rows] = group.center
    columns["bbox_scale"][rows] = 2 * group.half / BOX_UNIT
    columns["keypoints"][rows] = np.stack([person.keypoints_px for person in placed])
    columns["energy"][rows], columns["init_energy"][rows] = energy, fits.init_energy
    columns["tension"][rows] = np.where(is_kept, np.nan, fits.tension)
    columns["steps"][rows] = np.where(is_kept, 0, fits.steps)
    for name in ("joint_sigma_mm", "weight_factor"):
        columns[name][rows] = getattr(fits, name)
    for name in ("turned", "flipped", "swapped_arms", "swapped_legs"):
        columns[name][rows] = getattr(fits, name) & ~is_kept
    for row, person, reason in zip(rows, placed, reasons.tolist(), strict=True):
        columns["stop_reason"][row] = reason
        columns["message"][row] = _message(
            columns["message"][row], reason, float(columns["kp_error_px"][row]), person
        )


def _message(told: str, reason: str, error_px: float, person: PlacedPerson) -> str:
    why = {"no_keypoints": _NO_KEYPOINTS, "nan": _NOT_FINITE}.get(reason, "")
    far = check_error(error_px, [person.crop.side] * 2) if np.isfinite(error_px) else ""
    return "; ".join(text for text in (told, why, far) if text)


def _mean_distance(photo: np.ndarray, placed: Sequence[PlacedPerson]) -> np.ndarray:
    """Mean distance to the given keypoints, photo pixels; NaN without any."""
    given = np.stack([person.keypoints_px for person in placed]).astype(np.float64)
    distance = np.sqrt(((photo - given[..., :2]) ** 2).sum(-1))
    counts = given[..., 2] > 0
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counts, distance, 0.0).sum(1) / counts.sum(1))


def _photo_matrix(pinhole: np.ndarray, group: _Group) -> Float64[np.ndarray, "B 3 3"]:
    """The pinholes of crops as camera matrices of the photos, pixels."""
    matrix = np.zeros((len(pinhole), 3, 3))
    scaled = pinhole * group.half[:, None]
    matrix[:, 0, 0], matrix[:, 1, 1] = scaled[:, 0], scaled[:, 1]
    matrix[:, :2, 2] = scaled[:, 2:] + group.center
    matrix[:, 2, 2] = 1.0
    return matrix
