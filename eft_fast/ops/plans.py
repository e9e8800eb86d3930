"""Prepared model data of the operators: built once per body by ``body.plan``, then only read.

Letters: c = [1, betas, vec(R_1 - I), ..., vec(R_23 - I)] are the 218 coefficients of a body, B_i
the 3 x 218 block of vertex i (template, shape and pose directions), w_ij the skinning weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eft_fast.conventions import NUM_JOINTS

#: Vertices per tile of the mesh basis, and the padding of the rows of the points basis.
TILE = 16
#: Coefficients of a body, and their padding in the transposed points basis.
COEFFICIENTS = 218
COEFFICIENTS_PADDED = 224
#: Devices whose kernels read ``PointsPlan.grouping``.
GROUPED_ON = ["cuda"]

Plan = TypeVar("Plan", "MeshPlan", "PointsPlan")


def _has_values(index: Tensor) -> bool:
    """Whether the numbers can be read: not while a graph is traced, nor of shapes without data."""
    return type(index) is Tensor and index.device.type != "meta" and index.numel() > 0


def _check_range(who: str, name: str, index: Tensor, count: int) -> None:
    """Raise unless every index is in 0..count - 1."""
    if not _has_values(index):
        return
    low, high = (int(bound) for bound in torch.aminmax(index))
    if low < 0 or high >= count:
        raise ValueError(
            f"{who}: {name} must be in 0..{count - 1}, got {low if low < 0 else high}; build it "
            "with the functions of body.plan"
        )


def _check_parents(who: str, parents: Tensor) -> None:
    """Raise unless parents come before their children: a cycle would hang a kernel."""
    if not _has_values(parents):
        return
    given = parents.tolist()
    if given[0] != -1 or any(not 0 <= p < j for j, p in enumerate(given[1:], start=1)):
        raise ValueError(
            f"{who}: parents must be -1 at the root and parent < child, got {given}; build it with "
            "the functions of body.plan"
        )


def _group(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each key's items start in the list behind it, [count + 1], and the items by key."""
    order = torch.argsort(keys, stable=True)
    bounds = torch.arange(count + 1, dtype=keys.dtype, device=keys.device)
    return torch.searchsorted(keys[order], bounds, out_int32=True), order.to(torch.int32)


def _moved(plan: Plan, device: torch.device | str | None, dtype: torch.dtype | None) -> Plan:
    """Copy a plan to a device; floating tensors take the dtype, integer ones keep theirs."""
    values = {}
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, Tensor):
            value = value.to(device, dtype if value.is_floating_point() else None).contiguous()
        values[field.name] = value
    return type(plan)(**values)


@dataclass(frozen=True, eq=False)
class MeshPlan:
    """Everything the mesh operators read of a body.

    Vertices come in tiles of 16; a tile's data is one contiguous piece, so that it streams through
    the cache once. The last tile is padded with zeros.

    Attributes:
        num_vertices: V; T = ceil(V / 16).
        skeleton: Rest joint of the mean shape, then its ten shape directions, in metres.
        parents: Parent of each joint, -1 at the root, parent < child.
        basis: B_i of the tile's vertices, coefficient by coefficient.
        slot_idx: The joints that move a vertex, in up to S slots.
        slot_weight: Their weights; padding has weight 0.
        run_ptr: Where a tile's runs start. A run is one joint and its weights for the tile's 16
            vertices, zero where it does not move them; joints ascend within a tile.
        run_joint: Joint of each run.
        run_weight: Weights of each run.
    """

    num_vertices: int
    skeleton: Float[Tensor, "24 3 11"]
    parents: Int[Tensor, " 24"]
    basis: Float[Tensor, "T 218 3 16"]
    slot_idx: Int[Tensor, "T S 16"]
    slot_weight: Float[Tensor, "T S 16"]
    run_ptr: Int[Tensor, " T+1"]
    run_joint: Int[Tensor, " R"]
    run_weight: Float[Tensor, "R 16"]

    def __post_init__(self) -> None:
        """Check what lies in the indices, once: the kernels trust it."""
        _check_parents("MeshPlan", self.parents)
        _check_range("MeshPlan", "slot_idx", self.slot_idx, NUM_JOINTS)
        _check_range("MeshPlan", "run_joint", self.run_joint, NUM_JOINTS)
        _check_range("MeshPlan", "run_ptr", self.run_ptr, len(self.run_joint) + 1)
        if _has_values(self.run_ptr) and (self.run_ptr.diff() < 0).any():
            raise ValueError(
                "MeshPlan: run_ptr must ascend; build it with the functions of body.plan"
            )
        if _has_values(self.run_joint):
            # Runs of one joint and tile would meet in a kernel's memory.
            starts = torch.zeros(len(self.run_joint) + 1, dtype=torch.bool)
            starts[self.run_ptr.cpu().long()] = True
            if (self.run_joint.cpu().diff() <= 0)[~starts[1:-1]].any():
                raise ValueError(
                    "MeshPlan: run_joint must ascend within a tile; build it with the functions of "
                    "body.plan"
                )

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The plan as the operators take it."""
        return [
            self.skeleton,
            self.parents,
            self.basis,
            self.slot_idx,
            self.slot_weight,
            self.run_ptr,
            self.run_joint,
            self.run_weight,
        ]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the data."""
        return self.basis.dtype

    @property
    def device(self) -> torch.device:
        """Where the data lies."""
        return self.basis.device

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MeshPlan:
        """Copy to a device and a floating type; rounding happens once, from float64."""
        return _moved(self, device, dtype)


@dataclass(frozen=True, eq=False)
class PointsPlan:
    """Everything the points operators read: skinning contracted with the points, exactly.

    Output k is source ``output_index[k]``. A source is a sum of kinematic joints and of terms; a
    term adds ``alpha * G_j y_r + omega * a_j``, where ``y_r = D_r c`` is row r of the basis, and
    G_j, a_j are the rotation and the skinning translation of joint j. A row is one vertex's B_i, or
    sum_i E_ki w_ij B_i of a point k and joint j, whichever made the smaller plan.

    Attributes:
        skeleton: As in ``MeshPlan``.
        parents: As in ``MeshPlan``.
        basis: Rows D_r, padded to a multiple of 16 with zeros; y[c, r] = basis[:, c, r] . c
        basis_t: The same numbers, ``basis_t[c * R + r, k] = basis[k, c, r]``, k padded to 224.
        term_index: Row, joint, source of each term; joints ascend.
        term_weight: alpha and omega of each term.
        joint_index: Joint, source: a kinematic joint that is part of a source.
        joint_weight: Its factor.
        transl_weight: Sum of all factors of a source: what the translation counts.
        output_index: Source of each output.
    """

    skeleton: Float[Tensor, "24 3 11"]
    parents: Int[Tensor, " 24"]
    basis: Float[Tensor, "218 3 R"]
    basis_t: Float[Tensor, "3*R 224"]
    term_index: Int[Tensor, "N 3"]
    term_weight: Float[Tensor, "N 2"]
    joint_index: Int[Tensor, "M 2"]
    joint_weight: Float[Tensor, " M"]
    transl_weight: Float[Tensor, " S"]
    output_index: Int[Tensor, " K"]

    def __post_init__(self) -> None:
        """Check what lies in the indices, once: the kernels trust it."""
        rows, sources = self.basis.shape[-1], len(self.transl_weight)
        _check_parents("PointsPlan", self.parents)
        for column, (name, count) in enumerate(
            (("rows", rows), ("joints", NUM_JOINTS), ("sources", sources))
        ):
            _check_range("PointsPlan", f"term_index, {name},", self.term_index[:, column], count)
        _check_range("PointsPlan", "joint_index, joints,", self.joint_index[:, 0], NUM_JOINTS)
        _check_range("PointsPlan", "joint_index, sources,", self.joint_index[:, 1], sources)
        _check_range("PointsPlan", "output_index", self.output_index, sources)

    @cached_property
    def grouping(self) -> Int[Tensor, " G"]:
        """Items by what they belong to: what a thread of a GPU adds up, without a search.

        Lists behind each other, each one as ``_group`` makes it: terms by source, terms by row,
        outputs by source, kinematic joints by source and by joint; then the first term of every
        joint.
        """
        sources, rows = len(self.transl_weight), self.basis.shape[-1]
        term_row, term_joint, term_source = self.term_index.unbind(1)
        joint, joint_source = self.joint_index.unbind(1)
        lists = (
            *_group(term_source, sources),
            *_group(term_row, rows),
            *_group(self.output_index, sources),
            *_group(joint_source, sources),
            *_group(joint, NUM_JOINTS),
            _group(term_joint, NUM_JOINTS)[0],
        )
        return torch.cat(lists)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The plan as the operators take it."""
        return [
            self.skeleton,
            self.parents,
            self.basis,
            self.basis_t,
            self.term_index,
            self.term_weight,
            self.joint_index,
            self.joint_weight,
            self.transl_weight,
            self.output_index,
            *([self.grouping] if self.device.type in GROUPED_ON else []),
        ]

    @cached_property
    def map_rows(self) -> Float[Tensor, "R 3 240"]:
        """Rows that are used, as the MAP solver reads them: its joints lie side by side.

        Number e = 3 i + k of R_m - I of joint m at 24 e + m (0 for the root), shape directions at
        216, the template at 226; the rest is 0.
        """
        used = int(self.term_index[:, 0].max()) + 1 if len(self.term_index) else 0
        rows = self.basis[:, :, :used].permute(2, 1, 0)
        turns = rows.new_zeros(used, 3, 9, 24)
        turns[..., 1:] = rows[..., 11:].unflatten(2, (23, 9)).transpose(2, 3)
        padding = rows.new_zeros(used, 3, 13)
        parts = (turns.flatten(2), rows[..., 1:11], rows[..., :1], padding)
        return torch.cat(parts, 2).contiguous()

    @cached_property
    def map_arguments(self) -> tuple[Tensor, ...]:
        """The plan in the order of the schemas of csrc/map_ops.cpp."""
        parts = (self.term_index, self.term_weight, self.joint_index, self.joint_weight)
        rest = (self.transl_weight, self.output_index)
        return (self.skeleton, self.parents, self.map_rows, *parts, *rest)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the data."""
        return self.basis.dtype

    @property
    def device(self) -> torch.device:
        """Where the data lies."""
        return self.basis.device

    @property
    def num_points(self) -> int:
        """K, the number of outputs."""
        return self.output_index.shape[0]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PointsPlan:
        """Copy to a device and a floating type; rounding happens once, from float64."""
        return _moved(self, device, dtype)
