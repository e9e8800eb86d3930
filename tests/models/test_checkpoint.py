"""Reading SPIN and EFT checkpoints: layouts, conversions, and files that must be refused."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.models.checkpoint import load_hmr, read_state
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_file import OPEN_REGRESSOR_PATH
from eft_fast.models.registry import load_regressor
from tests.models.plain_hmr import make_state, plain_forward


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return make_state(Hmr(), seed=3)


@pytest.fixture(scope="module")
def spin_file(state, tmp_path_factory) -> Path:
    """A file as SPIN's trainer writes it: weights, optimiser, counters, old pickle format."""
    path = tmp_path_factory.mktemp("spin") / "model_checkpoint.pt"
    content = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-5, "betas": (0.9, 0.999)}]},
        "epoch": 3,
        "batch_idx": 0,
        "dataset_perm": [2, 0, 1],
        "best": np.float64(58.1),
        "total_step_count": np.int64(12),
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def test_spin_file_round_trips(spin_file, state):
    network = load_regressor(spin_file)
    assert isinstance(network, Hmr)
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[name]), name
    img = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        output = network(img)
        rotmat, betas, cam = plain_forward(state, img)
    torch.testing.assert_close(output.pred_rotmat, rotmat, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.pred_betas, betas, rtol=1e-4, atol=1e-4)
    converted = torch.cat([cam[:, :1], cam[:, :1] * cam[:, 1:]], 1)
    torch.testing.assert_close(output.pred_cam, converted, rtol=1e-4, atol=1e-4)
    assert not network.training


def test_origin_is_recorded(spin_file):
    network = load_hmr(spin_file, weights_camera="scale_shift")
    info = network.checkpoint
    assert info is not None
    assert info.path == str(spin_file)
    assert info.weights_camera == "scale_shift"
    assert info.stride_in_1x1 is False
    assert info.unexpected == ()
    assert network.id == f"hmr-{info.sha256[:12]}"
    assert network.body_id == "smpl"
    assert load_hmr(spin_file).checkpoint.weights_camera == "shift_scale"


@pytest.mark.parametrize("layout", ["bare", "module.", "state_dict"])
def test_other_layouts(state, tmp_path, layout):
    content = {
        "bare": state,
        "module.": {"model": {f"module.{k}": v for k, v in state.items()}},
        "state_dict": {"state_dict": state},
    }[layout]
    torch.save(content, tmp_path / "a.pt")
    read = read_state(tmp_path / "a.pt")
    assert torch.equal(read["fc1.weight"], state["fc1.weight"])
    assert not any("module." in name or "num_batches" in name for name in read)


def test_missing_and_unexpected_keys_are_named(state, tmp_path, caplog):
    path = tmp_path / "a.pt"
    torch.save({k: v for k, v in state.items() if k != "deccam.bias"} | {"x": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"missing deccam\.bias, unexpected x"):
        load_regressor(path)
    torch.save(state | {"fc.weight": torch.ones(1)}, path)
    with caplog.at_level(logging.WARNING):
        network = load_hmr(path)
    assert "left out unexpected fc.weight" in caplog.text
    assert network.checkpoint is not None
    assert network.checkpoint.unexpected == ("fc.weight",)


def test_wrong_weights_are_refused(state, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(state | {"fc2.bias": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"fc2\.bias must be \[1024\], got \[3\]"):
        load_regressor(path)
    torch.save(state | {"fc2.bias": torch.full((1024,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"fc2\.bias must be finite"):
        load_regressor(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="must hold a state dict, got only epoch"):
        load_regressor(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="must hold a state dict, got list"):
        load_regressor(path)


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_hostile_pickle_is_refused_and_does_not_run(tmp_path, writer):
    target, path = tmp_path / "made", tmp_path / "evil.pt"
    content = {"model": {"conv1.weight": Hostile(target)}}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.mkdir, which weights do not need"):
        load_regressor(path)
    assert not target.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_hostile_pickle_of_a_new_protocol_does_not_run(tmp_path):
    """The restricted reader stops at the protocol, before it sees what the file asks for."""
    target, path = tmp_path / "made", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"model": Hostile(target)}, protocol=4))
    with pytest.raises(ValueError, match="is not a checkpoint, or damaged"):
        load_regressor(path)
    assert not target.exists()


def test_damaged_files_are_refused_in_one_sentence(spin_file, state, tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match="no file"):
        load_regressor(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        load_regressor(path)
    torch.save(state, path)
    for content in (b"just text\n", spin_file.read_bytes()[:9000], path.read_bytes()[:9000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint, or damaged") as caught:
            load_regressor(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="source must be 'open' or a path, got int"):
        load_regressor(3)


def test_open_regressor_loads_by_name():
    if not OPEN_REGRESSOR_PATH.exists():
        pytest.skip("eft_fast/assets/open_regressor.npz is absent")
    network = load_regressor()
    assert network.id == "open-1"
    assert network.input_size == 256
    assert not network.training
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 256, 256))
    assert all(bool(torch.isfinite(value).all()) for value in output)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "hmr.", "module.model."])
def test_prefixes_of_trainers_are_taken_off(state, tmp_path, prefix):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, path)
    assert torch.equal(read_state(path)["conv1.weight"], state["conv1.weight"])
    load_hmr(path)


def test_two_networks_in_one_file_are_refused(state, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state | {"module." + name: value * 0 for name, value in state.items()}, path)
    with pytest.raises(ValueError, match="must hold one network, got 2 with the prefixes '', 'mod"):
        load_hmr(path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("conv1.weight", lambda value: value.to("meta"), "got on the meta device"),
        (
            "conv1.weight",
            lambda value: value.to_sparse(),
            "got a tensor of layout torch.sparse_coo",
        ),
        (
            "conv1.weight",
            lambda value: value.to(torch.complex64),
            "numbers of type torch.complex64",
        ),
        ("conv1.weight", lambda value: (value * 0).to(torch.int8), "numbers of type torch.int8"),
        ("conv1.weight", lambda value: value.double() * 0 + 1e308, "finite in float32"),
        ("bn1.running_var", lambda value: value * 0 - 1, "not be negative, got -1"),
    ],
    ids=["meta", "sparse", "complex", "int8", "1e308", "variance"],
)
def test_tensors_that_no_network_can_use_are_named(state, tmp_path, name, change, words):
    path = tmp_path / "weights.pt"
    torch.save(state | {name: change(state[name])}, path)
    with pytest.raises(ValueError, match=f"{name} must .*{words}"):
        load_hmr(path)


def test_quantised_weights_are_named(state, tmp_path):
    path, name = tmp_path / "weights.pt", "conv1.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(state[name], 0.1, 0, torch.qint8)
        torch.save(state | {name: quantised}, path)
        with pytest.raises(ValueError, match=f"{name} must .*got a quantised tensor"):
            load_hmr(path)


def test_archives_that_grow_are_refused_before_they_are_read(state, tmp_path):
    """Zeros compress by a thousand; torch.save compresses nothing."""
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"model": {"conv1.weight": torch.zeros(2**22)}}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for item in source.infolist():
            to.writestr(item.filename, source.read(item))
    with pytest.raises(
        ValueError, match=r"expected an archive of at most .* bytes unpacked, got 16"
    ):
        load_hmr(packed)
