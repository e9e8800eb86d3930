"""``eft-fast motion``: motion capture for ``--motion``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.options import add_body, add_out_folder, not_negative
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command, add_group
from eft_fast.cli.paths import check_body, check_file, output_folder

#: The file that is written.
FILE: Final = "motion.npz"
#: Most files whose sentence is printed.
_SHOWN: Final = 10


def add(subparsers: Subparsers) -> None:
    """Register the command and its own commands."""
    commands = add_group(
        subparsers,
        "motion",
        metavar="ACTION",
        summary="convert motion capture for --motion",
        description="Motion capture as poses to render: see `eft-fast motion convert --help`.",
        examples=["eft-fast motion convert cmu/ --out motion"],
    )
    parser = add_command(
        commands,
        "convert",
        run,
        summary="AMASS npz, CMU asf/amc or BVH to SMPL poses",
        description=(
            "Convert motion capture to SMPL poses for `eval openbench --motion`, `synth` and "
            "`train`. .npz: AMASS (SMPL-H, SMPL-X). .amc: CMU, with its .asf beside it. .bvh: any "
            "rig that rests standing and names its limbs in a usual way. Every limb points where "
            "the file's points; proportions, fingers and what twists the rest pose has are lost. "
            "No subject is in two splits."
        ),
        examples=[
            "eft-fast motion convert cmu/subjects --out motion",
            "eft-fast motion convert AMASS/CMU AMASS/KIT --out motion --rate 10",
            "eft-fast motion convert walk.bvh --joint lsho=Arm_L --joint rsho=Arm_R --out motion",
        ],
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="motion files, or folders of them"
    )
    add_out_folder(parser)
    add_body(parser, of="whose rest pose counts: ")
    parser.add_argument(
        "--rate",
        type=not_negative,
        default=10.0,
        metavar="HZ",
        help="frames to keep per second (default 10)",
    )
    parser.add_argument(
        "--split",
        choices=("auto", "train", "test", "val"),
        default="auto",
        metavar="S",
        help="auto (15 %% of the frames test, 5 %% val, by subject), train, test or val",
    )
    parser.add_argument("--asf", type=Path, metavar="FILE", help="skeleton of the .amc files")
    parser.add_argument(
        "--amc-rate",
        type=not_negative,
        default=120.0,
        metavar="HZ",
        help="frames per second of .amc files, which do not state it (default 120)",
    )
    parser.add_argument(
        "--joint",
        action="append",
        default=[],
        metavar="NAME=OWN",
        help="a joint of smpl24 and its name in .bvh or .amc files, where it is not found",
    )


def run(options: argparse.Namespace) -> int:
    """Convert what can be read; the rest is told and left out."""
    for path in options.files:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}")
    for name in ("rate", "amc_rate"):
        if getattr(options, name) == 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0")
    joints = dict(_pair(text) for text in options.joint)
    check_body(options.body)
    if options.asf is not None:
        check_file("--asf", options.asf)
    with output_folder(options.out) as out:
        return _convert(options, joints, out)


def _pair(text: str) -> tuple[str, str]:
    name, equals, own = text.partition("=")
    if not (name and equals and own):
        raise UsageError(f"--joint must be NAME=OWN, such as lsho=LeftArm, got {text!r}")
    return name, own


def _convert(options: argparse.Namespace, joints: dict[str, str], out: Path) -> int:
    from eft_fast.body.model_io import load_arrays
    from eft_fast.data.formats.motion_npz import save_motion_npz
    from eft_fast.data.motion.collect import SUFFIXES, collect_motion, find_motion_files

    files = find_motion_files(options.files)
    if not files:
        raise UsageError(f"no file of {', '.join(SUFFIXES)} in {options.files[0]}")
    body = load_arrays(options.body)
    found = collect_motion(
        files,
        body.J_regressor @ body.v_template,
        rate=options.rate,
        split=options.split,
        asf=options.asf,
        amc_rate=options.amc_rate,
        joints=joints,
    )
    if not options.quiet:
        _tell(found.failed, "left out")
        _tell({name: "; ".join(notes) for name, notes in found.notes.items()}, "note")
    if found.motion is None:
        raise UsageError(
            f"none of {len(files)} files could be read; {next(iter(found.failed.values()))}"
        )
    path = save_motion_npz(out / FILE, found.motion)
    in_split = [found.motion.splits[index] for index in found.motion.recording.tolist()]
    summary: dict[str, Any] = {
        "recordings": len(found.motion.names),
        "subjects": len(set(found.motion.subjects)),
        "frames": len(found.motion.pose),
        "splits": {split: in_split.count(split) for split in ("train", "test", "val")},
        "dropped_frames": found.dropped,
        "failed": found.failed,
        "out": str(path),
    }
    shares = ", ".join(f"{count} {split}" for split, count in summary["splits"].items())
    lines = [
        f"{summary['frames']} poses of {summary['recordings']} recordings and "
        f"{summary['subjects']} subjects written to {path} ({shares})"
    ]
    if found.dropped:
        lines.append(f"{found.dropped} frames left out: a joint turns over 150 degrees")
    if found.failed:
        lines.append(f"{len(found.failed)} of {len(files)} files left out")
    emit(summary, lines, as_json=options.json)
    return 0


def _tell(sentences: dict[str, str], word: str) -> None:
    for name, sentence in list(sentences.items())[:_SHOWN]:
        note(f"{word}: {name}: {sentence}")
    if len(sentences) > _SHOWN:
        note(f"{word}: and {len(sentences) - _SHOWN} more files")
