"""Draw 2D keypoints as a stick figure, and given against projected ones."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import ImageDraw

from eft_fast.keypoints import JointSet

Colour = tuple[int, int, int]

#: Okabe-Ito colours by body side: they stay apart under every common colour-vision deficiency.
SIDE_COLOURS: dict[str, Colour] = {
    "left": (86, 180, 233),
    "right": (230, 159, 0),
    "middle": (240, 228, 66),
}
PROJECTED: Colour = (255, 255, 255)
OUTLINE: Colour = (20, 22, 28)

_FARTHEST = 20_000.0  # pixels


def side_of(name: str) -> str:
    """Tell the body side of a joint by its name: ``left``, ``right`` or ``middle``."""
    sides = {"l": "left", "r": "right"}
    return sides.get(name.removeprefix("op_")[:1], "middle")


def is_labelled(keypoints: Float[np.ndarray, "K C"]) -> np.ndarray:
    """Which keypoints may be drawn: finite, and of positive confidence where there is one."""
    labelled: np.ndarray = np.isfinite(keypoints[:, :2]).all(1)
    if keypoints.shape[1] > 2:
        labelled &= keypoints[:, 2] > 0  # a comparison with NaN is false
    return labelled


def draw_skeleton(
    draw: ImageDraw.ImageDraw,
    keypoints: Float[np.ndarray, "K C"],
    joints: JointSet,
    *,
    radius: float = 4.0,
) -> None:
    """Draw labelled keypoints as dots, joined by limbs in the colour of their side.

    Args:
        draw: Where to draw.
        keypoints: x, y in pixels of the picture, and optionally confidence; 0 leaves a point out.
        joints: Their joint set.
        radius: Radius of a dot in pixels; a limb is as wide.
    """
    labelled = is_labelled(keypoints)
    width = max(round(radius), 2)
    for a, b in joints.edges:
        if not (labelled[a] and labelled[b]):
            continue
        # The sided end decides, so that "nose to left eye" counts as left; two sides make middle.
        sides = {side_of(joints.names[end]) for end in (a, b)} - {"middle"}
        colour = SIDE_COLOURS[sides.pop() if len(sides) == 1 else "middle"]
        line = [_at(keypoints[a]), _at(keypoints[b])]
        draw.line(line, fill=OUTLINE, width=width + 2)
        draw.line(line, fill=colour, width=width)
    for k in np.flatnonzero(labelled).tolist():
        _dot(draw, keypoints[k], radius, SIDE_COLOURS[side_of(joints.names[k])])


def draw_comparison(
    draw: ImageDraw.ImageDraw,
    given: Float[np.ndarray, "K 3"],
    projected: Float[np.ndarray, "K 2"],
    joints: JointSet,
    *,
    radius: float = 4.0,
) -> None:
    """Draw given keypoints as dots, those of the body as rings, and a line for each error.

    Args:
        draw: Where to draw.
        given: x, y in pixels of the picture and confidence; 0 leaves a point out.
        projected: The same points of the fitted body.
        joints: Their joint set.
        radius: Radius of a dot in pixels.
    """
    both = np.flatnonzero(is_labelled(given) & is_labelled(projected)).tolist()
    for k in both:
        line = [_at(given[k]), _at(projected[k])]
        draw.line(line, fill=OUTLINE, width=4)
        draw.line(line, fill=PROJECTED, width=2)
    for k in both:
        _ring(draw, projected[k], radius + 1)
    for k in np.flatnonzero(is_labelled(given)).tolist():
        _dot(draw, given[k], radius, SIDE_COLOURS[side_of(joints.names[k])])


def _at(point: np.ndarray) -> tuple[float, float]:
    """The position, kept within what Pillow's integer coordinates draw in a moment."""
    x, y = np.clip(point[:2], -_FARTHEST, _FARTHEST)
    return float(x), float(y)


def _dot(draw: ImageDraw.ImageDraw, point: np.ndarray, radius: float, colour: Colour) -> None:
    x, y = _at(point)
    draw.ellipse(
        (x - radius, y - radius, x + radius, y + radius), fill=colour, outline=OUTLINE, width=1
    )


def _ring(draw: ImageDraw.ImageDraw, point: np.ndarray, radius: float) -> None:
    x, y = _at(point)
    for grow, colour, width in ((1.0, OUTLINE, 4), (0.0, PROJECTED, 2)):
        r = radius + grow
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)
