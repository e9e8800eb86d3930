"""``eft-fast eval``: methods side by side on rendered people or on annotated photos."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit, note, write_json

#: Of the rendered set; training renders with seed 0.
SEED = 20
_EXAMPLE = "example: eft-fast eval openbench --motion cmu/ --count 200 --out bench"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Measure methods. openbench: renders the open body in motion that no training saw, "
            "fits it by every method, and compares with the truth. coco: the same on your photos, "
            "by 2D error alone, with pictures. cards: prints what each published protocol means."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("protocol", choices=("openbench", "coco", "cards"))
    parser.add_argument("--motion", metavar="DIR", help="folder of converted motion capture")
    parser.add_argument("--backgrounds", metavar="DIR", help="folder of photographs, if any")
    parser.add_argument("--photos", metavar="DIR", help="of coco: folder of photos")
    parser.add_argument("--annotations", metavar="FILE", help="of coco: keypoints JSON")
    parser.add_argument("--no-pictures", action="store_true", help="of coco: write no overlays")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="people (default 200)")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="of the keypoints, person sizes (default exact)"
    )
    parser.add_argument("--methods", nargs="+", metavar="M", help="rows of the table; default: all")
    parser.add_argument("--regressor", default="open", help="open, or a checkpoint")
    parser.add_argument("--out", default="eft_fast_bench", metavar="DIR", help="where to write")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Render or load the set, fit, print the table."""
    if options.protocol == "cards":
        from eft_fast.evaluation.protocols import PROTOCOLS

        cards = [protocol.card() for protocol in PROTOCOLS.values()]
        emit({"protocols": list(PROTOCOLS)}, ["\n\n".join(cards)], as_json=options.json)
        return 0
    methods = _chosen(options.methods)
    if options.protocol == "coco":
        from eft_fast.cli.eval_coco import run_coco

        return run_coco(options, methods)
    return _openbench(options, methods)


def _openbench(options: argparse.Namespace, methods: Any) -> int:
    from eft_fast.api import load_body, load_regressor
    from eft_fast.evaluation import openbench

    if options.motion is None:
        raise UsageError("eft-fast eval: openbench needs --motion, a folder of motion capture")
    if options.count < 1:
        raise UsageError(f"eft-fast eval: --count must be at least 1, got {options.count}")
    regressor, body = load_regressor(options.regressor), load_body()
    people, digest = _render(options, regressor.input_size)
    tell = None if options.quiet else lambda name: note(f"fitting by {name}")
    scores = list(openbench.run_bench(regressor, body, people, methods, on_method=tell))
    summary = {
        "people": len(people),
        "noise": options.noise,
        "seed": SEED,
        "set_sha256": digest,
        "regressor": regressor.id,
        "body": body.id,
        "methods": openbench.summarise(scores),
    }
    write_json(str(Path(options.out) / "openbench.json"), summary)
    emit(summary, _table(summary["methods"]), as_json=options.json)
    return 0


def _chosen(names: list[str] | None) -> Any:
    from eft_fast.evaluation.openbench import default_methods

    known = {method.name: method for method in default_methods()}
    for name in names or ():
        if name not in known:
            raise UsageError(f"eft-fast eval: method must be one of {', '.join(known)}, got {name}")
    return tuple(known[name] for name in names or known)


def _render(options: argparse.Namespace, size: int) -> tuple[Any, str]:
    """The set and the hash of its pictures and labels; shards that are there are kept."""
    from eft_fast.evaluation.openbench import make_people
    from eft_fast.synth import SynthConfig, SynthJob, load_shards, render_shards

    out = Path(options.out)
    job = SynthJob(
        out=out / f"set-{options.count}-{size}",
        split="test",
        count=options.count,
        motion=Path(options.motion),
        backgrounds=None if options.backgrounds is None else Path(options.backgrounds),
        config=SynthConfig(size=size, seed=SEED),
    )
    arrays = load_shards(render_shards(job))
    digest = hashlib.sha256(arrays.image.tobytes() + arrays.landmarks_2d.tobytes()).hexdigest()
    people = make_people(
        arrays.image, arrays.landmarks_2d, arrays.rotmat, arrays.betas, noise=options.noise
    )
    return people, digest


def _table(rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        f"{'method':34s} {'2D px':>7s} {'PA mm':>7s} {'95 %':>15s} {'MPJPE':>7s} {'PVE':>7s} "
        f"{'worse':>6s} {'fits/s':>8s}"
    ]
    for name, row in rows.items():
        interval = f"{row['pa_mpjpe_mm_low']:.1f} to {row['pa_mpjpe_mm_high']:.1f}"
        worse = f"{row['worse_than_start']:.0%}" if "worse_than_start" in row else ""
        lines.append(
            f"{name:34s} {row['kp_error_px']:7.2f} {row['pa_mpjpe_mm']:7.1f} {interval:>15s} "
            f"{row['mpjpe_mm']:7.1f} {row['pve_mm']:7.1f} {worse:>6s} "
            f"{row['fits_per_second']:8.2f}"
        )
    return lines
