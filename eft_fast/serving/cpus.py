"""How many processors this program may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path


def usable_cpus(read: Callable[[str], str | None] | None = None) -> int:
    """Processors that this program may use: affinity, and the quota of its container.

    Args:
        read: Reads a file of the system, or gives None; for tests.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cpu_quota(read or _read_system_file)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _cpu_quota(read: Callable[[str], str | None]) -> float | None:
    """Processors that the control group grants; None without a limit."""
    second = read("/sys/fs/cgroup/cpu.max")
    if second is not None:
        limit, _, period = second.partition(" ")
    else:
        limit = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def _read_system_file(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
