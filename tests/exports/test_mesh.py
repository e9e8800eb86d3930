"""Mesh files, read back by a few lines that know the format."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from eft_fast.exports.mesh import save_mesh


def test_obj_reads_back(tmp_path, sphere):
    path = save_mesh(tmp_path / "body.OBJ", *sphere)
    lines = [line.split() for line in path.read_text().splitlines()]
    points = np.array([line[1:] for line in lines if line[0] == "v"], float)
    faces = np.array([line[1:] for line in lines if line[0] == "f"], int) - 1
    np.testing.assert_allclose(points, sphere[0], atol=1e-6)
    np.testing.assert_array_equal(faces, sphere[1])


@pytest.mark.parametrize("coloured", [False, True])
def test_ply_reads_back(tmp_path, sphere, coloured):
    vertices, faces = sphere
    colours = np.random.default_rng(0).integers(0, 256, vertices.shape).astype(np.uint8)
    path = save_mesh(tmp_path / "body.ply", vertices, faces, colours=colours if coloured else None)
    header, data = path.read_bytes().split(b"end_header\n", 1)
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\n")
    assert f"element vertex {len(vertices)}\n".encode() in header
    fields = [("p", "<f4", 3)] + [("c", "u1", 3)] * coloured
    points = np.frombuffer(data, fields, len(vertices))
    rest = np.frombuffer(data[points.nbytes :], [("n", "u1"), ("i", "<i4", 3)])
    np.testing.assert_allclose(points["p"], vertices, atol=1e-6)
    np.testing.assert_array_equal(rest["i"], faces)
    assert set(rest["n"]) == {3}
    if coloured:
        np.testing.assert_array_equal(points["c"], colours)


@pytest.mark.parametrize("coloured", [False, True])
def test_glb_reads_back(tmp_path, sphere, coloured):
    vertices, faces = sphere
    colours = np.full(vertices.shape, 7, np.uint8) if coloured else None
    data = save_mesh(tmp_path / "body.glb", vertices, faces, colours=colours).read_bytes()
    magic, version, length = struct.unpack_from("<III", data)
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    json_length, json_type = struct.unpack_from("<I4s", data, 12)
    assert json_type == b"JSON"
    assert json_length % 4 == 0
    scene = json.loads(data[20 : 20 + json_length])
    _, binary_type = struct.unpack_from("<I4s", data, 20 + json_length)
    assert binary_type == b"BIN\0"
    binary = data[28 + json_length :]
    assert len(binary) == scene["buffers"][0]["byteLength"]

    def fetch(accessor, dtype, columns):
        view = scene["bufferViews"][scene["accessors"][accessor]["bufferView"]]
        piece = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        values = np.frombuffer(piece, dtype).reshape(-1, columns)
        count = scene["accessors"][accessor]["count"]
        assert count == (values.size if columns == 1 else len(values))
        return values

    primitive = scene["meshes"][0]["primitives"][0]
    positions = fetch(primitive["attributes"]["POSITION"], "<f4", 3)
    normals = fetch(primitive["attributes"]["NORMAL"], "<f4", 3)
    np.testing.assert_allclose(positions, vertices, atol=1e-6)
    np.testing.assert_array_equal(fetch(primitive["indices"], "<u4", 1).reshape(-1, 3), faces)
    assert (normals * vertices).sum(1).min() > 0.95  # outwards, as the faces are wound
    bounds = scene["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_allclose(bounds["max"], positions.max(0))
    if coloured:
        assert set(fetch(primitive["attributes"]["COLOR_0"], "u1", 4)[0]) == {7, 255}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "body.stl"}, r"ending in .obj, .ply, .glb expected, got body.stl"),
        ({"vertices": np.zeros((2, 2))}, r"got \[2, 2\] and \[1, 3\]"),
        ({"vertices": np.full((3, 3), np.nan)}, "must be finite"),
        ({"faces": np.array([[0, 1, 3]])}, "index the 3 vertices, got 3"),
        ({"colours": np.zeros((3, 3))}, r"colours must be uint8 \[3, 3\], got float64"),
    ],
)
def test_refuses_in_one_sentence(tmp_path, change, words):
    call = {"path": "body.obj", "vertices": np.eye(3), "faces": np.array([[0, 1, 2]]), **change}
    path = tmp_path / call.pop("path")
    with pytest.raises(ValueError, match=words):
        save_mesh(path, call.pop("vertices"), call.pop("faces"), **call)
    assert not path.exists()
