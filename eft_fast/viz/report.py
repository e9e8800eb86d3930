"""A self-contained HTML page about many fits: to find the wrong ones, and to say so by hand."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from eft_fast.files import write_bytes, write_text
from eft_fast.plausible import BAD_ERROR
from eft_fast.viz.confidence import PLACES, SIZE, make_figure
from eft_fast.viz.page import data_uri, make_environment, script_json
from eft_fast.viz.worst import LEVELS, NO_FIT, badness

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
    "interrupted": "the run ended before this person was done",
}


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
        size_px: Side of the person's box, photo pixels: errors are judged by their share of it.
            NaN if unknown.
        sigma_mm: Mean error bar of the joints, mm, as of ``FitResult.joint_sigma_mm``; NaN if the
            fit does not say.
        remarks: What else is to be known of the person, a few words each, such as that the photo
            cuts the body.
        level: What rules say of the fit, one of ``LEVELS``; empty: it was not judged.
        reasons: Why it is not kept, a few words each.
        key: What the person is called in a file of verdicts, unique in a report. Empty: the
            report takes no verdicts.
        can_accept: Whether there is a fit that a verdict can keep.
        view: Page in space that shows the person, as ``write_view`` writes it, under the number of
            the row, from 1.
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
    size_px: float = math.nan
    sigma_mm: float = math.nan
    remarks: Sequence[str] = ()
    level: str = ""
    reasons: Sequence[str] = ()
    key: str = ""
    can_accept: bool = True
    view: Path | None = None

    @property
    def has_fit(self) -> bool:
        """Whether there is a fit at all."""
        return self.stop_reason not in NO_FIT

    @property
    def badness(self) -> tuple[float, float]:
        """What the worst are first by, see ``viz.worst``."""
        # Where no box is known, pixels still tell the people of one report apart.
        error = self.error if math.isfinite(self.error) else self.kp_error_px / 1e4
        return badness(
            self.level,
            error,
            self.stop_reason,
            message=self.message,
            remarks=len(self.remarks),
        )

    @property
    def error(self) -> float:
        """Keypoint error of the fit as a share of the person's box; NaN if unknown."""
        return _ratio(self.kp_error_px, self.size_px)

    @property
    def init_error(self) -> float:
        """The same of the start."""
        return _ratio(self.init_kp_error_px, self.size_px)


@dataclass(frozen=True)
class ReportSummary:
    """What a report says above its list, besides the means of the rows.

    Attributes:
        title: Headline.
        seconds: Time of the fits.
        init_pck: Share of keypoints within the tolerance before the fit, in [0, 1].
        pck: The same after the fit.
        pck_label: Name of that measure with its tolerance.
        facts: Label to text: versions, model ids, licences, the command.
        notes: Sentences for the reader, such as how accurate the keypoints are.
        run_id: Names the run: the browser keeps what is said by hand under it. Empty: the names
            of the people take its place.
        verdicts: What was said by hand before: key to ``keep`` or ``reject`` and a note. Keys of
            nobody here are kept.
    """

    title: str = "Fitted people"
    seconds: float | None = None
    init_pck: float | None = None
    pck: float | None = None
    pck_label: str = "PCK@0.1"
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    run_id: str = ""
    verdicts: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    before: str = ""
    is_minor: bool = False  # narrow screens have no room for it


def write_report(
    path: Path | str,
    rows: Sequence[ReportRow],
    summary: ReportSummary | None = None,
    *,
    inline_limit: int = INLINE_LIMIT,
) -> Path:
    """Write ``report.html``: one file, no network, no library, works from disk.

    Up to ``inline_limit`` people their thumbnails are part of the file; above it they lie in a
    folder beside it, named after the report, so that the page opens at once. Only the rows in
    sight are elements of the page. Nothing of a row is ever read as HTML.

    Where every row has a key, people can be accepted and rejected on the page; it writes a file
    that ``pseudo_gt.load_verdicts`` reads.

    Args:
        path: File to write; its folder is made.
        rows: The people; their order is one of those that the page offers.
        summary: Totals and origins.
        inline_limit: Most people whose thumbnails are inlined.

    Returns:
        The file.

    Raises:
        ValueError: If the path is a folder, a level is none of ``LEVELS``, or two keys are equal.

    Example:
        >>> write_report("out/report.html", rows, ReportSummary(seconds=12.5))
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"write_report: a file name expected, got the folder {path}")
    summary = summary or ReportSummary()
    _check_rows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = None if len(rows) <= inline_limit else path.with_name(path.stem + "_thumbnails")
    if folder is not None:
        folder.mkdir(exist_ok=True)
    people, sizes = [], []
    for number, row in enumerate(rows, start=1):
        person, size = _person(number, row, path, folder)
        people.append(person)
        sizes.append(size)
    content = {
        "run": summary.run_id or _name_run(rows),
        "people": people,
        "verdicts": [[key, *said] for key, said in summary.verdicts.items()],
        "takesVerdicts": bool(rows) and all(row.key for row in rows),
        "places": PLACES,
        "figure": SIZE,
        "bad": BAD_ERROR,
    }
    text = (
        make_environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            tiles=_make_tiles(rows, summary, _mean(person["confidence"] for person in people)),
            reasons=Counter(row.stop_reason for row in rows).most_common(),
            explanations=STOP_REASONS,
            causes=Counter(why for row in rows for why in row.reasons).most_common(),
            bars=_histogram(rows),
            pictures=_tell_pictures(sizes, folder, inline_limit),
            has_confidence=any(person["confidence"] is not None for person in people),
            has_views=any(row.view is not None for row in rows),
            has_sigma=any(person["sigma"] is not None for person in people),
            content=script_json(content),
        )
    )
    write_text(path, text, errors="backslashreplace")
    return path


def worst_first(rows: Sequence[ReportRow]) -> list[int]:
    """Places of the rows in the order in which the page shows them at first."""
    return sorted(range(len(rows)), key=lambda k: (-rows[k].badness[0], -rows[k].badness[1], k))


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


def _check_rows(rows: Sequence[ReportRow]) -> None:
    unknown = {row.level for row in rows} - {"", *LEVELS}
    if unknown:
        raise ValueError(
            f"write_report: a level must be one of {', '.join(LEVELS)}, got {min(unknown)!r}"
        )
    several = [key for key, count in Counter(r.key for r in rows if r.key).items() if count > 1]
    if several:
        raise ValueError(
            f"write_report: keys must be unique, got {several[0]!r} more than once; "
            "pseudo_gt.person_keys makes them so"
        )


def _name_run(rows: Sequence[ReportRow]) -> str:
    """A name for people who come from no run."""
    names = "\0".join(f"{row.key}\0{row.name}\0{row.person}" for row in rows)
    return hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _person(
    number: int, row: ReportRow, path: Path, folder: Path | None
) -> tuple[dict[str, Any], int]:
    """What the page knows of a person, and the bytes of the thumbnail."""
    thumbnail, width, height, size = "", 0, 0, 0
    picture = row.picture
    if picture is None and row.panel is not None and row.panel.is_file():
        with Image.open(row.panel) as file:
            picture = np.asarray(file.convert("RGB"))
    if picture is not None:
        data, width, height = make_thumbnail(picture)
        size = len(data)
        if folder is None:
            thumbnail = data_uri("image/jpeg", data)
        else:
            target = folder / f"{number:06d}.jpg"
            write_bytes(target, data)
            thumbnail = _link(target, path)
    figure = make_figure(row.joint_confidence)
    person = {
        "number": number,
        "key": row.key,
        "name": row.name,
        "person": row.person,
        "level": row.level,
        "hasFit": row.has_fit,
        "badness": row.badness,
        "canAccept": row.can_accept,
        "why": list(row.reasons),
        "remarks": list(row.remarks),
        "message": row.message,
        "error": _known(row.error),
        "initError": _known(row.init_error),
        "errorPx": _known(row.kp_error_px),
        "initErrorPx": _known(row.init_kp_error_px),
        "sigma": _known(row.sigma_mm),
        "confidence": _known(figure.mean),
        "dots": "".join(str(dot.level) for dot in figure.dots),
        "unsure": figure.words,
        "loss": _known(row.loss),
        "steps": row.steps,
        "stopped": row.stop_reason,
        "stoppedBecause": STOP_REASONS.get(row.stop_reason, ""),
        "thumbnail": thumbnail,
        "width": width,
        "height": height,
        "link": "" if row.panel is None else _link(row.panel, path),
        "view": "" if row.view is None else f"{_link(row.view, path)}#{number}",
    }
    return person, size


def _known(value: float) -> float | None:
    """Six digits of a number; None for what JSON has no word for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _link(file: Path, report: Path) -> str:
    """Address of a file relative to the report; a name like ``a#b?.png`` stays a name."""
    relative = os.path.relpath(file, report.parent)
    return quote("./" + relative.replace(os.sep, "/"))


def _tell_pictures(sizes: Sequence[int], folder: Path | None, limit: int) -> str:
    """How large the thumbnails are, and where they lie."""
    drawn = [size for size in sizes if size]
    if not drawn:
        return "none"
    mean = f"{sum(drawn) / len(drawn) / 1000:.1f} kB a person"
    if folder is None:
        return f"{mean}, in this file (up to {limit:,} people)"
    return f"{mean}, in {folder.name} beside this file (beyond {limit:,} people)"


def _make_tiles(
    rows: Sequence[ReportRow], summary: ReportSummary, confidence: float
) -> list[_Tile]:
    tiles = [_Tile("people", f"{len(rows):,}")]
    levels = Counter(row.level for row in rows)
    if set(levels) - {""}:
        words = ("kept by the rules", "doubtful", "rejected by the rules")
        pairs = zip(words, LEVELS, strict=True)
        tiles += [_Tile(word, f"{levels[level]:,}") for word, level in pairs]
    elif odd := sum(bool(row.message) or not row.has_fit for row in rows):
        tiles.append(_Tile("people with a message", f"{odd:,}"))
    before, after = _mean(r.init_error for r in rows), _mean(r.error for r in rows)
    if math.isfinite(after):
        tiles.append(_Tile("mean error, share of the box", *_both(after, before)))
    else:
        before, after = _mean(r.init_kp_error_px for r in rows), _mean(r.kp_error_px for r in rows)
        start = _figure(before) if math.isfinite(before) else ""
        tiles.append(_Tile("mean keypoint error", _figure(after, " px"), start))
    if summary.pck is not None:
        start = "" if summary.init_pck is None else f"{summary.init_pck:.1%}"
        tiles.append(_Tile(summary.pck_label, f"{summary.pck:.1%}", start))
    if math.isfinite(confidence):
        tiles.append(_Tile("mean confidence of the start", f"{confidence:.0%}"))
    sigma = _mean(row.sigma_mm for row in rows)
    if math.isfinite(sigma):
        tiles.append(_Tile("mean error bar of a joint", _figure(sigma, " mm")))
    if summary.seconds is not None:
        tiles.append(_Tile("seconds", _figure(summary.seconds), is_minor=True))
        if summary.seconds > 0 and rows:
            rate = _figure(len(rows) / summary.seconds)
            tiles.append(_Tile("fits per second", rate, is_minor=True))
    return tiles


def _both(after: float, before: float) -> tuple[str, str]:
    return f"{after:.1%}", f"{before:.1%}" if math.isfinite(before) else ""


def _histogram(rows: Sequence[ReportRow]) -> dict[str, object] | None:
    """Counts of people over keypoint error, before and after, on one logarithmic axis."""
    has_sizes = any(math.isfinite(row.error) for row in rows)
    pairs: Iterator[tuple[float, float]] = (
        (r.init_error, r.error) if has_sizes else (r.init_kp_error_px, r.kp_error_px) for r in rows
    )
    columns = list(zip(*pairs, strict=True)) or [(), ()]
    series = [np.array([v for v in values if math.isfinite(v) and v >= 0]) for values in columns]
    together = np.concatenate(series)
    if len(together) < 8:
        return None
    least = 1e-3 if has_sizes else 0.1
    low, high = max(float(together.min()), least), max(float(together.max()), 2 * least)
    bins = min(3 * round(len(rows) ** 0.5), _MOST_BINS)
    edges = np.geomspace(low * 0.999, high * 1.001, bins + 1)
    counts = [np.histogram(np.clip(s, low, high), edges)[0] for s in series]
    top = max(int(c.max()) for c in counts)
    ends = [f"{end:.1%} of the box" if has_sizes else _figure(end, " px") for end in (low, high)]
    return {
        "before": [round(int(c) / top * 100, 1) for c in counts[0]],
        "after": [round(int(c) / top * 100, 1) for c in counts[1]],
        "low": ends[0],
        "high": ends[1],
    }


def _mean(values: Iterable[float | None]) -> float:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 and math.isfinite(part) else math.nan


def _figure(value: float, unit: str = "") -> str:
    """Three digits that matter; a dash for what is not a number."""
    if not math.isfinite(value):
        return "\u2013"
    if value != 0 and abs(value) < 0.01:
        return f"{value:.1e}{unit}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit}"
