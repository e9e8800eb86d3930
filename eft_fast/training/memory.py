"""Keep freed memory in the process: large maps come and go with every update."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

#: Parameters of glibc's ``mallopt``, from malloc.h.
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
#: Blocks up to this size come from the heap; glibc takes no larger value.
_LARGEST_BLOCK: Final = 32 << 20
_PAD: Final = 256 << 20


def keep_freed_memory() -> bool:
    """Stop the allocator from giving large blocks back to the system after every use.

    Each return costs page faults at the next use: on a virtual machine they took half the time of
    the convolutions on large maps. Holds for the whole process; the memory in use is at its peak
    either way.

    Returns:
        Whether it could be done: only with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    values = (
        (_MMAP_THRESHOLD, _LARGEST_BLOCK),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, _PAD),
    )
    return all(mallopt(name, value) == 1 for name, value in values)
