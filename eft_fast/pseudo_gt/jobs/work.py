"""Fit the people of a piece, and put the pieces of a shard together: the same for every backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from eft_fast.ops.ambient import plain_torch
from eft_fast.pipeline.prepare import without_photo
from eft_fast.pipeline.run import Outcome
from eft_fast.pseudo_gt.jobs.plan import Piece, RunPlace, Shard, ShardPeople, load_fits_of
from eft_fast.pseudo_gt.jobs.setup import RunSetup
from eft_fast.pseudo_gt.select import REJECT, select_fits
from eft_fast.result import FitResult
from eft_fast.sample import Sample

#: Reason of whom the run did not come to.
_NOT_YET = "interrupted"
_ENDED = "fit: a process ended while it fitted this person, who is left out"


@dataclass
class PieceCounts:
    """What a log says of people who are done."""

    people: int = 0
    converged: int = 0
    rejected: int = 0
    failed: int = 0

    @classmethod
    def of(cls, result: FitResult) -> PieceCounts:
        """Count a result: who converged, who has no fit, and whom the rules of selection reject."""
        reasons = [reason for reason in result.stop_reason if reason != _NOT_YET]
        failed = sum(reason in ("nan", "bad_image") for reason in reasons)
        done = result[[reason != _NOT_YET for reason in result.stop_reason]]
        rejected = select_fits(done).level.count(REJECT) if len(done) else 0
        return cls(len(reasons), reasons.count("converged"), rejected - failed, failed)

    def add(self, other: PieceCounts) -> None:
        """Count others, too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class PieceFitter:
    """Fits pieces of shards with one set of models.

    Args:
        place: Where the run is.
        setup: How it fits.
        run_id: Written into every file.
        is_stopped: Asked before each person; the rest of the piece is then left.
    """

    def __init__(
        self,
        place: RunPlace,
        setup: RunSetup,
        run_id: str,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._place, self._setup, self._run_id = place, setup, run_id
        self._is_stopped = is_stopped
        with plain_torch():
            self._run = setup.make_run(*setup.load())
        self._people: tuple[str, ShardPeople] | None = None

    def fit(
        self,
        piece: Piece,
        *,
        is_careful: bool = False,
        poisoned: Sequence[int] = (),
        on_person: Callable[[int], None] = lambda row: None,
    ) -> PieceCounts:
        """Fit what is missing of a piece and write its file.

        Args:
            piece: Which people.
            is_careful: Fit one by one, since a process has ended on this piece.
            poisoned: Rows of the shard on which processes have ended; they are named as failed.
            on_person: Told the row of each person before the fit, when careful.

        Returns:
            What is done of the piece.
        """
        file = self._place.piece_file(piece)
        former = load_fits_of(file)
        people = self._shard(piece.shard)[piece.first : piece.end]
        samples = to_samples(people, self._setup.intrinsics)
        todo = list(range(len(people)))
        if former is not None and len(former) == len(people):
            todo = [row for row in todo if former.stop_reason[row] == _NOT_YET]
        failed = {row - piece.first for row in poisoned}
        with plain_torch():
            done: dict[int, Outcome] = {}
            errors: list[Exception] = []
            if not is_careful:
                self._fit_together(samples, todo, done)
            for row in todo:
                if row not in done and not self._is_stopped():
                    on_person(piece.first + row)
                    said = _ENDED if row in failed else ""
                    done[row] = self._fit_alone(samples[row], row, said, errors)
            if len(errors) == len(todo) > 1:
                raise errors[0]  # nobody's own fault
            outcomes = [
                done.get(row) or (without_photo(samples[row], index=row), None) for row in todo
            ]
            fresh = self._run.result(outcomes, people.joint_set)
        result = replace(fresh, run_id=self._run_id)
        if former is not None and len(todo) < len(people):
            result = scatter(former, result, todo)
        result.save(file)
        return PieceCounts.of(result)

    def _fit_together(
        self, samples: Sequence[Sample], todo: Sequence[int], done: dict[int, Outcome]
    ) -> None:
        """As many as are done before the run is stopped, or one of them brings the others down."""

        def next_people() -> Iterator[Sample]:
            for row in todo:
                if self._is_stopped():
                    return
                yield samples[row]

        with contextlib.suppress(Exception):
            for person, fit in self._run.fit(next_people()):
                done[todo[person.index]] = person, fit

    def _fit_alone(self, sample: Sample, row: int, said: str, errors: list[Exception]) -> Outcome:
        """One person, of whom anything is expected; with ``said``, why there is no fit."""
        if not said:
            try:
                ((person, fit),) = self._run.fit([sample])
            except Exception as error:
                errors.append(error)
                said = f"fit: {type(error).__name__}: {error}; this person is left out"
            else:
                return person, fit
        return without_photo(sample, said, index=row), None

    def _shard(self, name: str) -> ShardPeople:
        if self._people is None or self._people[0] != name:
            self._people = name, ShardPeople.load(self._place.people_file(name))
        return self._people[1]


def to_samples(people: ShardPeople, intrinsics: float | str | None) -> list[Sample]:
    """The people as they are fitted: what ``fit_batch`` makes of the same arrays."""
    samples = Sample.from_arrays(
        list(people.photos),
        people.keypoints,
        bboxes=people.boxes,
        joint_set=people.joint_set,
        intrinsics=intrinsics,
    )
    named = zip(samples, people.ids, strict=True)
    return [replace(sample, id=person_id) for sample, person_id in named]


def scatter(former: FitResult, fresh: FitResult, rows: Sequence[int]) -> FitResult:
    """``former`` with new fits in some rows."""
    order = list(range(len(former)))
    for place, row in enumerate(rows):
        order[row] = len(former) + place
    return FitResult.concatenate([former, fresh])[order]


def is_done(place: RunPlace, piece: Piece) -> bool:
    """Whether everybody of a piece is fitted."""
    result = load_fits_of(place.piece_file(piece))
    return result is not None and len(result) == len(piece) and _NOT_YET not in result.stop_reason


def pieces_to_do(place: RunPlace, shard: Shard, size: int) -> list[Piece]:
    """The pieces of a shard that are still to be fitted; none if the shard is whole."""
    whole = load_fits_of(place.shard_file(shard.name))
    if whole is not None and len(whole) == shard.people:
        return []
    return [piece for piece in shard.pieces(size) if not is_done(place, piece)]


def close_shard(place: RunPlace, shard: Shard, size: int) -> FitResult:
    """Make the file of a shard of those of its pieces, which then go.

    Raises:
        ValueError: If a piece is missing or damaged.
    """
    file = place.shard_file(shard.name)
    result = load_fits_of(file)
    if result is None or len(result) != shard.people:
        result = FitResult.concatenate(
            [FitResult.load(place.piece_file(piece)) for piece in shard.pieces(size)]
        )
        result.save(file)
    for piece in place.piece_files(shard.name):
        piece.unlink(missing_ok=True)
    return result
