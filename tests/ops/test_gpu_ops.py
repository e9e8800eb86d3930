"""The cases that tools/gpu_ops.py times on a GPU: here they run once on the CPU, and agree."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def gpu_ops(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("smplx")
    path = Path(__file__).resolve().parents[2] / "tools" / "gpu_ops.py"
    spec = importlib.util.spec_from_file_location("gpu_ops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DEVICE", "cpu")
    monkeypatch.setattr(module, "COMPILED", ())
    monkeypatch.setattr(module, "graphed", lambda call: call)
    monkeypatch.setattr(module, "choose_arithmetic", lambda name: None)
    return module


def test_every_case_runs_and_implementations_agree(gpu_ops):
    results: dict[str, list[tuple[str, list[torch.Tensor]]]] = {}
    for case, who, call in gpu_ops.cases(2):
        results.setdefault(case, []).append((who, [t.detach() for t in call()]))
    expected = {"eft_fast", "plain torch", "smplx"}
    for case in ("points forward", "points forward+backward"):
        assert {who for who, _ in results[case]} == expected
    assert {who for who, _ in results["mesh forward"]} == {
        "eft_fast float32", "eft_fast 3xtf32", "plain torch", "smplx"
    }  # fmt: skip
    for case, implementations in results.items():
        _, first = implementations[0]
        for who, values in implementations[1:]:
            # smplx is called without a translation: the forward differs by it, and has no gradient.
            if who == "smplx" and not case.endswith("backward"):
                shift = (first[0] - values[0]).mean(1, keepdim=True)
                values = [value + shift for value in values]
            for got, want in zip(values, first, strict=False):
                scale = float(want.abs().max().clamp(min=1))
                assert float((got - want).abs().max()) < 2e-5 * scale, (case, who)
