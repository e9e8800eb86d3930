"""Colour of every covered pixel, from interpolated normals, rest positions and garment fields."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from eft_fast.synth.clothes import Outfit, Pattern
from eft_fast.synth.scene import Lights


def shade(
    normals: Float[np.ndarray, "N 3"],
    rest: Float[np.ndarray, "N 3"],
    fields: Float[np.ndarray, "N L"],
    outfit: Outfit,
    lights: Lights,
    texture: UInt8[np.ndarray, "T T 3"],
    softness: float,
) -> Float[np.ndarray, "N 3"]:
    """Return the colour of pixels on the person, 1 = white.

    Args:
        normals: Outward normals, camera frame, of any length.
        rest: Position on the body at rest, metres: what textures hang on.
        fields: Signed field of each layer, metres.
        outfit: Colours and patterns of the layers.
        lights: Lights in the camera frame.
        texture: Picture that patterns of kind "photo" read.
        softness: Width of hems in metres, about one pixel.
    """
    colour = np.tile(outfit.skin.astype(np.float32), (len(rest), 1))
    colour *= 1 + 0.12 * pattern_value(Pattern("photo", 0.5), rest, texture)
    for layer, pattern in enumerate(outfit.patterns):
        mask = np.clip(fields[:, layer] / softness + 0.5, 0, 1)
        rows = np.flatnonzero(mask)
        if not len(rows):
            continue
        paint = np.tile(outfit.colours[layer].astype(np.float32), (len(rows), 1))
        if pattern.kind != "plain":
            paint *= 1 + pattern.strength * pattern_value(pattern, rest[rows], texture)
        weight = mask[rows, None]
        colour[rows] = colour[rows] * (1 - weight) + paint * weight
    unit = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    facing = np.maximum(unit @ lights.directions.T.astype(np.float32), 0)
    light = lights.ambient + facing @ lights.colours.astype(np.float32)
    shaded: np.ndarray = np.maximum(colour, 0) * light
    return shaded


def pattern_value(
    pattern: Pattern, rest: Float[np.ndarray, "N 3"], texture: UInt8[np.ndarray, "T T 3"]
) -> Float[np.ndarray, "N C"]:
    """Return the pattern in [-1, 1], of one channel or three."""
    # Depth is added to both coordinates, so that the pattern also runs around the sides.
    x = (rest[:, 0] + 0.6 * rest[:, 2]) / pattern.period
    y = (rest[:, 1] + 0.4 * rest[:, 2]) / pattern.period
    if pattern.kind == "photo":
        side = texture.shape[0]
        column = ((x + pattern.phase) * side).astype(np.int64) % side
        row = ((y + 2.7 * pattern.phase) * side).astype(np.int64) % side
        photo: np.ndarray = texture[row, column].astype(np.float32) / 127.5 - 1
        return photo
    c, s = np.cos(pattern.angle), np.sin(pattern.angle)
    along, across = np.sin(6.2832 * (c * y + s * x)), np.sin(6.2832 * (c * x - s * y))
    if pattern.kind == "stripes":
        value = np.tanh(6 * along)
    elif pattern.kind == "checks":
        value = np.tanh(6 * along) * np.tanh(6 * across)
    else:  # dots
        value = np.tanh(6 * (along + across - 1.2))
    column_value: np.ndarray = value[:, None].astype(np.float32)
    return column_value
