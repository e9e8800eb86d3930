"""A run by map of two people of the shipped sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eft_fast.api import load_body, load_regressor
from eft_fast.cli import main
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.refit import Refitter
from eft_fast.pseudo_gt import person_keys
from eft_fast.result import FitResult
from eft_fast.review import ReviewSession

SAMPLE = Path(__file__).resolve().parents[2] / "eft_fast" / "assets" / "demo"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "fits"
    arguments = ["fit", str(SAMPLE), "--annotations", str(SAMPLE / "people.json"), "--no-pictures"]
    assert main([*arguments, "--method", "map", "--quiet", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def refitter():
    return Refitter(load_regressor(), load_body(), MapConfig())


@pytest.fixture
def run(made, tmp_path):
    """The files of the run in a folder of their own."""
    folder = tmp_path / "fits"
    folder.mkdir()
    for name in ("fits.npz", "people.json", "run.json"):
        (folder / name).write_bytes((made / name).read_bytes())
    return folder


@pytest.fixture
def open_session(run, refitter):
    def open_session() -> ReviewSession:
        result = FitResult.load(run / "fits.npz")
        keys = person_keys(result.photo, result.id, len(result))
        return ReviewSession(result, result.photo, keys, run, lambda: refitter)

    return open_session


@pytest.fixture
def read_edits(run):
    return lambda: json.loads((run / "review" / "edits.json").read_text())["people"]
