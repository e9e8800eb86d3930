"""The HTML report: parsed with the standard library, no browser."""

from __future__ import annotations

import base64
import io
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
    lines = [a for a in page.all("tr") if "data-after" in a]
    assert [float(a["data-after"]) for a in lines] == [6.0 + k for k in range(9)]
    assert {a["data-reason"] for a in lines} == {"converged", "max_steps"}
    keys = {a["data-key"] for a in page.all("button") if "data-key" in a}
    assert keys <= {name.removeprefix("data-") for name in lines[0]}


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
    assert len(page.all("script")) == 1
    assert page.texts.count(HOSTILE) >= 6
    (link,) = (a["href"] for a in page.all("a"))
    assert not set(link) & set("#?<>\"' ")
    assert unquote(link) == "./a#b?<c>.png"
    (line,) = (a for a in page.all("tr") if "data-name" in a)
    assert line["data-reason"] == HOSTILE


def test_page_needs_nothing_from_outside(tmp_path):
    rows = [make_row(k, picture=np.zeros((20, 30, 3), np.uint8)) for k in range(3)]
    text = write_report(tmp_path / "report.html", rows).read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    page = Page(text)
    assert not page.all("link")
    assert all("src" not in a for a in page.all("script"))
    for image in page.all("img"):
        if "src" in image:
            head, data = image["src"].split(",")
            assert head == "data:image/jpeg;base64"
            assert Image.open(io.BytesIO(base64.b64decode(data))).size == (30, 20)
            assert image["loading"] == "lazy"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_many_people_get_thumbnail_files(tmp_path):
    """A thousand people: the page itself stays small."""
    picture = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    rows = [make_row(k, picture=picture) for k in range(1000)]
    path = write_report(tmp_path / "report.html", rows)
    assert path.stat().st_size < 1_200_000
    sources = [unquote(a["src"]) for a in read(path).all("img") if "src" in a]
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
    assert page.all("a")[0]["href"] == "./overlays/photo%201.png"
    (source,) = (a["src"] for a in page.all("img") if "src" in a)
    assert source.startswith("data:image/jpeg")


def test_unknown_numbers_are_dashes_and_leave_the_means(tmp_path):
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
    assert "load_image: no file b.jpg" in text
    assert "nan" not in text.lower().split()
    assert text.count("\u2013") == 4  # start, fit, left over, loss of the bad one


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
    lines = [a for a in page.all("tr") if "data-confidence" in a]
    assert float(lines[0]["data-confidence"]) == pytest.approx(mean)
    assert [a["data-confidence"] for a in lines][1] == "nan"
    assert {a["data-key"] for a in page.all("button") if "data-key" in a} >= {"confidence"}
    classes = [a["class"] for a in page.all("circle")]
    assert len(classes) == 48
    assert classes[:24].count("s3") == 23
    assert classes[21] == "s0"
    assert classes[24:].count("s1") == 22
    assert classes[24] == "s2"
    text = " ".join(page.texts)
    assert f"{100 * mean:.0f} %" in text
    assert "mean confidence of the start" in text
    assert f"{0.75 * mean:.0%}" in text
    (figure, _) = (a for a in page.all("svg"))
    assert figure["aria-label"].startswith("least confident: rwri 10%")
    places = {(a["cx"], a["cy"]) for a in page.all("circle")}
    assert len(places) == 24


def test_without_confidence_there_is_no_column(tmp_path):
    unknown = make_row(1, joint_confidence=np.full(24, np.nan))
    page = read(write_report(tmp_path / "report.html", [make_row(0), unknown]))
    assert not page.all("circle")
    assert "confidence" not in {a.get("data-key") for a in page.all("button")}
    assert "mean confidence of the start" not in " ".join(page.texts)
    with pytest.raises(ValueError, match=r"confidence must be \[24\], got \[23\]"):
        write_report(tmp_path / "report.html", [make_row(0, joint_confidence=np.ones(23))])


def test_report_of_nobody(tmp_path):
    page = read(write_report(tmp_path / "report.html", []))
    assert "0 people" in " ".join(page.texts)


def test_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="write_report: a file name expected, got the folder"):
        write_report(tmp_path, [])
