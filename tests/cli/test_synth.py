"""``eft-fast synth`` and ``train`` from outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eft_fast.cli import main
from eft_fast.data import open_annotations
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor


def synth(out: Path, *more: str) -> int:
    return main(["synth", "--out", str(out), "--size", "64", "--quiet", "--json", *more])


def test_synth_writes_what_fit_reads(tmp_path, capsys):
    """Without motion capture or photographs: pictures, labels, parameters, and a fit of them."""
    out = tmp_path / "people"
    assert synth(out, "--n", "3") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["pictures"] == summary["rendered"] == 3
    assert summary["people"] >= 3
    for key in ("annotations", "parameters", "contact_sheet"):
        assert Path(summary[key]).is_file()
    samples = open_annotations(summary["annotations"], out)
    assert len(samples) <= summary["people"]
    assert not samples.problems
    tiny = tmp_path / "tiny.npz"
    save_open_regressor(OpenRegressor.make_tiny(), tiny, licence="Apache-2.0", source_sha256="0")
    fit = ["fit", str(out), "--annotations", summary["annotations"], "--regressor", str(tiny)]
    fit += ["--min-keypoints", "1", "--min-area", "0", "--max-steps", "1", "--no-pictures"]
    assert main([*fit, "--out", str(tmp_path / "fits"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["people"] == len(samples)


def test_synth_goes_on_and_adds(tmp_path, capsys):
    out, other = tmp_path / "one", tmp_path / "other"
    assert synth(out, "--n", "1") == 0
    assert synth(out, "--n", "2") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"] == 2
    assert synth(out, "--n", "2") == 0
    assert json.loads(capsys.readouterr().out)["rendered"] == 0
    assert synth(other, "--n", "2", "--workers", "2") == 0
    for name in sorted(path.name for path in (other / "images").iterdir()):
        pixels = [np.asarray(Image.open(d / "images" / name)) for d in (out, other)]
        assert np.array_equal(*pixels)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--n", "0"), "--n must be at least 1, got 0"),
        (
            ("--n", "1", "--scenes", "dull"),
            "--scenes must be one of training, varied, standing, sitting, lying, rolled, children, "
            "got 'dull'",
        ),
        (("--n", "1", "--split", "best"), "--split must be one of train, test"),
        (("--n", "1", "--motion", "nowhere"), "--motion must be a folder, there is none: nowhere"),
        (("--n", "1", "--backgrounds", "nowhere"), "--backgrounds must be a folder"),
        (("--n", "1", "--motion", "{empty}"), "no file cmu_smpl24_12fps.npz in"),
        (("--n", "1", "--backgrounds", "{empty}"), "photographs is in"),
    ],
)
def test_synth_says_what_is_wrong(tmp_path, capsys, more, words):
    (tmp_path / "empty").mkdir()
    more = (word.format(empty=tmp_path / "empty") for word in more)
    assert synth(tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_synth_does_not_mix_options(tmp_path, capsys):
    assert synth(tmp_path / "out", "--n", "1") == 0
    assert synth(tmp_path / "out", "--n", "2", "--seed", "4") == 2
    assert "holds a set with another config" in capsys.readouterr().err


def test_train_says_what_is_missing(tmp_path, capsys):
    assert main(["train", "--work", str(tmp_path)]) == 2
    assert "--config, or --work and --motion, expected" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "none.toml")]) == 2
    assert "--config must be a file, there is none" in capsys.readouterr().err
    arguments = ["train", "--work", str(tmp_path), "--motion", str(tmp_path), "--quiet"]
    assert main([*arguments, "--stages", "head"]) == 2
    assert "tools/convert_blazepose.py" in capsys.readouterr().err
    assert main([*arguments, "--stages", "sing"]) == 2
    assert "--stages must be one of render" in capsys.readouterr().err
    assert main([*arguments, "--stages", "evaluate"]) == 2
    assert "no finetune.npz or head.npz" in capsys.readouterr().err
    assert main([*arguments, "--stages", "render", "--train", "1", "--test", "1"]) == 2
    assert "no file cmu_smpl24_12fps.npz" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "weights.npz")]) == 2
    assert "give source_sha256, too" in capsys.readouterr().err
