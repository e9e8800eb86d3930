"""The page of a review over HTTP, and in a browser. The latter needs a Chromium."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from eft_fast.cli import main
from eft_fast.result import FitResult
from eft_fast.review import ReviewServer

REPO = Path(__file__).resolve().parents[2]


def ask(server, path, body=None, **headers):
    """Status and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    kind = {"Content-Type": "application/json"} if body is not None else {}
    data = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, kind | headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def path_of(server):
    return "/" + server.address.split("/", 3)[3]


def test_only_who_knows_the_address_gets_an_answer(open_session):
    with ReviewServer(open_session()) as server:
        own = path_of(server)
        assert server.address.startswith("http://127.0.0.1:")
        assert ask(server, own)[0] == 200
        assert ask(server, own + "person/0")[0] == 200
        for path in ("/", "/x/", "/x/person/0", own + "person/99", own + "photo/-1",
                     own + "../fits.npz", own + "photo/..%2f..", own + "fits.npz"):  # fmt: skip
            assert ask(server, path)[0] == 404, path
        # A name that leads here is not enough, nor is a form of another page.
        assert ask(server, own, Host="evil.example")[0] == 404
        act = {"do": "say", "verdict": "reject"}
        assert ask(server, own + "person/0", act, **{"Content-Type": "text/plain"})[0] == 404
        assert ask(server, "/x/person/0", act)[0] == 404
        assert ask(server, own + "person/0", act, Host="evil.example:80")[0] == 404
        assert not server.session.verdicts
        assert ask(server, own + "person/0", act)[0] == 200
        assert len(server.session.verdicts) == 1
        for bad in ({"do": "dance"}, {}, {"do": "move", "keypoint": "x"}, {"do": "move"}):
            status, text = ask(server, own + "person/0", bad)
            assert status == 200
            assert "refused" in json.loads(text)


def test_the_page_needs_nothing_from_outside(open_session):
    with ReviewServer(open_session()) as server:
        status, page = ask(server, path_of(server))
        assert status == 200
        assert b"https://" not in page
        assert b"http://" not in page
        answer = urllib.request.urlopen(server.address, timeout=60)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(server.address + "nothing", timeout=60)


def until(page, selector, text):
    """Wait for words; the page's policy lets nobody evaluate a function of theirs."""
    page.locator(selector, has_text=text).wait_for()


def center(page, selector):
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_drag_flip_accept_and_save_in_a_browser(open_session, run, read_edits, open_page):
    session = open_session()
    with ReviewServer(session) as server:
        page = open_page(server.address)
        page.wait_for_selector("#body")
        row = json.loads(page.text_content("#content"))["people"][0]["row"]
        name = "rwri"
        place = session.joints.names.index(name)
        before = session.keypoints(row)[place].copy()
        x, y = center(page, f"[data-keypoint='{place}']")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y + 10, steps=3)
        page.mouse.up()
        until(page, "#told", "again in")
        moved = session.keypoints(row)[place] - before
        assert moved[0] > 4 * moved[1] - 1 > 0
        # The dot stands where it was dropped.
        np.testing.assert_allclose(
            center(page, f"[data-keypoint='{place}']"), (x + 40, y + 10), atol=2
        )
        page.keyboard.press("ArrowUp")
        until(page, "#count", "1 fitted")
        nudged = session.keypoints(row)[place]
        assert nudged[1] < before[1] + moved[1]
        page.click("[data-bone=left_forearm]")
        page.wait_for_selector("[data-bone=left_forearm][aria-pressed=true]")
        page.fill("#note", "seen")
        page.keyboard.press("Tab")
        page.locator("h2").first.click()
        page.keyboard.press("a")
        page.wait_for_selector("#accept[aria-pressed=true]")
        page.keyboard.press("s")
        until(page, "#told", "Saved in")
    found = read_edits()[session.keys[row]]
    assert found["flips"] == ["left_forearm"]
    assert found["keypoints"][name] == pytest.approx([*nudged[:2], 1])
    saved = FitResult.load(run / "review" / "fits.npz")
    assert float(saved.keypoints[row, place, 0]) == pytest.approx(nudged[0], abs=1e-3)
    verdicts = json.loads((run / "review" / "selection.json").read_text())["people"]
    assert verdicts == {session.keys[row]: {"verdict": "keep", "note": "seen"}}
    out = run / "out.json"
    arguments = ["convert", str(run / "review"), "--to", "eft-json", "--select", "--out", str(out)]
    assert main([*arguments, "--quiet"]) == 0
    assert session.result.id[row] in {
        str(record["annotId"]) for record in json.loads(out.read_text())["data"]
    }


def test_add_remove_and_undo_in_a_browser(open_session, open_page):
    session = open_session()
    with ReviewServer(session) as server:
        page = open_page(server.address)
        page.wait_for_selector("#body")
        row = json.loads(page.text_content("#content"))["people"][0]["row"]
        before = session.keypoints(row).copy()
        place = int(np.flatnonzero(before[:, 2] > 0)[-1])
        name = session.joints.names[place]
        page.focus(f"[data-keypoint='{place}']")
        page.keyboard.press("Delete")
        page.wait_for_selector(f"[data-keypoint='{place}']", state="detached")
        assert session.keypoints(row)[place, 2] == 0
        assert page.inner_text("#suggestion") != "nothing to suggest"
        page.click(f"#missing button:text-is('{name}')")
        x, y = center(page, "#photo")
        page.mouse.click(x, y)
        page.wait_for_selector(f"[data-keypoint='{place}']")
        assert session.keypoints(row)[place, 2] == 1
        np.testing.assert_allclose(center(page, f"[data-keypoint='{place}']"), (x, y), atol=2)
        page.keyboard.press("u")
        page.keyboard.press("u")
        until(page, "#count", "0 fitted again")
        assert np.array_equal(session.keypoints(row), before)
        page.keyboard.press("u")
        until(page, "#told", "nothing")
        page.keyboard.press("j")
        until(page, "#count", "2 of")


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_screen(open_session, open_page, width):
    with ReviewServer(open_session()) as server:
        page = open_page(server.address, width=width, height=800)
        page.wait_for_selector("#body")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_command_serves_and_saves_at_its_end(run):
    arguments = ["review", str(run), "--no-browser", "--json"]
    code = "import sys; from eft_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        address = ""
        while not address.startswith("http"):
            line = process.stderr.readline()
            assert line, "the command ended without an address"
            address = line.split()[-1]
        body = json.dumps({"do": "flip", "bone": "left_thigh"}).encode()
        request = urllib.request.Request(
            address + "person/0", body, {"Content-Type": "application/json"}
        )
        answer = json.loads(urllib.request.urlopen(request, timeout=120).read())
        assert answer["person"]["edited"], answer
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    summary = json.loads(out)
    assert (summary["people"], summary["fitted_again"]) == (
        len(FitResult.load(run / "fits.npz")),
        1,
    )
    assert (run / "review" / "fits.npz").is_file()
    assert main(["review", str(run), "--port", "99999"]) == 2
