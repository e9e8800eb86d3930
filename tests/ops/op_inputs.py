"""Inputs of the operator tests: poses in every form, and points of every kind."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from eft_fast import ops
from eft_fast.body.arrays import BodyArrays
from eft_fast.body.plan import (
    PointRows,
    joint_rows,
    make_mesh_plan,
    make_points_plan,
    regressor_rows,
    vertex_rows,
)
from eft_fast.conventions import PARENTS
from tests.helpers import make_tiny_arrays

FORMS = ("axis_angle", "rot6d", "matrix")
F32 = {"rtol": 1e-5, "atol": 2e-6}
F32_GRADIENT = {"rtol": 1e-4, "atol": 2e-5}
F64 = {"rtol": 1e-9, "atol": 1e-11}


def tolerance(dtype: torch.dtype, gradient: bool = False) -> dict[str, float]:
    if dtype == torch.float64:
        return F64
    return F32_GRADIENT if gradient else F32


def make_points(vertices: int) -> PointRows:
    """Joints, vertices, blends of both, factors that do not sum to one, repeats, a dense row."""
    last = vertices - 1
    mixed = PointRows(
        ("midhip", "vertex and joint", "two vertices", "half a joint"),
        ({1: 0.5, 2: 0.5}, {7: 0.3}, {}, {4: 0.5}),
        ({}, {last: 0.7}, {0: 0.2, last: 0.5}, {}),
    )
    dense = regressor_rows(np.full((1, vertices), 1 / vertices), ["mean vertex"])
    picks = vertex_rows([0, last, 0], ["first", "last", "first again"])
    return mixed + dense + picks + joint_rows(range(24), [f"joint {j}" for j in range(24)])


def make_arrays(vertices: int) -> BodyArrays:
    """The tiny body, cut to any number of vertices."""
    arrays = make_tiny_arrays(max(vertices, 37), landmarks=False)
    regressor = arrays.J_regressor[:, :vertices] + 0.01
    return dataclasses.replace(
        arrays,
        v_template=arrays.v_template[:vertices],
        shapedirs=arrays.shapedirs[:vertices],
        posedirs=arrays.posedirs[:vertices],
        joint_idx=arrays.joint_idx[:vertices],
        joint_weight=arrays.joint_weight[:vertices],
        J_regressor=regressor / regressor.sum(1, keepdims=True),
        vertex_picks=None,
    )


def make_plans(
    vertices: int, device: torch.device | str, dtype: torch.dtype
) -> tuple[ops.MeshPlan, ops.PointsPlan]:
    arrays = make_arrays(vertices)
    mesh = make_mesh_plan(arrays).to(device, dtype)
    return mesh, make_points_plan(arrays, make_points(vertices)).to(device, dtype)


def make_pose(
    people: int, form: str, device: torch.device | str, dtype: torch.dtype, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    axis_angle = 0.6 * normal(people, 24, 3)
    if form == "axis_angle":
        return axis_angle.to(device, dtype)
    if form == "rot6d":
        return normal(people, 24, 6).to(device, dtype)
    return ops.reference.pose_to_matrices(axis_angle).to(device, dtype)


def make_inputs(
    people: int,
    form: str = "axis_angle",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Betas, pose and transl."""
    generator = torch.Generator().manual_seed(people)
    betas = torch.randn(people, 10, dtype=torch.float64, generator=generator).to(device, dtype)
    transl = torch.randn(people, 3, dtype=torch.float64, generator=generator).to(device, dtype)
    pose = make_pose(people, form, device, dtype)
    return tuple(t.requires_grad_(grad) for t in (betas, pose, transl))  # type: ignore[return-value]


def make_smpl_sized(seed: int = 0) -> BodyArrays:
    """Random numbers in SMPL's sizes: 6890 vertices, up to four weights, sorted by joint."""
    rng = np.random.default_rng(seed)
    count = 6890
    owner = np.sort(rng.integers(0, 24, count))
    joint_idx = (owner[:, None] + np.array([0, 1, 3, 7])) % 24
    slots = rng.choice([1, 2, 3, 4], count, p=[0.3, 0.3, 0.2, 0.2])
    weight = rng.random((count, 4)) * (np.arange(4) < slots[:, None]) + 1e-3 * (np.arange(4) == 0)
    weight /= weight.sum(1, keepdims=True)
    regressor = np.zeros((24, count))
    for j in range(24):
        regressor[j, rng.choice(count, 40, replace=False)] = 1 / 40
    return BodyArrays(
        model_id="custom-random",
        v_template=rng.normal(0, 0.3, (count, 3)) + 0.05 * owner[:, None],
        faces=rng.integers(0, count, (13776, 3)),
        shapedirs=rng.normal(0, 0.01, (count, 3, 10)),
        posedirs=rng.normal(0, 0.005, (count, 3, 207)),
        joint_idx=np.where(weight > 0, joint_idx, 0).astype(np.int32),
        joint_weight=weight,
        J_regressor=regressor,
        parents=np.array(PARENTS, np.int64),
    )
