"""A run as a TOML file: the options of ``fit`` by name, ``--max-steps`` as ``max_steps``.

A file is read as if its options stood before those of the command line, which therefore win.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eft_fast.cli.choices import REGRESSORS
from eft_fast.cli.output import UsageError
from eft_fast.cli.parser import Parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN_FILE: Final = "run.toml"
#: Of the command line alone: how a command talks, and what it does with a run that is there.
_NOT_OF_A_RUN: Final = {
    "help", "run", "prog", "command", "json", "quiet", "config", "restart", "run_file",
}  # fmt: skip
#: Options that are paths, which count from the folder of the file.
_PATHS: Final = ("photos", "annotations", "body", "regressor", "covariance", "out")


def add_run_file(parser: Parser) -> None:
    """The option that names such a file."""
    parser.read_file = to_arguments
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with any of these options by name, such as max_steps = 20 or photos = "
        '["photos"]; what the command line says wins. A run keeps its own as DIR/run.toml',
    )


def to_run_file(options: argparse.Namespace) -> str:
    """The options as such a file, with absolute paths."""
    lines = ["# The options of a run; eft-fast fit --config FILE repeats it, or goes on with it."]
    for name, value in vars(options).items():
        if name in _NOT_OF_A_RUN or value is None or value is False or value == []:
            continue
        if isinstance(value, list):
            text = f"[{', '.join(_text(name, item) for item in value)}]"
        else:
            text = _text(name, value)
        lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"


def to_arguments(path: str, *, has_photos: bool) -> list[str]:
    """The command line that a file stands for.

    Args:
        path: The file.
        has_photos: Whether photos are named already; those of the file are then left out.

    Raises:
        UsageError: If it is no such file.
    """
    file = Path(path)
    if not file.is_file():  # ``fit`` says so when it runs
        return []
    try:
        table: Mapping[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config must be a TOML file ({error}): {path}") from None
    arguments: list[str] = []
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in _NOT_OF_A_RUN or isinstance(value, dict):
            raise UsageError(f"--config: {key} is no option of a run, in {path}")
        if name == "photos":
            photos = value if isinstance(value, list) else [value]
            arguments += [] if has_photos else [_found(each, file.parent) for each in photos]
            continue
        option = f"--{name.replace('_', '-')}"
        if value is False:
            continue
        if value is True:
            arguments.append(option)
        elif isinstance(value, str | int | float):
            text = _found(value, file.parent) if name in _PATHS else str(value)
            # In one piece, so that a value may begin with a dash.
            arguments.append(f"{option}={text}")
        else:
            raise UsageError(f"--config: {key} must be one value, got {value!r} in {path}")
    return arguments


def _found(value: Any, folder: Path) -> str:
    """A path of the file; names such as ``open-2`` and ``coco:people.json`` stay what they are."""
    text = str(value)
    prefix, colon, rest = text.partition(":")
    if colon and not (folder / text).exists() and (folder / rest).exists():
        return f"{prefix}:{folder / rest}"
    if text in REGRESSORS or (colon and not os.path.isabs(text)):
        return text
    return str(folder / text)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    if name in _PATHS and text not in REGRESSORS:
        prefix, colon, rest = text.partition(":")
        if os.path.exists(text) or not colon:
            text = os.path.abspath(text)
        elif os.path.exists(rest):
            text = f"{prefix}:{os.path.abspath(rest)}"
    # JSON's texts are TOML's, except for lone surrogates, which neither can say.
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
