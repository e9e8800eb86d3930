"""One file of fits of all shards, written with the memory of one."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from eft_fast.files import whole_file


def assemble_fits(shards: Sequence[Path], out: Path) -> None:
    """Write the fits of shards as one file that ``FitResult.load`` reads, people in their order.

    A field is written a shard at a time, so that memory does not grow with the people.

    Raises:
        ValueError: If shards do not hold the same fields.
    """
    with np.load(shards[0], allow_pickle=False) as first:
        names = list(first.files)
        single = {name: first[name] for name in names if first[name].ndim == 0}
    with whole_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if name in single:
                    np.lib.format.write_array(member, single[name], allow_pickle=False)
                    continue
                kind, shape = _layout(shards, name)
                header = np.lib.format.header_data_from_array_1_0(np.empty(0, kind))
                np.lib.format.write_array_header_1_0(member, {**header, "shape": shape})
                for part in _parts(shards, name):
                    member.write(np.ascontiguousarray(part, kind).tobytes())


def _layout(shards: Sequence[Path], name: str) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Type and shape of a field over all shards; texts are as long as the longest."""
    kinds, count, tail = [], 0, None
    for part in _parts(shards, name):
        kinds.append(part.dtype)
        count += len(part)
        if tail is not None and part.shape[1:] != tail:
            raise ValueError(
                f"fit: {name} must have rows of {list(tail)} in all shards, got "
                f"{list(part.shape[1:])}; give --restart"
            )
        tail = part.shape[1:]
    assert tail is not None
    return np.result_type(*kinds), (count, *tail)


def _parts(shards: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    for path in shards:
        with np.load(path, allow_pickle=False) as file:
            if name not in file.files:
                raise ValueError(f"fit: {path} holds no {name} as the other shards; give --restart")
            yield file[name]
