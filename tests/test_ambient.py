"""What a program has set in torch changes no fit: the same bits, or one sentence at the door."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.eft.config import EftConfig
from eft_fast.ops.ambient import plain_torch

PHOTO = np.random.default_rng(0).integers(0, 255, (120, 100, 3), dtype=np.uint8)
KEYPOINTS = np.concatenate(
    [np.random.default_rng(1).uniform(20, 90, (1, 17, 2)), np.ones((1, 17, 1))], -1
)


@pytest.fixture(scope="module")
def regressor():
    return eft_fast.load_regressor()


def fit(regressor, **options):
    return eft_fast.fit_batch(
        [PHOTO], KEYPOINTS, mode="head", regressor=regressor, config=EftConfig(max_steps=2),
        progress=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(regressor):
    return fit(regressor)


@contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AMBIENT: dict[str, Callable[[], AbstractContextManager]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": float64,
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", AMBIENT)
def test_fits_do_not_depend_on_the_callers_state(regressor, expected, name):
    with AMBIENT[name]():
        before = torch.get_default_dtype(), torch.is_inference_mode_enabled()
        found = fit(regressor)
        (streamed,) = eft_fast.fit_stream(
            [(PHOTO, KEYPOINTS[0])], mode="head", regressor=regressor,
            config=EftConfig(max_steps=2), progress=False,
        )  # fmt: skip
        assert (torch.get_default_dtype(), torch.is_inference_mode_enabled()) == before
    for result in (found, streamed):
        assert torch.equal(result.pred_cam, expected.pred_cam)
        assert torch.equal(result.params.betas, expected.params.betas)


def test_what_is_loaded_under_inference_mode_can_be_fitted(expected):
    with torch.inference_mode(), float64():
        regressor, body = eft_fast.load_regressor(), eft_fast.load_body()
    assert torch.equal(fit(regressor, body=body).pred_cam, expected.pred_cam)


def test_settings_come_back_after_an_error():
    with float64(), torch.inference_mode():
        with contextlib.suppress(ZeroDivisionError), plain_torch():
            assert torch.zeros(1).dtype == torch.float32
            _ = 1 / 0
        assert torch.is_inference_mode_enabled()
        assert torch.zeros(1).dtype == torch.float64


def test_wrapped_regressors_are_unwrapped(regressor, expected):
    for wrapped in (torch.nn.DataParallel(regressor), torch.compile(regressor)):
        assert torch.equal(fit(wrapped).pred_cam, expected.pred_cam)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda regressor: regressor.half(), "weights of float32, got .* of torch.float16"),
        (lambda regressor: regressor.double(), "weights of float32, got .* of torch.float64"),
        (lambda regressor: regressor.to("meta"), "on the meta device"),
        (lambda _: torch.nn.Linear(3, 3), "must be a Regressor, as load_regressor gives, got Lin"),
        (lambda _: "open", "must be a Regressor, as load_regressor gives, got str"),
    ],
    ids=["half", "double", "meta", "module", "text"],
)
def test_other_regressors_are_refused(change, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fit(change(eft_fast.load_regressor()))


def test_other_bodies_and_devices_are_refused(regressor):
    with pytest.raises(TypeError, match=r"body must be of float32, got torch.float64; call body"):
        fit(regressor, body=eft_fast.load_body(dtype=torch.float64))
    with pytest.raises(TypeError, match="body must be a Smpl, as load_body gives, got object"):
        fit(regressor, body=object())
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'mps'"):
        fit(regressor, device="mps")
