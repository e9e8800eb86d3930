"""pytest benchmarks/bench_map.py --benchmark-only: the direct fit, ours and each peer."""

from __future__ import annotations

import pytest

from benchmarks.map import map_cases

CASES = {
    "map_coco17": ("torch", "scipy"),
    "map_spin49": ("torch", "scipy"),
    "map_fit_coco17": ("smplify_spin",),
}


@pytest.mark.parametrize(
    ("name", "who"), [(name, who) for name, peers in CASES.items() for who in ("eft_fast", *peers)]
)
@pytest.mark.parametrize("size", [1, 32, 256])
def test_map(benchmark, size: int, name: str, who: str) -> None:
    (case,) = (c for c in map_cases(size, []) if c.name == name)
    if who not in ("eft_fast", *case.others):
        pytest.skip(f"{who} is not installed")
    share = case.times.get(who, 1.0)
    benchmark.group = f"{name}, {size} people"
    benchmark.extra_info["times"] = share
    benchmark(case.ours if who == "eft_fast" else case.others[who])
