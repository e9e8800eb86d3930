"""``eft-fast review``: look at a run, correct keypoints, fit again, accept and reject."""

from __future__ import annotations

import argparse
import json
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eft_fast.cli.choices import NOISES
from eft_fast.cli.options import add_body, add_covariance, add_regressor, at_least
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body, check_regressor, find_covariance
from eft_fast.cli.run_folder import RunFolder, find_fits, load_run_folder, run_keys

if TYPE_CHECKING:
    from eft_fast.map_fit.config import MapConfig
    from eft_fast.map_fit.refit import Refitter


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "review",
        run,
        summary="correct a run by hand in the browser: keypoints, depths, verdicts",
        description=(
            "Serve a page to this machine alone (127.0.0.1) on which people are looked at, worst "
            "first: drag or add a keypoint and the person is fitted again by map, take the other "
            "depth of a bone, accept or reject. Everything is written into the folder `review` of "
            "the run; nothing of the run is overwritten. Ctrl-C saves and ends. `eft-fast convert "
            "DIR/review --to FORMAT --select` takes what was made."
        ),
        examples=["eft-fast review fits/", "eft-fast review fits/ --no-browser --port 8765"],
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder that fit wrote")
    add_body(parser, of="body of the fits: ")
    add_regressor(parser)
    add_covariance(parser, of="of map: ")
    parser.add_argument(
        "--port", type=at_least(0, 65535), default=0, metavar="N", help="default: any that is free"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address and open no browser"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, then save."""
    check_body(options.body)
    check_regressor(options.regressor)
    folder = find_fits(options.folder).parent
    job = load_run_folder(options.folder, options.body)
    if not len(job.result):
        raise UsageError(f"{folder} holds no fits")
    from eft_fast.review import ReviewServer, ReviewSession

    photos = job.photos or list(job.result.photo)
    session = ReviewSession(
        job.result, photos, run_keys(job), folder, lambda: _make_refitter(job, options)
    )
    try:
        server = ReviewServer(session, options.port)
    except OSError as error:
        raise UsageError(f"--port {options.port} cannot be used ({error.strerror})") from error
    with server:
        note(f"review of {len(session)} people: {server.address}")
        note("Ctrl-C saves and ends")
        if not options.no_browser:
            webbrowser.open(server.address)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass
    return _finish(session, options)


def _finish(session: Any, options: argparse.Namespace) -> int:
    """Save what is not saved yet, and say what there is."""
    if not session.is_saved:
        session.save()
    edited = sum(bool(edit) for edit in session.edits.values())
    words = [one.verdict for one in session.verdicts.values()]
    summary = {
        "people": len(session),
        "fitted_again": edited,
        "accepted": words.count("keep"),
        "rejected": words.count("reject"),
        "review": str(session.place) if session.place.is_dir() else None,
    }
    lines = [
        f"{edited} of {len(session)} people fitted again, {summary['accepted']} accepted, "
        f"{summary['rejected']} rejected"
    ]
    if summary["review"]:
        lines.append(f"review  {session.place}")
    emit(summary, lines, as_json=options.json)
    return 0


def _make_refitter(job: RunFolder, options: argparse.Namespace) -> Refitter:
    """What fits people again, as the run did."""
    from eft_fast.api import load_regressor
    from eft_fast.map_fit.refit import Refitter

    regressor = load_regressor(options.regressor)
    if regressor.full_id != job.result.regressor_id:
        raise ValueError(
            f"review: the fits started from {job.result.regressor_id}, got {regressor.full_id}; "
            "name the run's regressor by --regressor"
        )
    return Refitter(regressor, job.result.body(), _read_config(job.folder, options))


def _read_config(folder: Path, options: argparse.Namespace) -> MapConfig:
    """The options of the run's fits, as far as ``run.json`` says them."""
    from dataclasses import fields

    from eft_fast.map_fit.config import MapConfig
    from eft_fast.pseudo_gt.jobs.plan import RunRecord

    record = RunRecord.load(folder)
    given: dict[str, Any] = {}
    if record is not None and record.parts.get("method") == "map":
        given = json.loads(record.parts.get("options", "null")) or {}
    known = {item.name for item in fields(MapConfig)} - {"covariance", "batch"}
    given = {name: value for name, value in given.items() if name in known}
    if given.get("keypoint_noise") not in (None, *NOISES):
        note("note: the run's own curve of keypoint noise is not kept; that of labels is taken")
        given["keypoint_noise"] = None
    return MapConfig(**given, covariance=find_covariance(options))
