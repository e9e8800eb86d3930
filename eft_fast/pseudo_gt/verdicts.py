"""What somebody said of fits after looking at them: a JSON beside the fits.

::

    {"format": "eft-fast-selection/1",
     "people": {"183020": "reject", "183111": {"verdict": "keep", "note": "hidden leg is right"}}}

People go by their id in the annotation file. Where an id is there more than once in a run (a person
number that starts again in every photo), the name of the photo stands before it: ``000012.jpg:1``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

from eft_fast.data.values import load_json, shown
from eft_fast.files import write_text
from eft_fast.pseudo_gt.select import KEEP, REJECT

#: Name of the file in the folder of a run.
SELECTION: Final = "selection.json"
FORMAT: Final = "eft-fast-selection/1"
_WHO: Final = "load_verdicts"


@dataclass(frozen=True)
class Verdict:
    """What somebody said of one person.

    Attributes:
        verdict: ``keep`` or ``reject``.
        note: Why; empty if nothing was said.
    """

    verdict: str
    note: str = ""


def person_keys(photos: Sequence[str], ids: Sequence[str], count: int) -> list[str]:
    """What each person is called in the file: unique in a run.

    Args:
        photos: Photo of each person; empty where no names are known.
        ids: Annotation of each; empty where none is known.
        count: How many people there are.
    """
    names = [str(name) for name in ids] or [""] * count
    files = [PurePath(photo).name for photo in photos] or [""] * count
    keys = [name or f"person {row + 1}" for row, name in enumerate(names)]
    for lead in (files, list(map(str, photos)) or files):
        several = Counter(keys)
        keys = [
            f"{file}:{name or row + 1}" if several[key] > 1 and file else key
            for row, (key, file, name) in enumerate(zip(keys, lead, names, strict=True))
        ]
    several = Counter(keys)
    return [f"{key}#{row + 1}" if several[key] > 1 else key for row, key in enumerate(keys)]


def load_verdicts(path: str | Path) -> dict[str, Verdict]:
    """Read a file of verdicts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, or a verdict is neither ``keep`` nor ``reject``.
    """
    path = Path(path)
    document = load_json(path, _WHO)
    people = document.get("people") if isinstance(document, dict) else None
    if not isinstance(people, dict) or document.get("format") != FORMAT:
        raise ValueError(
            f'{_WHO}: {path} must hold {{"format": "{FORMAT}", "people": {{id: verdict}}}}'
        )
    return {str(key): _to_verdict(key, value, path) for key, value in people.items()}


def _to_verdict(key: str, value: Any, path: Path) -> Verdict:
    given = value.get("verdict") if isinstance(value, dict) else value
    if given not in (KEEP, REJECT):
        raise ValueError(
            f"{_WHO}: the verdict on {shown(key)} in {path} must be {KEEP} or {REJECT}, got "
            f"{shown(given)}"
        )
    note = value.get("note", "") if isinstance(value, dict) else ""
    return Verdict(given, note if isinstance(note, str) else "")


def save_verdicts(path: str | Path, verdicts: Mapping[str, Verdict]) -> Path:
    """Write a file of verdicts, in the order of the mapping."""
    path = Path(path)
    people = {
        key: {"verdict": one.verdict, "note": one.note} if one.note else one.verdict
        for key, one in verdicts.items()
    }
    text = json.dumps({"format": FORMAT, "people": people}, indent=1, ensure_ascii=False)
    write_text(path, text + "\n")
    return path


def verdicts_of(
    keys: Sequence[str], verdicts: Mapping[str, Verdict]
) -> tuple[list[str | None], list[str]]:
    """What was said of each person of a run, and the ids in the file that the run does not have."""
    found = [verdicts[key].verdict if key in verdicts else None for key in keys]
    known = set(keys)
    return found, [key for key in verdicts if key not in known]
