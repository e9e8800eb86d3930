"""A skeleton of motion capture, and how it turns over time: what ASF/AMC and BVH files hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

#: Most joints of a skeleton; the largest common rigs with fingers have under 100.
MOST_JOINTS: Final = 1000
#: Most bytes of a motion file that is read: some minutes more than the longest of CMU's.
MOST_BYTES: Final = 2**27


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints in the rest pose of a file, in its own unit and axes.

    Attributes:
        names: Name of each joint.
        parents: Index of the parent, -1 at the root; a parent stands before its children.
        offsets: From the parent's place to the joint's, in the rest pose; zero at the root.
        bones: From the joint to the end of the segment that it turns, in the rest pose.
    """

    names: tuple[str, ...]
    parents: Int[np.ndarray, " J"]
    offsets: Float[np.ndarray, "J 3"]
    bones: Float[np.ndarray, "J 3"]

    def rest_positions(self) -> Float[np.ndarray, "J 3"]:
        """Place of each joint in the rest pose, from the root."""
        places: np.ndarray = np.zeros_like(self.offsets)
        for joint, parent in enumerate(self.parents.tolist()):
            if parent >= 0:
                places[joint] = places[parent] + self.offsets[joint]
        return places


@dataclass(frozen=True, eq=False)
class SkeletonMotion:
    """A skeleton over time.

    Attributes:
        skeleton: What turns.
        rotations: Of each joint against its parent; the identity is the rest pose.
        root_position: Place of the root, in the unit of the file.
        frame_rate: Frames per second.
        notes: What is odd about the file, one sentence each.
    """

    skeleton: Skeleton
    rotations: Float[np.ndarray, "F J 3 3"]
    root_position: Float[np.ndarray, "F 3"]
    frame_rate: float
    notes: tuple[str, ...] = ()

    def world_rotations(self) -> Float[np.ndarray, "F J 3 3"]:
        """Rotation of each joint from the rest pose, in the axes of the file."""
        world: np.ndarray = np.empty_like(self.rotations)
        for joint, parent in enumerate(self.skeleton.parents.tolist()):
            own = self.rotations[:, joint]
            world[:, joint] = own if parent < 0 else world[:, parent] @ own
        return world

    def positions(self) -> Float[np.ndarray, "F J 3"]:
        """Place of each joint over time, in the unit and axes of the file."""
        world = self.world_rotations()
        places: np.ndarray = np.empty(world.shape[:3])
        for joint, parent in enumerate(self.skeleton.parents.tolist()):
            if parent < 0:
                places[:, joint] = self.root_position
            else:
                step = world[:, parent] @ self.skeleton.offsets[joint]
                places[:, joint] = places[:, parent] + step
        return places


def euler_to_matrix(
    angles: Float[np.ndarray, "F K"], axes: str, *, intrinsic: bool
) -> Float[np.ndarray, "F 3 3"]:
    """Turns about coordinate axes, one after the other.

    Args:
        angles: Radians.
        axes: Letters x, y, z: the axis of each angle.
        intrinsic: Each turn is about the axes that the ones before have turned (as BVH's, the
            matrices multiplied in the order of ``axes``); False: about the fixed ones (as ASF's).
    """
    result = np.broadcast_to(np.eye(3), (len(angles), 3, 3))
    for column, axis in enumerate(axes):
        cos, sin = np.cos(angles[:, column]), np.sin(angles[:, column])
        turn = np.zeros((len(angles), 3, 3))
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        third = 3 - first - second
        turn[:, third, third] = 1.0
        turn[:, first, first] = turn[:, second, second] = cos
        turn[:, first, second], turn[:, second, first] = -sin, sin
        result = result @ turn if intrinsic else turn @ result
    return np.array(result)


def read_text(path: Path, who: str) -> str:
    """The text of a motion file; bytes outside of ASCII stand only in names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is empty or too large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    try:
        size = path.stat().st_size
        if not 0 < size <= MOST_BYTES:
            raise ValueError(f"{who}: expected 1 to {MOST_BYTES} bytes, got {size} in {path}")
        return path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise ValueError(f"{who}: {path} cannot be opened ({error.strerror})") from None


def finite(words: list[str], where: str) -> list[float]:
    """Numbers of a line.

    Raises:
        ValueError: If one is none, or is not finite; ``where`` opens the sentence.
    """
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [float("nan")]
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: expected finite numbers, got {' '.join(words)[:60]!r}")
    return values
