"""Draw 2D keypoints as a stick figure, and given against projected ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import ImageDraw

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
_SIDED_LIMBS = (
    ("nose", "{}eye"),
    ("{}eye", "{}ear"),
    ("neck", "{}sho"),
    ("{}sho", "{}elb"),
    ("{}elb", "{}wri"),
    ("{}sho", "{}hip"),
    ("pelvis", "{}hip"),
    ("{}hip", "{}kne"),
    ("{}kne", "{}ank"),
    ("{}ank", "{}heel"),
    ("{}ank", "{}btoe"),
    ("{}ank", "{}foot"),
)
#: Pairs of joint names that are joined by a line where a joint set has both.
LIMBS: tuple[tuple[str, str], ...] = (
    ("headtop", "neck"),
    ("head", "neck"),
    ("nose", "neck"),
    ("neck", "thorax"),
    ("thorax", "pelvis"),
    ("lsho", "rsho"),
    ("lhip", "rhip"),
    *((a.format(side), b.format(side)) for side in "lr" for a, b in _SIDED_LIMBS),
)
_MIDDLE = {"nose", "neck", "headtop", "head", "jaw", "thorax", "pelvis", "spine"}


def side_of(name: str) -> str:
    """Tell the body side of a joint by its name: ``left``, ``right`` or ``middle``."""
    if name in _MIDDLE or name.startswith("spine") or name[:1] not in ("l", "r"):
        return "middle"
    return "left" if name[0] == "l" else "right"


def is_labelled(keypoints: Float[np.ndarray, "K C"]) -> np.ndarray:
    """Which keypoints may be drawn: finite, and of positive confidence where there is one."""
    labelled: np.ndarray = np.isfinite(keypoints[:, :2]).all(1)
    if keypoints.shape[1] > 2:
        labelled &= keypoints[:, 2] > 0  # a comparison with NaN is false
    return labelled


def draw_skeleton(
    draw: ImageDraw.ImageDraw,
    keypoints: Float[np.ndarray, "K C"],
    names: Sequence[str],
    *,
    radius: float = 4.0,
) -> None:
    """Draw labelled keypoints as dots, joined by limbs in the colour of their side.

    Args:
        draw: Where to draw.
        keypoints: x, y in pixels of the picture, and optionally confidence; 0 leaves a point out.
        names: Names of the keypoints, as in ``JointSet.names``.
        radius: Radius of a dot in pixels; a limb is as wide.
    """
    labelled = is_labelled(keypoints)
    index = {name: k for k, name in enumerate(names) if labelled[k]}
    width = max(round(radius), 2)
    for a, b in LIMBS:
        if a not in index or b not in index:
            continue
        # The sided end decides, so that "nose to left eye" counts as left; two sides make middle.
        sides = {side_of(a), side_of(b)} - {"middle"}
        colour = SIDE_COLOURS[sides.pop() if len(sides) == 1 else "middle"]
        line = [_at(keypoints[index[a]]), _at(keypoints[index[b]])]
        draw.line(line, fill=OUTLINE, width=width + 2)
        draw.line(line, fill=colour, width=width)
    for k in np.flatnonzero(labelled).tolist():
        _dot(draw, keypoints[k], radius, SIDE_COLOURS[side_of(names[k])])


def draw_comparison(
    draw: ImageDraw.ImageDraw,
    given: Float[np.ndarray, "K 3"],
    projected: Float[np.ndarray, "K 2"],
    names: Sequence[str],
    *,
    radius: float = 4.0,
) -> None:
    """Draw given keypoints as dots, those of the body as rings, and a line for each error.

    Args:
        draw: Where to draw.
        given: x, y in pixels of the picture and confidence; 0 leaves a point out.
        projected: The same points of the fitted body.
        names: Names of the keypoints.
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
        _dot(draw, given[k], radius, SIDE_COLOURS[side_of(names[k])])


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
