"""``eft-fast view``: fitted bodies in 3D, as one page for any browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit
from eft_fast.cli.run_folder import load_run_folder

_EXAMPLE = "example: eft-fast view fits/"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Write view.html: the bodies before and after the fit, to be turned with the mouse. "
            "One page without network or library. A page with a licensed body model falls under "
            "its licence."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("folder", metavar="DIR", help="folder with fits.npz, or such a file")
    parser.add_argument("--body", default="open", help="open, or the licensed file of the fits")
    parser.add_argument(
        "--limit", type=int, default=50, metavar="N", help="people at most (default 50)"
    )
    parser.add_argument("--out", metavar="FILE", help="page to write (default DIR/view.html)")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    from eft_fast.viz.view3d import write_view

    if options.limit < 1:
        raise UsageError(f"eft-fast view: --limit must be at least 1, got {options.limit}")
    job = load_run_folder("view", options.folder, options.body)
    out = Path(options.out) if options.out else job.folder / "view.html"
    shown = write_view(out, job.result, job.names, limit=options.limit)
    if not shown:
        raise UsageError(f"eft-fast view: nobody in {options.folder} has a finite fit")
    summary = {"people": len(job.result), "shown": shown, "view": str(out)}
    emit(summary, [f"{shown} of {len(job.result)} people", f"view  {out}"], as_json=options.json)
    return 0
