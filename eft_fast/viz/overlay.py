"""Lay fitted bodies over their photo, and look at a body from the side."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, UInt8

from eft_fast.viz.raster import FIT_COLOUR, composite, render_mesh

#: Background of pictures that show no photo.
PLAIN_BACKGROUND = (233, 236, 240)


def overlay(
    photo: UInt8[np.ndarray, "H W 3"],
    vertices_px: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    *,
    colour: tuple[float, float, float] = FIT_COLOUR,
    opacity: float = 0.88,
    samples: int = 3,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw one body over a photo.

    Args:
        photo: The picture, RGB; it is not changed.
        vertices_px: x and y in pixels of the photo, z in the same unit, smaller is nearer. The
            body may reach outside the photo.
        faces: Indices of the vertices.
        colour: Red, green and blue of the body in [0, 1].
        opacity: How much the body hides the photo, in [0, 1].
        samples: Sub-samples along each side of a pixel.

    Returns:
        The mixture, of the size of the photo.

    Raises:
        ValueError: If the photo is not uint8 RGB.

    Example:
        >>> Image.fromarray(overlay(photo, vertices_px, faces)).save("overlay.png")
    """
    check_photo("overlay", photo)
    mixed = np.array(photo)
    box = _visible_box(vertices_px, photo.shape[0], photo.shape[1])
    if box is None:
        return mixed
    x0, y0, x1, y1 = box
    # Only the part of the photo around the body is drawn: photos are large, people are not.
    shifted = np.asarray(vertices_px, np.float64) - (x0, y0, 0)
    mesh = render_mesh(
        shifted, faces, height=y1 - y0, width=x1 - x0, colour=colour, samples=samples
    )
    mixed[y0:y1, x0:x1] = composite(mixed[y0:y1, x0:x1], mesh.rgba, opacity)
    return mixed


def side_view(
    vertices_px: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    *,
    height: int,
    width: int,
    fit: bool = True,
    colour: tuple[float, float, float] = FIT_COLOUR,
    samples: int = 3,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a body as seen from the right of the picture; the camera is on the left.

    Args:
        vertices_px: Vertices as in `overlay`.
        faces: Indices of the vertices.
        height: Rows of the picture.
        width: Columns of the picture.
        fit: Scale and centre the body so that it fills the picture. ``False`` keeps its rows and
            size, so that it lines up with a front view of the same height.
        colour: Red, green and blue of the body in [0, 1].
        samples: Sub-samples along each side of a pixel.

    Returns:
        The body on a plain background.
    """
    vertices = np.asarray(vertices_px, np.float64)
    turned = np.stack([vertices[:, 2], vertices[:, 1], -vertices[:, 0]], 1)
    usable = turned[np.isfinite(turned).all(1)]
    plain = np.full((height, width, 3), PLAIN_BACKGROUND, np.uint8)
    if len(usable) == 0:
        return plain
    low, high = usable.min(0), usable.max(0)
    middle = (low + high) / 2
    if fit:
        room = 0.9 * np.array([width, height])
        scale = float((room / np.maximum(high[:2] - low[:2], 1e-9)).min())
        turned = (turned - middle) * scale
        turned[:, 1] += (height - 1) / 2
    else:
        turned[:, 0] -= middle[0]
    turned[:, 0] += (width - 1) / 2
    mesh = render_mesh(turned, faces, height=height, width=width, colour=colour, samples=samples)
    return composite(plain, mesh.rgba)


def check_photo(who: str, photo: np.ndarray) -> None:
    """Raise unless ``photo`` is uint8 [H, W, 3] with at least one pixel."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
        raise ValueError(
            f"{who}: the photo must be uint8 RGB [H, W, 3], got {photo.dtype} {list(photo.shape)}; "
            "read it with imaging.load_image"
        )


def _visible_box(
    vertices_px: Float[np.ndarray, "V 3"], height: int, width: int
) -> tuple[int, int, int, int] | None:
    """The part of the photo that the body can touch: x0, y0, x1, y1, ends exclusive."""
    points = np.asarray(vertices_px, np.float64)
    points = points[np.isfinite(points).all(1)]
    if len(points) == 0:
        return None
    low = np.floor(points[:, :2].min(0)) - 1
    high = np.ceil(points[:, :2].max(0)) + 2
    x0, y0 = (int(v) for v in np.clip(low, 0, (width, height)))
    x1, y1 = (int(v) for v in np.clip(high, 0, (width, height)))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
