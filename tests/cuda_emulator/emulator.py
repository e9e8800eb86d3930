"""Builds CUDA sources for the CPU, with ninja, and calls their launchers."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parents[2]
CSRC = REPO / "csrc"
CUDA = CSRC / "cuda"
ASCENDING, DESCENDING, RANDOM = 0, 1, 2
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
FLAGS = ("-std=c++17", "-DEFT_FAST_CUDA_EMULATOR", "-fPIC", "-g", *WARNINGS)
SANITIZE = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
#: Of kernels alone: every access calls csrc/cuda/cuda_emulator_race.cpp.
WATCHED = ("-fsanitize=thread",)


def find_ninja() -> str:
    """The ninja of this Python's environment, or the one on PATH."""
    own = Path(sys.executable).with_name("ninja")
    found = str(own) if own.exists() else shutil.which("ninja")
    if found is None:
        pytest.skip("no ninja: install the test extra")
    return found


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
    kernel_flags: Sequence[str] = (),
) -> Path:
    """Build a shared object from CUDA and C++ sources, once per content of the sources."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    sources = [*sources, *sorted(CUDA.glob("cuda_emulator*.cpp"))]
    headers = sorted(
        path for folder in ("", "cpu", "cuda", "math") for path in (CSRC / folder).glob("*.h")
    )
    key = hashlib.sha256(" ".join([*FLAGS, *flags, *link, *kernel_flags]).encode())
    for path in [*sources, *headers]:
        key.update(path.read_bytes())
    folder = REPO / "build" / "cuda_emulator"
    library = folder / f"{name}-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    work = folder / f"{library.stem}.{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    partial = work / "library.so"
    write_ninja(work / "build.ninja", sources, partial, flags, link, kernel_flags)
    result = subprocess.run(
        [find_ninja(), "-C", str(work), "--quiet"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    partial.replace(library)
    shutil.rmtree(work)
    return library


def write_ninja(
    target: Path,
    sources: Sequence[Path],
    output: Path,
    flags: Sequence[str],
    link: Sequence[str],
    kernel_flags: Sequence[str],
) -> None:
    """Say to ninja how a shared object comes of its sources."""
    compiler = os.environ.get("CXX", "g++")
    command = " ".join([compiler, "-x c++", *map(shlex.quote, [*FLAGS, *flags, f"-I{CUDA}"])])
    lines = [
        "rule compile",
        f"  command = {command} $extra -c $in -o $out",
        "rule link",
        f"  command = {compiler} -shared {' '.join(map(shlex.quote, flags))} $in -o $out "
        + " ".join(map(shlex.quote, link)),
    ]
    objects = [f"{path.name}.o" for path in sources]
    for name, path in zip(objects, sources, strict=True):
        lines.append(f"build {name}: compile {str(path).replace(' ', '$ ')}")
        if path.suffix == ".cu":
            lines.append(f"  extra = {' '.join(kernel_flags)}")
    lines += [f"build {output.name}: link {' '.join(objects)}"]
    target.write_text("\n".join(lines) + "\n")


def launcher_names() -> list[str]:
    """Every launcher that the headers declare."""
    names: list[str] = []
    for header in sorted(CUDA.glob("*launchers.h")):
        declarations = header.read_text().split('extern "C" {', 1)[1]
        names += re.findall(r"\beft_\w+_f(?:32|64)\b", declarations)
    return names


def build_kernels(flags: Sequence[str] = ("-O2",), kernel_flags: Sequence[str] = ()) -> Path:
    """All kernels, and a Python module in front of their launchers."""
    folder = REPO / "build" / "cuda_emulator" / "module"
    folder.mkdir(parents=True, exist_ok=True)
    includes = [f'#include "{path.name}"' for path in sorted(CUDA.glob("*launchers.h"))]
    text = "\n".join([*includes, *(f"EFT_EXPOSE({name});" for name in launcher_names())]) + "\n"
    inc = folder / "launchers.inc"
    if not inc.exists() or inc.read_text() != text:
        inc.write_text(text)
    paths = {sysconfig.get_paths()["include"], str(Path(torch.__file__).parent / "include")}
    module_flags = [f"-isystem{path}" for path in sorted(paths)] + [f"-I{folder}"]
    sources = [Path(__file__).with_name("module.cpp"), *sorted(CUDA.glob("*.cu"))]
    return build("kernels", sources, [*flags, *module_flags], kernel_flags=kernel_flags)


def build_operators() -> Path:
    """The operators that have CUDA kernels, with those kernels behind them, on CPU tensors."""
    torch_folder = Path(torch.__file__).parent
    families = [path for path in CSRC.glob("*_ops.cpp") if "EFT_FAST_WITH_CUDA" in path.read_text()]
    sources = [CSRC / "build_info.cpp", *sorted(families)]
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


class CudaEmulator:
    """A library of launchers, with tensors and arrays passed as pointers."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.eft_cuda_emulator_message.restype = ctypes.c_char_p

    def schedule(self, order: int, seed: int = 0) -> None:
        """Choose the order in which threads and blocks run."""
        self._library.eft_cuda_emulator_schedule(order, seed)

    @property
    def message(self) -> str:
        """The last failure in words."""
        return self._library.eft_cuda_emulator_message().decode()

    def code(self, name: str, *arguments: object) -> int:
        """Call a launcher and return its error code."""
        return getattr(self._library, name)(*map(_to_c, arguments))

    def __call__(self, name: str, *arguments: object) -> None:
        """Call a launcher that must succeed."""
        code = self.code(name, *arguments)
        assert code == 0, f"{name}: error {code}: {self.message}"


class KernelModule(CudaEmulator):
    """The launchers of csrc/cuda through their Python module, which checks every call."""

    def __init__(self, library: Path) -> None:
        super().__init__(library)
        loader = importlib.machinery.ExtensionFileLoader("cuda_emulator", str(library))
        spec = importlib.util.spec_from_file_location("cuda_emulator", library, loader=loader)
        assert spec is not None
        self._module = importlib.util.module_from_spec(spec)
        loader.exec_module(self._module)

    def code(self, name: str, *arguments: object) -> int:
        """Call a launcher and return its error code."""
        return getattr(self._module, name)(*map(_to_number, arguments))


def _to_number(value: object) -> int | float:
    """Numbers as they are, memory as its address."""
    converted = _to_c(value)
    number = converted.value
    return 0 if number is None else number


def _to_c(value: object) -> ctypes.c_void_p | ctypes.c_double | ctypes.c_int64:
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
