"""Write a mesh to a file that other programs open: OBJ, PLY or GLB."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8

from eft_fast.exports.gltf import INDEX_BUFFER, VERTEX_BUFFER, GltfArrays, save_glb
from eft_fast.files import whole_file, write_bytes
from eft_fast.ops.raster import vertex_normals

#: A matt surface.
MATERIAL: Final = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}


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
    arrays = GltfArrays()
    index = arrays.add(faces.astype("<u4").reshape(-1), target=INDEX_BUFFER)
    positions = points.astype("<f4")
    attributes = {
        "POSITION": arrays.add(positions, target=VERTEX_BUFFER, has_bounds=True),
        "NORMAL": arrays.add(unit_normals(points, faces), target=VERTEX_BUFFER),
    }
    if colours is not None:
        # Four bytes each, because vertex data must be aligned to four bytes.
        opaque = np.full((len(points), 1), 255, np.uint8)
        rgba = np.concatenate([colours, opaque], 1)
        attributes["COLOR_0"] = arrays.add(rgba, target=VERTEX_BUFFER, normalised=True)
    primitive = {"attributes": attributes, "indices": index, "material": 0}
    document = {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [MATERIAL],
    }
    save_glb(path, document, arrays)


def unit_normals(
    points: Float[np.ndarray, "V 3"], faces: Integer[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V 3"]:
    """Normals of a mesh in float32, of length one also where no triangle is, as viewers want it."""
    mesh = torch.from_numpy(np.array(points, np.float32))
    normals = vertex_normals(mesh, torch.from_numpy(np.array(faces, np.int64))).numpy()
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0, 1, 0)
    unit: np.ndarray = normals.astype("<f4")
    return unit
