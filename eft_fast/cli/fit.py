"""``eft-fast fit``: photos and keypoints in, fits, overlays and a report out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from eft_fast.cli.output import UsageError, add_common_options, emit, note
from eft_fast.cli.people import People, people_from_annotations, people_from_detector
from eft_fast.cli.write import RunInfo, write_outputs

_EXAMPLE = "example: eft-fast fit photos/ --annotations person_keypoints.json --out fits"


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Fit the body model to every person. Without --annotations, keypoints come from the "
            "built-in detector. Writes fits.npz, overlays/*.png, report.html and summary.json."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTOS", help="files or folders of photos")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="COCO person-keypoints JSON or an OpenPose output folder",
    )
    parser.add_argument(
        "--joint-set",
        metavar="NAME",
        help="order of the keypoints in FILE, such as coco17, op25b or h36m17_rightfirst; default: "
        "as FILE names them",
    )
    add_fit_options(parser)
    parser.add_argument(
        "--min-keypoints",
        type=int,
        default=10,
        metavar="N",
        help="leave out people with fewer labelled keypoints (default 10)",
    )
    parser.add_argument(
        "--min-area",
        type=float,
        default=4000.0,
        metavar="PX",
        help="leave out people of at most this area in square pixels (default 4000)",
    )
    parser.add_argument("--out", default="eft_fast_out", metavar="DIR", help="where to write")
    add_common_options(parser)
    parser.set_defaults(run=run)


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Options that ``fit`` and ``demo`` share."""
    parser.add_argument(
        "--method",
        default="eft",
        help="eft; smplify or one of its recipes (smplify2016, smplify_spin, "
        "smplify_eft_baseline, smplifyx); or none for the regressor alone",
    )
    parser.add_argument(
        "--prior", help="of smplify: gmm (default), angle_off, limits, anchor or none"
    )
    parser.add_argument(
        "--start", help="of smplify: regressor or mean; default: as the recipe was published"
    )
    parser.add_argument(
        "--mode",
        default="full",
        help="what EFT tunes: full, layer3, layer4, head, feature, lora or subspace",
    )
    parser.add_argument("--body", default="open", help="open, or a licensed SMPL .pkl or .npz")
    parser.add_argument("--regressor", default="open", help="open, or a SPIN or EFT checkpoint")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 ... (default cpu)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes on the CPU (default 1)"
    )
    parser.add_argument("--lr", type=float, help="learning rate of the fit")
    parser.add_argument("--max-steps", type=int, metavar="N", help="steps at most")
    parser.add_argument("--threshold", type=float, help="2D loss at which a fit has converged")
    parser.add_argument(
        "--strict-reference", action="store_true", help="repeat the reference's integer rounding"
    )
    parser.add_argument(
        "--focal",
        metavar="PX",
        help="full perspective: focal length of the photos, pixels, or 'diagonal' where nothing "
        "is known; default: the weak camera of the crop",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write no overlays")


def run(options: argparse.Namespace) -> int:
    """Gather the people, fit them, write everything."""
    from eft_fast.data import list_photos

    if options.annotations is not None:
        photos: Sequence[Path] | Path = _one_folder(options.photos) or list_photos(options.photos)
        people = people_from_annotations(
            options.annotations,
            photos,
            min_keypoints=options.min_keypoints,
            min_area=options.min_area,
            joint_set=options.joint_set,
        )
    else:
        people = people_from_detector(list_photos(options.photos), quiet=options.quiet)
    return fit_and_write(people, options)


def fit_and_write(people: People, options: argparse.Namespace, *, title: str | None = None) -> int:
    """Fit, write the outputs, print the summary. Shared by ``fit`` and ``demo``."""
    import time

    from eft_fast.api import fit_batch, load_body, load_regressor
    from eft_fast.eft.config import EftConfig
    from eft_fast.smplify.config import SmplifyConfig

    if not len(people):
        raise UsageError(f"eft-fast {options.command}: {people.nobody()}")
    regressor = load_regressor(options.regressor, device=options.device)
    body = load_body(options.body, device=options.device)
    kind = SmplifyConfig if options.method.startswith("smplify") else EftConfig
    given = {
        item.name: getattr(options, item.name)
        for item in fields(kind)
        if getattr(options, item.name, None) is not None
    }
    start = time.perf_counter()
    result = fit_batch(
        people.photos,
        people.keypoints,
        bboxes=people.boxes,
        joint_set=people.joint_set,
        method=options.method,
        mode=options.mode,
        regressor=regressor,
        body=body,
        config=kind(**given),
        workers=options.workers,
        intrinsics=_focal(options),
        progress=False if options.quiet else None,
    )
    info = RunInfo(seconds=time.perf_counter() - start, title=title, options=options)
    summary, lines = write_outputs(result, people, Path(options.out), info)
    for sentence in (*people.problems, *(text for text in result.message if text)):
        if not options.quiet:
            note(f"note: {sentence}")
    emit(summary, lines, as_json=options.json)
    return 1 if all(reason in ("bad_image", "nan") for reason in result.stop_reason) else 0


def _focal(options: argparse.Namespace) -> float | str | None:
    if options.focal is None or options.focal == "diagonal":
        focal: str | None = options.focal
        return focal
    try:
        return float(options.focal)
    except ValueError as error:
        raise UsageError(
            f"eft-fast {options.command}: --focal must be pixels or diagonal, got {options.focal}"
        ) from error


def _one_folder(photos: list[str]) -> Path | None:
    """The folder, if one was given: annotations then name the photos in it."""
    return Path(photos[0]) if len(photos) == 1 and Path(photos[0]).is_dir() else None
