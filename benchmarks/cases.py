"""What is timed: each case is one job of one size, as ours and as every peer does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from eft_fast import ops
from eft_fast.body.plan import make_mesh_plan
from eft_fast.geometry.rotations import axis_angle_to_matrix

#: People in the batch: one fit, a small batch, a large one, an offline job.
SIZES = (1, 32, 256, 1024)
Job = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One job of one size; ``ours`` and ``others`` do the same work."""

    name: str
    size: int
    ours: Job
    others: dict[str, Job]


def make_inputs(people: int, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Betas, axis-angle pose and transl, the same ones every time."""
    generator = torch.Generator().manual_seed(people)
    betas = torch.randn(people, 10, generator=generator)
    pose = 0.3 * torch.randn(people, 24, 3, generator=generator)
    transl = torch.randn(people, 3, generator=generator)
    return tuple(t.requires_grad_(grad) for t in (betas, pose, transl))  # type: ignore[return-value]


def _check(name: str, peer: str, got: Tensor, expected: Tensor) -> None:
    """Raise unless two implementations agree; nothing wrong is ever timed."""
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not error < 2e-5:
        raise AssertionError(f"{name}: ours and {peer} must agree to 2e-5, got {error:.2e}")


def _forward_job(run: peers.Forward, inputs: tuple[Tensor, Tensor, Tensor]) -> Job:
    def job() -> Tensor:
        with torch.no_grad():
            return run(*inputs)

    return job


def _step_job(run: peers.Forward, inputs: tuple[Tensor, ...], loss: Callable) -> Job:  # type: ignore[type-arg]
    def job() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(run(*inputs)), inputs)

    return job


def _checked(
    name: str,
    size: int,
    ours: Job,
    others: dict[str, Job],
    as_list: Callable[[object], list[Tensor]],
) -> Case:
    expected = as_list(ours())
    for peer, job in others.items():
        for got, want in zip(as_list(job()), expected, strict=True):
            _check(f"{name} at {size}", peer, got, want)
    return Case(name, size, ours, others)


def _both(
    name: str,
    size: int,
    ours: peers.Forward,
    others: dict[str, peers.Forward],
    loss: Callable,  # type: ignore[type-arg]
) -> Iterator[Case]:
    """Forward alone, then forward and backward."""
    still, moving = make_inputs(size, False), make_inputs(size, True)
    yield _checked(
        f"{name}_forward",
        size,
        _forward_job(ours, still),
        {peer: _forward_job(run, still) for peer, run in others.items()},
        lambda out: [out],  # type: ignore[list-item]
    )
    yield _checked(
        f"{name}_forward_backward",
        size,
        _step_job(ours, moving, loss),
        {peer: _step_job(run, moving, loss) for peer, run in others.items()},
        list,  # type: ignore[arg-type]
    )


def smpl_cases(size: int, names: list[str]) -> Iterator[Case]:
    """The full mesh: 6890 vertices; backward from a fixed gradient of every vertex."""
    plan = make_mesh_plan(peers.body().arrays).to(dtype=torch.float32)

    def ours(betas: Tensor, pose: Tensor, transl: Tensor) -> Tensor:
        return ops.smpl_mesh(plan, betas, pose, transl)[0]

    shape = (size, plan.num_vertices, 3)
    factor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    others = {name: peers.make_mesh(name) for name in names}
    yield from _both("mesh", size, ours, others, lambda vertices: (vertices * factor).sum())


def points_cases(size: int, names: list[str]) -> Iterator[Case]:
    """EFT's 49 keypoints; backward from a weak-perspective 2D loss, inside the timing."""
    body = peers.body()
    plan = body.points_plan("spin49")
    generator = torch.Generator().manual_seed(0)
    camera = torch.rand(size, 3, generator=generator) + 0.5
    keypoints = torch.rand(size, 49, 3, generator=generator)

    def loss(points: Tensor) -> Tensor:
        image = camera[:, None, :1] * points[..., :2] + camera[:, None, 1:]
        return (keypoints[..., 2:] * (image - keypoints[..., :2]).square()).mean((1, 2)).sum()

    def ours(betas: Tensor, pose: Tensor, transl: Tensor) -> Tensor:
        return ops.smpl_points(plan, betas, pose, transl)

    rows = body.joint_points("spin49").rows
    others = {name: peers.make_points(name, rows) for name in names}
    yield from _both("points49", size, ours, others, loss)

    still, moving = make_inputs(size, False), make_inputs(size, True)

    def fused() -> list[Tensor]:
        betas, pose, transl = still
        out = ops.keypoint_gradients(plan, betas, pose, camera, keypoints, transl=transl)
        return [out.betas, out.pose, out.transl]

    yield _checked(
        "keypoint_loss_fused",
        size,
        fused,
        {name: _step_job(run, moving, loss) for name, run in others.items()},
        list,  # type: ignore[arg-type]
    )


def map_cases(size: int, names: list[str]) -> Iterator[Case]:
    """Ten solves of ``ops.map_solve`` against its twin in plain torch, 17 and 49 keypoints.

    Truths lie a fifth of a radian a joint from the centres; a sixth of the keypoints is not given.
    """
    generator = torch.Generator().manual_seed(size)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for joints in ("coco17", "spin49"):
        plan = peers.body().points_plan(joints)
        centre = axis_angle_to_matrix(0.3 * normal(size, 24, 3))
        turn = axis_angle_to_matrix(0.2 * normal(size, 24, 3))
        betas, cam = normal(size, 10), torch.tensor([0.9, 0.0, 0.0]).expand(size, 3).contiguous()
        points = ops.smpl_points(plan, betas, centre @ turn)
        image = cam[:, None, :1] * points[..., :2] + 0.01 * normal(size, plan.num_points, 2)
        weight = 1700.0 * (torch.rand(size, plan.num_points, 1, generator=generator) > 1 / 6)
        lens = torch.tensor([4.5, 4.5, 0.0, 0.0]).expand(size, 4).contiguous()
        problem = (
            plan,
            ops.MapState(centre, betas + 0.5 * normal(size, 10), cam),
            torch.cat([image, weight], -1),
            25.0 * torch.eye(85),
            torch.full((size,), 0.35),
        )

        def solve(backend: str, problem: tuple = problem, lens: Tensor = lens) -> Tensor:
            options = {"pinhole": lens, "steps": 10, "tolerance": 0.0}
            return ops.map_solve(*problem, **options, backend=backend).energy

        ours, twin = partial(solve, "native"), partial(solve, "torch")
        # A float32 solve that stands at its minimum may take the last step or not.
        error = float((ours() / twin() - 1).abs().max())
        if not error < 1e-3:
            raise AssertionError(f"map: native and torch must agree to 1e-3, got {error:.1e}")
        yield Case(f"map_{joints}", size, ours, {"torch": twin})


SUITES = {"smpl": smpl_cases, "points": points_cases, "map": map_cases}
#: Suites whose only peer is the package's own twin.
OWN = ("map",)
