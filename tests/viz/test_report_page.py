"""The report in a browser: it sorts, filters, takes verdicts and saves them. Needs a Chromium."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eft_fast.pseudo_gt import Verdict, load_verdicts, save_verdicts
from eft_fast.viz.report import ReportRow, ReportSummary, worst_first, write_report

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&.jpg"


def make_rows(count, **change):
    """Three levels in turn, the errors the larger the later; person 7 has no fit."""
    levels = ("keep", "doubtful", "reject")
    rows = []
    for k in range(count):
        failed = k == 7
        values = {
            "name": f"photo{k:04d}.jpg",
            "person": str(k),
            "key": f"id{k}",
            "init_kp_error_px": 30.0 + k,
            "kp_error_px": float("nan") if failed else 2.0 + k / count,
            "size_px": 100.0,
            "loss": 1e-3,
            "steps": k % 20,
            "stop_reason": "bad_image" if failed else "converged",
            "level": "reject" if failed else levels[k % 3],
            "reasons": ("no fit",) if failed else ((), ("unusual shape",), ("swapped",))[k % 3],
            "can_accept": not failed,
        }
        rows.append(ReportRow(**{**values, **change}))
    return rows


def numbers(page):
    """Who is shown, from above."""
    return [int(number) for number in page.evaluate(
        "[...document.querySelectorAll('.person')].sort((a, b) => a.offsetTop - b.offsetTop)"
        ".map(row => row.dataset.number)"
    )]  # fmt: skip


def current(page):
    return int(page.locator(".person[aria-current=true]").get_attribute("data-number"))


def save(page):
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "selection.json"
    return Path(waiting.value.path())


def test_worst_come_first_and_filters_narrow(tmp_path, open_page):
    page = open_page(write_report(tmp_path / "report.html", make_rows(9)))
    # Rejected by size of error, the one without a fit behind them, then the doubtful.
    assert numbers(page)[:6] == [9, 6, 3, 8, 5, 2]
    # What writes other pages in this order sees the same one.
    order = [k + 1 for k in worst_first(make_rows(9))]
    assert numbers(page) == order[: len(numbers(page))]
    rows = make_rows(9)
    rows[0] = replace(rows[0], message="the body is 3.4 m tall")  # and kept by the rules
    other = open_page(write_report(tmp_path / "other.html", rows))
    other.select_option("#level", "keep")
    assert numbers(other) == [1, 7, 4]
    page.select_option("#order", "number")
    assert numbers(page)[:3] == [1, 2, 3]
    page.click("#turn")
    assert numbers(page)[:3] == [9, 8, 7]
    page.click("#turn")
    page.select_option("#order", "error")
    assert numbers(page)[0] == 9
    assert page.evaluate("document.querySelector('#people').textContent").count("unusual") == 2
    page.select_option("#level", "doubtful")
    assert sorted(numbers(page)) == [2, 5]
    assert page.inner_text("#shown") == "2 of 9 people"
    page.select_option("#level", "")
    page.fill("#filter", "photo0004")
    assert numbers(page) == [5]


def test_keyboard_says_saves_and_undoes(tmp_path, open_page):
    """Reject, accept with a note, undo; the file is what save_verdicts writes, byte for byte."""
    before = {"id4": ("reject", ""), "stranger": ("keep", "of another \u00e9")}
    summary = ReportSummary(run_id="run 1", verdicts=before)
    path = write_report(tmp_path / "report.html", make_rows(9), summary)
    page = open_page(path)
    page.select_option("#order", "number")
    page.focus(".person[aria-current=true]")
    page.keyboard.press("r")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert current(page) == 3
    page.keyboard.press("a")
    page.keyboard.press("n")
    page.keyboard.type('ok, "r" u <b>')
    page.keyboard.press("Enter")
    page.keyboard.press("k")
    page.keyboard.press("r")
    assert "3 rejected; 3 not saved" in page.inner_text("#counts")
    page.keyboard.press("u")
    assert "Undone: photo0001.jpg 1." in page.inner_text("#told")
    rejected = page.locator(".person[data-number='1'] .rejected")
    assert rejected.get_attribute("aria-pressed") == "true"
    said = load_verdicts(save(page))
    assert said == {
        "id4": Verdict("reject"),
        "stranger": Verdict("keep", "of another \u00e9"),
        "id0": Verdict("reject"),
        "id2": Verdict("keep", 'ok, "r" u <b>'),
    }
    written = save_verdicts(tmp_path / "selection.json", said).read_bytes()
    assert save(page).read_bytes() == written
    assert "all saved" in page.inner_text("#counts")
    # A second visit finds everything; a person without a fit cannot be accepted.
    again = open_page(path, context=page.context)
    assert "2 accepted, 2 rejected; all saved" in again.inner_text("#counts")
    again.fill("#filter", "photo0007")
    again.focus(".person")
    again.keyboard.press("a")
    assert "has no fit to accept" in again.inner_text("#told")


def test_buttons_say_it_too_and_take_it_back(tmp_path, open_page):
    page = open_page(write_report(tmp_path / "report.html", make_rows(3)))
    row = page.locator(".person[data-number='2']")
    assert row.locator(".note").is_disabled()
    row.locator(".accept").click()
    assert "keep" in row.get_attribute("class")
    row.locator(".rejected").click()
    assert row.locator(".accept").get_attribute("aria-pressed") == "false"
    assert "reject" in row.get_attribute("class")
    row.locator(".rejected").click()
    assert "doubtful" in row.get_attribute("class")
    assert "0 accepted, 0 rejected" in page.inner_text("#counts")
    assert load_verdicts(save(page)) == {}


def test_a_file_is_loaded_and_a_wrong_one_is_told(tmp_path, open_page):
    page = open_page(write_report(tmp_path / "report.html", make_rows(3)))
    there = {"id1": Verdict("reject", "why"), "__proto__": Verdict("keep"), "7": Verdict("keep")}
    save_verdicts(tmp_path / "mine.json", there)
    page.set_input_files("#file", tmp_path / "mine.json")
    page.wait_for_function("document.querySelector('#told').textContent.includes('Loaded')")
    assert "Loaded 3 from mine.json; 2 about nobody here." in page.inner_text("#told")
    assert page.locator(".person[data-number='2'] .note").input_value() == "why"
    assert load_verdicts(save(page)) == there
    for text, words in (
        ("{", "no file of verdicts"),
        ('{"format": "eft-fast-selection/1", "people": {"id1": "maybe"}}', "verdict on id1"),
        ('{"people": {}}', "it must hold"),
    ):
        (tmp_path / "bad.json").write_text(text)
        page.set_input_files("#file", tmp_path / "bad.json")
        page.wait_for_function(
            "text => document.querySelector('#told').textContent.includes(text)", arg=words
        )
    assert load_verdicts(save(page)) == there


def test_the_picker_writes_where_it_is_told(tmp_path, open_page):
    script = """window.written = []; window.asked = 0;
      window.showSaveFilePicker = async options => { ++window.asked; if (window.refuse) {
        throw new DOMException("", "AbortError"); }
        return { name: options.suggestedName, createWritable: async () => ({
          write: async text => window.written.push(text), close: async () => {} }) }; };"""
    page = open_page(write_report(tmp_path / "report.html", make_rows(3)), script=script)
    page.keyboard.press("r")
    page.evaluate("window.refuse = true")
    page.keyboard.press("s")
    page.wait_for_function("document.querySelector('#told').textContent === 'Not saved.'")
    assert "1 not saved" in page.inner_text("#counts")
    page.evaluate("window.refuse = false")
    for _ in range(2):
        page.keyboard.press("s")
    page.wait_for_function("window.written.length === 2")
    assert page.evaluate("window.asked") == 2  # the second save takes the file that is known
    assert json.loads(page.evaluate("window.written[0]"))["people"] == {"id2": "reject"}


def test_who_wrote_the_file_later_has_the_last_word(tmp_path, open_page):
    """Verdicts of the file and of the browser meet; what is not saved yet is not lost."""
    path = tmp_path / "report.html"

    def write(**verdicts):
        said = {key: (verdict, "") for key, verdict in verdicts.items()}
        write_report(path, make_rows(4), ReportSummary(run_id="r", verdicts=said))

    write(id0="keep", id1="keep")
    page = open_page(path)
    page.fill("#filter", "photo0002")
    page.keyboard.press("Escape")
    page.focus(".person")
    page.keyboard.press("r")
    write(id0="reject")
    page = open_page(path, context=page.context)
    assert "0 accepted, 2 rejected; 1 not saved" in page.inner_text("#counts")
    assert load_verdicts(save(page)) == {"id0": Verdict("reject"), "id2": Verdict("reject")}


def test_hostile_names_stay_text_on_the_page(tmp_path, open_page):
    picture = np.zeros((9, 9, 3), np.uint8)
    rows = make_rows(2, name=HOSTILE, person=HOSTILE, message=HOSTILE, remarks=(HOSTILE,),
                     reasons=(HOSTILE,), stop_reason=HOSTILE, picture=picture)  # fmt: skip
    summary = ReportSummary(HOSTILE, verdicts={"id0": ("keep", HOSTILE), HOSTILE: ("keep", "")})
    path = write_report(tmp_path / "report.html", rows, summary)
    page = open_page(path)
    assert page.locator(".person .name").first.text_content() == HOSTILE
    page.locator(".person .shot").first.click()
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert load_verdicts(save(page))["id0"].note == HOSTILE


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_long_names_do_not_break_the_layout(tmp_path, open_page, width):
    long = "W" * 300
    picture = np.zeros((190, 440, 3), np.uint8)
    rows = make_rows(3, name=long, person=long, message=long, reasons=(long,), picture=picture)
    summary = ReportSummary(long, 1e9, 0.5, 0.99, facts={long: long}, notes=[long])
    page = open_page(write_report(tmp_path / "report.html", rows, summary), width=width)
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = page.evaluate(
        """[...document.querySelectorAll('.card, .tile b, .person, .hand *, .figures b')]
        .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')
        .map(e => e.className + ' ' + e.textContent.slice(0, 30))"""
    )
    assert overflowing == []
    # Rows lie below each other, and what is in one stays in it.
    boxes = page.evaluate(
        """[...document.querySelectorAll('.person')].map(row => [row, ...row.querySelectorAll('*')]
        .map(e => { const b = e.getBoundingClientRect(); return [b.top, b.bottom]; }))"""
    )
    tops = sorted((row[0][0], row[0][1]) for row in boxes)
    assert all(above[1] <= below[0] for above, below in itertools.pairwise(tops))
    buttons = page.locator(".person .accept").all()
    for row, button in zip(boxes, buttons, strict=False):
        box = button.bounding_box()
        assert box["y"] + box["height"] <= row[0][1]


def test_five_thousand_people_sort_at_once(tmp_path, open_page):
    """Few rows are elements, whatever is scrolled to; pictures are asked for when seen."""
    start = time.perf_counter()
    path = write_report(tmp_path / "report.html", make_rows(5000))
    page = open_page(path)
    assert page.inner_text("#shown") == "5,000 people"
    assert time.perf_counter() - start < 60
    took = page.evaluate(
        """(() => { const order = document.querySelector('#order'), begin = performance.now();
        for (const key of ['name', 'error', 'number', 'worst', 'number']) { order.value = key;
          order.dispatchEvent(new Event('change')); document.body.offsetHeight; }
        return (performance.now() - begin) / 5; })()"""
    )
    assert took < 1000  # milliseconds; a tenth of it on a free machine
    assert len(numbers(page)) < 30
    page.keyboard.press("End")
    assert current(page) == 5000
    assert page.locator(".person[aria-current=true]").is_visible()
    page.keyboard.press("Home")
    page.mouse.wheel(0, 300_000)
    page.wait_for_function(
        "[...document.querySelectorAll('.person')].some(e => { const b = "
        "e.getBoundingClientRect(); return b.top > 0 && b.bottom < innerHeight && "
        "e.dataset.number > 1000; })"
    )
    assert len(numbers(page)) < 30


def test_everything_is_reached_by_tab(tmp_path, open_page):
    page = open_page(write_report(tmp_path / "report.html", make_rows(3, panel=Path("a.png"))))
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"filter", "level", "order", "turn", "accept", "rejected", "shot"} <= reached
    assert {"load", "save"} <= reached


def test_a_report_without_keys_takes_no_verdicts(tmp_path, open_page):
    page = open_page(write_report(tmp_path / "report.html", make_rows(3, key="")))
    assert page.locator(".hand").count() == 0
    assert not page.locator("#save").is_visible()
    page.keyboard.press("r")
    page.keyboard.press("j")
    assert current(page) != numbers(page)[0]
