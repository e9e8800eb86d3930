"""The restricted unpickler: what a body model needs is read, everything else is refused unrun."""

from __future__ import annotations

import builtins
import datetime
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import types

import numpy as np
import pytest

from eft_fast.pickles.arrays import load_plain, read_pickle, read_plain, to_numpy


class Payload:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def write(tmp_path):
    def write_bytes(content, protocol=None):
        path = tmp_path / "model.pkl"
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
        path.write_bytes(data)
        return path

    return write_bytes


@pytest.fixture
def foreign(monkeypatch):
    """Make a class of a module that is not installed, so that it can be pickled by name."""

    def make(module, name, **fields):
        parts = module.split(".")
        for i in range(len(parts)):
            monkeypatch.setitem(
                sys.modules, ".".join(parts[: i + 1]), types.ModuleType(".".join(parts[: i + 1]))
            )
        kind = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, kind)
        value = kind()
        value.__dict__.update(fields)
        return value

    return make


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.array([[4294967295, 0, 1]], np.uint32),
        np.array([True, False]),
        np.arange(5)[::2],
        np.zeros((0, 3), np.float32),
        np.float64(2.5),
    ],
    ids=["C", "Fortran", "big endian", "uint32", "bool", "strided", "empty", "scalar"],
)
def test_numpy_arrays_of_every_protocol(write, array, protocol):
    content = read_pickle(write({"a": array}, protocol), "test")
    np.testing.assert_array_equal(to_numpy(content["a"]), array)
    assert to_numpy(content["a"]).shape == np.shape(array)


def python2_array(array: np.ndarray) -> bytes:
    """The bytes that Python 2 wrote for an array: raw data as a text opcode."""
    shape = b"(" + b"".join(b"I%d\n" % n for n in array.shape) + b"t"
    raw = array.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + shape
        + b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nT"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb"
    )


def test_python2_files(write):
    array = np.random.default_rng(0).normal(size=(5, 3))
    content = read_pickle(write(b"(dS'v_template'\n" + python2_array(array) + b"s."), "test")
    np.testing.assert_array_equal(to_numpy(content["v_template"]), array)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["csc", "csr", "coo"])
def test_scipy_matrices(write, kind, protocol):
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.random.default_rng(0).random((24, 37)) * (np.arange(37) % 3 == 0)
    matrix = getattr(sparse, f"{kind}_matrix")(dense)
    content = read_pickle(write({"J": matrix}, protocol), "test")
    np.testing.assert_array_equal(to_numpy(content["J"]), dense)


def test_old_scipy_names_need_no_scipy(write, foreign):
    """Files of old scipy name scipy.sparse.csc, a module that is gone."""
    matrix = foreign(
        "scipy.sparse.csc",
        "csc_matrix",
        _shape=(2, 3),
        data=np.array([1.0, 2.0]),
        indices=np.array([1, 0]),
        indptr=np.array([0, 1, 1, 2]),
        maxprint=50,
    )
    content = read_pickle(write({"J": matrix}, 2), "test")
    np.testing.assert_array_equal(to_numpy(content["J"]), [[0, 0, 2], [1, 0, 0]])


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_chumpy_variables(write, foreign, protocol):
    values = np.random.default_rng(0).normal(size=(7, 3))
    variable = foreign("chumpy.ch", "Ch", x=values, _dirty_vars={"x"}, _itr=None)
    path = write({"v": variable}, protocol)
    del sys.modules["chumpy.ch"], sys.modules["chumpy"]
    np.testing.assert_array_equal(to_numpy(read_pickle(path, "test")["v"]), values)
    assert "chumpy" not in sys.modules


def test_chumpy_selections(write, foreign):
    values = np.arange(12.0).reshape(4, 3)
    variable = foreign("chumpy.ch", "Ch", x=values)
    chosen = foreign("chumpy.reordering", "Select", a=values, idxs=np.array([0, 5, 7, 11]))
    chosen.preferred_shape = (2, 2)
    content = read_pickle(write({"chosen": chosen, "plain": [1, 2]}), "test")
    np.testing.assert_array_equal(to_numpy(content["chosen"]), [[0, 5], [7, 11]])
    np.testing.assert_array_equal(to_numpy(content["plain"]), [1, 2])
    del variable


def test_lazy_chumpy_expressions_are_named(write, foreign):
    content = read_pickle(write({"v": foreign("chumpy.ch_ops", "add", b=1)}), "test")
    with pytest.raises(ValueError, match="chumpy expression without a stored value; save the file"):
        to_numpy(content["v"])


@pytest.mark.parametrize("protocol", range(6))
def test_os_system_is_refused_and_does_not_run(write, tmp_path, protocol):
    marker = tmp_path / "ran"
    path = write({"v": Payload(os.system, f"touch {marker}")}, protocol)
    with pytest.raises(ValueError, match=r"test: .* asks for (posix|nt)\.system in .*; nothing"):
        read_pickle(path, "test")
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # The payload does work where nothing guards.
    assert marker.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, __import__, open, compile], ids=lambda f: f.__name__
)
def test_builtins_are_refused(write, function):
    with pytest.raises(ValueError, match=rf"asks for (builtins|_?io)\.{function.__name__}"):
        read_pickle(write({"v": Payload(function, "1+1")}), "test")


@pytest.mark.parametrize(
    "name",
    [
        (b"numpy", b"f2py.os.system"),
        (b"numpy.core.multiarray", b"_reconstruct.__globals__"),
        (b"numpy", b"load"),
        (b"numpy", b"core"),
        (b"numpy.core.multiarray.evil", b"ndarray"),
        (b"scipy.sparse", b"os"),
        (b"scipy.sparse", b"load_npz"),
        (b"scipy.io", b"csc_matrix"),
        (b"chumpy", b"ch.os"),
        (b"chumpyx", b"Ch"),
        (b"copyreg", b"__newobj__"),
        (b"functools", b"partial"),
        (b"eft_fast.pickles.arrays", b"_Array"),
        (b"builtins", b"object.__subclasses__"),
    ],
    ids=lambda name: b".".join(name).decode(),
)
def test_neighbouring_names_are_refused(write, name):
    module, attribute = name
    code = b"\x80\x04\x8c" + bytes([len(module)]) + module
    code += b"\x8c" + bytes([len(attribute)]) + attribute + b"\x93."
    with pytest.raises(ValueError, match=b".".join(name).decode().replace(".", r"\.")):
        read_pickle(write(code), "test")


def test_stand_ins_are_inert(write, monkeypatch):
    """Calling a chumpy name with code in its arguments stores them and runs nothing."""
    monkeypatch.setattr(builtins, "eval", None)
    code = b"(dS'v'\ncchumpy.ch\nCh\n(S'os.system(1)'\ntRs."
    content = read_pickle(write(code), "test")
    with pytest.raises(ValueError, match="chumpy expression"):
        to_numpy(content["v"])


def test_reconstructor_makes_stand_ins_only(write):
    code = b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR."
    with pytest.raises(ValueError, match="_reconstructor of"):
        read_pickle(write(code), "test")


def test_state_does_not_reach_classes(write):
    """BUILD on a stand-in class itself, instead of on an instance, changes nothing."""
    from eft_fast.pickles import arrays

    before = dict(vars(arrays._Array))
    code = b"cnumpy\nndarray\n}S'to_numpy'\nI1\nsb."
    with pytest.raises(ValueError, match="damaged or other file"):
        read_pickle(write(code), "test")
    assert dict(vars(arrays._Array)) == before


def test_object_arrays_are_refused(write):
    content = read_pickle(write({"v": np.array([1, "a", None], object)}), "test")
    with pytest.raises(ValueError, match=r"type '\|O8?'"):
        to_numpy(content["v"])


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"a": np.zeros(100)})[:60],
        b"not a pickle",
        b"\x80\x04",
        b"Pan id\n.",
        b"\x80\x04r\xff\xff\xff\xff.",
    ],
    ids=["truncated", "text", "header", "persistent id", "memo"],
)
def test_damaged_files_are_named(write, data):
    with pytest.raises(ValueError, match=r"test: expected a pickle of arrays, got a damaged"):
        read_pickle(write(data), "test")


def test_other_contents_are_named(write):
    with pytest.raises(ValueError, match="expected a pickled dictionary of arrays, got a list"):
        read_pickle(write([1]), "test")
    content = read_pickle(write({"a": "text", "b": {}}), "test")
    with pytest.raises(ValueError, match="a str instead of an array"):
        to_numpy(content["a"])
    with pytest.raises(ValueError, match="a dict instead of an array"):
        to_numpy(content["b"])


@pytest.mark.parametrize("name", [b"_reconstruct", b"scalar"])
def test_what_stands_for_a_function_takes_no_state(write, name):
    """BUILD with a slot state sets attributes; here it would poison every later file."""
    from eft_fast.pickles import arrays, opcodes

    before = {kind: dict(vars(kind)) for kind in (opcodes.Global, arrays._Array)}
    code = b"\x80\x02cnumpy.core.multiarray\n" + name
    code += b"\nN}X\x04\x00\x00\x00makeK\x01s\x86b0}."
    with pytest.raises(ValueError, match="a state for a Global"):
        read_pickle(write(code), "test")
    assert {kind: dict(vars(kind)) for kind in before} == before
    test_python2_files(write)


def laughs(width: int, depth: int) -> bytes:
    """A tuple of tuples of tuples: few bytes, ``width ** depth`` numbers."""
    code = b"\x80\x02}X\x01\x00\x00\x00v(" + b"K\x01" * width + b"t"
    for level in range(depth):
        place = bytes([level])
        code += b"q" + place + b"0(" + (b"h" + place) * width + b"t"
    return code


def csr(indptr: list[int], shape: tuple[int, int]) -> dict:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix((1, 1))
    matrix.indptr, matrix.indices = np.array(indptr), np.zeros(1, np.int32)
    matrix.data, matrix._shape = np.ones(1), shape
    return {"v": matrix}


def selections(depth: int) -> bytes:
    """A chumpy selection of itself, by itself, and so on: 2 ** depth arrays."""
    code = b"\x80\x02}X\x01\x00\x00\x00v]q\x00"
    for _ in range(depth):
        code += b"0cchumpy.reordering\nSelect\n)\x81}(X\x01\x00\x00\x00ah\x00"
        code += b"X\x04\x00\x00\x00idxsh\x00ubq\x00"
    return code + b"s."


LONG = 30_000


def repeated(shared: bytes, name: bytes, use: bytes, times: int = 15_000) -> bytes:
    """One long thing, memoised as 0, and a class or function as 1, used again and again."""
    return b"\x80\x02(" + shared + b"q\x00c" + name + b"\nq\x01" + use * times + b"t."


BOMBS = {
    "memo": lambda: b"\x80\x02}r\xff\xff\xff\x0f.",
    "numbers": lambda: laughs(10, 9) + b"s.",
    "key": lambda: laughs(2, 60) + b"K\x01s.",
    "dtype": lambda: b"\x80\x02}X\x01\x00\x00\x00vcnumpy\ndtype\n"
    + laughs(2, 60)[9:] + b"\x85Rs.",
    "nested": lambda: b"\x80\x02}X\x01\x00\x00\x00v" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"s.",
    "encoded": lambda: b"c_codecs\nencode\nq\x00X\x40\x42\x0f\x00" + b"x" * 10**6
    + b"X\x06\x00\x00\x00latin1\x86q\x01" + b"h\x00h\x01R" * 5000 + b".",
    "sets": lambda: repeated(
        b"(" + b"K\x01" * LONG + b"t", b"__builtin__\nset", b"h\x01h\x00\x85R"
    ),
    "states": lambda: repeated(
        b"](" + b"K\x01" * LONG + b"e", b"numpy\nndarray", b"h\x01)\x81h\x00b"
    ),
    "fields": lambda: repeated(
        b"}(" + b"".join(b"X\x05\0\0\0%05dK\x01" % k for k in range(LONG // 2)) + b"u",
        b"chumpy\nCh", b"h\x01)\x81h\x00b",
    ),
    "arguments": lambda: repeated(
        b"(" + b"K\x01" * LONG + b"t", b"numpy\nndarray", b"h\x01h\x00R0", 20_000
    ),
    "repeated rows": lambda: csr([0, 2**29], (1, 6890)),
    "wide matrix": lambda: csr([0, 1], (1, 10**9)),
    "selections": lambda: selections(40),
    "announced": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_bounded(write, name):
    """Small files that would take gigabytes or minutes: 2 s, and 1 GB."""
    content = BOMBS[name]()
    path = write(content) if isinstance(content, bytes) else write(content, 2)
    began = time.process_time()
    tracemalloc.start()
    try:
        value = read_pickle(path, "test")
        if "v" in value:
            with pytest.raises(ValueError, match=r"\S"):
                to_numpy(value["v"])
    except ValueError as error:
        print(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - began < 2
    assert peak < 1e9


@pytest.mark.parametrize(
    ("indptr", "shape"), [([0, 1], (1, 1)), ([0, 2], (1, 1)), ([1, 1], (1, 1)), ([0, 1, 1], (1, 1))]
)
def test_broken_sparse_matrices_are_named(write, indptr, shape):
    content = csr(indptr, shape)
    if indptr == [0, 1]:
        content["v"].indices = np.array([-1])
    with pytest.raises(ValueError, match="a sparse matrix with"):
        to_numpy(read_pickle(write(content, 2), "test")["v"])


def test_keys_of_python_2(write):
    content = read_pickle(write({b"v": np.ones(3), 5: 1, ("a",): 2}), "test")
    assert list(content) == ["v"]


def test_annotations_become_plain_values():
    """Nested containers, numpy scalars, arrays of objects and text, shared parts."""
    shared = np.arange(6.0).reshape(2, 3)
    content = {
        "people": [{"pose": shared, "name": "a", "n": np.int64(3)}, {"pose": shared}],
        "ragged": np.array([[1], [1, 2]], dtype=object),
        "text": np.array(["x", "longer"]),
        "bytes": np.array([b"x", b"yz"]),
        "mixed": np.array([None, "é", 2.5, {"k": np.ones(1)}], dtype=object),
        "pair": (1, True),
    }
    for protocol in (2, 3, 4, 5):
        plain = read_plain(pickle.dumps(content, protocol), "test", "file")
        assert np.array_equal(plain["people"][0]["pose"], shared)
        assert plain["people"][0]["pose"] is plain["people"][1]["pose"]
        assert plain["people"][0]["n"] == 3
        assert plain["ragged"] == [[1], [1, 2]]
        assert plain["text"] == ["x", "longer"]
        assert plain["bytes"] == [b"x", b"yz"]
        assert plain["mixed"][:3] == [None, "é", 2.5]
        assert plain["mixed"][3]["k"].tolist() == [1.0]
        assert plain["pair"] == [1, True]
    assert read_plain(pickle.dumps([1]), "test", "file") == [1]


def test_annotations_take_stand_ins_of_the_caller():
    class Kept:
        def __init__(self, *arguments):
            self.arguments = arguments

        def to_plain(self, convert):
            return convert(self.arguments)

    data = pickle.dumps({"day": datetime.timedelta(3), "array": np.ones(2)})
    with pytest.raises(ValueError, match=r"asks for datetime\.timedelta in file; nothing"):
        read_plain(data, "test", "file")
    plain = read_plain(data, "test", "file", {"datetime.timedelta": Kept})
    assert plain["day"] == [3, 0, 0]


def test_annotations_run_nothing(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(Payload(os.system, f"touch {tmp_path / 'run'}")))
    with pytest.raises(ValueError, match="nothing of it was run"):
        load_plain(path, "test")
    assert not (tmp_path / "run").exists()
    with pytest.raises(FileNotFoundError, match="test: no file"):
        load_plain(tmp_path / "absent.pkl", "test")


def test_annotations_are_bounded():
    """Tuples of tuples of one tuple: 2 ** 60 numbers if each were converted on its own."""
    with pytest.raises(ValueError, match="nested too deeply"):
        read_plain(laughs(2, 60) + b"s.", "test", "file")
    began = time.process_time()
    read_plain(laughs(10, 20) + b"s.", "test", "file")
    assert time.process_time() - began < 2
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_plain(pickle.dumps(loop), "test", "file")


MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
from eft_fast.pickles.arrays import read_pickle, to_numpy
for path in sorted(Path(sys.argv[1]).iterdir()):
    if pid := os.fork():
        os.waitpid(pid, 0)
        continue
    began = time.process_time()
    try:
        for value in read_pickle(path, "test").values():
            to_numpy(value)
    except ValueError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([path.name, time.process_time() - began, peak]), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="measures each file in a fork")
def test_bombs_are_bounded_as_the_system_counts(tmp_path):
    """What numpy and the interpreter take beside Python's own allocator counts, too."""
    folder = tmp_path / "bombs"
    folder.mkdir()
    for name, make in BOMBS.items():
        content = make()
        data = content if isinstance(content, bytes) else pickle.dumps(content, 2)
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(BOMBS)
    assert [row for row in rows if row[1] > 2 or row[2] > 1e9] == []
