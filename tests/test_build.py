"""The build says in one sentence what it lacks, and the library keeps its promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eft_fast.ops import _load

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="runs in a source checkout"
)


def build(tmp_path: Path, before: str = "", **environment: str) -> str:
    """Run setup.py's build into a scratch folder after some code; return what it says."""
    code = (
        "import runpy, sys, importlib.util, shutil\n"
        f"{before}\n"
        f"sys.argv = ['setup.py', '--quiet', 'build_ext', '--build-lib', {str(tmp_path)!r}]\n"
        "runpy.run_path('setup.py', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]


def test_build_without_torch(tmp_path):
    said = build(tmp_path, "importlib.util.find_spec = lambda name: None")
    assert said == (
        "eft_fast build: torch must be installed before eft_fast is built, found none; install "
        "torch>=2.11 and add --no-build-isolation"
    )


def test_build_without_compiler(tmp_path):
    said = build(tmp_path, "shutil.which = lambda name: None", EFT_FAST_CUDA="0")
    assert said == (
        "eft_fast build: a C++20 compiler is needed, found none; install g++ or set CXX"
    )


def test_build_with_cuda_but_without_nvcc(tmp_path):
    hide = "which = shutil.which; shutil.which = lambda n: None if 'nvcc' in n else which(n)"
    said = build(tmp_path, hide, EFT_FAST_CUDA="1")
    assert said.startswith("eft_fast build: EFT_FAST_CUDA=1 needs nvcc, found none; put it on PATH")


def test_build_refuses_other_choices(tmp_path):
    said = build(tmp_path, EFT_FAST_CUDA="yes")
    assert said == "eft_fast build: EFT_FAST_CUDA must be auto, 0 or 1, got yes"


def test_missing_library_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(_load, "LIBRARY", tmp_path / "_native.so")
    with pytest.raises(RuntimeError, match=r"is not built; install .* backend='torch'"):
        _load.load.__wrapped__()


def test_damaged_library_is_a_sentence(monkeypatch, tmp_path):
    (tmp_path / "_native.so").write_bytes(b"no library")
    monkeypatch.setattr(_load, "LIBRARY", tmp_path / "_native.so")
    with pytest.raises(RuntimeError, match="does not load under torch"):
        _load.load.__wrapped__()


def test_library_needs_no_python_and_no_cuda():
    """One binary serves every Python, and loads where there is no CUDA."""
    if not _load.is_built():
        pytest.skip("the native library is not built")
    shown = subprocess.run(
        ["readelf", "-d", str(_load.LIBRARY)], capture_output=True, text=True, check=False
    ).stdout
    needed = [line for line in shown.splitlines() if "NEEDED" in line]
    if not needed:
        pytest.skip("no readelf")
    assert not any("python" in line or "cuda" in line for line in needed)


def test_instruction_sets_share_no_code():
    """A function that the linker may take from any object must not hold AVX-512 code."""
    objects = sorted((ROOT / "build" / "native").glob("cpu_simd_*-avx512-*.o"))
    if not objects:
        pytest.skip("no objects of a local build")
    shown = subprocess.run(
        ["nm", "-C", *map(str, objects)], capture_output=True, text=True, check=False
    ).stdout
    shared = [line for line in shown.splitlines() if line[17:18] in "WVu" and line[17:18].strip()]
    assert not [line for line in shared if "eft_fast::avx512::" not in line]
