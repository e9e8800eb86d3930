"""Devices that cannot be used are refused in one sentence, before anything is loaded."""

from __future__ import annotations

import pytest
import torch

import eft_fast
from eft_fast.ops import find_device


def test_usable_devices_pass():
    assert find_device("x", None) is None
    assert find_device("x", "cpu") == torch.device("cpu")
    assert find_device("x", torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("call", [eft_fast.load_body, eft_fast.load_regressor])
def test_a_gpu_that_is_not_there(call, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match=r"device cuda was asked for, .* without CUDA; install"):
        call(device="cuda")


def test_a_gpu_too_many(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert find_device("x", "cuda") == torch.device("cuda")
    with pytest.raises(RuntimeError, match=r"x: device cuda:1 was asked for, but torch sees 1 GPU"):
        find_device("x", "cuda:1")


def test_no_device():
    with pytest.raises(ValueError, match="device must be a name such as cpu"):
        find_device("x", "gpuu")
