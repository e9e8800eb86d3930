"""``eft-fast train --data``: a regressor from labelled photos, fits above all."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.options import at_least, not_negative
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.paths import output_folder

if TYPE_CHECKING:
    from eft_fast.body import Smpl
    from eft_fast.training.label_run import DataSource
    from eft_fast.training.labels import LabelledPeople

#: Option of the command line -> place in the file.
_PLACES: Final = {
    "work": "work",
    "start": "start",
    "steps": "options.steps",
    "batch": "options.batch",
    "lr": "options.lr",
    "head_lr": "options.head_lr",
    "stage": "options.stage",
    "seed": "options.seed",
    "processes": "options.workers",
    "threads": "threads",
    "device": "device",
    "body": "body",
    "calibration": "calibration",
}
#: Options of the other form of the command.
_OF_RENDERS: Final = (
    "motion", "backgrounds", "trunk", "train", "varied", "val", "test", "head_steps",
    "finetune_steps", "stages", "out", "source_sha256",
)  # fmt: skip
#: Options that only this form has.
OWN: Final = (
    "data", "share", "photos", "labels", "sigma_mm", "all_fits", "steps", "batch", "lr", "head_lr",
    "stage", "tensorboard", "body", "calibration",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this form of ``train`` takes."""
    group = parser.add_argument_group("labelled photos")
    group.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="learn from these instead of renders: folders of fit or of synth, or annotations",
    )
    group.add_argument(
        "--share",
        type=not_negative,
        nargs="+",
        metavar="X",
        help="of --data, one each: how often it is drawn from (default 1 each)",
    )
    group.add_argument(
        "--photos", type=Path, metavar="DIR", help="of --data that are annotations: their photos"
    )
    group.add_argument(
        "--labels",
        choices=("all", "2d"),
        help="2d: learn from 2D keypoints alone, whatever else is known (default all)",
    )
    group.add_argument(
        "--sigma-mm",
        type=not_negative,
        metavar="X",
        help="weigh joints of fits by X^2 / (X^2 + sigma^2), sigma of the fit's own posterior",
    )
    group.add_argument(
        "--all-fits",
        action="store_true",
        default=None,
        help="learn from fits that do not pass the rules of convert --select, too",
    )
    group.add_argument("--steps", type=at_least(1), metavar="N", help="updates (default 5000)")
    group.add_argument("--batch", type=at_least(1), metavar="N", help="people (default 64)")
    group.add_argument("--lr", type=not_negative, metavar="X", help="peak rate (default 5e-5)")
    group.add_argument(
        "--head-lr", type=not_negative, metavar="X", help="of the head (default: as --lr)"
    )
    group.add_argument(
        "--stage",
        metavar="S",
        help="train from this stage of the network on, such as head; crops are then only mirrored",
    )
    group.add_argument("--body", metavar="B", help="of the labels: open (default), or a file")
    group.add_argument(
        "--calibration",
        type=at_least(0),
        metavar="N",
        help="rendered people on whom the errors of the finished weights are measured, for map "
        "(default 1000; 0: none)",
    )
    group.add_argument(
        "--tensorboard", action="store_true", default=None, help="write event files, too"
    )


def run(options: argparse.Namespace) -> int:
    """Read the data, train, print what was done."""
    for name in _OF_RENDERS:
        if getattr(options, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is about rendered people; leave it out beside --data")
    from eft_fast.api import load_body
    from eft_fast.ops import find_device
    from eft_fast.training.config_file import load_label_run
    from eft_fast.training.label_run import run_label_training

    job = load_label_run(options.config, _changes(options))
    find_device("train", job.device)
    for source in job.data:
        if not source.path.exists():
            raise UsageError(f"--data: no file or folder {source.path}")
    with output_folder(job.work, "--work"):
        import torch

        torch.set_num_threads(job.threads)
        start = time.perf_counter()
        body = load_body(job.body)
        sources = [read_source(source, body, job.body) for source in job.data]
        for source, people in zip(job.data, sources, strict=True):
            if not options.quiet:
                left = ", ".join(f"{n} {reason}" for reason, n in people.left_out.items())
                note(
                    f"{source.path}: {len(people)} people" + (f"; left out: {left}" if left else "")
                )
        summary: dict[str, Any] = run_label_training(job, sources, body)
    summary["seconds"] = time.perf_counter() - start
    lines = [
        f"{summary['people']} people, {summary['steps']} updates in {summary['seconds']:.0f} s",
        f"weights         {summary['weights']}",
    ]
    if "errors" in summary:
        lines.append(f"usual errors    {summary['errors']}")
    emit(summary, lines, as_json=options.json)
    return 0


def read_source(source: DataSource, body: Smpl, body_name: str) -> LabelledPeople:
    """The people of one source.

    Raises:
        UsageError: If its fits do not say what their photos are.
        ValueError: If no reader takes it.
    """
    from eft_fast.cli.run_folder import FITS, load_run_folder, run_verdicts
    from eft_fast.data import open_annotations
    from eft_fast.synth import load_set
    from eft_fast.synth.export import is_set
    from eft_fast.training.labels import LabelledPeople

    path, only_2d = source.path, source.labels == "2d"
    if path.name == FITS or (path / FITS).is_file():
        fits = load_run_folder(path, body_name)
        if not fits.photos:
            raise UsageError(f"--data: {path} must say what its photos are; run eft-fast fit again")
        photos = [_photo(Path(name), source.photos) for name in fits.photos]
        people = LabelledPeople.from_fits(
            fits.result,
            photos,
            body,
            keep=None if source.select else _everybody(len(fits.result)),
            verdicts=run_verdicts(fits, None),
            sigma_mm=source.sigma_mm,
        )
        return people.without_pose() if only_2d else people
    if is_set(path):
        return LabelledPeople.from_samples(load_set(path), body, only_2d=only_2d)
    folder = path.parent if source.photos is None else source.photos
    return LabelledPeople.from_samples(open_annotations(path, folder), body, only_2d=only_2d)


def _everybody(count: int) -> Any:
    import numpy as np

    return np.ones(count, bool)


def _photo(name: Path, folder: Path | None) -> Path:
    """Where a photo is: as the fits say, or in another folder."""
    return name if folder is None else folder / name.name


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, by its place in the file."""
    changes = {
        place: getattr(options, name)
        for name, place in _PLACES.items()
        if getattr(options, name) is not None
    }
    if options.start is not None:
        changes["start"] = str(options.start)  # a word or a path
    if options.tensorboard:
        changes["tensorboard"] = True
    if options.stage is not None:
        # What lies before the stage is computed once, so that crops can only be mirrored.
        still = ("turn", "scale_sigma", "shift_sigma", "cut", "channel_noise")
        changes |= {f"options.augment.{name}": 0.0 for name in still}
    if options.data is not None:
        changes["data"] = _sources(options)
    return changes


def _sources(options: argparse.Namespace) -> list[dict[str, Any]]:
    shares = options.share or [1.0] * len(options.data)
    if len(shares) != len(options.data):
        raise UsageError(
            f"--share: one per --data expected, got {len(shares)} for {len(options.data)}"
        )
    sources = []
    for path, share in zip(options.data, shares, strict=True):
        source: dict[str, Any] = {"path": path.absolute(), "share": share}
        if options.photos is not None:
            source["photos"] = options.photos.absolute()
        if options.labels is not None:
            source["labels"] = options.labels
        if options.sigma_mm is not None:
            source["sigma_mm"] = options.sigma_mm
        if options.all_fits:
            source["select"] = False
        sources.append(source)
    return sources
