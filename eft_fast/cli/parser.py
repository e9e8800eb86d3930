"""The parser of every command: one sentence per mistake, with a guess at what was meant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from eft_fast.cli.output import UsageError
from eft_fast.errors import did_you_mean, expected_name


class Parser(argparse.ArgumentParser):
    """Raises ``UsageError`` where argparse would print its usage and exit.

    Attributes:
        read_file: Turns the file of ``--config`` into arguments, in commands that take one.
    """

    read_file: Callable[..., list[str]] | None = None

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as one sentence."""
        message = re.sub(r"^argument (\S+): must", r"\1 must", message)
        raise UsageError(f"{message} (see {self.prog} --help)", self.prog)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what no option takes: here its command and options are known."""
        options, extra = super().parse_known_args(args, namespace)
        if self.read_file is not None and not extra and getattr(options, "config", None):
            given = sys.argv[1:] if args is None else list(args)
            more = self.read_file(options.config, has_photos=bool(options.photos))
            # The last word wins: that of the command line.
            options, extra = super().parse_known_args([*more, *given], namespace)
        if extra and not extra[0].startswith("-"):
            self.error(f"unexpected argument {extra[0]!r}")
        if extra:
            name = extra[0].partition("=")[0]
            self.error(f"no option {name}{did_you_mean(name, self._option_string_actions)}")
        return options, extra

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the choices, and the closest one. Commands are choices, too."""
        if action.choices is None or value in action.choices:
            return
        name = action.option_strings[0] if action.option_strings else action.metavar
        self.error(f"{name} {expected_name(value, (str(each) for each in action.choices))}")


class _Help(argparse.HelpFormatter):
    """Wraps text, but not the examples, which are to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(
            line if line.startswith("example: ") else fill(line, width, indent)
            for line in text.splitlines()
        )


#: What ``add`` of a command is given: the parsers of its siblings.
Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
Run: TypeAlias = Callable[[argparse.Namespace], int]


def make_parser(prog: str, description: str, example: str) -> Parser:
    """The parser of the program itself."""
    return Parser(
        prog=prog,
        description=description,
        epilog=f"example: {example}",
        formatter_class=_Help,
        allow_abbrev=False,
    )


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Run,
    *,
    summary: str,
    description: str,
    examples: Sequence[str],
) -> Parser:
    """Register a command with the options that all have.

    Args:
        subparsers: What ``add`` of the command was given.
        name: What users type.
        run: Takes the parsed options, does the work and returns the exit code.
        summary: The line in the list of commands.
        description: What ``--help`` says above the options.
        examples: Command lines that work as they are, or with the user's own paths.

    Returns:
        Its parser, for its own options.
    """
    parser: Parser = _add_parser(subparsers, name, summary, description, examples)
    parser.set_defaults(run=run, prog=parser.prog)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="print one machine-readable line on stdout"
    )
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def add_group(
    subparsers: Subparsers,
    name: str,
    *,
    metavar: str,
    summary: str,
    description: str,
    examples: Sequence[str],
) -> Subparsers:
    """Register a command that has commands of its own; ``metavar`` is what they are called."""
    parser = _add_parser(subparsers, name, summary, description, examples)
    return parser.add_subparsers(
        dest=metavar.lower(), metavar=metavar, required=True, parser_class=Parser
    )


def _add_parser(
    subparsers: Subparsers, name: str, summary: str, description: str, examples: Sequence[str]
) -> Parser:
    parser: Parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog="\n".join(f"example: {line}" for line in examples),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    return parser
