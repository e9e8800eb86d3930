"""Verdicts by hand: a file by the ids of people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eft_fast.pseudo_gt import (
    Verdict,
    load_verdicts,
    person_keys,
    save_verdicts,
    verdicts_of,
)


@pytest.mark.parametrize(
    ("photos", "ids", "keys"),
    [
        ([], [], ["person 1", "person 2", "person 3"]),
        (["a.jpg", "b.jpg", "c.jpg"], ["7", "8", "9"], ["7", "8", "9"]),
        (["x/a.jpg", "x/a.jpg", "b.jpg"], ["0", "1", "0"], ["a.jpg:0", "1", "b.jpg:0"]),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ["0", "0", "1"], ["x/a.jpg:0", "y/a.jpg:0", "1"]),
        (["a.jpg", "a.jpg", "b.jpg"], ["0", "0", "1"], ["a.jpg:0#1", "a.jpg:0#2", "1"]),
        ([], ["0", "0", "1"], ["0#1", "0#2", "1"]),
        (["a.jpg", "b.jpg", "c.jpg"], [], ["person 1", "person 2", "person 3"]),
    ],
)
def test_keys_are_unique(photos: list[str], ids: list[str], keys: list[str]) -> None:
    assert person_keys(photos, ids, 3) == keys


def test_files_come_back(tmp_path: Path) -> None:
    verdicts = {"b": Verdict("reject", "wrong person"), "a": Verdict("keep"), "é": Verdict("keep")}
    path = save_verdicts(tmp_path / "selection.json", verdicts)
    assert load_verdicts(path) == verdicts
    assert list(load_verdicts(path)) == ["b", "a", "é"]
    document = json.loads(path.read_text())
    assert document["people"]["a"] == "keep"
    assert [p.name for p in tmp_path.iterdir()] == ["selection.json"]
    found, strangers = verdicts_of(["a", "x", "b"], verdicts)
    assert (found, strangers) == (["keep", None, "reject"], ["é"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must hold"),
        ('{"people": {}}', "must hold"),
        ('{"format": "eft-fast-selection/1", "people": {"7": "maybe"}}', "verdict on 7 in"),
        ('{"format": "eft-fast-selection/1", "people": {"7": {"note": "x"}}}', "must be keep or"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "selection.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_verdicts(path)
    with pytest.raises(FileNotFoundError, match="load_verdicts: no file"):
        load_verdicts(tmp_path / "absent.json")
