"""Fits that are wrong on purpose: the report's first screen and the overlays say so of each."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eft_fast.cli.report_rows import judge_people
from eft_fast.result import FitResult
from eft_fast.viz.fits import write_overlays
from eft_fast.viz.report import worst_first, write_report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))
import wrong_fits

#: What is said of each, among other things: a reader needs no more than the words.
SAID = {
    "front and back exchanged": "turned by 1",
    "faces away": "turned by 1",
    "seated drawn standing": "far from its keypoints",
    "on somebody else": "far from its keypoints",
    "half as large": "far from its keypoints",
    "beside the person": "far from its keypoints",
    "collapsed": "a joint bent beyond its range",
    "upside down": "far from its keypoints",
    "knees backwards": "a joint bent beyond its range",
    "leaning in depth": "far from its keypoints",
    "nobody's shape": "the body's shape is no person's",
    "arms exchanged": "left and right of the arms look exchanged",
    "sides exchanged": "left and right look exchanged",
    "legs guessed": "no keypoint on the legs, which are a guess",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What was made, and the rows of its report."""
    folder, made = tmp_path_factory.mktemp("wrong"), wrong_fits.make_fits()
    result = FitResult.concatenate([one.result for one in made])
    names, labels = [one.photo for one in made], [one.name for one in made]
    judged = judge_people(result, [str(k) for k in range(len(made))])
    photos = [wrong_fits.DEMO / name for name in names]
    overlays = folder / "overlays"
    rows = write_overlays(result, photos, names, labels, overlays, warnings=judged.words)
    return made, judged.to_rows(rows), folder


def test_every_wrong_fit_is_told_in_words(drawn):
    _, rows, _ = drawn
    assert {row.person for row in rows} == {"good", *SAID}
    for row in rows:
        words = "; ".join([*row.reasons, *row.remarks, row.message])
        assert SAID.get(row.person, "") in words, f"{row.person}: {words}"
        if row.person not in ("good", "legs guessed"):
            assert row.level == "reject", f"{row.person}: {row.level}"
    assert [row.level for row in rows[:2]] == ["keep", "keep"]  # the renders, whose truth is known


def test_the_wrong_come_first(drawn):
    _, rows, _ = drawn
    order = [rows[k].person for k in worst_first(rows)]
    first_good = order.index("good")
    assert set(order[:first_good]) >= set(SAID) - {"legs guessed"}
    kept = [rows[k].person for k in worst_first(rows) if rows[k].level == "keep"]
    assert kept[0] == "legs guessed", "a guess stands before the fits of which nothing is said"


def test_overlays_carry_the_words(drawn):
    _, rows, _ = drawn
    colour = np.array([255, 150, 130])

    def has_warning(row):
        strip = np.asarray(Image.open(row.panel))[-60:-30]
        return bool((np.abs(strip.astype(int) - colour).max(-1) < 20).sum() > 100)

    assert not has_warning(rows[0])  # the runner, of whom nothing is said
    assert all(has_warning(row) for row in rows if row.person != "good")


def test_the_first_screen_shows_them(drawn, open_page):
    _, rows, folder = drawn
    rows = [replace(row, key=str(k)) for k, row in enumerate(rows)]
    page = open_page(write_report(folder / "report.html", rows))
    assert "13" in page.inner_text(".tile:has-text('rejected by the rules') b")
    first = page.inner_text(".person[aria-current=true]")
    assert "reject" in first
    assert "far from its keypoints" in first
    page.select_option("#level", "keep")
    assert "no keypoint on the legs" in page.inner_text(".person[aria-current=true]")
