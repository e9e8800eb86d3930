"""The native MAP solver against its oracle, on every instruction set."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from eft_fast.body import load_body
from eft_fast.ops import _load
from eft_fast.ops.map import MapState, map_evaluate, map_solve
from eft_fast.ops.plans import PointsPlan
from tests.ops.test_map import F64, Case, make_case, solution

pytestmark = pytest.mark.skipif(not _load.is_built(), reason="the library is not built")

KINDS = [
    pytest.param({}, id="weak"),
    pytest.param({"pinhole": True}, id="pinhole"),
    pytest.param({"points3d": True, "pinhole": True}, id="3D"),
    pytest.param({"begin": False}, id="from the centre"),
]
#: Worst difference of float32 and of float64 from the float64 oracle, over the largest number: of
#: energies, gradients and Hessians.
EVALUATION = {torch.float32: 3e-6, F64: 1e-13}
#: The same of answers after a number of solves. Steps are solutions of systems of condition 1e3.
ANSWER = {torch.float32: 1e-5, F64: 1e-12}


def open_plan(joints: str) -> PointsPlan:
    return load_body("open").to(F64).points_plan(joints)


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", KINDS)
def test_model_equals_the_oracle(kind, dtype, simd):
    case = make_case(9, **kind)
    want = map_evaluate(*case.arguments(), **case.options, backend="torch")
    small = case.to(dtype)
    got = map_evaluate(*small.arguments(), **small.options, backend="native")
    for name, some, other in zip(want._fields, got, want, strict=True):
        assert difference(some, other) < EVALUATION[dtype], name


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("joints", ["coco17", "spin49"])
def test_every_step_equals_the_oracles(joints, dtype, simd):
    """After each solve, on the shipped body: the same people moved, by the same amount."""
    case = make_case(6, pinhole=True, plan=open_plan(joints))
    small = case.to(dtype)
    for steps in range(6):
        want = solution(case, "torch", steps=steps, tolerance=0.0)
        got = solution(small, "native", steps=steps, tolerance=0.0)
        for name in ("rotmat", "betas", "cam", "energy", "data"):
            assert difference(getattr(got, name), getattr(want, name)) < ANSWER[dtype], name
        assert torch.equal(got.steps, want.steps)


@pytest.mark.parametrize("joints", ["coco17", "spin49"])
def test_single_precision_finds_the_minimum(joints, simd):
    case = make_case(40, pinhole=True, begin=False, spread=0.3, plan=open_plan(joints))
    want = solution(case, "torch", steps=60, tolerance=1e-12)
    got = solution(case.to(torch.float32), "native", steps=60)
    assert got.converged.all()
    assert (got.energy / want.energy - 1).abs().max() < 1e-4


def test_threads_change_nothing(threads, simd):
    case = make_case(70, pinhole=True, plan=open_plan("coco17")).to(torch.float32)
    torch.set_num_threads(1)
    want = solution(case, "native", keep_hessian=True)
    torch.set_num_threads(3)
    got = solution(case, "native", keep_hessian=True)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_256_people_are_256_times_one(simd):
    case = make_case(256, plan=open_plan("coco17")).to(torch.float32)
    together = solution(case, "native", keep_hessian=True)
    for person in range(0, 256, 17):
        one = slice(person, person + 1)
        alone = solution(case.take(one), "native", keep_hessian=True)
        assert all(torch.equal(a[one], b) for a, b in zip(together, alone, strict=True))


def test_a_system_that_is_not_positive_definite_fails_gently():
    case = make_case(2)
    case.precision = -torch.eye(85, dtype=F64)
    case.keypoints[..., 2] = 0
    for backend in ("torch", "native"):
        got = solution(case, backend, steps=3)
        assert got.finite.all()
        assert not got.converged.any()
        assert got.steps.tolist() == [3, 3]
        assert torch.equal(got.betas, case.options["begin"].betas)


def arguments(case: Case) -> tuple:
    begin = case.options["begin"]
    options = (case.options.get("pinhole"), case.options.get("points3d"), None)
    data = (*case.centre, *begin, case.keypoints, case.precision, case.frame)
    return *data, *options, *case.plan.map_arguments


def test_opcheck():
    utilities = ("test_schema", "test_faketensor")
    for kind in ({}, {"pinhole": True, "points3d": True}):
        case = make_case(3, **kind)
        solution(case, "native")
        given = arguments(case)
        torch.library.opcheck(torch.ops.eft_fast.map_evaluate, given, test_utils=utilities)
        for keep in (False, True):
            call = (*given, 3, 0.1, 1e-5, keep)
            torch.library.opcheck(torch.ops.eft_fast.map_solve, call, test_utils=utilities)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, torch.zeros(3, 23, 3, 3, dtype=F64), r"rotmat must be \[3, 24, 3, 3\]"),
        (5, torch.zeros(3, 3), "cam must have the type of betas"),
        (6, torch.zeros(3, 17, 3, dtype=F64), r"keypoints must be \[3, 32, 3\]"),
        (7, torch.zeros(82, 82, dtype=F64), r"precision must be \[85, 85\]"),
        (9, torch.zeros(3, 3, dtype=F64), r"pinhole must be \[3, 4\]"),
        (11, torch.ones(85), "free must be bool"),
        (14, torch.zeros(5, 3, 218, dtype=F64), r"rows must be \[any, 3, 240\]"),
    ],
)
def test_direct_calls_are_checked(place, value, words):
    case = make_case(3)
    solution(case, "native")
    given = list(arguments(case))
    given[place] = value
    with pytest.raises(RuntimeError, match=words):
        torch.ops.eft_fast.map_evaluate(*given)


def test_meta_tensors_have_no_native_solver():
    case = make_case(1)
    centre = MapState(*(part.to("meta") for part in case.centre))
    moved = dataclasses.replace(case.plan.to("meta"))
    rest = (part.to("meta") for part in (case.keypoints, case.precision, case.frame))
    with pytest.raises(ValueError, match="the native operators run on cpu and cuda, got meta"):
        map_solve(moved, centre, *rest, backend="native")
