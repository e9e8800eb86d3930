"""One picture per person: given keypoints, start, fit and side view beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from eft_fast.keypoints import JointSet
from eft_fast.viz.overlay import check_photo, overlay, side_view
from eft_fast.viz.raster import FIT_COLOUR, START_COLOUR
from eft_fast.viz.skeleton import (
    PROJECTED,
    SIDE_COLOURS,
    Colour,
    draw_comparison,
    draw_mark,
    draw_skeleton,
    is_labelled,
)

_INK: Colour = (236, 238, 242)
_FAINT: Colour = (160, 166, 176)
_PAPER: Colour = (24, 26, 31)
_WARNING: Colour = (255, 150, 130)
_OUTSIDE: Colour = (52, 55, 62)  # what lies outside the photo
_GAP = 8
_HEADER = 30
_FOOTER = 30
# Width over height of a tile.
_NARROWEST, _WIDEST = 0.55, 1.2


@dataclass(frozen=True)
class ProjectedBody:
    """A body on its photo.

    Attributes:
        vertices_px: x and y in pixels of the photo, z in the same unit, smaller is nearer.
        keypoints_px: The points that were fitted, in pixels of the photo.
        error_px: Mean distance to the given keypoints in pixels of the photo.
    """

    vertices_px: Float[np.ndarray, "V 3"]
    keypoints_px: Float[np.ndarray, "K 2"] | None = None
    error_px: float | None = None


@dataclass(frozen=True)
class _View:
    """The part of the photo that a panel shows, and its size on the panel."""

    x0: float
    y0: float
    scale: float  # panel pixels per photo pixel
    height: int
    width: int

    def to_panel(self, points: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
        """Move x and y from the photo to the panel, and scale z with them."""
        moved = np.array(points, np.float64)
        moved[:, 0] = (moved[:, 0] + 0.5 - self.x0) * self.scale - 0.5
        moved[:, 1] = (moved[:, 1] + 0.5 - self.y0) * self.scale - 0.5
        if moved.shape[1] > 2:
            moved[:, 2] *= self.scale
        return moved


def person_panel(
    photo: UInt8[np.ndarray, "H W 3"],
    faces: Integer[np.ndarray, "F 3"],
    keypoints: Float[np.ndarray, "K 3"],
    joints: JointSet,
    *,
    start: ProjectedBody | None = None,
    fit: ProjectedBody | None = None,
    caption: str = "",
    height: int = 420,
    weight: Float[np.ndarray, " K"] | None = None,
    opacity: float = 0.88,
    warning: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw one person: photo with keypoints, start, fit, and the fit from the side.

    Only the surroundings of the person are shown, however large the photo; grey is outside it. The
    start is orange and the fit blue; given keypoints are pink, left light and round, right dark and
    square; those of low confidence or weight are hollow.

    Args:
        photo: The whole photo, RGB.
        faces: Indices of the vertices.
        keypoints: Given keypoints in pixels of the photo and confidence; 0 = not labelled.
        joints: The joint set of the keypoints.
        start: The regressor's answer; ``None`` leaves its tile out.
        fit: The fitted body; ``None`` leaves its tiles out.
        caption: Printed below, such as the file name.
        height: Height of a tile in pixels.
        weight: What robust weights left of each keypoint, as of ``FitResult.keypoint_weight``.
        opacity: How much a body hides the photo, in [0, 1].
        warning: What is to be known of the fit, printed in a line of its own.

    Returns:
        The panel.

    Raises:
        ValueError: If the photo is not uint8 RGB, or the keypoints are not those of the set.
    """
    check_photo("person_panel", photo)
    keypoints = np.asarray(keypoints, np.float64)
    if keypoints.shape != (len(joints), 3):
        raise ValueError(
            f"person_panel: keypoints of {joints.name} must be [{len(joints)}, 3], "
            f"got {list(keypoints.shape)}"
        )
    view = _choose_view(photo, keypoints, [b.vertices_px for b in (fit, start) if b], height)
    background = _cut(photo, view)
    given = np.concatenate([view.to_panel(keypoints[:, :2]), keypoints[:, 2:]], 1)
    count = int(is_labelled(keypoints).sum())
    radius = max(height / 110, 2.5)
    tile = Image.fromarray(background)
    draw_skeleton(ImageDraw.Draw(tile), given, joints, radius=radius, weight=weight)
    tiles = [(f"given ({count} keypoints)", tile)]
    for label, body, colour in (("start", start, START_COLOUR), ("fit", fit, FIT_COLOUR)):
        if body is not None:
            moved = view.to_panel(body.vertices_px)
            picture = overlay(background, moved, faces, colour=colour, opacity=opacity)
            tile = Image.fromarray(picture)
            if body.keypoints_px is not None:
                projected = view.to_panel(body.keypoints_px)
                draw = ImageDraw.Draw(tile)
                draw_comparison(draw, given, projected, joints, radius=radius, weight=weight)
            tiles.append((_with_error(label, body.error_px), tile))
    if fit is not None:
        turned = side_view(
            view.to_panel(fit.vertices_px), faces, height=height, width=round(height * 0.62)
        )
        tiles.append(("fit from the side (camera left)", Image.fromarray(turned)))
    return np.asarray(_assemble(tiles, caption, warning))


def _with_error(label: str, error_px: float | None) -> str:
    return label if error_px is None else f"{label} (error {error_px:.1f} px)"


def _choose_view(
    photo: np.ndarray, keypoints: np.ndarray, bodies: Sequence[np.ndarray], height: int
) -> _View:
    """Frame the keypoints and the bodies, but let no stray body blow up the frame."""
    rows, cols = photo.shape[:2]
    labelled = keypoints[is_labelled(keypoints), :2]
    clouds = [labelled] if len(labelled) else []
    for vertices in bodies:
        finite = np.asarray(vertices)[np.isfinite(vertices).all(1), :2]
        clouds += [finite] if len(finite) else []
    if not clouds:
        low, high = np.zeros(2), np.array([cols, rows], float)
    else:
        low, high = clouds[0].min(0), clouds[0].max(0)
        reach = 0.75 * max(float((high - low).max()), 32.0)
        for cloud in clouds[1:]:
            low = np.minimum(low, np.maximum(cloud.min(0), low - reach))
            high = np.maximum(high, np.minimum(cloud.max(0), high + reach))
    # Half the photo around it is as far as a panel looks, whatever the coordinates say.
    limit = 0.5 * np.array([cols, rows])
    low = np.clip(low, -limit, (cols, rows))
    high = np.clip(high, (0, 0), (cols, rows) + limit)
    centre = (low + high) / 2
    width_px, height_px = np.maximum((high - low) * 1.12, 16.0)
    height_px = max(height_px, width_px / _WIDEST)
    width_px = max(width_px, height_px * _NARROWEST)
    scale = height / height_px
    return _View(
        x0=centre[0] - width_px / 2,
        y0=centre[1] - height_px / 2,
        scale=scale,
        height=height,
        width=max(round(width_px * scale), 1),
    )


def _cut(photo: UInt8[np.ndarray, "H W 3"], view: _View) -> UInt8[np.ndarray, "h w 3"]:
    """The part of the photo inside the view, antialiased, grey outside the photo."""
    x0, y0 = int(np.floor(view.x0)), int(np.floor(view.y0))
    x1 = int(np.ceil(view.x0 + view.width / view.scale)) + 1
    y1 = int(np.ceil(view.y0 + view.height / view.scale)) + 1
    canvas = np.full((y1 - y0, x1 - x0, 3), _OUTSIDE, np.uint8)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x1, photo.shape[1]), min(y1, photo.shape[0])
    if left < right and top < bottom:
        canvas[top - y0 : bottom - y0, left - x0 : right - x0] = photo[top:bottom, left:right]
    box = (
        view.x0 - x0,
        view.y0 - y0,
        view.x0 - x0 + view.width / view.scale,
        view.y0 - y0 + view.height / view.scale,
    )
    small = Image.fromarray(canvas).resize(
        (view.width, view.height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0
    )
    return np.asarray(small)


def _assemble(tiles: Sequence[tuple[str, Image.Image]], caption: str, warning: str) -> Image.Image:
    """Set labelled tiles beside each other, with warning, legend and caption below."""
    width = sum(tile.width for _, tile in tiles) + _GAP * (len(tiles) + 1)
    room = _FOOTER if warning else 0
    height = tiles[0][1].height + _HEADER + room + _FOOTER
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    x = _GAP
    for label, tile in tiles:
        font = ImageFont.load_default(16)
        draw.text((x + 2, _HEADER / 2), _shorten(draw, label, tile.width, font), _INK, font, "lm")
        sheet.paste(tile, (x, _HEADER))
        x += tile.width + _GAP
    if warning:
        y = height - 1.5 * _FOOTER
        font = ImageFont.load_default(15)
        draw.ellipse((_GAP + 2, y - 5, _GAP + 12, y + 5), _WARNING)
        text = _shorten(draw, warning, width - 3 * _GAP - 18, font)
        draw.text((_GAP + 20, y), text, _WARNING, font, "lm")
    _draw_footer(draw, caption, width, height - _FOOTER / 2, compared=len(tiles) > 1)
    return sheet


def _draw_footer(
    draw: ImageDraw.ImageDraw, caption: str, width: int, y: float, *, compared: bool
) -> None:
    font = ImageFont.load_default(14)
    x = width - _GAP - 2.0
    # What each mark is, the most important one last to go where there is no room.
    marks: list[tuple[str, str, bool]] = [(side, side, False) for side in SIDE_COLOURS]
    marks.append(("low confidence or weight", "left", True))
    if compared:
        marks.append(("of the body", "", False))
    for text, side, is_hollow in reversed(marks):
        needed = draw.textlength(text, font) + 30
        if x - needed < _GAP:
            break
        x -= needed - 30
        draw.text((x, y), text, _FAINT, font, "lm")
        x -= 12
        if side:
            draw_mark(draw, (x, y), 4, side, is_hollow=is_hollow)
        else:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), None, PROJECTED, 2)
        x -= 18
    room = x - 2 * _GAP
    draw.text((_GAP + 2, y), _shorten(draw, caption, room, font), _INK, font, "lm")


def _shorten(
    draw: ImageDraw.ImageDraw,
    text: str,
    room: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> str:
    """Cut the middle out of a text that is too wide: both ends of a file name matter."""
    if draw.textlength(text, font) <= room:
        return text
    for keep in range(len(text) - 1, 1, -1):
        short = text[: keep // 2] + "..." + text[len(text) - (keep - keep // 2) :]
        if draw.textlength(short, font) <= room:
            return short
    return ""
