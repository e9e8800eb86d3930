"""Entry point: parse, run one command, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from eft_fast.cli.output import UsageError

#: Command -> its module and the line that ``eft-fast --help`` shows.
COMMANDS: Final = {
    "demo": ("eft_fast.cli.demo", "fit the sample that ships with the package"),
    "fit": ("eft_fast.cli.fit", "fit bodies to the people of photos"),
    "eval": ("eft_fast.cli.eval", "measure methods on people whose truth is known"),
    "convert": ("eft_fast.cli.convert", "write fits in another format, or as meshes"),
    "report": ("eft_fast.cli.report", "draw fits over their photos again, with a report"),
    "view": ("eft_fast.cli.view", "write a page that shows fitted bodies in 3D"),
    "synth": ("eft_fast.cli.synth", "render people with their pose, shape, camera and keypoints"),
    "train": ("eft_fast.cli.train", "train the open regressor on rendered people"),
    "calibrate": ("eft_fast.cli.calibrate", "measure how wrong a regressor usually is, for map"),
    "export": ("eft_fast.cli.export", "write a regressor for ONNX Runtime and others, verified"),
    "verify": ("eft_fast.cli.verify", "check an exported regressor again, without torch"),
    "predict": ("eft_fast.cli.predict", "run an exported regressor on photos, without torch"),
    "bench": ("eft_fast.cli.bench", "measure speed beside the peers that are installed"),
    "doctor": ("eft_fast.cli.doctor", "say what is installed, what is missing, and what to do"),
}

EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    """Bad usage is one sentence on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0 on success, 1 on failure, 2 on bad usage or input.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(arguments)
        return int(options.run(options))
    except UsageError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except (ValueError, TypeError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        print(f"eft-fast: {_one_sentence(error)}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("eft-fast: interrupted", file=sys.stderr)
        return EXIT_FAILURE
    except (RuntimeError, OSError, ImportError) as error:
        print(f"eft-fast: {_one_sentence(error)}", file=sys.stderr)
        return EXIT_FAILURE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="eft-fast",
        description="Fit SMPL bodies to photos with 2D keypoints by exemplar fine-tuning.",
        epilog="example: eft-fast demo --out demo_out",
    )
    parser.add_argument("--version", action="version", version=f"eft-fast {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    # Only the module of the chosen command is imported: `eft-fast --help` needs no torch.
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module, help_line) in COMMANDS.items():
        if name == chosen:
            importlib.import_module(module).add_command(commands, name, help_line)
        else:
            commands.add_parser(name, help=help_line)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("a command is needed")
    return options


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("eft-fast")
    except PackageNotFoundError:
        return "(not installed)"


def _one_sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
