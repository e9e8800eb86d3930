"""map_solve: derivatives of every term, the way of the solver, and one person among others."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from eft_fast import ops
from eft_fast.body import load_body
from eft_fast.body.plan import make_points_plan
from eft_fast.geometry.cameras import project_intrinsics, weak_to_pinhole
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from eft_fast.ops.map import MapState, map_evaluate, map_solve
from tests.helpers import skip_unless_built
from tests.ops.op_inputs import make_arrays, make_points

F64 = torch.float64


@dataclasses.dataclass
class Case:
    """People, keypoints and a prior: the arguments of map_solve."""

    plan: ops.PointsPlan
    centre: MapState
    keypoints: Tensor
    precision: Tensor
    frame: Tensor
    options: dict[str, Tensor | MapState]

    def arguments(self) -> tuple:
        return self.plan, self.centre, self.keypoints, self.precision, self.frame

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Case:
        def cast(value):
            if isinstance(value, MapState):
                return MapState(*(part.to(device, dtype) for part in value))
            return value.to(device, dtype if value.is_floating_point() else None)

        options = {name: cast(value) for name, value in self.options.items()}
        rest = (cast(v) for v in (self.centre, self.keypoints, self.precision, self.frame))
        return Case(self.plan.to(device, dtype), *rest, options)

    def take(self, people: slice) -> Case:
        def some(value):
            return (
                MapState(*(v[people] for v in value))
                if isinstance(value, MapState)
                else value[people]
            )

        options = {n: v if n == "free" else some(v) for n, v in self.options.items()}
        centre, keypoints, frame = (some(v) for v in (self.centre, self.keypoints, self.frame))
        return Case(self.plan, centre, keypoints, self.precision, frame, options)


def make_case(
    people: int,
    *,
    pinhole: bool = False,
    points3d: bool = False,
    begin: bool = True,
    plan: ops.PointsPlan | None = None,
    spread: float = 0.2,
) -> Case:
    """Truths about random centres; keypoints are projected truths with noise, some not given."""
    draw = torch.Generator().manual_seed(people)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=F64)

    def moved(state: MapState, size: float) -> MapState:
        turn = axis_angle_to_matrix(size * normal(people, 24, 3))
        cam = state.cam * (size * normal(people, 3) / 4).exp()
        return MapState(state.rotmat @ turn, state.betas + size * normal(people, 10), cam)

    plan = plan or make_points_plan(make_arrays(37), make_points(37))
    cam = torch.tensor([0.9, 0.05, -0.1], dtype=F64) * (0.1 * normal(people, 3)).exp()
    centre = MapState(axis_angle_to_matrix(0.5 * normal(people, 24, 3)), normal(people, 10), cam)
    truth = moved(centre, spread)
    options: dict[str, Tensor | MapState] = {}
    if pinhole:
        lens = torch.tensor([4.5, 4.7, 0.1, -0.2], dtype=F64)
        options["pinhole"] = lens * (0.1 * normal(people, 4)).exp()
    points = ops.smpl_points(plan, truth.betas, truth.rotmat, backend="torch")
    image = project(points, truth.cam, options.get("pinhole"))
    count = plan.num_points
    weight = 400 * (torch.rand(people, count, 1, generator=draw, dtype=F64) + 0.5)
    weight[:, ::5] = 0
    keypoints = torch.cat([image + 0.02 * normal(people, count, 2), weight], 2)
    keypoints[:, ::5, :2] = torch.nan
    if points3d:
        given = torch.rand(people, count, 1, generator=draw, dtype=F64) > 0.5
        options["points3d"] = torch.cat(
            [points + 0.02 * normal(people, count, 3), 300.0 * given], 2
        )
    if begin:
        options["begin"] = moved(centre, spread / 2)
    root = normal(85, 200) / 14
    precision = 20 * (root @ root.T) + torch.eye(85, dtype=F64)
    frame = 0.3 + 0.1 * torch.rand(people, generator=draw, dtype=F64)
    return Case(plan, centre, keypoints, precision, frame, options)


def project(points: Tensor, cam: Tensor, pinhole: Tensor | None) -> Tensor:
    if pinhole is None:
        return cam[:, None, :1] * points[..., :2] + cam[:, None, 1:]
    intrinsics = torch.diag_embed(torch.cat([pinhole[:, :2], torch.ones_like(pinhole[:, :1])], 1))
    intrinsics[:, :2, 2] = pinhole[:, 2:]
    # The floor of 1e-9 beside the scale, which map does without.
    place = weak_to_pinhole(cam - torch.tensor([1e-9, 0, 0], dtype=F64), intrinsics)
    return project_intrinsics(points + place[:, None], intrinsics)


def residuals(case: Case, step: Tensor) -> Tensor:
    """Whitened residuals after a step: E is the sum of their squares. Shares no code with map."""
    start = case.options.get("begin", case.centre)
    turn = start.rotmat @ axis_angle_to_matrix(step[:, :72].unflatten(1, (24, 3)))
    betas = start.betas + step[:, 72:82]
    scale = start.cam[:, :1] * step[:, 82:83].exp()
    shift = start.cam[:, 1:] + step[:, 83:] * case.frame[:, None]
    cam = torch.cat([scale, shift], 1)
    points = ops.smpl_points(case.plan, betas, turn, backend="torch")
    error = project(points, cam, case.options.get("pinhole")) - case.keypoints[..., :2]
    weight = case.keypoints[..., 2:]
    parts = [torch.where(weight > 0, weight.sqrt() * error, 0.0).flatten(1)]
    if "points3d" in case.options:
        given = case.options["points3d"]
        parts.append((given[..., 3:].sqrt() * (points - given[..., :3])).flatten(1))
    centre = case.centre
    omega = matrix_to_axis_angle(centre.rotmat.transpose(2, 3) @ turn).flatten(1)
    log_scale = (scale / centre.cam[:, :1]).log()
    place = (shift - centre.cam[:, 1:]) / case.frame[:, None]
    x = torch.cat([omega, betas - centre.betas, log_scale, place], 1)
    parts.append(x @ torch.linalg.cholesky(case.precision))
    return torch.cat(parts, 1)


def residual_model(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, J^T r and J^T J by autograd."""
    people = len(case.keypoints)
    zero = torch.zeros(people, 85, dtype=F64)
    value = residuals(case, zero)
    slopes = torch.func.jacfwd(lambda step: residuals(case, step).sum(0))(zero).permute(1, 0, 2)
    gradient = (slopes * value[..., None]).sum(1)
    return value.square().sum(1), gradient, slopes.transpose(1, 2) @ slopes


BACKENDS = ["torch", "native"]
CAMERAS = [pytest.param(False, id="weak"), pytest.param(True, id="pinhole")]


def assert_close(got: Tensor, want: Tensor, rtol: float) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol * float(want.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pinhole", CAMERAS)
@pytest.mark.parametrize("points3d", [False, True])
def test_derivatives_are_those_of_autograd(pinhole, points3d, backend):
    """All terms together, then the data alone: energy, gradient, J^T J."""
    skip_unless_built(backend)
    case = make_case(3, pinhole=pinhole, points3d=points3d)
    got = map_evaluate(*case.arguments(), **case.options, backend=backend)
    energy, gradient, hessian = residual_model(case)
    assert_close(got.energy, energy, 1e-11)
    assert_close(got.gradient, gradient, 1e-9)
    assert_close(got.hessian, hessian, 1e-9)
    # The data term by itself, since a large prior could hide its faults.
    case.precision = torch.eye(85, dtype=F64) * 1e-8
    got = map_evaluate(*case.arguments(), **case.options, backend=backend)
    energy, gradient, hessian = residual_model(case)
    assert_close(got.data, energy, 1e-6)
    assert_close(got.gradient, gradient, 1e-9)
    assert_close(got.hessian, hessian, 1e-9)


@pytest.mark.parametrize("pinhole", CAMERAS)
def test_gradient_by_finite_differences(pinhole):
    case = make_case(2, pinhole=pinhole, points3d=True)
    got = map_evaluate(*case.arguments(), **case.options, backend="torch")
    size = 1e-4
    for unknown in range(85):
        # Fourth order: its own error is 1e-11 here.
        total = torch.zeros(2, dtype=F64)
        for at, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            step = torch.zeros(2, 85, dtype=F64)
            step[:, unknown] = at * size
            total += factor * residuals(case, step).square().sum(1) / (12 * size)
        assert_close(got.gradient[:, unknown], total / 2, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 0.0099, 0.11, 1.0, 3.0, 3.14159, torch.pi])
def test_prior_at_any_angle(angle, backend):
    """The log and its Jacobian from 0 to a half turn; the data term is left out."""
    skip_unless_built(backend)
    case = make_case(2)
    case.keypoints[..., 2] = 0
    axis = torch.nn.functional.normalize(torch.randn(2, 24, 3, dtype=F64), dim=-1)
    begin = MapState(case.centre.rotmat @ axis_angle_to_matrix(angle * axis), *case.centre[1:])
    case.options["begin"] = begin
    got = map_evaluate(*case.arguments(), **case.options, backend=backend)
    energy, gradient, hessian = residual_model(case)
    assert_close(got.energy, energy, 1e-8)
    if angle != torch.pi:  # There the log has two values.
        assert_close(got.gradient, gradient, 1e-8)
        assert_close(got.hessian, hessian, 1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_held_depth_has_no_slope_by_depth(backend):
    """Points nearer than 1 mm, or behind the camera, are held there, as everywhere."""
    skip_unless_built(backend)
    case = make_case(2, pinhole=True)
    case.options["begin"].cam[:, 0] *= 40  # 10 cm from the camera: half the body lies behind it.
    got = map_evaluate(*case.arguments(), **case.options, backend=backend)
    energy, gradient, hessian = residual_model(case)
    assert_close(got.energy, energy, 1e-9)
    assert_close(got.gradient, gradient, 1e-9)
    assert_close(got.hessian, hessian, 1e-9)


def solution(case: Case, backend: str, **options):
    return map_solve(*case.arguments(), **case.options, backend=backend, **options)


@pytest.mark.parametrize("pinhole", CAMERAS)
def test_the_answer_is_a_minimum(pinhole):
    case = make_case(4, pinhole=pinhole, begin=False)
    got = solution(case, "torch", steps=60, tolerance=1e-13, keep_hessian=True)
    assert got.converged.all()
    assert got.finite.all()
    case.options["begin"] = MapState(got.rotmat, got.betas, got.cam)
    there = map_evaluate(*case.arguments(), **case.options, backend="torch")
    start = map_evaluate(*case.arguments(), pinhole=case.options.get("pinhole"), backend="torch")
    assert there.gradient.abs().max() < 1e-4 * start.gradient.abs().max()
    assert (got.energy < 0.5 * start.energy).all()
    assert_close(got.energy, there.energy, 1e-12)
    assert_close(got.hessian, there.hessian, 1e-9)


def test_fewer_steps_stop_earlier():
    case = make_case(3)
    energies = [solution(case, "torch", steps=n, tolerance=0.0).energy for n in range(6)]
    start = map_evaluate(*case.arguments(), **case.options, backend="torch").energy
    assert_close(energies[0], start, 1e-13)
    assert all((b <= a).all() for a, b in itertools.pairwise(energies))
    got = solution(case, "torch", steps=4, tolerance=0.0)
    assert got.steps.tolist() == [4, 4, 4]
    assert not got.converged.any()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (F64, 1e-10)])
@pytest.mark.parametrize("kind", [{}, {"pinhole": True, "points3d": True}])
def test_kernels_of_every_device_go_the_same_way(kind, dtype, rtol, device):
    """37 people on the body of real size; the CPU's are held to more in test_map_native.py."""
    skip_unless_built("native")
    plan = load_body("open").to(F64).points_plan("spin49")
    case = make_case(37, plan=plan, **kind)
    options = {"steps": 3, "tolerance": 0.0, "keep_hessian": True}
    want = solution(case, "torch", **options)
    got = solution(case.to(dtype, device), "native", **options)
    for name in ("rotmat", "betas", "cam", "energy", "hessian"):
        some, other = getattr(got, name), getattr(want, name)
        assert some.device.type == device.type
        assert_close(some.cpu().to(F64), other, rtol)
    assert torch.equal(got.finite.cpu(), want.finite)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_step_scales_by_e_at_most(backend):
    skip_unless_built(backend)
    case = make_case(2, begin=False)
    case.keypoints[..., :2] *= 30
    case.precision = torch.eye(85, dtype=F64) * 1e-3
    case.options["free"] = torch.arange(85) == 82
    got = solution(case, backend, steps=1)
    torch.testing.assert_close(got.cam[:, 0], case.centre.cam[:, 0] * math.e)


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_of_what_is_free(backend):
    """Rows and columns of the identity for the others, no gradient; the energy stays whole."""
    skip_unless_built(backend)
    case = make_case(2)
    whole = map_evaluate(*case.arguments(), **case.options, backend=backend)
    free = torch.arange(85) % 3 != 1
    got = map_evaluate(*case.arguments(), **case.options, free=free, backend=backend)
    assert torch.equal(got.energy, whole.energy)
    assert torch.equal(got.gradient, torch.where(free, whole.gradient, 0.0))
    both = free[:, None] & free
    assert torch.equal(
        got.hessian, torch.where(both, whole.hessian, torch.eye(85, dtype=F64) * ~free)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_free_stays(backend):
    skip_unless_built(backend)
    case = make_case(3)
    free = torch.ones(85, dtype=torch.bool)
    free[:3] = free[72:82] = free[82] = False
    case.options["free"] = free
    got = solution(case, backend)
    begin = case.options["begin"]
    assert torch.equal(got.rotmat[:, 0], begin.rotmat[:, 0])
    assert torch.equal(got.betas, begin.betas)
    assert torch.equal(got.cam[:, 0], begin.cam[:, 0])
    assert not torch.equal(got.rotmat[:, 1], begin.rotmat[:, 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_person_is_kept_and_changes_nobody(backend):
    skip_unless_built(backend)
    case = make_case(5, pinhole=True)
    want = solution(case, backend, keep_hessian=True)
    case.keypoints[1, 3, 0] = torch.inf
    case.options["begin"].rotmat[3, 7] = torch.nan
    got = solution(case, backend, keep_hessian=True)
    assert got.finite.tolist() == [True, False, True, False, True]
    assert got.steps.tolist()[1::2] == [0, 0]
    assert torch.equal(got.rotmat[1], case.options["begin"].rotmat[1])
    assert got.hessian[1].isnan().all()
    for part, other in zip(got, want, strict=True):
        assert torch.equal(part[::2], other[::2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_nobody_depends_on_the_others(dtype, backend):
    skip_unless_built(backend)
    plan = load_body("open").to(F64).points_plan("coco17")
    case = make_case(37, pinhole=True, plan=plan).to(dtype)
    together = solution(case, backend, keep_hessian=True)
    for person in (0, 5, 36):
        one = slice(person, person + 1)
        alone = solution(case.take(one), backend, keep_hessian=True)
        for some, own in zip(together, alone, strict=True):
            assert torch.equal(some[one], own)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("keypoints", torch.zeros(3, 5, 3, dtype=F64), r"keypoints must be \[3, 32, 3\]"),
        ("precision", torch.eye(82, dtype=F64), r"precision must be \[85, 85\], got \[82, 82\]"),
        ("frame", torch.ones(3), "frame must be torch.float64"),
        ("frame", torch.ones(3, 1, dtype=F64), r"frame must be \[3\]"),
        ("pinhole", torch.ones(3, 3, dtype=F64), r"pinhole must be \[3, 4\]"),
        ("points3d", torch.ones(3, 32, 3, dtype=F64), r"points3d must be \[3, 32, 4\]"),
        ("free", torch.ones(85), r"free must be \[85\] bool"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_wrong_calls_are_refused(name, value, words, backend):
    case = make_case(3)
    if name in ("keypoints", "precision", "frame"):
        setattr(case, name, value)
    else:
        case.options[name] = value
    with pytest.raises((TypeError, ValueError), match=words):
        solution(case, backend)
    with pytest.raises(ValueError, match="steps must be 0 or more"):
        solution(make_case(3), backend, steps=-1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nobody_is_a_batch(backend):
    skip_unless_built(backend)
    got = solution(make_case(0), backend, keep_hessian=True)
    assert got.rotmat.shape == (0, 24, 3, 3)
    assert got.hessian.shape == (0, 85, 85)
