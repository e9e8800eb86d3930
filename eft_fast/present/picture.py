"""Fits over their photos, as pictures that notebooks show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures

from eft_fast import imaging
from eft_fast.keypoints import joint_set
from eft_fast.viz.panel import ProjectedBody, person_panel

if TYPE_CHECKING:
    from eft_fast.result import FitResult

#: Most people on one picture of many.
MOST_DRAWN: Final = 12
#: Colour of a photo that is not there.
_GREY: Final = 96
_GAP: Final = 8


def show(
    result: FitResult, row: int, photo: Any = None, *, height: int = 420, opacity: float = 0.88
) -> Pictures.Image:
    """Draw one person: keypoints, start, fit, and the fit from the side.

    Args:
        result: The fits.
        row: Which person.
        photo: The photo, as ``fit_batch`` takes one; None: the file that the fit names. Without
            one, and where it cannot be read, the person stands on grey.
        height: Height of a tile in pixels.
        opacity: How much a body hides the photo, in [0, 1].

    Raises:
        IndexError: If there is no such person.
        ValueError: If ``photo`` is given and no picture.
    """
    one = result[row]
    (start,), (fit,) = (project_bodies(one, which) for which in ("init", "final"))
    pixels = _open_photo(one, photo, [start, fit])
    caption = f"{PurePath(one.photo[0]).name or f'person {row}'}  {one.id[0]}".rstrip()
    drawn = draw_person(one, 0, pixels, start, fit, caption, height, opacity)
    return Pictures.fromarray(drawn)


def plot(
    result: FitResult, photos: Sequence[Any] | None = None, *, height: int = 240
) -> Pictures.Image:
    """Draw the first people, each as ``show`` does, below each other.

    Args:
        result: The fits; of more than ``MOST_DRAWN`` the first are drawn.
        photos: As of ``show``, one per person; None: the files that the fits name.
        height: Height of a tile in pixels.

    Raises:
        ValueError: If there are no people, or another number of photos.
    """
    if not len(result):
        raise ValueError("FitResult.plot: at least one person expected, got none")
    if photos is not None and len(photos) != len(result):
        raise ValueError(
            f"FitResult.plot: one photo per person expected, got {len(photos)} for {len(result)}"
        )
    given = [None] * len(result) if photos is None else photos
    rows = range(min(len(result), MOST_DRAWN))
    panels = [show(result, row, given[row], height=height) for row in rows]
    size = (
        max(panel.width for panel in panels),
        sum(panel.height + _GAP for panel in panels) - _GAP,
    )
    sheet, top = Pictures.new("RGB", size, (24, 26, 31)), 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height + _GAP
    return sheet


def project_bodies(result: FitResult, which: str) -> list[ProjectedBody]:
    """Everyone's mesh and keypoints in photo pixels."""
    vertices = result.to_photo(result.vertices(which), which).double().numpy()
    keypoints = result.keypoints_2d_px(which=which).double().numpy()
    errors = result.init_kp_error_px if which == "init" else result.kp_error_px
    return [
        ProjectedBody(mesh, points, error if np.isfinite(error) else None)
        for mesh, points, error in zip(vertices, keypoints, errors.tolist(), strict=True)
    ]


def draw_person(
    result: FitResult,
    row: int,
    photo: npt.NDArray[np.uint8],
    start: ProjectedBody,
    fit: ProjectedBody,
    caption: str,
    height: int,
    opacity: float,
    warning: str = "",
) -> npt.NDArray[np.uint8]:
    """The panel of one person; bodies that are not finite are left out."""
    return person_panel(
        photo,
        result.body().faces,
        result.keypoints[row].numpy(),
        joint_set(result.joint_set),
        start=_finite(start),
        fit=_finite(fit),
        caption=caption,
        height=height,
        opacity=opacity,
        weight=None if result.keypoint_weight is None else result.keypoint_weight[row].numpy(),
        warning=warning,
    )


def _finite(body: ProjectedBody) -> ProjectedBody | None:
    return body if np.isfinite(body.vertices_px).all() else None


def _open_photo(
    result: FitResult, photo: Any, bodies: Sequence[ProjectedBody]
) -> npt.NDArray[np.uint8]:
    if photo is not None:
        return imaging.load_image(imaging.plain_image(photo))
    if result.photo[0]:
        try:
            return imaging.load_image(result.photo[0])
        except (OSError, ValueError):
            pass
    # As large as what is drawn: nothing says how large the photo was.
    points = np.concatenate([body.vertices_px[:, :2] for body in bodies])
    given = result.keypoints[0].numpy()
    points = np.concatenate([points, given[given[:, 2] > 0, :2]])
    points = points[np.isfinite(points).all(1)]
    reach = np.clip(points.max(0), 1, 4000) if len(points) else np.array([256.0, 256.0])
    width, height = np.ceil(reach).astype(int) + 1
    return np.full((height, width, 3), _GREY, np.uint8)
