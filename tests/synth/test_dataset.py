from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from eft_fast.synth import SynthArrays, SynthConfig, SynthJob, load_shards, render_shards
from tests.synth.test_motion import write_motion


def make_job(folder: Path, name: str, **changes: object) -> SynthJob:
    motion = folder / "motion"
    if not motion.is_dir():
        motion.mkdir()
        write_motion(motion)
    options = {"count": 5, "shard_size": 2, "config": SynthConfig(size=48), **changes}
    return SynthJob(out=folder / name, split="train", motion=motion, **options)  # type: ignore[arg-type]


def assert_same(one: SynthArrays, other: SynthArrays) -> None:
    for field in fields(SynthArrays):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_processes_do_not_change_the_images(tmp_path: Path) -> None:
    alone = load_shards(render_shards(make_job(tmp_path, "one")))
    shared = load_shards(render_shards(make_job(tmp_path, "two"), processes=2))
    assert len(alone) == 5
    assert_same(alone, shared)


def test_shard_size_does_not_change_the_images(tmp_path: Path) -> None:
    small = load_shards(render_shards(make_job(tmp_path, "small", shard_size=1)))
    assert_same(small, load_shards(render_shards(make_job(tmp_path, "large", shard_size=100))))


def test_rendering_resumes_and_keeps_what_is_there(tmp_path: Path) -> None:
    job = make_job(tmp_path, "set")
    paths = render_shards(job)
    expected = load_shards(paths)
    kept = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    assert_same(load_shards(render_shards(job)), expected)
    assert paths[0].stat().st_mtime_ns == kept
    assert not list(job.out.glob("*.partial*"))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*train-00003\.npz"):
        load_shards([tmp_path / "train-00003.npz"])
    with pytest.raises(ValueError, match="at least one shard expected"):
        load_shards([])


def test_another_count_renders_what_it_lacks(tmp_path: Path) -> None:
    """The last shard of two images is not the third to fourth of five."""
    render_shards(make_job(tmp_path, "set", count=3))
    job = make_job(tmp_path, "set")
    grown = load_shards(render_shards(job))
    assert len(grown) == 5
    assert_same(grown, load_shards(render_shards(make_job(tmp_path, "whole"))))
    assert len(load_shards(render_shards(make_job(tmp_path, "set", count=3)))) == 3


@pytest.mark.parametrize("config", [SynthConfig(size=48, seed=9), SynthConfig(size=32)])
def test_shards_of_other_options_are_refused(tmp_path: Path, config: SynthConfig) -> None:
    paths = render_shards(make_job(tmp_path, "set", count=2))
    before = paths[0].read_bytes()
    with pytest.raises(ValueError, match=r"train-00000\.npz must be of the options asked for"):
        render_shards(make_job(tmp_path, "set", count=2, config=config))
    assert paths[0].read_bytes() == before


def test_shards_from_before_an_option_existed_are_kept(tmp_path: Path) -> None:
    """Later options draw nothing by default, so such a set is the set that is asked for."""
    job = make_job(tmp_path, "set", count=2)
    (path,) = render_shards(job)
    with np.load(path) as archive:
        stored = dict(archive)
    facts = json.loads(str(stored["origin"]))
    del facts["config"]["pose"]["standing"], facts["config"]["loose"]
    np.savez(path, **stored | {"origin": np.array(json.dumps(facts))})
    before = path.read_bytes()
    render_shards(job)
    assert path.read_bytes() == before
    standing = replace(job.config, pose=replace(job.config.pose, standing=0.5))
    with pytest.raises(ValueError, match="must be of the options asked for"):
        render_shards(make_job(tmp_path, "set", count=2, config=standing))
