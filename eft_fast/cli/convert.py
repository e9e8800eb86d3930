"""``eft-fast convert``: fits to the files of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.output import UsageError, add_common_options, emit, note
from eft_fast.cli.run_folder import RunFolder, load_run_folder

_EXAMPLE = """example: eft-fast convert fits/fits.npz --to eft-json --out fits.json
example: eft-fast convert fits/ --to spin-npz --select --out train.npz
example: eft-fast convert fits/ --to glb --out meshes/"""
_MESHES: Final = ("obj", "ply", "glb")


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Write fits in another format. eft-json: the JSON of the EFT dataset. spin-npz: the "
            "labels of SPIN's training sets (no camera). amass-npz: a motion, z up, a row is a "
            "frame; of several people one file each. obj, ply, glb: one upright mesh per person, "
            "in metres. People whose fit failed are left out. A mesh of a licensed body model "
            "falls under its licence."
        ),
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fits", metavar="FITS", help="fits.npz, or the folder that fit wrote")
    parser.add_argument(
        "--to", required=True, metavar="FORMAT", help="eft-json, spin-npz, amass-npz, obj, ply, glb"
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="file; of meshes: folder")
    parser.add_argument("--body", default="open", help="open, or the licensed file of the fits")
    parser.add_argument(
        "--select", action="store_true", help="keep only fits that pass the rules of pseudo_gt"
    )
    parser.add_argument("--max-beta", type=float, metavar="X", help="of --select (default 3)")
    parser.add_argument(
        "--max-loss-2d", type=float, metavar="X", help="of --select (default 0.001)"
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="X",
        help="of --select: how sure the regressor was of its start, where it says so (default 0.2)",
    )
    parser.add_argument(
        "--all-limbs", action="store_true", help="of --select: all 12 limb joints are labelled"
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, select, write."""
    from eft_fast.pseudo_gt import FORMATS, PersonNames, write_fits

    kinds = (*FORMATS, *_MESHES)
    if options.to not in kinds:
        raise UsageError(
            f"eft-fast convert: --to must be one of {', '.join(kinds)}, got {options.to}"
        )
    job = load_run_folder("convert", options.fits, options.body)
    summary: dict[str, Any] = {"fits": len(job.result), "format": options.to}
    if options.select:
        job = _selected(job, options, summary)
    out = Path(options.out)
    if options.to in _MESHES:
        written = _write_meshes(job, options.to, out)
    else:
        if out.is_dir():
            raise UsageError(f"eft-fast convert: --out must be a file, got the folder {out}")
        out.parent.mkdir(parents=True, exist_ok=True)
        _, written = write_fits(
            job.result, PersonNames(job.photos, job.ids, job.tracks), options.to, out
        )
    if not job.photos and not options.quiet:
        note("note: no people.json beside the fits, so photos are called by their number")
    summary |= {"written": written, "out": str(out)}
    lines = [f"{written} of {summary['fits']} fits written to {out}"]
    for rule, count in summary.get("rejected", {}).items():
        lines.append(f"rejected by {rule}: {count}")
    emit(summary, lines, as_json=options.json)
    return 0


def _selected(job: RunFolder, options: argparse.Namespace, summary: dict[str, Any]) -> RunFolder:
    from dataclasses import replace

    from eft_fast.pseudo_gt import SelectConfig, select_fits

    given = {
        name: getattr(options, name)
        for name in ("max_beta", "max_loss_2d", "min_confidence")
        if getattr(options, name) is not None
    }
    chosen = select_fits(job.result, SelectConfig(all_limbs=options.all_limbs, **given))
    summary |= {"selected": int(chosen.keep.sum()), "rejected": chosen.counts()}
    rows = chosen.keep.nonzero()[0].tolist()
    if not rows:
        rules = ", ".join(f"{count} {rule}" for rule, count in chosen.counts().items())
        raise UsageError(f"eft-fast convert: no fit passes the rules ({rules})")
    photos = [job.photos[row] for row in rows] if job.photos else []
    ids = [job.ids[row] for row in rows] if job.ids else []
    tracks = [job.tracks[row] for row in rows] if job.tracks else []
    return replace(job, result=job.result[rows], photos=photos, ids=ids, tracks=tracks)


def _write_meshes(job: RunFolder, kind: str, out: Path) -> int:
    from eft_fast.viz.fits import write_meshes

    if out.is_file():
        raise UsageError(f"eft-fast convert: --out must be a folder for meshes, got the file {out}")
    return len(write_meshes(job.result, job.names, out, kind))
