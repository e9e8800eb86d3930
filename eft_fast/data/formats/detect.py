"""Which format of fits a file or folder is, and how each is read into ``Fits``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from eft_fast.data.formats.eft_json import eft_records_to_fits, load_eft_json
from eft_fast.data.formats.eft_pickle import eft_pickles_to_fits, load_eft_pickles
from eft_fast.data.formats.fits import Fits
from eft_fast.data.formats.fits_parquet import load_fits_parquet
from eft_fast.data.formats.hmr2_tar import hmr2_photos_to_fits, load_hmr2_tars
from eft_fast.data.formats.humandata_npz import humandata_to_fits, load_humandata_npz
from eft_fast.data.formats.spin_npz import load_spin_npz, spin_labels_to_fits
from eft_fast.data.values import expected_form

#: Formats that hold people in photos. Motions (``amass-npz``, ``smpl``) have no photos, and our own
#: ``npz`` is ``FitResult``'s.
LOADERS: Final[Mapping[str, Callable[[Path], Fits]]] = {
    "eft-json": lambda path: eft_records_to_fits(load_eft_json(path)),
    "eft-pickle": lambda path: eft_pickles_to_fits(load_eft_pickles(path)),
    "spin-npz": lambda path: spin_labels_to_fits(load_spin_npz(path)),
    "hmr2-tar": lambda path: hmr2_photos_to_fits(load_hmr2_tars(path, with_images=False)),
    "humandata-npz": lambda path: humandata_to_fits(load_humandata_npz(path)),
    "parquet": load_fits_parquet,
}
#: Bytes at the start of a JSON by which EFT's is told.
_HEAD: Final = 65536


def load_foreign(path: Path, kind: str) -> Fits:
    """Read fits in one of ``LOADERS``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not in that format.
    """
    with expected_form(f"load_fits, {kind}", path):
        return LOADERS[kind](path)


def find_format(path: str | Path) -> str | None:
    """Name the format of fits that a file or folder is in, at a glance; None: none of ours.

    Nothing is raised, whatever the path is.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _of_folder(path)
        if not path.is_file():
            return None
        by_ending = {
            ".parquet": "parquet", ".tar": "hmr2-tar", ".smpl": "smpl", ".pkl": "eft-pickle",
        }  # fmt: skip
        ending = path.suffix.lower()
        if ending in by_ending:
            return by_ending[ending]
        if ending == ".npz":
            return _of_npz(path)
        return "eft-json" if ending == ".json" and _is_eft_json(path) else None
    except (OSError, ValueError):
        return None


def _of_folder(path: Path) -> str | None:
    if (path / "fits.npz").is_file():
        return "npz"
    endings = {entry.suffix.lower() for entry in path.iterdir() if not entry.name.startswith(".")}
    for ending, name in ((".parquet", "parquet"), (".tar", "hmr2-tar"), (".pkl", "eft-pickle")):
        if ending in endings:
            return name
    return None


def _of_npz(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except zipfile.BadZipFile:
        return None
    if {"format", "global_orient", "pred_cam"} <= names:
        return "npz"
    if {"imgname", "part", "center", "scale"} <= names:
        return "spin-npz"
    if {"image_path", "smpl"} <= names:
        return "humandata-npz"
    return "amass-npz" if {"poses", "trans"} <= names else None


def _is_eft_json(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", "replace")
    if '"parm_pose"' in head:
        return True
    if len(head) < _HEAD:
        try:
            document = json.loads(head)
        except ValueError:
            return False
        return isinstance(document, dict) and {"ver", "data"} <= set(document)
    return False
