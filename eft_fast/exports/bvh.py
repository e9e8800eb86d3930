"""A rig as BVH, in centimetres: the joints and how they turn, without a mesh.

The rest pose is the T-pose of the person's own shape, y up. The root has the channels ``Xposition
Yposition Zposition Zrotation Xrotation Yrotation``, every other joint the last three: R = Rz Rx Ry,
degrees. The root's OFFSET is zero, so that readers agree on its place, whether they add it or not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from eft_fast.exports.rig import JOINT_NAMES, Rig
from eft_fast.files import write_text

_CM: Final = 100.0
_ROTATION: Final = "Zrotation Xrotation Yrotation"
_POSITION: Final = "Xposition Yposition Zposition"
#: |sin| of the middle angle from which on the other two turn about one axis.
_LOCKED: Final = 1 - 1e-9


def save_bvh(path: Path | str, rig: Rig) -> Path:
    """Write the joints of a rig and their motion; a still has one frame.

    Joints stand in the order of a walk over the tree, each before its children, lower numbers of
    ``JOINT_NAMES`` first, so that a file's order differs from SMPL's. Angles go on over the frames
    without jumps of a whole turn.

    Args:
        path: File to write.
        rig: The person.

    Returns:
        The file.
    """
    path = Path(path)
    lines, order = ["HIERARCHY"], list[int]()
    offsets = _CM * rig.local_offsets()
    offsets[0] = 0.0
    ends = _CM * _leaf_ends(rig)

    def add(joint: int, depth: int) -> None:
        order.append(joint)
        lead = "\t" * depth
        children = np.flatnonzero(rig.parents == joint).tolist()
        channels = f"3 {_ROTATION}" if joint else f"6 {_POSITION} {_ROTATION}"
        lines.append(f"{lead}{'JOINT' if joint else 'ROOT'} {JOINT_NAMES[joint]}")
        lines.extend([lead + "{", f"{lead}\tOFFSET {_numbers(offsets[joint])}"])
        lines.append(f"{lead}\tCHANNELS {channels}")
        for child in children:
            add(child, depth + 1)
        if not children:
            lines.extend([f"{lead}\tEnd Site", f"{lead}\t{{"])
            lines.extend([f"{lead}\t\tOFFSET {_numbers(ends[joint])}", f"{lead}\t}}"])
        lines.append(lead + "}")

    add(0, 0)
    angles = np.degrees(np.unwrap(to_zxy(rig.rotations), axis=0))[:, order]
    rows = np.concatenate([_CM * rig.root_position, angles.reshape(len(angles), -1)], 1)
    lines += ["MOTION", f"Frames: {len(rows)}", f"Frame Time: {1 / rig.frame_rate:.8f}"]
    lines += [_numbers(row) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
    return path


def to_zxy(rotations: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Angles z, x, y in radians with R = Rz Rx Ry; at x = 90 degrees the whole turn is in z."""
    sine = rotations[..., 2, 1].clip(-1, 1)
    is_locked = np.abs(sine) > _LOCKED
    z = np.where(
        is_locked,
        np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]),
        np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1]),
    )
    # From the other entries as well: arcsin alone loses half the digits near 90 degrees.
    x = np.arctan2(sine, np.hypot(rotations[..., 0, 1], rotations[..., 1, 1]))
    y = np.where(is_locked, 0.0, np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2]))
    angles: np.ndarray = np.stack([z, x, y], -1)
    return angles


def _leaf_ends(rig: Rig) -> Float[np.ndarray, "24 3"]:
    """From each joint to the farthest vertex that moves mostly with it, metres."""
    owner = rig.joint_idx[np.arange(len(rig.joint_idx)), rig.joint_weight.argmax(1)]
    ends: np.ndarray = np.zeros_like(rig.rest_joints)
    for joint, place in enumerate(rig.rest_joints):
        reach = rig.rest_vertices[owner == joint] - place
        if len(reach):
            ends[joint] = reach[(reach**2).sum(1).argmax()]
    return ends


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values)
