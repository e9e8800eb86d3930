"""What is said about numbers that cannot be what they are taken for."""

from __future__ import annotations

import re

import numpy as np
import pytest

from eft_fast import plausible
from eft_fast.keypoints import JOINT_SETS

SIZE = (400, 300)
#: A person walking in a photo of 400 x 300: COCO's 17.
PERSON = np.array(
    [
        [215, 62, 1], [219, 58, 1], [211, 58, 1], [226, 61, 1], [205, 61, 1], [235, 90, 1],
        [195, 92, 1], [246, 124, 1], [186, 126, 1], [240, 155, 1], [180, 158, 1], [226, 160, 1],
        [203, 161, 1], [231, 205, 1], [196, 206, 1], [240, 248, 1], [188, 246, 1],
    ],
    np.float64,
)  # fmt: skip
BOX = [170.0, 40.0, 90.0, 225.0]


def to_set(name: str) -> np.ndarray:
    """The person in the order of another set; joints that COCO lacks stand between others."""
    place = {joint: point for joint, point in zip(JOINT_SETS["coco17"].names, PERSON, strict=True)}
    place["neck"] = (place["lsho"] + place["rsho"]) / 2
    place["pelvis"] = (place["lhip"] + place["rhip"]) / 2
    place["headtop"] = place["head"] = place["nose"] - [0, 20, 0]
    place["spine"] = (place["neck"] + place["pelvis"]) / 2
    return np.array([place.get(joint, np.zeros(3)) for joint in JOINT_SETS[name].names])


def said(keypoints: np.ndarray, box: object, order: str = "coco17") -> str:
    checked = plausible.check_person(keypoints, box, SIZE, order)
    return "; ".join([*checked.notes, checked.problem or ""]).rstrip("; ")


@pytest.mark.parametrize("name", ["coco17", "op25", "op25b", "halpe26", "crowdpose14", "aic14"])
def test_a_person_as_they_should_be_is_not_remarked_on(name: str) -> None:
    points = to_set(name)
    checked = plausible.check_person(points, BOX, SIZE, name)
    assert (checked.problem, checked.notes, checked.has_flags) == (None, (), False)
    np.testing.assert_array_equal(checked.keypoints, points)
    np.testing.assert_array_equal(checked.box, BOX)


@pytest.mark.parametrize(
    ("scores", "expected", "words"),
    [
        ([0.0, 0.5, 1.0], [0, 0.5, 1], ""),
        ([1.0 + 1e-7, 0.5, 0.0], [1, 0.5, 0], ""),
        ([np.nan, 1.0, 0.0], [np.nan, 1, 0], ""),
        (
            [0.0, 1.02, 0.3],
            [0, 1, 0.3],
            "must lie in [0, 1], got 0 to 1.02; those above 1 count as 1",
        ),
        ([5.0, 2.0, 1.0], [1, 1, 1], "got 1 to 5; those above 1 count as 1; divide percentages"),
        ([93.0, 0.0, 7.0], [1, 0, 1], "divide percentages by 100"),
        ([-1.0, 0.5, 1.0], [0, 0.5, 1], "got -1 to 1; those below 0 as not labelled"),
        ([2.0, 1.0, 0.5], [1, 1, 0.5], "got 0.5 to 2"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_rule_for_confidences(
    scores: list[float], expected: list[float], words: str, dtype: type
) -> None:
    confidence, has_flags, note = plausible.to_confidence(np.array(scores, dtype))
    np.testing.assert_array_equal(confidence, np.array(expected, dtype))
    assert confidence.dtype == dtype
    assert not has_flags
    assert (words in note) if words else not note


@pytest.mark.parametrize("scores", [[0.0, 1.0, 2.0], [2.0, 2.0, 2.0], [np.nan, 0.0, 2.0]])
def test_flags_are_told_apart_from_scores(scores: list[float]) -> None:
    confidence, has_flags, note = plausible.to_confidence(np.array(scores))
    assert has_flags
    assert note == ""
    assert np.nanmax(confidence) == 1


@pytest.mark.parametrize(
    ("box", "words", "is_kept"),
    [
        ([170, 40, 260, 265], "looks like x1, y1, x2, y2, not x, y, width, height", True),
        ([215, 152, 90, 225], "holds 6 of 17 labelled keypoints; it looks like centre x", True),
        ([40, 170, 225, 90], "it looks like y, x, height, width", True),
        ([0.43, 0.13, 0.22, 0.75], "holds none of 17.*looks like fractions of the photo", False),
        ([5000, 5000, 100, 300], r"lies beside the 400 x 300 photo", False),
        ([-300, 0, 100, 300], r"lies beside the 400 x 300 photo", False),
        ([100, 100, 1, 1], "holds none of 17 labelled keypoints; that of the keypoints", False),
        ([10, 200, 175, 60], r"holds [23] of 17 labelled keypoints$", True),
        ([10, 20, 0, 30], "must be four numbers x, y, w, h with an area", False),
        ([10, 20, 10**400, 30], "must be four numbers", False),
        (["10", "20", "30", "40"], "must be four numbers", False),
        ([True, True, True, True], "must be four numbers", False),
    ],
)  # fmt: skip
def test_odd_boxes(box: list[float], words: str, is_kept: bool) -> None:
    checked = plausible.check_person(PERSON, box, SIZE, "coco17")
    assert len(checked.notes) == 1
    assert re.search(words, checked.notes[0]), checked.notes
    assert (checked.box is not None) == is_kept
    assert checked.problem is None


@pytest.mark.parametrize("box", [None, np.full(4, np.nan)])
def test_no_box_is_not_a_fault(box: object) -> None:
    assert said(PERSON, box) == ""


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (
            PERSON / [400, 300, 1],
            r"must be in pixels of the 400 x 300 photo, got all of them within",
        ),
        (PERSON * [1 / 200, 1 / 150, 1] - [1, 1, 0], "within [-1, 1], so they are normalised"),
        (PERSON / [400, 400, 1], "within [0, 1], so they are normalised"),
    ],
)
def test_keypoints_in_fractions_are_refused(points: np.ndarray, words: str) -> None:
    problem = plausible.check_person(points, BOX, SIZE, "coco17").problem
    assert words in str(problem)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (PERSON[:, [1, 0, 2]], "(or the keypoints like y, x)"),
        (PERSON * [1, -1, 1] + [0, 299, 0], "stands on its head"),
        (PERSON * [0.5, 0.5, 1], "those of a picture 0.5 times as large"),
        (PERSON * [3, 3, 1], "those of a picture 3 times as large"),
    ],
)
def test_keypoints_on_other_axes_or_another_scale(points: np.ndarray, words: str) -> None:
    assert words in said(points, BOX)


@pytest.mark.parametrize(
    ("truth", "given"),
    [
        ("op25b", "op25"),
        ("op25", "op25b"),
        ("h36m17_rightfirst", "coco17"),
        ("lsp14", "crowdpose14"),
    ],
)
def test_most_people_show_the_order(truth: str, given: str) -> None:
    points = to_set(truth)
    sentence = plausible.find_other_order_of_all([points] * 8, given)
    assert truth in sentence
    assert f"rather than {given}" in sentence
    assert plausible.find_other_order_of_all([points] * 8, truth) == ""
    assert plausible.find_other_order_of_all([points] * 7, given) == ""


def test_one_person_shows_a_plainly_wrong_order() -> None:
    assert "look like op25 rather than op25b" in said(to_set("op25"), BOX, "op25b")


@pytest.mark.parametrize(
    ("pinhole", "words"),
    [
        ([[400, 0, 200], [0, 400, 150]], None),
        ([[35, 0, 199.5], [0, 35, 149.5]], "a view of 160 degrees .* mm film is 389 pixels"),
        ([[0.9, 0, 199.5], [0, 0.9, 149.5]], "a view of 179 degrees"),
        ([[1.2, 0, 0.5], [0, 1.2, 0.5]], "must be in pixels .* multiply by its width and height"),
        ([[400, 0, 0], [0, 400, 0]], "a principal point of 0, 0 is the corner .* 199.5, 149.5"),
        ([[400, 0, 900], [0, 400, 500]], "the principal point 900, 500 lies beside"),
    ],
)  # fmt: skip
def test_pinholes(pinhole: list[list[float]], words: str | None) -> None:
    notes = plausible.check_pinhole(np.array([*pinhole, [0, 0, 1.0]]), SIZE)
    assert len(notes) == (words is not None)
    assert words is None or re.search(words, notes[0]), notes


def test_ends_of_fits() -> None:
    assert plausible.check_error(20.0, BOX) == ""
    assert "0.27 of the person's box" in plausible.check_error(60.0, BOX)
    assert plausible.check_error(float("nan"), BOX) == ""
    flip = list(JOINT_SETS["coco17"].flip)
    projected = PERSON[:, :2] + 2.0
    assert plausible.find_swapped_sides(projected, PERSON, "coco17") == ""
    assert "look exchanged" in plausible.find_swapped_sides(projected, PERSON[flip], "coco17")
    # From the side left and right are in one place, and nothing can be said.
    narrow = PERSON * [0.05, 1, 1]
    assert plausible.find_swapped_sides(narrow[:, :2], narrow[flip], "coco17") == ""
    good, odd = np.full(10, 0.5), np.array([0.0, -6.5])
    assert plausible.find_body_fault(good, 0.8, 1.7) == ""
    assert "6.5 standard deviations" in plausible.find_body_fault(odd, 0.8)
    assert "behind the camera" in plausible.find_body_fault(good, -0.1)
    assert "170.00 m tall" in plausible.find_body_fault(good, 0.8, 170.0)


def test_arguments_are_not_changed() -> None:
    points = PERSON * [1, 1, 2]
    box = np.array(BOX)
    before = points.copy()
    plausible.check_person(points, box, SIZE, "coco17")
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(box, BOX)
