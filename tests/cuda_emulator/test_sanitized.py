"""The kernels under AddressSanitizer and the undefined-behaviour sanitizer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cuda_emulator.emulator import REPO, sanitizer_environment

# One evaluation of every kernel and type; odd sizes are where ends are missed.
CHOSEN = "3-37 or 17-37 or 131-37 or every_form or large_plans or (loss_matches and 3-dtype)"
CHOSEN += " or idle_slots or bias_update or adam_of_parts or (tensor_cores and 3x3-stride)"
CHOSEN += " or unusable_faces or (any_size and 33) or fours_cannot or (tensor_cores and fast)"


@pytest.mark.slow
def test_kernels_are_clean_under_the_sanitizers():
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", CHOSEN]
        + [f"tests/cuda_emulator/test_{name}_kernels.py" for name in ("mesh", "points", "slot")]
        + ["tests/cuda_emulator/test_raster_kernel.py"],
        cwd=REPO,
        env={**sanitizer_environment(), "EFT_FAST_EMULATOR_SANITIZE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert " passed" in result.stdout
