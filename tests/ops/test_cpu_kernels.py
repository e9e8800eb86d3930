"""The CPU kernels: every instruction set, any number of threads, bounded memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from eft_fast import ops
from eft_fast.body.plan import make_mesh_plan, make_points_plan, regressor_rows, vertex_rows
from tests.ops.op_inputs import make_inputs, make_plans, make_smpl_sized


def everything(mesh, points, people, dtype, backend="auto"):
    """Outputs and gradients of all three operators."""
    inputs = make_inputs(people, dtype=dtype, grad=True)
    vertices, joints = ops.smpl_mesh(mesh, *inputs, backend=backend)
    total = (vertices * torch.sin(torch.arange(vertices.numel()).reshape(vertices.shape))).sum()
    out = [vertices, joints, *torch.autograd.grad(total + joints.square().sum(), inputs)]
    positions = ops.smpl_points(points, *inputs, backend=backend)
    out += [positions, *torch.autograd.grad(positions.square().sum(), inputs)]
    betas, pose, transl = (t.detach() for t in inputs)
    camera = torch.rand(people, 3, generator=torch.Generator().manual_seed(0)).to(dtype) + 0.5
    keypoints = torch.ones(people, points.num_points, 3, dtype=dtype)
    out += ops.keypoint_gradients(
        points, betas, pose, camera, keypoints, transl=transl, backend=backend
    )
    return [t.detach() for t in out]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("people", [1, 5, 21])
def test_every_set_matches_the_twin(simd, people, dtype):
    assert ops.build_info()["simd"] == simd
    mesh, points = make_plans(600, "cpu", dtype)
    got = everything(mesh, points, people, dtype)
    want = everything(mesh, points, people, dtype, backend="torch")
    for ours, theirs in zip(got, want, strict=True):
        scale = theirs.abs().max().clamp(min=1)
        limit = 1e-11 if dtype == torch.float64 else 1e-5
        assert (ours - theirs).abs().max() / scale < limit


def test_any_number_of_threads_gives_the_same_bits(simd, threads):
    mesh, points = make_plans(600, "cpu", torch.float32)
    for people in (1, 37, 300):
        results = []
        for count in (1, 2, 4, 4):
            torch.set_num_threads(count)
            results.append(everything(mesh, points, people, torch.float32))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_person_has_the_same_bits_in_every_batch(simd):
    """Alone, in a set that is not full, in another crew, and behind the border of a slab."""
    mesh, points = make_plans(600, "cpu", torch.float32)
    inputs = make_inputs(517)

    def run(chosen):
        part = [t[chosen].detach().requires_grad_() for t in inputs]
        vertices, joints = ops.smpl_mesh(mesh, *part)
        grads = torch.autograd.grad(vertices.square().sum() + joints.sum(), part)
        positions = ops.smpl_points(points, *part)
        return [vertices, joints, positions, *grads]

    everybody = run(list(range(517)))
    for chosen in ([0], [516], [239, 240], [255, 256, 257], [7, 3, 5, 300], list(range(230, 263))):
        for got, want in zip(run(chosen), everybody, strict=True):
            assert torch.equal(got, want[chosen])


def test_unknown_set_is_refused():
    with pytest.raises(ValueError, match=r"one of .* or 'auto' expected, got 'sse9'"):
        ops.choose_simd("sse9")


def test_environment_chooses_the_set(monkeypatch):
    monkeypatch.setenv("EFT_FAST_SIMD", "portable")
    try:
        ops._load.load.__wrapped__()
        assert ops.build_info()["simd"] == "portable"
        monkeypatch.setenv("EFT_FAST_SIMD", "sse9")
        with pytest.raises(RuntimeError, match=r"EFT_FAST_SIMD must be auto or one of .* got sse9"):
            ops._load.load.__wrapped__()
    finally:
        ops.choose_simd("auto")


def peak_growth(code: str) -> float:
    """Megabytes by which a piece of work raises the peak memory of a fresh process."""
    script = (
        "import resource, torch; from eft_fast import ops; torch.set_num_threads(2)\n"
        "from tests.ops.op_inputs import make_plans\n"
        "mesh, points = make_plans(600, 'cpu', torch.float32)\n"
        "def work(people):\n"
        "    betas = torch.zeros(people, 10); pose = torch.zeros(people, 24, 3)\n"
        f"    {code}\n"
        "work(64)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "work(20000)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def test_points_of_many_people_take_bounded_memory():
    """20,000 people: inputs, gradients and 32 points each are 40 MB; kernels add little."""
    growth = peak_growth(
        "pose.requires_grad_(); ops.smpl_points(points, betas, pose).sum().backward()"
    )
    assert growth < 60


@pytest.mark.slow
def test_mesh_of_many_people_takes_bounded_memory():
    """20,000 people, 600 vertices: 144 MB of vertices, and as much that the backward keeps."""
    growth = peak_growth(
        "pose.requires_grad_(); v = ops.smpl_mesh(mesh, betas, pose)[0]; v.backward(v.detach())"
    )
    assert growth < 144 * 2 + 100


@pytest.mark.parametrize("people", [1, 7, 256])
def test_matches_smplx_on_a_body_of_its_size(people):
    """Values and gradients of every input against smplx's autograd, 6890 vertices."""
    smplx = pytest.importorskip("smplx")
    arrays = make_smpl_sized()
    struct = smplx.utils.Struct(
        v_template=arrays.v_template,
        f=arrays.faces,
        shapedirs=arrays.shapedirs,
        posedirs=arrays.posedirs,
        J_regressor=arrays.J_regressor,
        weights=arrays.weights_dense(),
        kintree_table=np.stack([arrays.parents, np.arange(24)]),
    )
    create = dict.fromkeys(("betas", "body_pose", "global_orient", "transl"), False)
    model = smplx.SMPL("", data_struct=struct, **{f"create_{k}": v for k, v in create.items()})
    regressor = np.random.default_rng(1).random((3, 6890)) / 6890
    rows = vertex_rows([332, 6890 - 1], "ab") + regressor_rows(regressor, "xyz")
    mesh = make_mesh_plan(arrays).to(dtype=torch.float32)
    points = make_points_plan(arrays, rows).to(dtype=torch.float32)
    inputs = make_inputs(people, grad=True)
    betas, pose, transl = inputs
    body = model(
        betas=betas, body_pose=pose[:, 1:].flatten(1), global_orient=pose[:, 0], transl=transl
    )
    vertices, joints = ops.smpl_mesh(mesh, *inputs)
    torch.testing.assert_close(vertices, body.vertices, rtol=0, atol=1e-5)
    torch.testing.assert_close(joints, body.joints[:, :24], rtol=0, atol=1e-5)
    extra = torch.einsum("kv,bvc->bkc", torch.from_numpy(regressor).float(), body.vertices)
    expected = torch.cat([body.vertices[:, [332, 6889]], extra], 1)
    got = ops.smpl_points(points, *inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)

    factor = torch.randn_like(vertices)
    ours = torch.autograd.grad((vertices * factor).sum() + joints.sum(), inputs)
    theirs_loss = (body.vertices * factor).sum() + body.joints[:, :24].sum()
    theirs = torch.autograd.grad(theirs_loss, inputs, retain_graph=True)
    ours += torch.autograd.grad((got * factor[:, :5]).sum(), inputs)
    theirs += torch.autograd.grad((expected * factor[:, :5]).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
