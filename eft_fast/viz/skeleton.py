"""Draw 2D keypoints as a stick figure, and given against projected ones."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import ImageDraw

from eft_fast.keypoints import JointSet

Colour = tuple[int, int, int]

#: Given keypoints, by body side: one hue that no body is drawn in, sides by tone and by shape
#: (left: light disc, right: dark square, middle: diamond), so that blue is the fit and orange the
#: start, and nothing else.
SIDE_COLOURS: dict[str, Colour] = {
    "left": (255, 176, 226),
    "right": (186, 24, 132),
    "middle": (232, 92, 180),
}
PROJECTED: Colour = (255, 255, 255)
OUTLINE: Colour = (20, 22, 28)
#: Keypoints of less confidence, or of which robust weights left less, are drawn hollow.
LOW: Final = 0.5

#: Points of the head stand so close that dots of the usual size would hide it.
_FACE: Final = frozenset("nose leye reye lear rear jaw head headtop".split())
_FACE_SHARE: Final = 0.6  # most of the usual radius that they get
_FACE_SPREAD: Final = 0.09  # and most of the extent of the labelled ones
_SMALLEST: Final = 1.5
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


def dot_radii(
    keypoints: Float[np.ndarray, "K C"], joints: JointSet, radius: float
) -> Float[np.ndarray, " K"]:
    """Radius of each dot in pixels: points of the head are small enough to leave it visible.

    Args:
        keypoints: x, y in pixels of the picture, and optionally confidence.
        joints: Their joint set.
        radius: The usual radius.
    """
    is_face = np.array([name.removeprefix("op_") in _FACE for name in joints.names], bool)
    radii = np.full(len(joints), radius)
    shown = keypoints[is_face & is_labelled(keypoints), :2]
    spread = float(np.ptp(shown, axis=0).max()) if len(shown) > 1 else np.inf
    small = min(_FACE_SHARE * radius, _FACE_SPREAD * spread)
    radii[is_face] = min(max(small, _SMALLEST), radius)
    return radii


def draw_skeleton(
    draw: ImageDraw.ImageDraw,
    keypoints: Float[np.ndarray, "K C"],
    joints: JointSet,
    *,
    radius: float = 4.0,
    weight: Float[np.ndarray, " K"] | None = None,
) -> None:
    """Draw labelled keypoints as dots, joined by limbs in the tone of their side.

    Args:
        draw: Where to draw.
        keypoints: x, y in pixels of the picture, and optionally confidence; 0 leaves a point out.
        joints: Their joint set.
        radius: Radius of a dot in pixels; a limb is as wide.
        weight: What robust weights left of each, as of ``FitResult.keypoint_weight``; NaN, or
            None: nothing is known.
    """
    labelled = is_labelled(keypoints)
    radii = dot_radii(keypoints, joints, radius)
    for a, b in joints.edges:
        if not (labelled[a] and labelled[b]):
            continue
        # The sided end decides, so that "nose to left eye" counts as left; two sides make middle.
        sides = {side_of(joints.names[end]) for end in (a, b)} - {"middle"}
        colour = SIDE_COLOURS[sides.pop() if len(sides) == 1 else "middle"]
        width = max(round(min(radii[a], radii[b])), 1)
        line = [_at(keypoints[a]), _at(keypoints[b])]
        draw.line(line, fill=OUTLINE, width=width + 2)
        draw.line(line, fill=colour, width=width)
    _draw_given(draw, keypoints, joints, radii, weight)


def draw_comparison(
    draw: ImageDraw.ImageDraw,
    given: Float[np.ndarray, "K 3"],
    projected: Float[np.ndarray, "K 2"],
    joints: JointSet,
    *,
    radius: float = 4.0,
    weight: Float[np.ndarray, " K"] | None = None,
) -> None:
    """Draw given keypoints as dots, those of the body as rings, and a line for each error.

    Args:
        draw: Where to draw.
        given: x, y in pixels of the picture and confidence; 0 leaves a point out.
        projected: The same points of the fitted body.
        joints: Their joint set.
        radius: Radius of a dot in pixels.
        weight: As of ``draw_skeleton``.
    """
    both = np.flatnonzero(is_labelled(given) & is_labelled(projected)).tolist()
    radii = dot_radii(given, joints, radius)
    for k in both:
        line = [_at(given[k]), _at(projected[k])]
        draw.line(line, fill=OUTLINE, width=4)
        draw.line(line, fill=PROJECTED, width=2)
    for k in both:
        _ring(draw, projected[k], radii[k] + 1)
    _draw_given(draw, given, joints, radii, weight)


def draw_mark(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    radius: float,
    side: str,
    *,
    is_hollow: bool = False,
) -> None:
    """Draw the mark of a side: disc, square or diamond, with a dark border and a light one around.

    Args:
        draw: Where to draw.
        place: Its middle, pixels of the picture.
        radius: About half of its width.
        side: As ``side_of`` says.
        is_hollow: Whether the picture shows through its middle.
    """
    colour = SIDE_COLOURS[side]
    if not is_hollow:
        _shape(draw, place, radius + 2, side, fill=PROJECTED)
        _shape(draw, place, radius + 1, side, fill=OUTLINE)
        _shape(draw, place, radius, side, fill=colour)
        return
    _shape(draw, place, radius + 1, side, outline=OUTLINE, width=4)
    _shape(draw, place, radius, side, outline=colour, width=2)


def _draw_given(
    draw: ImageDraw.ImageDraw,
    given: Float[np.ndarray, "K C"],
    joints: JointSet,
    radii: Float[np.ndarray, " K"],
    weight: Float[np.ndarray, " K"] | None,
) -> None:
    # Comparisons with NaN are false: of whom nothing is known, the dot is full.
    low = np.zeros(len(given), bool) if given.shape[1] < 3 else given[:, 2] < LOW
    if weight is not None:
        low |= np.asarray(weight) < LOW
    for k in np.flatnonzero(is_labelled(given)).tolist():
        side = side_of(joints.names[k])
        draw_mark(draw, _at(given[k]), float(radii[k]), side, is_hollow=bool(low[k]))


def _at(point: np.ndarray) -> tuple[float, float]:
    """The position, kept within what Pillow's integer coordinates draw in a moment."""
    x, y = np.clip(point[:2], -_FARTHEST, _FARTHEST)
    return float(x), float(y)


def _shape(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    radius: float,
    side: str,
    *,
    fill: Colour | None = None,
    outline: Colour | None = None,
    width: int = 1,
) -> None:
    x, y = place
    if side == "left":
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=fill, outline=outline, width=width)
    elif side == "right":
        half = 0.9 * radius  # of about the area of the disc
        box = (x - half, y - half, x + half, y + half)
        draw.rectangle(box, fill=fill, outline=outline, width=width)
    else:
        half = 1.25 * radius
        corners = [(x, y - half), (x + half, y), (x, y + half), (x - half, y)]
        draw.polygon(corners, fill=fill, outline=outline, width=width)


def _ring(draw: ImageDraw.ImageDraw, point: np.ndarray, radius: float) -> None:
    x, y = _at(point)
    for grow, colour, width in ((1.0, OUTLINE, 4), (0.0, PROJECTED, 2)):
        r = radius + grow
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)
