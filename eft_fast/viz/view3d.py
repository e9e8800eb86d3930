"""Fitted bodies in 3D as one HTML page, each before its photo: WebGL 2, no network, no library."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from PIL import Image

from eft_fast import imaging
from eft_fast.files import write_text
from eft_fast.result import FitResult
from eft_fast.viz.page import data_uri, finite_or_none, make_environment, script_json
from eft_fast.viz.scene import PhotoCamera, find_camera, place_people

#: Steps of a coordinate: a body of two metres is stored to a thirtieth of a millimetre.
_STEPS: Final = 65535
#: Longer side of a photo on the page, pixels.
_PHOTO_SIDE: Final = 960
_QUALITY: Final = 78
_UPRIGHT: Final = np.array([1.0, -1.0, -1.0])

Photo = str | Path | npt.NDArray[np.uint8]


def write_view(
    path: str | Path,
    result: FitResult,
    names: Sequence[str],
    *,
    photos: Sequence[Photo] | None = None,
    ids: Sequence[str] | None = None,
    order: Sequence[int] | None = None,
    limit: int = 50,
) -> list[int]:
    """Write a page with the bodies before and after the fit, all people of a photo together.

    ``view.html#12`` opens at the person of row 11: numbers count from 1.

    Args:
        path: File to write; its folder is made.
        result: The fits; those of another body than the open one need ``with_body``.
        names: What to call each person's photo.
        photos: The photo of each person, a path or RGB; None: as the fits name them. People whose
            photo is not known, or cannot be read, stand before none.
        ids: What to call each person of a photo; None: as the fits name them.
        order: Rows in the order in which their photos come; None: that of the fits.
        limit: People at most; a photo's are shown together, as far as they find room. Each takes
            about 220 kB, each photo about 100.

    Returns:
        The rows of those who are on the page: only who has a finite fit. With nobody, no page is
        written.

    Raises:
        ValueError: If there are more or fewer names, photos or ids than fits, or the path is a
            folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"write_view: a file name expected, got the folder {path}")
    photos = list(result.photo) if photos is None else photos
    ids = list(result.id) if ids is None else ids
    for label, items in (("name", names), ("photo", photos), ("id", ids)):
        if len(items) != len(result):
            raise ValueError(
                f"write_view: one {label} per fit expected, got {len(items)} for {len(result)}"
            )
    finite = _find_finite(result)
    scenes = _choose(photos, finite, range(len(result)) if order is None else order, limit)
    rows = [row for scene in scenes for row in scene]
    if not rows:
        return []
    content = {
        "faces": _base64(np.asarray(result.body().faces, dtype="<u4")),
        "parents": result.body().arrays.parents.tolist(),
        "scenes": [_scene(result, scene, photos, names, ids) for scene in scenes],
    }
    page = (
        make_environment()
        .get_template("view.html.j2")
        .render(
            content=script_json(content),
            left_out=int(finite.sum()) - len(rows),
            failed=int((~finite).sum()),
            body=result.body_id,
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page, errors="backslashreplace")
    return rows


def _find_finite(result: FitResult) -> npt.NDArray[np.bool_]:
    params = result.params
    finite = torch.isfinite(params.full_pose).flatten(1).all(1)
    finite &= torch.isfinite(params.betas).all(1) & torch.isfinite(result.pred_cam).all(1)
    finite &= torch.isfinite(result.bbox_center).all(1) & torch.isfinite(result.bbox_scale)
    found: npt.NDArray[np.bool_] = finite.numpy()
    return found


def _choose(
    photos: Sequence[Photo], finite: npt.NDArray[np.bool_], order: Sequence[int], limit: int
) -> list[list[int]]:
    """Rows of each photo; photos in the order of their first person, until there is no room."""
    scenes: dict[Any, list[int]] = {}
    for row, photo in enumerate(photos):
        if finite[row]:
            scenes.setdefault(_key(photo, row), []).append(row)
    chosen: list[list[int]] = []
    room = limit
    for key in dict.fromkeys(_key(photos[row], row) for row in order if finite[row]):
        if room <= 0:
            break
        chosen.append(scenes[key][:room])
        room -= len(chosen[-1])
    return chosen


def _key(photo: Photo, row: int) -> Any:
    """Paths are one photo by value, arrays by identity; without one everybody stands alone."""
    if isinstance(photo, np.ndarray):
        return id(photo)
    return str(photo) or -1 - row


def _scene(
    result: FitResult,
    rows: Sequence[int],
    photos: Sequence[Photo],
    names: Sequence[str],
    ids: Sequence[str],
) -> dict[str, Any]:
    """A photo, its camera and its people."""
    part = result[list(rows)]
    picture, size = _photo(photos[rows[0]])
    camera = find_camera(part, size)
    heights = part.measures()["height"]
    solid = {
        which: (part.vertices(which).numpy(), part.joints3d("smpl24", which).numpy())
        for which in ("init", "final")
    }
    places = {which: place_people(part, camera, which) for which in solid}
    people = []
    for k, row in enumerate(rows):
        before, after = float(part.init_kp_error_px[k]), float(part.kp_error_px[k])
        person: dict[str, Any] = {
            "number": row + 1,
            "id": ids[row],
            "before": finite_or_none(before, 2),
            "after": finite_or_none(after, 2),
            "height": finite_or_none(float(heights[k]), 2),
            "bodies": {},
        }
        for which, (meshes, joints) in solid.items():
            mesh, place = meshes[k].astype(float), places[which][k]
            if not (np.isfinite(mesh).all() and np.isfinite(place).all()):
                continue  # a start that the regressor did not give
            points = (joints[k] + place) * _UPRIGHT
            packed = _pack(mesh + place)
            person["bodies"][which] = {**packed, "joints": np.round(points, 4).tolist()}
        people.append(person)
    return {
        "name": names[rows[0]],
        "photo": picture,
        **_camera(camera),
        "people": people,
    }


def _camera(camera: PhotoCamera) -> dict[str, Any]:
    matrix = camera.matrix
    return {
        "size": [camera.width, camera.height],
        "focal": [float(matrix[0, 0]), float(matrix[1, 1])],
        "principal": [float(matrix[0, 2]), float(matrix[1, 2])],
        "assumed": camera.is_assumed,
    }


def _photo(photo: Photo) -> tuple[str, tuple[int, int] | None]:
    """A photo as data for the page, and its size before it was shrunk."""
    if not isinstance(photo, np.ndarray) and not str(photo):
        return "", None
    try:
        image = Image.fromarray(imaging.load_image(photo))
    except (OSError, ValueError):
        return "", None
    size = image.size
    image.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return data_uri("image/jpeg", buffer.getvalue()), size


def _pack(vertices: Float[np.ndarray, "V 3"]) -> dict[str, Any]:
    """Turn a body upright (y up) and store it in 16 bits a coordinate."""
    upright = vertices * _UPRIGHT
    low, high = upright.min(0), upright.max(0)
    step = np.maximum(high - low, 1e-6) / _STEPS
    data = np.rint((upright - low) / step).astype("<u2")
    return {"low": low.tolist(), "step": step.tolist(), "data": _base64(data)}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
