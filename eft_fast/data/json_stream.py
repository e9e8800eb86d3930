"""JSON files element by element, so that a large one never stands in memory as a whole.

``json`` decodes every element; this file only walks the top of the document, which is an object of
lists, or a list. ijson, the library for this, refuses the NaN that ``json`` writes and reads, and
one NaN would then cost the whole file.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from eft_fast.data.values import parse_int

#: Bytes that are read at a time; an element larger than that doubles it.
_CHUNK: Final = 1 << 20
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()
#: Takes whole numbers of any length, and is slower.
_PATIENT: Final = json.JSONDecoder(parse_int=parse_int)


class Element(NamedTuple):
    """One element of a document.

    Attributes:
        key: Key in the object at the top; empty if the document is no object.
        place: Place in the list under that key; -1: the value is no list, or an empty one.
        value: The decoded value.
    """

    key: str
    place: int
    value: Any


class JsonFault(ValueError):
    """What is wrong with a document, and where."""


def iter_json(path: Path, who: str) -> Iterator[Element]:
    """Decode a document element by element, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or is not JSON; the elements before the fault came already.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{who}: no file {path}")
        with path.open("rb") as file:
            if not file.peek(1):
                raise ValueError(f"{who}: {path} is empty (0 bytes)")
            yield from _walk(_Text(file))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{who}: {path} cannot be opened ({error.strerror})") from None
    except JsonFault as error:
        raise ValueError(f"{who}: {path} is not JSON ({error})") from None
    except RecursionError as error:
        raise ValueError(f"{who}: {path} is not JSON ({type(error).__name__})") from None


def iter_head(head: bytes) -> Iterator[Element]:
    """The elements that stand whole in the first bytes of a document; nothing is raised."""
    try:
        yield from _walk(_Text(io.BytesIO(head)))
    except (JsonFault, RecursionError, UnicodeError):
        return


def _walk(text: _Text) -> Iterator[Element]:
    first = text.peek()
    if first == "[":
        yield from _walk_list(text, "")
    elif first == "{":
        yield from _walk_object(text)
    else:
        yield Element("", -1, text.value())
    text.end()


def _walk_object(text: _Text) -> Iterator[Element]:
    text.take("{")
    if text.peek() == "}":
        yield Element("", -1, {})
    else:
        while True:
            key = text.value()
            if not isinstance(key, str):
                text.fail("expected a key in double quotes")
            text.take(":")
            if text.peek() == "[":
                yield from _walk_list(text, key)
            else:
                yield Element(key, -1, text.value())
            if text.peek() == "}":
                break
            text.take(",")
    text.take("}")


def _walk_list(text: _Text, key: str) -> Iterator[Element]:
    text.take("[")
    if text.peek() == "]":
        yield Element(key, -1, [])
    else:
        index = 0
        while True:
            yield Element(key, index, text.value())
            index += 1
            if text.peek() == "]":
                break
            text.take(",")
    text.take("]")


class _Text:
    """The characters of a file, as many as are needed at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer, self._place = "", 0
        #: Characters of the file before the buffer.
        self._before = 0
        self._step = _CHUNK
        self._is_whole = False
        start = file.read(_CHUNK)
        encoding = json.detect_encoding(start)
        # Bytes outside of UTF-8 stay as in file names.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        name = "utf-8-sig" if encoding == "utf-8" else encoding
        self._decoder = codecs.getincrementaldecoder(name)(errors)
        self._buffer = self._decoder.decode(start)

    def peek(self) -> str:
        """The next character that is no space, which stays the next."""
        while True:
            found = _SPACE.match(self._buffer, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._read_on():
                self.fail("it ends in the middle")

    def take(self, character: str) -> None:
        """Go past this character, or fail."""
        if self.peek() != character:
            self.fail(f"expected {character}")
        self._place += 1

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        self._step = _CHUNK
        while True:
            value, end, fault, at = None, 0, "", 0
            try:
                value, end = self._decode()
            except json.JSONDecodeError as error:
                fault, at = error.msg, self._before + error.pos
            # What the buffer cuts off looks wrong; of the number 1.5e-6 cut behind the e, 1.5 is
            # decoded, and e and - are left.
            is_near_end = end > len(self._buffer) - 3
            if (fault or is_near_end) and self._read_on():
                continue
            if fault:
                raise JsonFault(f"{fault}, at character {at}")
            self._place = end
            return value

    def end(self) -> None:
        """Fail unless nothing but space is left."""
        while True:
            found = _SPACE.match(self._buffer, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._buffer):
                self.fail("more follows where it should end")
            if not self._read_on():
                return

    def fail(self, fault: str) -> None:
        """Raise JsonFault at the present place."""
        raise JsonFault(f"{fault}, at character {self._before + self._place}")

    def _decode(self) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(self._buffer, self._place)
        except json.JSONDecodeError:
            raise
        except ValueError:  # More digits than Python takes by default.
            return _PATIENT.raw_decode(self._buffer, self._place)

    def _read_on(self) -> bool:
        """Drop what is past, and read more; False at the end of the file."""
        if self._is_whole:
            return False
        data = self._file.read(self._step)
        self._step *= 2
        self._is_whole = not data
        if data:
            self._before += self._place
            self._buffer = self._buffer[self._place :] + self._decoder.decode(data)
            self._place = 0
        return bool(data)
