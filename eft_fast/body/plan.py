"""Plans: model arrays arranged for the operators, in float64, rounded once by ``plan.to``.

Points are sparse sums of kinematic joints and vertices (``PointRows``). Contracting them with the
skinning is exact: for point k = sum_i E_ki v_i, with D_kj = sum_i E_ki w_ij B_i,

    p_k = sum_j [ G_j (D_kj c) + w_kj a_j ] + e_k transl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from eft_fast.conventions import NUM_BETAS, NUM_JOINTS, NUM_POSE_FEATURES
from eft_fast.ops.plans import (
    COEFFICIENTS,
    COEFFICIENTS_PADDED,
    TILE,
    MeshPlan,
    PointsPlan,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eft_fast.body.arrays import BodyArrays

# Work of one basis row (3 x 218 products, forward and backward) and of one term, in multiply-adds:
# they decide whether a point is cheaper by its vertices or by its joints.
_ROW_COST = 2 * 3 * COEFFICIENTS
_TERM_COST = 60


@dataclass(frozen=True)
class PointRows:
    """K points, each a weighted sum of kinematic joints and of vertices.

    Attributes:
        names: Name of each point.
        joints: Per point: kinematic joint index -> factor.
        vertices: Per point: vertex index -> factor. A surface point has three (barycentric).
    """

    names: tuple[str, ...]
    joints: tuple[Mapping[int, float], ...]
    vertices: tuple[Mapping[int, float], ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.joints) == len(self.vertices):
            raise ValueError(
                "PointRows: names, joints and vertices must have one entry per point, got "
                f"{len(self.names)}, {len(self.joints)} and {len(self.vertices)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Iterable[int]) -> PointRows:
        """Return the points at these indices, in this order; repeats are fine."""
        order = list(indices)
        return PointRows(
            tuple(self.names[i] for i in order),
            tuple(self.joints[i] for i in order),
            tuple(self.vertices[i] for i in order),
        )

    def __add__(self, other: PointRows) -> PointRows:
        return PointRows(
            self.names + other.names, self.joints + other.joints, self.vertices + other.vertices
        )


def joint_rows(indices: Sequence[int], names: Sequence[str]) -> PointRows:
    """Points that are kinematic joints."""
    return PointRows(tuple(names), tuple({int(i): 1.0} for i in indices), ({},) * len(indices))


def vertex_rows(indices: Sequence[int], names: Sequence[str]) -> PointRows:
    """Points that are vertices."""
    return PointRows(tuple(names), ({},) * len(indices), tuple({int(i): 1.0} for i in indices))


def regressor_rows(regressor: NDArray[np.floating], names: Sequence[str]) -> PointRows:
    """Points that a dense regressor [K, V] makes from vertices; zeros are dropped."""
    rows = tuple({int(i): float(row[i]) for i in np.flatnonzero(row)} for row in regressor)
    return PointRows(tuple(names), ({},) * len(rows), rows)


def _skeleton(arrays: BodyArrays) -> torch.Tensor:
    """Rest joints contracted with template and shape directions: [24, 3, 11]."""
    data = np.concatenate([arrays.v_template[..., None], arrays.shapedirs[..., :NUM_BETAS]], -1)
    return torch.from_numpy(np.einsum("jv,vck->jck", arrays.J_regressor, data))


def _parents(arrays: BodyArrays) -> torch.Tensor:
    parents = np.asarray(arrays.parents, np.int32)
    ascends = np.all(parents[1:] >= 0) and np.all(parents[1:] < np.arange(1, len(parents)))
    if len(parents) != NUM_JOINTS or parents[0] >= 0 or not ascends:
        raise ValueError(
            f"make_plan: parents must be a tree of {NUM_JOINTS} joints with parent < child and "
            f"-1 at the root, got {parents.tolist()}"
        )
    return torch.from_numpy(np.where(parents < 0, -1, parents).astype(np.int32))


def _blocks(arrays: BodyArrays, vertices: NDArray[np.integer]) -> NDArray[np.float64]:
    """B_i of some vertices: [n, 3, 218], template first."""
    return np.concatenate(
        [
            arrays.v_template[vertices, :, None],
            arrays.shapedirs[vertices, :, :NUM_BETAS],
            arrays.posedirs[vertices].reshape(-1, 3, NUM_POSE_FEATURES),
        ],
        -1,
    ).astype(np.float64)


def make_mesh_plan(arrays: BodyArrays) -> MeshPlan:
    """Arrange a body for the mesh operators.

    Args:
        arrays: Model data in metres.

    Returns:
        The plan in float64 on the CPU; ``plan.to(dtype=torch.float32)`` is what fits use.
    """
    count = len(arrays.v_template)
    tiles = -(-count // TILE)
    blocks = np.zeros((tiles * TILE, 3, COEFFICIENTS))
    blocks[:count] = _blocks(arrays, np.arange(count))
    basis = blocks.reshape(tiles, TILE, 3, COEFFICIENTS).transpose(0, 3, 2, 1)

    slots = arrays.joint_idx.shape[1]
    idx = np.zeros((tiles * TILE, slots), np.uint8)
    weight = np.zeros((tiles * TILE, slots))
    idx[:count] = np.where(arrays.joint_weight != 0, arrays.joint_idx, 0)
    weight[:count] = arrays.joint_weight
    slot_idx = idx.reshape(tiles, TILE, slots).transpose(0, 2, 1)
    slot_weight = weight.reshape(tiles, TILE, slots).transpose(0, 2, 1)

    # Dense weights per tile, then only the joints that occur in it.
    dense = np.zeros((tiles, NUM_JOINTS, TILE))
    tile, slot, lane = np.nonzero(slot_weight)
    np.add.at(dense, (tile, slot_idx[tile, slot, lane], lane), slot_weight[tile, slot, lane])
    run_tile, run_joint = np.nonzero(dense.any(-1))
    run_ptr = np.searchsorted(run_tile, np.arange(tiles + 1)).astype(np.int32)
    return MeshPlan(
        num_vertices=count,
        skeleton=_skeleton(arrays),
        parents=_parents(arrays),
        basis=torch.from_numpy(np.ascontiguousarray(basis)),
        slot_idx=torch.from_numpy(np.ascontiguousarray(slot_idx)),
        slot_weight=torch.from_numpy(np.ascontiguousarray(slot_weight)),
        run_ptr=torch.from_numpy(run_ptr),
        run_joint=torch.from_numpy(run_joint.astype(np.int32)),
        run_weight=torch.from_numpy(np.ascontiguousarray(dense[run_tile, run_joint])),
    )


class _Contraction:
    """Collects basis rows and terms while points are added one by one."""

    def __init__(self, arrays: BodyArrays) -> None:
        self.arrays = arrays
        self.rows: list[NDArray[np.float64]] = []
        self.row_of_vertex: dict[int, int] = {}
        self.terms: list[tuple[int, int, int, float, float]] = []

    def add(self, source: int, vertices: Mapping[int, float]) -> None:
        """Add the vertex part of a source, by vertices or by joints, whichever is cheaper."""
        index = np.array([i for i, factor in vertices.items() if factor != 0], np.int64)
        if not len(index):
            return
        factor = np.array([vertices[int(i)] for i in index], np.float64)
        weights = np.zeros((len(index), NUM_JOINTS))
        np.add.at(
            weights,
            (np.arange(len(index))[:, None], self.arrays.joint_idx[index]),
            self.arrays.joint_weight[index],
        )
        weights *= factor[:, None]
        joints = np.flatnonzero(weights.any(0))
        new_rows = sum(int(i) not in self.row_of_vertex for i in index)
        by_vertex = new_rows * _ROW_COST + int(np.count_nonzero(weights)) * _TERM_COST
        if by_vertex <= len(joints) * (_ROW_COST + _TERM_COST):
            self._add_by_vertex(source, index, weights)
        else:
            self._add_by_joint(source, index, weights, joints)

    def _add_by_vertex(
        self, source: int, index: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> None:
        for i, row_weights in zip(index.tolist(), weights, strict=True):
            if i not in self.row_of_vertex:
                self.row_of_vertex[i] = len(self.rows)
                self.rows.append(_blocks(self.arrays, np.array([i]))[0])
            for j in np.flatnonzero(row_weights).tolist():
                weight = float(row_weights[j])
                self.terms.append((self.row_of_vertex[i], j, source, weight, weight))

    def _add_by_joint(
        self,
        source: int,
        index: NDArray[np.int64],
        weights: NDArray[np.float64],
        joints: NDArray[np.int64],
    ) -> None:
        blocks = _blocks(self.arrays, index)
        for j in joints.tolist():
            self.terms.append((len(self.rows), j, source, 1.0, float(weights[:, j].sum())))
            self.rows.append(np.einsum("i,ick->ck", weights[:, j], blocks))


def _check_points(arrays: BodyArrays, points: PointRows) -> None:
    count = len(arrays.v_template)
    for name, joints, vertices in zip(points.names, points.joints, points.vertices, strict=True):
        for what, rows, size in (("joint", joints, NUM_JOINTS), ("vertex", vertices, count)):
            for i, factor in rows.items():
                if not 0 <= i < size:
                    raise ValueError(
                        f"make_points_plan: {what} index of point {name!r} must be in "
                        f"0..{size - 1}, got {i}"
                    )
                if not np.isfinite(factor):
                    raise ValueError(
                        f"make_points_plan: factors of point {name!r} must be finite, got {factor}"
                    )


def make_points_plan(arrays: BodyArrays, points: PointRows) -> PointsPlan:
    """Contract points with a body's skinning, so that they need no mesh.

    Equal points share one source; zero factors are dropped.

    Args:
        arrays: Model data in metres.
        points: What to compute, in order.

    Returns:
        The plan in float64 on the CPU, exact up to rounding; ``plan.to(dtype=torch.float32)`` is
        what fits use.

    Raises:
        ValueError: If an index lies outside the body.
    """
    _check_points(arrays, points)
    contraction = _Contraction(arrays)
    sources: dict[tuple[frozenset[tuple[int, float]], frozenset[tuple[int, float]]], int] = {}
    joint_terms: list[tuple[int, int, float]] = []
    transl_weight: list[float] = []
    outputs: list[int] = []
    for joints, vertices in zip(points.joints, points.vertices, strict=True):
        key = (frozenset(joints.items()), frozenset(vertices.items()))
        if key not in sources:
            source = sources[key] = len(sources)
            joint_terms += [(j, source, f) for j, f in sorted(joints.items()) if f != 0]
            transl_weight.append(float(sum(joints.values()) + sum(vertices.values())))
            contraction.add(source, vertices)
        outputs.append(sources[key])

    rows = -(-len(contraction.rows) // TILE) * TILE
    basis = np.zeros((COEFFICIENTS, 3, rows))
    for r, block in enumerate(contraction.rows):
        basis[:, :, r] = block.T
    basis_t = np.zeros((3 * rows, COEFFICIENTS_PADDED))
    basis_t[:, :COEFFICIENTS] = basis.reshape(COEFFICIENTS, 3 * rows).T
    terms = sorted(contraction.terms, key=lambda term: (term[1], term[2], term[0]))
    return PointsPlan(
        skeleton=_skeleton(arrays),
        parents=_parents(arrays),
        basis=torch.from_numpy(basis),
        basis_t=torch.from_numpy(basis_t),
        term_index=torch.tensor([t[:3] for t in terms], dtype=torch.int32).reshape(-1, 3),
        term_weight=torch.tensor([t[3:] for t in terms], dtype=torch.float64).reshape(-1, 2),
        joint_index=torch.tensor([t[:2] for t in joint_terms], dtype=torch.int32).reshape(-1, 2),
        joint_weight=torch.tensor([t[2] for t in joint_terms], dtype=torch.float64),
        transl_weight=torch.tensor(transl_weight, dtype=torch.float64),
        output_index=torch.tensor(outputs, dtype=torch.int32),
    )
