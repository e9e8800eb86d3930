"""Read the arrays of a pickled body model without running anything that the file asks for.

A pickle is a program: it names functions and calls them. Body models need four kinds of things
only: numpy arrays, scipy's sparse matrices, chumpy's variables and plain containers. Each of those
names is answered with an inert class of this module that stores what it is given; every other name
ends the reading. Neither numpy's own unpickling, nor scipy, nor chumpy takes part.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_PLAIN_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle asks for something that no body model needs."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Dtype:
    """Stands for ``numpy.dtype``: remembers the type code and the byte order."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = str(code)
        self.order = ""

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def to_numpy(self) -> np.dtype[Any]:
        code = self.code if self.code[:1] in "<>|=" else self.order + self.code
        if not _PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"an array of type {code!r} instead of numbers")
        return np.dtype(code)


def _to_bytes(raw: Any) -> bytes:
    """Python 2 wrote bytes as text, which arrives here decoded as latin1."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if isinstance(raw, (bytes, bytearray)):
        return bytes(raw)
    raise ValueError(f"array data as a {type(raw).__name__} instead of bytes")


class _Array:
    """Stands for ``numpy.ndarray``: keeps the state that numpy would have restored."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def to_numpy(self) -> npt.NDArray[Any]:
        shape, dtype, is_fortran, raw = self.state[-4:]
        kind = dtype.to_numpy()
        flat: npt.NDArray[Any] = np.frombuffer(_to_bytes(raw), kind)
        order: Any = "F" if is_fortran is True or is_fortran in (1, "F") else "C"
        return flat.reshape(tuple(int(size) for size in shape), order=order)


class _Reconstruct:
    """Stands for numpy's ``_reconstruct(type, shape, code)``: an empty array to be filled."""

    def __new__(cls, *_: Any) -> _Array:  # type: ignore[misc]
        return _Array()


class _FromBuffer:
    """Stands for numpy's ``_frombuffer(buffer, dtype, shape, order)`` of pickle protocol 5."""

    def __new__(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:  # type: ignore[misc]
        array = _Array()
        array.state = (shape, dtype, order, raw)
        return array


class _Scalar:
    """Stands for numpy's ``scalar(dtype, bytes)``."""

    def __new__(cls, dtype: Any, raw: Any = b"") -> _Array:  # type: ignore[misc]
        array = _Array()
        array.state = ((), dtype, False, raw)
        return array


class _Encode:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes in old protocols."""

    def __new__(cls, text: Any, encoding: Any = "latin1") -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise ForbiddenGlobal(f"_codecs.encode to {encoding}")
        return str(text).encode("latin1")


class _NoBytes:
    """Stands for ``bytes``, which old protocols call for no bytes at all."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""


class _Fields:
    """Anything that is restored from a dictionary: stores it."""

    def __init__(self, *_: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.fields = dict(state)


class _Sparse(_Fields):
    """Stands for scipy's compressed and coordinate matrices."""

    kind = ""

    def to_numpy(self) -> npt.NDArray[Any]:
        fields = self.fields
        shape = fields["_shape"] if "_shape" in fields else fields["shape"]
        rows, columns = (int(size) for size in shape)
        values = to_numpy(fields["data"])
        dense = np.zeros((rows, columns), np.result_type(values.dtype, np.float32))
        if self.kind == "coo":
            coords = fields.get("coords") or (fields["row"], fields["col"])
            place = tuple(to_numpy(axis) for axis in coords)
        else:
            indptr, indices = to_numpy(fields["indptr"]), to_numpy(fields["indices"])
            major = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
            place = (major, indices) if self.kind == "csr" else (indices, major)
        np.add.at(dense, place, values)
        return dense


class _Csr(_Sparse):
    kind = "csr"


class _Csc(_Sparse):
    kind = "csc"


class _Coo(_Sparse):
    kind = "coo"


class _Chumpy(_Fields):
    """Stands for every chumpy class. A variable holds its value; a selection can be followed."""

    def to_numpy(self) -> npt.NDArray[Any]:
        fields = self.fields
        if "x" in fields:
            return to_numpy(fields["x"])
        if "a" in fields and "idxs" in fields:
            chosen = to_numpy(fields["a"]).ravel()[to_numpy(fields["idxs"])]
            shape = fields.get("preferred_shape")
            return chosen if shape is None else np.reshape(chosen, [int(n) for n in shape])
        raise ValueError(
            "a chumpy expression without a stored value; save the file as plain arrays"
        )


class _NewObject:
    """Stands for ``copyreg._reconstructor``, by which protocols 0 and 1 make objects."""

    def __new__(cls, kind: Any, *_: Any) -> Any:
        if not (isinstance(kind, type) and issubclass(kind, (_Fields, _Array, _Dtype))):
            raise ForbiddenGlobal(f"copyreg._reconstructor of {kind!r}")
        return kind()


_SPARSE: Final = {"csr": _Csr, "csc": _Csc, "coo": _Coo}
_SPARSE_NAME: Final = re.compile(r"(csr|csc|coo)_(matrix|array)")
_SPARSE_MODULE: Final = re.compile(r"scipy\.sparse(\._?(csr|csc|coo))?")

_NUMPY: Final[Mapping[str, type]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "multiarray._reconstruct": _Reconstruct,
    "multiarray.scalar": _Scalar,
    "numeric._frombuffer": _FromBuffer,
}
_PYTHON: Final[Mapping[str, type]] = {
    "_codecs.encode": _Encode,
    "__builtin__.bytes": _NoBytes,
    "builtins.bytes": _NoBytes,
    "copy_reg._reconstructor": _NewObject,
    "copyreg._reconstructor": _NewObject,
    "__builtin__.object": object,
    "builtins.object": object,
    "__builtin__.set": set,
    "builtins.set": set,
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows inert stand-ins and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if "." not in name:
            key = re.sub(r"^numpy\.(_?core)\.", "", module) + "." + name
            if key in _NUMPY and module.split(".")[0] == "numpy":
                return _NUMPY[key]
            if f"{module}.{name}" in _PYTHON:
                return _PYTHON[f"{module}.{name}"]
            sparse = _SPARSE_NAME.fullmatch(name)
            if sparse and _SPARSE_MODULE.fullmatch(module):
                return _SPARSE[sparse[1]]
            if module.split(".")[0] == "chumpy":
                return _Chumpy
        raise ForbiddenGlobal(f"{module}.{name}")


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """Give the array behind a value that ``read_pickle`` returned.

    Raises:
        ValueError: If the value holds no numbers; the message says what it is.
    """
    if isinstance(value, (_Array, _Sparse, _Chumpy)):
        return value.to_numpy()
    if isinstance(value, (bool, int, float, list, tuple)):
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
        ValueError: If the file names anything but arrays and their containers, is damaged, or holds
            no dictionary. Nothing that the file asks for has been run.
    """
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except ForbiddenGlobal as error:
        raise ValueError(
            f"{who}: expected a pickle of arrays, got one that asks for {error.name} in {path}; "
            "nothing of it was run"
        ) from None
    except OSError:
        raise
    except Exception as error:  # A damaged pickle can fail in any way.
        raise ValueError(
            f"{who}: expected a pickle of arrays, got a damaged or other file {path} ({error})"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{who}: expected a pickled dictionary of arrays, got a {type(content).__name__} in "
            f"{path}"
        )
    return content
