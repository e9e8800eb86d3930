"""AGORA: ``*_withjv.pkl``, a pickled table of pandas with a row per photo.

A row has ``imgPath`` and lists per person: ``gt_joints_2d`` (px of the 3840 x 2160 photos),
``gt_joints_3d`` (metres, camera frame), ``gender``, ``age``, ``kid``, ``occlusion``, ``isValid``,
``gt_path_smpl``. pandas is not needed: the table is read inertly, by stand-ins that store the
blocks of its columns. Text has to be objects, as in the published tables; tables that pandas 3 has
saved again keep it in Arrow, which is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast.data.readers.datasets3d.solid import (
    find_person,
    fit_pinhole,
    people_of_files,
    to_gender,
    with_confidence,
)
from eft_fast.pickles.arrays import load_plain

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

#: Size that the 2D joints are for.
SIZE: Final = (3840, 2160)
_SETS: Final = {24: "smpl24", 45: "smpl45"}
#: SMPL's 22 first joints are those of SMPL-X.
_SHARED: Final = 22


def samples_of_agora(reading: Reading, *, size: tuple[int, int] = SIZE) -> Iterator[Sample]:
    """Read one table, or all ``*_withjv.pkl`` of a folder.

    Joints are the 24 or 45 of SMPL; of SMPL-X the 22 of the body. The pinhole is told by the joints
    in space and in the picture. People who are not valid are left out and counted. The fitted SMPL
    parameters lie in files of their own, in the frame of the scene; ``extra`` names them.

    Args:
        reading: What is asked for.
        size: Width and height of the photos: (1280, 720) of the small ones.
    """
    path = reading.path
    files = [path] if path.is_file() else sorted(path.rglob("*_withjv.pkl"))
    if not files:
        raise FileNotFoundError(f"{reading.who}: no *_withjv.pkl in {path}")
    people = people_of_files(reading, files, lambda file: _people(file, reading, size))
    yield from reading.samples(people)


def _people(file: Path, reading: Reading, size: tuple[int, int]) -> Iterator[Found]:
    table = load_plain(file, reading.who, STAND_INS)
    if not isinstance(table, dict) or "imgPath" not in table:
        raise ValueError(f"{reading.who}: {file} must hold a table with imgPath")
    missing = [name for name in ("gt_joints_2d", "gt_joints_3d") if name not in table]
    if missing:
        raise ValueError(
            f"{reading.who}: {file} must hold {', '.join(missing)}; use the tables with joints, "
            "called *_withjv.pkl"
        )
    for row, photo in enumerate(table["imgPath"]):
        flat, solid = table["gt_joints_2d"][row], table["gt_joints_3d"][row]
        for person in range(len(flat)):
            if not _flag(table, "isValid", row, person):
                reading.left_out["not valid"] += 1
                continue
            yield _person(
                np.asarray(flat[person], np.float64),
                np.asarray(solid[person], np.float64),
                f"{Path(str(photo)).stem}_{person}",
                str(photo),
                size,
                _of_person(table, row, person),
            )


def _person(
    flat: np.ndarray,
    solid: np.ndarray,
    key: str,
    photo: str,
    size: tuple[int, int],
    about: dict[str, Any],
) -> Found:
    flat, solid = flat.reshape(-1, flat.shape[-1])[:, :2], solid.reshape(-1, 3)
    name = _SETS.get(len(flat), "smpl24")
    count = len(flat) if len(flat) in _SETS else _SHARED
    flat = flat * (size[0] / SIZE[0])
    points, space = np.zeros((45, 3)), np.zeros((45, 4))
    points[:count] = with_confidence(flat[:count])
    space[:count] = with_confidence(solid[:count])
    joints = 45 if name == "smpl45" else 24
    return find_person(
        key,
        points[:joints],
        name,
        photo=photo,
        size=size,
        keypoints_3d=space[:joints],
        K=fit_pinhole(solid[:count], flat[:count]),
        gender=to_gender(about.get("gender", "neutral")),
        extra=about,
    )


def _of_person(table: dict[str, list[Any]], row: int, person: int) -> dict[str, Any]:
    about = {}
    for name in ("gender", "age", "kid", "occlusion", "ethnicity", "gt_path_smpl", "gt_path_smplx"):
        values = table.get(name, [None] * (row + 1))[row]
        if isinstance(values, (list, np.ndarray)) and person < len(values):
            value = values[person]
            about[name] = (
                value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
            )
    return about


def _flag(table: dict[str, list[Any]], name: str, row: int, person: int) -> bool:
    """A flag of a person; what the table does not say holds."""
    values = table.get(name)
    if values is None or person >= len(values[row]):
        return True
    return bool(np.asarray(values[row][person]).reshape(-1)[0])


class _Frame:
    """Stands for ``pandas.DataFrame``: a dictionary of columns."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state

    def to_plain(self, convert: Callable[[Any], Any]) -> dict[str, list[Any]]:
        fields = self.state if isinstance(self.state, dict) else {}
        manager = fields.get("_mgr", fields.get("_data"))
        if not isinstance(manager, _Blocks):
            raise ValueError("a table of pandas without columns")
        return manager.columns(convert)


class _Blocks:
    """Stands for the manager of a table's blocks: arrays of columns, and what they are called."""

    def __init__(self, *arguments: Any) -> None:
        self.blocks: Any = arguments[0] if arguments else ()
        self.axes: Any = arguments[1] if len(arguments) > 1 else ()

    def set_state(self, state: Any) -> None:
        # Before version 1.3: (axes, values, items, {"0.14.1": {axes, blocks}}).
        parts = state if isinstance(state, (list, tuple)) else (state,)
        named = next((part for part in parts if isinstance(part, dict)), {})
        for version in named.values():
            self.axes = version["axes"]
            self.blocks = [
                _Block(block["values"], block["mgr_locs"]) for block in version["blocks"]
            ]

    def columns(self, convert: Callable[[Any], Any]) -> dict[str, list[Any]]:
        names = _listed(convert(self.axes[0]))
        found: dict[str, list[Any]] = {}
        for block in self.blocks:
            if not isinstance(block, _Block):
                raise ValueError("a block of pandas without values")
            places = block.places(convert)
            values = block.rows(convert, len(places))
            found |= {str(names[place]): row for place, row in zip(places, values, strict=True)}
        return found


class _Block:
    """Stands for a block of columns of one type: ``_unpickle_block(values, placement, ndim)``."""

    def __init__(self, values: Any, placement: Any = None, *_: Any) -> None:
        self.values, self.placement = values, placement

    def places(self, convert: Callable[[Any], Any]) -> list[int]:
        return [int(place) for place in _listed(convert(self.placement))]

    def rows(self, convert: Callable[[Any], Any], count: int) -> list[list[Any]]:
        """Values of each column, which is a row of a block."""
        values = convert(self.values)
        if isinstance(values, np.ndarray):
            return [list(row) for row in values.reshape(count, -1)]
        # numpy writes the items of a table of objects row by row, whatever its memory order.
        each = len(values) // max(count, 1)
        return [values[row * each : (row + 1) * each] for row in range(count)]


class _Index:
    """Stands for ``pandas.Index`` and its kin: ``_new_Index(class, {data, start, stop ...})``."""

    def __init__(self, *arguments: Any) -> None:
        self.given = arguments

    def set_state(self, state: Any) -> None:
        if not self.given:
            self.given = (None, state)

    def to_plain(self, convert: Callable[[Any], Any]) -> list[Any]:
        fields = next((part for part in self.given if isinstance(part, dict)), {})
        if "data" in fields:
            return _listed(convert(fields["data"]))
        if "stop" in fields:
            return list(range(fields.get("start", 0), fields["stop"], fields.get("step", 1)))
        return []


class _Slice:
    """Stands for ``slice``, by which a block says which columns it holds."""

    def __init__(self, *arguments: Any) -> None:
        self.given = arguments

    def to_plain(self, convert: Callable[[Any], Any]) -> list[int]:
        numbers = [None if part is None else int(part) for part in self.given]
        start, stop, step = (
            (*numbers, None, None, None)[:3] if len(numbers) > 1 else (0, *numbers, 1)
        )
        return list(range(start or 0, stop or 0, step or 1))


def _listed(value: Any) -> list[Any]:
    return value.reshape(-1).tolist() if isinstance(value, np.ndarray) else list(value)


#: What stands for the names in a pickled table, of of pandas 0.25 to 3.
STAND_INS: Final[Mapping[str, Callable[..., Any]]] = {
    "pandas.core.frame.DataFrame": _Frame,
    "pandas.DataFrame": _Frame,
    "pandas.core.internals.managers.BlockManager": _Blocks,
    "pandas._libs.internals._unpickle_block": _Block,
    "pandas.core.indexes.base._new_Index": _Index,
    "pandas.core.indexes.base.Index": _Index,
    "pandas.core.indexes.range.RangeIndex": _Index,
    "pandas.core.indexes.numeric.Int64Index": _Index,
    "pandas.RangeIndex": _Index,
    "pandas.Index": _Index,
    "builtins.slice": _Slice,
    "__builtin__.slice": _Slice,
}
