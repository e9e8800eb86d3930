"""pytest benchmarks/bench_points.py --benchmark-only: 49 keypoints and the fused loss."""

from __future__ import annotations

import pytest

from benchmarks.cases import SIZES, points_cases
from benchmarks.peers import QUICK

CASES = ("points49_forward", "points49_forward_backward", "keypoint_loss_fused")


@pytest.mark.parametrize("who", ["eft_fast", *QUICK])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_points(benchmark, size: int, name: str, who: str) -> None:
    if name == "keypoint_loss_fused" and who != "eft_fast":
        pytest.skip("peers have no such call: points49_forward_backward is theirs")
    others = [] if who == "eft_fast" else [who]
    (case,) = (c for c in points_cases(size, others) if c.name == name)
    benchmark.group = f"{name}, {size} people"
    benchmark(case.ours if who == "eft_fast" else case.others[who])
