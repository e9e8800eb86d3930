"""``eft-fast verify``: check an exported folder again, anywhere, without torch."""

from __future__ import annotations

import argparse
from typing import Any

from eft_fast.cli.export import report_lines
from eft_fast.cli.output import add_common_options, emit


def add_command(commands: Any, name: str, help_line: str) -> None:
    """Register the command."""
    parser = commands.add_parser(
        name,
        help=help_line,
        description=(
            "Run the samples that an export stored, compare with torch's stored answers, and check "
            "names, shapes, metadata and hashes; with the package onnx, the graph as well. Exit "
            "code 1 if anything differs."
        ),
        epilog="example: eft-fast verify exported --provider cuda",
    )
    parser.add_argument("folder", metavar="DIR", help="what eft-fast export wrote")
    add_runtime_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Options of everything that runs an exported model."""
    parser.add_argument(
        "--provider",
        default="auto",
        help="auto, cpu, cuda, tensorrt or openvino; a named one runs or the command fails",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="on the CPU; default: all that may be used"
    )


def run(options: argparse.Namespace) -> int:
    """Verify and report."""
    from eft_fast.deploy.verify import verify_folder

    report = verify_folder(options.folder, provider=options.provider, threads=options.threads)
    lines = report_lines(report, options.folder)
    emit({"folder": options.folder, **report.to_dict()}, lines, as_json=options.json)
    return 0 if report.passed else 1
