"""``eft-fast predict``: an exported regressor on photos, without torch."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eft_fast.cli.choices import ALL_JOINT_SETS
from eft_fast.cli.options import add_photos, add_runtime, at_least
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.parser import Subparsers, add_command
from eft_fast.cli.paths import check_annotations, is_one_folder, output_file

if TYPE_CHECKING:
    from eft_fast.serving import PhotoFits, PhotoPredictions, Predictor


@dataclass
class _Someone:
    """People to predict: a photo, its box (NaN: the whole photo) and a name for each.

    With ``--keypoints`` or ``--find --fit``, their keypoints, the order of these, and how far off
    they are as well.
    """

    photos: list[Path] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    keypoints: Any = None
    joint_set: str = ""
    noise: Any = None


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "predict",
        run,
        summary="run an exported regressor on photos, or fit bodies with it, without torch",
        description=(
            "Predict bodies with an exported regressor, and fit them to keypoints with "
            "--keypoints or --fit. Needs no torch. With --find the detector of the export finds "
            "the people; without --find, --box, --annotations or --keypoints each photo shows one "
            "person and is taken as a whole."
        ),
        examples=[
            "eft-fast predict skater.jpg --box 30 40 200 380 --model exported",
            "eft-fast predict photos/ --find --fit --model exported",
            "eft-fast predict photos/ --keypoints person_keypoints.json --model exported",
        ],
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
        "--keypoints",
        metavar="FILE",
        help="fit to the keypoints of this file, COCO or OpenPose; its boxes count as well",
    )
    parser.add_argument(
        "--find",
        action="store_true",
        help="find the people; the export must have been made with --detector",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="of --find: fit to the keypoints that the detector finds",
    )
    parser.add_argument(
        "--joint-set",
        choices=ALL_JOINT_SETS,
        metavar="SET",
        help="of --keypoints: order of the keypoints, where the file does not say it",
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
    """Predict or fit, write, print."""
    given = [name for name in ("find", "box", "annotations", "keypoints") if getattr(options, name)]
    if len(given) > 1:
        raise UsageError(f"give {' or '.join(f'--{name}' for name in given)}, not both")
    if options.joint_set is not None and options.keypoints is None:
        raise UsageError("--joint-set goes with --keypoints; leave it out")
    if options.fit and not options.find:
        raise UsageError(
            "--fit goes with --find; to fit to keypoints of a file, give them with --keypoints"
        )
    if options.annotations is not None:
        check_annotations(options.annotations)
    if options.keypoints is not None:
        check_annotations(options.keypoints, "--keypoints")
    if options.find:
        people = _Someone()  # known when the model is open
    else:
        people = _gather(options)
        _check_somebody(people)
    with output_file(options.out) as out:
        return _predict(options, people, out)


def _check_somebody(people: _Someone) -> None:
    if not people.photos:
        why = people.problems[0] if people.problems else "the annotations name nobody"
        raise UsageError(f"nobody to predict: {why}")


def _predict(options: argparse.Namespace, people: _Someone, out: Path) -> int:
    from eft_fast.map_fit.config import MapConfig
    from eft_fast.serving import Predictor

    photos = _photos_to_search(options) if options.find else []
    predictor = Predictor(
        options.model,
        provider=options.provider,
        threads=options.threads,
        batch_size=options.batch_size,
    )
    start = time.perf_counter()
    if options.find:
        people = _find(options, predictor, photos)
        _check_somebody(people)
    prediction: PhotoFits | PhotoPredictions
    if people.keypoints is None:
        prediction = predictor(people.photos, people.boxes)
    else:
        prediction = predictor.fit(
            people.photos,
            people.keypoints,
            people.boxes,
            joint_set=people.joint_set,
            config=MapConfig(keypoint_noise=people.noise),
        )
    seconds = time.perf_counter() - start
    prediction.save(out)
    told = [text for text in prediction.message if text]
    failed = int(np.isnan(prediction.betas).any(1).sum())
    for sentence in (*people.problems, *told):
        if not options.quiet:
            note(f"note: {sentence}")
    summary = {
        "people": len(prediction),
        "failed": failed,
        "provider": predictor.session.provider,
        "regressor": predictor.card.regressor,
        "seconds": seconds,
        "people_per_second": len(prediction) / seconds,
        "out": str(out),
        "problems": people.problems + told,
        "predictions": _rows(people, prediction),
    }
    if people.keypoints is not None:
        summary |= _fit_summary(prediction)
    lines = [
        f"{len(prediction) - failed} of {len(prediction)} people in {seconds:.2f} s on "
        f"{predictor.session.provider} ({summary['people_per_second']:.1f} per second)",
        f"wrote {out}",
    ]
    if people.keypoints is not None:
        lines.insert(
            1,
            f"mean keypoint error {summary['init_kp_error_px']:.1f} px before, "
            f"{summary['kp_error_px']:.1f} px after the fit",
        )
    emit(summary, lines, as_json=options.json)
    return 1 if failed == len(prediction) else 0


def _fit_summary(fits: Any) -> dict[str, Any]:
    """Errors and reasons of a run, under the names of ``eft-fast fit``."""
    known = np.isfinite(fits.kp_error_px)
    errors = {
        name: float(getattr(fits, name)[known].mean()) if known.any() else float("nan")
        for name in ("init_kp_error_px", "kp_error_px")
    }
    return {**errors, "stop_reasons": dict(Counter(fits.stop_reason))}


def _photos_to_search(options: argparse.Namespace) -> list[Path]:
    from eft_fast.data import list_photos

    return list_photos(options.photos)


def _find(options: argparse.Namespace, predictor: Predictor, photos: list[Path]) -> _Someone:
    """The people whom the detector finds; their keypoints only if somebody is to be fitted."""
    found = predictor.find(photos)
    people = _Someone(problems=[text for text in found.message if text])
    crowd: Counter[int] = Counter()
    for index, box in zip(found.photo_index.tolist(), found.boxes, strict=True):
        people.photos.append(photos[index])
        people.boxes.append(box)
        people.ids.append(str(crowd[index]))
        crowd[index] += 1
    for index, (photo, message) in enumerate(zip(photos, found.message, strict=True)):
        if not (crowd[index] or message):
            people.problems.append(f"detector: no person was found in {photo.name}")
    if options.fit:
        people.keypoints, people.joint_set = found.keypoints, predictor.finder.card.joint_set
        people.noise = found.noise
    return people


def _gather(options: argparse.Namespace) -> _Someone:
    from eft_fast.data import list_photos

    file = options.annotations or options.keypoints
    if file is None:
        photos = list_photos(options.photos)
        box = [np.nan] * 4 if options.box is None else options.box
        return _Someone(photos, [box] * len(photos), ["0"] * len(photos))
    from eft_fast.cli.people import people_from_annotations
    from eft_fast.imaging import keypoints_to_box

    photos = options.photos
    where = photos[0] if is_one_folder(photos) else list_photos(photos)
    found = people_from_annotations(
        file, where, min_keypoints=1, min_area=0.0, joint_set=options.joint_set
    )
    people = _Someone(problems=list(found.problems))
    if options.keypoints is not None:
        people.keypoints, people.joint_set = found.keypoints, found.joint_set
    for photo, box, points, who in zip(
        found.photos, found.boxes, found.keypoints, found.ids, strict=True
    ):
        people.photos.append(photo)
        has_area = np.isfinite(box).all() and box[2:].min() > 0
        people.boxes.append(list(box if has_area else keypoints_to_box(points)))
        people.ids.append(who)
    return people


def _rows(people: _Someone, prediction: Any) -> list[dict[str, Any]]:
    names = ("kp_error_px", "init_kp_error_px", "tension") if people.keypoints is not None else ()
    rows = [
        {
            "photo": str(photo),
            "id": who,
            "betas": [float(value) for value in prediction.betas[row]],
            "cam": [float(value) for value in prediction.cam[row]],
            "message": prediction.message[row],
        }
        for row, (photo, who) in enumerate(zip(people.photos, people.ids, strict=True))
    ]
    for row, each in enumerate(rows):
        each |= {name: float(getattr(prediction, name)[row]) for name in names}
        if names:
            each["stop_reason"] = prediction.stop_reason[row]
    return rows
