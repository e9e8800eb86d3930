"""The container of glTF 2.0: arrays as accessors of one buffer, and the GLB file around it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.files import write_bytes

VERTEX_BUFFER: Final = 34962
INDEX_BUFFER: Final = 34963
_COMPONENTS: Final = {"<f4": 5126, "<u4": 5125, "|u1": 5121}
_SHAPES: Final = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942


class GltfArrays:
    """Arrays of a document in the order in which they were added."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(
        self,
        array: np.ndarray,
        *,
        target: int | None = None,
        has_bounds: bool = False,
        normalised: bool = False,
    ) -> int:
        """Add an array; return the index of its accessor.

        Args:
            array: [N], or [N, C] with C components an element, float32, uint32 or uint8. Rows of
                vertex data have to be multiples of four bytes.
            target: ``VERTEX_BUFFER``, ``INDEX_BUFFER``, or None for what is neither.
            has_bounds: State the bounds, which the format asks of positions and times.
            normalised: Whole numbers stand for [0, 1].
        """
        data = array.tobytes()
        view: dict[str, Any] = {
            "buffer": 0,
            "byteOffset": len(self.binary),
            "byteLength": len(data),
        }
        if target is not None:
            view["target"] = target
        self.views.append(view)
        rows = array.reshape(len(array), -1)
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": _COMPONENTS[array.dtype.str],
            "count": len(rows),
            "type": _SHAPES[rows.shape[1]],
        }
        if normalised:
            accessor["normalized"] = True
        if has_bounds:
            accessor |= {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()}
        self.accessors.append(accessor)
        self.binary += data
        self.binary += b"\0" * (-len(self.binary) % 4)
        return len(self.accessors) - 1


def save_glb(path: Path, document: dict[str, Any], arrays: GltfArrays) -> None:
    """Write a document and its arrays as one file.

    Args:
        path: File to write.
        document: Nodes, meshes, materials, skins, animations; asset, scene, buffers and accessors
            are added. What it holds under ``asset`` is kept.
        arrays: What the document's accessors index.
    """
    asset = {"version": "2.0", "generator": "eft_fast", **document.get("asset", {})}
    whole = {
        **document,
        "asset": asset,
        "scene": 0,
        "buffers": [{"byteLength": len(arrays.binary)}],
        "bufferViews": arrays.views,
        "accessors": arrays.accessors,
    }
    text = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text
    chunks += struct.pack("<II", len(arrays.binary), _BINARY) + bytes(arrays.binary)
    write_bytes(path, struct.pack("<III", _MAGIC, 2, 12 + len(chunks)) + chunks)
