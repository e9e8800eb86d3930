"""``eft-fast eval truth``: a dataset with points in space, from the outside."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from eft_fast.cli import main
from eft_fast.cli.eval_truth import PROTOCOL_NAMES
from eft_fast.evaluation.protocols import PROTOCOLS
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor

COUNT = 4


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), path, licence="Apache-2.0", source_sha256="0")
    return path


@pytest.fixture
def dataset(tmp_path):
    """Labels of SPIN with ``S``; one person has no points in space."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for row in range(COUNT):
        pixels = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    part = np.concatenate([rng.random((COUNT, 24, 2)) * 180 + 10, np.ones((COUNT, 24, 1))], 2)
    solid = np.concatenate([rng.normal(size=(COUNT, 24, 3)), np.ones((COUNT, 24, 1))], 2)
    solid[2] = 0
    np.savez(
        folder / "labels.npz", imgname=[f"{row}.png" for row in range(COUNT)],
        center=np.full((COUNT, 2), 100.0), scale=np.ones(COUNT), part=part, S=solid,
    )  # fmt: skip
    return folder


def test_numbers_by_protocol(dataset, tiny, tmp_path, capsys):
    out = tmp_path / "new" / "truth.json"
    arguments = ["eval", "truth", str(dataset / "labels.npz"), "--photos", str(dataset)]
    arguments += ["--methods", "regressor", "--regressor", str(tiny), "--out", str(out)]
    assert main([*arguments, "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["protocol"], summary["people"]) == ("limbs12", 3)
    assert summary["left_out"] == {"without the joints of the protocol": 1}
    row = summary["methods"]["regressor"]
    assert row["pa_mpjpe_mm_low"] <= row["pa_mpjpe_mm"] <= row["mpjpe_mm"]
    assert json.loads(out.read_text()) == summary
    assert main([*arguments, "--quiet", "--count", "2"]) == 0
    text = capsys.readouterr().out
    assert "protocol      limbs12" in text
    assert "beware        no published number" in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--protocol", "smpl24"], "nobody has the joints of smpl24"),
        (["--methods", "eff"], "did you mean"),
        (["--methods", "spin_refit"], "use it with openbench"),
        (["--truth-male", "absent.pkl"], "absent.pkl"),
        (["--joint-regressor", "absent.npy"], "load_joint_regressor: no file absent.npy"),
        (["--photos", "absent"], "--photos"),
    ],
)
def test_wrong_use(more, words, dataset, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", "truth", str(dataset / "labels.npz"), "--photos", str(dataset)]
    assert main([*arguments, "--regressor", str(tiny), "--quiet", *more]) == 2
    assert words in capsys.readouterr().err


def test_protocols_are_those_of_the_library():
    assert set(PROTOCOL_NAMES) == {
        name for name, protocol in PROTOCOLS.items() if protocol.root is not None
    }
