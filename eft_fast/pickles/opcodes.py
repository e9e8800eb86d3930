"""Read the opcodes of a pickle into plain values and the caller's stand-ins; nothing else exists.

``pickle.Unpickler`` with a guarded ``find_class`` is not enough for files of strangers: it sets
attributes on whatever the stack holds, grows its memo to any index it is told, and hashes keys that
take for ever. This reader knows the opcodes of protocols 0 to 5, keys of text, and globals that
``find_global`` answers; its memory and time are bounded by the size of the file.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

#: Opcodes of one file. A body of numpy arrays has a few hundred, one of chumpy a few thousand.
MOST_OPCODES: Final = 100_000
#: Arguments of a call: they are copied at each, and the same ones can be given to any number.
_MOST_ARGUMENTS: Final = 64
#: Digits of a decimal number; what Python's own ``int`` allows at the least.
_MOST_DIGITS: Final = 640
#: Letters of a hostile name or value that a message repeats.
_MOST_LETTERS: Final = 80


class ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle asks for something that its reader does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(shorten(name))
        self.name = shorten(name)


@dataclass(frozen=True)
class Global:
    """What stands for a function or class that a pickle names.

    Attributes:
        name: Module and name in the pickle.
        make: Called in its place.
        is_class: Whether it makes objects that a state can be given to.
    """

    name: str
    make: Callable[..., Any]
    is_class: bool = False


def shorten(text: str) -> str:
    """Text of bearable length for a message."""
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "..."


def read_opcodes(
    data: bytes, find_global: Callable[[str, str], Global], most: int = MOST_OPCODES
) -> Any:
    """Give the value that a pickle describes.

    Args:
        data: The pickle. Python 2's text is decoded as latin1, so that it can hold arrays.
        find_global: Answers a module and a name, or raises ``ForbiddenGlobal``.
        most: Opcodes of the file.

    Raises:
        ForbiddenGlobal: If the pickle asks for something unknown.
        pickle.UnpicklingError: If it is damaged, or no file of arrays needs what it does.
    """
    reader = _Reader(data, find_global)
    for _ in range(most):
        code = reader.take(1)
        if code == b".":
            return reader.pop()
        step = _STEPS.get(code)
        if step is None:
            raise pickle.UnpicklingError(f"opcode {code!r}, which arrays do not need")
        step(reader)
    raise pickle.UnpicklingError(f"more than {most} opcodes")


class _Reader:
    """Position, stack and memo."""

    def __init__(self, data: bytes, find_global: Callable[[str, str], Global]) -> None:
        self.data, self.place = data, 0
        self.find_global = find_global
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0 or count > len(self.data) - self.place:
            raise pickle.UnpicklingError("the file ends too early")
        self.place += count
        return self.data[self.place - count : self.place]

    def skip(self, count: int) -> None:
        """Leave bytes out."""
        self.take(count)

    def number(self, form: str) -> int:
        """The next little-endian number, by its letter in ``struct``."""
        value: int = struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]
        return value

    def counted(self, form: str) -> bytes:
        """Bytes behind their length."""
        return self.take(self.number(form))

    def line(self) -> str:
        """Text up to the end of the line."""
        end = self.data.find(b"\n", self.place)
        text = self.take(end - self.place)
        self.place += 1
        return text.decode("latin1")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value that belongs to the innermost mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError("a value is missing")
        return self.stack.pop()

    def top(self) -> Any:
        """The topmost value, which stays."""
        if not self.stack:
            raise pickle.UnpicklingError("a value is missing")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        if not self.marks:
            raise pickle.UnpicklingError("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def recall(self, index: int) -> None:
        """Push a remembered value."""
        if index not in self.memo:
            raise pickle.UnpicklingError(f"nothing was remembered as {index}")
        self.push(self.memo[index])

    def remember(self, index: int) -> None:
        """Remember the topmost value: in a dictionary, which a large index does not make larger."""
        self.memo[index] = self.top()

    def pop_tuple(self, count: int) -> None:
        """Make the topmost values one."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def push_global(self, module: Any, name: Any) -> None:
        """Push what stands for a name."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise pickle.UnpicklingError("a name that is no text")
        self.push(self.find_global(module, name))

    def call(self, function: Any, arguments: Any) -> None:
        """Push what a stand-in makes of its arguments."""
        if not isinstance(function, Global) or not isinstance(arguments, (tuple, list)):
            raise pickle.UnpicklingError("a call of something that is no function")
        if len(arguments) > _MOST_ARGUMENTS:
            raise pickle.UnpicklingError(f"a call with {len(arguments)} arguments")
        self.push(function.make(*arguments))

    def append(self, values: list[Any]) -> None:
        """Append to the list on top."""
        target = self.top()
        if not isinstance(target, list):
            raise pickle.UnpicklingError(f"items for a {type(target).__name__}")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Fill the dictionary on top; only what goes by a text can be an array of ours."""
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise pickle.UnpicklingError(f"pairs for a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            name = key.decode("latin1") if isinstance(key, bytes) else key
            if isinstance(name, str):
                target[name] = value

    def build(self) -> None:
        """Give a stand-in its state: an instance, never the ``Global`` itself."""
        state, target = self.pop(), self.top()
        if isinstance(target, Global) or not hasattr(target, "set_state"):
            raise pickle.UnpicklingError(f"a state for a {type(target).__name__}")
        target.set_state(state)


def _push_text_number(reader: _Reader) -> None:
    """INT and LONG: decimal digits; 00 and 01 are booleans."""
    text = reader.line()
    if text in ("00", "01"):
        reader.push(text == "01")
        return
    if len(text) > _MOST_DIGITS:
        raise pickle.UnpicklingError("a number of too many digits")
    reader.push(int(text.rstrip("L"), 10))


def _push_text_string(reader: _Reader) -> None:
    """STRING: Python 2's repr of bytes."""
    text = reader.line().strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        raise pickle.UnpicklingError("a string without quotes")
    reader.push(codecs.escape_decode(text[1:-1].encode("latin1"))[0].decode("latin1"))


def _push_object(reader: _Reader) -> None:
    """OBJ: a class and its arguments above the mark."""
    kind, *arguments = reader.pop_mark() or [None]
    reader.call(kind, arguments)


def _push_instance(reader: _Reader) -> None:
    """INST: the class by name, its arguments above the mark."""
    module, name = reader.line(), reader.line()
    arguments = reader.pop_mark()
    reader.call(reader.find_global(module, name), arguments)


def _new_object_ex(reader: _Reader) -> None:
    named, arguments, kind = reader.pop(), reader.pop(), reader.pop()
    if named != {}:
        raise pickle.UnpicklingError("named arguments")
    reader.call(kind, arguments)


def _reduce(reader: _Reader) -> None:
    arguments, function = reader.pop(), reader.pop()
    reader.call(function, arguments)


def _stack_global(reader: _Reader) -> None:
    name, module = reader.pop(), reader.pop()
    reader.push_global(module, name)


def _pop(reader: _Reader) -> None:
    """POP takes a mark where nothing stands above it."""
    if reader.marks and reader.marks[-1] == len(reader.stack):
        reader.marks.pop()
    else:
        reader.pop()


def _pop_mark(reader: _Reader) -> None:
    reader.pop_mark()


def _protocol(reader: _Reader) -> None:
    version = reader.number("B")
    if version > pickle.HIGHEST_PROTOCOL:
        raise pickle.UnpicklingError(f"pickle protocol {version}")


def _dict(reader: _Reader) -> None:
    values = reader.pop_mark()
    reader.push({})
    reader.set_items(values)


def _set_item(reader: _Reader) -> None:
    value, key = reader.pop(), reader.pop()
    reader.set_items([key, value])


def _long(form: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(int.from_bytes(reader.counted(form), "little", signed=True))


def _text(form: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(reader.counted(form).decode("utf-8", "surrogatepass"))


def _latin1(form: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(reader.counted(form).decode("latin1"))


def _fixed(form: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(reader.number(form))


_STEPS: Final[dict[bytes, Callable[[_Reader], None]]] = {
    b"\x80": _protocol,
    b"\x95": lambda reader: reader.skip(8),  # FRAME: a hint to readers of streams
    b"(": lambda reader: reader.marks.append(len(reader.stack)),
    b"0": _pop,
    b"1": _pop_mark,
    b"2": lambda reader: reader.push(reader.top()),
    b"N": lambda reader: reader.push(None),
    b"\x88": lambda reader: reader.push(True),
    b"\x89": lambda reader: reader.push(False),
    b"I": _push_text_number,
    b"L": _push_text_number,
    b"J": _fixed("i"),
    b"K": _fixed("B"),
    b"M": _fixed("H"),
    b"\x8a": _long("B"),
    b"\x8b": _long("i"),
    b"F": lambda reader: reader.push(float(reader.line())),
    b"G": lambda reader: reader.push(struct.unpack(">d", reader.take(8))[0]),
    b"S": _push_text_string,
    b"U": _latin1("B"),
    b"T": _latin1("i"),
    b"V": lambda reader: reader.push(reader.line().encode("latin1").decode("raw-unicode-escape")),
    b"\x8c": _text("B"),
    b"X": _text("I"),
    b"\x8d": _text("Q"),
    b"C": lambda reader: reader.push(reader.counted("B")),
    b"B": lambda reader: reader.push(reader.counted("I")),
    b"\x8e": lambda reader: reader.push(reader.counted("Q")),
    b"\x96": lambda reader: reader.push(reader.counted("Q")),
    b")": lambda reader: reader.push(()),
    b"t": lambda reader: reader.push(tuple(reader.pop_mark())),
    b"\x85": lambda reader: reader.pop_tuple(1),
    b"\x86": lambda reader: reader.pop_tuple(2),
    b"\x87": lambda reader: reader.pop_tuple(3),
    b"]": lambda reader: reader.push([]),
    b"l": lambda reader: reader.push(reader.pop_mark()),
    b"a": lambda reader: reader.append([reader.pop()]),
    b"e": lambda reader: reader.append(reader.pop_mark()),
    b"}": lambda reader: reader.push({}),
    b"d": _dict,
    b"s": _set_item,
    b"u": lambda reader: reader.set_items(reader.pop_mark()),
    # Sets are lists here: what is in them need not be hashed.
    b"\x8f": lambda reader: reader.push([]),
    b"\x90": lambda reader: reader.append(reader.pop_mark()),
    b"\x91": lambda reader: reader.push(reader.pop_mark()),
    b"c": lambda reader: reader.push_global(reader.line(), reader.line()),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"o": _push_object,
    b"i": _push_instance,
    b"\x81": _reduce,  # NEWOBJ
    b"\x92": _new_object_ex,
    b"b": lambda reader: reader.build(),
    b"g": lambda reader: reader.recall(int(reader.line()[:_MOST_DIGITS])),
    b"h": lambda reader: reader.recall(reader.number("B")),
    b"j": lambda reader: reader.recall(reader.number("I")),
    b"p": lambda reader: reader.remember(int(reader.line()[:_MOST_DIGITS])),
    b"q": lambda reader: reader.remember(reader.number("B")),
    b"r": lambda reader: reader.remember(reader.number("I")),
    b"\x94": lambda reader: reader.remember(len(reader.memo)),
}
