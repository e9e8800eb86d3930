"""``eft-fast convert``: fits to the files of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.choices import BODY_FORMATS, LABEL_FORMATS
from eft_fast.cli.options import add_body, at_least, not_negative, positive
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body, output_file, output_folder
from eft_fast.cli.run_folder import RunFolder, find_fits, load_run_folder, run_verdicts

#: Options that only ``--select`` has a use for.
_OF_SELECT: Final = (
    "max_beta", "max_loss_2d", "max_init_loss_2d", "min_confidence", "min_limbs", "max_sigma_mm",
    "max_pose", "max_overbend_deg", "all_limbs", "strict",
)  # fmt: skip

#: Options of bodies, and the formats that have a use for them.
_OF_BODIES: Final = {
    "feet_on_ground": BODY_FORMATS,
    "shape_targets": ("glb", "usd"),
    "frame_rate": ("glb", "bvh", "usd"),
}


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "convert",
        run,
        summary="write fits in another format, or as meshes",
        description=(
            "Write fits in another format. eft-json, eft-pickle: the files of the EFT dataset. "
            "spin-npz: the labels of SPIN's training sets. hmr2-tar: HMR 2.0's WebDataset tars, "
            "photos included. humandata-npz: MMHuman3D's. amass-npz, smpl: a motion, z up, a row "
            "is a frame; of several people one file each. parquet: our own shards, or one file; "
            "npz: our own file, with everything that a fit says. obj, ply: one upright mesh per "
            "person, metres. glb, usd: a rig with skin, 24 joints and, of a track, motion, metres. "
            "bvh: the joints alone, centimetres. People whose fit failed are left out. FITS may be "
            "in any of the formats but these five. What holds a licensed body model falls under "
            "its licence."
        ),
        examples=[
            "eft-fast convert fits/fits.npz --to eft-json --out fits.json",
            "eft-fast convert fits/ --to spin-npz --select --out train.npz",
            "eft-fast convert fits/ --to glb --feet-on-ground --out bodies/",
        ],
    )
    parser.add_argument(
        "fits",
        type=Path,
        metavar="FITS",
        help="the folder that fit wrote, fits.npz, or fits in another of the formats",
    )
    formats = (*LABEL_FORMATS, *BODY_FORMATS)
    parser.add_argument(
        "--to", required=True, choices=formats, metavar="FORMAT", help=", ".join(formats)
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="file; of bodies: folder"
    )
    add_body(parser, of="body of the fits: ")
    parser.add_argument(
        "--feet-on-ground",
        action="store_true",
        default=None,
        help="of bodies: the lowest vertex, of a motion that of all frames, is at y = 0",
    )
    parser.add_argument(
        "--shape-targets",
        action="store_true",
        default=None,
        help="of glb and usd: the shape as ten morph targets, to be changed (default: baked)",
    )
    parser.add_argument(
        "--frame-rate",
        type=positive,
        metavar="HZ",
        help="of the motions of glb, usd and bvh (default 30)",
    )
    parser.add_argument(
        "--select",
        nargs="?",
        type=Path,
        const=True,
        metavar="FILE",
        help="keep only fits that pass the rules of pseudo_gt; FILE: what was said by hand, as "
        "`eft-fast data select` writes it (default: selection.json beside the fits, if there)",
    )
    parser.add_argument(
        "--max-beta", type=not_negative, metavar="X", help="of --select (default 3)"
    )
    parser.add_argument(
        "--max-loss-2d", type=not_negative, metavar="X", help="of --select (default 0.001)"
    )
    parser.add_argument(
        "--max-init-loss-2d",
        type=not_negative,
        metavar="X",
        help="of --select: largest 2D loss of the regressor's answer (default: no limit)",
    )
    parser.add_argument(
        "--min-limbs",
        type=at_least(0, 12),
        metavar="N",
        help="of --select: fewest labelled limb joints, of 12 (default 0)",
    )
    parser.add_argument(
        "--max-sigma-mm",
        type=not_negative,
        metavar="X",
        help="of --select: largest mean error bar of the joints, where the fit says it",
    )
    parser.add_argument(
        "--max-pose",
        type=not_negative,
        metavar="X",
        help="of --select: how unlikely a pose may be under the open prior (default: no limit)",
    )
    parser.add_argument(
        "--max-overbend-deg",
        type=not_negative,
        metavar="X",
        help="of --select: degrees that an angle may leave its range by (default 30)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        default=None,
        help="of --select: leave the doubtful out as well",
    )
    parser.add_argument(
        "--min-confidence",
        type=not_negative,
        metavar="X",
        help="of --select: how sure the regressor was of its start, where it says so (default 0.2)",
    )
    parser.add_argument(
        "--all-limbs",
        action="store_true",
        default=None,
        help="of --select: all 12 limb joints are labelled",
    )


def run(options: argparse.Namespace) -> int:
    """Load, select, write."""
    given = {name: getattr(options, name) for name in _OF_SELECT}
    given = {name: value for name, value in given.items() if value is not None}
    if given and options.select is None:
        name = next(iter(given)).replace("_", "-")
        raise UsageError(f"--{name} goes with --select; give both or leave it out")
    bodies = _body_options(options)
    find_fits(options.fits)
    if isinstance(options.select, Path) and not options.select.is_file():
        raise UsageError(f"--select must be a file of verdicts, got {options.select}")
    check_body(options.body)
    is_folder = options.to in (*BODY_FORMATS, "eft-pickle") or (
        options.to in ("hmr2-tar", "parquet") and not options.out.suffix
    )
    place = output_folder if is_folder else output_file
    with place(options.out) as out:
        job = load_run_folder(options.fits, options.body)
        summary: dict[str, Any] = {"fits": len(job.result), "format": options.to}
        if options.select is not None:
            job = _selected(job, options.select, given, summary)
        written = _write(job, options.to, out, bodies)
    if not any(job.photos) and not options.quiet:
        note("note: the fits do not name their photos, which are called by their number")
    for text in () if options.quiet else job.notes:
        note(f"note: {text}")
    summary |= {"written": written, "out": str(out)}
    lines = [f"{written} of {summary['fits']} fits written to {out}"]
    for rule, count in summary.get("rejected", {}).items():
        lines.append(f"rejected by {rule}: {count}")
    if summary.get("doubtful"):
        lines.append(f"doubtful, {'left out' if options.strict else 'kept'}: {summary['doubtful']}")
    emit(summary, lines, as_json=options.json)
    return 0


def _body_options(options: argparse.Namespace) -> dict[str, Any]:
    """Options of bodies that were given."""
    given = {name: getattr(options, name) for name in _OF_BODIES}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if options.to not in _OF_BODIES[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} goes with --to {', '.join(_OF_BODIES[name])}, got "
                f"--to {options.to}"
            )
    return given


def _write(job: RunFolder, kind: str, out: Path, bodies: dict[str, Any]) -> int:
    """Write the file or the bodies; return how many there are."""
    if kind in BODY_FORMATS:
        from eft_fast.exports.write import BodyOptions, body_files, write_bodies
        from eft_fast.folders import replaced_files

        with replaced_files(out, body_files(out, kind)) as new:
            files = write_bodies(
                job.result, job.names, new, kind, tracks=job.tracks, options=BodyOptions(**bodies)
            )
        return len(files)
    from eft_fast.pseudo_gt import PersonNames, write_fits

    return write_fits(job.result, PersonNames(job.photos, job.ids, job.tracks), kind, out)[1]


def _selected(
    job: RunFolder, file: Path | bool, given: dict[str, Any], summary: dict[str, Any]
) -> RunFolder:
    from dataclasses import replace

    from eft_fast.pseudo_gt import SelectConfig, select_fits

    verdicts = run_verdicts(job, file if isinstance(file, Path) else None)
    chosen = select_fits(job.result, SelectConfig(**given), verdicts=verdicts)
    found = chosen.statistics()
    summary |= {
        "selected": int(chosen.keep.sum()),
        "doubtful": found["doubtful"],
        "rejected": chosen.counts(),
        "by_hand": sum(verdict is not None for verdict in verdicts),
    }
    rows = chosen.keep.nonzero()[0].tolist()
    if not rows:
        rules = ", ".join(f"{count} {rule}" for rule, count in chosen.counts().items())
        raise UsageError(f"no fit passes the rules ({rules})")
    photos = [job.photos[row] for row in rows] if job.photos else []
    ids = [job.ids[row] for row in rows] if job.ids else []
    tracks = [job.tracks[row] for row in rows] if job.tracks else []
    return replace(job, result=job.result[rows], photos=photos, ids=ids, tracks=tracks)
