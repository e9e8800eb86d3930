"""The withheld-keypoint test: what is hidden stays hidden, and errors are what they are called."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eft_fast.evaluation.photos import (
    LIMBS,
    PhotoMethod,
    PhotoPeople,
    PhotoScore,
    Protocol,
    compare,
    default_names,
    make_draw,
    photo_methods,
    run_photos,
    score_draw,
    summarise,
)
from eft_fast.evaluation.photos_table import to_markdown
from eft_fast.keypoints import JOINT_SETS

NAMES = JOINT_SETS["coco17"].names


def make_people(count: int = 6, *, first: int = 0) -> PhotoPeople:
    """People in boxes of 100 x 400 px, two labels missing of each."""
    keypoints = np.zeros((count, 17, 3))
    boxes = np.zeros((count, 4))
    for row in range(count):
        rng = np.random.default_rng(first + row)
        boxes[row] = [50 * row, 20, 100, 400]
        keypoints[row, :, :2] = boxes[row, :2] + rng.random((17, 2)) * boxes[row, 2:]
        keypoints[row, :, 2] = 1
        keypoints[row, :2, 2] = 0
    ids = [f"{first + row}.jpg/7" for row in range(count)]
    return PhotoPeople([""] * count, keypoints, boxes, "coco17", ids)


def take(people: PhotoPeople, rows: list[int]) -> PhotoPeople:
    photos, ids = ([each[row] for row in rows] for each in (people.photos, people.ids))
    return PhotoPeople(photos, people.keypoints[rows], people.boxes[rows], "coco17", ids)


def test_a_third_is_withheld_and_nothing_of_it_is_given():
    people = make_people()
    draw = make_draw(people, Protocol(), 0)
    assert draw.is_withheld.sum(1).tolist() == [5] * 6
    assert draw.is_given.sum(1).tolist() == [10] * 6
    assert not draw.keypoints[draw.is_withheld].any()
    assert not (draw.is_withheld | draw.is_given)[:, :2].any()
    assert (draw.keypoints[draw.is_given] == people.keypoints[draw.is_given]).all()
    other = make_draw(people, Protocol(), 1)
    assert (other.is_withheld != draw.is_withheld).any()
    assert (make_draw(people, Protocol(seed=1), 0).is_withheld != draw.is_withheld).any()


def test_what_is_hidden_of_a_person_depends_on_nobody_else():
    people = make_people()
    for form in ("random", "limb", "outliers"):
        together = make_draw(people, Protocol(form), 2)
        alone = make_draw(take(people, [4, 1]), Protocol(form), 2)
        assert (together.is_withheld[[4, 1]] == alone.is_withheld).all()
        assert (together.keypoints[[4, 1]] == alone.keypoints).all()


def test_few_labels_leave_three():
    people = make_people(1)
    people.keypoints[0, 6:, 2] = 0
    draw = make_draw(people, Protocol(withhold=0.9), 0)
    assert (draw.is_given.sum(), draw.is_withheld.sum()) == (3, 1)
    people.keypoints[0, 5:, 2] = 0
    draw = make_draw(people, Protocol(), 0)
    assert (draw.is_given.sum(), draw.is_withheld.sum()) == (3, 0)


def test_a_limb_is_elbow_and_wrist_or_knee_and_ankle():
    people = make_people(12)
    people.keypoints[3, [NAMES.index(joint) for limb in LIMBS for joint in limb[:1]], 2] = 0
    seen = set()
    for number in range(4):
        draw = make_draw(people, Protocol("limb"), number)
        for row in range(12):
            hidden = tuple(NAMES[k] for k in np.flatnonzero(draw.is_withheld[row]))
            assert hidden in LIMBS if row != 3 else hidden == ()
            seen.add(hidden)
    assert len(seen) == 5


def test_outliers_are_in_the_box_and_do_not_count_as_given():
    people = make_people(40)
    draw = make_draw(people, Protocol("outliers", outliers=0.25), 0)
    moved = (draw.keypoints[..., 2] > 0) & ~draw.is_given
    assert 0.15 < moved.sum() / (moved | draw.is_given).sum() < 0.35
    at = np.nonzero(moved)
    place = (draw.keypoints[at][:, :2] - people.boxes[at[0], :2]) / people.boxes[at[0], 2:]
    assert ((place >= 0) & (place <= 1)).all()
    assert not (draw.keypoints[at][:, :2] == people.keypoints[at][:, :2]).any()


def test_errors_are_over_the_root_of_the_boxs_area():
    """10 px off in a box of 100 x 400 px: 0.05 of its root area, 200 px."""
    people = make_people(3)
    draw = make_draw(people, Protocol(), 0)
    found = people.keypoints[..., :2].copy()
    found[draw.is_withheld] += [9.98, 0]
    found[2] = np.nan
    values = score_draw(found, people, draw)
    np.testing.assert_allclose(values["given_error"][:2], 0, atol=1e-12)
    np.testing.assert_allclose(values["withheld_error"][:2], 0.0499, rtol=1e-9)
    assert values["withheld_pck_0.05"][:2].tolist() == [1, 1]
    found[draw.is_withheld] += [0.04, 0]
    values = score_draw(found, people, draw)
    assert values["withheld_pck_0.05"].tolist() == [0, 0, 0]
    assert values["withheld_pck_0.1"].tolist() == [1, 1, 0]
    # Who has no fit has no error, and nothing right.
    assert np.isnan(values["withheld_error"][2])
    assert values["given_pck_0.1"].tolist() == [1, 1, 0]


def test_all_labels_may_be_given():
    """Then there is nothing to say about what is withheld."""
    people = make_people()
    draw = make_draw(people, Protocol("all", draws=1), 0)
    assert (draw.is_given == people.is_labelled).all()
    assert (draw.keypoints[people.is_labelled] == people.keypoints[people.is_labelled]).all()
    assert not draw.is_withheld.any()
    methods = [PhotoMethod(name, {"method": "m"}) for name in ("eft", "smplify_spin_gmm")]
    scores = list(run_photos(perfect(people, 2.0), people, methods, Protocol("all", draws=1)))
    rows = summarise(scores)
    assert rows["eft"]["given_pck_0.05"] == 1
    assert not [key for key in rows["eft"] if key.startswith("withheld")]
    assert compare(scores) == {}
    page = to_markdown(
        {"people": 6, "draws": 8, "withhold": 0.33, "outliers": 0.0, "seed": 0, "regressor": "r",
         "weights_hash": "h", "body": "b", "threads": 1, "device": "d",
         "forms": [{"form": "all", "people": 6, "methods": rows, "differences": {}}]}, ""
    )  # fmt: skip
    page = page.split("## All labels given")[1]
    assert "| method | given PCK@0.1 | given PCK@0.05 | fits/s |" in page
    assert "withheld" not in page


def test_an_unknown_box_is_that_of_all_labels():
    people = make_people(1)
    people.boxes[0] = np.nan
    box = people.known_boxes()[0]
    labelled = people.keypoints[0, 2:, :2]
    np.testing.assert_allclose(box[:2], labelled.min(0))
    np.testing.assert_allclose(box[2:], np.ptp(labelled, axis=0))


def perfect(people: PhotoPeople, shift: float):
    """A fit that knows the labels, and misses what it was not given by ``shift`` px."""

    def fit(photos, keypoints, *, bboxes, joint_set, progress, method):
        assert method == "m"
        found = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], people.keypoints[..., :2])
        found = found + np.where(keypoints[..., 2:] > 0, 0, shift)
        return SimpleNamespace(keypoints_2d_px=lambda name: torch.from_numpy(found))

    return fit


def test_run_summary_and_page():
    people = make_people()
    scores: list[PhotoScore] = []
    for name, shift in (("none", 20.0), ("eft", 2.0), ("smplify_spin_gmm", 4.0)):
        method = PhotoMethod(name, {"method": "m"})
        scores += run_photos(perfect(people, shift), people, [method], Protocol(draws=3))
    rows, differences = summarise(scores), compare(scores)
    assert rows["eft"]["given_pck_0.1"] == 1
    assert rows["eft"]["withheld_error"] == pytest.approx(2 * 2**0.5 / 200)
    assert rows["none"]["withheld_pck_0.1"] == 0
    assert rows["eft"]["fits_per_second"] == pytest.approx(18 / scores[1].seconds)
    row = differences["none"]["eft"]
    assert row["withheld_error"] == pytest.approx(18 * 2**0.5 / 200)
    assert row["withheld_error_low"] > 0
    form = {"form": "random", "people": 6, "methods": rows, "differences": differences}
    summary = {
        "people": 6, "draws": 3, "withhold": 0.33, "outliers": 0.0, "seed": 0, "regressor": "r",
        "weights_hash": "h", "body": "b", "threads": 1, "device": "d", "forms": [form],
    }  # fmt: skip
    page = to_markdown(summary, "eft-fast eval photos PHOTOS --annotations FILE")
    assert "eft has the lowest error (0.0141" in page
    assert "eft has a lower withheld error than 1 of 1 rows of SMPLify, than 1 of them" in page
    assert "loses" not in page
    worse = to_markdown(summary | {"forms": [swapped(form)]}, "")
    assert "It loses beyond doubt to smplify_spin_gmm." in worse


def swapped(form: dict) -> dict:
    """The same with the names of EFT and SMPLify exchanged."""
    names = {"eft": "smplify_spin_gmm", "smplify_spin_gmm": "eft", "none": "none"}
    return form | {
        "methods": {names[name]: row for name, row in form["methods"].items()},
        "differences": {
            names[first]: {names[second]: row for second, row in rows.items()}
            for first, rows in form["differences"].items()
        },
    }


@pytest.mark.parametrize(("first", "sign"), [("eft", 1), ("smplify_spin_gmm", -1)])
def test_an_interval_across_zero_is_no_proof(first, sign):
    """Whichever of the two came first."""
    second = {"eft": "smplify_spin_gmm", "smplify_spin_gmm": "eft"}[first]
    low, high = sorted((-0.3 * sign, 0.1 * sign))
    row = {"withheld_error": -0.1 * sign, "withheld_error_low": low, "withheld_error_high": high}
    row |= {f"withheld_pck_0.1{end}": 0.0 for end in ("", "_low", "_high")}
    values = {key: 0.5 for key in ("fits_per_second",)}
    for key in ("given_pck_0.1", "given_pck_0.05", "withheld_pck_0.1", "withheld_pck_0.05"):
        values |= {f"{key}{end}": 0.5 for end in ("", "_low", "_high")}
    values |= {f"withheld_error{end}": 0.1 for end in ("", "_low", "_high")}
    form = {"form": "limb", "people": 6, "methods": {"eft": values, "smplify_spin_gmm": values},
            "differences": {first: {second: row}}}  # fmt: skip
    page = to_markdown(
        {"people": 6, "draws": 3, "withhold": 0.33, "outliers": 0.0, "seed": 0, "regressor": "r",
         "weights_hash": "h", "body": "b", "threads": 1, "device": "d", "forms": [form]}, ""
    )  # fmt: skip
    assert "eft has a lower withheld error than 1 of 1 rows of SMPLify, than 0 of them" in page
    assert "loses" not in page


def test_rows_have_names_and_the_default_ones_are_there():
    known = photo_methods()
    assert {"none", "eft", "eft_released", "smplify_spin_gmm", "smplify_tied_anchor"} <= set(known)
    assert set(default_names()) <= set(known)
    assert known["eft_released"].arguments["config"].tie is None
    assert known["map_fill"].arguments["config"].fill == "landmarks"
    assert known["map_movenet"].arguments["config"].fill == "movenet"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "half"}, "form must be one of random, limb, outliers, all"),
        ({"withhold": 0.0}, r"withhold must be in \(0, 1\)"),
        ({"outliers": 1.0}, r"outliers must be in \[0, 1\)"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Protocol(**options)
