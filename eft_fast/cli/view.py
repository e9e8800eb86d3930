"""``eft-fast view``: fitted bodies in 3D, as one page for any browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from eft_fast.cli.options import add_body, at_least
from eft_fast.cli.output import UsageError, emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body, output_file
from eft_fast.cli.run_folder import VIEW, find_fits, load_run_folder


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "view",
        run,
        summary="write a page that shows fitted bodies in 3D",
        description=(
            "Write view.html: the bodies before and after the fit, all people of a photo together, "
            "before the photo as its camera took it, with a ground of squares of 1 m; to be turned "
            "by mouse, finger or keyboard. One page without network or library. The photos have to "
            "be where they were, or are left out. A page with a licensed body model falls under "
            "its licence."
        ),
        examples=["eft-fast view fits/"],
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder with fits.npz, or such a file"
    )
    add_body(parser, of="body of the fits: ")
    parser.add_argument(
        "--limit", type=at_least(1), default=50, metavar="N", help="people at most (default 50)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="page to write (default DIR/view.html)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    from eft_fast.viz.view3d import write_view

    check_body(options.body)
    fits = find_fits(options.folder)
    with output_file(options.out or fits.parent / VIEW) as out:
        job = load_run_folder(options.folder, options.body)
        shown = write_view(
            out,
            job.result,
            job.names,
            photos=job.photos or None,
            ids=job.ids or None,
            limit=options.limit,
        )
    if not shown:
        raise UsageError(f"nobody in {options.folder} has a finite fit")
    summary = {"people": len(job.result), "shown": len(shown), "view": str(out)}
    lines = [f"{len(shown)} of {len(job.result)} people", f"view  {out}"]
    emit(summary, lines, as_json=options.json)
    return 0
