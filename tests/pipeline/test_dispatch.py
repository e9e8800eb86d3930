"""Which method people are fitted by: what is named, what the options belong to, the regressor."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import eft_fast
from eft_fast.body.smpl import Smpl
from eft_fast.models import error_covariance
from eft_fast.models.error_covariance import OPEN_COVARIANCE_PATH, read_error_covariance
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.dispatch import make_run, method_of_options
from eft_fast.pipeline.run import Run

EFT, MAP = eft_fast.EftConfig(), eft_fast.MapConfig()


@pytest.fixture(scope="module")
def body() -> Smpl:
    return eft_fast.load_body()


@pytest.fixture(scope="module")
def known() -> OpenRegressor:
    """The shipped regressor, whose usual error is known."""
    return eft_fast.load_regressor()


@pytest.fixture(scope="module")
def unknown() -> OpenRegressor:
    return OpenRegressor.make_tiny()


def run_of(regressor: OpenRegressor, body: Smpl, **options: object) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return make_run(regressor, body, **options)


@pytest.mark.parametrize(
    ("options", "method", "mode"),
    [
        ({}, "map", "residual"),
        ({"workers": 1}, "map", "residual"),
        ({"mode": "full"}, "eft", "full"),
        ({"mode": "head"}, "eft", "head"),
        ({"slots": 2}, "eft", "full"),
        ({"workers": 2}, "map", "residual"),
        ({"config": EFT}, "eft", "full"),
        ({"config": EFT, "mode": "head"}, "eft", "head"),
        ({"config": MAP}, "map", "residual"),
        ({"config": MAP, "mode": "full"}, "map", "residual"),
        ({"config": eft_fast.SmplifyConfig()}, "smplify_spin", "gmm"),
        ({"method": "eft"}, "eft", "full"),
        ({"method": "none", "config": EFT}, "none", "full"),
    ],
)
def test_a_known_regressor(known, body, options, method, mode) -> None:
    run = run_of(known, body, **options)
    assert (run.method, run.mode) == (method, mode)


def test_an_unknown_regressor_is_fitted_by_eft_and_says_why(unknown, body) -> None:
    with pytest.warns(UserWarning, match="default, needs the error covariance of .*") as told:
        run = make_run(unknown, body)
    assert (run.method, run.mode) == ("eft", "full")
    assert len(told) == 1
    assert "`eft-fast calibrate" in str(told[0].message)
    for options in ({"method": "eft"}, {"mode": "full"}, {"config": EFT}, {"method": "none"}):
        run_of(unknown, body, **options)


def test_the_warning_points_at_the_call(unknown, body) -> None:
    with pytest.warns(UserWarning, match="error covariance") as told:
        eft_fast.fit_batch([], np.zeros((0, 17, 3)), regressor=unknown, body=body)
    assert Path(told[0].filename) == Path(__file__)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "map", "mode": "head"}, "map tunes no weights, got mode 'head'"),
        ({"config": MAP, "mode": "head"}, "map tunes no weights, got mode 'head'"),
        ({"config": MAP, "slots": 2}, "map tunes no weights and takes no slots"),
        ({"method": "eft", "config": MAP}, "method eft takes an EftConfig, got MapConfig"),
        ({"method": "map", "config": EFT}, "method map takes a MapConfig, got EftConfig"),
        ({"config": {"lr": 1}}, "config must be an EftConfig, a MapConfig or .*, got dict"),
    ],
)
def test_conflicts_are_refused(known, body, options, words) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make_run(known, body, **options)


def test_options_are_refused_before_anything_is_loaded(monkeypatch) -> None:
    monkeypatch.setattr("eft_fast.pipeline.dispatch.load_regressor", None)
    with pytest.raises(ValueError, match="tunes no weights"):
        make_run(config=MAP, mode="head")
    assert method_of_options(None) is None


def test_the_shipped_covariance_is_read_once(known, monkeypatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> error_covariance.ErrorCovariance:
        read.append(path)
        return read_error_covariance(path)

    monkeypatch.setattr(error_covariance, "read_error_covariance", counted)
    error_covariance._read_open_covariance.cache_clear()
    first = error_covariance.find_error_covariance(known)
    second = error_covariance.load_error_covariance(known)
    assert first is second
    assert read == [OPEN_COVARIANCE_PATH]
    with pytest.raises(ValueError, match="read-only"):
        first.second_moment[0, 0] = 0
