"""Two threads that touch one word of shared memory with no barrier between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_emulator.emulator import REPO, WATCHED, CudaEmulator, build

HERE = Path(__file__).parent
LAUNCH_FAILURE = 719
NONE, WARP, BLOCK = 0, 1, 2
#: One evaluation of every kernel, type and way.
CHOSEN = "3-37 or 17-37 or 131-37 or every_form or large_plans or (loss_matches and 3-dtype)"
CHOSEN += " or bias_update or adam_of_parts or (tensor_cores and (3x3 or fast)) or update_is_adam"
CHOSEN += " or (any_size and 33) or linear_matches or three_tf32"


@pytest.fixture(scope="module")
def watched() -> CudaEmulator:
    library = build("watched", [HERE / "selftest.cu"], ("-O1",), kernel_flags=WATCHED)
    return CudaEmulator(library)


@pytest.mark.parametrize(
    ("barrier", "reach", "found"),
    [
        (NONE, 0, None),  # each thread its own
        (NONE, 1, "__syncwarp"),
        (WARP, 1, None),
        (WARP, 32, "__syncthreads"),
        (NONE, 33, "__syncthreads"),
        (BLOCK, 33, None),
    ],
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_planted_race_is_found_in_any_order(watched, barrier, reach, found, order):
    watched.schedule(order, 1)
    values, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    code = watched.code("exchange", values, barrier, reach, out)
    if found is None:
        assert code == 0, watched.message
        np.testing.assert_array_equal(out, values[np.arange(64) ^ reach])
    else:
        assert code == LAUNCH_FAILURE
        assert watched.message.startswith("race: thread ")
        assert f"no {found} came between" in watched.message
        assert "selftest.cu" in watched.message


@pytest.mark.parametrize("name", ["overwrite", "copied"])
def test_other_kinds_of_races_are_found(watched, name):
    """A number is overwritten while others read it; bytes arrive that nobody waited for."""
    values, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    assert watched.code(name, values, 1, out) == 0, watched.message
    assert watched.code(name, values, 0, out) == LAUNCH_FAILURE
    assert watched.message.startswith("race: thread ")


def test_kernels_of_several_blocks_reuse_shared_memory(watched):
    values, out = np.arange(192, dtype=np.float32), np.zeros(192, np.float32)
    watched("reverse", values, out, 3)
    np.testing.assert_array_equal(out.reshape(3, 64), values.reshape(3, 64)[:, ::-1])


@pytest.mark.slow
def test_no_kernel_has_a_race_in_shared_memory():
    names = ("mesh_kernels", "points_kernels", "slot_kernels", "raster_kernel", "map_kernel")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", CHOSEN]
        + [f"tests/cuda_emulator/test_{name}.py" for name in names],
        cwd=REPO,
        env={**os.environ, "EFT_FAST_EMULATOR_WATCH": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert " passed" in result.stdout
