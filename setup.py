"""Builds eft_fast/_native.so: CPU always, CUDA when nvcc is found.

The library uses torch's stable C interface only, so one build serves every Python and every torch
from 2.11; it is loaded with ``torch.ops.load_library`` and is no Python extension module. Neither a
GPU nor a CUDA build of torch is needed to compile the CUDA kernels.

What is compiled:
    csrc/*.cpp            registration and checks, against torch/csrc/stable;
                          -DEFT_FAST_WITH_CUDA when CUDA kernels are built too
    csrc/cpu/*.cpp        plain C++
    csrc/cpu/simd/*.cpp   the hot loops, once per instruction set (-DEFT_ISA=...); one set is
                          chosen at run time
    csrc/cuda/*.cu        kernels on raw pointers, by nvcc; no torch header

Environment:
    EFT_FAST_CUDA   auto (default), 1 (nvcc must be there) or 0
    EFT_FAST_ARCHS  CUDA architectures, default 80,90a,90+PTX
    EFT_FAST_SANITIZE  address,undefined or thread: check the CPU code while it runs (.ci/sanitize)
    DEBUG           1: -O0 -g, and -lineinfo for CUDA
    CXX, MAX_JOBS   as usual
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
#: Oldest torch whose stable interface the library may call: 2.11.
TORCH_TARGET = "0x020b000000000000"
DEFAULT_ARCHS = "80,90a,90+PTX"
#: Instruction sets of the hot loops; every x86-64 machine runs the last one.
X86_SETS = {
    "avx512": "-march=x86-64-v4",
    "avx2": "-march=x86-64-v3",
    "portable": "-march=x86-64-v2",
}


def fail(message: str) -> None:
    """Stop the build with one sentence."""
    sys.exit(f"eft_fast build: {message}")


def torch_folder() -> Path:
    """The installed torch, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        fail(
            "torch must be installed before eft_fast is built, found none; install torch>=2.11 and "
            "add --no-build-isolation"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = re.search(r"__version__ = '(\d+)\.(\d+)", (folder / "version.py").read_text())
    if found is None or (int(found[1]), int(found[2])) < (2, 11):
        version = ".".join(found.groups()) if found else "an unknown version"
        fail(f"torch>=2.11 expected, got {version}; upgrade torch")
    return folder


def find_compiler() -> str:
    """The C++ compiler: $CXX, g++ or clang++."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")):
        if shutil.which(name.split()[0]):
            return name
    fail("a C++20 compiler is needed, found none; install g++ or set CXX")
    raise AssertionError


def find_nvcc() -> str | None:
    """Look for nvcc in $CUDA_HOME, the PATH and the usual folder; None: build without CUDA."""
    wish = os.environ.get("EFT_FAST_CUDA", "auto").lower()
    if wish not in ("auto", "0", "1"):
        fail(f"EFT_FAST_CUDA must be auto, 0 or 1, got {wish}")
    if wish == "0":
        return None
    homes = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    candidates = [str(Path(home, "bin", "nvcc")) for home in homes]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    if wish == "1":
        fail(
            "EFT_FAST_CUDA=1 needs nvcc, found none; put it on PATH or set CUDA_HOME, or set "
            "EFT_FAST_CUDA=0"
        )
    return None


def cudart_folders(nvcc: str) -> list[Path]:
    """Where libcudart_static.a lies. The nvcc on PATH may be a script; a dry run names its home."""
    dry = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    top = re.search(r"TOP=(.+)", dry)
    home = Path(top[1].strip()) if top else Path(nvcc).resolve().parent.parent
    names = ("lib64", "lib", f"targets/{platform.machine()}-linux/lib", "targets/sbsa-linux/lib")
    folders = [home / name for name in names if (home / name / "libcudart_static.a").is_file()]
    if not folders:
        fail(f"libcudart_static.a expected under {home}, found none; install the CUDA runtime")
    return folders[:1]


def arch_flags(archs: str) -> list[str]:
    """Nvcc flags of a list such as ``80,90a,90+PTX``."""
    flags = []
    for arch in filter(None, re.split(r"[,; ]+", archs)):
        number, _, ptx = arch.replace(".", "").replace("sm_", "").partition("+")
        if not re.fullmatch(r"\d{2,3}[af]?", number) or ptx not in ("", "PTX"):
            fail(f"EFT_FAST_ARCHS expects a list such as {DEFAULT_ARCHS}, got {archs}")
        code = f"compute_{number}" if ptx else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code={code}")
    if not flags:
        fail(f"EFT_FAST_ARCHS expects a list such as {DEFAULT_ARCHS}, got {archs!r}")
    return flags


def sanitize_flags() -> list[str]:
    """Compiler flags of the sanitizers that were asked for."""
    wish = os.environ.get("EFT_FAST_SANITIZE", "")
    names = set(filter(None, wish.split(",")))
    if not names <= {"address", "undefined"} and names != {"thread"}:
        fail(f"EFT_FAST_SANITIZE expects address, undefined, both or thread, got {wish}")
    if not names:
        return []
    # -O1: checked loops gain little from more, and take minutes to compile.
    flags = ["-fsanitize=" + ",".join(sorted(names)), "-fno-omit-frame-pointer", "-g", "-O1"]
    # A finding ends the run: a line in a log would be overlooked.
    return flags + (["-fno-sanitize-recover=all"] if "undefined" in names else [])


def run(command: list[str]) -> None:
    """Run one compiler command; its own messages are the explanation of a failure."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        fail(f"this command failed: {shlex.join(command)}\n{result.stdout}{result.stderr}")
    if result.stderr.strip():
        print(result.stderr, file=sys.stderr)


def is_current(output: Path, command: list[str]) -> bool:
    """Whether an object was made by this command after its last changed input."""
    record, depends = output.with_suffix(".cmd"), output.with_suffix(".d")
    if not (output.exists() and record.exists() and depends.exists()):
        return False
    if record.read_text() != shlex.join(command):
        return False
    built = output.stat().st_mtime_ns
    text = depends.read_text().replace("\\\n", " ").split(":", 1)[-1]
    inputs = [ROOT / name for name in shlex.split(text)]
    return all(path.exists() and path.stat().st_mtime_ns <= built for path in inputs)


class NativeBuild(build_ext):
    """Compiles what changed since the last build and links one shared object."""

    def get_ext_filename(self, fullname: str) -> str:
        """The same name under every Python: it is no extension module."""
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile, in parallel, and link."""
        if platform.system() != "Linux":
            fail(
                f"Linux expected, got {platform.system()}; use a source checkout and "
                "backend='torch'"
            )
        torch, cxx, nvcc = torch_folder(), find_compiler(), find_nvcc()
        kernels = sorted((ROOT / "csrc" / "cuda").glob("*.cu")) if nvcc else []
        debug = os.environ.get("DEBUG", "0") not in ("", "0")
        jobs = self.cpp_jobs(cxx, torch, bool(kernels), debug)
        if kernels:
            jobs += self.cuda_jobs(str(nvcc), kernels, debug)
        stale = [job for job in jobs if not is_current(*job)]
        workers = int(os.environ.get("MAX_JOBS", 0)) or min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(self.compile_one, stale))

        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        objects = [str(job[0]) for job in jobs]
        link = [*cxx.split(), "-shared", "-o", str(output), *objects, f"-L{torch / 'lib'}"]
        link += ["-ltorch_cpu", "-lc10", "-ldl", "-lpthread", "-Wl,--as-needed"]
        # The sanitizers' own functions are in a library that is loaded before everything.
        link += sanitize_flags() or ["-Wl,-z,defs"]
        if kernels:
            link += [*(f"-L{p}" for p in cudart_folders(str(nvcc))), "-lcudart_static", "-lrt"]
        stamp = self.object_folder() / "link.cmd"
        if (
            stale
            or not output.exists()
            or not stamp.exists()
            or stamp.read_text() != shlex.join(link)
        ):
            run(link)
            stamp.write_text(shlex.join(link))

    def object_folder(self) -> Path:
        """Objects live under build/, so that a second build compiles only what changed."""
        return Path(ROOT / "build" / "native")

    def cpp_jobs(
        self, cxx: str, torch: Path, cuda: bool, debug: bool
    ) -> list[tuple[Path, list[str]]]:
        """(object, command) of every C++ source."""
        machine = platform.machine()
        sets = X86_SETS if machine in ("x86_64", "AMD64") else {"portable": ""}
        archs = os.environ.get("EFT_FAST_ARCHS", DEFAULT_ARCHS) if cuda else ""
        # Fused multiply-adds are wanted; nothing else of "fast math" is.
        common = [*cxx.split(), "-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast"]
        common += ["-Wall", "-fno-math-errno", "-fno-trapping-math"]
        common += ["-O0", "-g"] if debug else ["-O3", "-DNDEBUG"]
        common += sanitize_flags()
        stable = [f"-isystem{torch / 'include'}", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
        stable += [
            f'-DEFT_FAST_ARCHS="{archs}"',
            f'-DEFT_FAST_VERSION="{self.distribution.get_version()}"',
        ]
        stable += [f"-DEFT_FAST_SETS={len(sets)}"] + (["-DEFT_FAST_WITH_CUDA"] if cuda else [])
        jobs = []
        for source in sorted((ROOT / "csrc").glob("*.cpp")):
            jobs.append(self.job(source, "", [*common, *stable]))
        for source in sorted((ROOT / "csrc" / "cpu").glob("*.cpp")):
            jobs.append(self.job(source, "", common))
        for source in sorted((ROOT / "csrc" / "cpu" / "simd").glob("*.cpp")):
            for name, march in sets.items():
                flags = [*common, *filter(None, [march]), f"-DEFT_ISA={name}"]
                # The AVX-512 intrinsics of GCC 12 use a register before they set it.
                flags += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
                jobs.append(self.job(source, name, flags))
        return jobs

    def cuda_jobs(
        self, nvcc: str, kernels: list[Path], debug: bool
    ) -> list[tuple[Path, list[str]]]:
        """(object, command) of every CUDA source."""
        archs = arch_flags(os.environ.get("EFT_FAST_ARCHS", DEFAULT_ARCHS))
        command = [nvcc, "-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", *archs]
        command += ["-O0", "-g", "-lineinfo"] if debug else ["-DNDEBUG"]
        return [self.job(source, "cuda", command) for source in kernels]

    def job(self, source: Path, variant: str, command: list[str]) -> tuple[Path, list[str]]:
        """The object of a source in a variant, and the command that makes it."""
        name = source.relative_to(ROOT / "csrc").with_suffix("").as_posix().replace("/", "_")
        digest = hashlib.sha256(shlex.join(command).encode()).hexdigest()[:8]
        output = self.object_folder() / f"{name}{'-' + variant if variant else ''}-{digest}.o"
        depends = output.with_suffix(".d")
        source_name = str(source.relative_to(ROOT))
        return output, [*command, "-MMD", "-MF", str(depends), "-c", source_name, "-o", str(output)]

    def compile_one(self, job: tuple[Path, list[str]]) -> None:
        """Compile one object and note how."""
        output, command = job
        output.parent.mkdir(parents=True, exist_ok=True)
        run(command)
        output.with_suffix(".cmd").write_text(shlex.join(command))


class AnyPythonWheel(bdist_wheel):
    """One wheel for every Python 3 on this platform."""

    def finalize_options(self) -> None:
        """It holds native code."""
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        """No Python ABI: the library is loaded through torch."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("eft_fast._native", sources=[])],
    cmdclass={"build_ext": NativeBuild, "bdist_wheel": AnyPythonWheel},
)
