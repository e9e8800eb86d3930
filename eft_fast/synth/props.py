"""What people stand, sit and lie on: a floor that they touch, and a seat under those who sit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8

from eft_fast.ops.raster import Raster, rasterize
from eft_fast.synth.clothes import Pattern
from eft_fast.synth.scene import CropCamera, Lights
from eft_fast.synth.shade import pattern_value

#: The floor reaches so far from the person, metres, in tiles: what is behind the camera is left
#: out tile by tile.
_FLOOR_REACH: Final = 6.0
_FLOOR_TILES: Final = 48
#: Thighs flatter than this (cosine to the vertical) belong to somebody who sits, if the pelvis is
#: between these heights above the floor, metres.
_FLAT_THIGH: Final = 0.6
_SEAT_HEIGHTS: Final = (0.22, 1.0)
#: Half the width and depth of a seat, metres.
_SEAT_HALF: Final = (0.17, 0.32)
#: The camera is at least so far above the floor, metres.
_LEAST_HEIGHT: Final = 0.3
#: Cloth and flesh give way by about this much, metres.
_PRESS: Final = 0.015


@dataclass(frozen=True)
class Props:
    """A mesh of plain things with a texture; metres, camera frame.

    Attributes:
        vertices: Corners; no two faces of different direction share one.
        normals: Outward normals.
        uv: Where the texture is read, metres.
        colour: RGB of each corner.
        faces: Triangles.
        pattern: Texture of everything.
    """

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    uv: Float[np.ndarray, "V 2"]
    colour: Float[np.ndarray, "V 3"]
    faces: Integer[np.ndarray, "F 3"]
    pattern: Pattern

    def draw(
        self,
        camera: CropCamera,
        lights: Lights,
        texture: UInt8[np.ndarray, "T T 3"],
        size: int,
        samples: int,
    ) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S"], Float[np.ndarray, "S S"]]:
        """Draw the things: levels in [0, 255] where they are, coverage and depth."""
        pixels = (camera.project(self.vertices) + 1) * (size / 2)
        points = np.column_stack([pixels, self.vertices[:, 2]])
        looks = np.concatenate([self.normals, self.uv, self.colour], 1)
        drawn: Raster = rasterize(
            torch.from_numpy(points.astype(np.float32)),
            torch.from_numpy(self.faces.astype(np.int32)),
            torch.from_numpy(looks.astype(np.float32)),
            height=size,
            width=size,
            samples=samples,
            perspective=True,
        )
        coverage = drawn.coverage.numpy()
        levels = np.zeros((size, size, 3), np.float32)
        rows, columns = np.nonzero(coverage)
        values = drawn.image.numpy()[rows, columns] / coverage[rows, columns][:, None]
        place = np.column_stack([values[:, 3:5], np.zeros(len(values), np.float32)])
        shade = 1 + self.pattern.strength * pattern_value(self.pattern, place, texture)
        colour = values[:, 5:] * shade
        facing = np.maximum(values[:, :3] @ lights.directions.T.astype(np.float32), 0)
        light = lights.ambient + facing @ lights.colours.astype(np.float32)
        levels[rows, columns] = 255 * np.clip(colour, 0, 1) * light
        return levels, coverage, drawn.depth.numpy()


def sample_props(
    rng: np.random.Generator,
    up: Float[np.ndarray, " 3"],
    joints: Float[np.ndarray, "24 3"],
    surface: Float[np.ndarray, "V 3"],
    seat_rows: Integer[np.ndarray, " N"],
) -> Props | None:
    """Draw a floor under the lowest point of a person, and a seat if they sit above it.

    Args:
        rng: Generator; the same state gives the same things.
        up: Direction against gravity.
        joints: Kinematic joints.
        surface: Vertices with clothes.
        seat_rows: Those of buttocks and thighs.

    Returns:
        The things; None where the camera, which is at the origin, would look at the floor's
        underside.
    """
    height = surface @ up
    floor = float(height.min()) + _PRESS
    if floor > -_LEAST_HEIGHT:
        return None
    pelvis = joints[0]
    ahead = _level(np.cross(joints[1] - joints[2], up), up)
    parts = [_floor(rng, pelvis + (floor - pelvis @ up) * up, up, ahead)]
    thighs = joints[[4, 5]] - joints[[1, 2]]
    steep = np.abs(thighs @ up) / np.linalg.norm(thighs, axis=1)
    near = seat_rows[np.linalg.norm(surface[seat_rows] - pelvis, axis=1) < 0.28]
    top = float(height[near].min()) + _PRESS if len(near) else floor
    if steep.min() < _FLAT_THIGH and _SEAT_HEIGHTS[0] < top - floor < _SEAT_HEIGHTS[1]:
        half = rng.uniform(*_SEAT_HALF, size=2)
        colour = rng.uniform(0.05, 0.9, 3)
        middle = pelvis - (pelvis @ up) * up + ahead * rng.uniform(-0.12, 0.06)
        parts.append(_box(middle, (floor, top), half, up, ahead, colour))
        if rng.random() < 0.5:
            behind = middle - ahead * (half[1] + rng.uniform(0.0, 0.05))
            back = (floor, top + rng.uniform(0.2, 0.6))
            parts.append(_box(behind, back, np.array([half[0], 0.02]), up, ahead, colour))
    pattern = Pattern("photo", float(rng.uniform(0.3, 2.0)), float(rng.uniform(0.1, 0.5)))
    return _join(parts, pattern)


_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _level(direction: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the horizontal part of a direction, of length 1."""
    flat = direction - (direction @ up) * up
    length = float(np.linalg.norm(flat))
    if length < 1e-6:
        flat = np.cross(up, [1.0, 0.0, 0.0])
        length = float(np.linalg.norm(flat))
    result: np.ndarray = flat / length
    return result


def _floor(
    rng: np.random.Generator, middle: np.ndarray, up: np.ndarray, ahead: np.ndarray
) -> _Part:
    line = np.linspace(-_FLOOR_REACH, _FLOOR_REACH, _FLOOR_TILES + 1)
    u, v = (axis.ravel() for axis in np.meshgrid(line, line))
    points = middle + u[:, None] * np.cross(up, ahead) + v[:, None] * ahead
    number = np.arange((_FLOOR_TILES + 1) ** 2).reshape(_FLOOR_TILES + 1, -1)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    colour = np.clip(rng.uniform(0.1, 0.9) + rng.normal(size=3) * 0.08, 0.02, 1)
    return (
        points,
        np.tile(up, (len(points), 1)),
        np.column_stack([u, v]),
        np.tile(colour, (len(points), 1)),
        faces,
    )


def _box(
    middle: np.ndarray,
    heights: tuple[float, float],
    half: np.ndarray,
    up: np.ndarray,
    ahead: np.ndarray,
    colour: np.ndarray,
) -> _Part:
    """Return an upright box: ``middle`` has height 0, ``half`` is sideways and ahead."""
    axes = np.stack([np.cross(up, ahead), ahead, up])
    low = np.array([-half[0], -half[1], heights[0]])
    high = np.array([half[0], half[1], heights[1]])
    points, normals, uv, faces = [], [], [], []
    for axis in range(3):
        for end, sign in ((low, -1.0), (high, 1.0)):
            others = [k for k in range(3) if k != axis]
            for s, t in ((0, 0), (1, 0), (1, 1), (0, 1)):
                local = np.zeros(3)
                local[axis] = end[axis]
                local[others] = [(low, high)[s][others[0]], (low, high)[t][others[1]]]
                points.append(middle + local @ axes)
                normals.append(sign * axes[axis])
                uv.append(local[others])
            first = len(points) - 4
            faces += [[first, first + 1, first + 2], [first, first + 2, first + 3]]
    return (
        np.array(points), np.array(normals), np.array(uv), np.tile(colour, (24, 1)), np.array(faces)
    )  # fmt: skip


def _join(parts: list[_Part], pattern: Pattern) -> Props:
    counts = np.cumsum([0] + [len(part[0]) for part in parts])
    stacked = [np.concatenate([part[k] for part in parts]) for k in range(4)]
    faces = np.concatenate([part[4] + first for part, first in zip(parts, counts, strict=False)])
    return Props(stacked[0], stacked[1], stacked[2], stacked[3], faces, pattern)
