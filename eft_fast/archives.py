"""Archives of strangers: how large they are, before anything is unpacked."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from typing import Final

#: What numpy and zipfile raise of a damaged, encrypted or foreign .npz or .npy, MemoryError of a
#: shape that no file holds among them: they have no common base.
NUMPY_ERRORS: Final = (
    ValueError, OSError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError,
    RuntimeError, MemoryError, SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def check_unpacked(path: str | os.PathLike[str], most: int, who: str) -> None:
    """Raise ValueError for a zip file that unpacks to more than ``most`` bytes.

    The sizes are those that the archive states; no reader of it unpacks more of a member. What is
    no zip file is left to its reader.

    Args:
        path: The file.
        most: Bytes of all members together.
        who: Opens the sentence of the error.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
    except NUMPY_ERRORS:
        return
    if size > most:
        raise ValueError(
            f"{who}: expected an archive of at most {most} bytes unpacked, got {size} in {path}"
        )
