"""``eft-fast fit``: photos and keypoints in, fits, overlays and a report out."""

from __future__ import annotations

import argparse

from eft_fast.cli.choices import ALL_JOINT_SETS, BACKENDS
from eft_fast.cli.fit_run import fit_run
from eft_fast.cli.fitting import add_fit_options, check_fit_options
from eft_fast.cli.gather import MIN_AREA, MIN_KEYPOINTS
from eft_fast.cli.options import add_out_folder, add_photos, at_least, not_negative
from eft_fast.cli.output import UsageError
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_annotations, check_file, is_one_folder, output_folder
from eft_fast.cli.people import people_from_detector
from eft_fast.cli.run_file import add_run_file, to_run_file


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "fit",
        run,
        summary="fit bodies to the people of photos",
        description=(
            "Fit the body model to every person. Without --annotations, keypoints come from the "
            "built-in detector. Writes fits.npz, overlays/*.png, report.html and summary.json."
        ),
        examples=[
            "eft-fast fit photos/ --out fits",
            "eft-fast fit photos/ --annotations person_keypoints.json --mode head --out fits",
            "eft-fast fit photos/ --annotations keypoints.json --method smplify_spin --out base",
            "eft-fast fit mpii/images --annotations mpii_human_pose_v1_u12_1.mat --out mpii",
        ],
    )
    # None: a run file may name them.
    add_photos(parser, nargs="*")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="labels or detections of the photos, a file or folder in any format of "
        "docs/datasets.md: COCO, MPII, OpenPose, mmpose, YOLO ...; `eft-fast data inspect FILE` "
        "says what it is",
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="of --annotations: its format, such as coco or yolo; default: told by what is in it",
    )
    parser.add_argument(
        "--joint-set",
        choices=ALL_JOINT_SETS,
        metavar="NAME",
        help="of --annotations: order of the keypoints, such as coco17, op25b or "
        "h36m17_rightfirst; default: as FILE names them",
    )
    parser.add_argument(
        "--min-keypoints",
        type=at_least(1),
        metavar="N",
        help="of --annotations: leave out people with fewer labelled keypoints "
        f"(default {MIN_KEYPOINTS})",
    )
    parser.add_argument(
        "--min-area",
        type=not_negative,
        metavar="PX",
        help="of --annotations: leave out people of at most this area in square pixels "
        f"(default {MIN_AREA:g})",
    )
    add_fit_options(parser)
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="local",
        metavar="B",
        help="who fits: local, the processes of this machine, or ray, a cluster (default local)",
    )
    parser.add_argument(
        "--shard-size",
        type=at_least(1),
        metavar="N",
        help="people of a file of fits while a run is under way (default 500)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin anew where DIR holds a run; without, a run goes on, and another is refused",
    )
    add_run_file(parser)
    add_out_folder(parser, "eft_fast_out")


def run(options: argparse.Namespace) -> int:
    """Gather the people, fit them, write everything."""
    from eft_fast.data import list_photos

    if options.config is not None:
        check_file("--config", options.config)
    if not options.photos:
        raise UsageError("the following arguments are required: PHOTOS (see eft-fast fit --help)")
    check_fit_options(options)
    if options.annotations is not None:
        check_annotations(options.annotations)
    else:
        for name in ("min_keypoints", "min_area", "joint_set", "format"):
            if getattr(options, name) is not None:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} goes with --annotations; leave it out")
    options.run_file = to_run_file(options)
    if options.annotations is None or not is_one_folder(options.photos):
        options.photos = list_photos(options.photos)
    with output_folder(options.out) as out:
        return fit_run(options, out, people_from_detector)
