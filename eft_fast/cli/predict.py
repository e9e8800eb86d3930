"""``eft-fast predict``: an exported regressor on photos, without torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eft_fast.cli.options import add_photos, add_runtime, at_least
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_annotations, is_one_folder, output_file


@dataclass
class _Someone:
    """People to predict: a photo, its box (NaN: the whole photo) and a name for each."""

    photos: list[Path] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "predict",
        run,
        summary="run an exported regressor on photos, without torch",
        description=(
            "Predict bodies with an exported regressor. Needs no torch. Without --box or "
            "--annotations each photo shows one person and is taken as a whole."
        ),
        examples=["eft-fast predict skater.jpg --box 30 40 200 380 --model exported"],
    )
    add_photos(parser)
    parser.add_argument("--model", required=True, metavar="DIR", help="what eft-fast export wrote")
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X", "Y", "W", "H"),
        help="the person's box in pixels, the same in every photo",
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="boxes from COCO or OpenPose keypoints"
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        default=32,
        metavar="N",
        help="crops at once (default 32)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions.npz"),
        metavar="FILE",
        help="file to write (default predictions.npz)",
    )
    add_runtime(parser)


def run(options: argparse.Namespace) -> int:
    """Predict, write, print."""
    if options.box is not None and options.annotations is not None:
        raise UsageError("give --box or --annotations, not both")
    if options.annotations is not None:
        check_annotations(options.annotations)
    people = _gather(options)
    if not people.photos:
        why = people.problems[0] if people.problems else "the annotations name nobody"
        raise UsageError(f"nobody to predict: {why}")
    with output_file(options.out) as out:
        return _predict(options, people, out)


def _predict(options: argparse.Namespace, people: _Someone, out: Path) -> int:
    from eft_fast.serving import Predictor

    predictor = Predictor(
        options.model,
        provider=options.provider,
        threads=options.threads,
        batch_size=options.batch_size,
    )
    start = time.perf_counter()
    prediction = predictor(people.photos, people.boxes)
    seconds = time.perf_counter() - start
    prediction.save(out)
    failed = [text for text in prediction.message if text]
    for sentence in (*people.problems, *failed):
        if not options.quiet:
            note(f"note: {sentence}")
    summary = {
        "people": len(prediction),
        "failed": len(failed),
        "provider": predictor.session.provider,
        "regressor": predictor.card.regressor,
        "seconds": seconds,
        "people_per_second": len(prediction) / seconds,
        "out": str(out),
        "problems": people.problems + failed,
        "predictions": _rows(people, prediction),
    }
    lines = [
        f"{len(prediction) - len(failed)} of {len(prediction)} people in {seconds:.2f} s on "
        f"{predictor.session.provider} ({summary['people_per_second']:.1f} per second)",
        f"wrote {out}",
    ]
    emit(summary, lines, as_json=options.json)
    return 1 if len(failed) == len(prediction) else 0


def _gather(options: argparse.Namespace) -> _Someone:
    from eft_fast.data import list_photos

    if options.annotations is None:
        photos = list_photos(options.photos)
        box = [np.nan] * 4 if options.box is None else options.box
        return _Someone(photos, [box] * len(photos), ["0"] * len(photos))
    from eft_fast.cli.people import people_from_annotations
    from eft_fast.imaging import keypoints_to_box

    photos = options.photos
    where = photos[0] if is_one_folder(photos) else list_photos(photos)
    found = people_from_annotations(options.annotations, where, min_keypoints=1, min_area=0.0)
    people = _Someone(problems=list(found.problems))
    for photo, box, points, who in zip(
        found.photos, found.boxes, found.keypoints, found.ids, strict=True
    ):
        people.photos.append(photo)
        has_area = np.isfinite(box).all() and box[2:].min() > 0
        people.boxes.append(list(box if has_area else keypoints_to_box(points)))
        people.ids.append(who)
    return people


def _rows(people: _Someone, prediction: Any) -> list[dict[str, Any]]:
    return [
        {
            "photo": str(photo),
            "id": who,
            "betas": [float(value) for value in prediction.betas[row]],
            "cam": [float(value) for value in prediction.cam[row]],
            "message": prediction.message[row],
        }
        for row, (photo, who) in enumerate(zip(people.photos, people.ids, strict=True))
    ]
