"""Read the arrays of a pickle without running anything that the file asks for.

A pickle is a program: it names functions and calls them. Body models and annotation files need four
kinds of things only: numpy arrays, scipy's sparse matrices, chumpy's variables and plain
containers. Each of those names is answered with an inert stand-in of this module that stores what
it is given; every other name ends the reading. Neither Python's own unpickler nor numpy's, nor
scipy, nor chumpy takes part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.pickles.opcodes import (
    MOST_OPCODES,
    ForbiddenGlobal,
    Global,
    read_opcodes,
    shorten,
)

_PLAIN_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
#: Size of a file, bytes: SMPL with 300 shape directions has 250 MB.
_MOST_BYTES: Final = 2**30
#: Numbers in nested lists, and how deep these may be nested.
_MOST_LISTED, _MOST_NESTED = 2**20, 8
#: Entries of a sparse matrix that is written out: 24 rows of half a million vertices.
_MOST_ENTRIES: Final = 24 * 2**19
#: chumpy variables inside one another.
_MOST_CHUMPY: Final = 8
#: Containers inside one another in an annotation file, and all of its values together.
_MOST_DEEP: Final = 32
_MOST_VALUES: Final = 10**8
#: Opcodes of an annotation file: a video has a few per person and frame.
_MOST_ANNOTATIONS: Final = 5 * 10**7


class _Dtype:
    """Stands for ``numpy.dtype``: remembers the type code and the byte order."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = _to_text(code)
        self.order = ""

    def set_state(self, state: Any) -> None:
        self.order = _to_text(state[1])

    def to_numpy(self) -> np.dtype[Any]:
        code = self.code if self.code[:1] in ("<", ">", "|", "=") else self.order + self.code
        if not _PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"an array of type {shorten(code)!r} instead of numbers")
        return np.dtype(code)


def _to_text(value: Any) -> str:
    """A type code; what is no text can be of any size and is not written out."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else type(value).__name__


def _to_bytes(raw: Any) -> bytes:
    """Python 2 wrote bytes as text, which arrives here decoded as latin1."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if isinstance(raw, (bytes, bytearray)):
        return bytes(raw)
    raise ValueError(f"array data as a {type(raw).__name__} instead of bytes")


class _Array:
    """Stands for ``numpy.ndarray``: keeps the state that numpy would have restored."""

    def __init__(self, *_: Any) -> None:
        self.state: Sequence[Any] = ()

    def set_state(self, state: Any) -> None:
        # Kept and not copied: a file can give one long state to any number of arrays.
        if not isinstance(state, (tuple, list)):
            raise ValueError(f"an array with a state of type {type(state).__name__}")
        self.state = state

    def items(self) -> list[Any] | None:
        """The values of an array of Python objects or of text, flat; None if it is of numbers."""
        dtype, raw = self.state[-3], self.state[-1]
        kind = dtype.code.lstrip("<>|=")[:1] if isinstance(dtype, _Dtype) else ""
        if kind == "O" and isinstance(raw, list):
            return raw
        if kind not in ("U", "S") or not re.fullmatch(r"[<>|=]?[US][0-9]{1,5}", dtype.code):
            return None
        order = dtype.order if dtype.code[0] not in "<>|=" else ""
        texts = np.frombuffer(_to_bytes(raw), np.dtype(order.strip("|") + dtype.code))
        return list(texts.tolist())

    def to_numpy(self) -> npt.NDArray[Any]:
        shape, dtype, is_fortran, raw = self.state[-4:]
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a type")
        kind = dtype.to_numpy()
        flat: npt.NDArray[Any] = np.frombuffer(_to_bytes(raw), kind)
        order: Any = "F" if is_fortran is True or is_fortran in (1, "F") else "C"
        return flat.reshape(tuple(int(size) for size in shape), order=order)


def _filled(*state: Any) -> _Array:
    array = _Array()
    array.set_state(state)
    return array


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stands for numpy's ``_frombuffer`` of pickle protocol 5."""
    return _filled(shape, dtype, order, raw)


def _scalar(dtype: Any, raw: Any = b"") -> _Array:
    """Stands for numpy's ``scalar``."""
    return _filled((), dtype, False, raw)


class _Fields:
    """Anything that is restored from a dictionary: stores it."""

    def __init__(self, *_: Any) -> None:
        self.fields: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        # Objects with slots have a pair of dictionaries.
        plain = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        if not isinstance(plain, (dict, type(None))):
            raise ValueError(f"an object with a state of type {type(plain).__name__}")
        self.fields = plain or {}  # not copied, as the state of an array


class _Sparse(_Fields):
    """Stands for scipy's compressed and coordinate matrices."""

    kind = ""

    def to_numpy(self) -> npt.NDArray[Any]:
        fields = self.fields
        shape = fields["_shape"] if "_shape" in fields else fields["shape"]
        rows, columns = (int(size) for size in shape)
        if min(rows, columns) < 1 or rows * columns > _MOST_ENTRIES:
            raise ValueError(f"a sparse matrix of {rows} x {columns}")
        values = _stored(fields["data"])
        place = self._coordinates(rows, columns)
        for axis, size in zip(place, (rows, columns), strict=True):
            if axis.shape != values.shape or values.ndim != 1:
                raise ValueError("a sparse matrix whose parts have different lengths")
            if axis.dtype.kind not in "iu" or (
                axis.size and not 0 <= axis.min() <= axis.max() < size
            ):
                raise ValueError(f"a sparse matrix with an index that is not from 0 to {size - 1}")
        dense = np.zeros((rows, columns), np.result_type(values.dtype, np.float32))
        np.add.at(dense, place, values)
        return dense

    def _coordinates(self, rows: int, columns: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Row and column of each value."""
        fields = self.fields
        if self.kind == "coo":
            row, column = fields.get("coords") or (fields["row"], fields["col"])
            return _stored(row), _stored(column)
        pointers, minor = _stored(fields["indptr"]), _stored(fields["indices"])
        counts = pointers[1:].astype(np.int64) - pointers[:-1].astype(np.int64)
        lines = rows if self.kind == "csr" else columns
        # Before anything is repeated: the counts are the file's word alone.
        if (
            pointers.shape != (lines + 1,)
            or pointers[0] != 0
            or pointers[-1] != minor.size
            or (counts < 0).any()
        ):
            raise ValueError(f"a sparse matrix without {lines} rising row pointers")
        major = np.repeat(np.arange(lines), counts)
        return (major, minor) if self.kind == "csr" else (minor, major)


class _Csr(_Sparse):
    kind = "csr"


class _Csc(_Sparse):
    kind = "csc"


class _Coo(_Sparse):
    kind = "coo"


class _Chumpy(_Fields):
    """Stands for every chumpy class. A variable holds its value; a selection can be followed."""

    def to_numpy(self, depth: int = 0) -> npt.NDArray[Any]:
        if depth > _MOST_CHUMPY:
            raise ValueError(f"more than {_MOST_CHUMPY} chumpy variables inside one another")
        fields = self.fields
        if "x" in fields:
            return self._inner("x", depth)
        if "a" in fields and "idxs" in fields:
            chosen = self._inner("a", depth).ravel()[self._inner("idxs", depth)]
            shape = fields.get("preferred_shape")
            return chosen if shape is None else np.reshape(chosen, [int(n) for n in shape])
        raise ValueError(
            "a chumpy expression without a stored value; save the file as plain arrays"
        )

    def _inner(self, key: str, depth: int) -> npt.NDArray[Any]:
        value = self.fields[key]
        return value.to_numpy(depth + 1) if isinstance(value, _Chumpy) else to_numpy(value)


class _Encoder:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes in old protocols.

    Args:
        most: Bytes that all calls together may make: a file holds each text that it encodes.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise ForbiddenGlobal(f"_codecs.encode to {_to_text(encoding)}")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("the same text encoded again and again")
        return text.encode("latin1")


def _new_object(kind: Any, *_: Any) -> Any:
    """Stands for ``copyreg._reconstructor``, by which protocols 0 and 1 make objects."""
    if not (isinstance(kind, Global) and kind.is_class):
        name = kind.name if isinstance(kind, Global) else type(kind).__name__
        raise ForbiddenGlobal(f"copyreg._reconstructor of {name}")
    return kind.make()


def _plain_object(*_: Any) -> None:
    """Stands for ``object``, which ``_reconstructor`` names and nobody calls."""
    raise ForbiddenGlobal("builtins.object")


class _PlainSet:
    """Stands for ``set``: what is in it need not be hashed.

    Args:
        most: Items of all sets together: a file holds each thing that it puts into a set.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self, items: Any = ()) -> list[Any]:
        if not isinstance(items, (list, tuple)):
            return []
        self._left -= len(items)
        if self._left < 0:
            raise ValueError("the same set made again and again")
        return list(items)


_SPARSE: Final = {"csr": _Csr, "csc": _Csc, "coo": _Coo}
_SPARSE_NAME: Final = re.compile(r"(csr|csc|coo)_(matrix|array)")
_SPARSE_MODULE: Final = re.compile(r"scipy\.sparse(\._?(csr|csc|coo))?")
#: numpy 1 and 2 keep their parts in different places.
_NUMPY_CORE: Final = re.compile(r"^numpy\.(_?core)\.")

_NUMPY: Final[Mapping[str, Any]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "multiarray._reconstruct": lambda *_: _Array(),
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
_PYTHON: Final[Mapping[str, Any]] = {
    # Old protocols call ``bytes`` for no bytes at all.
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
    "copy_reg._reconstructor": _new_object,
    "copyreg._reconstructor": _new_object,
    "__builtin__.object": _plain_object,
    "builtins.object": _plain_object,
}


def _find_stand_in(module: str, name: str, bounded: Mapping[str, Any]) -> Any:
    """What stands for a name, or None; ``bounded`` are those that count what they make."""
    if "." in name:
        return None
    package, whole = module.split(".")[0], f"{module}.{name}"
    if whole in bounded:
        return bounded[whole]
    if package == "numpy":
        return _NUMPY.get(f"{_NUMPY_CORE.sub('', module)}.{name}")
    sparse = _SPARSE_NAME.fullmatch(name)
    if sparse and _SPARSE_MODULE.fullmatch(module):
        return _SPARSE[sparse[1]]
    return _Chumpy if package == "chumpy" else _PYTHON.get(whole)


def _stored(value: Any) -> npt.NDArray[Any]:
    """A part of a sparse matrix, which is an array and nothing made of others."""
    if not isinstance(value, _Array):
        raise ValueError(f"a sparse matrix with a {type(value).__name__.lstrip('_').lower()} in it")
    return value.to_numpy()


def _check_listed(value: Any) -> None:
    """Raise ValueError unless nested lists hold a bearable count of numbers."""
    count = 0
    levels: list[Iterator[Any]] = [iter((value,))]
    while levels:
        item = next(levels[-1], levels)
        count += 1
        if item is levels:
            levels.pop()
        elif isinstance(item, (list, tuple)):
            levels.append(iter(item))
        elif not isinstance(item, (bool, int, float)):
            raise ValueError(f"a list with a {type(item).__name__.lstrip('_').lower()} in it")
        if count > _MOST_LISTED or len(levels) > _MOST_NESTED:
            raise ValueError(
                "a list of too many numbers, or nested too deeply; save it as an array"
            )


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """Give the array behind a value that ``read_pickle`` returned.

    Raises:
        ValueError: If the value holds no numbers; the message says what it is.
    """
    if isinstance(value, (_Array, _Sparse, _Chumpy)):
        return value.to_numpy()
    if isinstance(value, (bool, int, float, list, tuple)):
        _check_listed(value)
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return array
    raise ValueError(f"a {type(value).__name__.lstrip('_').lower()} instead of an array")


def read_pickle(path: Path, who: str) -> dict[str, Any]:
    """Read the dictionary in a pickle; its array values are for ``to_numpy``.

    Args:
        path: The file.
        who: Caller, for the messages.

    Raises:
        ValueError: If the file names anything but arrays and their containers, is damaged, too
            large, or holds no dictionary. Nothing that the file asks for has been run.
    """
    content = _read(_file_bytes(path, who), who, str(path), {}, MOST_OPCODES)
    if not isinstance(content, dict):
        raise ValueError(
            f"{who}: expected a pickled dictionary of arrays, got a {type(content).__name__} in "
            f"{path}"
        )
    return content


def load_plain(
    path: Path, who: str, stand_ins: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """Read an annotation file that is a pickle: ``read_plain`` of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As of ``read_plain``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    return read_plain(_file_bytes(path, who), who, str(path), stand_ins)


def read_plain(
    data: bytes,
    who: str,
    where: str,
    stand_ins: Mapping[str, Callable[..., Any]] | None = None,
) -> Any:
    """Read a pickle of annotations into plain values: dictionaries, lists, text and arrays.

    Arrays of objects and of text become nested-free lists; numpy's scalars become arrays without
    axes. Keys that are no text are dropped. Text of Python 2 is decoded as latin1.

    Args:
        data: The pickle.
        who: Caller, for the messages.
        where: Name of the file, for the messages.
        stand_ins: What stands for further names (``"module.name"``): called with what the file
            passes; if it has ``to_plain(convert)``, that gives the value.

    Raises:
        ValueError: If it names anything else, is damaged or without end. Nothing that the file asks
            for has been run.
    """
    content = _read(data, who, where, stand_ins or {}, _MOST_ANNOTATIONS)
    try:
        return _Plain()(content)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{who}: {where} holds {shorten(str(error))}") from None


class _Plain:
    """Turns stand-ins into plain values; what a file holds once is converted once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._count = 0

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._count += len(value) if isinstance(value, (dict, list, tuple)) else 1
        if depth > _MOST_DEEP or self._count > _MOST_VALUES:
            raise ValueError("values without end, or nested too deeply")
        plain = self._convert(value, depth + 1)
        self._done[id(value)] = plain
        self._kept.append(value)  # so that no other object gets its id
        return plain

    def _convert(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {key: self(item, depth) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(item, depth) for item in value]
        if isinstance(value, _Array):
            items = value.items()
            return value.to_numpy() if items is None else [self(item, depth) for item in items]
        if isinstance(value, (_Sparse, _Chumpy)):
            return value.to_numpy()
        if hasattr(value, "to_plain"):
            return value.to_plain(lambda item: self(item, depth))
        raise ValueError(f"a {type(value).__name__.lstrip('_').lower()} instead of data")


def _file_bytes(path: Path, who: str) -> bytes:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(
            f"{who}: expected a pickle of at most {_MOST_BYTES} bytes, got {size} in {path}"
        )
    return path.read_bytes()


def _read(
    data: bytes, who: str, where: str, stand_ins: Mapping[str, Callable[..., Any]], most: int
) -> Any:
    """The value of a pickle, with stand-ins in it."""
    plain_set = _PlainSet(len(data))
    bounded: dict[str, Any] = {"__builtin__.set": plain_set, "builtins.set": plain_set}
    bounded |= {"_codecs.encode": _Encoder(len(data))}

    def find_global(module: str, name: str) -> Global:
        make = stand_ins.get(f"{module}.{name}") or _find_stand_in(module, name, bounded)
        if make is None:
            raise ForbiddenGlobal(f"{shorten(module)}.{shorten(name)}")
        return Global(f"{module}.{name}", make, is_class=isinstance(make, type))

    try:
        return read_opcodes(data, find_global, most)
    except ForbiddenGlobal as error:
        raise ValueError(
            f"{who}: expected a pickle of arrays, got one that asks for {error.name} in {where}; "
            "nothing of it was run"
        ) from None
    except Exception as error:  # A damaged pickle can fail in any way.
        raise ValueError(
            f"{who}: expected a pickle of arrays, got a damaged or other file {where} "
            f"({shorten(str(error))})"
        ) from None
