"""What is timed: each case is one job of one size, as ours and as every peer does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks import peers
from eft_fast import ops
from eft_fast.body.plan import make_mesh_plan

#: People in the batch: one fit, a small batch, a large one, an offline job.
SIZES = (1, 32, 256, 1024)
Job = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One job of one size; ``ours`` and ``others`` do the same work.

    Who takes people one by one may do it for some of them: ``times`` says by how much its time is
    multiplied, 1 for who is not in it.
    """

    name: str
    size: int
    ours: Job
    others: dict[str, Job]
    times: dict[str, float] = field(default_factory=dict)


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


SUITES = {"smpl": smpl_cases, "points": points_cases}
