"""``eft-fast data select``: which fits of a run are good enough, by rules and by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.options import add_body
from eft_fast.cli.output import UsageError, emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body
from eft_fast.cli.run_folder import RunFolder, find_fits, load_run_folder, run_keys

_VERDICTS: Final = {"accept": "keep", "reject": "reject"}
_LEVELS: Final = ("keep", "doubtful", "reject")


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "select",
        run,
        summary="say which fits are good enough, by rules and by hand",
        description=(
            "Count who is kept, doubtful and rejected by the rules of pseudo_gt, and why. With "
            "--accept or --reject, write what you say of people into selection.json beside the "
            "fits; `convert --select` honours it. People go by the id in the annotation file; "
            "--list shows the ids."
        ),
        examples=[
            "eft-fast data select fits/",
            "eft-fast data select fits/ --list doubtful",
            "eft-fast data select fits/ --reject 12,15 --note 'wrong person' --accept 183020",
        ],
    )
    parser.add_argument("fits", type=Path, metavar="RUN", help="the folder that fit wrote, or fits")
    for word, text in (("accept", "keep"), ("reject", "leave out"), ("clear", "forget about")):
        parser.add_argument(
            f"--{word}",
            nargs="+",
            default=[],
            metavar="ID",
            help=f"{text} these people, by id; several with commas or spaces",
        )
    parser.add_argument("--note", default="", metavar="TEXT", help="why, for --accept and --reject")
    parser.add_argument(
        "--list",
        choices=_LEVELS,
        dest="listed",
        metavar="LEVEL",
        help="print the people on a level and why: keep, doubtful or reject",
    )
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="of verdicts (default RUN/selection.json)"
    )
    add_body(parser, of="body of the fits: ")


def run(options: argparse.Namespace) -> int:
    """Change the file of verdicts, then count."""
    find_fits(options.fits)
    check_body(options.body)
    job = load_run_folder(options.fits, options.body)
    from eft_fast.pseudo_gt import load_verdicts, save_verdicts, select_fits, verdicts_of
    from eft_fast.pseudo_gt.verdicts import SELECTION

    path = options.file or job.folder / SELECTION
    keys = run_keys(job)
    verdicts = load_verdicts(path) if path.is_file() else {}
    changes = _changes(options, {*keys, *verdicts})
    for key, verdict in changes.items():
        if verdict is None:
            verdicts.pop(key, None)
        else:
            verdicts[key] = verdict
    if changes:
        save_verdicts(path, verdicts)
    found, _ = verdicts_of(keys, verdicts)
    chosen = select_fits(job.result, verdicts=found)
    summary: dict[str, Any] = {
        "fits": len(job.result),
        **chosen.statistics(),
        "by_hand": sum(verdict is not None for verdict in found),
        "file": str(path) if path.is_file() else None,
    }
    lines = [f"{summary['fits']} fits: " + ", ".join(f"{summary[k]} {k}" for k in _LEVELS)]
    for level, name in (("reject", "rejected_by"), ("doubtful", "doubtful_by")):
        counts = summary[name].items()
        lines += [f"{level} by {rule}: {count}" for rule, count in sorted(counts)]
    if summary["by_hand"]:
        lines.append(f"by hand: {summary['by_hand']} ({path})")
    if options.listed:
        rows = [row for row, level in enumerate(chosen.level) if level == options.listed]
        listed = summary["listed"] = [_row(job, keys, chosen, row) for row in rows]
        lines += [f"{one['id']}  {one['photo']}  {', '.join(one['why'])}" for one in listed]
    emit(summary, lines, as_json=options.json)
    return 0


def _changes(options: argparse.Namespace, known: set[str]) -> dict[str, Any]:
    """Verdict by id; None: to be forgotten.

    Raises:
        UsageError: If an id is nobody's, or stands on both sides.
    """
    from eft_fast.pseudo_gt import Verdict

    changes: dict[str, Any] = {}
    for word in ("accept", "reject", "clear"):
        for key in _ids(getattr(options, word)):
            if key not in known:
                raise UsageError(
                    f"--{word}: nobody here has the id {key}; see --list keep for the ids"
                )
            if key in changes:
                raise UsageError(f"--{word}: {key} is named twice; say one thing of each person")
            changes[key] = Verdict(_VERDICTS[word], options.note) if word in _VERDICTS else None
    if options.note and not (options.accept or options.reject):
        raise UsageError("--note goes with --accept or --reject; give one or leave it out")
    return changes


def _ids(values: Sequence[str]) -> list[str]:
    return [part for value in values for part in value.split(",") if part]


def _row(job: RunFolder, keys: Sequence[str], chosen: Any, row: int) -> dict[str, Any]:
    why = chosen.reasons[row] or chosen.doubts[row]
    return {"id": keys[row], "photo": job.names[row], "why": list(why)}
