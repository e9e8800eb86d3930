"""What the CUDA side refuses or does another way, on a GPU of little shared memory.

A process of its own.

Argument: the library of ``emulator.build_operators``; EFT_FAST_EMULATOR_SHARED holds the limit.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eft_fast import ops
from eft_fast.ops import _load, plans
from eft_fast.ops.map import map_solve
from eft_fast.ops.raster import rasterize
from tests.ops.op_inputs import make_inputs, make_plans
from tests.ops.test_map import make_case


def check_points() -> None:
    """A plan whose block does not fit takes its workspace; the numbers are the same."""
    _, plan = make_plans(37, "cpu", torch.float64)
    betas, pose, transl = make_inputs(5, dtype=torch.float64)
    want = ops.smpl_points(plan, betas, pose, transl, backend="torch")
    got = ops.smpl_points(plan, betas, pose, transl, backend="native")
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def check_refusals() -> None:
    """What has no other way is refused in a sentence, not by an error of the driver."""
    faces = torch.tensor([[0, 1, 2]])
    vertices = torch.rand(1, 3, 3) + 1
    rasterize(vertices, faces, vertices, height=8, width=8, samples=4)
    with pytest.raises(RuntimeError, match="holds at most 4 samples a side, got 8"):
        rasterize(vertices, faces, vertices, height=8, width=8, samples=8)
    case = make_case(2).to(torch.float64)
    with pytest.raises(RuntimeError, match="on this GPU a person of this plan must fit into 66560"):
        map_solve(*case.arguments(), **case.options, backend="native")


def check_plans() -> None:
    """Bases that 16 bytes cannot start in, and plans without the lists that kernels walk."""
    mesh, points = make_plans(37, "cpu", torch.float64)
    betas, pose, transl = make_inputs(2, dtype=torch.float64)

    def shifted(values: torch.Tensor) -> torch.Tensor:
        return values.new_empty(values.numel() + 1)[1:].reshape(values.shape).copy_(values)

    words = "must start at a multiple of 16 bytes; clone it"
    for name in ("basis", "run_weight"):
        with pytest.raises(RuntimeError, match=f"smpl_mesh: {name} {words}"):
            ops.smpl_mesh(
                replace(mesh, **{name: shifted(getattr(mesh, name))}), betas, pose, transl
            )
    *_, posed = torch.ops.eft_fast.smpl_mesh(betas, pose, transl, mesh.tensors, 37, True)
    gradients = torch.rand(2, 37, 3).double(), torch.rand(2, 24, 3).double()
    rest = betas, pose, transl, mesh.tensors, 37
    with pytest.raises(RuntimeError, match=f"smpl_mesh_backward: posed {words}"):
        torch.ops.eft_fast.smpl_mesh_backward(*gradients, shifted(posed), *rest)
    for name in ("basis", "basis_t"):
        with pytest.raises(RuntimeError, match=f"smpl_points: {name} {words}"):
            ops.smpl_points(
                replace(points, **{name: shifted(getattr(points, name))}), betas, pose, transl
            )
    operator = torch.ops.eft_fast.smpl_points
    with pytest.raises(RuntimeError, match="on a GPU a plan must hold its grouping"):
        operator(betas, pose, transl, points.tensors[:10])
    with pytest.raises(RuntimeError, match=r"grouping must be \[\d+\], got"):
        operator(betas, pose, transl, [*points.tensors[:10], points.grouping[1:]])


if __name__ == "__main__":
    _load.LIBRARY = Path(sys.argv[1])
    plans.GROUPED_ON.append("cpu")
    check_points()
    check_refusals()
    check_plans()
    print("passed")
