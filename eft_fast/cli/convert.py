"""``eft-fast convert``: fits to the files of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.choices import LABEL_FORMATS, MESH_FORMATS
from eft_fast.cli.options import add_body, not_negative
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_body, output_file, output_folder
from eft_fast.cli.run_folder import RunFolder, find_fits, load_run_folder

#: Options that only ``--select`` has a use for.
_OF_SELECT: Final = ("max_beta", "max_loss_2d", "min_confidence", "all_limbs")


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
            "npz: our own file, with everything that a fit says. obj, ply, glb: one upright mesh "
            "per person, in metres. People whose fit failed are left out. FITS may be in any of "
            "the formats but meshes. A mesh of a licensed body model falls under its licence."
        ),
        examples=[
            "eft-fast convert fits/fits.npz --to eft-json --out fits.json",
            "eft-fast convert fits/ --to spin-npz --select --out train.npz",
            "eft-fast convert fits/ --to glb --out meshes/",
        ],
    )
    parser.add_argument(
        "fits",
        type=Path,
        metavar="FITS",
        help="the folder that fit wrote, fits.npz, or fits in another of the formats",
    )
    formats = (*LABEL_FORMATS, *MESH_FORMATS)
    parser.add_argument(
        "--to", required=True, choices=formats, metavar="FORMAT", help=", ".join(formats)
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="file; of meshes: folder"
    )
    add_body(parser, of="body of the fits: ")
    parser.add_argument(
        "--select", action="store_true", help="keep only fits that pass the rules of pseudo_gt"
    )
    parser.add_argument(
        "--max-beta", type=not_negative, metavar="X", help="of --select (default 3)"
    )
    parser.add_argument(
        "--max-loss-2d", type=not_negative, metavar="X", help="of --select (default 0.001)"
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
    if given and not options.select:
        name = next(iter(given)).replace("_", "-")
        raise UsageError(f"--{name} goes with --select; give both or leave it out")
    find_fits(options.fits)
    check_body(options.body)
    is_folder = options.to in (*MESH_FORMATS, "eft-pickle") or (
        options.to in ("hmr2-tar", "parquet") and not options.out.suffix
    )
    place = output_folder if is_folder else output_file
    with place(options.out) as out:
        job = load_run_folder(options.fits, options.body)
        summary: dict[str, Any] = {"fits": len(job.result), "format": options.to}
        if options.select:
            job = _selected(job, given, summary)
        written = _write(job, options.to, out)
    if not any(job.photos) and not any(job.result.photo) and not options.quiet:
        note("note: no people.json beside the fits, so photos are called by their number")
    for text in () if options.quiet else job.notes:
        note(f"note: {text}")
    summary |= {"written": written, "out": str(out)}
    lines = [f"{written} of {summary['fits']} fits written to {out}"]
    for rule, count in summary.get("rejected", {}).items():
        lines.append(f"rejected by {rule}: {count}")
    emit(summary, lines, as_json=options.json)
    return 0


def _write(job: RunFolder, kind: str, out: Path) -> int:
    """Write the file or the meshes; return how many people are in them."""
    if kind in MESH_FORMATS:
        from eft_fast.viz.fits import write_meshes

        return len(write_meshes(job.result, job.names, out, kind))
    from eft_fast.pseudo_gt import PersonNames, write_fits

    return write_fits(job.result, PersonNames(job.photos, job.ids, job.tracks), kind, out)[1]


def _selected(job: RunFolder, given: dict[str, Any], summary: dict[str, Any]) -> RunFolder:
    from dataclasses import replace

    from eft_fast.pseudo_gt import SelectConfig, select_fits

    chosen = select_fits(job.result, SelectConfig(**given))
    summary |= {"selected": int(chosen.keep.sum()), "rejected": chosen.counts()}
    rows = chosen.keep.nonzero()[0].tolist()
    if not rows:
        rules = ", ".join(f"{count} {rule}" for rule, count in chosen.counts().items())
        raise UsageError(f"no fit passes the rules ({rules})")
    photos = [job.photos[row] for row in rows] if job.photos else []
    ids = [job.ids[row] for row in rows] if job.ids else []
    tracks = [job.tracks[row] for row in rows] if job.tracks else []
    return replace(job, result=job.result[rows], photos=photos, ids=ids, tracks=tracks)
