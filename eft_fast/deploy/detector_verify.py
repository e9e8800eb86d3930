"""Check an exported detector against torch's stored answers, with or without torch at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from eft_fast.deploy.folder import read_samples
from eft_fast.deploy.graph_checks import graph_faults
from eft_fast.serving.card import SAMPLES_NAME
from eft_fast.serving.detector import PersonFinder
from eft_fast.serving.detector_card import BOXES_NAME, DETECTOR_FOLDER, KEYPOINTS_NAME

#: Names of the stored pictures, before a number, and of the stored crops.
PICTURE: Final = "picture"
CROPS: Final = "crops"
#: Before the name of what was seen: what torch answered.
ANSWER: Final = "answer/"
#: Largest differences that may pass: what is said of cells, in cells, logs and probabilities; and
#: keypoints in crop pixels, with their scores.
TOLERANCES: Final[Mapping[str, float]] = {"cells": 1e-3, "keypoints_px": 0.05, "scores": 1e-3}


def verify_detector(
    folder: Path, *, provider: str, threads: int | None, problems: list[str], checks: dict[str, str]
) -> dict[str, float]:
    """Check the detector of an exported folder, if it has one.

    Args:
        folder: The exported folder.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads on the CPU.
        problems: Gets a sentence about everything that is wrong.
        checks: Gets what was checked.

    Returns:
        The largest differences, as ``TOLERANCES``; empty without a detector.
    """
    place = folder / DETECTOR_FOLDER
    if not place.is_dir():
        return {}
    found: list[str] = []
    worst: dict[str, float] = {}
    try:
        samples = _load_samples(place)
        finder = PersonFinder(folder, provider=provider, threads=threads)
        worst = compare_detector(finder, samples)
        found += detector_problems(worst)
        for name in (BOXES_NAME, KEYPOINTS_NAME):
            found += graph_faults(place / name, finder.card.opset, f"{place.name}/{name}")
    except (OSError, ValueError) as error:
        found.append(str(error))
    problems += found
    checks["detector"] = "failed" if found else "passed"
    return worst


def compare_detector(finder: PersonFinder, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest differences to torch's answers; crops are run together and one by one."""
    pictures = [name for name in samples if name.startswith(PICTURE)]
    cells = [
        _farthest(finder.run(BOXES_NAME, samples[name]), samples[ANSWER + name])
        for name in pictures
    ]
    crops, expected = samples[CROPS], samples[ANSWER + CROPS]
    alone = np.concatenate([finder.run(KEYPOINTS_NAME, crop[None]) for crop in crops])
    answers = (finder.run(KEYPOINTS_NAME, crops), alone)
    return {
        "cells": max(cells),
        "keypoints_px": max(_farthest(got[..., :2], expected[..., :2]) for got in answers),
        "scores": max(_farthest(got[..., 2], expected[..., 2]) for got in answers),
    }


def detector_problems(worst: Mapping[str, float]) -> list[str]:
    """Sentences on differences that may not pass."""
    over = [name for name, limit in TOLERANCES.items() if not worst[name] <= limit]
    listed = ", ".join(f"{name} {worst[name]:.2g} (at most {TOLERANCES[name]:g})" for name in over)
    return [f"the detector's answers differ from torch: {listed}"] if over else []


def _farthest(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; infinite for another shape, or where something is not a number."""
    if got.shape != expected.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(got - expected), nan=np.inf).max())


def _load_samples(place: Path) -> dict[str, np.ndarray]:
    samples = read_samples(place)
    seen = [name for name in samples if not name.startswith(ANSWER)]
    is_whole = CROPS in seen and len(seen) > 1 and all(ANSWER + name in samples for name in seen)
    if not is_whole:
        raise ValueError(
            f"verify: {place / SAMPLES_NAME} lacks pictures or answers; run eft-fast export again"
        )
    return samples
