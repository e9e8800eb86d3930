"""People as they come: order, bad ones, memory, interruptions, the progress bar."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.eft.loop import LoopFitter
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.progress import PeopleProgress

CONFIG = eft_fast.EftConfig(max_steps=3, threshold=0.0, lr=1e-3)


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


def make_people(count):
    generator = np.random.default_rng(7)
    people = []
    for _ in range(count):
        photo = generator.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        xy = generator.uniform([30, 20], [110, 100], (17, 2))
        people.append((photo, np.concatenate([xy, np.ones((17, 1))], 1)))
    return people


def rows_of(results):
    return [
        (r.params.body_pose.numpy().tobytes(), r.loss.item(), r.stop_reason[0]) for r in results
    ]


@pytest.mark.parametrize("options", [{}, {"slots": 3}, {"method": "smplify2016", "config": None}])
def test_stream_equals_batch(regressor, body, options):
    people = make_people(5)
    options = {"config": CONFIG, "progress": False, "regressor": regressor, "body": body} | options
    batch = eft_fast.fit_batch(*zip(*people, strict=True), **options)
    stream = list(eft_fast.fit_stream(iter(people), **options))
    assert [len(result) for result in stream] == [1] * 5
    for index, result in enumerate(stream):
        torch.testing.assert_close(
            result.params.body_pose[0], batch.params.body_pose[index], rtol=0, atol=1e-5
        )
        assert result.stop_reason[0] == batch.stop_reason[index]
        assert result.mode == batch.mode
        assert result.method == batch.method
    if "method" not in options:
        for index, row in enumerate(rows_of(stream)):
            assert row == rows_of([batch[index]])[0]


def test_the_result_names_mode_and_precision(regressor, body, tmp_path):
    people = make_people(1)
    options = {"regressor": regressor, "body": body, "progress": False, "mode": "head"}
    for given, want in (
        ({}, "fp32"),
        ({"precision": "bf16"}, "bf16, state fp32"),
        ({"state": "bf16"}, "fp32, state bf16"),
    ):
        config = eft_fast.EftConfig(max_steps=2, threshold=0, **given)
        result = eft_fast.fit_batch(*zip(*people, strict=True), **options, config=config)
        result.save(tmp_path / "fits.npz")
        loaded = eft_fast.FitResult.load(tmp_path / "fits.npz")
        assert (loaded.mode, loaded.precision) == ("head", want)
    plain = eft_fast.fit_batch(
        *zip(*people, strict=True), regressor=regressor, body=body, progress=False, method="none",
        config=config,
    )  # fmt: skip
    assert plain.precision == "fp32"


def test_order_is_kept_when_people_end_at_different_steps(regressor, body):
    """With an early stop the slots finish in another order than the people came."""
    people = make_people(6)
    options = {"regressor": regressor, "body": body, "progress": False}
    probe = eft_fast.fit_batch(*zip(*people, strict=True), **options, config=CONFIG)
    threshold = float(probe.loss.median() / 300)
    config = eft_fast.EftConfig(max_steps=6, threshold=threshold, lr=1e-3)
    loop = eft_fast.fit_batch(*zip(*people, strict=True), **options, config=config)
    assert len(set(loop.steps.tolist())) > 1, "the threshold must separate people"
    stream = list(eft_fast.fit_stream(people, **options, config=config, slots=3))
    assert [int(result.steps) for result in stream] == loop.steps.tolist()


def test_people_are_taken_when_there_is_room(regressor, body):
    """A stream without an end: results come while people still come."""
    taken = []

    def endless():
        for index in range(10**9):
            taken.append(index)
            yield make_people(1)[0]

    stream = eft_fast.fit_stream(
        endless(), regressor=regressor, body=body, config=CONFIG, slots=2, progress=False
    )
    for count in range(1, 8):
        next(stream)
        assert len(taken) <= count + 4
    stream.close()


def test_bad_people_stop_nobody(regressor, body):
    good = make_people(3)
    options = {"regressor": regressor, "body": body, "config": CONFIG, "progress": False}
    clean = list(eft_fast.fit_stream(good, **options))
    photo, keypoints = good[0]
    mixed = [
        ("no_such_photo.jpg", keypoints),
        good[0],
        (photo, keypoints[:5]),
        "nonsense",
        (photo, keypoints, [1, 2, 3]),
        good[1],
        (photo, "many"),
        good[2],
        (photo, keypoints * [1, 1, 0]),
    ]
    results = list(eft_fast.fit_stream(mixed, **options))
    assert [result.stop_reason[0] for result in results] == [
        "bad_image", "max_steps", "bad_image", "bad_image", "bad_image", "max_steps", "bad_image",
        "max_steps", "no_keypoints",
    ]  # fmt: skip
    assert rows_of(results[1:2] + results[5:6] + results[7:8]) == rows_of(clean)
    assert "no_such_photo.jpg" in results[0].message[0]
    assert "keypoints must be [17, 3] for joint set coco17, got [5, 3]" in results[2].message[0]
    assert "a person must be (image, keypoints)" in results[3].message[0]
    assert "bbox must be x, y, width, height, got [1.0, 2.0, 3.0]" in results[4].message[0]


def test_arguments_are_refused_before_the_first_person(regressor, body):
    with pytest.raises(ValueError, match="mode must be one of"):
        eft_fast.fit_stream([], mode="haed", regressor=regressor, body=body)
    with pytest.raises(ValueError, match="intrinsics must be"):
        eft_fast.fit_stream([], intrinsics="square", regressor=regressor, body=body)
    assert list(eft_fast.fit_stream([], method="eft", regressor=regressor, body=body)) == []


def interrupt_after(monkeypatch, count):
    fit_person, calls = LoopFitter.fit_person, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return fit_person(*arguments, **options)

    monkeypatch.setattr(LoopFitter, "fit_person", interrupted)


def test_interrupted_stream_has_given_what_is_done(regressor, body, monkeypatch):
    interrupt_after(monkeypatch, 2)
    stream = eft_fast.fit_stream(
        make_people(4), regressor=regressor, body=body, config=CONFIG, progress=False
    )
    results = [next(stream), next(stream)]
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert [result.stop_reason[0] for result in results] == ["max_steps"] * 2


@pytest.mark.parametrize("slots", [None, 2])
def test_interrupted_batch_returns_what_is_done(regressor, body, monkeypatch, slots):
    """In the loop, and in slots, where nobody is done when the first pass is interrupted."""
    people = make_people(4)
    options = {"regressor": regressor, "body": body, "config": CONFIG, "progress": False}
    if slots is None:
        interrupt_after(monkeypatch, 2)
        want = ["max_steps", "max_steps", "interrupted", "interrupted"]
    else:
        from eft_fast.pipeline.fitter import FitRecords

        update, calls = FitRecords.update, []

        def interrupted(*arguments):
            calls.append(1)
            if len(calls) > 3 * 2 + 1:
                raise KeyboardInterrupt
            return update(*arguments)

        monkeypatch.setattr(FitRecords, "update", interrupted)
        want = ["max_steps", "max_steps", "interrupted", "interrupted"]
    result = eft_fast.fit_batch(*zip(*people, strict=True), **options, slots=slots)
    assert list(result.stop_reason) == want
    assert torch.isfinite(result.params.betas[:2]).all()
    assert result.params.betas[2:].isnan().all()
    assert "interrupted before this person was done" in result.message[3]


def test_progress_is_silent_without_a_terminal(regressor, body, capsys):
    eft_fast.fit_batch(*zip(*make_people(1), strict=True), regressor=regressor, body=body,
                       config=CONFIG)  # fmt: skip
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_counts_people(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with PeopleProgress(4) as bar:
        for reason in ("converged", "nan", "bad_image", "max_steps"):
            bar.person(reason)
        bar._bar.refresh()
        text = terminal.getvalue()
    assert "4/4" in text
    assert "converged=1" in text
    assert "failed=2" in text
    assert "person" in text


@pytest.mark.slow
def test_two_thousand_people_in_flat_memory(regressor, body):
    """Head mode, one pass of the trunk each: the memory after 2,000 people is that after 200."""
    photo, keypoints = make_people(1)[0]

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    stream = eft_fast.fit_stream(
        ((photo, keypoints) for _ in range(2000)),
        mode="head", regressor=regressor, body=body, config=CONFIG, progress=False, slots=4,
    )  # fmt: skip
    sizes = [resident() for _ in stream]
    assert len(sizes) == 2000
    assert max(sizes[200:]) - sizes[200] < 20 * 2**20
