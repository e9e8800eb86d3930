"""Runs in shards: the plan, the pieces, what a bad person costs, and one file at the end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.eft.config import EftConfig
from eft_fast.map_fit.config import MapConfig
from eft_fast.pipeline.predict import RegressorFitter
from eft_fast.pseudo_gt.jobs.assemble import assemble_fits
from eft_fast.pseudo_gt.jobs.log import RunLog
from eft_fast.pseudo_gt.jobs.plan import (
    Piece,
    RunPlace,
    RunRecord,
    Shard,
    ShardPeople,
    cut_shards,
)
from eft_fast.pseudo_gt.jobs.setup import RunSetup
from eft_fast.pseudo_gt.jobs.work import PieceCounts, PieceFitter
from eft_fast.result import FitResult
from eft_fast.sample import Sample
from eft_fast.smplify.config import SmplifyConfig
from tests.pseudo_gt.jobs_data import fit_here, make_dataset, make_setup, plan_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("jobs") / "data", 12)


def same(one: FitResult, other: FitResult) -> bool:
    """Bit for bit."""
    for item in dataclasses.fields(FitResult):
        values = getattr(one, item.name), getattr(other, item.name)
        if isinstance(values[0], torch.Tensor):
            if not np.array_equal(
                *(v.numpy() for v in values), equal_nan=values[0].is_floating_point()
            ):
                return False
        elif isinstance(values[0], tuple | str) and values[0] != values[1]:
            return False
    flat = [torch.cat([r.params.full_pose.flatten(1), r.init.params.full_pose.flatten(1)], 1)
            for r in (one, other)]  # fmt: skip
    return np.array_equal(*(each.numpy() for each in flat), equal_nan=True)


def test_a_shard_ends_with_a_photo() -> None:
    def people(counts: list[int]) -> list[Sample]:
        return [
            Sample(str(n), "x", f"{photo}.png", np.zeros((17, 3), np.float32), "coco17")
            for photo, count in enumerate(counts)
            for n in range(count)
        ]

    assert [len(each) for each in cut_shards(people([2, 2, 2, 1]), 3)] == [4, 3]
    assert [len(each) for each in cut_shards(people([30]), 3)] == [12, 12, 6]
    assert list(cut_shards([], 3)) == []
    others = dataclasses.replace(people([1])[0], keypoint_set="op25")
    with pytest.raises(ValueError, match="one joint set per run is expected, got coco17, op25"):
        list(cut_shards([*people([1]), others], 3))


def test_people_come_back_as_they_were_and_have_a_name(tmp_path: Path) -> None:
    people = ShardPeople(
        ("a\nb.png", "\udcff.png"), np.random.default_rng(0).random((2, 17, 3), np.float32),
        np.array([[1, 2, 3, 4], [np.nan] * 4]), ("1", "2"), ("", "t"), "coco17",
    )  # fmt: skip
    people.save(tmp_path / "people.npz")
    back = ShardPeople.load(tmp_path / "people.npz")
    assert (back.photos, back.ids, back.tracks) == (people.photos, people.ids, people.tracks)
    assert np.array_equal(back.boxes, people.boxes, equal_nan=True)
    name = people.digest("by")
    assert back.digest("by") == name
    moved = dataclasses.replace(people, boxes=people.boxes + 1)
    renamed = dataclasses.replace(people, photos=("a.png", "b.png"))
    assert len({name, people.digest("else"), moved.digest("by"), renamed.digest("by")}) == 4


@pytest.mark.parametrize(
    "config",
    [None, EftConfig(lr=1e-6), EftConfig.released(), MapConfig(), SmplifyConfig()],
)
def test_a_setup_is_the_same_in_another_process(config: object) -> None:
    setup = RunSetup("eft", "head", config, intrinsics=1200.5, slots=2)  # type: ignore[arg-type]
    assert RunSetup.from_json(setup.to_json()) == setup


def test_everything_that_a_fit_depends_on_names_the_run(data: Path, tmp_path: Path) -> None:
    setup = make_setup(data)
    regressor, body = setup.load()
    parts = [setup.parts(regressor, body)]
    for change in ({"intrinsics": 1000.0}, {"method": "map"}, {"config": EftConfig(lr=1.0)}):
        parts.append(dataclasses.replace(setup, **change).parts(regressor, body))
    with torch.no_grad():
        next(regressor.parameters()).add_(1)
    parts.append(setup.parts(regressor, body))
    assert len({json.dumps(each) for each in parts}) == 5
    covariance = tmp_path / "c.npz"
    by_content = []
    for content in (b"one", b"two"):
        covariance.write_bytes(content)
        other = dataclasses.replace(setup, config=MapConfig(covariance=str(covariance)))
        by_content.append(other.parts(regressor, body)["options"])
    assert by_content[0] != by_content[1]


def test_pieces_and_shards_make_the_run_of_one_call(data: Path, tmp_path: Path) -> None:
    setup = make_setup(data)
    record = plan_run(data, tmp_path / "a", setup, size=5)
    assert [shard.people for shard in record.shards] == [6, 6]
    assert RunRecord.load(tmp_path / "a") == record
    fit_here(record, tmp_path / "a", setup, piece_size=4)
    place = RunPlace(tmp_path / "a")
    assert len(list(place.shards.iterdir())) == 2
    files = [place.shard_file(shard.name) for shard in record.shards]
    assemble_fits(files, tmp_path / "fits.npz")
    fits = FitResult.load(tmp_path / "fits.npz")
    assert same(fits, FitResult.concatenate([FitResult.load(file) for file in files]))
    assert fits.id == tuple(map(str, range(12)))
    assert fits.run_id == record.run_id

    whole = plan_run(data, tmp_path / "b", setup, size=100)
    fit_here(whole, tmp_path / "b", setup, piece_size=100)
    (shard,) = whole.shards
    one = FitResult.load(RunPlace(tmp_path / "b").shard_file(shard.name))
    assert same(dataclasses.replace(one, run_id=fits.run_id), fits)


def test_a_run_that_is_stopped_goes_on_with_who_is_missing(data: Path, tmp_path: Path) -> None:
    setup = make_setup(data)
    record = plan_run(data, tmp_path / "a", setup, size=100)
    (shard,) = record.shards
    place, asked = RunPlace(tmp_path / "a"), iter(range(100))
    fitter = PieceFitter(place, setup, record.run_id, is_stopped=lambda: next(asked) >= 5)
    counts = fitter.fit(Piece(shard.name, 0, 12))
    assert 0 < counts.people < 12
    half = FitResult.load(place.piece_file(Piece(shard.name, 0, 12)))
    assert half.stop_reason.count("interrupted") == 12 - counts.people
    seen = []
    fitter = PieceFitter(place, setup, record.run_id)
    real = fitter._fit_together
    fitter._fit_together = lambda *a: (seen.extend(a[1]), real(*a))[1]  # type: ignore[method-assign]
    fitter.fit(Piece(shard.name, 0, 12))
    assert len(seen) == 12 - counts.people
    went_on = FitResult.load(place.piece_file(Piece(shard.name, 0, 12)))
    other = plan_run(data, tmp_path / "b", setup, size=100)
    fit_here(other, tmp_path / "b", setup, piece_size=12)
    assert same(went_on, FitResult.load(RunPlace(tmp_path / "b").shard_file(shard.name)))


def test_a_bad_person_costs_nobody_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(data)
    record = plan_run(data, tmp_path / "a", setup, size=100)
    fit_here(record, tmp_path / "a", setup, piece_size=12)
    (shard,) = record.shards
    good = FitResult.load(RunPlace(tmp_path / "a").shard_file(shard.name))
    real = RegressorFitter.fit_person

    def poisoned(self: RegressorFitter, person: object) -> object:
        if person.id == "3":  # type: ignore[attr-defined]
            raise RuntimeError("what a person")
        return real(self, person)  # type: ignore[arg-type]

    monkeypatch.setattr(RegressorFitter, "fit_person", poisoned)
    plan_run(data, tmp_path / "b", setup, size=100)
    fit_here(record, tmp_path / "b", setup, piece_size=12)
    fits = FitResult.load(RunPlace(tmp_path / "b").shard_file(shard.name))
    assert fits.stop_reason[3] == "bad_image"
    assert "RuntimeError: what a person" in fits.message[3]
    others = [row for row in range(12) if row != 3]
    assert same(fits[others], good[others])

    def broken(self: RegressorFitter, person: object) -> object:
        raise RuntimeError("what a fitter")

    # What hits everybody is nobody's own fault, and not to be written as if it were.
    monkeypatch.setattr(RegressorFitter, "fit_person", broken)
    plan_run(data, tmp_path / "c", setup, size=100)
    with pytest.raises(RuntimeError, match="what a fitter"):
        fit_here(record, tmp_path / "c", setup, piece_size=12)
    assert not list(RunPlace(tmp_path / "c").shards.iterdir())


def test_who_ended_processes_is_left_out(data: Path, tmp_path: Path) -> None:
    setup = make_setup(data)
    record = plan_run(data, tmp_path / "a", setup, size=100)
    (shard,) = record.shards
    fitter, told = PieceFitter(RunPlace(tmp_path / "a"), setup, record.run_id), []
    piece = Piece(shard.name, 4, 8)
    counts = fitter.fit(piece, is_careful=True, poisoned=[5], on_person=told.append)
    assert told == [4, 5, 6, 7]
    assert (counts.people, counts.failed) == (4, 1)
    fits = FitResult.load(RunPlace(tmp_path / "a").piece_file(piece))
    assert "a process ended" in fits.message[1]
    assert fits.stop_reason[0] == "max_steps"


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    assert RunRecord.load(tmp_path) is None
    for content in ("", "{}", "[]", '{"format": "eft-fast-run/1", "shards": 3}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match="not the record of a run"):
            RunRecord.load(tmp_path)


def test_the_pieces_of_a_shard() -> None:
    pieces = Shard("a", 130).pieces(64)
    assert [(each.first, each.end) for each in pieces] == [(0, 64), (64, 128), (128, 130)]
    assert sum(map(len, pieces)) == 130


def test_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = iter([0.0, 10.0, 40.0, 50.0, 50.0, 50.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with RunLog(1000, 100, say=lines.append) as log:
        log.add(PieceCounts(50, 40, 5, 5))  # 10 s: no line yet
        log.add(PieceCounts(50, 40, 0, 0))
        assert lines == [
            "200 of 1000 people, 2.0 people/s, 0:06:40 left, 80 converged, 5 rejected, 5 failed"
        ]
        log.tick()
    assert len(lines) == 1
