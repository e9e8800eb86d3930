"""``eft-fast synth``: a folder of rendered people with everything that is known of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from eft_fast.cli.choices import SPLITS
from eft_fast.cli.options import add_out_folder, add_render_sources, add_scenes, at_least
from eft_fast.cli.output import emit
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_render_sources, output_folder


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "synth",
        run,
        summary="render people with their pose, shape, camera and keypoints",
        description=(
            "Render people. Writes images/*.png, annotations.json (COCO person keypoints), "
            "parameters.npz (pose, betas, camera, 3D points, visibility) and contact_sheet.png. "
            "Pictures depend on the seed and their number only: a stopped run goes on where it "
            "was, and a larger --n adds to a set. Without --motion, poses come from the pose "
            "prior that ships with the package; without --backgrounds, scenes are procedural. "
            "`eft-fast fit DIR --annotations DIR/annotations.json` fits the set."
        ),
        examples=["eft-fast synth --out people --n 1000 --workers 2"],
    )
    add_out_folder(parser)
    parser.add_argument("--n", type=at_least(1), required=True, metavar="N", help="pictures")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the whole set (default 0)"
    )
    parser.add_argument(
        "--size",
        type=at_least(16),
        default=256,
        metavar="PX",
        help="side of a picture (default 256)",
    )
    add_scenes(parser, default="varied")
    add_render_sources(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="motion capture is divided by recording (default train)",
    )
    parser.add_argument(
        "--workers", type=at_least(1), default=1, metavar="N", help="processes (default 1)"
    )


def run(options: argparse.Namespace) -> int:
    """Render what is missing and say where everything is."""
    check_render_sources(options)
    with output_folder(options.out) as out:
        return _render(options, out)


def _render(options: argparse.Namespace, out: Path) -> int:
    from eft_fast.synth import SynthJob, write_set
    from eft_fast.synth.config import make_scenes

    job = SynthJob(
        out=out,
        split=options.split,
        count=options.n,
        motion=options.motion,
        backgrounds=options.backgrounds,
        config=make_scenes(options.scenes, options.size, options.seed),
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
