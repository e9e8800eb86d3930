"""Fits in five lines, and as the table that notebooks show."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from eft_fast.result import FitResult

#: Most people that a notebook lists.
MOST_LISTED: Final = 20
#: Most letters of a name in the five lines, which is cut in its middle.
_LONGEST: Final = 40


def describe(result: FitResult) -> str:
    """Five lines: who was fitted and how, why fits ended, how far off, how sure, by what."""
    photos = len(set(result.photo) - {""})
    where = f" in {photos} photos" if photos > 1 else f" in {_name(result, 0)}" if photos else ""
    count = "1 person" if len(result) == 1 else f"{len(result):,} people"
    told = sum(bool(message) for message in result.message)
    stops = Counter(result.stop_reason).most_common()
    ended = ", ".join(f"{number} {reason}" for reason, number in stops) or "nobody"
    lines = [
        f"FitResult: {count}{where}; method {result.method}, mode {result.mode}, keypoints "
        f"{result.joint_set}",
        f"  ended   {ended}" + (f"; {told} with a message" if told else ""),
        f"  error   {_error(result)}",
        f"  sure    {_sureness(result)}",
        f"  models  body {result.body_id}, regressor {result.regressor_id}",
    ]
    return "\n".join(lines)


def to_html(result: FitResult) -> str:
    """The five lines and a row for each of the first people; every text is escaped."""
    head = "".join(
        f"<th>{name}</th>" for name in ("", "photo", "id", "error, px", "start, px", "ended", "")
    )
    rows = [
        "<tr>"
        + "".join(
            f"<td>{html.escape(text)}</td>"
            for text in (
                str(row),
                _name(result, row),
                result.id[row],
                _figure(float(result.kp_error_px[row])),
                _figure(float(result.init_kp_error_px[row])),
                result.stop_reason[row],
                result.message[row],
            )
        )
        + "</tr>"
        for row in range(min(len(result), MOST_LISTED))
    ]
    more = len(result) - len(rows)
    tail = f"<p>and {more:,} more; result.to_dataframe() has all</p>" if more > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div><pre>{html.escape(describe(result))}</pre>{table}{tail}</div>"


def _error(result: FitResult) -> str:
    known = torch.isfinite(result.kp_error_px)
    if not bool(known.any()):
        return "unknown: no labelled keypoint"
    share = (result.kp_error_px / result.box_side_px)[known]
    worst = int(torch.nan_to_num(result.kp_error_px / result.box_side_px, nan=-1.0).argmax())
    text = f"{_figure(_median(result.kp_error_px[known]))} px"
    if bool(torch.isfinite(share).any()):
        text += f" ({_median(share):.1%} of the box)"
    text += f", start {_figure(_median(result.init_kp_error_px[known]))} px"
    if len(result) == 1:
        return text
    return f"median {text}; worst {_figure(float(result.kp_error_px[worst]))} px, row {worst}" + (
        f" ({_name(result, worst)})" if result.photo[worst] else ""
    )


def _sureness(result: FitResult) -> str:
    parts = []
    if result.joint_sigma_mm is not None:
        sigma = _median(result.joint_sigma_mm.mean(1))
        parts.append(f"joints within {_figure(sigma)} mm with 68 %")
    if result.person_confidence is not None:
        parts.append(f"confidence of the start {_median(result.person_confidence):.0%}")
    return ", ".join(parts) or "the method says nothing"


def _median(values: Tensor) -> float:
    """Median of what is finite; NaN where nothing is."""
    return float(values[torch.isfinite(values)].quantile(0.5)) if len(values) else float("nan")


def _figure(value: float) -> str:
    return f"{value:.1f}" if value == value else "–"


def _name(result: FitResult, row: int) -> str:
    """File name of a photo; empty for an array."""
    name = PurePath(result.photo[row]).name
    return name if len(name) <= _LONGEST else f"{name[:18]}...{name[-18:]}"
