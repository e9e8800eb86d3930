"""``eft-fast report``: overlays and the HTML report of fits that are there already."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit
from eft_fast.cli.run_folder import load_run_folder

_EXAMPLE = "example: eft-fast report fits/"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Draw the fits of a folder that `eft-fast fit` wrote over their photos, and write "
            "report.html there: one page, no network. The photos must be where they were."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("folder", metavar="DIR", help="folder with fits.npz")
    parser.add_argument("--body", default="open", help="open, or the licensed file of the fits")
    parser.add_argument("--title", default="Fitted people", help="headline")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw everybody and write the page."""
    from tqdm import tqdm

    from eft_fast.viz.fits import write_overlays
    from eft_fast.viz.report import ReportSummary, write_report

    job = load_run_folder("report", options.folder, options.body)
    if not len(job.result):
        raise UsageError(f"eft-fast report: {job.folder} holds no fits")
    if not job.photos:
        raise UsageError(
            f"eft-fast report: no people.json in {job.folder}, so the photos are not known; run "
            "eft-fast fit again"
        )
    shown = sys.stderr.isatty() and not options.quiet
    with tqdm(total=len(job.result), unit="picture", disable=not shown, leave=False) as bar:
        rows = write_overlays(
            job.result,
            job.photos,
            job.names,
            job.ids,
            job.folder / "overlays",
            on_person=lambda: (bar.update(), None)[1],
        )
    facts = {
        "method": f"{job.result.method}, mode {job.result.mode}",
        "body": job.result.body_id,
        "regressor": job.result.regressor_id,
        "keypoints": job.source,
        "eft_fast": version("eft-fast"),
    }
    page = write_report(
        job.folder / "report.html", rows, ReportSummary(title=options.title, facts=facts)
    )
    missing = sum(row.panel is None for row in rows)
    summary = {"people": len(rows), "without_photo": missing, "report": str(page)}
    lines = [f"{len(rows)} people, {missing} without a photo", f"report  {page}"]
    emit(summary, lines, as_json=options.json)
    return 0
