"""DensePose-COCO: COCO's people with points on the surface of the body.

A point stands at ``dp_x, dp_y`` in 0..255 of the box, and is known by a part ``dp_I`` of 1 to 24
and ``dp_U, dp_V`` in [0, 1] on it. Samples hold them in ``extra["densepose"]``: ``xy_px`` [P, 2],
``part`` [P] (0: none), ``uv`` [P, 2]. Which point of SMPL that is, only DensePose's own
``UV_Processed.mat`` tells. Its licence is non-commercial, so it is not in this package: with
``uv_file`` the samples hold ``vertices`` [P, 3] and ``weights`` [P, 3] too, a triangle of SMPL's
vertices and where in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.readers.coco import people_of_coco
from eft_fast.data.readers.matlab import load_mat
from eft_fast.data.readers.peek import Peek
from eft_fast.data.readers.reading import Found, Reading
from eft_fast.data.values import shown
from eft_fast.plausible import to_box
from eft_fast.sample import Sample

_KEYS: Final = ("dp_I", "dp_U", "dp_V", "dp_x", "dp_y")
#: Units of ``dp_x`` and ``dp_y`` across the box.
_ACROSS: Final = 255.0
_NUM_VERTICES: Final = 6890
_NUM_PARTS: Final = 24


def is_densepose(peek: Peek) -> bool:
    """Whether an annotation near the start of the file has surface points."""
    if not isinstance(peek.json, dict) or "images" not in peek.json:
        return False
    return b'"dp_I"' in peek.head or b'"dp_x"' in peek.head or b'"dp_x"' in peek.tail


def samples_of_densepose(reading: Reading, uv_file: str | None = None) -> Iterator[Sample]:
    """The people, as in COCO's files.

    Args:
        reading: What is read.
        uv_file: The user's ``UV_Processed.mat``; None: points keep part, U and V alone.
    """
    surface = None if uv_file is None else load_surface_map(uv_file)
    reading.keep = _KEYS
    yield from reading.samples(_people(reading, surface))


def _people(reading: Reading, surface: SurfaceMap | None) -> Iterator[Found]:
    for found in people_of_coco(reading, reading.path):
        extra = {key: value for key, value in found.person.extra.items() if key not in _KEYS}
        notes = found.person.notes
        given = [found.person.extra.get(key) for key in _KEYS]
        if any(value is not None for value in given):
            try:
                extra["densepose"] = _read_points(given, found.person.box, surface)
            except (ValueError, TypeError, OverflowError) as error:
                label = f"{reading.who}: {found.person.label}"
                cause = shown(str(error), 200)
                notes += (f"{label} has surface points that cannot be read ({cause})",)
        yield replace(found, person=replace(found.person, extra=extra, notes=notes))


def _read_points(given: list[Any], box: Any, surface: SurfaceMap | None) -> dict[str, np.ndarray]:
    part, u, v, x, y = (np.array(value, dtype=np.float64).reshape(-1) for value in given)
    if len({len(part), len(u), len(v), len(x), len(y)}) != 1:
        raise ValueError("dp_I, dp_U, dp_V, dp_x and dp_y are not equally many")
    corners = to_box(box)
    if corners is None:
        raise ValueError("there is no box that they could stand in")
    xy = corners[:2] + np.column_stack([x, y]) / _ACROSS * corners[2:]
    part = np.where((part >= 1.0) & (part <= _NUM_PARTS), part, 0.0)
    points = {"xy_px": xy, "part": part.astype(np.int64), "uv": np.column_stack([u, v])}
    if surface is not None:
        points["vertices"], points["weights"] = surface.find(points["part"], points["uv"])
    return points


@dataclass(frozen=True)
class SurfaceMap:
    """DensePose's parts as triangles of SMPL.

    Attributes:
        part: Part of each triangle, 1 to 24, [F].
        vertices: SMPL's vertices of each triangle, [F, 3].
        uv: U and V of its corners, [F, 3, 2].
    """

    part: np.ndarray
    vertices: np.ndarray
    uv: np.ndarray

    def find(self, part: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The triangle that each point is in, and its barycentric weights.

        A point between the triangles of its part goes to the one that it is least outside of.

        Args:
            part: Parts, [P].
            uv: U and V, [P, 2].

        Returns:
            SMPL's vertices [P, 3], and weights [P, 3] that sum to 1; of parts that do not exist the
            vertices are -1 and the weights 0.
        """
        vertices = np.full((len(part), 3), -1, dtype=np.int64)
        weights = np.zeros((len(part), 3))
        for one in np.unique(part):
            faces = np.flatnonzero(self.part == one)
            which = np.flatnonzero(part == one)
            if not len(faces):
                continue
            # w1, w2 solve p - a = w1 (b - a) + w2 (c - a) in the plane of U and V.
            a, b, c = (self.uv[faces, corner] for corner in range(3))
            edges = np.stack([b - a, c - a], axis=2)
            det = np.linalg.det(edges)
            is_flat = np.abs(det) < 1e-12
            edges[is_flat] = np.eye(2)
            steps = uv[which][:, None] - a
            inner = np.linalg.solve(edges[None], steps[..., None])[..., 0]
            full = np.concatenate([1.0 - inner.sum(axis=2, keepdims=True), inner], axis=2)
            outside = np.where(is_flat, np.inf, np.maximum(-full, 0.0).sum(axis=2))
            best = outside.argmin(axis=1)
            found = np.maximum(full[np.arange(len(which)), best], 0.0)
            vertices[which] = self.vertices[faces[best]]
            weights[which] = found / found.sum(axis=1, keepdims=True)
        return vertices, weights


def load_surface_map(path: str | Path) -> SurfaceMap:
    """Load DensePose's ``UV_Processed.mat``, which users have to get under its own licence.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file.
    """
    who = "load_surface_map"
    found = load_mat(Path(path), who)
    names = ("All_FaceIndices", "All_Faces", "All_vertices", "All_U_norm", "All_V_norm")
    if not found.keys() >= set(names):
        raise ValueError(
            f"{who}: {path} must be DensePose's UV_Processed.mat with {', '.join(names)}"
        )
    part, faces, vertices, u, v = (np.asarray(found[name]) for name in names)
    # Both count from 1.
    corners = faces.reshape(-1, 3).astype(np.int64) - 1
    smpl = vertices.reshape(-1).astype(np.int64) - 1
    uv = np.column_stack([u.reshape(-1), v.reshape(-1)]).astype(np.float64)
    if corners.max() >= len(smpl) or len(uv) != len(smpl) or smpl.max() >= _NUM_VERTICES:
        raise ValueError(f"{who}: {path} names vertices that SMPL does not have")
    return SurfaceMap(part.reshape(-1).astype(np.int64), smpl[corners], uv[corners])
