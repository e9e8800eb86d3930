"""The stages in one folder, and the command line around them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.open_file import load_open_regressor, save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import SynthArrays
from eft_fast.training import FinetuneConfig
from eft_fast.training.cache import (
    CachedPair,
    cache_features,
    cache_maps,
    cache_path,
    maps_path,
    run_trunk,
)
from eft_fast.training.finetune import finetune
from eft_fast.training.regressor import RegressorTraining
from eft_fast.training.targets import Targets
from tests.training.pictures import Pictures


def test_frozen_stages_and_outputs_are_stored_once(
    network: OpenRegressor, arrays: SynthArrays, rendered: CachedPair, tmp_path: Path
) -> None:
    """Going on from stored maps gives what the whole trunk says, mirrored or not."""
    shard = tmp_path / "train-00000.npz"
    np.savez(shard, image=arrays.image)
    maps = cache_maps(network, [shard, shard], 3, batch=5)
    assert len(maps) == 24
    first = cache_features(network, [shard, shard], 3, batch=5)
    assert len(first.plain.score) == 24
    for stored, whole in zip(first, rendered, strict=True):
        # Maps are stored in float16.
        for name in ("landmarks", "trunk", "score"):
            one, other = getattr(stored, name)[12:], getattr(whole, name)
            assert (one - other).abs().mean() < 0.03, name
    assert (first.plain.landmarks - first.mirrored.landmarks).abs().mean() > 0.05

    files = [maps_path(shard, 3), cache_path(shard)]
    stamps = [file.stat().st_mtime_ns for file in files]
    shard.unlink()
    cache_maps(network, [shard], 3)
    again = cache_features(network, [shard], 3, batch=3)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert (again.plain.landmarks == first.plain.landmarks[:12]).all()


def test_maps_are_taken_by_row_and_side(
    network: OpenRegressor, arrays: SynthArrays, tmp_path: Path
) -> None:
    shards = [tmp_path / f"train-0000{i}.npz" for i in range(2)]
    np.savez(shards[0], image=arrays.image[:5])
    np.savez(shards[1], image=arrays.image[5:])
    maps = cache_maps(network, shards, 2)
    rows, mirrored = torch.tensor([7, 0, 4, 11]), torch.tensor([True, False, True, False])
    pictures = Pictures(arrays.image).take(rows, mirrored)
    with torch.no_grad():
        expected = network.trunk.run_to_stage(2, pictures)
    torch.testing.assert_close(maps.take(rows, mirrored), expected, rtol=2e-3, atol=2e-3)


def test_half_precision_stays_inside_the_encoder(
    network: OpenRegressor, arrays: SynthArrays
) -> None:
    """Landmarks in bfloat16 would be whole pixels; the features before them are rounded."""
    crops = Pictures(arrays.image).take(torch.arange(3), torch.zeros(3, dtype=torch.bool))
    exact, half = run_trunk(network, crops, 0), run_trunk(network, crops, 0, half=True)
    assert half.landmarks.dtype == half.features.dtype == torch.float32
    assert (half.features.bfloat16().float() == half.features).all()
    assert (half.landmarks.bfloat16().float() != half.landmarks).float().mean() > 0.5
    assert 0 < (half.landmarks - exact.landmarks).abs().mean() < 6
    assert (exact.landmarks == network.features(crops).landmarks).all()


def test_maps_of_trained_stages_are_refused(
    network: OpenRegressor,
    arrays: SynthArrays,
    targets: Targets,
    open_body: Smpl,
    tmp_path: Path,
) -> None:
    shard = tmp_path / "train-00000.npz"
    np.savez(shard, image=arrays.image)
    source = cache_maps(network, [shard], 3)
    config = FinetuneConfig(steps=1, batch=2, frozen_stages=1)
    with pytest.raises(ValueError, match="need frozen_stages of at least 3, got 1"):
        finetune(network, open_body, source, targets, config)
    losses = finetune(network, open_body, source, targets, replace(config, frozen_stages=3))
    assert len(losses) == 1


def test_splits_have_their_own_shards(tmp_path: Path) -> None:
    recipe = RegressorTraining(work=tmp_path, motion=tmp_path, train=600, test=100)
    assert len(recipe.shards("train")) == 3
    assert len(recipe.shards("test")) == 1
    assert not set(recipe.shards("train")) & set(recipe.shards("test"))


def test_varied_pictures_join_the_training_set_only(tmp_path: Path) -> None:
    plain = RegressorTraining(work=tmp_path, motion=tmp_path, train=600, test=100)
    recipe = replace(plain, varied=300)
    assert recipe.shards("train")[:3] == plain.shards("train")
    assert len(recipe.shards("train")) == len(set(recipe.shards("train"))) == 5
    assert recipe.shards("test") == plain.shards("test")
    first, second = recipe.jobs("train")
    assert second.config.child > 0
    assert second.config.ground > 0
    assert second.config.seed != first.config.seed


def test_finetuning_starts_from_the_weights_that_are_given(tmp_path: Path) -> None:
    recipe = RegressorTraining(work=tmp_path, motion=tmp_path, start=tmp_path / "mine.npz")
    with pytest.raises(FileNotFoundError, match=r"mine\.npz"):
        recipe.finetune()


def test_weights_get_the_covariance_of_their_errors_beside_them(tmp_path: Path) -> None:
    """Of the weights as they are stored, on validation motion; an export takes it along."""
    rng = np.random.default_rng(0)
    pose = (0.2 * rng.normal(size=(8, 72))).astype(np.float16)
    names = np.array(["x/indian/08.bvh"])
    np.savez(tmp_path / "cmu_smpl24_12fps.npz", pose=pose, seq=np.zeros(8, int), names=names)
    np.savez(tmp_path / "cmu_subjects_01_03_10hz.npz", pose=pose)
    people = {"subject": np.full(8, 10), "clip": np.full(8, "a"), "action": np.full(8, "walk")}
    np.savez(tmp_path / "cmu_more_subjects_10hz.npz", pose=pose, **people)
    work = tmp_path / "run"
    work.mkdir()
    weights = work / "finetune.npz"
    save_open_regressor(OpenRegressor.make_tiny(), weights, licence="", source_sha256="")
    training = RegressorTraining(work=work, motion=tmp_path, calibration=86)
    training.export(tmp_path / "mine.npz", source_sha256="")
    network = load_open_regressor(tmp_path / "mine.npz")
    found = load_error_covariance(network, tmp_path / "mine.error_covariance.npz")
    assert (found.people, found.source) == (86, "86 renders, val motion, seed 101")
    training.measure_errors(weights)
    beside = load_error_covariance(network, work / "finetune.error_covariance.npz")
    assert (beside.second_moment == found.second_moment).all()
    replace(training, calibration=0).export(tmp_path / "bare.npz", source_sha256="")
    assert (tmp_path / "bare.error_covariance.npz").is_file()
