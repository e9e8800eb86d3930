"""The operators' own tests, with the CUDA kernels in the place of those of the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cuda_emulator.emulator import REPO, build_operators

# Left out: numeric derivatives take minutes at this speed, and kernels cannot raise on an index;
# the toy network is large.
LEFT_OUT = (
    "compiles", "cuda", "gradcheck", "limbs_of_points_that_are_not_there", "threads", "toy"
)  # fmt: skip
FILES = {
    "bodies": [
        f"ops/test_{name}.py" for name in ("smpl_mesh", "smpl_points", "keypoint_loss", "raster")
    ],
    "slots": ["ops/test_slot_layers.py", "eft/test_adam_in_backward.py"],
    "fits": ["eft/test_graph_slots.py"],
    "map": ["ops/test_map.py", "ops/test_map_native.py"],
}
#: What of them runs, where all would take minutes: a whole fit of the open network's head.
CHOSEN = {"fits": ("open_network", "head")}


@pytest.mark.slow
@pytest.mark.parametrize("subject", FILES)
def test_operators_pass_their_tests_on_the_cuda_kernels(subject):
    """Argument order, checks, workspaces, gradients and batch independence of the CUDA side."""
    script = REPO / "tests" / "cuda_emulator" / "run_operator_tests.py"
    files = [str(REPO / "tests" / name) for name in FILES[subject]]
    command = [sys.executable, str(script), str(build_operators()), "-q", "-p", "no:cacheprovider"]
    wanted = " and ".join([*(f"not {name}" for name in LEFT_OUT), *CHOSEN.get(subject, ())])
    result = subprocess.run(
        [*command, "-k", wanted, *files],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.slow
def test_little_shared_memory_changes_no_number_and_is_named():
    """A block has 99 KB on compute capability 8.6 and 8.9; here 65, so that small plans show it."""
    script = REPO / "tests" / "cuda_emulator" / "small_device.py"
    result = subprocess.run(
        [sys.executable, str(script), str(build_operators())],
        cwd=REPO,
        env={
            **os.environ,
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
            "EFT_FAST_EMULATOR_SHARED": "66560",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
