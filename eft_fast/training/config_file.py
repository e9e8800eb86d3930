"""Options of a training run in a TOML file, by the names of the dataclasses' fields."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from eft_fast.training.config import check_numbers
from eft_fast.training.label_run import FRESH, OPEN, LabelRun
from eft_fast.training.movenet_training import MoveNetTraining
from eft_fast.training.regressor import RegressorTraining

#: Stages that a run may consist of, in their order.
STAGES: Final = ("render", "head", "finetune", "evaluate")

#: What errors call the outermost table.
_FILE: Final = "the file"

_T = TypeVar("_T")


@dataclass(frozen=True)
class TrainingRun:
    """A recipe and how it is run.

    Attributes:
        recipe: What to train, and in which folder. With ``network = "open-2"`` in the file its
            fields are those of ``MoveNetTraining``, else of ``RegressorTraining``.
        stages: Which stages, of ``STAGES``.
        processes: Worker processes of the stage ``render``.
        threads: Threads of the others.
        device: Where the stage ``finetune`` computes: ``cpu``, ``cuda``, ...
        out: File to export the weights to in the form that ships, after the stages; None: nowhere.
        source_sha256: Hash of the trunk's source file; an export names it.
    """

    recipe: RegressorTraining | MoveNetTraining
    stages: tuple[str, ...] = STAGES
    processes: int = 1
    threads: int = 1
    device: str = "cpu"
    out: Path | None = None
    source_sha256: str = ""

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown:
            raise ValueError(f"train: stages must be of {', '.join(STAGES)}, got {unknown[0]!r}")
        if self.out is not None and not self.source_sha256:
            raise ValueError(
                f"train: an export needs the hash of the trunk's source file, got only out = "
                f"{self.out}; give source_sha256, too"
            )
        check_numbers(self, "train")
        _check_device(self.device)


@dataclass(frozen=True)
class OpenTraining(TrainingRun):
    """A run that makes ``open-1``."""

    recipe: RegressorTraining


@dataclass(frozen=True)
class MoveNetRun(TrainingRun):
    """A run that makes ``open-2``, whose trunk stays as it is."""

    recipe: MoveNetTraining
    stages: tuple[str, ...] = ("render", "head", "evaluate")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "finetune" in self.stages:
            raise ValueError(
                "train: open-2 has no stage finetune, its trunk stays as published; leave it out"
            )


#: Runs by the network that they make.
_RUNS: Final[Mapping[str, type[TrainingRun]]] = {"open-1": OpenTraining, "open-2": MoveNetRun}


def _check_device(device: str) -> None:
    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"train: device must be a name such as cpu or cuda:0, got {device!r}"
        ) from None


def load_run(path: str | Path, changes: Mapping[str, Any] | None = None) -> TrainingRun:
    """Read a run from a TOML file.

    The file holds ``stages``, ``threads`` and the other fields of ``TrainingRun``, and a table
    ``[recipe]`` with the fields of ``RegressorTraining``; ``[recipe.head]``,
    ``[recipe.synth.camera]`` and so on are the fields of the dataclasses in it. What is left out
    has its default. Paths count from the file's folder.

    Args:
        path: The file.
        changes: Options that win over the file, keyed by their place: ``"recipe.train": 500``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, or an option is unknown or of a wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"train: no file {path}")
    return run_from_table(_parse(path), path.parent, changes)


def run_from_table(
    table: Mapping[str, Any], folder: Path, changes: Mapping[str, Any] | None = None
) -> TrainingRun:
    """Make a run of nested tables; see ``load_run``."""
    merged = _merge(table, changes)
    network = merged.pop("network", "open-1")
    if network not in _RUNS:
        raise ValueError(f"train: network must be one of {', '.join(_RUNS)}, got {network!r}")
    return _fill(_RUNS[network], merged, _FILE, folder)


def network_of(path: str | Path) -> str:
    """Which network a file makes."""
    return str(_parse(Path(path)).get("network", "open-1"))


def is_label_run(path: str | Path) -> bool:
    """Whether a file is of a run on labelled photos: it has ``[[data]]``."""
    path = Path(path)
    return path.is_file() and "data" in _parse(path)


def load_label_run(path: str | Path | None, changes: Mapping[str, Any] | None = None) -> LabelRun:
    """Read a run on labelled photos from a TOML file, or make it of options alone.

    The file holds the fields of ``LabelRun``: ``work``, ``start`` and so on, one table ``[[data]]``
    per source, and ``[options]``, ``[options.augment]`` and ``[options.loss]``. What is left out
    has its default. Paths count from the file's folder.

    Args:
        path: The file; None: there is none.
        changes: As of ``load_run``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, or an option is unknown or of a wrong type.
    """
    table: Mapping[str, Any] = {}
    folder = Path()
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"train: no file {path}")
        table, folder = _parse(Path(path)), Path(path).parent
        start = table.get("start", OPEN)
        if isinstance(start, str) and start not in (OPEN, FRESH):
            table = {**table, "start": str(folder / start)}
    run = _fill(LabelRun, _merge(table, changes), _FILE, folder)
    _check_device(run.device)
    return run


def _merge(table: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Tables of a file with the options that win over them."""
    merged = _copy(table)
    for place, value in (changes or {}).items():
        target = merged
        *parents, name = place.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        # Paths of the command line count from where the command runs.
        target[name] = value.absolute() if isinstance(value, Path) else value
    return merged


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"train: {path} must be a TOML file ({error})") from error


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in table.items()}


def _fill(kind: type[_T], table: Mapping[str, Any], where: str, folder: Path) -> _T:
    """Make a dataclass of a table, and of the tables in it."""
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise ValueError(
                f"train: {where} has no option {name!r}; expected one of {', '.join(known)}"
            )
    prefix = "" if where == _FILE else f"{where}."
    values = {
        name: _convert(hints[name], value, prefix + name, folder) for name, value in table.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"train: {where} is incomplete ({error})") from error


def _convert(hint: Any, value: Any, where: str, folder: Path) -> Any:
    """Bring a TOML value to the type of a field."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"train: {where} must be a table, got {value!r}")
        return _fill(typing.cast(type[Any], hint), value, where, folder)
    if hint is Path and isinstance(value, str | Path):
        if "\0" in str(value):
            raise ValueError(f"train: {where} must be a path, got one with a zero byte")
        return folder / value
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        kinds = typing.get_args(hint)
        several = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else list(kinds)
        if len(several) == len(value):
            pairs = zip(several, value, strict=True)
            return tuple(_convert(kind, item, where, folder) for kind, item in pairs)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ValueError(f"train: {where} must be of type {name}, got {value!r}")
