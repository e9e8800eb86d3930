"""What a drawn pair holds, and everything that decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from eft_fast.synth import photo
from eft_fast.synth.props import Props
from eft_fast.synth.scene import CropCamera, Lights, Person


@dataclass(frozen=True)
class SynthSample:
    """One training pair. Metres, camera frame (x right, y down, z forward).

    Attributes:
        image: RGB crop.
        rotmat: Rotations relative to the parent; the root's from the body to the camera.
        betas: Shape coefficients.
        transl: Added to the posed body, so that it stands before the camera.
        joints: Kinematic joints.
        landmarks: The points of ``synth.landmarks.LANDMARKS``.
        landmarks_2d: Their x and y in [-1, 1] of the crop, and 2 = visible, 1 = hidden by
            something in front, 0 = outside the picture.
        camera: Focal length in half crop sides, and principal point in [-1, 1].
        mask: Pixels of the person before anything stood in front.
    """

    image: UInt8[np.ndarray, "S S 3"]
    rotmat: Float[np.ndarray, "24 3 3"]
    betas: Float[np.ndarray, " 10"]
    transl: Float[np.ndarray, " 3"]
    joints: Float[np.ndarray, "24 3"]
    landmarks: Float[np.ndarray, "27 3"]
    landmarks_2d: Float[np.ndarray, "27 3"]
    camera: Float[np.ndarray, " 3"]
    mask: Bool[np.ndarray, "S S"]


class Placed(NamedTuple):
    """One person before the camera; metres, camera frame.

    Attributes:
        person: Pose, shape and looks.
        transl: What was added to the posed body.
        joints: Kinematic joints.
        surface: Vertices with clothes.
        normals: Of the skin.
    """

    person: Person
    transl: torch.Tensor
    joints: torch.Tensor
    surface: torch.Tensor
    normals: torch.Tensor


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture: drawing it needs no further random number.

    Attributes:
        placed: The labelled person.
        other: Another person, or None.
        camera: The crop.
        lights: The lights.
        texture: Picture that patterns on people read.
        background: What is behind the people.
        occluders: Coverage of what is in front of them, or None.
        fill: Look of the occluders.
        development: What happens to the drawn picture.
        props: Floor and seat, or None.
    """

    placed: Placed
    other: Placed | None
    camera: CropCamera
    lights: Lights
    texture: UInt8[np.ndarray, "T T 3"]
    background: UInt8[np.ndarray, "S S 3"]
    occluders: Float[np.ndarray, "S S"] | None
    fill: Float[np.ndarray, "H W 3"] | None
    development: photo.Development
    props: Props | None = None

    @property
    def other_is_behind(self) -> bool:
        """Whether the other person is drawn first; pelvis joints decide."""
        other = self.other
        return other is not None and bool(other.joints[0, 2] >= self.placed.joints[0, 2])


class Seen(NamedTuple):
    """How one person is seen.

    Attributes:
        placed: The person.
        coverage: Share of each pixel, before anything stood in front.
        depth: Of their surface, metres.
        front: Coverage of what is in front of them.
    """

    placed: Placed
    coverage: Float[np.ndarray, "S S"]
    depth: Float[np.ndarray, "S S"]
    front: Float[np.ndarray, "S S"]
