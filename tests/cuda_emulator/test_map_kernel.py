"""The CUDA MAP solver, run on the CPU, against the oracle in plain torch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from eft_fast.body import load_body
from eft_fast.ops.map import MapEvaluation, MapSolution, map_evaluate
from tests.cuda_emulator.emulator import ASCENDING, DESCENDING, RANDOM, CudaEmulator
from tests.ops.test_map import F64, Case, make_case, solution

DTYPES = [torch.float32, F64]
#: As in tests/ops/test_map_native.py.
EVALUATION = {torch.float32: 3e-6, F64: 1e-13}
ANSWER = {torch.float32: 1e-5, F64: 1e-12}


def inputs(case: Case) -> tuple:
    plan, begin = case.plan, case.options.get("begin", case.centre)
    skeleton, parents, rows, *terms, _, outputs = plan.map_arguments
    sizes = (len(case.frame), len(rows), len(terms[0]), len(terms[2]))
    sizes = (*sizes, len(plan.transl_weight), plan.num_points)
    data = (*case.centre, *begin, case.keypoints, case.precision, case.frame)
    names = ("pinhole", "points3d", "free")
    options = (
        given if (given := case.options.get(name)) is None else given.contiguous() for name in names
    )
    return *sizes, *data, *options, skeleton, parents, rows, *terms, outputs


def unset(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    out = torch.empty(shape, dtype=dtype or like.dtype)
    return out.fill_(torch.nan) if out.is_floating_point() else out.zero_()


def suffix(case: Case) -> str:
    return "f32" if case.frame.dtype == torch.float32 else "f64"


def evaluate(gpu: CudaEmulator, case: Case) -> MapEvaluation:
    people, like = len(case.frame), case.frame
    out = (unset(like, people), unset(like, people), unset(like, people, 85))
    out = MapEvaluation(*out, unset(like, people, 85, 85))
    gpu(f"eft_map_evaluate_{suffix(case)}", *inputs(case), *out, None)
    return out


def solve(gpu: CudaEmulator, case: Case, steps: int = 20, tolerance: float = 1e-5) -> MapSolution:
    people, like = len(case.frame), case.frame
    out = MapSolution(
        unset(like, people, 24, 3, 3),
        unset(like, people, 10),
        unset(like, people, 3),
        unset(like, people),
        unset(like, people),
        unset(like, people, dtype=torch.int32),
        unset(like, people, dtype=torch.bool),
        unset(like, people, dtype=torch.bool),
        unset(like, people, 85, 85),
    )
    gpu(f"eft_map_solve_{suffix(case)}", *inputs(case), steps, 0.1, tolerance, *out, None)
    return out


def difference(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kind", [{}, {"pinhole": True}, {"points3d": True, "pinhole": True}, {"begin": False}]
)
def test_model_equals_the_oracle(gpu, kind, dtype):
    case = make_case(2, **kind)
    want = map_evaluate(*case.arguments(), **case.options, backend="torch")
    got = evaluate(gpu, case.to(dtype))
    for name, some, other in zip(want._fields, got, want, strict=True):
        assert difference(some, other) < EVALUATION[dtype], name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_step_equals_the_oracles(gpu, dtype):
    plan = load_body("open").to(F64).points_plan("spin49")
    case = make_case(2, pinhole=True, plan=plan)
    for steps in (0, 1, 2, 4):
        want = solution(case, "torch", steps=steps, tolerance=0.0, keep_hessian=True)
        got = solve(gpu, case.to(dtype), steps, 0.0)
        for name in ("rotmat", "betas", "cam", "energy", "data", "hessian"):
            assert difference(getattr(got, name), getattr(want, name)) < ANSWER[dtype], name
        assert torch.equal(got.steps, want.steps)


def test_it_converges_and_keeps_what_is_not_free(gpu):
    case = make_case(3)
    case.options["free"] = torch.ones(85, dtype=torch.bool)
    case.options["free"][72:82] = False
    case.options["free"][:3] = False
    want = solution(case, "torch")
    got = solve(gpu, case)
    assert torch.equal(got.steps, want.steps)
    assert torch.equal(got.converged, want.converged)
    assert difference(got.rotmat, want.rotmat) < 1e-10
    begin = case.options["begin"]
    assert torch.equal(got.rotmat[:, 0], begin.rotmat[:, 0])
    assert torch.equal(got.betas, begin.betas)


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING, RANDOM])
def test_no_order_of_threads_shows_and_nobody_depends_on_the_others(kernels, order):
    case = make_case(3, pinhole=True, points3d=True).to(torch.float32)
    kernels.schedule(ASCENDING)
    want = solve(kernels, case, 3)
    case.keypoints[1, 1, 0] = torch.inf
    kernels.schedule(order, 7)
    got = solve(kernels, case, 3)
    assert got.finite.tolist() == [True, False, True]
    assert torch.equal(got.rotmat[1], case.options["begin"].rotmat[1])
    assert got.hessian[1].isnan().all()
    for some, other in zip(got, want, strict=True):
        assert torch.equal(some[::2], other[::2])


def test_a_plan_too_large_for_a_block_does_not_start(gpu):
    case = make_case(1).to(torch.float32)
    index, weight = case.plan.term_index.repeat(200, 1), case.plan.term_weight.repeat(200, 1)
    case.plan = dataclasses.replace(case.plan, term_index=index, term_weight=weight)
    with pytest.raises(AssertionError, match="eft_map_solve_f32: error"):
        solve(gpu, case)
