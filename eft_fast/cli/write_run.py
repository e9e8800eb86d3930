"""What a run in shards leaves: of one the usual files, of many one file of fits beside them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from eft_fast.api import load_body
from eft_fast.cli.fitting import finish, people_of_run
from eft_fast.cli.output import emit, note, write_json
from eft_fast.cli.run_file import RUN_FILE
from eft_fast.cli.run_folder import FITS, OUTPUTS, SUMMARY, save_names
from eft_fast.cli.signals import Signals
from eft_fast.cli.summary import RunTotals
from eft_fast.files import write_text
from eft_fast.folders import replaced_files
from eft_fast.pseudo_gt.jobs.assemble import assemble_fits
from eft_fast.pseudo_gt.jobs.plan import RunPlace, RunRecord, ShardPeople
from eft_fast.result import FitResult

#: Messages of people that are printed; all are in the fits.
_MOST_NOTES = 20


def write_run(
    record: RunRecord,
    place: RunPlace,
    options: argparse.Namespace,
    *,
    seconds: float,
    fitted: int,
) -> int:
    """Put a run together whose shards are all there; print the summary, return the exit code."""
    if len(record.shards) == 1:
        (shard,) = record.shards
        held = ShardPeople.load(place.people_file(shard.name))
        body = load_body(options.body)
        result = FitResult.load(place.shard_file(shard.name), body=body)
        return finish(
            result,
            people_of_run(held, record),
            options,
            place.folder,
            seconds=seconds,
            fitted=fitted,
            record=record,
            run_file=options.run_file,
        )
    totals, messages = RunTotals(), 0
    for result, held in _shards(record, place, options):
        totals.add(result, held.boxes)
        for text in filter(None, result.message):
            messages += 1
            if messages <= _MOST_NOTES and not options.quiet:
                note(f"note: {text}")
    if messages > _MOST_NOTES and not options.quiet:
        note(f"note: and {messages - _MOST_NOTES} more, in the fits (FitResult.message)")
    summary = totals.summary(
        seconds=seconds,
        fitted=fitted,
        left_out=record.left_out,
        problems=list(record.problems),
        source=record.source,
    )
    _write(record, place, options, summary)
    emit(summary, _lines(summary, place), as_json=options.json)
    failed = totals.stop_reasons["bad_image"] + totals.stop_reasons["nan"]
    return 1 if failed == totals.people else 0


def _write(
    record: RunRecord, place: RunPlace, options: argparse.Namespace, summary: dict[str, Any]
) -> None:
    out = place.folder
    with Signals.current().hold(), replaced_files(out, OUTPUTS) as new:
        assemble_fits([place.shard_file(shard.name) for shard in record.shards], new / FITS)
        write_json(str(new / SUMMARY), summary)
        write_text(new / RUN_FILE, options.run_file)
        tracks = []
        if record.has_tracks:
            tracks = [track for _, held in _people(record, place) for track in held.tracks]
        # The fits name photos and annotations themselves.
        save_names(new, [], [], record.source, tracks, record.run_id)
    Signals.current().tell("everything is written")


def _people(record: RunRecord, place: RunPlace) -> Iterator[tuple[str, ShardPeople]]:
    for shard in record.shards:
        yield shard.name, ShardPeople.load(place.people_file(shard.name))


def _shards(
    record: RunRecord, place: RunPlace, options: argparse.Namespace
) -> Iterator[tuple[FitResult, ShardPeople]]:
    body = load_body(options.body)
    for name, held in _people(record, place):
        yield FitResult.load(place.shard_file(name), body=body), held


def _lines(summary: dict[str, Any], place: RunPlace) -> list[str]:
    from eft_fast.cli.write import summary_lines

    lines = summary_lines(summary, place.folder)
    return [
        *lines,
        f"shards          {place.shards}",
        f"pictures        none; eft-fast report {place.folder} draws them",
    ]
