"""pytest benchmarks/bench_smpl.py --benchmark-only: the full mesh, ours and each peer."""

from __future__ import annotations

import pytest

from benchmarks.cases import SIZES, smpl_cases
from benchmarks.peers import QUICK


@pytest.mark.parametrize("who", ["eft_fast", *QUICK])
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("size", SIZES)
def test_mesh(benchmark, size: int, direction: str, who: str) -> None:
    others = [] if who == "eft_fast" else [who]
    (case,) = (c for c in smpl_cases(size, others) if c.name == f"mesh_{direction}")
    benchmark.group = f"mesh {direction}, {size} people"
    benchmark(case.ours if who == "eft_fast" else case.others[who])
