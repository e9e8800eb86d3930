"""The test device itself: what it must compute, and what it must report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_emulator.emulator import (
    ASCENDING,
    DESCENDING,
    RANDOM,
    SANITIZE,
    CudaEmulator,
    build,
    compile_to,
    launcher_names,
    sanitizer_environment,
)

HERE = Path(__file__).parent
LAUNCH_FAILURE, INVALID_CONFIGURATION, INVALID_VALUE = 719, 9, 1


@pytest.fixture(scope="module")
def library() -> Path:
    return build("selftest", [HERE / "selftest.cu"])


@pytest.fixture
def gpu(library) -> CudaEmulator:
    gpu = CudaEmulator(library)
    gpu.schedule(ASCENDING)
    return gpu


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING, RANDOM])
def test_a_right_kernel_gives_the_same_bits_in_every_order(gpu, order):
    rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    out = np.full_like(rows, np.nan)
    gpu.schedule(order, seed=3)
    gpu("reverse", rows, out, 5)
    np.testing.assert_array_equal(out, rows[:, ::-1])


def test_a_race_gives_different_bits_in_different_orders(gpu):
    row = np.arange(32, dtype=np.float32)
    seen = set()
    for order, seed in [(ASCENDING, 0), (DESCENDING, 0), (RANDOM, 1), (RANDOM, 2)]:
        out = np.empty_like(row)
        gpu.schedule(order, seed)
        gpu("racy", row, out)
        seen.add(out.tobytes())
    assert len(seen) >= 3


def test_barriers_that_threads_do_not_share_are_reported(gpu):
    out = np.zeros(64, np.float32)
    assert gpu.code("divergent", out) == LAUNCH_FAILURE
    first, second = [word for word in gpu.message.split() if word.startswith("selftest.cu:")]
    assert first != second
    assert gpu.code("early_return", out) == LAUNCH_FAILURE
    assert "after 16 of 64 threads returned" in gpu.message
    assert not out.any()


def test_a_failure_does_not_poison_the_next_launch(gpu):
    rows = np.ones((1, 64), np.float32)
    out = np.zeros_like(rows)
    assert gpu.code("divergent", out) == LAUNCH_FAILURE
    gpu("reverse", rows, out, 1)
    assert out.all()
    assert gpu.message == ""


@pytest.mark.parametrize("name", ["unwritten_f32", "unwritten_f64", "unwritten_i32"])
def test_unwritten_shared_memory_shows(gpu, name):
    kind = {"f32": np.float32, "f64": np.float64, "i32": np.int32}[name[-3:]]
    out = np.zeros(64, kind)
    gpu(name, out)
    unwritten = out[1::2]
    assert (out[::2] == 1).all()
    assert (
        (unwritten.view(np.uint32) == 0xDEADBEEF).all()
        if kind == np.int32
        else np.isnan(unwritten).all()
    )


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING, RANDOM])
def test_warp_operations(gpu, order):
    values = np.random.default_rng(0).integers(0, 90, 64).astype(np.int32)
    out = np.zeros((7, 64), np.int32)
    gpu.schedule(order, seed=5)
    gpu("warp", values, out)
    warps, lane = values.reshape(2, 32), np.arange(32)
    expected = [
        warps[:, lane * 7 % 32],
        warps[:, np.where(lane % 8 < 3, lane, lane - 3)],
        warps[:, np.where(lane % 16 + 5 >= 16, lane, lane + 5)],
        warps[:, lane ^ 9],
        np.repeat((warps % 3 == 0) @ (1 << lane.astype(np.uint64)), 32).reshape(2, 32),
        np.repeat((warps == 5).any(1) * 2 + (warps >= 0).all(1), 32).reshape(2, 32),
        warps[:, lane ^ 8],
    ]
    for row, want in zip(out, expected, strict=True):
        np.testing.assert_array_equal(row.view(np.uint32), want.ravel().astype(np.uint32))


def test_a_mask_that_names_a_missing_lane_is_reported(gpu):
    out = np.zeros(32, np.int32)
    gpu("mask", 32, 32, out)
    assert gpu.code("mask", 20, 32, out) == LAUNCH_FAILURE
    assert "names lane 20, which does not exist" in gpu.message
    for order in (ASCENDING, DESCENDING):
        gpu.schedule(order)
        assert gpu.code("mask", 32, 30, out) == LAUNCH_FAILURE
        assert "returned" in gpu.message


def test_tensor_core_layout_and_rounding(gpu):
    generator = np.random.default_rng(0)
    a = generator.normal(size=(16, 8)).astype(np.float32)
    b = generator.normal(size=(8, 8)).astype(np.float32)
    d = np.zeros((16, 8), np.float32)
    gpu("mma", a, b, d)
    cut = [
        (x.view(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32).astype(np.float64) for x in (a, b)
    ]
    np.testing.assert_allclose(d, cut[0] @ cut[1], atol=2e-6)
    assert np.abs(d - a @ b).max() > 1e-5


def test_asynchronous_copies_arrive_at_the_wait(gpu):
    values = np.arange(256, dtype=np.float32)
    out = np.zeros(256, np.float32)
    gpu("copy", values, 1, out)
    np.testing.assert_array_equal(out, values)
    gpu("copy", values, 0, out)
    np.testing.assert_array_equal(out[:128], values[:128])
    assert np.isnan(out[128:]).all()


@pytest.mark.parametrize(
    ("grid_y", "threads", "shared", "allowed", "code"),
    [
        (65535, 1, 0, 49152, 0),
        (65536, 1, 0, 49152, INVALID_CONFIGURATION),
        (1, 1024, 0, 49152, 0),
        (1, 1025, 0, 49152, INVALID_CONFIGURATION),
        (1, 0, 0, 49152, INVALID_CONFIGURATION),
        (1, 32, 49153, 49152, INVALID_VALUE),
        (1, 32, 49153, 60000, 0),
        (1, 32, 0, 227 * 1024 + 1, INVALID_VALUE),
    ],
)
def test_launch_limits(gpu, grid_y, threads, shared, allowed, code):
    out = np.zeros(1, np.float32)
    assert gpu.code("limits", grid_y, threads, shared, allowed, out) == code
    assert bool(gpu.message) == bool(code)


def test_atomics_do_not_compile(tmp_path):
    """Sums in the order of arrival differ from run to run, so there is no atomic to call."""
    source = tmp_path / "atomic.cu"
    source.write_text('#include "launch.h"\n__global__ void k(float* x) { atomicAdd(x, 1.0f); }\n')
    result = compile_to(tmp_path / "atomic.o", source, [])
    assert result.returncode != 0
    assert "atomicAdd" in result.stderr


@pytest.mark.slow
def test_sanitizers_see_the_ends_of_shared_memory():
    """The fibres announce themselves, so AddressSanitizer works and finds a planted overrun."""
    library = build("selftest", [HERE / "selftest.cu"], SANITIZE)
    script = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); out = (ctypes.c_float * 64)()\n"
        "sys.exit(library.out_of_bounds(ctypes.c_int64(int(sys.argv[2])), out))"
    )
    good, bad = (
        subprocess.run(
            [sys.executable, "-c", script, str(library), offset],
            env=sanitizer_environment(),
            capture_output=True,
            text=True,
        )
        for offset in ("7", "8")
    )
    assert good.returncode == 0, good.stderr
    assert bad.returncode != 0
    assert "heap-buffer-overflow" in bad.stderr


def test_every_launcher_is_in_the_module_and_calls_are_checked(kernels):
    """The module knows the headers' signatures: a call of another shape does not run."""
    names = launcher_names()
    assert len(names) == len(set(names)) >= 10
    for name in names:
        with pytest.raises(TypeError, match="incompatible function arguments"):
            kernels.code(name)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        kernels.code("eft_mesh_forward_f32", *[0.5] * 22)
