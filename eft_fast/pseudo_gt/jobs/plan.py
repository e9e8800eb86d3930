"""Who is fitted in a run: the people of a dataset in shards, each named by what is in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eft_fast.files import OutputError, remove_partials, save_npz, write_text
from eft_fast.result import FitResult
from eft_fast.sample import Sample

#: People of a shard; one ends with its last photo, so that each photo is read once.
SHARD_SIZE: Final = 500
#: A shard that has this many times its size ends within a photo.
_MOST: Final = 4
#: People that are fitted between two files: what a kill can cost each process.
PIECE_SIZE: Final = 64
RUN_RECORD: Final = "run.json"
_PLAN, _SHARDS, _FORMAT = "plan", "shards", "eft-fast-run/1"
_DIGITS: Final = 16


@dataclass(frozen=True, eq=False)
class ShardPeople:
    """The people of a shard, as they are fitted.

    Attributes:
        photos: Path of each person's photo.
        keypoints: x, y in photo pixels and confidence.
        boxes: x, y, width, height in photo pixels; NaN where unknown.
        ids: Annotation of each person.
        tracks: Who each person is over the frames of a video; empty texts where not known.
        joint_set: Order of the keypoints.
    """

    photos: tuple[str, ...]
    keypoints: Float[np.ndarray, "N K 3"]
    boxes: Float[np.ndarray, "N 4"]
    ids: tuple[str, ...]
    tracks: tuple[str, ...]
    joint_set: str

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, rows: slice) -> ShardPeople:
        """The people of a slice."""
        return ShardPeople(
            self.photos[rows],
            self.keypoints[rows],
            self.boxes[rows],
            self.ids[rows],
            self.tracks[rows],
            self.joint_set,
        )

    @classmethod
    def from_samples(cls, samples: Sequence[Sample]) -> ShardPeople:
        """The people of samples, all of one joint set."""
        boxes = [sample.bbox_xywh for sample in samples]
        unknown = np.full(4, np.nan)
        return cls(
            photos=tuple(sample.photo for sample in samples),
            keypoints=np.stack([sample.keypoints_2d_px for sample in samples]).astype(np.float32),
            boxes=np.stack([unknown if box is None else np.asarray(box, float) for box in boxes]),
            ids=tuple(sample.id for sample in samples),
            tracks=tuple(sample.track_id or "" for sample in samples),
            joint_set=samples[0].keypoint_set,
        )

    def digest(self, salt: str) -> str:
        """Names these people, their photos by absolute paths, and what they are fitted by."""
        photos = [os.path.abspath(photo) for photo in self.photos]
        texts = json.dumps([salt, self.joint_set, photos, self.ids, self.tracks])
        found = hashlib.sha256(texts.encode("utf-8", "surrogatepass"))
        for numbers in (self.keypoints.astype("<f4"), self.boxes.astype("<f8")):
            found.update(np.ascontiguousarray(numbers).tobytes())
        return found.hexdigest()[:_DIGITS]

    def save(self, path: Path) -> None:
        """Write them, whole or not at all."""
        arrays = {
            "keypoints": self.keypoints,
            "boxes": self.boxes,
            # As JSON: numpy's texts end at a zero byte and take no lone surrogates.
            "texts": np.array(json.dumps([self.photos, self.ids, self.tracks, self.joint_set])),
        }
        save_npz(path, arrays)

    @classmethod
    def load(cls, path: Path) -> ShardPeople:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            photos, ids, tracks, joint_set = json.loads(str(file["texts"]))
            numbers = file["keypoints"], file["boxes"]
        return cls(tuple(photos), *numbers, tuple(ids), tuple(tracks), joint_set)


class MixedSetsError(ValueError):
    """The people of a run have keypoints of several joint sets."""


def cut_shards(samples: Iterable[Sample], size: int = SHARD_SIZE) -> Iterator[ShardPeople]:
    """Cut people into shards of ``size``, each up to the end of a photo.

    Raises:
        MixedSetsError: If they are of several joint sets.
    """
    held: list[Sample] = []
    for sample in samples:
        if held and sample.keypoint_set != held[0].keypoint_set:
            raise MixedSetsError(
                "fit: one joint set per run is expected, got "
                f"{held[0].keypoint_set}, {sample.keypoint_set}; split the annotations"
            )
        is_full = len(held) >= size and sample.photo != held[-1].photo
        if is_full or len(held) >= _MOST * size:
            yield ShardPeople.from_samples(held)
            held = held[:0]
        held.append(sample)
    if held:
        yield ShardPeople.from_samples(held)


@dataclass(frozen=True)
class Shard:
    """A shard of a run: its name and how many people it has."""

    name: str
    people: int

    def pieces(self, size: int = PIECE_SIZE) -> list[Piece]:
        """The parts that are fitted at a time; they do not depend on who fits them."""
        return [
            Piece(self.name, first, min(first + size, self.people))
            for first in range(0, self.people, size)
        ]


@dataclass(frozen=True)
class Piece:
    """Some people of a shard, from ``first`` to before ``end``."""

    shard: str
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class RunPlace:
    """The files of a run that is under way, and the plan of it.

    Attributes:
        folder: That of the run.
    """

    folder: Path

    @property
    def plan(self) -> Path:
        """Folder of the people, a file for each shard."""
        return self.folder / _PLAN

    @property
    def shards(self) -> Path:
        """Folder of the fits, a file for each shard, and one for each piece until it is whole."""
        return self.folder / _SHARDS

    def people_file(self, shard: str) -> Path:
        """The people of a shard."""
        return self.plan / f"{shard}.npz"

    def shard_file(self, shard: str) -> Path:
        """The fits of a shard."""
        return self.shards / f"{shard}.npz"

    def piece_file(self, piece: Piece) -> Path:
        """The fits of a piece, while its shard is not whole."""
        return self.shards / f"{piece.shard}.{piece.first:06d}-{piece.end:06d}.npz"

    def piece_files(self, shard: str) -> list[Path]:
        """All pieces of a shard that are there."""
        return sorted(self.shards.glob(f"{shard}.*-*.npz"))

    def remove_partials(self) -> None:
        """Remove what killed processes left half written, before a run goes on."""
        for folder in (self.plan, self.shards):
            remove_partials(folder)


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` says: what a run is of, and by what it is fitted.

    Attributes:
        run_id: Names people and configuration; ``FitResult.run_id`` of the fits.
        parts: What the fits depend on besides the people, by name (``setup.RunSetup.parts``).
        shards: The shards in their order.
        joint_set: Order of the keypoints.
        source: Where the keypoints come from.
        left_out: People left out, by reason.
        problems: Sentences about them.
        has_tracks: Whether everybody has a track.
        key: Names the photos that a detector has looked at; empty with annotations.
    """

    run_id: str
    parts: dict[str, str]
    shards: tuple[Shard, ...]
    joint_set: str
    source: str
    left_out: dict[str, int]
    problems: tuple[str, ...] = ()
    has_tracks: bool = False
    key: str = ""

    @property
    def people(self) -> int:
        """All of them."""
        return sum(shard.people for shard in self.shards)

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        content: dict[str, Any] = {"format": _FORMAT, **vars(self)}
        content["shards"] = {shard.name: shard.people for shard in self.shards}
        write_text(folder / RUN_RECORD, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RunRecord | None:
        """Read the record of a folder; None if it has none.

        Raises:
            ValueError: If it is another file of that name.
        """
        path = folder / RUN_RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError("of another version")
            shards = tuple(Shard(name, count) for name, count in content.pop("shards").items())
            problems = tuple(content.pop("problems"))
            return cls(shards=shards, problems=problems, **content)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"fit: {path} is not the record of a run ({error}); name another folder, or give "
                "--restart"
            ) from error


def write_plan(
    shards: Iterable[ShardPeople], place: RunPlace, parts: dict[str, str]
) -> list[Shard]:
    """Write the people of each shard where they are not written yet; return the shards."""
    salt = json.dumps(parts, sort_keys=True)
    found = []
    try:
        place.plan.mkdir(exist_ok=True)
        place.shards.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError.about(place.folder, error, replaces=False) from error
    for number, people in enumerate(shards):
        shard = Shard(f"{number:05d}-{people.digest(salt)}", len(people))
        if not place.people_file(shard.name).is_file():
            people.save(place.people_file(shard.name))
        found.append(shard)
    return found


def make_run_id(parts: dict[str, str], shards: Sequence[Shard]) -> str:
    """Name a run by everything that its fits depend on."""
    content = json.dumps([parts, [shard.name for shard in shards]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]


def load_fits_of(path: Path) -> FitResult | None:
    """The fits of a file that is there and whole; None otherwise."""
    try:
        return FitResult.load(path)
    except (FileNotFoundError, ValueError):
        return None
