"""Options that several commands share, and the values that numbers may have."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from eft_fast.cli.choices import PROVIDERS, SCENES


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """The ``type`` of an option that takes a whole number of that size."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < least or (most is not None and value > most):
            limit = f"at least {least}" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"must be {limit}, got {value}")
        return value

    return parse


def not_negative(text: str) -> float:
    """The ``type`` of an option that takes a number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, got {text}")
    return value


def positive(text: str) -> float:
    """The ``type`` of an option that takes a number above 0."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0, got 0")
    return value


def share(text: str) -> float:
    """The ``type`` of an option that takes a number from 0 to 1."""
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be at most 1, got {text}")
    return value


def device_name(text: str) -> str:
    """The ``type`` of an option that takes a device; whether it is there is asked later."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return text


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument(
        "--device", type=device_name, metavar="D", help="cpu, cuda, cuda:1 ... (default cpu)"
    )


def add_regressor(parser: argparse.ArgumentParser) -> None:
    """Whose answer fits start from."""
    parser.add_argument(
        "--regressor",
        default="open",
        metavar="R",
        help="open (open-1), open-2, open-2-lite, weights of an open regressor, or a SPIN or EFT "
        "checkpoint (default open)",
    )


def add_body(parser: argparse.ArgumentParser, *, of: str = "") -> None:
    """Which body model; ``of`` says of what it is."""
    help_line = f"{of}open, or a licensed SMPL .pkl or .npz (default open)"
    parser.add_argument("--body", default="open", metavar="B", help=help_line)


def add_covariance(parser: argparse.ArgumentParser, *, of: str) -> None:
    """How wrong the regressor usually is; ``of`` says what needs it."""
    parser.add_argument(
        "--covariance",
        metavar="FILE",
        help=f"{of}the usual error of --regressor, as eft-fast calibrate writes it; default: the "
        "file R.error_covariance.npz beside R, if there is one",
    )


def add_photos(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    """Photos, wherever they are."""
    parser.add_argument(
        "photos", nargs=nargs, type=Path, metavar="PHOTOS", help="files or folders of photos"
    )


def add_render_sources(parser: argparse.ArgumentParser) -> None:
    """What rendered people are made of; ``paths.check_render_sources`` checks it."""
    parser.add_argument(
        "--motion",
        type=Path,
        metavar="DIR",
        help="folder that eft-fast motion convert wrote; without it poses come from the pose prior",
    )
    parser.add_argument(
        "--backgrounds", type=Path, metavar="DIR", help="folder of photographs, if any"
    )


def add_scenes(parser: argparse.ArgumentParser, *, default: str) -> None:
    """The kind of rendered scenes, for ``synth.config.make_scenes``."""
    parser.add_argument(
        "--scenes",
        choices=SCENES,
        default=default,
        help="training: as open-1 was trained on; varied: with floors, seats, children, loose "
        "clothes and lying people; the others: everybody stands, sits or crouches, lies, is rolled "
        f"by any angle, is a child (default {default})",
    )


def add_out_folder(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The folder to write; it has to be given where there is no default."""
    parser.add_argument(
        "--out",
        type=Path,
        default=default and Path(default),
        required=default is None,
        metavar="DIR",
        help="folder to write" + (f" (default {default})" if default else ""),
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Where an exported model runs."""
    parser.add_argument(
        "--provider",
        choices=PROVIDERS,
        default="auto",
        metavar="P",
        help=f"{', '.join(PROVIDERS)}; a named one runs or the command fails (default auto)",
    )
    parser.add_argument(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="on the CPU; default: all that may be used",
    )
