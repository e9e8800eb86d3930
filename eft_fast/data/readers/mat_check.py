"""A look over the elements of a MATLAB file before scipy reads it: scipy takes their word."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

#: Types of elements (MAT-File Format, "Data Types"): numbers and text, a matrix, a compressed one.
_PLAIN: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18})
_MATRIX, _COMPRESSED = 14, 15
_HEADER: Final = 128
#: Bytes that the compressed variables of a file may unfold to, all together.
MAX_UNPACKED: Final = 2**31
#: Matrices inside of one another: a cell of a structure of a cell ...
MAX_DEPTH: Final = 64


def check_mat(path: Path) -> None:
    """Refuse a MATLAB file of version 5 whose elements do not lie inside one another.

    scipy looks an element's type up in a table of 20 without asking whether it is there, so that
    one changed byte ends the process; lengths are what it allocates. Files of other versions are
    left to it.

    Raises:
        ValueError: If an element is of an unknown type, or longer than what holds it; if the file
            unfolds to more than ``MAX_UNPACKED`` bytes; if matrices are nested too deeply.
    """
    data = path.read_bytes()
    if len(data) < _HEADER or 0 in data[:4] or data[126:128] not in (b"IM", b"MI"):
        return
    order = "<" if data[126:128] == b"IM" else ">"
    # The major version, in whichever byte it stands.
    if struct.unpack_from(order + "H", data, 124)[0] >> 8 != 1:
        return
    _check_elements(memoryview(data)[_HEADER:], order, [MAX_UNPACKED], depth=0)


def _check_elements(data: memoryview, order: str, left: list[int], depth: int) -> None:
    """Walk over elements that follow one another; ``left`` counts down what may be unfolded."""
    if depth > MAX_DEPTH:
        raise ValueError(f"matrices inside of one another more than {MAX_DEPTH} times")
    tags, place, end = struct.Struct(order + "II"), 0, len(data)
    while end - place >= 8:
        kind, length = tags.unpack_from(data, place)
        start = place + 8
        if kind >> 16:  # up to 4 bytes, in the tag itself
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
            if length > 4:
                raise ValueError(f"a small element of {length} bytes")
        else:
            # Whatever is compressed is not padded.
            place = start + (length if kind == _COMPRESSED else (length + 7) // 8 * 8)
        if start + length > end:
            raise ValueError(f"an element of {length} bytes where {max(0, end - start)} are left")
        inside = data[start : start + length]
        if kind == _COMPRESSED and depth == 0:
            _check_elements(memoryview(_unpack(inside, left)), order, left, depth + 1)
        elif kind == _MATRIX:
            _check_elements(inside, order, left, depth + 1)
        elif kind not in _PLAIN:
            raise ValueError(f"an element of the unknown type {kind}")


def _unpack(data: memoryview, left: list[int]) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, left[0])
    except zlib.error as error:
        raise ValueError(f"a compressed element that is damaged: {error}") from None
    left[0] -= len(unpacked)
    if stream.unconsumed_tail or left[0] <= 0:
        raise ValueError(f"it unfolds to more than {MAX_UNPACKED} bytes")
    return unpacked
