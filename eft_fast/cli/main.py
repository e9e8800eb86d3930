"""Entry point: parse, run one command, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from eft_fast.cli import (
    bench,
    calibrate,
    convert,
    data,
    demo,
    doctor,
    export,
    fit,
    motion,
    predict,
    report,
    review,
    synth,
    train,
    verify,
    view,
)
from eft_fast.cli import eval as evaluate
from eft_fast.cli.output import NO_TORCH, UsageError, note
from eft_fast.cli.parser import Parser, make_parser
from eft_fast.cli.signals import Signals

#: Modules of the commands, in the order of ``eft-fast --help``. Each has ``add(subparsers)``, which
#: registers its parser, and ``run(options)``. None imports torch before it runs.
COMMANDS: Final = (
    demo, fit, evaluate, data, convert, report, review, view, motion, synth, train, calibrate,
    export, verify, predict, bench, doctor,
)  # fmt: skip

EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2
_PROG: Final = "eft-fast"
#: What users cause, and can mend.
_INPUT_ERRORS: Final = (
    ValueError, TypeError, FileNotFoundError, NotADirectoryError, IsADirectoryError,
    PermissionError,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0 on success, 1 on failure, 2 on bad usage or input, 130 interrupted, 143 terminated.
    """
    try:
        options = make_program().parse_args(sys.argv[1:] if argv is None else argv)
        if options.command is None:
            raise UsageError(f"a command is needed (see {_PROG} --help)")
    except UsageError as error:
        note(f"{error.prog or _PROG}: {error}")
        return EXIT_USAGE
    with Signals() as signals:
        try:
            return signals.exit_code(_run(options), prog=options.prog)
        except KeyboardInterrupt:
            return signals.exit_code(EXIT_OK, prog=options.prog, is_interrupted=True)


def make_program() -> Parser:
    """The parser of the program with all its commands."""
    parser = make_parser(
        _PROG,
        "Fit SMPL bodies to photos with 2D keypoints by exemplar fine-tuning.",
        "eft-fast demo --out demo_out",
    )
    parser.add_argument("--version", action="version", version=f"{_PROG} {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for module in COMMANDS:
        module.add(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except UsageError as error:
        note(f"{error.prog or options.prog}: {error}")
        return EXIT_USAGE
    except _INPUT_ERRORS as error:
        note(f"{options.prog}: {_one_sentence(error)}")
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        needs_torch = error.name == "torch"
        note(f"{options.prog}: {NO_TORCH if needs_torch else _one_sentence(error)}")
        return EXIT_FAILURE
    except (RuntimeError, OSError, ImportError) as error:
        note(f"{options.prog}: {_one_sentence(error)}")
        return EXIT_FAILURE


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(_PROG)
    except PackageNotFoundError:
        return "(not installed)"


def _one_sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
