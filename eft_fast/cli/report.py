"""``eft-fast report``: overlays and the HTML report of fits that are there already."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eft_fast.cli.options import add_body, at_least, share
from eft_fast.cli.output import UsageError, emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body, output_folder
from eft_fast.cli.run_folder import PICTURES, REPORT, TOGETHER, find_fits, load_run_folder, run_keys
from eft_fast.folders import replaced_files


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "report",
        run,
        summary="draw fits over their photos again, with a report",
        description=(
            "Draw the fits of a folder that `eft-fast fit` wrote over their photos, and write "
            "report.html there: one page, no network, and view.html beside it, which shows the "
            "people in 3D. The photos must be where they were. On the page people are accepted and "
            "rejected by hand; it saves selection.json, which `convert --select` honours."
        ),
        examples=["eft-fast report fits/"],
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with fits.npz")
    add_body(parser, of="body of the fits: ")
    parser.add_argument(
        "--view-limit",
        type=at_least(0),
        default=50,
        metavar="N",
        help="people on the 3D page beside the report, the worst first (default 50; 0: no page)",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="also all people of each photo in one picture, the nearer before the farther",
    )
    parser.add_argument(
        "--opacity",
        type=share,
        default=0.88,
        metavar="X",
        help="how much a body hides the photo, 0 to 1 (default 0.88)",
    )
    parser.add_argument("--title", default="Fitted people", metavar="TEXT", help="headline")


def run(options: argparse.Namespace) -> int:
    """Draw everybody and write the page."""
    check_body(options.body)
    with output_folder(find_fits(options.folder).parent, "DIR"):
        return _draw(options)


def _draw(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from eft_fast.cli.report_rows import add_views, judge_people, read_verdicts
    from eft_fast.viz.fits import write_overlays, write_together
    from eft_fast.viz.report import ReportSummary, write_report

    job = load_run_folder(options.folder, options.body)
    if not len(job.result):
        raise UsageError(f"{job.folder} holds no fits")
    if not job.photos:
        raise UsageError(
            f"the fits in {job.folder} do not name their photos; run eft-fast fit again"
        )
    facts = {
        "method": f"{job.result.method}, mode {job.result.mode}",
        "body": job.result.body_id,
        "regressor": job.result.regressor_id,
        "keypoints": job.source,
        "eft_fast": version("eft-fast"),
    }
    shown = sys.stderr.isatty() and not options.quiet
    bar = tqdm(total=len(job.result), unit="picture", disable=not shown, leave=False)
    judged = judge_people(job.result, run_keys(job))
    with bar, replaced_files(job.folder, PICTURES) as new:
        rows = write_overlays(
            job.result,
            job.photos,
            job.names,
            job.ids,
            new / "overlays",
            opacity=options.opacity,
            warnings=judged.words,
            on_person=lambda: (bar.update(), None)[1],
        )
        together = []
        if options.together:
            together = write_together(
                job.result, job.photos, job.names, new / TOGETHER, opacity=options.opacity
            )
        page = ReportSummary(
            title=options.title,
            facts=facts,
            run_id=job.result.run_id,
            verdicts=read_verdicts(job.folder),
        )
        rows = add_views(judged.to_rows(rows), job.result, job.photos, new, options.view_limit)
        write_report(new / REPORT, rows, page)
    place = job.folder / REPORT
    missing = sum(row.panel is None for row in rows)
    summary: dict[str, Any] = {"people": len(rows), "without_photo": missing, "report": str(place)}
    lines = [f"{len(rows)} people, {missing} without a photo", f"report  {place}"]
    if options.together:
        summary["together"] = len(together)
        lines.append(f"{len(together)} photos with several people  {job.folder / TOGETHER}")
    emit(summary, lines, as_json=options.json)
    return 0
