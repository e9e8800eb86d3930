"""A self-contained HTML page about many fits: totals, and a sortable table with pictures."""

from __future__ import annotations

import base64
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from eft_fast.files import write_bytes, write_text
from eft_fast.viz.confidence import SIZE, Figure, make_figure

#: Thumbnails of more people than this are files beside the report instead of part of it.
INLINE_LIMIT = 250
#: A thumbnail takes at most this many bytes.
THUMBNAIL_BYTES = 20_000
_THUMBNAIL_BOX = (440, 190)  # pixels, width and height
_MOST_BINS = 24

STOP_REASONS: Mapping[str, str] = {
    "converged": "the error fell below the threshold",
    "max_steps": "the step limit was reached",
    "nan": "a number was not finite; the last finite state is kept",
    "no_keypoints": "no labelled keypoint that counts; the regressor's answer is kept",
    "bad_image": "the photo could not be read",
}
#: Who stopped for these has no fit.
_NO_FIT = ("nan", "no_keypoints", "bad_image", "interrupted")
#: Colours of rows: nothing is said of the person, something is, there is no fit.
_GRADES = ("", "odd", "failed")


@dataclass(frozen=True)
class ReportRow:
    """One person of a report.

    Attributes:
        name: What the photo is called.
        person: Which person of the photo, such as an annotation number.
        init_kp_error_px: Mean keypoint error before the fit, photo pixels; NaN if unknown.
        kp_error_px: The same after the fit.
        loss: Final loss.
        steps: Steps taken.
        stop_reason: Why the fit stopped.
        message: What went wrong, in a sentence; empty if nothing did.
        picture: Picture to shrink into the thumbnail, RGB; ``None`` shrinks ``panel``.
        panel: Picture file that the thumbnail links to.
        joint_confidence: How sure the regressor was of each kinematic joint of its start, as of
            ``FitResult``; None if it does not say.
    """

    name: str
    person: str
    init_kp_error_px: float
    kp_error_px: float
    loss: float
    steps: int
    stop_reason: str
    message: str = ""
    picture: UInt8[np.ndarray, "h w 3"] | None = None
    panel: Path | None = None
    joint_confidence: Float[np.ndarray, " 24"] | None = None


@dataclass(frozen=True)
class ReportSummary:
    """What a report says above its table, besides the means of the rows.

    Attributes:
        title: Headline.
        seconds: Time of the fits.
        init_pck: Share of keypoints within the tolerance before the fit, in [0, 1].
        pck: The same after the fit.
        pck_label: Name of that measure with its tolerance.
        facts: Label to text: versions, model ids, licences, the command.
        notes: Sentences for the reader, such as how accurate the keypoints are.
    """

    title: str = "Fitted people"
    seconds: float | None = None
    init_pck: float | None = None
    pck: float | None = None
    pck_label: str = "PCK@0.1"
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    before: str = ""


@dataclass(frozen=True)
class _Line:
    """A row as the template prints it; numbers go out as text and as sort keys."""

    row: ReportRow
    number: int
    thumbnail: str
    width: int
    height: int
    link: str
    gain: float
    explanation: str
    figure: Figure
    grade: int

    @property
    def colour(self) -> str:
        """Class of the row."""
        return _GRADES[self.grade]


def write_report(
    path: Path | str,
    rows: Sequence[ReportRow],
    summary: ReportSummary | None = None,
    *,
    inline_limit: int = INLINE_LIMIT,
) -> Path:
    """Write ``report.html``: one file, no network, no library, works from disk.

    Up to ``inline_limit`` people their thumbnails are part of the file; above it they lie in a
    folder beside it, named after the report, so that the page opens at once. Every text is escaped.

    Args:
        path: File to write; its folder is made.
        rows: The people, in the order to show.
        summary: Totals and origins.
        inline_limit: Most people whose thumbnails are inlined.

    Returns:
        The file.

    Raises:
        ValueError: If the path is a folder.

    Example:
        >>> write_report("out/report.html", rows, ReportSummary(seconds=12.5))
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"write_report: a file name expected, got the folder {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    summary = summary or ReportSummary()
    folder = None if len(rows) <= inline_limit else path.with_name(path.stem + "_thumbnails")
    if folder is not None:
        folder.mkdir(exist_ok=True)
    lines = [_make_line(k, row, path, folder) for k, row in enumerate(rows, start=1)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eft_fast.viz", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = _figure
    text = environment.get_template("report.html.j2").render(
        summary=summary,
        lines=lines,
        tiles=_make_tiles(rows, summary, _mean(line.figure.mean for line in lines)),
        # Without anybody of whom something is said, the page has no column for it.
        has_confidence=any(line.figure.dots for line in lines),
        figure_size=SIZE,
        reasons=Counter(row.stop_reason for row in rows).most_common(),
        explanations=STOP_REASONS,
        bars=_histogram(rows),
    )
    write_text(path, text, errors="backslashreplace")
    return path


def make_thumbnail(picture: UInt8[np.ndarray, "h w 3"]) -> tuple[bytes, int, int]:
    """Shrink a picture to a JPEG of at most ``THUMBNAIL_BYTES``.

    Args:
        picture: Any picture, RGB.

    Returns:
        The JPEG, its width and its height.
    """
    image = Image.fromarray(picture)
    image.thumbnail(_THUMBNAIL_BOX, Image.Resampling.LANCZOS)
    data = b""
    # The last quality is small enough for any picture of this size, noise included.
    for quality in (80, 65, 45, 20, 5):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= THUMBNAIL_BYTES:
            break
    return data, image.width, image.height


def _make_line(number: int, row: ReportRow, path: Path, folder: Path | None) -> _Line:
    thumbnail, width, height = "", 0, 0
    picture = row.picture
    if picture is None and row.panel is not None and row.panel.is_file():
        with Image.open(row.panel) as file:
            picture = np.asarray(file.convert("RGB"))
    if picture is not None:
        data, width, height = make_thumbnail(picture)
        if folder is None:
            thumbnail = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
        else:
            target = folder / f"{number:06d}.jpg"
            write_bytes(target, data)
            thumbnail = _link(target, path)
    return _Line(
        row=row,
        number=number,
        thumbnail=thumbnail,
        width=width,
        height=height,
        link="" if row.panel is None else _link(row.panel, path),
        gain=_ratio(row.kp_error_px, row.init_kp_error_px),
        explanation=STOP_REASONS.get(row.stop_reason, ""),
        figure=make_figure(row.joint_confidence),
        grade=_grade(row),
    )


def _grade(row: ReportRow) -> int:
    """How much a person is to be looked at: the place in ``_GRADES``."""
    return 2 if row.stop_reason in _NO_FIT else int(bool(row.message))


def _link(file: Path, report: Path) -> str:
    """Address of a file relative to the report; a name like ``a#b?.png`` stays a name."""
    relative = os.path.relpath(file, report.parent)
    return quote("./" + relative.replace(os.sep, "/"))


def _make_tiles(
    rows: Sequence[ReportRow], summary: ReportSummary, confidence: float
) -> list[_Tile]:
    before, after = _mean(r.init_kp_error_px for r in rows), _mean(r.kp_error_px for r in rows)
    tiles = [
        _Tile("people", f"{len(rows):,}"),
        _Tile("mean keypoint error", _figure(after, " px"), _figure(before)),
    ]
    if summary.pck is not None:
        start = "" if summary.init_pck is None else f"{summary.init_pck:.1%}"
        tiles.append(_Tile(summary.pck_label, f"{summary.pck:.1%}", start))
    if odd := sum(_grade(row) > 0 for row in rows):
        tiles.append(_Tile("people to look at", f"{odd:,}"))
    if math.isfinite(confidence):
        tiles.append(_Tile("mean confidence of the start", f"{confidence:.0%}"))
    if summary.seconds is not None:
        tiles.append(_Tile("seconds", _figure(summary.seconds)))
        if summary.seconds > 0 and rows:
            tiles.append(_Tile("fits per second", _figure(len(rows) / summary.seconds)))
    return tiles


def _histogram(rows: Sequence[ReportRow]) -> dict[str, object] | None:
    """Counts of people over keypoint error, before and after, on one logarithmic axis."""
    series = [
        np.array([value for value in values if math.isfinite(value) and value >= 0])
        for values in ([r.init_kp_error_px for r in rows], [r.kp_error_px for r in rows])
    ]
    together = np.concatenate(series)
    if len(together) < 8:
        return None
    low, high = max(float(together.min()), 0.1), max(float(together.max()), 0.2)
    bins = min(3 * round(len(rows) ** 0.5), _MOST_BINS)
    edges = np.geomspace(low * 0.999, high * 1.001, bins + 1)
    counts = [np.histogram(np.clip(s, low, high), edges)[0] for s in series]
    top = max(int(c.max()) for c in counts)
    return {
        "before": [round(int(c) / top * 100, 1) for c in counts[0]],
        "after": [round(int(c) / top * 100, 1) for c in counts[1]],
        "low": _figure(low),
        "high": _figure(high),
    }


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _ratio(after: float, before: float) -> float:
    return after / before if before > 0 and math.isfinite(after) else math.nan


def _figure(value: float, unit: str = "") -> str:
    """Three digits that matter; a dash for what is not a number."""
    if not math.isfinite(value):
        return "\u2013"
    if value != 0 and abs(value) < 0.01:
        return f"{value:.1e}{unit}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit}"
