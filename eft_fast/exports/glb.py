"""A rig as GLB: skin, 24 joints, morph targets, and an animation where there are frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from eft_fast.exports.gltf import INDEX_BUFFER, VERTEX_BUFFER, GltfArrays, save_glb
from eft_fast.exports.mesh import MATERIAL, unit_normals
from eft_fast.exports.rig import JOINT_NAMES, Rig
from eft_fast.geometry.rotations import matrix_to_quaternion


def save_rig_glb(path: Path | str, rig: Rig, name: str = "person") -> Path:
    """Write a rig; a viewer shows the first frame, and plays the others.

    Skinning is exact: a body has at most four joints a vertex, which is what the format has.
    Normals are those of the rest pose and turn with the joints.

    Args:
        path: File to write.
        rig: The person.
        name: What the person is called.

    Returns:
        The file.
    """
    path, arrays = Path(path), GltfArrays()
    mesh = _mesh(rig, arrays, name)
    joints = len(JOINT_NAMES)
    turns = to_quaternions(rig.rotations)
    offsets = rig.local_offsets()
    # Node 0 is the mesh; it is no child of the joints, which alone place it.
    nodes: list[dict[str, Any]] = [{"name": name, "mesh": 0, "skin": 0}]
    for joint, label in enumerate(JOINT_NAMES):
        place = rig.root_position[0] if joint == 0 else offsets[joint]
        node: dict[str, Any] = {
            "name": label,
            "translation": np.asarray(place, np.float32).tolist(),
            "rotation": turns[0, joint].tolist(),
        }
        children = [1 + child for child in np.flatnonzero(rig.parents == joint).tolist()]
        nodes.append({**node, "children": children} if children else node)
    document: dict[str, Any] = {
        "asset": {"extras": rig.facts()},
        "scenes": [{"name": name, "nodes": [0, 1]}],
        "nodes": nodes,
        "meshes": [mesh],
        "materials": [MATERIAL],
        "skins": [
            {
                "name": f"{name} skin",
                "skeleton": 1,
                "joints": list(range(1, joints + 1)),
                "inverseBindMatrices": arrays.add(_inverse_binds(rig)),
            }
        ],
    }
    if len(turns) > 1:
        document["animations"] = [_animation(rig, turns, arrays)]
    save_glb(path, document, arrays)
    return path


def to_quaternions(rotations: Float[np.ndarray, "F 24 3 3"]) -> Float[np.ndarray, "F 24 4"]:
    """Unit quaternions x, y, z, w in float32; over the frames each stays on its side of zero."""
    found = matrix_to_quaternion(torch.from_numpy(np.array(rotations, np.float64))).numpy()
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    is_other = (found[1:] * found[:-1]).sum(-1) < 0
    found[1:][np.logical_xor.accumulate(is_other, axis=0)] *= -1
    turned: np.ndarray = np.roll(found, -1, axis=-1).astype("<f4")
    return turned


def _mesh(rig: Rig, arrays: GltfArrays, name: str) -> dict[str, Any]:
    """The one mesh of the document, bound to the joints."""
    index = arrays.add(rig.faces.astype("<u4").reshape(-1), target=INDEX_BUFFER)
    positions = rig.rest_vertices.astype("<f4")
    weight = rig.joint_weight.astype("<f4")
    attributes = {
        "POSITION": arrays.add(positions, target=VERTEX_BUFFER, has_bounds=True),
        "NORMAL": arrays.add(unit_normals(positions, rig.faces), target=VERTEX_BUFFER),
        "JOINTS_0": arrays.add(
            # The format wants joint 0 where nothing counts.
            np.where(weight > 0, rig.joint_idx, 0).astype(np.uint8),
            target=VERTEX_BUFFER,
        ),
        "WEIGHTS_0": arrays.add(weight, target=VERTEX_BUFFER),
    }
    primitive: dict[str, Any] = {"attributes": attributes, "indices": index, "material": 0}
    mesh: dict[str, Any] = {"name": f"{name} body", "primitives": [primitive]}
    if rig.target_names:
        primitive["targets"] = [
            {"POSITION": arrays.add(one.astype("<f4"), target=VERTEX_BUFFER, has_bounds=True)}
            for one in rig.targets
        ]
        mesh["weights"] = rig.target_weights[0].astype(np.float32).tolist()
        # Not of the format, but where every program looks for the names.
        mesh["extras"] = {"targetNames": list(rig.target_names)}
    return mesh


def _inverse_binds(rig: Rig) -> np.ndarray:
    """[24, 16]: from the mesh at rest to each joint, column by column."""
    matrices = np.tile(np.eye(4), (len(JOINT_NAMES), 1, 1))
    matrices[:, 3, :3] = -rig.rest_joints  # a column of the matrix is a row here
    return matrices.reshape(-1, 16).astype("<f4")


def _animation(rig: Rig, turns: np.ndarray, arrays: GltfArrays) -> dict[str, Any]:
    """Turns of all joints, the place of the root, and the weights of the targets."""
    frames = len(turns)
    times = arrays.add((np.arange(frames) / rig.frame_rate).astype("<f4"), has_bounds=True)
    tracks = [(1, "translation", rig.root_position.astype("<f4"))]
    tracks += [(1 + k, "rotation", turns[:, k]) for k in range(len(JOINT_NAMES))]
    if rig.target_names:
        tracks.append((0, "weights", rig.target_weights.astype("<f4").reshape(-1)))
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for node, path, values in tracks:
        output = arrays.add(np.ascontiguousarray(values))
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
        samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})
    return {"name": "motion", "samplers": samplers, "channels": channels}
