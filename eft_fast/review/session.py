"""What somebody changes of a run, and what becomes of it.

Everything is written into the folder ``review`` of the run: ``edits.json`` and ``selection.json``
after each change, ``fits.npz`` (the run with the people that were fitted again) when the session is
saved. The run's own files stay as they are. ::

    {"format": "eft-fast-review/1", "run_id": "...",
     "people": {"183020": {"keypoints": {"lwri": [201.5, 88, 1]}, "flips": ["left_forearm"]}}}

A keypoint of confidence 0 was taken away.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast import imaging
from eft_fast.errors import unknown_name
from eft_fast.files import write_text
from eft_fast.folders import replaced_files
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.refit import Refit, Refitter
from eft_fast.map_rules import BONES
from eft_fast.pseudo_gt import Verdict, load_verdicts, save_verdicts, select_fits
from eft_fast.pseudo_gt.select import KEEP, NEVER, REJECT
from eft_fast.pseudo_gt.verdicts import SELECTION
from eft_fast.result import FitResult

#: Folder of a run that a review writes.
REVIEW: Final = "review"
FITS: Final = "fits.npz"
EDITS: Final = "edits.json"
FORMAT: Final = "eft-fast-review/1"
#: Bones whose depth can be chosen, by the names of the page, in the order of ``BONES``.
FLIPS: Final = tuple(
    f"{side}_{bone}"
    for side in ("left", "right")
    for bone in ("upper_arm", "forearm", "thigh", "shank")
)
_BONE_OF: Final = dict(zip(FLIPS, BONES, strict=True))
_WHO: Final = "review"
#: Photos that are kept.
_KEPT: Final = 8


@dataclass
class Edit:
    """What was changed of one person.

    Attributes:
        keypoints: Place to x, y in photo pixels and confidence.
        flips: Bones mirrored in depth, of ``FLIPS``.
    """

    keypoints: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    flips: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.keypoints or self.flips)


class ReviewSession:
    """A run under review. Not for several threads at once: the server takes turns.

    Args:
        result: The fits.
        photos: Path of each person's photo.
        keys: What each person is called in a file of verdicts, see ``person_keys``.
        folder: Of the run.
        make_refitter: Gives what fits people again; called once, when it is first needed.

    Raises:
        ValueError: If the files of a former review are damaged, or of another run.
    """

    def __init__(
        self,
        result: FitResult,
        photos: Sequence[str],
        keys: Sequence[str],
        folder: Path,
        make_refitter: Callable[[], Refitter],
    ) -> None:
        self.result, self.photos, self.keys = result, list(photos), list(keys)
        self.folder = folder
        self.joints = find_joint_set(result.joint_set)
        self.chosen = select_fits(result)
        self._make_refitter = make_refitter
        self._refitter: Refitter | None = None
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._pixels: dict[str, np.ndarray] = {}
        self._refits: dict[int, tuple[Refit, FitResult]] = {}
        self._undone: list[tuple[int, Edit, Verdict | None]] = []
        self.edits, self.verdicts = self._load()
        self.is_saved = True

    @property
    def place(self) -> Path:
        """Where the review is written."""
        return self.folder / REVIEW

    def __len__(self) -> int:
        return len(self.result)

    def current(self, row: int) -> FitResult:
        """The fit of a person as it stands: fitted again if something was changed."""
        edit = self.edits.get(row)
        if not edit:
            return self.result[row]
        return self._refit(row)[1]

    def gain_mm(self, row: int) -> tuple[np.ndarray | None, float]:
        """What ``Refit`` says of keypoints that are not given, and the seconds of the last fit."""
        if not self.edits.get(row):
            return None, 0.0
        refit = self._refit(row)[0]
        return refit.gain_mm, refit.seconds

    def keypoints(self, row: int) -> np.ndarray:
        """The keypoints as they stand: [K, 3], photo pixels and confidence."""
        points: np.ndarray = np.nan_to_num(self.result.keypoints[row].double().numpy())
        for place, value in self.edits.get(row, Edit()).keypoints.items():
            points[place] = value
        return points

    def photo(self, row: int) -> np.ndarray:
        """The photo of a person.

        Raises:
            ValueError: If it cannot be read.
        """
        name = self.photos[row] if self.photos else ""
        if name not in self._pixels:
            if not name:
                raise ValueError(f"{_WHO}: the fits do not name the photo of this person")
            try:
                pixels = imaging.load_image(name)
            except OSError as error:
                raise ValueError(str(error)) from None
            while len(self._pixels) >= _KEPT:
                self._pixels.pop(next(iter(self._pixels)))
            self._pixels[name] = pixels
        return self._pixels[name]

    def move(self, row: int, place: int, x: float, y: float) -> None:
        """Put a keypoint somewhere in the photo; it counts as seen, whatever it was before.

        Raises:
            ValueError: If it is outside of the photo, or the person cannot be fitted again.
        """
        self._check_place(place)
        height, width = self.photo(row).shape[:2]
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise ValueError(
                f"{_WHO}: a keypoint must lie in the photo of {width} x {height} pixels, got "
                f"{x:.6g}, {y:.6g}"
            )
        self._change(row, lambda edit: edit.keypoints.update({place: (float(x), float(y), 1.0)}))

    def remove(self, row: int, place: int) -> None:
        """Take a keypoint away.

        Raises:
            ValueError: If it is the last one, or the person cannot be fitted again.
        """
        self._check_place(place)
        self._change(row, lambda edit: edit.keypoints.update({place: (0.0, 0.0, 0.0)}))

    def flip(self, row: int, bone: str) -> None:
        """Take the other depth of a bone; again: the first one.

        Raises:
            ValueError: If there is no such bone, or the person cannot be fitted again.
        """
        if bone not in _BONE_OF:
            raise ValueError(unknown_name(_WHO, "bone", bone, FLIPS))

        def toggle(edit: Edit) -> None:
            edit.flips = [name for name in FLIPS if (name in edit.flips) != (name == bone)]

        self._change(row, toggle)

    def reset(self, row: int) -> None:
        """Forget what was changed of a person's keypoints and bones."""
        self._remember(row)
        self.edits.pop(row, None)
        self._refits.pop(row, None)
        self._changed()

    def say(self, row: int, verdict: str | None, note: str = "") -> None:
        """Accept (``keep``) or reject a person; None: nothing is said any more.

        Raises:
            ValueError: If the verdict is another word, or there is no fit to accept.
        """
        if verdict not in (None, KEEP, REJECT):
            raise ValueError(unknown_name(_WHO, "verdict", verdict, (KEEP, REJECT)))
        if verdict == KEEP and not self.can_accept(row):
            raise ValueError(f"{_WHO}: {self.keys[row]} has no fit to accept")
        self._remember(row)
        if verdict is None:
            self.verdicts.pop(self.keys[row], None)
        else:
            self.verdicts[self.keys[row]] = Verdict(verdict, str(note)[:500])
        self._changed()

    def can_accept(self, row: int) -> bool:
        """Whether there is a fit that a verdict can keep."""
        return bool(self.edits.get(row)) or not set(self.chosen.reasons[row]) & set(NEVER)

    def undo(self) -> int | None:
        """Take back the last change; return whose it was, None if there is none."""
        if not self._undone:
            return None
        row, edit, verdict = self._undone.pop()
        self._refits.pop(row, None)
        self.edits.pop(row, None)
        if edit:
            self.edits[row] = edit
        self.verdicts.pop(self.keys[row], None)
        if verdict is not None:
            self.verdicts[self.keys[row]] = verdict
        self._changed()
        return row

    def save(self) -> Path:
        """Write the run with the people that were fitted again, and what was said.

        Raises:
            OutputError: If it cannot be written; what was there before is as it was.
        """
        with replaced_files(self.place, (FITS, EDITS, SELECTION)) as new:
            self.combined().save(new / FITS)
            write_text(new / EDITS, self._edits_text())
            save_verdicts(new / SELECTION, self.verdicts)
        self.is_saved = True
        return self.place

    def combined(self) -> FitResult:
        """Everybody in the order of the run, with the new fits in their places."""
        rows = sorted(row for row, edit in self.edits.items() if edit)
        if not rows:
            return self.result
        parts = [replace(self.current(row), run_id=self.result.run_id) for row in rows]
        joined = FitResult.concatenate([self.result, *parts])
        order = list(range(len(self.result)))
        for place, row in enumerate(rows):
            order[row] = len(self.result) + place
        return joined[order]

    def _check_place(self, place: int) -> None:
        if not 0 <= place < len(self.joints):
            raise ValueError(
                f"{_WHO}: keypoint must be 0 to {len(self.joints) - 1} of {self.joints.name}, got "
                f"{place}"
            )

    def _change(self, row: int, change: Callable[[Edit], None]) -> None:
        """Change a person and fit again; where that fails, nothing is changed."""
        self._remember(row)
        before = self._undone[-1]
        edit = copy.deepcopy(before[1])
        change(edit)
        self.edits[row] = edit
        self._refits.pop(row, None)
        try:
            self.current(row)
        except ValueError:
            self.undo()
            raise
        self._changed()

    def _remember(self, row: int) -> None:
        edit = copy.deepcopy(self.edits.get(row, Edit()))
        self._undone.append((row, edit, self.verdicts.get(self.keys[row])))

    def _changed(self) -> None:
        """Keep what cannot be made again; a killed session goes on from here."""
        self.is_saved = False
        self.place.mkdir(exist_ok=True)
        write_text(self.place / EDITS, self._edits_text())
        save_verdicts(self.place / SELECTION, self.verdicts)

    def _refit(self, row: int) -> tuple[Refit, FitResult]:
        if row not in self._refits:
            refitter = self._get_refitter()
            bones = [_BONE_OF[name] for name in self.edits[row].flips]
            opened = refitter.open(self.result[row])
            refit = refitter.fit(opened, self.keypoints(row), bones)
            made = FitResult.from_people(
                [refit.person],
                [refit.fit],
                outputs=refitter.outputs,
                joint_set=self.result.joint_set,
                body=self.result.body(),
                regressor_id=self.result.regressor_id,
                method=self.result.method,
                mode=self.result.mode,
                precision=self.result.precision,
            )
            self._refits[row] = refit, made
        return self._refits[row]

    def _get_refitter(self) -> Refitter:
        if self.result.method != "map":
            raise ValueError(
                f"{_WHO}: people are fitted again by map, and these fits are by "
                f"{self.result.method}; accept and reject them, or fit the run by map"
            )
        if self._refitter is None:
            self._refitter = self._make_refitter()
        return self._refitter

    def _edits_text(self) -> str:
        people = {
            self.keys[row]: {
                "keypoints": {
                    self.joints.names[place]: list(value)
                    for place, value in sorted(edit.keypoints.items())
                },
                "flips": edit.flips,
            }
            for row, edit in sorted(self.edits.items())
            if edit
        }
        content = {"format": FORMAT, "run_id": self.result.run_id, "people": people}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _load(self) -> tuple[dict[int, Edit], dict[str, Verdict]]:
        """What a former review left; without one, what is said of the run."""
        verdicts: dict[str, Verdict] = {}
        for path in (self.folder / SELECTION, self.place / SELECTION):
            if path.is_file():
                verdicts = load_verdicts(path)
        path = self.place / EDITS
        if not path.is_file():
            return {}, verdicts
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            people = content["people"]
            if content["format"] != FORMAT or not isinstance(people, dict):
                raise ValueError(f"the format must be {FORMAT}")
            edits = {
                self._row_of[key]: self._read_edit(value)
                for key, value in people.items()
                if key in self._row_of
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{_WHO}: {path} is not what a review wrote ({error}); move the folder away"
            ) from error
        if content.get("run_id") != self.result.run_id:
            raise ValueError(
                f"{_WHO}: {self.place} is a review of another run; move the folder away"
            )
        return edits, verdicts

    def _read_edit(self, value: Mapping[str, Any]) -> Edit:
        places = {name: place for place, name in enumerate(self.joints.names)}
        points: dict[int, tuple[float, float, float]] = {}
        for name, given in value["keypoints"].items():
            x, y, confidence = (float(number) for number in given)
            if not np.isfinite([x, y, confidence]).all():
                raise ValueError(f"{name} must be three finite numbers")
            points[places[name]] = x, y, confidence
        flips = [str(name) for name in value["flips"]]
        if not set(flips) <= set(FLIPS):
            raise ValueError(f"flips must be of {', '.join(FLIPS)}")
        return Edit(points, flips)
