"""Files that are there whole or not at all, whatever the moment at which a process ends.

A file is written under a partial name in its own folder, brought to the disk, and renamed: a
reader finds the former file or the new one, never a part. What a killed process leaves are partial
names alone, which ``remove_partials`` takes away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

#: Ends every partial name; before it stand host, process and a number that is drawn.
PARTIAL: Final = ".partial"
#: Letters of a name that a partial name keeps: file systems allow 255 bytes.
_KEPT: Final = 100


class OutputError(OSError):
    """Something could not be written. The sentence says what, why, and what is still there.

    Attributes:
        reason: Why, as the system says it.
    """

    reason: str = ""

    @classmethod
    def about(
        cls, path: str | os.PathLike[str], reason: OSError | str, *, replaces: bool
    ) -> OutputError:
        """The usual sentence; ``replaces``: whether there was something before."""
        said = why_not_written(reason) if isinstance(reason, OSError) else reason
        had = "what was there before is as it was" if replaces else "nothing was left there"
        error = cls(f"{os.fspath(path)} cannot be written ({said}); {had}")
        error.reason = said
        return error


def why_not_written(error: OSError) -> str:
    """The reason in words: ``No space left on device``."""
    if isinstance(error, OutputError) and error.reason:
        return error.reason
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write; it takes its place when the block ends, unless by an exception.

    A link stays a link: the file that it names is replaced. What is no ordinary file, such as
    ``/dev/stdout``, is written as it is.

    Args:
        path: Where the file comes to; its folder has to be there.

    Raises:
        OutputError: If it cannot be written; what was there before is as it was.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        with _told(path), place.open("wb") as stream:
            yield stream
        return
    partial = _partial_name(place)
    try:
        with _told(path):
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                partial.chmod(stat.S_IMODE(place.stat().st_mode))
            partial.replace(place)
            sync_folder(place.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: str | os.PathLike[str], text: str, *, errors: str = "strict") -> None:
    """Write a text in UTF-8, whole or not at all; ``errors`` as of ``str.encode``."""
    write_bytes(path, text.encode("utf-8", errors))


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes, whole or not at all."""
    with whole_file(path) as file:
        file.write(data)


def save_npz(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], *, compressed: bool = True
) -> None:
    """Write arrays as .npz, whole or not at all; the name stays as it is given."""
    with whole_file(path) as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def safe_stem(name: str) -> str:
    """A file name for any system: letters, digits and a few signs, not too long."""
    return re.sub(r"[^\w.-]", "_", Path(name).stem)[:80] or "photo"


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder to write files to; from one that is there, what killed processes left goes."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    remove_partials(folder)


def remove_partials(folder: str | os.PathLike[str]) -> None:
    """Remove what processes of this machine left that are no longer there."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(PARTIAL)]
    except OSError:
        return
    for name in names:
        host, _, process = name.removesuffix(PARTIAL).rpartition(".")[2].partition("-")
        number = process.partition("-")[0]
        if host == _host() and number.isdigit() and not is_alive(int(number)):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def is_alive(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where the system can do that for folders."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC):
            raise
    finally:
        os.close(number)


def _partial_name(place: Path) -> Path:
    kept = os.fsencode(place.name)[:_KEPT].decode("utf-8", "replace").replace("\ufffd", "_")
    token = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return place.with_name(f".{kept}.{token}{PARTIAL}")


def _host() -> str:
    """This machine, as it stands in names: process numbers of another one say nothing here."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says into a sentence about the file that was asked for."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError.about(path, error, replaces=os.path.exists(path)) from error
