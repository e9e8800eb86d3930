"""``eft-fast verify``: check an exported folder again, anywhere, without torch."""

from __future__ import annotations

import argparse

from eft_fast.cli.export_report import report_lines
from eft_fast.cli.options import add_runtime
from eft_fast.cli.output import emit
from eft_fast.cli.parser import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "verify",
        run,
        summary="check an exported regressor again, without torch",
        description=(
            "Run the samples that an export stored, compare with torch's stored answers, and check "
            "names, shapes, metadata and hashes; with the package onnx, the graph as well. Exit "
            "code 1 if anything differs."
        ),
        examples=["eft-fast verify exported", "eft-fast verify exported --provider cuda"],
    )
    parser.add_argument("folder", metavar="DIR", help="what eft-fast export wrote")
    add_runtime(parser)


def run(options: argparse.Namespace) -> int:
    """Verify and report."""
    from eft_fast.deploy.verify import verify_folder

    report = verify_folder(options.folder, provider=options.provider, threads=options.threads)
    lines = report_lines(report, options.folder)
    emit({"folder": options.folder, **report.to_dict()}, lines, as_json=options.json)
    return 0 if report.passed else 1
