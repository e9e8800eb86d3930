"""Runs operator tests with the CUDA kernels, on the CPU, behind torch.ops: a process of its own.

Arguments: the library of ``emulator.build_operators``, then those of pytest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eft_fast.ops import _load, plans

if __name__ == "__main__":
    _load.LIBRARY = Path(sys.argv[1])
    plans.GROUPED_ON.append("cpu")
    sys.exit(pytest.main(sys.argv[2:]))
