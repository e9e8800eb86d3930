"""Archives of strangers: how large they are, before anything is unpacked."""

from __future__ import annotations

import os
import zipfile


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
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return
    if size > most:
        raise ValueError(
            f"{who}: expected an archive of at most {most} bytes unpacked, got {size} in {path}"
        )
