"""The stages in one folder, and the command line around them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import SynthArrays
from eft_fast.training.__main__ import main
from eft_fast.training.cache import cache_features, cache_path
from eft_fast.training.recipe import Recipe


def test_trunk_outputs_are_stored_once(
    network: OpenRegressor, arrays: SynthArrays, tmp_path: Path
) -> None:
    shard = tmp_path / "train-00000.npz"
    np.savez(shard, image=arrays.image)
    first = cache_features(network, [shard, shard], batch=5)
    assert len(first.score) == 24
    stamp = cache_path(shard).stat().st_mtime_ns
    shard.unlink()
    again = cache_features(network, [shard], batch=3)
    assert cache_path(shard).stat().st_mtime_ns == stamp
    assert (again.landmarks == first.landmarks[:12]).all()


def test_stages_say_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--work", str(tmp_path), "--motion", str(tmp_path)]
    assert main(["head", *base]) == 2
    assert "tools/convert_blazepose.py" in capsys.readouterr().err
    assert main(["evaluate", *base]) == 2
    assert "no finetune.npz or head.npz" in capsys.readouterr().err
    assert main(["render", *base, "--train", "1", "--test", "1"]) == 2
    assert "no file cmu_smpl24_12fps.npz" in capsys.readouterr().err
    assert main(["export", *base]) == 2
    assert "--out and --source-sha256 expected" in capsys.readouterr().err


def test_unknown_stage_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fly", "--work", str(tmp_path), "--motion", str(tmp_path)])
    assert stopped.value.code == 2


def test_splits_have_their_own_shards(tmp_path: Path) -> None:
    recipe = Recipe(work=tmp_path, motion=tmp_path, train=600, test=100)
    assert len(recipe.shards("train")) == 3
    assert len(recipe.shards("test")) == 1
    assert not set(recipe.shards("train")) & set(recipe.shards("test"))


@pytest.mark.slow
def test_the_command_renders_and_scores(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motion = shared_dir / "data" / "cmu_mocap_smpl24"
    base = ["--work", str(tmp_path), "--motion", str(motion), "--train", "8", "--test", "8"]
    assert main(["render", *base]) == 0
    asset = Path(__file__).parents[2] / "eft_fast" / "assets" / "open_regressor.npz"
    assert main(["evaluate", *base, "--model", str(asset)]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["people"] == 8
    assert score["pa_mpjpe_mm"] < 200
