"""What is said of fits that ended badly, or could not begin: by every method, once, and truly."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.cli.main import main
from eft_fast.data import read_coco
from eft_fast.keypoints import joint_set
from eft_fast.losses.keypoints import confidence_level, counting
from eft_fast.losses.weights import DEFAULT_WEIGHTS
from eft_fast.models.open_file import OPEN_REGRESSOR_PATH

DEMO = OPEN_REGRESSOR_PATH.parent / "demo"
RELEASED = eft_fast.EftConfig.released(max_steps=2)
HIPS, ANKLES = [11, 12], [15, 16]


@pytest.fixture(scope="module")
def regressor():
    return eft_fast.load_regressor()


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


@pytest.fixture(scope="module")
def person():
    """Photo, keypoints and box of the demo's runner."""
    sample = next(
        s for s in read_coco(DEMO / "people.json", DEMO) if s.photo.endswith("runner.png")
    )
    return sample.photo, sample.keypoints_2d_px, sample.bbox_xywh


@pytest.fixture
def fit(person, regressor, body):
    photo, points, box = person

    def call(keypoints=points, box=box, **options):
        options = {"method": "none"} | options
        return eft_fast.fit_batch(
            [photo], np.asarray(keypoints)[None], bboxes=None if box is None else [box],
            regressor=regressor, body=body, progress=False, **options
        )  # fmt: skip

    return call


def only(keypoints, joints):
    kept = np.zeros_like(keypoints)
    kept[joints] = keypoints[joints]
    return kept


@pytest.mark.parametrize("joints", [HIPS, ANKLES, HIPS + ANKLES], ids=["hips", "ankles", "both"])
@pytest.mark.parametrize("slots", [None, 2])
def test_keypoints_that_do_not_count_are_none(fit, person, joints, slots):
    """The released loss leaves hips and ankles out: with nothing else, it used to 'converge'."""
    points = only(person[1], joints)
    result = fit(points, method="eft", config=RELEASED, slots=slots)
    assert result.stop_reason == ("no_keypoints",)
    assert "no labelled keypoint counts in this fit" in result.message[0]
    assert torch.equal(result.pred_cam, result.init.pred_cam)
    strict = fit(points, method="eft", config=replace(RELEASED, strict_reference=True))
    assert strict.stop_reason == ("no_keypoints",)
    counted = fit(points, method="eft", config=eft_fast.EftConfig(max_steps=2))
    assert counted.stop_reason == ("max_steps",)
    assert counted.message == ("",)


@pytest.mark.parametrize(("method", "reason"), [("smplify_spin", True), ("map", False)])
def test_what_counts_is_up_to_the_method(fit, person, method, reason):
    """SMPLify as SPIN runs it never looks at hips; map does."""
    result = fit(only(person[1], HIPS), method=method)
    assert (result.stop_reason[0] == "no_keypoints") == reason
    nothing = fit(only(person[1], []), method=method)
    assert nothing.stop_reason == ("no_keypoints",)
    assert "no keypoint is labelled" in nothing.message[0]


def test_a_reason_does_not_hide_what_was_odd(fit, person):
    result = fit(only(person[1], []), box=[5000, 5000, 10, 10])
    assert "lies beside" in result.message[0]
    assert "no keypoint is labelled" in result.message[0]


@pytest.mark.parametrize(
    ("pinhole", "words"),
    [
        (35.0, "one in millimetres of 36 mm film is 249 pixels"),
        (0.9, "one in widths of the photo is 230 pixels"),
        (np.array([[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]]), "must be in pixels"),
        (np.array([[300.0, 0, 0], [0, 300, 0], [0, 0, 1]]), "is the corner of"),
    ],
)
def test_cameras_in_other_units_are_told(fit, pinhole, words):
    assert words in fit(intrinsics=pinhole).message[0]
    assert fit(intrinsics=250.0).message == ("",)


def test_left_and_right_exchanged_is_told(fit, person):
    flip = list(joint_set("coco17").flip)
    swapped = person[1][flip]
    for method in ("none", "map"):
        assert (
            "left and right of the keypoints look exchanged"
            in fit(swapped, method=method).message[0]
        )
        assert fit(method=method).message == ("",)


def test_a_bad_end_and_an_odd_body_are_told(fit, person, monkeypatch):
    far = person[1].copy()
    far[:, 1] = 255 - far[:, 1]  # y upwards
    assert "pixels from its keypoints on average" in fit(far).message[0]
    monkeypatch.setattr("eft_fast.plausible.MAX_BETA", 1e-3)
    assert "the body's shape is no person's" in fit().message[0]


def test_flags_are_said_once_a_call(fit, person, regressor, body, caplog, tmp_path):
    flags = person[1] * np.array([1, 1, 2], np.float32)
    with caplog.at_level(logging.WARNING):
        result = eft_fast.fit_batch(
            [person[0]] * 3,
            [flags] * 3,
            method="none",
            regressor=regressor,
            body=body,
            progress=False,
        )
    said = [record for record in caplog.messages if "visibility flags" in record]
    assert said == ["fit_batch: visibility flags 0, 1, 2 were read as confidences 0, 1, 1"]
    assert result.message == ("",) * 3
    assert set(result.keypoints[..., 2].unique().tolist()) <= {0.0, 1.0}
    samples = read_coco(DEMO / "people.json", DEMO)
    assert samples.notes == ["read_coco: visibility flags 0, 1, 2 were read as confidences 0, 1, 1"]
    assert set(np.unique(samples[0].extra["visibility"])) <= {0.0, 1.0, 2.0}


def test_the_level_of_confidences():
    keypoints = torch.zeros(4, 49, 3)
    keypoints[:, 25:, 2] = torch.tensor([1.0, 0.05, 0.0, 1.0])[:, None]
    keypoints[3, 40:, 2] = 0.0
    keypoints[1, :25, 2] = 0.9  # OpenPose's block has no factor
    level = confidence_level(keypoints)
    assert level.tolist() == [1.0, pytest.approx(0.05), 1.0, 1.0]
    assert counting(keypoints).sum(1).tolist() == [19, 19, 0, 10]
    assert int(counting(keypoints[:1], replace(DEFAULT_WEIGHTS, with_hips=True)).sum()) == 22


def test_the_summary_counts_who_is_to_be_looked_at(tmp_path, capsys, person):
    document = json.loads((DEMO / "people.json").read_text())
    document["annotations"][0]["bbox"] = [1, 1, 900, 900]
    document["annotations"][1]["keypoints"][2::3] = [0] * 15 + [1, 1]
    (tmp_path / "people.json").write_text(json.dumps(document))
    arguments = ["fit", DEMO, "--annotations", tmp_path / "people.json", "--method", "none"]
    arguments += ["--min-keypoints", "1", "--out", tmp_path / "out"]
    assert main(list(map(str, arguments))) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text()
    assert summary["with_message"] == page.count('<tr class="odd"')
    assert ("people with a message" in said) == bool(summary["with_message"])
