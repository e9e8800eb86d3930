"""Folders that are replaced as a whole, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eft_fast import folders
from eft_fast.files import OutputError, write_text
from eft_fast.folders import (
    JOURNAL,
    LOCK,
    FolderInUseError,
    finish_replacement,
    locked_folder,
    replaced_files,
)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_new_files_come_and_former_ones_go(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("fits", "pictures/1", "pictures/2", "mine"):
        (tmp_path / name).write_text("old")
    with replaced_files(tmp_path, ["fits", "pictures", "never"]) as new:
        (new / "pictures").mkdir()
        write_text(new / "fits", "new")
        write_text(new / "pictures" / "2", "new")
        assert tree(tmp_path)["fits"] == "old"
    assert tree(tmp_path) == {"fits": "new", "mine": "old", "pictures/2": "new"}


@pytest.mark.parametrize("inner", [".", "empty/empty", "full/file"])
def test_a_folder_where_a_file_comes_goes(tmp_path: Path, inner: str) -> None:
    """With everything in it, as all that the new files replace: it must not stop them halfway."""
    (tmp_path / "fits").mkdir()
    if inner == "full/file":
        (tmp_path / "fits" / "full").mkdir()
        (tmp_path / "fits" / inner).write_text("old")
    else:
        (tmp_path / "fits" / inner).mkdir(parents=True, exist_ok=True)
    with replaced_files(tmp_path, ["fits"]) as new:
        write_text(new / "fits", "new")
    assert tree(tmp_path) == {"fits": "new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_the_folder_as_it_was(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "fits").write_text("old")
    for folder in (tmp_path, tmp_path / "a"):
        with contextlib.suppress(error), replaced_files(folder, ["fits"]) as new:
            write_text(new / "fits", "new")
            raise error
    assert tree(tmp_path) == {"fits": "old"}
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "fits").write_text("old")
    monkeypatch.setattr(folders.os, "fsync", full)
    with (
        pytest.raises(OutputError) as caught,
        replaced_files(tmp_path, ["fits"]) as new,
    ):
        write_text(new / "fits", "new")
    assert str(caught.value) == (
        f"{tmp_path}/fits cannot be written (No space left on device); what was there before is as "
        "it was"
    )
    assert tree(tmp_path) == {"fits": "old"}


def test_a_journal_is_carried_out(tmp_path: Path) -> None:
    """As after a kill in the midst of the renames: one file has come, one is still to come."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b").write_text("new")
    for name, text in (("a", "new"), ("b", "old"), ("c", "old")):
        (tmp_path / name).write_text(text)
    (tmp_path / JOURNAL).write_text(
        '{"scratch": "new", "comes": ["a", "b"], "goes": ["a","b","c"]}'
    )
    finish_replacement(tmp_path)
    assert tree(tmp_path) == {"a": "new", "b": "new"}


@pytest.mark.parametrize("name", ["../other", "/etc/x"])
def test_a_strange_journal_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / JOURNAL).write_text(f'{{"scratch": "new", "comes": [], "goes": ["{name}"]}}')
    with pytest.raises(OutputError, match="remove it"):
        finish_replacement(tmp_path)


def test_the_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from eft_fast.folders import locked_folder\n"
        "with locked_folder(sys.argv[1]):\n    print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(FolderInUseError, match=f"process {other.pid} since"):
            with locked_folder(tmp_path):
                pass
        # A lock ends with its process, however that ends.
        other.kill()
        other.wait()
        assert (tmp_path / LOCK).exists()
        with locked_folder(tmp_path), locked_folder(tmp_path):
            pass
    assert tree(tmp_path) == {}


def test_without_locks_of_the_system_the_process_number_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "fcntl", None)
    host = folders.socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process, is_free in ((os.getppid(), False), (dead.pid, True)):
        (tmp_path / LOCK).write_text(f'{{"process": {process}, "host": "{host}", "since": "now"}}')
        if is_free:
            with locked_folder(tmp_path):
                pass
        else:
            with pytest.raises(FolderInUseError), locked_folder(tmp_path):
                pass
