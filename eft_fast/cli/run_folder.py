"""The folder that ``fit`` and ``demo`` leave: fits, and who is who in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.output import UsageError, write_json
from eft_fast.data.values import shown
from eft_fast.folders import finish_replacement

if TYPE_CHECKING:
    from eft_fast.result import FitResult

FITS: Final = "fits.npz"
NAMES: Final = "people.json"
SUMMARY: Final = "summary.json"
REPORT: Final = "report.html"
VIEW: Final = "view.html"
TOGETHER: Final = "together"
#: What shows the people of a run, what else a run leaves, and what it goes on from.
PICTURES: Final = ("overlays", TOGETHER, REPORT, "report_thumbnails", VIEW)
OUTPUTS: Final = (FITS, NAMES, SUMMARY, *PICTURES, "run.toml")
RUN_FILES: Final = (*OUTPUTS, "run.json", "plan", "shards")


@dataclass(frozen=True)
class RunFolder:
    """Fits with their names.

    Attributes:
        folder: Where they lie.
        result: The fits.
        photos: Path of each person's photo; empty where no names are known.
        ids: Annotation of each person.
        source: Where the keypoints came from.
        tracks: Who each person is, over the frames of a video; empty where that is not known.
        notes: What had to be made up in reading the file of another program.
    """

    folder: Path
    result: FitResult
    photos: list[str]
    ids: list[str]
    source: str
    tracks: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Name of each photo; a number where none is known."""
        if self.photos:
            return [shown(Path(photo).name) for photo in self.photos]
        return [f"person {row + 1}" for row in range(len(self.result))]


def save_names(
    out: Path,
    photos: Sequence[str],
    ids: Sequence[str],
    source: str,
    tracks: Sequence[str],
    run_id: str,
) -> None:
    """Write who is who beside the fits of a run, which name photos and annotations, too."""
    content: dict[str, Any] = {
        "run_id": run_id,
        "photos": list(photos),
        "ids": list(ids),
        "source": source,
        "tracks": list(tracks),
    }
    write_json(str(out / NAMES), content)


def find_fits(path: Path) -> Path:
    """The file of fits in a folder, or the file itself; of another program's, what was given.

    Raises:
        UsageError: If there is none.
    """
    from eft_fast.data.formats.detect import find_format

    folder = path if path.is_dir() else path.parent
    if folder.is_dir():
        finish_replacement(folder)
    if find_format(path) not in (None, "npz"):
        return path
    file = path / FITS if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"no file {file}; run eft-fast fit first")
    return file


def load_run_folder(path: Path, body: str) -> RunFolder:
    """Read the fits of a folder, or of a file, and their names.

    The fits name their photos themselves; ``people.json`` adds where they come from.

    Raises:
        UsageError: If there are no fits, or the names are those of other fits.
    """
    from eft_fast.api import load_body
    from eft_fast.data.formats.detect import find_format
    from eft_fast.result import FitResult

    file = find_fits(path)
    if find_format(file) not in (None, "npz"):
        return _load_other(path, body)
    result = FitResult.load(file, body=None if body == "open" else load_body(body))
    content = _read_names(file, result)
    photos = list(result.photo) if any(result.photo) else content["photos"]
    # Outside of a run, ids are numbers of rows.
    ids = list(result.id) if result.run_id else content["ids"]
    return RunFolder(file.parent, result, photos, ids, content["source"], content["tracks"])


def _read_names(file: Path, result: FitResult) -> dict[str, Any]:
    """What ``people.json`` beside the fits says, which has to be of the same run."""
    nothing: dict[str, Any] = {"photos": [], "ids": [], "source": "unknown", "tracks": []}
    names = file.parent / NAMES
    if file.name != FITS or not names.is_file():
        return nothing
    try:
        content = json.loads(names.read_text(encoding="utf-8"))
        found: dict[str, Any] = nothing | content
        is_theirs = found.get("run_id", "") == result.run_id
        # Of many people the fits alone name the photos.
        is_theirs = is_theirs and len(found["photos"]) in (len(result), 0 if result.run_id else -1)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{names} is not what eft-fast fit wrote ({error}); remove it, or run eft-fast fit "
            "again"
        ) from error
    if is_theirs:
        return found
    raise UsageError(
        f"{names} names {len(found['photos'])} people of another run than the {len(result)} in "
        f"{file}; run eft-fast fit again, or move it away"
    )


def _load_other(path: Path, body: str) -> RunFolder:
    """Fits in a format of another program, or in shards."""
    from eft_fast.api import load_body
    from eft_fast.pseudo_gt import load_fits

    loaded = load_fits(path, body=None if body == "open" else load_body(body))
    names = loaded.names
    return RunFolder(
        folder=path if path.is_dir() else path.parent,
        result=loaded.result,
        photos=list(map(str, names.photos)),
        ids=list(map(str, names.ids)),
        source=loaded.kind,
        tracks=list(map(str, names.tracks)),
        notes=loaded.notes,
    )


def run_keys(job: RunFolder) -> list[str]:
    """What each person of a run is called in a file of verdicts."""
    from eft_fast.pseudo_gt import person_keys

    photos = job.photos or list(job.result.photo)
    ids = job.ids or list(job.result.id)
    return person_keys(photos, ids, len(job.result))


def run_verdicts(job: RunFolder, file: Path | None = None) -> list[str | None]:
    """What was said by hand of each person of a run.

    Args:
        job: The run.
        file: Where it stands; None: ``selection.json`` of the run's folder, if it is there.
    """
    from eft_fast.cli.output import note
    from eft_fast.pseudo_gt import load_verdicts, verdicts_of
    from eft_fast.pseudo_gt.verdicts import SELECTION

    path = job.folder / SELECTION if file is None else file
    if file is None and not path.is_file():
        return [None] * len(job.result)
    found, strangers = verdicts_of(run_keys(job), load_verdicts(path))
    if strangers:
        note(f"note: {len(strangers)} verdicts of {path} are about nobody here: {strangers[0]} ...")
    return found
