"""What only a GPU can show: streams, graphs, large batches, and the two ways to multiply."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from eft_fast import ops
from eft_fast.body.plan import make_mesh_plan
from eft_fast.ops import _load
from tests.ops.op_inputs import make_inputs, make_plans, make_smpl_sized

pytestmark = pytest.mark.cuda
GIB = 1 << 30


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        if os.environ.get("EFT_FAST_REQUIRE_CUDA") == "1":
            pytest.fail("EFT_FAST_REQUIRE_CUDA=1, but torch sees no GPU")
        pytest.skip("no GPU")
    assert ops.has_cuda(), "the native library was built without CUDA"


def choose_arithmetic(name: str) -> None:
    library = _load.load()
    library.eft_fast_choose_mesh_arithmetic.argtypes = [ctypes.c_char_p]
    assert library.eft_fast_choose_mesh_arithmetic(name.encode()) == 0


@pytest.fixture(params=["float32", "3xtf32"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[str]:
    choose_arithmetic(request.param)
    yield request.param
    choose_arithmetic("float32")


def needs_memory(gibibytes: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gibibytes * GIB:
        pytest.skip(f"needs {gibibytes} GiB of free GPU memory, {free / GIB:.1f} are there")


def smpl_sized_plan(device: str = "cuda") -> ops.MeshPlan:
    return make_mesh_plan(make_smpl_sized()).to(device, torch.float32)


def make_loss(
    people: int, device: str = "cuda"
) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple]:
    """The loss with all its gradients, as a function of betas, pose, transl and camera."""
    _, plan = make_plans(37, device, torch.float32)
    generator = torch.Generator().manual_seed(people)
    keypoints = torch.rand(people, plan.num_points, 3, generator=generator).to(device)
    weights = ops.LossWeights(keypoints=2.0, betas=0.1, camera=0.3, limbs=0.0)

    def loss(betas: Tensor, pose: Tensor, transl: Tensor, camera: Tensor) -> tuple:
        return ops.keypoint_gradients(
            plan, betas, pose, camera, keypoints, transl=transl, weights=weights, sigma=0.5
        )

    return loss


def make_loss_inputs(people: int, device: str = "cuda") -> list[Tensor]:
    camera = torch.tensor([0.9, 0.1, -0.1], device=device).repeat(people, 1)
    return [*make_inputs(people, "rot6d", device), camera]


def run_mesh(plan: ops.MeshPlan, inputs: tuple[Tensor, ...], **options: str) -> list[Tensor]:
    """Vertices, joints, and the gradients of a fixed sum."""
    inputs = tuple(t.detach().requires_grad_() for t in inputs)
    vertices, joints = ops.smpl_mesh(plan, *inputs, **options)
    grads = torch.autograd.grad(vertices.square().sum() + joints.sum(), inputs)
    return [vertices.detach(), joints.detach(), *grads]


@pytest.mark.parametrize("people", [1, 16, 17, 64, 65, 256])
def test_mesh_of_real_size_matches_its_twin(people, arithmetic):
    plan, inputs = smpl_sized_plan(), make_inputs(people, device="cuda")
    got = run_mesh(plan, inputs)
    exact = run_mesh(
        plan.to(dtype=torch.float64), tuple(t.double() for t in inputs), backend="torch"
    )
    for value, want in zip(got, exact, strict=True):
        scale = want.abs().amax().clamp(min=1.0)
        torch.testing.assert_close(value / scale, want.float() / scale, rtol=1e-4, atol=4e-6)


@pytest.mark.parametrize("people", [5, 300])
def test_two_runs_give_the_same_bits(people, arithmetic):
    plan, inputs = smpl_sized_plan(), make_inputs(people, device="cuda")
    first, second = run_mesh(plan, inputs), run_mesh(plan, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    loss, values = make_loss(people), make_loss_inputs(people)
    assert all(torch.equal(a, b) for a, b in zip(loss(*values), loss(*values), strict=True))


def test_a_person_has_the_same_bits_in_every_batch(arithmetic):
    plan, inputs = smpl_sized_plan(), make_inputs(300, device="cuda")
    full = run_mesh(plan, inputs)
    for chosen in ([0], [299], list(range(40, 53)), list(range(100, 190))):
        part = run_mesh(plan, tuple(t[chosen] for t in inputs))
        assert all(torch.equal(a, b[chosen]) for a, b in zip(part, full, strict=True))


def test_kernels_run_on_the_current_stream():
    """Inputs are written late on a side stream: a kernel on another stream would read zeros."""
    plan, _ = make_plans(37, "cuda", torch.float32)
    loss, values = make_loss(9), make_loss_inputs(9)
    mesh_inputs = make_inputs(9, device="cuda")
    want = [*ops.smpl_mesh(plan, *mesh_inputs), *loss(*values)]
    late = [torch.zeros_like(t) for t in (*mesh_inputs, *values)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        for target, value in zip(late, (*mesh_inputs, *values), strict=True):
            target.copy_(value)
        got = [*ops.smpl_mesh(plan, *late[:3]), *loss(*late[3:])]
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_backward_on_a_side_stream():
    plan, inputs = make_plans(37, "cuda", torch.float32)[0], make_inputs(9, device="cuda")
    want = run_mesh(plan, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = run_mesh(plan, inputs)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def capture(function: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """Warm up on a side stream, then record."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph, outputs


@pytest.mark.parametrize("people", [1, 8, 64, 512])
def test_the_loss_replays_in_a_graph(people):
    loss, values = make_loss(people), make_loss_inputs(people)
    held = [torch.zeros_like(t) for t in values]
    graph, outputs = capture(lambda: list(loss(*held)))
    for scale in (1.0, 0.5):
        for target, value in zip(held, values, strict=True):
            target.copy_(value * scale)
        graph.replay()
        want = loss(*(value * scale for value in values))
        assert all(torch.equal(a, b) for a, b in zip(outputs, want, strict=True))


@pytest.mark.parametrize("people", [4, 100])
def test_mesh_and_backward_replay_in_a_graph(people, arithmetic):
    plan, inputs = smpl_sized_plan(), make_inputs(people, device="cuda")
    held = [t.clone() for t in inputs]
    graph, outputs = capture(lambda: run_mesh(plan, tuple(held)))
    for target in held:
        target.mul_(0.5)
    graph.replay()
    want = run_mesh(plan, tuple(held))
    assert all(torch.equal(a, b) for a, b in zip(outputs, want, strict=True))


@pytest.mark.parametrize("people", [4096, 65536])
def test_large_batches_of_points(people):
    loss, values = make_loss(people), make_loss_inputs(people)
    out = loss(*values)
    assert all(t.isfinite().all() for t in out)
    _, plan = make_plans(37, "cuda", torch.float32)
    points = ops.smpl_points(plan, *values[:3])
    few = [0, people // 2, people - 1]
    want = ops.smpl_points(plan, *(t[few] for t in values[:3]), backend="torch")
    torch.testing.assert_close(points[few], want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("people", [4096, 65536])
def test_large_batches_of_meshes(people):
    needs_memory(4 if people == 4096 else 40)
    plan, inputs = smpl_sized_plan(), make_inputs(people, device="cuda")
    full = run_mesh(plan, inputs)
    few = [0, people // 3, people - 1]
    part = run_mesh(plan, tuple(t[few] for t in inputs))
    assert all(torch.equal(a, b[few]) for a, b in zip(part, full, strict=True))


def test_more_values_than_int32_counts():
    """110,000 people have 2.3e9 coordinates."""
    needs_memory(24)
    plan, inputs = smpl_sized_plan(), make_inputs(110_000, device="cuda")
    vertices, _ = ops.smpl_mesh(plan, *inputs)
    assert vertices.numel() > 2**31
    part, _ = ops.smpl_mesh(plan, *(t[-2:] for t in inputs))
    assert torch.equal(vertices[-2:], part)


def test_second_device():
    """Tensors on cuda:1 while cuda:0 is the current device."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU; this test needs two")
    with torch.cuda.device(0):
        plan, inputs = make_plans(37, "cuda:1", torch.float32)[0], make_inputs(9, device="cuda:1")
        got = run_mesh(plan, inputs)
        assert got[0].device == torch.device("cuda:1")
        want = run_mesh(plan.to("cuda:0"), tuple(t.to("cuda:0") for t in inputs))
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, want, strict=True))


def test_a_limb_of_missing_points_makes_the_loss_nan():
    _, plan = make_plans(37, "cuda", torch.float32)
    betas, pose, _, camera = make_loss_inputs(2)
    limbs = ops.LimbTargets(
        torch.tensor([[0, 99]], dtype=torch.int32, device="cuda"),
        torch.ones(2, 1, 3, device="cuda"),
    )
    keypoints = torch.zeros(2, plan.num_points, 3, device="cuda")
    out = ops.keypoint_loss(
        plan, betas, pose, camera, keypoints, limbs=limbs, weights=ops.LossWeights(limbs=1.0)
    )
    assert out.loss.isnan().all()


def test_tensors_on_two_devices_are_refused():
    plan, inputs = make_plans(37, "cuda", torch.float32)[0], make_inputs(2, device="cuda")
    with pytest.raises(ValueError, match="transl must be on cuda"):
        ops.smpl_mesh(plan, *inputs[:2], inputs[2].cpu())
