"""What ``fit`` and ``demo`` share: the options of a fit, their checks, the run, its outputs."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eft_fast.cli.choices import EFT_MODES, METHODS, PRIORS, STARTS
from eft_fast.cli.options import add_body, add_device, add_regressor, at_least, not_negative
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.paths import check_body, check_regressor
from eft_fast.cli.people import People
from eft_fast.eft.config import EftConfig
from eft_fast.map_fit.config import MapConfig
from eft_fast.smplify.config import SmplifyConfig

if TYPE_CHECKING:
    from eft_fast.result import FitResult

#: Option -> the methods that it means something to; the recipes of SMPLify are ``smplify``.
_TAKEN_BY: Final = {
    "mode": ("eft",),
    "slots": ("eft",),
    "workers": ("eft", "none"),
    "prior": ("smplify",),
    "start": ("smplify",),
    "lr": ("eft", "smplify"),
    "max_steps": ("eft", "smplify"),
    "threshold": ("eft", "smplify"),
}


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Options of a fit. Those of ``_TAKEN_BY`` are None unless they are given."""
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="eft",
        metavar="M",
        help=f"{', '.join(METHODS)} (default eft); smplify means {SmplifyConfig.recipe}, none the "
        "regressor alone",
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
    add_device(parser)
    parser.add_argument(
        "--workers",
        type=at_least(1),
        metavar="N",
        help="of eft and none: processes on the CPU (default 1)",
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


def check_fit_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together or is not there, before anything is loaded."""
    family = _family(options.method)
    for name, methods in _TAKEN_BY.items():
        if getattr(options, name) is not None and family not in methods:
            raise UsageError(
                f"--{name.replace('_', '-')} goes with --method {' or '.join(methods)}, got "
                f"--method {options.method}; leave it out"
            )
    if options.slots is not None and (options.workers or 1) > 1:
        raise UsageError("--workers and --slots exclude each other; give one of them")
    if (options.workers or 1) > 1 and (options.device or "cpu") != "cpu":
        raise UsageError(f"--workers are for the CPU, got --device {options.device}; use --slots")
    check_regressor(options.regressor)
    check_body(options.body)
    make_config(options)
    if options.device not in (None, "cpu"):
        from eft_fast.ops import find_device

        find_device("fit", options.device)


def _family(method: str) -> str:
    return "smplify" if method.startswith("smplify") else method


def make_config(options: argparse.Namespace) -> EftConfig | SmplifyConfig | MapConfig:
    """The configuration that the options mean; what was not given keeps its default."""
    if options.method == "map":
        return MapConfig() if options.max_steps is None else MapConfig(max_steps=options.max_steps)
    names = ["lr", "max_steps", "threshold"]
    is_smplify = _family(options.method) == "smplify"
    names += ["prior", "start"] if is_smplify else []
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    kind = SmplifyConfig if is_smplify else EftConfig
    return kind(strict_reference=options.strict_reference, **given)


def fit_and_write(
    people: People, options: argparse.Namespace, out: Path, *, title: str | None = None
) -> int:
    """Fit, write the outputs into ``out``, print the summary."""
    from eft_fast.cli.write import RunInfo, write_outputs

    if not len(people):
        raise UsageError(people.nobody())
    start = time.perf_counter()
    result = _fit(people, options)
    info = RunInfo(seconds=time.perf_counter() - start, title=title, options=options)
    summary, lines = write_outputs(result, people, out, info)
    for sentence in (*people.problems, *(text for text in result.message if text)):
        if not options.quiet:
            note(f"note: {sentence}")
    emit(summary, lines, as_json=options.json)
    return 1 if all(reason in ("bad_image", "nan") for reason in result.stop_reason) else 0


def _fit(people: People, options: argparse.Namespace) -> FitResult:
    from eft_fast.api import fit_batch, load_body, load_regressor

    config = make_config(options)
    return fit_batch(
        people.photos,
        people.keypoints,
        bboxes=people.boxes,
        joint_set=people.joint_set,
        method=options.method,
        mode=options.mode or "full",
        regressor=load_regressor(options.regressor, device=options.device),
        body=load_body(options.body, device=options.device),
        config=config,
        workers=options.workers or 1,
        slots=options.slots,
        intrinsics=options.focal,
        progress=False if options.quiet else None,
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
