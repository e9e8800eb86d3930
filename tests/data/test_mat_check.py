"""MATLAB files that scipy would end the process over, and those that it reads."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from eft_fast.data.readers import mat_check
from eft_fast.data.readers.mat_check import check_mat
from eft_fast.data.readers.matlab import load_mat, read_mat

scipy_io = pytest.importorskip("scipy.io", reason="the extra datasets is not installed")


def contents() -> dict[str, object]:
    cells = np.empty(2, object)
    cells[:] = {"a": np.arange(3), "b": "text \u00e9"}, np.zeros((0, 3))
    return {
        "joints": np.full((3, 14, 2), 30.0), "cells": cells, "one": 1, "empty": "",
        "inner": {"a": {"b": [1, 2, "c"]}}, "complex": 1j * np.ones(3), "flag": np.array([True]),
    }  # fmt: skip


@pytest.mark.parametrize("is_compressed", [False, True])
def test_whole_files_pass(tmp_path: Path, is_compressed: bool) -> None:
    path = tmp_path / "a.mat"
    scipy_io.savemat(path, contents(), do_compression=is_compressed)
    check_mat(path)
    assert set(load_mat(path, "test")) == set(contents())
    scipy_io.savemat(path, {"a": np.ones(3)}, format="4")
    check_mat(path)


def damaged(kind: int, length: int = 8, *, is_compressed: bool = False) -> bytes:
    """One matrix of doubles whose numbers are of a kind and a length."""
    numbers = struct.pack("<II", kind, length) + bytes(8)
    inner = struct.pack("<IIIIIIiiII", 6, 8, 6, 0, 5, 8, 1, 1, 1 | 1 << 16, ord("a")) + numbers
    matrix = struct.pack("<II", 14, len(inner)) + inner
    if is_compressed:
        packed = zlib.compress(matrix)
        matrix = struct.pack("<II", 15, len(packed)) + packed
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + matrix


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(
    ("kind", "length", "words"),
    [
        (672, 8, "the unknown type 672"),
        (21, 8, "the unknown type 21"),
        (9, 80, "an element of 80 bytes where 8 are left"),
        (9, 2**32 - 1, "where 8 are left"),
    ],
)
def test_elements_that_scipy_would_believe(
    tmp_path: Path, kind: int, length: int, words: str, is_compressed: bool
) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(damaged(9, is_compressed=is_compressed))
    assert load_mat(path, "test") == {"a": 0.0}
    path.write_bytes(damaged(kind, length, is_compressed=is_compressed))
    for read in (load_mat, read_mat):
        with pytest.raises(ValueError, match=r"test: .*MATLAB file") as caught:
            read(path, "test")
        assert words in str(caught.value)


def test_the_process_lives_on(tmp_path: Path) -> None:
    """scipy reads beyond a table here, which mostly ends the process: hence one of its own."""
    (tmp_path / "a.mat").write_bytes(damaged(0xFFFFFF & ~0xFF0000))
    code = (
        "import sys; from pathlib import Path\n"
        "from eft_fast.data.readers.matlab import load_mat\n"
        "try: load_mat(Path(sys.argv[1]), 'test')\n"
        "except ValueError: print('told')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.mat"], check=True, capture_output=True, text=True
    )
    assert done.stdout == "told\n"


def test_bombs_and_nests_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mat"
    scipy_io.savemat(path, {"a": np.zeros(100_000)}, do_compression=True)
    monkeypatch.setattr(mat_check, "MAX_UNPACKED", 100_000)
    with pytest.raises(ValueError, match="unfolds to more than 100000 bytes"):
        load_mat(path, "test")
    inner = b""
    for _ in range(100):
        inner = struct.pack("<II", 14, len(inner)) + inner
    path.write_bytes(damaged(9)[:128] + inner)
    with pytest.raises(ValueError, match="inside of one another more than 64 times"):
        load_mat(path, "test")
