"""The exporter is slow: what it gave for a network is kept for the next test with that network."""

from __future__ import annotations

import copy

import pytest

from eft_fast.deploy import onnx_export
from eft_fast.deploy.graph import HalfTrunk


@pytest.fixture(scope="session")
def _graphs() -> dict:
    return {}


@pytest.fixture(autouse=True)
def _exporter_that_remembers(monkeypatch, _graphs) -> None:
    real = onnx_export.to_onnx

    def to_onnx(graph, card):
        key = (card.weights_sha256, tuple(card.outputs), card.precision, card.opset, card.body)
        assert isinstance(graph.regressor, HalfTrunk) == (card.precision == "fp16")
        if key not in _graphs:
            _graphs[key] = real(graph, card)
        return copy.deepcopy(_graphs[key])

    monkeypatch.setattr(onnx_export, "to_onnx", to_onnx)
