"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eft_fast import files
from eft_fast.files import OutputError, remove_partials, save_npz, whole_file, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt
        assert not path.exists() or path.read_text() == "old"
        write_text(path, "old")
    assert names(tmp_path) == ["a.txt"]


def test_the_name_and_the_mode_stay(tmp_path: Path) -> None:
    path = tmp_path / "arrays"
    save_npz(path, {"a": np.arange(3)})
    path.chmod(0o640)
    save_npz(path, {"a": np.arange(4)}, compressed=False)
    assert len(np.load(path)["a"]) == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    umask = os.umask(0)
    os.umask(umask)
    write_text(tmp_path / "new", "")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "there" / "a.txt")
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text() == "new"
    write_text("/dev/null", "new")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 120, "a\nb", "\udcff"])
def test_names_as_long_and_odd_as_files_may_have(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "fits.npz"
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputError, match=r"fits.npz cannot be written \(No space left"):
        save_npz(path, {"a": np.zeros(9)})
    assert names(tmp_path) == []
    path.write_text("old")
    with pytest.raises(OutputError, match=r"; what was there before is as it was$"):
        save_npz(path, {"a": np.zeros(9)})
    assert path.read_text() == "old"
    assert names(tmp_path) == ["fits.npz"]


def test_no_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a.txt cannot be written \(No such file or directory\)"):
        write_text(tmp_path / "no" / "a.txt", "text")


def test_what_dead_processes_left_goes(tmp_path: Path) -> None:
    code = (
        "import os, sys; from eft_fast.files import whole_file\n"
        "with whole_file(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.txt"], check=True)
    (left,) = names(tmp_path)
    with whole_file(tmp_path / "b.txt") as file:
        assert len(names(tmp_path)) == 2
        remove_partials(tmp_path)
        assert left not in names(tmp_path)
        file.write(b"mine")
    # Another machine's process may be alive.
    far = f".a.txt.{'0' * 8}-1-abcd1234{files.PARTIAL}"
    (tmp_path / far).touch()
    remove_partials(tmp_path)
    assert names(tmp_path) == [far, "b.txt"]


def test_two_savers_leave_one_file_whole(tmp_path: Path) -> None:
    """Two processes save different arrays to one name at once, again and again."""
    path, size = tmp_path / "two.npz", 30_000

    def save(value: int) -> int:
        child = os.fork()
        if child == 0:
            arrays = {name: np.full(size + value, value) for name in "abc"}
            save_npz(path, arrays, compressed=False)
            os._exit(0)
        return child

    for _ in range(60):
        for child in [save(1), save(2)]:
            assert os.waitpid(child, 0)[1] == 0
        with np.load(path) as arrays:
            found = {(int(v), len(arrays[k])) for k in arrays.files for v in np.unique(arrays[k])}
        assert found in ({(1, size + 1)}, {(2, size + 2)})
    assert names(tmp_path) == ["two.npz"]
