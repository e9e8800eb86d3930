"""The numbers of a run, as ``--json`` prints them: gathered a part of the people at a time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from eft_fast.evaluation.metrics import pck
from eft_fast.pseudo_gt import select_fits
from eft_fast.result import FitResult


@dataclass
class RunTotals:
    """Sums over the people of a run; ``add`` takes the next of them."""

    people: int = 0
    stop_reasons: Counter[str] = field(default_factory=Counter)
    selection: dict[str, Any] = field(default_factory=dict)
    _sums: Counter[str] = field(default_factory=Counter)
    _counts: Counter[str] = field(default_factory=Counter)
    _facts: dict[str, str] = field(default_factory=dict)
    _messages: int = 0
    _hypotheses: Counter[str] = field(default_factory=Counter)

    def add(self, result: FitResult, boxes: np.ndarray) -> None:
        """Count people; ``boxes`` [N, 4] are theirs, x, y, width, height in photo pixels."""
        self.people += len(result)
        self.stop_reasons.update(result.stop_reason)
        _add_counts(self.selection, select_fits(result).statistics())
        size = torch.from_numpy(boxes[:, 2] * boxes[:, 3]).sqrt().float()
        for name, which in (("init_pck_0.1", "init"), ("pck_0.1", "final")):
            distance = result.keypoint_distances(which)
            count = int((~distance.isnan()).sum())
            self._count(name, pck(distance, size) * count if count else 0.0, count)
        for name in ("init_kp_error_px", "kp_error_px"):
            self._mean(name, getattr(result, name))
        if result.person_confidence is not None:
            self._mean("confidence", result.person_confidence)
        self._hypotheses.update(filter(None, result.hypothesis))
        self._messages += sum(bool(text) for text in result.message)
        self._facts = {
            "method": result.method,
            "mode": result.mode,
            "body": result.body_id,
            "regressor": result.regressor_id,
            "run_id": result.run_id,
        }

    def summary(
        self,
        *,
        seconds: float,
        fitted: int,
        left_out: dict[str, int],
        problems: list[str],
        source: str,
    ) -> dict[str, Any]:
        """The summary; ``fitted`` people took ``seconds``."""
        return {
            "people": self.people,
            "init_kp_error_px": self._get("init_kp_error_px"),
            "kp_error_px": self._get("kp_error_px"),
            "init_pck_0.1": self._get("init_pck_0.1"),
            "pck_0.1": self._get("pck_0.1"),
            "seconds": seconds,
            "fits_per_second": fitted / seconds,
            "confidence": self._get("confidence") if "confidence" in self._counts else None,
            "with_message": self._messages,
            "stop_reasons": dict(self.stop_reasons),
            "hypotheses": dict(self._hypotheses),
            "selection": self.selection,
            "left_out": left_out,
            "problems": problems,
            **self._facts,
            "keypoints": source,
        }

    def _mean(self, name: str, values: torch.Tensor) -> None:
        known = values[~values.isnan()].double()
        self._count(name, float(known.sum()), len(known))

    def _count(self, name: str, total: float, count: int) -> None:
        # Counters take any number; a mean without people is NaN.
        self._sums[name] += total  # type: ignore[assignment]
        self._counts[name] += count

    def _get(self, name: str) -> float:
        return self._sums[name] / self._counts[name] if self._counts[name] else math.nan


def _add_counts(total: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the numbers of nested tables."""
    for name, value in more.items():
        if isinstance(value, dict):
            _add_counts(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value
