"""A document walked element by element is the document that ``json`` decodes as a whole."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from eft_fast.data import json_stream
from eft_fast.data.json_stream import JsonFile, iter_head


def put_together(path: Path) -> Any:
    """The document, from its elements."""
    found: Any = None
    with JsonFile(path, "test") as file:
        elements = list(file)
        # What stands between the bytes is the value, and equal values have equal text.
        for _, _, value, start, end in elements:
            assert json.dumps(file.read(start, end)) == json.dumps(value)
    for key, index, value, _, _ in elements:
        if not key and index < 0:
            return value
        if not key:
            found = found or []
            assert index == len(found)
            found.append(value)
            continue
        found = found or {}
        if index < 0:
            found[key] = value
        else:
            assert index == len(found.setdefault(key, []))
            found[key].append(value)
    return found


def make_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [make_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 7:
        return {f"k{i}": make_value(draw, depth + 1) for i in range(draw.randrange(4))}
    choices = (None, True, draw.random() * 1e6, draw.randrange(-999, 999), 'a"\\ü€\n]},', "")
    return choices[kind]


@pytest.mark.parametrize("seed", range(40))
def test_elements_make_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """With chunks of a few bytes, so that every kind of value is cut in its middle."""
    draw = random.Random(seed)
    monkeypatch.setattr(json_stream, "_CHUNK", draw.choice((4, 5, 7, 64)))
    document: Any = {f"key {i}": make_value(draw) for i in range(draw.randrange(5))}
    if seed % 3 == 0:
        document = [make_value(draw) for _ in range(draw.randrange(6))]
    text = json.dumps(document, indent=draw.choice((None, 2)), ensure_ascii=bool(seed % 2))
    encoding = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le")[seed % 4]
    (tmp_path / "a.json").write_bytes(text.encode(encoding))
    assert put_together(tmp_path / "a.json") == document


def test_numbers_that_json_allows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'{{"a": [NaN, -Infinity, {"9" * 5000}, -1e5], "b": 12}}')
    found = put_together(tmp_path / "a.json")
    assert math.isnan(found["a"][0])
    assert found == {"a": [found["a"][0], -math.inf, math.inf, -1e5], "b": 12}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": [1, 2', "it ends in the middle: line 1 column 12"),
        ('{"a": [1, 2 3]}', "expected ,: line 1 column 13"),
        ('{"a":\n [1, x]}', "Expecting value: line 2 column 6"),
        ("{1: 2}", "expected a key in double quotes"),
        ('{"a": 1} {', "more follows where it should end: line 1 column 10"),
        ("[1, 2]]", "more follows where it should end: line 1 column 7"),
        ('{"a" 1}', "expected :"),
        ("", r"is empty \(0 bytes\)"),
        ("[" * 200_000, "RecursionError|ends in the middle|is not JSON"),
    ],
)
def test_faults_are_told_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        list(JsonFile(tmp_path / "a.json", "test"))
    list(iter_head(text.encode()))  # never raises


def test_bytes_outside_of_utf_8_stay(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'["caf\xe9.jpg"]')
    assert put_together(tmp_path / "a.json") == ["caf\udce9.jpg"]


def test_what_begins_as_another_unicode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{\0\0\0" + b"\xff" * 8)
    with pytest.raises(
        ValueError, match=r"^test: \S+a.json is not JSON \('utf-32-le' codec"
    ) as caught:
        JsonFile(path, "test")
    assert not isinstance(caught.value, UnicodeError)
    assert list(iter_head(path.read_bytes())) == []


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="test: no file"):
        list(JsonFile(tmp_path / "a.json", "test"))
    with pytest.raises(ValueError, match=r"no file|cannot be opened"):
        list(JsonFile(tmp_path / ("n" * 300), "test"))
