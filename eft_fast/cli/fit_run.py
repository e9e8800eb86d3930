"""A run of ``fit``: planned, fitted, interrupted, gone on with, and put into its folder."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eft_fast.cli.fitting import choose_method, finish, fit_people, make_config, people_of_run
from eft_fast.cli.gather import Detect, Gathering
from eft_fast.cli.output import UsageError, emit, note
from eft_fast.cli.run_folder import FITS, SUMMARY
from eft_fast.cli.signals import Signals
from eft_fast.serving.cpus import usable_cpus

if TYPE_CHECKING:
    from eft_fast.pseudo_gt.jobs.plan import RunPlace, RunRecord, Shard, ShardPeople
    from eft_fast.pseudo_gt.jobs.setup import RunSetup

#: Processes unless more are asked for: each holds the models, half a gigabyte with torch.
_MOST_WORKERS: Final = 16
#: What the parts of a run are called on the command line.
_OPTION_OF: Final = {
    "method": "another --method", "mode": "another --mode", "options": "other options of the fit",
    "regressor": "another --regressor", "body": "another --body", "focal": "another --focal",
    "device": "another --device", "version": "the fits of another version of eft-fast",
    "shard size": "another --shard-size",
}  # fmt: skip


@dataclass(frozen=True)
class _Planned:
    """A run whose people are known; few people are held, many lie in files."""

    record: RunRecord
    held: ShardPeople | None
    method: str = ""


def fit_run(options: argparse.Namespace, out: Path, detect: Detect) -> int:
    """Fit the people of the options into ``out``, or go on with it, and print the summary.

    Args:
        options: Of the command.
        out: Folder of the run, which is locked.
        detect: Finds people in photos without annotations.
    """
    from eft_fast.pseudo_gt.jobs.plan import RunPlace, RunRecord

    gathering = Gathering(options, detect)
    setup, notes = _make_setup(options), list[str]()
    regressor, body = setup.load()
    method = choose_method(options, regressor, notes.append)
    noise = options.keypoint_noise or gathering.noise
    setup = replace(setup, method=method, config=make_config(options, method, noise=noise))
    # Refuses options that do not go together before anybody is looked for.
    setup.make_run(regressor, body)
    parts = setup.parts(regressor, body) | {"shard size": str(options.shard_size or "")}
    record = None if options.restart else RunRecord.load(out)
    if record is not None:
        _check_parts(record, parts, out)
    place = RunPlace(out)
    place.remove_partials()
    planned = _plan(gathering, place, parts, record, options)
    planned = replace(planned, method=method)
    for text in notes:
        note(text)
    done = None if options.restart else _finished(out, planned.record)
    if done is not None:
        return _tell_finished(done, out, options)
    if planned.held is not None:
        return _fit_here(planned, options, out)
    return _fit_in_shards(planned.record, place, setup, options)


def _make_setup(options: argparse.Namespace) -> RunSetup:
    from eft_fast.pseudo_gt.jobs.setup import RunSetup

    return RunSetup(
        method="none",
        mode=options.mode,
        regressor=options.regressor,
        body=options.body,
        intrinsics=options.focal,
        device=options.device,
        slots=options.slots,
    )


def _check_parts(record: RunRecord, parts: dict[str, str], out: Path) -> None:
    for name, value in parts.items():
        if record.parts.get(name) != value:
            raise _another(out, f"with {_OPTION_OF.get(name, f'another {name}')}")


def _another(out: Path, how: str) -> UsageError:
    return UsageError(
        f"{out} holds a run {how}; repeat its options to go on with it, name another folder, or "
        "give --restart to replace it"
    )


def _plan(
    gathering: Gathering,
    place: RunPlace,
    parts: dict[str, str],
    record: RunRecord | None,
    options: argparse.Namespace,
) -> _Planned:
    """Cut the people into shards, as they were cut before if the run is there already."""
    from eft_fast.pseudo_gt.jobs import plan

    try:
        return _plan_once(gathering, place, parts, record, options)
    except plan.MixedSetsError:
        # COCO's people with and without feet, for example: all of them in the larger set.
        gathering.find_joint_set()
        return _plan_once(gathering, place, parts, record, options)


def _plan_once(
    gathering: Gathering,
    place: RunPlace,
    parts: dict[str, str],
    record: RunRecord | None,
    options: argparse.Namespace,
) -> _Planned:
    from eft_fast.pseudo_gt.jobs import plan

    key = gathering.key()
    if record is not None and key and key == record.key and _has_plan(record, place):
        return _Planned(record, None)
    chunks = plan.cut_shards(gathering, options.shard_size or plan.SHARD_SIZE)
    head = list(itertools.islice(chunks, 2))
    if not head:
        raise UsageError(gathering.nobody())
    is_small = len(head) == 1 and len(head[0]) <= plan.PIECE_SIZE and options.backend == "local"
    is_small = is_small and options.shard_size is None
    people: Iterable[ShardPeople] = itertools.chain(head, chunks)
    if is_small or record is not None:
        shards = _name(people, parts, None if is_small else place, record)
    else:
        for folder in (place.plan, place.shards):
            shutil.rmtree(folder, ignore_errors=True)
        (place.folder / plan.RUN_RECORD).unlink(missing_ok=True)
        shards = plan.write_plan(people, place, parts)
    run_id = plan.make_run_id(parts, shards)
    if record is not None and record.run_id != run_id:
        raise _another(place.folder, "of other people")
    found = plan.RunRecord(
        run_id=run_id,
        parts=parts,
        shards=tuple(shards),
        joint_set=head[0].joint_set,
        source=gathering.source,
        left_out=gathering.left_out,
        problems=tuple(gathering.problems),
        has_tracks=gathering.has_tracks,
        key=key,
    )
    if not is_small:
        found.save(place.folder)
    return _Planned(found, head[0] if is_small else None)


def _name(
    people: Iterable[ShardPeople],
    parts: dict[str, str],
    place: RunPlace | None,
    record: RunRecord | None,
) -> list[Shard]:
    """Name shards, and write those of a known run that are missing."""
    from eft_fast.pseudo_gt.jobs.plan import Shard

    salt, known = json.dumps(parts, sort_keys=True), set(record.shards if record else ())
    shards = []
    for number, each in enumerate(people):
        shard = Shard(f"{number:05d}-{each.digest(salt)}", len(each))
        shards.append(shard)
        if place is not None and shard in known and not place.people_file(shard.name).is_file():
            for folder in (place.plan, place.shards):
                folder.mkdir(exist_ok=True)
            each.save(place.people_file(shard.name))
    return shards


def _has_plan(record: RunRecord, place: RunPlace) -> bool:
    is_there = all(place.people_file(shard.name).is_file() for shard in record.shards)
    return is_there or _finished(place.folder, record) is not None


def _finished(out: Path, record: RunRecord) -> dict[str, Any] | None:
    """The summary of a run that is complete."""
    try:
        summary: dict[str, Any] = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        is_done = summary["run_id"] == record.run_id and (out / FITS).is_file()
        return summary if is_done and "interrupted" not in summary["stop_reasons"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tell_finished(summary: dict[str, Any], out: Path, options: argparse.Namespace) -> int:
    if not options.quiet:
        note(f"note: {out} holds this run already; --restart fits it anew")
    emit(summary, [f"{summary['people']} people, fits in {out / FITS}"], as_json=options.json)
    return 0


def _fit_here(planned: _Planned, options: argparse.Namespace, out: Path) -> int:
    """Few people: fit those who are missing in this process, and write everything."""
    from eft_fast.pseudo_gt.jobs.plan import load_fits_of
    from eft_fast.pseudo_gt.jobs.work import scatter

    assert planned.held is not None
    people = people_of_run(planned.held, planned.record)
    former, rows = load_fits_of(out / FITS), list(range(len(people)))
    if former is not None and former.run_id == planned.record.run_id and not options.restart:
        rows = [row for row in rows if former.stop_reason[row] == "interrupted"]
    start = time.perf_counter()
    result = fit_people(people, options, rows, planned.method)
    seconds = time.perf_counter() - start
    fitted = sum(reason != "interrupted" for reason in result.stop_reason)
    if former is not None and len(rows) < len(people):
        result = scatter(former, replace(result, run_id=former.run_id), rows)
    return finish(
        result,
        people,
        options,
        out,
        seconds=seconds,
        fitted=fitted,
        record=planned.record,
        run_file=options.run_file,
    )


def _fit_in_shards(
    record: RunRecord, place: RunPlace, setup: RunSetup, options: argparse.Namespace
) -> int:
    """Many people: processes fit what is missing; then everything is put together."""
    from eft_fast.cli.write_run import write_run
    from eft_fast.pseudo_gt.jobs.log import RunLog
    from eft_fast.pseudo_gt.jobs.plan import PIECE_SIZE
    from eft_fast.pseudo_gt.jobs.work import pieces_to_do

    signals = Signals.current()
    size = PIECE_SIZE if (options.device or "cpu") == "cpu" else record.people
    todo = [(shard, pieces_to_do(place, shard, size)) for shard in record.shards]
    missing = sum(len(piece) for _, pieces in todo for piece in pieces)
    shown_log = False if options.quiet else None
    with RunLog(record.people, record.people - missing, shown=shown_log) as log:
        try:
            _run_backend(options, record, place, setup, log, todo, size)
        except KeyboardInterrupt:
            pass
        done = record.people - missing + log.counts.people
        seconds = log.seconds
        rate = log.counts.people / seconds
    signals.tell(
        f"{done} of {record.people} people done ({rate:.2f} fits/s), saved in {place.shards}; the "
        "same command goes on"
    )
    if done < record.people or signals.came:
        summary = {"people": record.people, "done": done, "seconds": seconds}
        summary["fits_per_second"] = rate
        if options.json:
            emit(summary, [], as_json=True)
        return 1
    return write_run(record, place, options, seconds=seconds, fitted=log.counts.people)


def _run_backend(
    options: argparse.Namespace,
    record: RunRecord,
    place: RunPlace,
    setup: RunSetup,
    log: Any,
    todo: list[tuple[Shard, Any]],
    size: int,
) -> None:
    if options.backend == "ray":
        from eft_fast.pseudo_gt.jobs.on_ray import fit_on_ray

        fit_on_ray(place, setup, record.run_id, log, todo, options.workers, piece_size=size)
        return
    from eft_fast.pseudo_gt.jobs.local import LocalRun

    workers = _usable_workers(options)
    LocalRun(place, setup, record.run_id, log, size).fit(todo, workers)


def _usable_workers(options: argparse.Namespace) -> int:
    """Processes: as asked for, else one for each core that may be used, or the one of a GPU."""
    if options.workers is not None:
        return int(options.workers)
    if options.device not in (None, "cpu"):
        return 1
    return min(usable_cpus(), _MOST_WORKERS)
