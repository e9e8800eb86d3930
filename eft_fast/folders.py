"""Folders that are replaced as a whole or not at all, and written by one process at a time.

``replaced_files`` collects new files in a scratch folder inside the target. When they are all there
and on the disk, a journal says which come and which go; then they are renamed. A process that is
killed before the journal leaves the former files, one that is killed after it leaves a journal that
the next reader or writer carries out (``finish_replacement``). What goes is removed before anything
comes, so that no old file ever stands beside a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from eft_fast.files import (
    OutputError,
    is_alive,
    remove_partials,
    sync_folder,
    why_not_written,
    write_text,
)

try:
    import fcntl
except ImportError:  # Windows has none: there a lock is as good as its process number
    fcntl = None  # type: ignore[assignment]

LOCK: Final = ".eft-fast.lock"
JOURNAL: Final = ".eft-fast.replace.json"
_SCRATCH: Final = ".eft-fast-new-"
#: Seconds that a reader waits for a writer who is just renaming.
_PATIENCE: Final = 5.0

_held: dict[str, int] = {}
_guard: Final = threading.Lock()


class FolderInUseError(ValueError):
    """Another process is writing the folder."""


@contextmanager
def locked_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep every other process of this package from writing a folder, which has to be there.

    The lock is held by the system for the process, so that it ends with it, however that happens;
    the file says who holds it. Within one process locks may be nested. Upon entry, what killed
    processes left is put in order.

    Raises:
        FolderInUseError: If somebody else writes it.
    """
    place = os.path.realpath(folder)
    with _guard:
        nested = _held.get(place, 0)
        file = None if nested else _take(Path(place), folder)
        _held[place] = nested + 1
    try:
        if file is not None:
            _put_in_order(Path(place))
        yield
    finally:
        with _guard:
            _held[place] -= 1
            if not _held[place]:
                del _held[place]
            if file is not None:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(place, LOCK))
                file.close()


@contextmanager
def replaced_files(folder: str | os.PathLike[str], former: Iterable[str] = ()) -> Iterator[Path]:
    """A scratch folder whose files come to ``folder`` together, or not at all.

    Args:
        folder: The target; it is made.
        former: Files that go, relative to the folder, as far as they are there; a folder goes with
            everything in it. Everything else in the folder stays. Read when the folder is locked.

    Raises:
        FolderInUseError: If another process writes the folder.
        OutputError: If something cannot be written; what was there before is as it was.
        NotADirectoryError: If ``folder`` is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} must be a folder, got a file")
    is_new = not target.exists()
    try:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError.about(target, error, replaces=False) from error
        with locked_folder(target), _scratch_folder(target) as scratch:
            former = list(former)
            try:
                yield scratch
            except OutputError as error:
                raise _about_target(error, scratch, target, former) from error
            _commit(target, scratch, former)
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                target.rmdir()


def finish_replacement(folder: str | os.PathLike[str]) -> None:
    """Carry out the journal of a process that was killed, if there is one.

    For readers: it costs one look at the folder where nothing is to be done.

    Raises:
        FolderInUseError: If a writer is at work and does not end soon.
        OutputError: If the folder cannot be written.
    """
    journal = Path(folder) / JOURNAL
    end = time.monotonic() + _PATIENCE
    while journal.exists():
        try:
            with locked_folder(folder):
                return
        except FolderInUseError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        except OSError as error:
            raise OutputError(
                f"{folder} was being replaced when its process was killed, and cannot be put in "
                f"order ({why_not_written(error)}); make it writable"
            ) from error


def files_below(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are there, folders as the files in them, relative to the folder."""
    found = []
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            found += [each.relative_to(folder).as_posix() for each in _files(path)]
        elif path.is_symlink() or path.exists():
            found.append(path.relative_to(folder).as_posix())
    return found


@dataclass(frozen=True)
class _Plan:
    """What a journal says; names are relative to the folder."""

    scratch: str
    comes: list[str]
    goes: list[str]

    @classmethod
    def read(cls, folder: Path) -> _Plan | None:
        """The plan of a folder, if there is one of ours."""
        try:
            content: Any = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
            plan = cls(str(content["scratch"]), list(content["comes"]), list(content["goes"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{folder / JOURNAL} is not one of this program ({error}); remove it"
            ) from error
        names = [plan.scratch, *plan.comes, *plan.goes]
        if any(os.path.isabs(name) or ".." in Path(name).parts for name in names):
            raise OutputError(f"{folder / JOURNAL} names files outside its folder; remove it")
        return plan

    def carry_out(self, folder: Path) -> None:
        """Rename and remove what is still to be done; begun plans are carried on."""
        scratch = folder / self.scratch
        comes, waiting = (
            set(self.comes),
            {path.relative_to(scratch).as_posix() for path in _files(scratch)},
        )
        for name in self.goes:
            # What has come already bears the name of what has gone.
            if name not in comes or name in waiting:
                with contextlib.suppress(FileNotFoundError):
                    (folder / name).unlink()
                _remove_empty(folder, (folder / name).parent)
        for name in self.comes:
            if name in waiting:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _remove_empty_below(folder / name)
                (scratch / name).replace(folder / name)
        sync_folder(folder)
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (folder / JOURNAL).unlink()


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    try:
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=target))
    except OSError as error:
        raise OutputError.about(target, error, replaces=False) from error
    try:
        yield scratch
    finally:
        # With a journal the new files are on their way: whoever comes next finishes.
        if not (target / JOURNAL).exists():
            shutil.rmtree(scratch, ignore_errors=True)


def _about_target(
    error: OutputError, scratch: Path, target: Path, former: Iterable[str]
) -> OutputError:
    """The sentence as if the file had been written at its place."""
    place, found, _ = str(error).partition(" cannot be written")
    if not found or not place.startswith(str(scratch)):
        return error
    place = str(target) + place.removeprefix(str(scratch))
    return OutputError.about(place, error.reason, replaces=bool(files_below(target, former)))


def _commit(folder: Path, scratch: Path, former: Iterable[str]) -> None:
    new = list(_files(scratch))
    comes = [path.relative_to(scratch).as_posix() for path in new]
    goes = list(dict.fromkeys([*files_below(folder, former), *files_below(folder, comes)]))
    plan = _Plan(scratch.name, comes, goes)
    try:
        for path in new:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        write_text(folder / JOURNAL, json.dumps(vars(plan)) + "\n")
    except OSError as error:
        raise OutputError.about(folder, error, replaces=bool(goes)) from error
    try:
        plan.carry_out(folder)
    except OSError as error:
        raise OutputError(
            f"{folder}: the new files are all in {scratch.name}, but not all at their place "
            f"({why_not_written(error)}); the next eft-fast command on the folder puts them there"
        ) from error


def _put_in_order(folder: Path) -> None:
    plan = _Plan.read(folder)
    if plan is not None:
        plan.carry_out(folder)
    remove_partials(folder)
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()))


def _remove_empty(folder: Path, inner: Path) -> None:
    while inner != folder:
        try:
            inner.rmdir()
        except OSError:
            return
        inner = inner.parent


def _remove_empty_below(place: Path) -> None:
    """Remove a folder in which no file is left, where a file is to stand."""
    if place.is_dir() and not place.is_symlink():
        for inner in sorted(place.rglob("*"), reverse=True):
            inner.rmdir()
        place.rmdir()


def _take(place: Path, asked: str | os.PathLike[str]) -> IO[str]:
    """The open lock file of a folder, locked."""
    path = place / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if not _lock(file):
                raise FolderInUseError(
                    f"{os.fspath(asked)} is being written by another eft-fast ({_holder(file)}); "
                    "wait for its end, or name another folder"
                )
            # Between opening and locking, the former holder may have removed the file.
            if _is_at(file, path):
                file.seek(0)
                file.truncate()
                json.dump(
                    {
                        "process": os.getpid(),
                        "host": socket.gethostname(),
                        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                    },
                    file,
                )
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[str]) -> bool:
    """Try to lock an open file; without locks of the system, ask whether its holder is there."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        else:
            return True
    holder = _read_holder(file)
    if holder.get("host") != socket.gethostname():
        return not holder
    process = int(holder.get("process", 0))
    return process == os.getpid() or not is_alive(process)


def _read_holder(file: IO[str]) -> dict[str, Any]:
    """What the holder has written; nothing if it has just come."""
    try:
        file.seek(0)
        content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _holder(file: IO[str]) -> str:
    holder = _read_holder(file)
    if not holder:
        return "just started"
    place = "" if holder.get("host") == socket.gethostname() else f" on {holder.get('host')}"
    return f"process {holder.get('process')}{place} since {holder.get('since')}"


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
