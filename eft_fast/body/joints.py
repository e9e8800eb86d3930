"""What each joint of a joint set is on a body: a weighted sum of kinematic joints and vertices.

Points belong to a body by its id, never by its shape: the open body has SMPL's vertex count, and a
regressor of SMPL would pick wrong vertices of it without any error. Where a point only stands for
the one that annotators mark, ``BodyPoints.approx`` says so by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.body.arrays import BodyArrays, VertexRow
from eft_fast.body.plan import PointRows, regressor_rows, vertex_rows
from eft_fast.keypoints import (
    JOINT_SETS,
    LANDMARKS,
    SPIN49_SOURCES,
    JointSet,
    joint_set,
)

_SMPL45: Final = JOINT_SETS["smpl45"].names
_LIMBS: Final = tuple(
    f"{side}{joint}" for joint in ("sho", "elb", "wri", "hip", "kne", "ank") for side in "lr"
)
_FROM_JOINTS: Final = "made of joints and vertices by eft_fast, not by a regressor of the dataset"
_OWN_LANDMARK: Final = "a landmark of this body's own, not a regressor of the dataset"
#: Sets whose limbs are clicked or detected on the picture of a joint, as COCO's are.
_CLICKED_SETS: Final = (
    "coco17", "coco23", "penn13", "penn13_eft", "posetrack15", "posetrack17", "ochuman19",
    "mp33", "op25b", "halpe26", "crowdpose14", "aic14", "jhmdb15",
)  # fmt: skip
_PUPPET: Final = "stands in for the joint of a puppet model that no body has"
_KINEMATIC: Final = "kinematic joint, not the point that annotators mark"


@dataclass(frozen=True)
class BodyPoints:
    """Named points of one body (or one family of bodies, as all of SMPL).

    Attributes:
        rows: The points as sums of kinematic joints and vertices.
        body_id: Id of the body, or ``smpl`` for every SMPL.
        approx: Points that only stand for what their name says, and why.
    """

    rows: PointRows
    body_id: str
    approx: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each point."""
        return self.rows.names

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Point:
    """One point; sums and multiples of points are points."""

    joints: Mapping[int, float] = field(default_factory=dict)
    vertices: Mapping[int, float] = field(default_factory=dict)

    def __add__(self, other: _Point) -> _Point:
        return _Point(_sum(self.joints, other.joints), _sum(self.vertices, other.vertices))

    def __mul__(self, factor: float) -> _Point:
        return _Point(
            {key: factor * value for key, value in self.joints.items()},
            {key: factor * value for key, value in self.vertices.items()},
        )

    def __sub__(self, other: _Point) -> _Point:
        return self + other * -1.0


def _sum(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    keys = [*one, *(key for key in other if key not in one)]
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in keys}


def _mean(*points: _Point) -> _Point:
    total = points[0]
    for point in points[1:]:
        total = total + point
    return total * (1 / len(points))


class JointDefinitions:
    """The joint sets of one body.

    Args:
        arrays: The body.
        landmarks: Regressor [9, V] of ``keypoints.LANDMARKS`` that replaces the body's own; it
            must have passed ``check_owner``.
    """

    def __init__(self, arrays: BodyArrays, landmarks: npt.NDArray[np.float64] | None = None):
        self.arrays = arrays
        self._skeleton = _skeleton_points(arrays)
        rows = dict(arrays.keypoint_rows)
        self._landmark_note: str | None = _OWN_LANDMARK
        if landmarks is not None:
            for name, row in zip(LANDMARKS, landmarks, strict=True):
                index = np.flatnonzero(row)
                rows[name] = VertexRow(index, row[index])
            self._landmark_note = None
        self._rows = {
            name: _Point(vertices=dict(zip(row.indices.tolist(), row.values.tolist(), strict=True)))
            for name, row in rows.items()
        }
        if not all(name in rows for name in LANDMARKS):
            self._landmark_note = _FROM_JOINTS
            self._rows |= _approximate_landmarks(self._skeleton)

    def __call__(self, which: str | JointSet) -> BodyPoints:
        """Define every joint of a set on this body.

        Raises:
            ValueError: If there is no such set, or the body lacks points that it needs.
        """
        order = joint_set(which)
        vocabulary, approx = self._vocabulary(order.name)
        missing = [name for name in order.names if name not in vocabulary]
        if missing:
            raise ValueError(
                f"joint_set: {order.name} needs {', '.join(missing[:4])}"
                f"{' and more' if len(missing) > 4 else ''}, which body {self.arrays.model_id} "
                f"does not define; use {order.body_set or 'smpl24'} or points of your own"
            )
        points = [vocabulary[name] for name in order.names]
        rows = PointRows(
            order.names, tuple(p.joints for p in points), tuple(p.vertices for p in points)
        )
        notes = {name: approx[name] for name in order.names if name in approx}
        return BodyPoints(rows, self.arrays.family, notes)

    def _vocabulary(self, name: str) -> tuple[dict[str, _Point], dict[str, str]]:
        """Points and notes of the names that a set uses."""
        base = dict(self._skeleton)
        if name in ("smpl24", "smpl45"):
            return base, {}
        if name == "spin49":
            return self._spin49()
        if name in ("j24", "lsp14", "mpii16"):
            points, notes = self._spin49()
            return points, notes
        middle = {
            "neck": _mean(base["lsho"], base["rsho"]),
            "pelvis": _mean(base["lhip"], base["rhip"]),
        }
        kinematic = {limb: _KINEMATIC for limb in _LIMBS}
        if name in ("op25", "op18", "panoptic19"):
            return base | middle, kinematic
        if name in ("h36m17_rightfirst", "h36m17_Jreg", "mpiinf17test"):
            return base | {"pelvis": middle["pelvis"]} | self._named("h36m"), self._notes("h36m")
        if name in _CLICKED_SETS:
            clicked = {
                limb: self._rows[f"coco_{limb}"] for limb in _LIMBS if f"coco_{limb}" in self._rows
            }
            notes = {limb: note for limb, note in kinematic.items() if limb not in clicked}
            notes |= {limb: _OWN_LANDMARK for limb in clicked}
            points = base | self._named("lsp") | self._named("h36m") | clicked
            notes |= self._notes("lsp") | self._notes("h36m") | _mp33_notes(name)
            if name == "mp33":
                points |= _mp33_points(base)
            if name == "halpe26":
                points |= middle
            if name == "jhmdb15":
                points |= {"belly": _mean(base["spine1"], base["spine2"])}
                points |= {"head": _mean(base["nose"], base["head"])} if "nose" in base else {}
                notes |= {"belly": _PUPPET, "head": _PUPPET}
            return points, notes
        return base, {}

    def _named(self, suffix: str) -> dict[str, _Point]:
        """Landmarks of one dataset under their short names, hips left out."""
        return {
            name.split("_")[0]: self._rows[name]
            for name in LANDMARKS
            if name.endswith(suffix) and "hip" not in name and name in self._rows
        }

    def _notes(self, suffix: str) -> dict[str, str]:
        if self._landmark_note is None:
            return {}
        return {name: self._landmark_note for name in self._named(suffix)}

    def _spin49(self) -> tuple[dict[str, _Point], dict[str, str]]:
        """The sources of the 49: smpl45, then the nine landmarks."""
        sources = [self._skeleton.get(name) for name in _SMPL45]
        sources += [self._rows.get(name) for name in LANDMARKS]
        names = JOINT_SETS["spin49"].names
        chosen = zip(names, SPIN49_SOURCES, strict=True)
        points = {name: point for name, s in chosen if (point := sources[s]) is not None}
        note = self._landmark_note
        landmark_names = [n for n, s in zip(names, SPIN49_SOURCES, strict=True) if s >= 45]
        return points, {} if note is None else dict.fromkeys(landmark_names, note)


def _skeleton_points(arrays: BodyArrays) -> dict[str, _Point]:
    """The 24 kinematic joints and, if the body names them, the 21 picked vertices."""
    points = {name: _Point(joints={index: 1.0}) for index, name in enumerate(_SMPL45[:24])}
    if arrays.vertex_picks is not None:
        picks = zip(_SMPL45[24:], arrays.vertex_picks.tolist(), strict=True)
        points |= {name: _Point(vertices={vertex: 1.0}) for name, vertex in picks}
    return points


def _approximate_landmarks(skeleton: Mapping[str, _Point]) -> dict[str, _Point]:
    """Stand-ins for the nine landmarks on a body that has no regressor for them.

    Chosen on the anatomy of the rest pose; expect one to three centimetres against a regressor.
    """
    s = skeleton
    if "lear" not in s:
        return {}
    ears = _mean(s["lear"], s["rear"])
    middle = _mean(s["lhip"], s["rhip"])
    # Annotated hips lie some 2 cm above and 1 cm outside the joint.
    above = (s["spine1"] - s["pelvis"]) * 0.13
    hips = {side: s[f"{side}hip"] + above + (s[f"{side}hip"] - middle) * 0.1 for side in "lr"}
    # From ears to crown. The neck leans forward, the line from nose to eyes leans back.
    up = (ears - s["neck"]) * 0.75 + (_mean(s["leye"], s["reye"]) - s["nose"]) * 1.2
    return {
        "rhip_lsp": hips["r"],
        "lhip_lsp": hips["l"],
        "neck_lsp": s["neck"] * 0.8 + _mean(s["lcol"], s["rcol"]) * 0.2,
        "headtop_lsp": ears + up,
        "pelvis_mpii": _mean(hips["l"], hips["r"]),
        "thorax_mpii": _mean(s["lsho"], s["rsho"]),
        "spine_h36m": _mean(s["spine1"], s["spine2"]),
        "jaw_h36m": _mean(s["nose"], s["head"]),
        "head_h36m": ears + up * 0.8,
    }


def _mp33_points(skeleton: Mapping[str, _Point]) -> dict[str, _Point]:
    """Points of MediaPipe's 33 that smpl45 lacks; none is an exact one."""
    s = skeleton
    if "nose" not in s:
        return {}
    eyes = _mean(s["leye"], s["reye"])
    points: dict[str, _Point] = {}
    for side in "lr":
        eye, hand, wrist = s[f"{side}eye"], s[f"{side}hand"], s[f"{side}wri"]
        tips = {finger: s[f"{side}{finger}"] for finger in ("thumb", "index", "middle", "pinky")}
        points |= {
            f"{side}eyein": eye + (eyes - eye) * 0.4,
            f"{side}eyeout": eye + (eye - eyes) * 0.4,
            # Below the nose by half the step from head to neck, four fifths of an eye apart.
            f"{side}mouth": s["nose"] + (eye - eyes) * 0.8 + (s["neck"] - s["head"]) * 0.5,
            # Knuckles: beside the hand joint as the finger tips lie beside the middle one.
            f"{side}index": hand + (tips["index"] - tips["middle"]) * 0.6,
            f"{side}pinky": hand + (tips["pinky"] - tips["middle"]) * 0.6,
            f"{side}thumb": wrist * 0.4 + tips["thumb"] * 0.6,
        }
    return points


def _mp33_notes(name: str) -> dict[str, str]:
    if name != "mp33":
        return {}
    words = "eyein eyeout mouth index pinky thumb".split()
    notes = {f"{side}{word}": _FROM_JOINTS for side in "lr" for word in words}
    return notes | {f"{side}btoe": "big toe, while MediaPipe's is the index toe" for side in "lr"}


def check_owner(arrays: BodyArrays, body_id: str | None, what: str) -> None:
    """Refuse a regressor or vertex list that belongs to another body.

    Args:
        arrays: The body at hand.
        body_id: Id that the list belongs to; None: unknown, which is taken for SMPL's.
        what: What it is, for the message.

    Raises:
        ValueError: If it belongs to another body.
    """
    owner = "smpl" if body_id is None else body_id
    if owner not in (arrays.family, arrays.model_id):
        raise ValueError(
            f"joint_set: {what} belongs to {owner}, the body is {arrays.model_id}; use the body's "
            "own joint sets, or name the body that it was made for"
        )


def points_from_regressor(
    arrays: BodyArrays,
    regressor: npt.ArrayLike | str | os.PathLike[str],
    *,
    body_id: str | None = None,
    names: Sequence[str] | None = None,
) -> BodyPoints:
    """Make points from a regressor [K, V], given as an array or as the path of a .npy file.

    Args:
        arrays: The body.
        regressor: Weights of the vertices, one row per point.
        body_id: Body that the regressor was made for; a bare one counts as SMPL's.
        names: Name of each point.
    """
    check_owner(arrays, body_id, "the regressor")
    dense = read_regressor(arrays, regressor)
    labels = list(names) if names is not None else [f"point{i}" for i in range(len(dense))]
    if len(labels) != len(dense):
        raise ValueError(f"joint_set: expected {len(dense)} names, got {len(labels)}")
    return BodyPoints(regressor_rows(dense, labels), arrays.family)


def points_from_vertices(
    arrays: BodyArrays,
    indices: Sequence[int],
    *,
    body_id: str | None = None,
    names: Sequence[str] | None = None,
) -> BodyPoints:
    """Make points from vertex ids; arguments as in ``points_from_regressor``."""
    check_owner(arrays, body_id, "the vertex list")
    labels = list(names) if names is not None else [f"vertex{i}" for i in indices]
    return BodyPoints(vertex_rows(list(indices), labels), arrays.family)


def points_from_surface(
    arrays: BodyArrays,
    face_ids: Sequence[int],
    barycentric: npt.ArrayLike,
    *,
    body_id: str | None = None,
    names: Sequence[str] | None = None,
) -> BodyPoints:
    """Make points on faces: ``barycentric`` [K, 3] weighs the corners of each face.

    Other arguments as in ``points_from_regressor``.
    """
    check_owner(arrays, body_id, "the list of surface points")
    weights = np.asarray(barycentric, np.float64)
    if weights.shape != (len(face_ids), 3) or not np.isfinite(weights).all():
        raise ValueError(
            f"joint_set: expected finite barycentric weights [{len(face_ids)}, 3], "
            f"got {list(weights.shape)}"
        )
    outside = [face for face in face_ids if not 0 <= face < len(arrays.faces)]
    if outside:
        raise ValueError(
            f"joint_set: expected faces from 0 to {len(arrays.faces) - 1}, got {outside[0]}"
        )
    labels = tuple(names) if names is not None else tuple(f"surface{i}" for i in face_ids)
    return _weighted_corners(arrays, arrays.faces[list(face_ids)], weights, labels)


def points_from_triangles(
    arrays: BodyArrays,
    vertices: npt.ArrayLike,
    barycentric: npt.ArrayLike,
    *,
    body_id: str | None = None,
    names: Sequence[str] | None = None,
) -> BodyPoints:
    """Make points on triangles of vertices [K, 3], such as DensePose's, weighed by [K, 3].

    Other arguments as in ``points_from_regressor``.
    """
    check_owner(arrays, body_id, "the list of surface points")
    corners, weights = np.asarray(vertices), np.asarray(barycentric, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind not in "iu":
        raise ValueError(
            f"joint_set: expected vertices [K, 3] as whole numbers, got {list(corners.shape)}"
        )
    if weights.shape != corners.shape or not np.isfinite(weights).all():
        raise ValueError(
            f"joint_set: expected finite barycentric weights [{len(corners)}, 3], "
            f"got {list(weights.shape)}"
        )
    most = len(arrays.v_template) - 1
    if corners.size and not 0 <= corners.min() <= corners.max() <= most:
        raise ValueError(
            f"joint_set: expected vertices from 0 to {most}, got {corners.min()} to "
            f"{corners.max()}; leave out points of no triangle"
        )
    labels = names if names is not None else [f"surface{i}" for i in range(len(corners))]
    return _weighted_corners(arrays, corners, weights, tuple(labels))


def _weighted_corners(
    arrays: BodyArrays,
    corners: npt.NDArray[Any],
    weights: npt.NDArray[np.float64],
    labels: tuple[str, ...],
) -> BodyPoints:
    """Points that are weighted sums of three vertices each."""
    rows: list[dict[int, float]] = []
    for corner_ids, shares in zip(corners.tolist(), weights.tolist(), strict=True):
        row: dict[int, float] = {}
        for corner, share in zip(corner_ids, shares, strict=True):
            row[corner] = row.get(corner, 0.0) + share
        rows.append(row)
    return BodyPoints(PointRows(labels, ({},) * len(rows), tuple(rows)), arrays.family)


def read_regressor(
    arrays: BodyArrays,
    regressor: npt.ArrayLike | str | os.PathLike[str],
    rows: int | None = None,
) -> npt.NDArray[np.float64]:
    """Read and check a regressor [K, V] of this body's size.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is no finite array [K, V], or K is not ``rows``.
    """
    value: Any = regressor
    if isinstance(regressor, (str, os.PathLike)):
        path = Path(regressor).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"joint_set: no regressor file {path}; give its full path")
        try:
            value = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise ValueError(
                f"joint_set: expected a .npy array of numbers, got another file {path}"
            ) from None
    dense = np.asarray(value)
    count = rows if rows is not None else (len(dense) if dense.ndim else 0)
    if dense.dtype.kind not in "fiu" or dense.shape != (count, arrays.num_vertices) or not count:
        raise ValueError(
            f"joint_set: expected a regressor [{rows or 'K'}, {arrays.num_vertices}] of numbers, "
            f"got {dense.dtype} {list(dense.shape)}"
        )
    if not np.isfinite(dense).all():
        raise ValueError("joint_set: expected finite numbers in the regressor, got NaN or infinity")
    return dense.astype(np.float64)
