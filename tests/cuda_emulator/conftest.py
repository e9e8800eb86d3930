"""The kernels of csrc/cuda, built for the CPU."""

from __future__ import annotations

import os

import pytest

from tests.cuda_emulator.emulator import (
    SANITIZE,
    WATCHED,
    CudaEmulator,
    KernelModule,
    build_kernels,
)


@pytest.fixture(scope="session")
def kernels() -> CudaEmulator:
    """All launchers.

    EFT_FAST_EMULATOR_SANITIZE=1 builds them for a sanitised Python, EFT_FAST_EMULATOR_WATCH=1 so
    that races in shared memory fail.
    """
    if os.environ.get("EFT_FAST_EMULATOR_SANITIZE") == "1":
        return KernelModule(build_kernels(SANITIZE))
    watched = WATCHED if os.environ.get("EFT_FAST_EMULATOR_WATCH") == "1" else ()
    return KernelModule(build_kernels(kernel_flags=watched))


@pytest.fixture
def gpu(kernels: CudaEmulator) -> CudaEmulator:
    """The launchers, with threads in ascending order."""
    kernels.schedule(0)
    return kernels
