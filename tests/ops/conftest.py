"""Instruction sets and threads that a test may choose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from eft_fast import ops


@pytest.fixture(params=["avx512", "avx2", "portable"])
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that runs here, forced; the choice of the process comes back."""
    before = ops.build_info()["simd"]
    if request.param not in ops.build_info()["simd_available"]:
        pytest.skip(f"this processor or build has no {request.param}")
    ops.choose_simd(request.param)
    yield request.param
    ops.choose_simd(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Torch's number of threads, which comes back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
