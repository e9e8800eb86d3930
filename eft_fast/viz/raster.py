"""Shade a mesh into a picture with transparent background, without OpenGL or a display."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8

from eft_fast.ops.raster import rasterize, vertex_normals

#: Sky blue and orange of the Okabe-Ito palette, lightened to look like matt paint. The pair stays
#: apart under every common colour-vision deficiency.
FIT_COLOUR = (0.52, 0.76, 0.95)
START_COLOUR = (0.96, 0.74, 0.45)
# Directions towards the lights in picture axes (x right, y down, z away from the viewer).
_KEY = np.array([-0.45, -0.70, -0.75])
_FILL = np.array([0.80, -0.05, -0.60])
_SKY = np.array([0.0, -1.0, 0.0])
# A jump in depth of this share of the mesh's height is drawn as a contour.
_CONTOUR_STEP = 0.02
_CONTOUR_DARKNESS = 0.45


@dataclass(frozen=True)
class RenderedMesh:
    """A shaded mesh.

    Attributes:
        rgba: Colours with straight (not premultiplied) alpha; alpha is the coverage.
        depth: z of the nearest surface; infinity where there is none.
    """

    rgba: UInt8[np.ndarray, "H W 4"]
    depth: Float[np.ndarray, "H W"]


def shade(
    normals: Float[np.ndarray, "V 3"], colour: tuple[float, float, float]
) -> Float[np.ndarray, "V 3"]:
    """Colour a matt surface under a key light, a fill light and a bright sky.

    Args:
        normals: Unit normals in picture axes: x right, y down, z away from the viewer. Those that
            point away from the viewer are turned around, so both sides of a surface are lit.
        colour: Red, green and blue of the surface in [0, 1].

    Returns:
        Colours in [0, 1].
    """
    facing = np.where(normals[:, 2:] > 0, -normals, normals)
    key, fill, sky = (
        facing @ (direction / np.linalg.norm(direction)) for direction in (_KEY, _FILL, _SKY)
    )
    light = 0.26 + 0.14 * sky + 0.68 * np.clip(key, 0, None) + 0.20 * np.clip(fill, 0, None)
    # The grazing edge turns lighter, as on cloth; it lifts the body off dark photos.
    rim = 0.10 * (1 + facing[:, 2]) ** 3
    shaded: np.ndarray = np.clip(light[:, None] * np.asarray(colour) + rim[:, None], 0, 1)
    return shaded


def render_mesh(
    vertices: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    *,
    height: int,
    width: int,
    colour: tuple[float, float, float] = FIT_COLOUR,
    samples: int = 3,
) -> RenderedMesh:
    """Draw a shaded mesh, with contours where one part of it hides another.

    Args:
        vertices: x and y in pixels of the picture, z in the same unit, smaller is nearer.
        faces: Indices of the vertices.
        height: Rows of the picture.
        width: Columns of the picture.
        colour: Red, green and blue of the surface in [0, 1].
        samples: Sub-samples along each side of a pixel.

    Returns:
        The picture and its depth.
    """
    points, index = to_tensors(vertices, faces)
    normals = vertex_normals(points, index).numpy()
    colours = torch.as_tensor(shade(normals, colour), dtype=torch.float32)
    picture = rasterize(points, index, colours, height=height, width=width, samples=samples)
    depth, alpha = picture.depth.numpy(), picture.coverage.numpy()
    finite = points[torch.isfinite(points).all(1), 1]
    extent = float(finite.max() - finite.min()) if len(finite) else 1.0
    contours = 1 - _CONTOUR_DARKNESS * _depth_jumps(depth, _CONTOUR_STEP * max(extent, 1.0))
    straight = picture.image.numpy() / np.maximum(alpha, 1e-6)[..., None] * contours[..., None]
    rgba = np.concatenate([straight, alpha[..., None]], -1)
    return RenderedMesh(np.rint(np.clip(rgba, 0, 1) * 255).astype(np.uint8), depth)


def composite(
    background: UInt8[np.ndarray, "H W 3"], rgba: UInt8[np.ndarray, "H W 4"], opacity: float = 1.0
) -> UInt8[np.ndarray, "H W 3"]:
    """Lay a picture with straight alpha over another.

    Args:
        background: The picture below.
        rgba: The picture above, of the same size.
        opacity: Multiplies its alpha.

    Returns:
        The mixture.
    """
    alpha = rgba[..., 3:].astype(np.float32) * (opacity / 255)
    mixed = background * (1 - alpha) + rgba[..., :3] * alpha
    rounded: np.ndarray = np.rint(mixed).astype(np.uint8)
    return rounded


def to_tensors(
    vertices: Float[np.ndarray, "V 3"], faces: Integer[np.ndarray, "F 3"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a mesh into the types of the rasteriser."""
    return (
        torch.as_tensor(np.array(vertices, dtype=np.float32)),
        torch.as_tensor(np.array(faces, dtype=np.int32)),
    )


def _depth_jumps(depth: Float[np.ndarray, "H W"], step: float) -> Float[np.ndarray, "H W"]:
    """1 just behind a nearer part of the mesh, 0 elsewhere; soft from one to two steps.

    The slope on the other side of the pixel is taken off, so that a surface that turns away from
    the viewer is no jump.
    """
    padded = np.pad(depth, 1, constant_values=np.inf)
    inside = np.isfinite(depth)
    here = np.where(inside, depth, 0)
    sides = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    jumps = np.zeros_like(depth)
    for near, opposite in zip(sides, (sides[1], sides[0], sides[3], sides[2]), strict=True):
        known = inside & np.isfinite(near) & np.isfinite(opposite)
        jump = np.where(known, here - near, 0) - np.where(known, opposite - here, 0).clip(0)
        jumps = np.maximum(jumps, jump)
    softened: np.ndarray = np.clip(jumps / step - 1, 0, 1)
    return softened
