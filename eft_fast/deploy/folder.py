"""The exported folder: what is in it, and how it comes to its place as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.files import save_npz, write_bytes, write_text
from eft_fast.folders import replaced_files
from eft_fast.serving.card import CARD_NAME, FIT_NAME, HASHES_NAME, SAMPLES_NAME, ModelCard

PARITY_NAME: Final = "parity.json"
#: What the gate of int8 and bf16 measured.
GATE_NAME: Final = "gate.json"
#: Before the names of people whom torch has fitted, see ``fit_data``.
FIT_SAMPLES: Final = "fit/"
_REPORTS: Final = (PARITY_NAME, HASHES_NAME)
#: Key of the crops in ``samples.npz``; the outputs stand beside it under their own names.
IMAGES: Final = "images"
#: Before an output's name: how far torch's answer in single precision is from the stored one.
ROUNDING: Final = "rounding/"


@contextmanager
def replaced_folder(out: str | Path) -> Iterator[Path]:
    """A scratch folder whose files come to ``out`` only if the block ends without an exception.

    Files of an earlier export go, those that nobody exported stay: an engine beside another model
    would answer for it.

    Raises:
        NotADirectoryError: If ``out`` is a file.
        FolderInUseError: If another process exports to it.
        OutputError: If it cannot be written.
    """
    target = Path(out).expanduser()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"export: {target} is a file; give a folder")
    with replaced_files(target, _exported(target)) as scratch:
        yield scratch


def _exported(target: Path) -> Iterator[str]:
    """Names of the files of an earlier export."""
    try:
        known = list(json.loads((target / HASHES_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = []
    for name in (*known, *_REPORTS):
        path = target / str(name)
        if path.is_file() and target.resolve() in path.resolve().parents:
            yield str(name)


def write_record(
    folder: Path,
    card: ModelCard,
    samples: Mapping[str, np.ndarray],
    fit_data: bytes | None = None,
) -> None:
    """Write what stands beside a model: card, samples, what fits need, and hashes of all files."""
    if fit_data is not None:
        write_bytes(folder / FIT_NAME, fit_data)
    write_text(folder / CARD_NAME, card.to_json())
    save_npz(folder / SAMPLES_NAME, samples)
    write_json(folder / HASHES_NAME, hash_files(folder))


def read_samples(folder: Path, name: str = SAMPLES_NAME) -> dict[str, np.ndarray]:
    """Read stored samples, whatever they are of.

    Args:
        folder: Where they are.
        name: Of their file.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are damaged.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"verify: no {name} in {folder}; run eft-fast export again")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except NUMPY_ERRORS as error:
        raise ValueError(f"verify: {path} is damaged ({type(error).__name__})") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file for people to read as well."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a folder, except of the reports on them."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if name.name in _REPORTS:
            continue
        found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
