"""Fits in our own shards: Parquet, a row per person, everything that a fit says; needs pyarrow.

Arrays are lists of fixed length with their shape in the field's metadata, so that floats come back
with the same bits, NaN included. What holds for all people stands in the schema's metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.data.formats.fits import Fits
from eft_fast.data.photos import natural_key
from eft_fast.files import make_folder, whole_file

_WHO: Final = "load_fits_parquet"
FORMAT: Final = "eft-fast-fits-parquet/1"
PEOPLE_PER_SHARD: Final = 1000
_FORMAT_KEY, _FACTS_KEY, _SHAPE_KEY = b"format", b"facts", b"shape"
#: Fields of ``Fits`` that are columns under their own names.
_ARRAYS: Final = (
    "rotmat", "betas", "pred_cam", "bbox_center", "bbox_scale", "keypoints_2d_px", "is_trusted",
    "cam_transl",
)  # fmt: skip
_TEXTS: Final = ("photos", "ids", "tracks", "regressor_ids", "genders")
#: Opens the columns of extras.
_EXTRA: Final = "fit."


def save_fits_parquet(
    path: str | Path, fits: Fits, *, people_per_shard: int = PEOPLE_PER_SHARD
) -> Path:
    """Write one file, if ``path`` ends with .parquet, else a folder of ``shard-00000.parquet`` ...

    A file is renamed to its name when it is whole.

    Raises:
        ModuleNotFoundError: If pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        _write(path, fits)
        return path
    make_folder(path)
    for number in range(max(1, math.ceil(len(fits) / people_per_shard))):
        start = number * people_per_shard
        rows = range(start, min(start + people_per_shard, len(fits)))
        _write(path / f"shard-{number:05d}.parquet", fits.take(list(rows)))
    return path


def load_fits_parquet(path: str | Path) -> Fits:
    """Read one file, or all of a folder in the order of their names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is not one of ours, or shards do not belong together.
        ModuleNotFoundError: If pyarrow is not installed.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet"), key=lambda file: natural_key(file.name))
    files = [path] if path.is_file() else files
    if not files:
        raise FileNotFoundError(f"{_WHO}: no .parquet file, or folder of them, {path}")
    parts = [_read(file) for file in files]
    facts = parts[0][1]
    for file, (_, other) in zip(files, parts, strict=True):
        if other != facts:
            raise ValueError(f"{_WHO}: {file} holds fits of another kind than {files[0]}")
    names = [set(columns) for columns, _ in parts]
    if any(columns != names[0] for columns in names):
        raise ValueError(f"{_WHO}: the shards of {path} have different columns")
    columns = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    return _to_fits(columns, facts)


def _columns(fits: Fits) -> dict[str, np.ndarray]:
    columns = {name: np.asarray(getattr(fits, name)) for name in _ARRAYS}
    columns |= {name: np.array(getattr(fits, name), np.str_) for name in _TEXTS}
    return columns | {_EXTRA + name: np.asarray(value) for name, value in fits.extras.items()}


def _write(path: Path, fits: Fits) -> None:
    pa, pq = _pyarrow()
    arrays, schema = [], []
    for name, values in _columns(fits).items():
        if values.dtype.kind == "U":
            arrays.append(pa.array(values.tolist(), pa.string()))
            schema.append(pa.field(name, pa.string()))
            continue
        shape = values.shape[1:]
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        kind = flat.type
        if shape:
            kind = pa.list_(flat.type, int(np.prod(shape)))
            flat = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
        arrays.append(flat)
        schema.append(pa.field(name, kind, metadata={_SHAPE_KEY: json.dumps(shape).encode()}))
    facts = json.dumps({**fits.facts, "joint_set": fits.joint_set}).encode()
    table = pa.Table.from_arrays(
        arrays, schema=pa.schema(schema, metadata={_FORMAT_KEY: FORMAT.encode(), _FACTS_KEY: facts})
    )
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=list(_TEXTS))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    pa, pq = _pyarrow()
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{_WHO}: {path} must be a Parquet file ({error})") from None
    said = table.schema.metadata or {}
    if said.get(_FORMAT_KEY) != FORMAT.encode():
        got = said.get(_FORMAT_KEY, b"none").decode("utf-8", "replace")
        raise ValueError(f"{_WHO}: {path} must be of format {FORMAT}, got {got}")
    columns = {}
    for item in table.schema:
        column = table.column(item.name).combine_chunks()
        if item.type == pa.string():
            columns[item.name] = np.array(column.to_pylist(), np.str_)
            continue
        shape = json.loads(item.metadata[_SHAPE_KEY])
        values = column.flatten() if shape else column
        columns[item.name] = values.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return columns, json.loads(said[_FACTS_KEY])


def _to_fits(columns: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> Fits:
    missing = [name for name in (*_ARRAYS, *_TEXTS) if name not in columns]
    if missing:
        raise ValueError(f"{_WHO}: the columns {', '.join(missing)} are missing")
    values: dict[str, Any] = {name: columns[name] for name in _ARRAYS}
    values |= {name: tuple(columns[name].tolist()) for name in _TEXTS}
    extras = {n.removeprefix(_EXTRA): v for n, v in columns.items() if n.startswith(_EXTRA)}
    rest = {name: value for name, value in facts.items() if name != "joint_set"}
    return Fits(joint_set=facts["joint_set"], extras=extras, facts=rest, **values)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Parquet files need pyarrow; install eft-fast[formats]", name="pyarrow"
        ) from None
    return pyarrow, pyarrow.parquet
