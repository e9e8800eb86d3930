"""From a FitResult and its photos to one panel per person and the rows of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from eft_fast import imaging
from eft_fast.files import make_folder, safe_stem, whole_file
from eft_fast.keypoints import joint_set
from eft_fast.present.picture import draw_person, project_bodies
from eft_fast.result import FitResult
from eft_fast.viz.panel import ProjectedBody
from eft_fast.viz.remarks import find_remarks
from eft_fast.viz.report import ReportRow
from eft_fast.viz.together import draw_together

Photo = str | Path | npt.NDArray[np.uint8]

# Meshes of this many people are held at a time: start and fit of 64 take 11 MB.
_CHUNK = 64


def write_overlays(
    result: FitResult,
    photos: Sequence[Photo],
    names: Sequence[str],
    ids: Sequence[str],
    folder: Path | str | None,
    *,
    height: int = 420,
    opacity: float = 0.88,
    warnings: Sequence[str] | None = None,
    on_person: Callable[[], None] | None = None,
) -> list[ReportRow]:
    """Draw a panel per person and collect what a report says about them.

    A person whose photo cannot be read gets a row without a picture. A photo that stands several
    times in a row is read once.

    Args:
        result: The fits.
        photos: The photo of each person, as given to ``fit_batch``.
        names: What to call each photo.
        ids: What to call each person of a photo, such as the number of the annotation.
        folder: Where to write ``<number>_<name>.png``; made if it is not there. None: nothing is
            drawn.
        height: Height of a tile in pixels.
        opacity: How much a body hides the photo, in [0, 1].
        warnings: What the rules say against each fit, printed on the pictures before what else is
            to be known of it; empty: nothing. None: of nobody.
        on_person: Called after each person, for a progress bar.

    Returns:
        One row per person, in order.

    Raises:
        ValueError: If there are more or fewer photos, names, ids or warnings than fits.

    Example:
        >>> rows = write_overlays(result, photos, names, ids, "out/overlays")
        >>> write_report("out/report.html", rows)
    """
    warnings = [""] * len(result) if warnings is None else warnings
    given = (("photo", photos), ("name", names), ("id", ids), ("warning", warnings))
    for label, items in given:
        if len(items) != len(result):
            counts = f"got {len(items)} for {len(result)} fits"
            raise ValueError(f"write_overlays: one {label} per fit expected, {counts}")
    if folder is None:
        facts = zip(names, ids, strict=True)
        return [_make_row(result, k, name, person) for k, (name, person) in enumerate(facts)]
    make_folder(folder)
    rows: list[ReportRow] = []
    source: Photo | None = None
    photo: npt.NDArray[np.uint8] | None = None
    for begin in range(0, len(result), _CHUNK):
        chunk = result[begin : begin + _CHUNK]
        bodies = [project_bodies(chunk, which) for which in ("init", "final")]
        for k in range(len(chunk)):
            number = begin + k
            if not _is_same(photos[number], source):
                source, photo = photos[number], _read(photos[number])
            row = _make_row(chunk, k, names[number], ids[number])
            if photo is not None:
                caption = f"{row.name}  {row.person}".rstrip()
                pair = bodies[0][k], bodies[1][k]
                remarks = _remarks(chunk, k, *pair, photo.shape)
                warning = "; ".join(filter(None, (warnings[number], *remarks)))
                panel = draw_person(chunk, k, photo, *pair, caption, height, opacity, warning)
                path = Path(folder) / f"{number + 1:05d}_{safe_stem(row.name)}.png"
                with whole_file(path) as file:
                    Image.fromarray(panel).save(file, format="PNG")
                row = replace(row, panel=path, remarks=remarks)
            rows.append(row)
            if on_person is not None:
                on_person()
    return rows


def write_together(
    result: FitResult,
    photos: Sequence[Photo],
    names: Sequence[str],
    folder: Path | str,
    *,
    opacity: float = 0.88,
) -> list[Path]:
    """Draw all people of each photo into one picture, ``<number>_<name>.jpg`` by its first person.

    Args:
        result: The fits.
        photos: The photo of each person; who has none, or one that cannot be read, is left out.
        names: What to call each photo.
        folder: Where to write; made if it is not there.
        opacity: How much a body hides the photo, in [0, 1].

    Returns:
        The pictures: one of each photo with at least two people.

    Raises:
        ValueError: If there are more or fewer photos or names than fits.
    """
    for label, items in (("photo", photos), ("name", names)):
        if len(items) != len(result):
            counts = f"got {len(items)} for {len(result)} fits"
            raise ValueError(f"write_together: one {label} per fit expected, {counts}")
    people: dict[object, list[int]] = {}
    for row, given in enumerate(photos):
        key = id(given) if isinstance(given, np.ndarray) else str(given)
        if key != "":
            people.setdefault(key, []).append(row)
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for rows in people.values():
        photo = _read(photos[rows[0]]) if len(rows) > 1 else None
        if photo is None:
            continue
        drawn = draw_together(photo, result[rows], opacity=opacity)
        path = Path(folder) / f"{rows[0] + 1:05d}_{safe_stem(names[rows[0]])}.jpg"
        with whole_file(path) as file:
            Image.fromarray(drawn).save(file, format="JPEG", quality=90)
        written.append(path)
    return written


def _remarks(
    result: FitResult,
    k: int,
    start: ProjectedBody | None = None,
    fit: ProjectedBody | None = None,
    shape: tuple[int, ...] | None = None,
) -> list[str]:
    return find_remarks(
        result.keypoints[k].double().numpy(),
        joint_set(result.joint_set),
        result.params.full_pose[k].double().numpy(),
        start_pose=result.init.params.full_pose[k].double().numpy(),
        start_px=None if start is None else start.keypoints_px,
        vertices_px=None if fit is None else fit.vertices_px,
        size=None if shape is None else (shape[1], shape[0]),
    )


def _is_same(image: Photo, source: Photo | None) -> bool:
    """Paths are compared by value, arrays by identity."""
    if isinstance(image, np.ndarray) or isinstance(source, np.ndarray):
        return image is source
    return image == source


def _read(image: Photo) -> npt.NDArray[np.uint8] | None:
    """The photo, or None if it cannot be read: the fit has already said why."""
    try:
        return imaging.load_image(image)
    except (FileNotFoundError, ValueError):
        return None


def _make_row(result: FitResult, k: int, name: str, person: str) -> ReportRow:
    confidence, sigma = result.joint_confidence, result.joint_sigma_mm
    return ReportRow(
        name=name,
        person=person,
        init_kp_error_px=float(result.init_kp_error_px[k]),
        kp_error_px=float(result.kp_error_px[k]),
        loss=float(result.loss[k]),
        steps=int(result.steps[k]),
        stop_reason=result.stop_reason[k],
        message=result.message[k],
        joint_confidence=None if confidence is None else confidence[k].double().numpy(),
        size_px=float(result.box_side_px[k]),
        sigma_mm=math.nan if sigma is None else float(sigma[k].mean()),
        remarks=_remarks(result, k),
    )
