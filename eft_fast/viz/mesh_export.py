"""Write a mesh to a file that other programs open: OBJ, PLY or GLB."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8

from eft_fast.files import whole_file, write_bytes
from eft_fast.ops.raster import vertex_normals
from eft_fast.viz.raster import to_tensors

# glTF 2.0: the numbers of the format.
_GLTF_FLOAT, _GLTF_UINT, _GLTF_UBYTE = 5126, 5125, 5121
_GLTF_VERTEX_BUFFER, _GLTF_INDEX_BUFFER = 34962, 34963
_GLB_MAGIC, _GLB_JSON, _GLB_BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942


def save_mesh(
    path: Path | str,
    vertices: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    *,
    colours: UInt8[np.ndarray, "V 3"] | None = None,
) -> Path:
    """Write a mesh in the format of the file's ending.

    Coordinates are written as given. Viewers expect y up, as the body model has it; a body in
    camera axes (y down, z forward) is turned upright by negating y and z.

    Args:
        path: File to write, ending in ``.obj``, ``.ply`` or ``.glb``.
        vertices: Points in metres.
        faces: Indices of the vertices, counter-clockwise as seen from outside.
        colours: Red, green and blue of each vertex.

    Returns:
        The file.

    Raises:
        ValueError: If the ending is unknown, a number is not finite, or shapes do not agree.
    """
    path = Path(path)
    writers = {".obj": _write_obj, ".ply": _write_ply, ".glb": _write_glb}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ValueError(
            f"save_mesh: a file ending in {', '.join(writers)} expected, got {path.name}"
        )
    points = np.asarray(vertices, np.float32)
    index = np.asarray(faces).astype(np.uint32)
    if points.ndim != 2 or points.shape[1] != 3 or index.ndim != 2 or index.shape[1] != 3:
        raise ValueError(
            "save_mesh: vertices must be [V, 3] and faces [F, 3], "
            f"got {list(points.shape)} and {list(index.shape)}"
        )
    if not np.isfinite(points).all():
        raise ValueError("save_mesh: vertices must be finite, got NaN or infinity")
    if index.size and int(index.max()) >= len(points):
        raise ValueError(
            f"save_mesh: faces must index the {len(points)} vertices, got {int(index.max())}"
        )
    if colours is not None and (colours.dtype != np.uint8 or colours.shape != points.shape):
        raise ValueError(
            f"save_mesh: colours must be uint8 [{len(points)}, 3], "
            f"got {colours.dtype} {list(colours.shape)}"
        )
    writer(path, points, index, colours)
    return path


def _write_obj(
    path: Path, points: np.ndarray, faces: np.ndarray, colours: np.ndarray | None
) -> None:
    # Colours behind the position are no part of the format, but common readers take them.
    columns = points if colours is None else np.concatenate([points, colours / 255.0], 1)
    with whole_file(path) as file:
        np.savetxt(file, columns, fmt="v" + " %.6f" * columns.shape[1])
        np.savetxt(file, faces + 1, fmt="f %d %d %d")


def _write_ply(
    path: Path, points: np.ndarray, faces: np.ndarray, colours: np.ndarray | None
) -> None:
    fields: list[tuple[str, str]] = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    if colours is not None:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
        header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    vertex_rows = np.empty(len(points), fields)
    for k, (name, _) in enumerate(fields):
        vertex_rows[name] = points[:, k] if k < 3 or colours is None else colours[:, k - 3]
    face_rows = np.empty(len(faces), [("count", "u1"), ("index", "<i4", (3,))])
    face_rows["count"], face_rows["index"] = 3, faces
    text = "\n".join(header) + "\n"
    write_bytes(path, text.encode("ascii") + vertex_rows.tobytes() + face_rows.tobytes())


def _write_glb(
    path: Path, points: np.ndarray, faces: np.ndarray, colours: np.ndarray | None
) -> None:
    normals = vertex_normals(*to_tensors(points, faces)).numpy()
    # A viewer wants unit normals everywhere, also where no triangle is.
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0, 1, 0)
    arrays = [
        (faces.astype("<u4"), _GLTF_UINT, "SCALAR", _GLTF_INDEX_BUFFER),
        (points.astype("<f4"), _GLTF_FLOAT, "VEC3", _GLTF_VERTEX_BUFFER),
        (normals.astype("<f4"), _GLTF_FLOAT, "VEC3", _GLTF_VERTEX_BUFFER),
    ]
    attributes = {"POSITION": 1, "NORMAL": 2}
    if colours is not None:
        # Four bytes each, because vertex data must be aligned to four bytes.
        opaque = np.full((len(points), 1), 255, np.uint8)
        rgba = np.concatenate([colours, opaque], 1)
        arrays.append((rgba, _GLTF_UBYTE, "VEC4", _GLTF_VERTEX_BUFFER))
        attributes["COLOR_0"] = 3
    views, accessors, binary = [], [], b""
    for array, kind, shape, target in arrays:
        data = array.tobytes()
        views.append(
            {"buffer": 0, "byteOffset": len(binary), "byteLength": len(data), "target": target}
        )
        count = array.size if shape == "SCALAR" else len(array)
        accessor = {"bufferView": len(views) - 1, "componentType": kind, "count": count}
        accessors.append({**accessor, "type": shape, "normalized": kind == _GLTF_UBYTE})
        binary += data
    # The format asks for the bounds of positions.
    accessors[1].update(min=points.min(0).tolist(), max=points.max(0).tolist())
    primitive = {"attributes": attributes, "indices": 0, "material": 0}
    surface = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    scene = {
        "asset": {"version": "2.0", "generator": "eft_fast"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": surface}],
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(scene, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), _GLB_JSON) + text
    chunks += struct.pack("<II", len(binary), _GLB_BINARY) + binary
    write_bytes(path, struct.pack("<III", _GLB_MAGIC, 2, 12 + len(chunks)) + chunks)
