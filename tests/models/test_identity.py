"""Which weights, which body: hashes that follow the weights, and files that are refused."""

from __future__ import annotations

import copy
import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from eft_fast.models import base
from eft_fast.models.base import check_same_body
from eft_fast.models.identity import weights_hash, weights_sha256
from eft_fast.models.open_file import (
    OPEN_REGRESSOR_PATH,
    load_open_regressor,
    read_card,
    save_open_regressor,
)
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.models.registry import load_regressor


def make_layers() -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    for index, tensor in enumerate(layers.state_dict().values()):
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + index)
    return layers


def test_the_hash_is_over_names_shapes_and_float32_values() -> None:
    layers = make_layers()
    content = b""
    for name in (
        "0.bias", "0.weight", "1.bias", "1.num_batches_tracked", "1.running_mean",
        "1.running_var", "1.weight",
    ):  # fmt: skip
        value = layers.state_dict()[name]
        content += f"{name}\0{','.join(map(str, value.shape))}\0".encode()
        content += np.array(value.tolist(), "<f4").tobytes()
    assert weights_sha256(layers) == hashlib.sha256(content).hexdigest()
    assert weights_hash(layers) == weights_sha256(layers)[:16]
    assert weights_hash(copy.deepcopy(layers).double()) == weights_hash(layers)
    conv = nn.Conv2d(4, 4, 3)
    before = weights_hash(conv)
    assert weights_hash(conv.to(memory_format=torch.channels_last)) == before
    conv.bias = nn.Parameter(conv.bias[None].detach())
    assert weights_hash(conv) != before


def test_a_regressor_hashes_its_weights_once(monkeypatch) -> None:
    calls = []
    real = base.weights_hash
    monkeypatch.setattr(base, "weights_hash", lambda module: calls.append(1) or real(module))
    regressor = OpenRegressor.make_tiny()
    first = regressor.weights_hash
    assert first == weights_hash(regressor)
    with torch.no_grad():
        regressor(torch.rand(1, 3, 256, 256))
    assert regressor.train().eval().weights_hash == first
    assert len(calls) == 1
    assert regressor.full_id == f"open-1:{first}"
    assert regressor.id == "open-1"


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_tuned_copy_has_a_hash_of_its_own(optimiser) -> None:
    regressor = OpenRegressor.make_tiny()
    first = regressor.weights_hash
    tuned = copy.deepcopy(regressor)
    assert tuned.weights_hash == first
    step = optimiser(tuned.head_parameters(), lr=1e-2)
    tuned(torch.rand(1, 3, 256, 256)).pred_betas.square().sum().backward()
    step.step()
    assert tuned.weights_hash == weights_hash(tuned) != first
    assert regressor.weights_hash == first
    tuned.load_state_dict(regressor.state_dict())
    assert tuned.weights_hash == first


def test_weights_without_versions_are_hashed_each_time() -> None:
    with torch.inference_mode():
        regressor = OpenRegressor.make_tiny()
        first = regressor.weights_hash
        regressor.head.leave.bias.add_(1)
        assert regressor.weights_hash == weights_hash(regressor) != first


def test_a_file_with_other_weights_than_it_states_is_refused(tmp_path) -> None:
    """One value of the file changed; a file of an earlier version states nothing and loads."""
    path, changed = tmp_path / "a.npz", tmp_path / "b.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="Apache-2.0", source_sha256="")
    regressor = load_open_regressor(path)
    assert read_card(path)["weights_hash"] == regressor.weights_hash
    arrays = dict(np.load(path))
    arrays["state/head.leave.bias"][3] += 0.5
    np.savez(changed, **arrays)
    words = rf"must hold the weights {regressor.weights_hash}, got \w{{16}}; they were changed"
    with pytest.raises(ValueError, match=words):
        load_regressor(changed)
    card = {k: v for k, v in read_card(path).items() if k != "weights_hash"}
    np.savez(changed, **(arrays | {"card": np.array(json.dumps(card))}))
    assert load_regressor(changed).weights_hash != regressor.weights_hash


def test_the_shipped_weights_have_a_name() -> None:
    if not OPEN_REGRESSOR_PATH.exists():
        pytest.skip("eft_fast/assets/open_regressor.npz is absent")
    assert load_regressor().full_id == "open-1:2d9ea62d0ab9f4fd"


@pytest.mark.parametrize(
    ("trained_on", "body_id", "fits"),
    [
        ("open-1", "open-1", True),
        ("open-1", "open-1:coarse", True),
        ("smpl", "smpl-neutral", True),
        ("smpl-male", "smpl-male", True),
        ("smpl-male", "smpl-neutral", False),
        ("smpl", "open-1", False),
        ("open-1", "open-2", False),
        ("open-1", "smpl-neutral", False),
    ],
)
def test_regressor_and_body_belong_together(trained_on: str, body_id: str, fits: bool) -> None:
    regressor = OpenRegressor.make_tiny()
    regressor.body_id = trained_on
    if fits:
        check_same_body(regressor, body_id, "somebody")
        return
    with pytest.raises(
        ValueError, match=f"^somebody: .*predicts body {trained_on}, got body {body_id};"
    ):
        check_same_body(regressor, body_id, "somebody")
