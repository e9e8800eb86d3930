"""Put the body into one npz without pickled objects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .decimate import Topology
from .rig import PARENTS
from .source import WHEEL_NAME, WHEEL_SHA256, Floats, Ints

FORMAT = "eft-body/1"
MODEL_ID = "open-body/1"
SOURCE_NAME = f"MakeHuman base mesh, targets, rig and weights (CC0 1.0), from {WHEEL_NAME}"

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Model:
    """The finished body in float64, in the generator's own vertex order."""

    topology: Topology
    mean: Floats
    directions: Floats
    weights: Floats
    joint_rows: Floats
    pose_directions: Floats
    keypoint_rows: dict[str, Floats]


def pack(model: Model, order: Ints) -> Arrays:
    """Return the stored arrays, vertices in the given order.

    Args:
        model: The body.
        order: Old vertex of each new place, [V].

    Returns:
        Arrays by key; see the card for their meaning.
    """
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    topology = model.topology
    slots = np.argsort(-model.weights, axis=1, kind="stable")[:, :4]
    values = np.take_along_axis(model.weights, slots, axis=1)
    joint_data, joint_indices, joint_start = _compress(model.joint_rows[:, order])
    rows = np.stack(list(model.keypoint_rows.values()))[:, order]
    data, indices, start = _compress(rows)
    texts = {
        "format": FORMAT,
        "model_id": MODEL_ID,
        "licence": "CC0-1.0",
        "source": SOURCE_NAME,
        "source_sha256": WHEEL_SHA256,
        "units": "m, y up",
    }
    return {key: np.array(text) for key, text in texts.items()} | {
        "v_template": model.mean[order].astype(np.float32),
        "f": place[topology.faces].astype(np.uint16),
        "shapedirs": model.directions[:, order].transpose(1, 2, 0).astype(np.float16),
        "posedirs": model.pose_directions[order].astype(np.float16),
        "weight_idx": slots[order].astype(np.uint8),
        "weight_val": values[order].astype(np.float16),
        "J_data": joint_data,
        "J_indices": joint_indices,
        "J_indptr": joint_start,
        "parents": PARENTS.astype(np.int8),
        "uv": topology.uv.astype(np.float16),
        "fuv": topology.face_uv.astype(np.uint16),
        "sym_idx": place[topology.mirror[order]].astype(np.uint16),
        "kp_names": np.array(list(model.keypoint_rows)),
        "kp_data": data,
        "kp_indices": indices,
        "kp_indptr": start,
    }


def _compress(
    rows: Floats,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Return data, column indices and row starts of the nonzeros of rows [R, V]."""
    which, columns = np.nonzero(rows)
    start = np.searchsorted(which, np.arange(len(rows) + 1))
    return (
        rows[which, columns].astype(np.float32),
        columns.astype(np.uint16),
        start.astype(np.uint16),
    )


def content_hash(arrays: Arrays) -> str:
    """Return the sha256 over keys, types, shapes and bytes, whatever the compression."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(path: Path, arrays: Arrays) -> None:
    """Write the compressed npz, keys in alphabetical order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **{key: arrays[key] for key in sorted(arrays)})
