"""Time for the fuzzers: a second each, or as many as EFT_FAST_FUZZ_SECONDS says (``make fuzz``).

``pytest -rP`` says how many rounds that were.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def rounds() -> Callable[[], Iterator[random.Random]]:
    """Seeded generators, one a round, until the time is over."""
    seconds = float(os.environ.get("EFT_FAST_FUZZ_SECONDS", "1"))
    first = int(os.environ.get("EFT_FAST_FUZZ_SEED", "0"))

    def run() -> Iterator[random.Random]:
        end = time.monotonic() + seconds
        number = first
        while time.monotonic() < end:
            yield random.Random(number)
            number += 1
        print(f"{number - first} rounds")

    return run
