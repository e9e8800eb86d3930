"""Loads the native library once, and says how it was built."""

from __future__ import annotations

import ctypes
import json
import os
from functools import lru_cache
from pathlib import Path

import torch

LIBRARY = Path(__file__).resolve().parent.parent / "_native.so"


def how_to_build() -> str:
    """What to do where the native library is missing, in a checkout and in an installation."""
    if (LIBRARY.parent.parent / "setup.py").is_file():
        return "run `python setup.py build_ext --inplace` or `make native` in this checkout"
    return (
        "install eft_fast again from its wheel, or from a checkout with `pip install "
        "--no-build-isolation .` beside torch and a C++20 compiler"
    )


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """Load ``_native.so`` and register its operators; a second call costs nothing.

    ``EFT_FAST_SIMD`` (avx512, avx2, portable) forces the instruction set of the CPU kernels.

    Raises:
        RuntimeError: If the library was not built, does not load beside this torch, or has no
            instruction set of the name in ``EFT_FAST_SIMD``.
    """
    if not LIBRARY.is_file():
        raise RuntimeError(
            f"eft_fast: the native library is not built; {how_to_build()}, or use backend='torch'"
        )
    try:
        torch.ops.load_library(str(LIBRARY))
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise RuntimeError(
            f"eft_fast: the native library does not load under torch {torch.__version__} "
            f"({error}); rebuild it, or use backend='torch'"
        ) from error
    library.eft_fast_build_info.restype = ctypes.c_char_p
    library.eft_fast_choose_simd.argtypes = [ctypes.c_char_p]
    library.eft_fast_choose_simd.restype = ctypes.c_int
    wish = os.environ.get("EFT_FAST_SIMD", "auto")
    if library.eft_fast_choose_simd(wish.encode()) != 0:
        available = json.loads(library.eft_fast_build_info().decode())["simd_available"]
        raise RuntimeError(
            f"eft_fast: EFT_FAST_SIMD must be auto or one of {', '.join(available)} on this "
            f"processor, got {wish}"
        )
    return library


@lru_cache(maxsize=1)
def is_built() -> bool:
    """Whether the native library is there."""
    return LIBRARY.is_file()


def build_info() -> dict[str, str | bool | list[str]]:
    """Say how the native library was built and which instruction set it chose.

    Returns:
        ``version``; ``cuda``, whether CUDA kernels are compiled in; ``archs``, their architectures;
        ``simd``, the instruction set in use; ``simd_available``, those that this processor runs.
    """
    info: dict[str, str | bool | list[str]] = json.loads(load().eft_fast_build_info().decode())
    return info


@lru_cache(maxsize=1)
def has_cuda() -> bool:
    """Whether CUDA kernels are compiled in; a GPU may still be absent."""
    return is_built() and bool(build_info()["cuda"])


def choose_simd(name: str) -> None:
    """Force an instruction set of the CPU kernels for this process: for tests and benchmarks.

    Args:
        name: ``avx512``, ``avx2``, ``portable``, or ``auto`` for the best one that runs here.

    Raises:
        ValueError: If this processor or this build does not have it.
    """
    if load().eft_fast_choose_simd(name.encode()) != 0:
        raise ValueError(
            f"choose_simd: one of {build_info()['simd_available']} or 'auto' expected, got {name!r}"
        )
