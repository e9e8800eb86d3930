"""All people of a photo in one picture, the nearer before the farther."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from eft_fast.conventions import BOX_UNIT
from eft_fast.result import FitResult
from eft_fast.viz.overlay import check_photo
from eft_fast.viz.raster import FIT_COLOUR, START_COLOUR, composite, render_mesh
from eft_fast.viz.scene import find_camera, place_people

#: What is left of the light where one person stops before another.
_SEAM: float = 0.45


def draw_together(
    photo: UInt8[np.ndarray, "H W 3"],
    result: FitResult,
    *,
    which: str = "final",
    opacity: float = 0.88,
    samples: int = 2,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw everybody of a result over the photo that they are all in.

    Each lies where the own fit has it in the picture. Who is before whom is told by the photo's one
    pinhole (``scene.find_camera``): where people have none in common, by their sizes.

    Args:
        photo: The whole photo, RGB; it is not changed.
        result: The people of this photo; who is not finite is left out.
        which: ``final``, or ``init`` for the regressor alone.
        opacity: How much the bodies hide the photo, in [0, 1].
        samples: Sub-samples along each side of a pixel.

    Returns:
        The picture, of the size of the photo.

    Raises:
        ValueError: If the photo is not uint8 RGB.
    """
    check_photo("draw_together", photo)
    height, width = photo.shape[:2]
    camera = find_camera(result, (width, height))
    distance = place_people(result, camera, which)[:, 2]
    # Pixels a metre in the plane of the root, by which ``to_photo`` scales depths.
    cam = result.pred_cam if which == "final" else result.init.pred_cam
    scale = (cam[:, 0].double() * BOX_UNIT / 2 * result.bbox_scale.double()).numpy()
    points = result.to_photo(result.vertices(which), which).double()
    is_drawn = torch.isfinite(points).all((1, 2)).numpy() & np.isfinite(distance)
    colour = FIT_COLOUR if which == "final" else START_COLOUR
    layer = np.zeros((height, width, 4), np.uint8)
    nearest: Float[np.ndarray, "H W"] = np.full((height, width), np.inf)
    owner: Int[np.ndarray, "H W"] = np.full((height, width), -1)
    for row in sorted(np.flatnonzero(is_drawn), key=lambda one: -distance[one]):
        mesh = render_mesh(
            points[row].numpy(), result.body().faces, height=height, width=width,
            colour=colour, samples=samples,
        )  # fmt: skip
        depth = mesh.depth / scale[row] + distance[row]
        is_first = (mesh.rgba[..., 3] > 0) & (depth < nearest)
        layer[is_first] = _over(mesh.rgba[is_first], layer[is_first])
        nearest[is_first], owner[is_first] = depth[is_first], row
    layer[..., :3][_seams(owner)] = (_SEAM * layer[..., :3][_seams(owner)]).astype(np.uint8)
    return composite(photo, layer, opacity)


def _over(above: UInt8[np.ndarray, "N 4"], below: UInt8[np.ndarray, "N 4"]) -> np.ndarray:
    """One colour with straight alpha over another."""
    top, bottom = above[:, 3:] / 255, below[:, 3:] / 255
    alpha = top + bottom * (1 - top)
    mixed = (above[:, :3] * top + below[:, :3] * bottom * (1 - top)) / np.maximum(alpha, 1e-6)
    pixels: np.ndarray = np.rint(np.concatenate([mixed, 255 * alpha], 1)).astype(np.uint8)
    return pixels


def _seams(owner: Int[np.ndarray, "H W"]) -> np.ndarray:
    """Pixels of a person beside another person."""
    padded = np.pad(owner, 1, constant_values=-1)
    seams = np.zeros(owner.shape, bool)
    for rows, columns in ((slice(2, None), slice(1, -1)), (slice(1, -1), slice(2, None))):
        other = padded[rows, columns]
        seams |= (owner >= 0) & (other >= 0) & (owner != other)
    return seams
