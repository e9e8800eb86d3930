"""What ``fit`` and ``demo`` share: the options of a fit, their checks, the run, its outputs."""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.choices import EFT_MODES, METHODS, NOISES, PRIORS, STARTS
from eft_fast.cli.options import (
    add_body,
    add_covariance,
    add_device,
    add_regressor,
    at_least,
    not_negative,
)
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.paths import check_body, check_file, check_regressor, find_covariance
from eft_fast.cli.people import People
from eft_fast.cli.signals import Signals
from eft_fast.data.values import shown
from eft_fast.eft.config import EftConfig
from eft_fast.map_fit.config import MapConfig
from eft_fast.smplify.config import SmplifyConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eft_fast.models.base import Regressor
    from eft_fast.pseudo_gt.jobs.plan import RunRecord, ShardPeople
    from eft_fast.result import FitResult

#: Option -> the methods that it means something to; the recipes of SMPLify are ``smplify``.
_TAKEN_BY: Final = {
    "mode": ("eft",),
    "slots": ("eft",),
    "covariance": ("eft", "map"),
    "keypoint_noise": ("eft", "map"),
    "prior": ("smplify",),
    "start": ("smplify",),
    "lr": ("eft", "smplify"),
    "max_steps": ("eft", "map", "smplify"),
    "threshold": ("eft", "smplify"),
}
#: Options that mean EFT where no method is named.
_OF_EFT: Final = ("mode", "slots", "lr", "max_steps", "threshold", "strict_reference")


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Options of a fit. Those of ``_TAKEN_BY`` are None unless they are given."""
    parser.add_argument(
        "--method",
        choices=METHODS,
        metavar="M",
        help=f"{', '.join(METHODS)}; default: map, and eft where an option of eft is given or the "
        f"usual error of the regressor is not known; smplify means {SmplifyConfig.recipe}, none "
        "the regressor alone",
    )
    parser.add_argument(
        "--mode",
        choices=EFT_MODES,
        metavar="M",
        help=f"of eft: what is tuned, {', '.join(EFT_MODES)} (default full)",
    )
    parser.add_argument(
        "--prior",
        choices=PRIORS,
        metavar="P",
        help=f"of smplify: {', '.join(PRIORS)} (default {SmplifyConfig.prior})",
    )
    parser.add_argument(
        "--start",
        choices=STARTS,
        metavar="S",
        help=f"of smplify: {', '.join(STARTS)}; default: as the recipe was published",
    )
    parser.add_argument("--lr", type=not_negative, metavar="X", help="learning rate of the fit")
    parser.add_argument("--max-steps", type=at_least(1), metavar="N", help="steps at most")
    parser.add_argument(
        "--threshold", type=not_negative, metavar="X", help="2D loss at which a fit has converged"
    )
    add_body(parser)
    add_regressor(parser)
    add_covariance(parser, of="of map and eft: ")
    parser.add_argument(
        "--keypoint-noise",
        metavar="NAME",
        help="of map and eft: where keypoints come from, and so how far off they are by their "
        "confidence: labels, detector, landmarks, movenet, or a file of eft-fast calibrate "
        "--keypoint-pairs; default: movenet without --annotations, else two levels",
    )
    add_device(parser)
    parser.add_argument(
        "--workers",
        type=at_least(1),
        metavar="N",
        help="processes on the CPU (default 1, and a process for each core where there are more "
        "than 64 people)",
    )
    parser.add_argument(
        "--slots",
        type=at_least(1),
        metavar="N",
        help="of eft: people fitted together; default: 1 on the CPU, what fits on a GPU",
    )
    parser.add_argument(
        "--strict-reference", action="store_true", help="repeat the reference's integer rounding"
    )
    parser.add_argument(
        "--focal",
        type=_focal,
        metavar="PX",
        help="full perspective: focal length of the photos, pixels, or 'diagonal' where nothing "
        "is known; default: the weak camera of the crop",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write no overlays")
    parser.add_argument(
        "--pictures", action="store_true", help="write overlays of more than 200 people, too"
    )


def check_fit_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together or is not there, before anything is loaded."""
    family = _family(options)
    got = f"got --method {options.method}" if options.method else "got no --method"
    for name, methods in _TAKEN_BY.items():
        is_open = family is None and "map" in methods
        if getattr(options, name) is not None and family not in methods and not is_open:
            raise UsageError(
                f"--{name.replace('_', '-')} goes with --method {' or '.join(methods)}, {got}; "
                "leave it out"
            )
    if options.slots is not None and (options.workers or 1) > 1:
        raise UsageError("--workers and --slots exclude each other; give one of them")
    if (options.workers or 1) > 1 and (options.device or "cpu") != "cpu":
        raise UsageError(f"--workers are for the CPU, got --device {options.device}; use --slots")
    check_regressor(options.regressor)
    check_body(options.body)
    if options.covariance is not None:
        check_file("--covariance", options.covariance)
    noise = options.keypoint_noise
    if noise is not None and noise not in NOISES and not Path(noise).is_file():
        raise UsageError(
            f"--keypoint-noise must be one of {', '.join(NOISES)}, or a file of eft-fast calibrate "
            f"--keypoint-pairs, got {noise}"
        )
    make_config(options, family or "map")
    if options.device not in (None, "cpu"):
        from eft_fast.ops import find_device

        find_device("fit", options.device)


def _family(options: argparse.Namespace) -> str | None:
    """The method that the options name or belong to; None: the regressor decides."""
    method: str | None = options.method
    if method is None:
        values = [getattr(options, name) for name in _OF_EFT]
        # A rate of 0 is given, too.
        return "eft" if any(value is not None and value is not False for value in values) else None
    return "smplify" if method.startswith("smplify") else method


def make_config(
    options: argparse.Namespace, method: str, *, noise: str | None = None
) -> EftConfig | SmplifyConfig | MapConfig:
    """The configuration that the options mean; what was not given keeps its default.

    Args:
        options: Of the command.
        method: That of the run.
        noise: Where the keypoints come from, see ``MapConfig.keypoint_noise``.
    """
    known: dict[str, Any] = {"covariance": find_covariance(options), "keypoint_noise": noise}
    if method == "map":
        return MapConfig(**known, **_given(options, "max_steps"))
    given = _given(options, "lr", "max_steps", "threshold")
    given["strict_reference"] = options.strict_reference
    if method.startswith("smplify"):
        return SmplifyConfig(**given, **_given(options, "prior", "start"))
    return EftConfig(**known, **given)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def fit_and_write(
    people: People, options: argparse.Namespace, out: Path, *, title: str | None = None
) -> int:
    """Fit, write the outputs into ``out``, print the summary."""
    if not len(people):
        raise UsageError(people.nobody())
    start = time.perf_counter()
    result = fit_people(people, options)
    seconds = time.perf_counter() - start
    return finish(result, people, options, out, seconds=seconds, title=title)


def finish(
    result: FitResult,
    people: People,
    options: argparse.Namespace,
    out: Path,
    *,
    seconds: float,
    fitted: int | None = None,
    title: str | None = None,
    record: RunRecord | None = None,
    run_file: str = "",
) -> int:
    """Write the outputs of a run, print the summary, return the exit code.

    Args:
        result: The fits of everybody.
        people: The people.
        options: Of the command.
        out: Folder of the run.
        seconds: Time of the fits.
        fitted: People who were fitted in that time; None: everybody who is done.
        title: Headline of the report.
        record: What the run is of, where it can be gone on with.
        run_file: Its options as TOML.
    """
    from eft_fast.cli.write import RunInfo, write_outputs

    done = sum(reason != "interrupted" for reason in result.stop_reason)
    fitted = done if fitted is None else fitted
    info = RunInfo(seconds, title, options, fitted, record, run_file)
    summary, lines = write_outputs(result, people, out, info)
    is_stopped = Signals.current().came
    if not (options.quiet or is_stopped):
        for sentence in (*people.problems, *(text for text in result.message if text)):
            note(f"note: {sentence}")
    if options.json or not is_stopped:
        emit(summary, lines, as_json=options.json)
    return 1 if all(reason in ("bad_image", "nan") for reason in result.stop_reason) else 0


def fit_people(
    people: People,
    options: argparse.Namespace,
    rows: Sequence[int] | None = None,
    method: str | None = None,
) -> FitResult:
    """Fit people in this process, or on ``--workers`` of it.

    Args:
        people: The people.
        options: Of the command.
        rows: Which of them; None: all.
        method: What the options mean, where that is known.
    """
    from eft_fast.api import fit_batch, load_body, load_regressor

    body = load_body(options.body, device=options.device)
    regressor = load_regressor(options.regressor, device=options.device)
    method = method or choose_method(options, regressor)
    rows = list(range(len(people)) if rows is None else rows)
    return fit_batch(
        [people.photos[row] for row in rows],
        people.keypoints[rows],
        bboxes=people.boxes[rows],
        joint_set=people.joint_set,
        method=method,
        mode=options.mode,
        regressor=regressor,
        body=body,
        config=make_config(options, method, noise=options.keypoint_noise or people.noise),
        workers=options.workers or 1,
        slots=options.slots,
        intrinsics=options.focal,
        progress=False if options.quiet else None,
    )


def choose_method(
    options: argparse.Namespace, regressor: Regressor, tell: Callable[[str], None] = note
) -> str:
    """The method that is named, or that which follows; what is warned of becomes a note."""
    from eft_fast.pipeline.dispatch import default_method

    method = options.method or _family(options)
    if method is not None:
        return str(method)
    if find_covariance(options) is not None:
        return "map"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        method = default_method(regressor)
    for each in told:
        if not options.quiet:
            tell(f"note: {each.message}")
    return str(method)


def people_of_run(held: ShardPeople, record: RunRecord) -> People:
    """The people of one shard with everything that is known of them."""
    return People(
        joint_set=held.joint_set,
        source=record.source,
        noise="detector" if record.key else None,
        photos=[Path(photo) for photo in held.photos],
        keypoints=held.keypoints,
        boxes=held.boxes,
        names=[shown(Path(photo).name) for photo in held.photos],
        ids=list(held.ids),
        problems=list(record.problems),
        left_out=dict(record.left_out),
        tracks=list(held.tracks) if record.has_tracks else [],
    )


def _focal(text: str) -> float | str:
    if text == "diagonal":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be pixels or diagonal, got {text}")
    return value
