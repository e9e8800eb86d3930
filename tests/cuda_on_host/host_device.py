"""Builds CUDA sources for the CPU and calls their launchers."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parents[2]
CSRC = REPO / "csrc"
CUDA = CSRC / "cuda"
ASCENDING, DESCENDING, RANDOM = 0, 1, 2
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
FLAGS = ("-std=c++17", "-DEFT_FAST_HOST_CUDA", "-fPIC", "-g", *WARNINGS)
SANITIZE = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def compile_to(target: Path, source: Path, flags: Iterable[str]) -> subprocess.CompletedProcess:
    """Compile one source; the caller looks at the return code."""
    command = [os.environ.get("CXX", "g++"), "-x", "c++", *FLAGS, *flags, f"-I{CUDA}"]
    return subprocess.run(
        [*command, "-c", str(source), "-o", str(target)], capture_output=True, text=True
    )


def build(
    name: str,
    sources: Sequence[Path],
    flags: Sequence[str] = ("-O2",),
    link: Sequence[str] = (),
) -> Path:
    """Build a shared object from CUDA and C++ sources, once per content of the sources."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    sources = [*sources, *sorted(CUDA.glob("on_host*.cpp"))]
    headers = sorted(
        path for folder in ("", "cuda", "math") for path in (CSRC / folder).glob("*.h")
    )
    key = hashlib.sha256(" ".join([*FLAGS, *flags, *link]).encode())
    for path in [*sources, *headers]:
        key.update(path.read_bytes())
    folder = REPO / "build" / "cuda_on_host"
    library = folder / f"{name}-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    work = folder / f"{library.stem}.{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    objects = [work / f"{path.name}.o" for path in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(
            lambda pair: compile_to(pair[1], pair[0], flags), zip(sources, objects, strict=True)
        )
    for path, result in zip(sources, results, strict=True):
        assert result.returncode == 0, f"{path.name}\n{result.stderr}"
    partial = work / "library.so"
    command = [compiler, "-shared", *flags, *map(str, objects), "-o", str(partial), *link]
    subprocess.run(command, check=True)
    partial.replace(library)
    shutil.rmtree(work)
    return library


def build_operators() -> Path:
    """The operators of csrc/ops.cpp with the CUDA kernels behind them, on CPU tensors."""
    torch_folder = Path(torch.__file__).parent
    sources = [CSRC / name for name in ("ops.cpp", "ops_cuda.cpp", "ps_ops.cpp", "raster_ops.cpp")]
    sources.append(Path(__file__).parent / "no_simd.cpp")
    flags = ["-O2", "-std=c++20", "-fvisibility=hidden", f"-isystem{torch_folder / 'include'}"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DEFT_FAST_WITH_CUDA"]
    flags += ['-DEFT_FAST_VERSION="test"', '-DEFT_FAST_ARCHS=""']
    link = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10", "-ldl"]
    return build("operators", [*sources, *sorted(CUDA.glob("*.cu"))], flags, link)


def sanitizer_environment() -> dict[str, str]:
    """The environment in which a plain Python loads a library built with SANITIZE."""
    runtime = [
        subprocess.run(
            [os.environ.get("CXX", "g++"), f"-print-file-name={name}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


class HostDevice:
    """A library of launchers, with tensors and arrays passed as pointers."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.eft_on_host_message.restype = ctypes.c_char_p

    def schedule(self, order: int, seed: int = 0) -> None:
        """Choose the order in which threads and blocks run."""
        self._library.eft_on_host_schedule(order, seed)

    @property
    def message(self) -> str:
        """The last failure in words."""
        return self._library.eft_on_host_message().decode()

    def code(self, name: str, *arguments: object) -> int:
        """Call a launcher and return its error code."""
        return getattr(self._library, name)(*map(_to_c, arguments))

    def __call__(self, name: str, *arguments: object) -> None:
        """Call a launcher that must succeed."""
        code = self.code(name, *arguments)
        assert code == 0, f"{name}: error {code}: {self.message}"


def _to_c(value: object) -> object:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a launcher takes arrays, numbers and None, got {type(value).__name__}")
    return ctypes.c_int64(value)
