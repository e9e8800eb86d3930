from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Faults of 20 rounds of a 16 MB tensor, after a first one.
_PROGRAM = """
import resource, sys, torch
from eft_fast.training.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    # Of different sizes, so that the allocator's own adaption does not help.
    for mega in (16, 20, 24, 28):
        torch.ones(mega << 18).add(1)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_kept_memory_is_not_faulted_in_again() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults("keep") < 0.2 * faults("plain")
