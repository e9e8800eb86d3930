"""``eft-fast synth``: a folder of rendered people with everything that is known of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit

_EXAMPLE = "example: eft-fast synth --out people --n 1000 --workers 2"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Render people. Writes images/*.png, annotations.json (COCO person keypoints), "
            "parameters.npz (pose, betas, camera, 3D points, visibility) and contact_sheet.png. "
            "Pictures depend on the seed and their number only: a stopped run goes on where it "
            "was, and a larger --n adds to a set. Without --motion, poses come from the pose "
            "prior that ships with the package; without --backgrounds, scenes are procedural. "
            "`eft-fast fit DIR --annotations DIR/annotations.json` fits the set."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument("--n", type=int, required=True, metavar="N", help="pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the whole set (default 0)")
    parser.add_argument(
        "--size", type=int, default=256, metavar="PX", help="side of a picture (default 256)"
    )
    parser.add_argument(
        "--scenes",
        default="varied",
        help="varied: with floors, seats, children, loose clothes and lying people; training: as "
        "the shipped regressor was trained on (default varied)",
    )
    parser.add_argument("--motion", metavar="DIR", help="folder of converted motion capture")
    parser.add_argument("--backgrounds", metavar="DIR", help="folder of photographs")
    parser.add_argument(
        "--split",
        default="train",
        help="train, test or val: motion capture is divided by recording (default train)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Render what is missing and say where everything is."""
    from eft_fast.synth import SynthConfig, SynthJob, write_set
    from eft_fast.synth.config import varied
    from eft_fast.synth.motion import SPLITS

    kinds = {"varied": varied, "training": SynthConfig}
    if options.scenes not in kinds:
        raise UsageError(
            f"eft-fast synth: --scenes must be varied or training, got {options.scenes}"
        )

    for name, least in (("n", 1), ("size", 16), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise UsageError(
                f"eft-fast synth: --{name} must be at least {least}, got {getattr(options, name)}"
            )
    if options.split not in SPLITS:
        raise UsageError(
            f"eft-fast synth: --split must be one of {', '.join(SPLITS)}, got {options.split}"
        )
    job = SynthJob(
        out=Path(options.out),
        split=options.split,
        count=options.n,
        motion=None if options.motion is None else Path(options.motion),
        backgrounds=None if options.backgrounds is None else Path(options.backgrounds),
        config=kinds[options.scenes](size=options.size, seed=options.seed),
        shard_size=50,
    )
    start = time.perf_counter()
    written = write_set(job, processes=options.workers, progress=not options.quiet)
    seconds = time.perf_counter() - start
    summary = {
        "people": written.people,
        "pictures": written.pictures,
        "rendered": written.rendered,
        "seconds": seconds,
        "images_per_second": written.rendered / seconds,
        "images": str(written.images),
        "annotations": str(written.annotations),
        "parameters": str(written.parameters),
        "contact_sheet": str(written.sheet),
    }
    lines = [
        f"{written.people} people in {written.pictures} pictures, {written.rendered} rendered now "
        f"in {seconds:.1f} s "
        f"({summary['images_per_second']:.1f} images/s)",
        f"pictures        {written.images}",
        f"keypoints       {written.annotations}",
        f"parameters      {written.parameters}",
        f"contact sheet   {written.sheet}",
    ]
    emit(summary, lines, as_json=options.json)
    return 0
