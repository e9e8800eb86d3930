"""``eft-fast data inspect``: what an annotation file is, who is in it, and who is left out."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.choices import ALL_JOINT_SETS
from eft_fast.cli.options import at_least, not_negative
from eft_fast.cli.output import emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_annotations, output_file

#: Sentences that are printed of each kind.
_SHOWN: Final = 5
#: People on the contact sheet.
_ON_SHEET: Final = 24


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "inspect",
        run,
        summary="say what an annotation file is, how many people, and who is left out",
        description=(
            "Tell the format of a file or folder by what is in it, read it, and count: people that "
            "can be fitted, their joints, and who is left out and why. docs/datasets.md lists the "
            "formats. Without --photos the photos are not looked for."
        ),
        examples=[
            "eft-fast data inspect mpii_human_pose_v1_u12_1.mat",
            "eft-fast data inspect labels/ --photos images/ --out sheet.png",
        ],
    )
    parser.add_argument("path", metavar="PATH", help="annotation file or folder")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="where the photos are; they are checked then"
    )
    parser.add_argument("--format", metavar="NAME", help="of PATH, where it is told wrongly")
    parser.add_argument(
        "--joint-set",
        choices=ALL_JOINT_SETS,
        metavar="NAME",
        help="order of the keypoints; default: as PATH names them",
    )
    parser.add_argument(
        "--min-keypoints",
        type=at_least(1),
        default=1,
        metavar="N",
        help="leave out people with fewer labelled keypoints (default 1)",
    )
    parser.add_argument(
        "--min-area",
        type=not_negative,
        default=0.0,
        metavar="PX",
        help="leave out people of at most this area in square pixels (default 0)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"contact sheet of the first {_ON_SHEET} people to write: a .png, or a folder for it",
    )


def run(options: argparse.Namespace) -> int:
    """Read, count, draw."""
    check_annotations(options.path, "PATH")
    if options.out is None:
        summary, notes, _ = _inspect(options)
    else:
        from eft_fast.viz.contact import write_contact_sheet

        is_file = options.out.suffix.lower() == ".png"
        with output_file(options.out if is_file else options.out / "contact_sheet.png") as out:
            summary, notes, first = _inspect(options)
            write_contact_sheet(out, first)
            summary["sheet"] = str(out)
    emit(summary, _lines(summary, notes), as_json=options.json)
    return 0


def _inspect(options: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[Any]]:
    """The summary, sentences, and the first people for the sheet."""
    from eft_fast.data import stream_annotations
    from eft_fast.keypoints import joint_set

    stream = stream_annotations(
        options.path,
        options.photos,
        format_name=options.format,
        min_keypoints=options.min_keypoints,
        min_area=options.min_area,
        joint_set=options.joint_set,
    )
    first: list[Any] = []
    sets: Counter[str] = Counter()
    photos: set[int] = set()
    problems: list[str] = []
    odd = 0
    for sample in stream:
        odd += bool(sample.notes)
        if sample.problem is not None:
            problems += [sample.problem] if len(problems) < _SHOWN else []
            continue
        sets[sample.keypoint_set] += 1
        photos.add(hash(sample.photo))
        if len(first) < _ON_SHEET:
            first.append(sample)
    chosen = joint_set(sets.most_common(1)[0][0]) if sets else None
    summary = {
        "format": stream.format,
        "title": stream.title,
        "people": sum(sets.values()),
        "photos": len(photos) if options.photos is not None else None,
        "joint_set": None if chosen is None else chosen.name,
        "joint_sets": dict(sets),
        "joints": [] if chosen is None else list(chosen.names),
        "unused_joints": [] if chosen is None else list(chosen.unused),
        "approximate_joints": {} if chosen is None else dict(chosen.approx),
        "left_out": dict(Counter(stream.left_out) + Counter(stream.problems)),
        "with_notes": odd,
        "notes": stream.notes,
        "problems": problems,
    }
    return summary, [*stream.notes[:_SHOWN], *problems], first


def _lines(summary: dict[str, Any], notes: list[str]) -> list[str]:
    sets = ", ".join(f"{name} ({count})" for name, count in summary["joint_sets"].items())
    lines = [
        f"format     {summary['format']}: {summary['title']}",
        f"people     {summary['people']}",
        f"joint set  {sets or 'none'}",
    ]
    if summary["unused_joints"]:
        unused = ", ".join(summary["unused_joints"])
        lines.append(f"not used   {unused} (no place among the 49 points of fitting)")
    lines += [f"standing in  {name}: {why}" for name, why in summary["approximate_joints"].items()]
    lines += [f"left out   {count} {reason}" for reason, count in summary["left_out"].items()]
    if summary["with_notes"]:
        lines.append(f"odd        {summary['with_notes']} people have notes")
    lines += [f"note       {text}" for text in notes]
    if "sheet" in summary:
        lines.append(f"sheet      {summary['sheet']}")
    return lines
