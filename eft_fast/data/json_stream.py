"""JSON files element by element, so that a large one never stands in memory as a whole.

``json`` decodes every element; this file only walks the top of the document, which is an object of
lists, or a list. ijson, the library for this, refuses the NaN that ``json`` writes and reads, and
one NaN would then cost the whole file.
"""

from __future__ import annotations

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
        start: Byte at which it begins.
        end: Byte behind it.
    """

    key: str
    place: int
    value: Any
    start: int
    end: int


class JsonFault(ValueError):
    """What is wrong with a document, and at which byte."""

    def __init__(self, fault: str, place: int) -> None:
        super().__init__(fault)
        self.place = place


class JsonFile:
    """A JSON file that is decoded in parts. Bytes outside of UTF-8 stay as in file names."""

    def __init__(self, path: Path, who: str) -> None:
        """Open a file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be opened, or is empty; ``who`` opens the sentence.
        """
        self._path, self._who = path, who
        self._file: BinaryIO = io.BytesIO()
        try:
            if not path.is_file():
                raise FileNotFoundError(f"{who}: no file {path}")
            self._file = _in_utf8(path.open("rb"))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unreadable(error) from None
        except UnicodeError as error:
            # What begins as a Unicode of two or four bytes, and goes on as something else.
            raise ValueError(f"{who}: {path} is not JSON ({error})") from None
        if not self._file.read(1):
            raise ValueError(f"{who}: {path} is empty (0 bytes)")

    def __enter__(self) -> JsonFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Element]:
        """Decode the document element by element, in the order of the file.

        Raises:
            ValueError: If it is not JSON; the elements before the fault came already.
        """
        self._file.seek(0)
        try:
            yield from _walk(_Text(self._file))
        except OSError as error:
            raise self._unreadable(error) from None
        except JsonFault as error:
            where = self._where(error.place)
            raise ValueError(f"{self._who}: {self._path} is not JSON ({error}: {where})") from None
        except RecursionError as error:
            name = type(error).__name__
            raise ValueError(f"{self._who}: {self._path} is not JSON ({name})") from None

    def read(self, start: int, end: int) -> Any:
        """Decode once more what stands between two bytes."""
        try:
            self._file.seek(start)
            return _decode_bytes(self._file.read(end - start))
        except OSError as error:
            raise self._unreadable(error) from None

    def _where(self, place: int) -> str:
        """Line and column, from 1, of a byte."""
        self._file.seek(0)
        line, column = 1, 1
        while place > 0 and (data := self._file.read(min(place, _CHUNK))):
            place -= len(data)
            line += data.count(b"\n")
            column = len(data) - data.rfind(b"\n") if b"\n" in data else column + len(data)
        return f"line {line} column {column}"

    def _unreadable(self, error: OSError) -> ValueError:
        return ValueError(f"{self._who}: {self._path} cannot be opened ({error.strerror})")


def iter_head(head: bytes) -> Iterator[Element]:
    """The elements that stand whole in the first bytes of a document; nothing is raised."""
    try:
        yield from _walk(_Text(_in_utf8(io.BytesIO(head))))
    except (JsonFault, RecursionError, UnicodeError):
        return


def _in_utf8(file: BinaryIO) -> BinaryIO:
    """The file, or its text in UTF-8 in memory where it is another Unicode; read from its start."""
    encoding = json.detect_encoding(file.read(4))
    file.seek(0)
    if encoding.startswith("utf-8"):
        return file
    with file:
        text = file.read().decode(encoding, "surrogatepass")
    return io.BytesIO(text.encode("utf-8", "surrogatepass"))


def _decode_bytes(data: bytes) -> Any:
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    return _decode(text, 0)[0]


def _decode(text: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except ValueError:  # More digits than Python takes by default.
        return _PATIENT.raw_decode(text, place)


def _walk(text: _Text) -> Iterator[Element]:
    first = text.peek()
    if first == "[":
        yield from _walk_list(text, "")
    elif first == "{":
        yield from _walk_object(text)
    else:
        yield Element("", -1, *text.value())
    text.end()


def _walk_object(text: _Text) -> Iterator[Element]:
    text.take("{")
    if text.peek() == "}":
        yield Element("", -1, {}, text.place - 1, text.place + 1)
    else:
        while True:
            key, _, _ = text.value()
            if not isinstance(key, str):
                text.fail("expected a key in double quotes")
            text.take(":")
            if text.peek() == "[":
                yield from _walk_list(text, key)
            else:
                yield Element(key, -1, *text.value())
            if text.peek() == "}":
                break
            text.take(",")
    text.take("}")


def _walk_list(text: _Text, key: str) -> Iterator[Element]:
    text.take("[")
    if text.peek() == "]":
        yield Element(key, -1, [], text.place - 1, text.place + 1)
    else:
        place = 0
        while True:
            yield Element(key, place, *text.value())
            place += 1
            if text.peek() == "]":
                break
            text.take(",")
    text.take("]")


class _Text:
    """The characters of a file in UTF-8, as many as are needed at a time.

    Each byte stands as one character, so that places are bytes; what is not ASCII is decoded once
    it is known where it ends.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(_CHUNK)
        #: Where to read on: others may read of the same file meanwhile.
        self._next = file.tell()
        #: Bytes of the file before the buffer.
        self._before = 3 if start.startswith(b"\xef\xbb\xbf") else 0
        self._buffer, self._place = start[self._before :].decode("latin-1"), 0
        self._step = _CHUNK
        self._is_whole = False

    @property
    def place(self) -> int:
        """Byte of the next character."""
        return self._before + self._place

    def peek(self) -> str:
        """The next character that is no space, which stays the next."""
        character = self._skip_space()
        if not character:
            self.fail("it ends in the middle")
        return character

    def take(self, character: str) -> None:
        """Go past this character, or fail."""
        if self.peek() != character:
            self.fail(f"expected {character}")
        self._place += 1

    def value(self) -> tuple[Any, int, int]:
        """Decode the next value; between which bytes it stands."""
        self.peek()
        self._step = _CHUNK
        while True:
            value, end, fault, at = None, 0, "", 0
            try:
                value, end = _decode(self._buffer, self._place)
            except json.JSONDecodeError as error:
                fault, at = error.msg, self._before + error.pos
            # What the buffer cuts off looks wrong; of the number 1.5e-6 cut behind the e, 1.5 is
            # decoded, and e and - are left.
            if (fault or end > len(self._buffer) - 3) and self._read_on():
                continue
            if fault:
                raise JsonFault(fault, at)
            start, self._place = self._place, end
            if not self._buffer.isascii():
                text = self._buffer[start:end]
                value = value if text.isascii() else _decode_bytes(text.encode("latin-1"))
            return value, self._before + start, self._before + end

    def end(self) -> None:
        """Fail unless nothing but space is left."""
        if self._skip_space():
            self.fail("more follows where it should end")

    def fail(self, fault: str) -> None:
        """Raise JsonFault at the present place."""
        raise JsonFault(fault, self.place)

    def _skip_space(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Drop what is past, and read more; False at the end of the file."""
        self._file.seek(self._next)
        data = b"" if self._is_whole else self._file.read(self._step)
        self._next += len(data)
        self._step *= 2
        self._is_whole = not data
        if data:
            self._before += self._place
            self._buffer = self._buffer[self._place :] + data.decode("latin-1")
            self._place = 0
        return bool(data)
