"""Paths of the command line, checked before anything is loaded."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from eft_fast.cli.choices import REGRESSORS
from eft_fast.cli.output import UsageError
from eft_fast.conventions import COVARIANCE_SUFFIX
from eft_fast.files import remove_partials, why_not_written
from eft_fast.folders import FolderInUseError, locked_folder

#: Bytes that a disk has to take before anything is loaded.
_TRIED: Final = 65536


def check_file(option: str, path: str | Path) -> None:
    """Raise unless there is such a file and it can be read."""
    file = Path(path)
    if not file.is_file():
        found = "got a folder" if file.is_dir() else "there is none"
        raise UsageError(f"{option} must be a file, {found}: {path}")
    _try_to_open(option, file)


def check_folder(option: str, path: str | Path) -> None:
    """Raise unless there is such a folder."""
    if not Path(path).is_dir():
        found = "got a file" if Path(path).is_file() else "there is none"
        raise UsageError(f"{option} must be a folder, {found}: {path}")


def check_render_sources(options: argparse.Namespace) -> None:
    """Raise unless the folders of ``options.add_render_sources`` that were given are there."""
    for name in ("motion", "backgrounds"):
        if getattr(options, name) is not None:
            check_folder(f"--{name}", getattr(options, name))


def check_annotations(path: str, option: str = "--annotations") -> None:
    """Raise unless the file or folder is there; it may be ``reader:path``."""
    file = Path(path)
    if not file.exists():
        file = Path(path.partition(":")[2] or path)
    if not file.exists():
        raise UsageError(f"{option} must be a file or folder, there is none: {path}")
    if file.is_file():
        _try_to_open(option, file)


def check_regressor(source: str) -> None:
    """Raise unless it is ``open``, one that ships by its id, or a file."""
    if source in REGRESSORS:
        return
    if not Path(source).exists():
        known = ", ".join(REGRESSORS)
        raise UsageError(f"--regressor must be one of {known}, or a file, got {source}")
    check_file("--regressor", source)


def find_covariance(options: argparse.Namespace) -> str | None:
    """The file of the regressor's usual error: as given, else that beside the weights."""
    if options.covariance is not None or options.regressor in REGRESSORS:
        return None if options.covariance is None else str(options.covariance)
    beside = Path(options.regressor).with_suffix(COVARIANCE_SUFFIX)
    return str(beside) if beside.is_file() else None


def check_body(source: str) -> None:
    """Raise unless it is ``open`` or a file, here or in the folder EFT_FAST_MODELS."""
    folder = os.environ.get("EFT_FAST_MODELS")
    if source == "open" or (folder and (Path(folder).expanduser() / source).is_file()):
        return
    check_file("--body", Path(source).expanduser())


def is_one_folder(paths: Sequence[Path]) -> bool:
    """Whether one folder was given, in which annotations then name the photos."""
    return len(paths) == 1 and paths[0].is_dir()


def _try_to_open(option: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{option} cannot be read ({error.strerror}): {file}") from None


@contextmanager
def output_folder(path: Path, option: str = "--out") -> Iterator[Path]:
    """Make a folder, lock it, and try to write in it; one that is made here and stays empty goes.

    Raises:
        UsageError: If it is a file, cannot be made or written, or another process writes it.
    """
    with _made_folder(path, option):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(path))
            except FolderInUseError as error:
                raise UsageError(f"{option} {error}") from None
            except OSError as error:
                raise _cannot_be_written(option, path, error) from None
            yield path


@contextmanager
def _made_folder(path: Path, option: str) -> Iterator[Path]:
    made: list[Path] = []
    try:
        if path.is_file():
            raise UsageError(f"{option} must be a folder, got the file {path}")
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            # A full disk still makes files; it takes nothing into them.
            file.write(bytes(_TRIED))
            file.flush()
    except OSError as error:
        _remove_empty(made)
        raise _cannot_be_written(option, path, error) from None
    try:
        yield path
    finally:
        _remove_empty(made)


def _cannot_be_written(option: str, path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{option} cannot be written ({why_not_written(error)}): {path}; nothing was changed; "
        "choose another folder"
    )


@contextmanager
def output_file(path: Path, option: str = "--out") -> Iterator[Path]:
    """The same for a file: its folder is made, and what it holds stays until it is written.

    Raises:
        UsageError: If it is a folder, or cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{option} must be a file, got the folder {path}")
    with _made_folder(path.parent, option) as folder:
        remove_partials(folder)
        if path.exists():
            try:
                if path.is_file():
                    with path.open("ab"):
                        pass
            except OSError as error:
                raise UsageError(f"{option} cannot be written ({error.strerror}): {path}") from None
        yield path


def _remove_empty(made: Sequence[Path]) -> None:
    """Remove folders, the deepest first, as far as they are empty."""
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            return
