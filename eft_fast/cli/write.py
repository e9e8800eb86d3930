"""Outputs of ``fit`` and ``demo``: fits, overlays, report and summary."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from eft_fast.cli.output import write_json
from eft_fast.cli.people import People
from eft_fast.cli.report_rows import add_views, judge_people, read_verdicts
from eft_fast.cli.run_file import RUN_FILE
from eft_fast.cli.run_folder import FITS, PICTURES, REPORT, RUN_FILES, SUMMARY, save_names
from eft_fast.cli.signals import Signals
from eft_fast.cli.summary import RunTotals
from eft_fast.files import OutputError, write_text
from eft_fast.folders import replaced_files
from eft_fast.pseudo_gt import person_keys
from eft_fast.viz.fits import write_overlays
from eft_fast.viz.report import ReportSummary, write_report

if TYPE_CHECKING:
    from eft_fast.pseudo_gt.jobs.plan import RunRecord
    from eft_fast.result import FitResult

#: People of whom pictures are drawn unless they are asked for.
MOST_PICTURES: Final = 200


@dataclass(frozen=True)
class RunInfo:
    """How the fits were made.

    Attributes:
        seconds: Time of the fits.
        title: Headline of the report; None: the usual one.
        options: Of the command.
        fitted: People who were fitted in that time.
        record: What the run is of, where it can be gone on with.
        run_file: Its options as TOML.
    """

    seconds: float
    title: str | None
    options: argparse.Namespace
    fitted: int
    record: RunRecord | None = None
    run_file: str = ""


def write_outputs(
    result: FitResult, people: People, out: Path, info: RunInfo
) -> tuple[dict[str, Any], list[str]]:
    """Write everything into ``out``; return the summary and the lines for people.

    The fits come first and replace what an earlier run left, whole or not at all. Pictures can be
    drawn again (``eft-fast report``), so nothing that hinders them costs the fits.
    """
    signals = Signals.current()
    result = replace(
        result,
        photo=tuple(map(str, people.photos)),
        id=tuple(people.ids),
        run_id=secrets.token_hex(8) if info.record is None else info.record.run_id,
    )
    summary = summarise(result, people, info)
    done = f"{_done(result)} of {len(result)} people done"
    done += f" ({summary['fits_per_second']:.2f} fits/s), saved in {out / FITS}"
    with signals.hold():
        _write_fits(result, people, out, summary, info)
        signals.tell(done)
    is_written = not (info.options.no_pictures or signals.came)
    if is_written:
        signals.tell(f"{done}; eft-fast report {out} draws the pictures")
        try:
            with replaced_files(out, PICTURES) as new:
                _write_pictures(result, people, new, info, summary, read_verdicts(out))
        except OutputError as error:
            raise OutputError(
                f"the pictures are not drawn: {error}; the fits are all in {out / FITS}, and "
                f"eft-fast report {out} draws them"
            ) from error
        signals.tell("everything is written")
    lines = summary_lines(summary, out)
    if is_written:
        if _is_drawn(result, info):
            lines.append(f"overlays        {out / 'overlays'}")
        lines.append(f"report          {out / REPORT}")
    return summary, lines


def _is_drawn(result: FitResult, info: RunInfo) -> bool:
    return len(result) <= MOST_PICTURES or bool(info.options.pictures)


def _write_fits(
    result: FitResult, people: People, out: Path, summary: dict[str, Any], info: RunInfo
) -> None:
    """Replace the run of a folder; where that fails, the fits are saved elsewhere."""
    try:
        with replaced_files(out, RUN_FILES) as new:
            result.save(new / FITS)
            write_json(str(new / SUMMARY), summary)
            save_names(
                new,
                list(map(str, people.photos)),
                people.ids,
                people.source,
                people.tracks,
                result.run_id,
            )
            if info.record is not None:
                info.record.save(new)
                write_text(new / RUN_FILE, info.run_file)
    except OutputError as error:
        raise OutputError(f"{error}; {_rescue(result)}") from error


def _rescue(result: FitResult) -> str:
    """Save fits where the system keeps what is for the moment; say where, or that it failed."""
    try:
        place = Path(tempfile.mkdtemp(prefix="eft-fast-")) / FITS
        result.save(place)
    except OSError:
        return "the fits of this run are lost"
    return f"the fits of this run are in {place}"


def _done(result: FitResult) -> int:
    return sum(reason != "interrupted" for reason in result.stop_reason)


def summarise(result: FitResult, people: People, info: RunInfo) -> dict[str, Any]:
    """The numbers of a run, as ``--json`` prints them."""
    totals = RunTotals()
    totals.add(result, people.boxes)
    return totals.summary(
        seconds=info.seconds,
        fitted=info.fitted,
        left_out=people.left_out,
        problems=people.problems,
        source=people.source,
    )


def _write_pictures(
    result: FitResult,
    people: People,
    out: Path,
    info: RunInfo,
    summary: dict[str, Any],
    verdicts: dict[str, tuple[str, str]],
) -> None:
    from tqdm import tqdm

    shown = sys.stderr.isatty() and not info.options.quiet
    is_drawn = _is_drawn(result, info)
    notes = list(people.problems)
    if not is_drawn:
        notes.append(f"More than {MOST_PICTURES} people: eft-fast report draws them.")
    judged = judge_people(result, person_keys(result.photo, result.id, len(result)))
    with tqdm(total=len(result), unit="picture", disable=not shown, leave=False) as bar:
        rows = write_overlays(
            result,
            people.photos,
            people.names,
            people.ids,
            out / "overlays" if is_drawn else None,
            warnings=judged.words,
            on_person=lambda: (bar.update(), None)[1],
        )
    facts = {
        "method": f"{result.method}, mode {result.mode}",
        "body": _with_licence(result.body_id, "CC0-1.0"),
        "regressor": _with_licence(result.regressor_id, "Apache-2.0"),
        "keypoints": people.source,
        "selection": _selection_line(summary["selection"]),
        "eft_fast": version("eft-fast"),
        "torch": torch.__version__,
    }
    report = ReportSummary(
        title=info.title or "Fitted people",
        seconds=info.seconds,
        init_pck=summary["init_pck_0.1"],
        pck=summary["pck_0.1"],
        facts=facts,
        notes=notes,
        run_id=result.run_id,
        verdicts=verdicts,
    )
    rows = judged.to_rows(rows)
    if is_drawn:
        rows = add_views(rows, result, people.photos, out)
    write_report(out / REPORT, rows, report)


def _selection_line(found: dict[str, Any]) -> str:
    """Who is kept by the rules of ``pseudo_gt``, and why the others are not."""
    parts = [f"{found[level]} {level}" for level in ("keep", "doubtful", "reject")]
    for name in ("rejected_by", "doubtful_by"):
        if found[name]:
            rules = ", ".join(f"{rule} {count}" for rule, count in sorted(found[name].items()))
            parts.append(f"{name.replace('_', ' ')} {rules}")
    return "; ".join(parts)


def _with_licence(model_id: str, ours: str) -> str:
    """A model and its licence; what users bring stays under its own."""
    return f"{model_id} ({ours})" if model_id.startswith("open") else f"{model_id} (your licence)"


def summary_lines(summary: dict[str, Any], out: Path) -> list[str]:
    """What people are told of a run."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary["stop_reasons"].items())
    lines = [
        f"{summary['people']} people in {summary['seconds']:.1f} s "
        f"({summary['fits_per_second']:.2f} fits/s): {reasons}",
        f"keypoint error  {summary['init_kp_error_px']:.1f} -> {summary['kp_error_px']:.1f} px",
        f"PCK@0.1         {summary['init_pck_0.1']:.3f} -> {summary['pck_0.1']:.3f}",
        f"fits            {out / 'fits.npz'}",
    ]
    if summary["with_message"]:
        lines.append(f"to look at      {summary['with_message']} people with a message")
    return lines
