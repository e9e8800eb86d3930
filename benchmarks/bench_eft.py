"""pytest benchmarks/bench_eft.py --benchmark-only: one person's fit, original and every mode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import peers
from benchmarks.eft import CONFIG, NETWORKS, OriginalEft, fit_all, make_jobs, make_regressor
from eft_fast.eft.config import EFT_MODES
from eft_fast.eft.loop import LoopFitter

#: Enough for updates to weigh as they do in a whole fit; compare.py times whole ones.
STEPS = 5


@pytest.mark.parametrize("who", ["original", *EFT_MODES])
@pytest.mark.parametrize("network", NETWORKS)
def test_fit(benchmark, network: str, who: str) -> None:
    regressor = make_regressor(network)
    config = replace(CONFIG, max_steps=STEPS)
    jobs = make_jobs(regressor, 1)
    benchmark.group = f"{network}, {STEPS} steps"
    if who == "original":
        if "smplx" not in peers.installed():
            pytest.skip("smplx is not installed")
        original = OriginalEft(regressor, config)
        benchmark.pedantic(original.fit, (jobs[0],), rounds=3, warmup_rounds=1)
        return
    fitter = LoopFitter(regressor, peers.body(), config=config, mode=who)
    benchmark.pedantic(fit_all, (fitter, jobs), rounds=3, warmup_rounds=1)
