"""The HTML report: parsed with the standard library, no browser."""

from __future__ import annotations

import base64
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from eft_fast.viz.report import (
    THUMBNAIL_BYTES,
    ReportRow,
    ReportSummary,
    make_thumbnail,
    write_report,
)

HOSTILE = "<script>alert('x')</script>\"&.jpg"
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Elements with attributes, texts, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def content(self):
        """What the page's script is given."""
        (text,) = (t for t in self.texts if t.startswith('{"run"'))
        return json.loads(text)

    @property
    def people(self):
        return self.content["people"]


def make_row(k=0, **change):
    values = {
        "name": f"photo{k}.jpg",
        "person": f"person {k}",
        "init_kp_error_px": 30.0 + k,
        "kp_error_px": 6.0 + k,
        "loss": 1e-3,
        "steps": 20,
        "stop_reason": "converged",
    }
    return ReportRow(**{**values, **change})


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_totals_and_rows(tmp_path):
    summary = ReportSummary(
        "Seventeen & more", 4.0, 0.61, 0.884, facts={"body": "open (CC0-1.0)"}, notes=["A note."]
    )
    rows = [make_row(k) for k in range(8)] + [make_row(8, stop_reason="max_steps")]
    page = read(write_report(tmp_path / "sub" / "report.html", rows, summary))
    text = " ".join(page.texts)
    for expected in ("Seventeen & more", "34.0", "10.0 px", "61.0%", "88.4%", "2.25", "A note."):
        assert expected in text
    assert "open (CC0-1.0)" in text
    assert [a["errorPx"] for a in page.people] == [6.0 + k for k in range(9)]
    assert {a["stopped"] for a in page.people} == {"converged", "max_steps"}
    orders = {a["value"] for a in page.all("option")} & {"error", "initError", "loss", "steps"}
    assert orders <= set(page.people[0])
    assert len(orders) == 4


def test_errors_are_shares_of_the_box_and_levels_are_counted(tmp_path):
    """Sixteen pixels are little on a large person and much on a small one."""
    rows = [
        make_row(0, kp_error_px=16.0, init_kp_error_px=40.0, size_px=800.0, level="keep"),
        make_row(1, kp_error_px=16.0, init_kp_error_px=20.0, size_px=40.0, level="reject",
                 reasons=("far from its keypoints",), remarks=("cut",), sigma_mm=80.0),
        make_row(2, size_px=100.0, level="doubtful"),
    ]  # fmt: skip
    page = read(write_report(tmp_path / "report.html", rows))
    assert [p["error"] for p in page.people[:2]] == [0.02, 0.4]
    assert [p["initError"] for p in page.people[:2]] == [0.05, 0.5]
    assert [p["level"] for p in page.people] == ["keep", "reject", "doubtful"]
    assert page.people[1]["why"] == ["far from its keypoints"]
    assert page.people[1]["remarks"] == ["cut"]
    assert [p["sigma"] for p in page.people] == [None, 80.0, None]
    text = " ".join(page.texts)
    for expected in ("16.7%", "kept by the rules", "80.0 mm", "far from its keypoints"):
        assert expected in text
    assert "sigma" in {a["value"] for a in page.all("option")}


def test_verdicts_go_along_and_need_keys(tmp_path):
    summary = ReportSummary(run_id="abc", verdicts={"a": ("keep", ""), "gone": ("reject", "why")})
    rows = [make_row(0, key="a"), make_row(1, key="b", can_accept=False)]
    content = read(write_report(tmp_path / "report.html", rows, summary)).content
    assert content["run"] == "abc"
    assert content["takesVerdicts"] is True
    assert content["verdicts"] == [["a", "keep", ""], ["gone", "reject", "why"]]
    assert [p["canAccept"] for p in content["people"]] == [True, False]
    rows[1] = make_row(1)
    content = read(write_report(tmp_path / "report.html", rows)).content
    assert content["takesVerdicts"] is False
    assert len(content["run"]) == 16
    with pytest.raises(ValueError, match="keys must be unique, got 'a' more than once"):
        write_report(tmp_path / "report.html", [make_row(0, key="a"), make_row(1, key="a")])
    with pytest.raises(ValueError, match="a level must be one of keep, doubtful, reject, got 'go"):
        write_report(tmp_path / "report.html", [make_row(0, level="good")])


def test_hostile_names_stay_text(tmp_path):
    row = make_row(
        name=HOSTILE,
        person=HOSTILE,
        message=HOSTILE,
        stop_reason=HOSTILE,
        panel=tmp_path / "a#b?<c>.png",
        picture=np.zeros((9, 9, 3), np.uint8),
    )
    summary = ReportSummary(HOSTILE, facts={HOSTILE: HOSTILE}, notes=[HOSTILE])
    page = read(write_report(tmp_path / "report.html", [row], summary))
    assert [a.get("type") for a in page.all("script")] == ["application/json", None]
    assert page.texts.count(HOSTILE) >= 5
    (person,) = page.people
    assert not page.all("a")
    link = person["link"]
    assert not set(link) & set("#?<>\"' ")
    assert unquote(link) == "./a#b?<c>.png"
    for name in ("name", "person", "message", "stopped"):
        assert person[name] == HOSTILE


def test_page_needs_nothing_from_outside(tmp_path):
    rows = [make_row(k, picture=np.zeros((20, 30, 3), np.uint8)) for k in range(3)]
    text = write_report(tmp_path / "report.html", rows).read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    page = Page(text)
    assert not page.all("link")
    assert all("src" not in a for a in page.all("script"))
    assert len(page.people) == 3
    for person in page.people:
        head, data = person["thumbnail"].split(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (30, 20)
    assert "in this file (up to 250 people)" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_many_people_get_thumbnail_files(tmp_path):
    """A thousand people: the page itself stays small."""
    picture = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    rows = [make_row(k, picture=picture) for k in range(1000)]
    path = write_report(tmp_path / "report.html", rows)
    assert path.stat().st_size < 600_000
    page = read(path)
    assert "in report_thumbnails beside this file (beyond 250 people)" in " ".join(page.texts)
    sources = [unquote(person["thumbnail"]) for person in page.people]
    assert len(sources) == len(set(sources)) == 1000
    for source in sources[:3]:
        assert Image.open(tmp_path / source).size == (96, 48)


def test_thumbnails_are_small_whatever_they_show():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1900, 3)).astype(np.uint8)
    data, width, height = make_thumbnail(noise)
    assert len(data) <= THUMBNAIL_BYTES
    assert Image.open(io.BytesIO(data)).size == (width, height)
    assert width <= 440


def test_panel_file_becomes_the_thumbnail(tmp_path):
    (tmp_path / "overlays").mkdir()
    panel = tmp_path / "overlays" / "photo 1.png"
    Image.new("RGB", (50, 40), (200, 0, 0)).save(panel)
    page = read(write_report(tmp_path / "report.html", [make_row(panel=panel)]))
    (person,) = page.people
    assert person["link"] == "./overlays/photo%201.png"
    assert person["thumbnail"].startswith("data:image/jpeg")


def test_unknown_numbers_are_null_and_leave_the_means(tmp_path):
    rows = [
        make_row(0, init_kp_error_px=40.0, kp_error_px=10.0),
        make_row(
            1,
            init_kp_error_px=math.nan,
            kp_error_px=math.nan,
            loss=math.nan,
            stop_reason="bad_image",
            message="load_image: no file b.jpg",
        ),
    ]
    page = read(write_report(tmp_path / "report.html", rows))
    text = " ".join(page.texts)
    assert "10.0 px" in text
    bad = page.people[1]
    assert bad["message"] == "load_image: no file b.jpg"
    assert [bad[name] for name in ("error", "errorPx", "initErrorPx", "loss")] == [None] * 4
    assert bad["hasFit"] is False


def test_confidence_is_a_number_and_a_dot_per_joint(tmp_path):
    """Sure of all but the right wrist; nothing is known of the second one."""
    said = np.full(24, 0.8)
    said[21], said[0] = 0.1, 1.0
    rows = [
        make_row(0, joint_confidence=said),
        make_row(1),
        make_row(2, joint_confidence=said / 2),
    ]
    page = read(write_report(tmp_path / "report.html", rows))
    mean = (22 * 0.8 + 0.1) / 23
    assert page.people[0]["confidence"] == pytest.approx(mean, rel=1e-5)
    assert page.people[1]["confidence"] is None
    assert "confidence" in {a["value"] for a in page.all("option")}
    dots = page.people[0]["dots"]
    assert dots.count("3") == 23
    assert dots[21] == "0"
    assert page.people[1]["dots"] == ""
    assert page.people[2]["dots"].count("1") == 22
    assert page.people[2]["dots"][0] == "2"
    text = " ".join(page.texts)
    assert "mean confidence of the start" in text
    assert f"{0.75 * mean:.0%}" in text
    assert page.people[0]["unsure"].startswith("least confident: rwri 10%")
    assert len({tuple(place) for place in page.content["places"]}) == 24


def test_without_confidence_there_is_no_column(tmp_path):
    unknown = make_row(1, joint_confidence=np.full(24, np.nan))
    page = read(write_report(tmp_path / "report.html", [make_row(0), unknown]))
    assert "confidence" not in {a["value"] for a in page.all("option")}
    assert "mean confidence of the start" not in " ".join(page.texts)
    with pytest.raises(ValueError, match=r"confidence must be \[24\], got \[23\]"):
        write_report(tmp_path / "report.html", [make_row(0, joint_confidence=np.ones(23))])


def test_report_of_nobody(tmp_path):
    page = read(write_report(tmp_path / "report.html", []))
    assert page.people == []
    assert page.content["takesVerdicts"] is False


def test_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="write_report: a file name expected, got the folder"):
        write_report(tmp_path, [])
