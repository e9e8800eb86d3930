"""The pieces of a run on a Ray cluster: the same files, written by actors of Ray Data.

The folder of the run has to be one that every machine sees under the same path. An actor that is
lost is started again and its piece repeated, by Ray; a driver that is lost loses nothing either,
since what is done lies in files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from eft_fast.pseudo_gt.jobs.log import RunLog
from eft_fast.pseudo_gt.jobs.plan import PIECE_SIZE, Piece, RunPlace, Shard
from eft_fast.pseudo_gt.jobs.setup import RunSetup
from eft_fast.pseudo_gt.jobs.work import PieceCounts, PieceFitter, close_shard

#: Actors where their number is not given.
_ACTORS: Final = 2


class PieceActor:
    """Fits pieces with one set of models: the callable class of ``map_batches``.

    Args:
        folder: Folder of the run.
        setup: ``RunSetup.to_json``.
        run_id: Name of the run.
    """

    def __init__(self, folder: str, setup: str, run_id: str) -> None:
        import torch

        # As the local processes: one thread, whose sums have one order.
        torch.set_num_threads(1)
        self._fitter = PieceFitter(RunPlace(Path(folder)), RunSetup.from_json(setup), run_id)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Fit the pieces of a batch; the answer says what is done."""
        answers = []
        for text in batch["piece"]:
            counts = self._fitter.fit(Piece(*json.loads(str(text))))
            answers.append(json.dumps(vars(counts)))
        return {"piece": list(batch["piece"]), "counts": answers}


def fit_on_ray(
    place: RunPlace,
    setup: RunSetup,
    run_id: str,
    log: RunLog,
    todo: Iterable[tuple[Shard, Sequence[Piece]]],
    actors: int | None = None,
    *,
    piece_size: int = PIECE_SIZE,
) -> None:
    """Fit pieces with Ray Data and close their shards.

    A cluster that is running is used (``RAY_ADDRESS``, or one of ``ray.init``); else one is started
    on this machine.

    Args:
        place: Where the run is, on a disk of all machines.
        setup: How it fits.
        run_id: Its name.
        log: Told of everybody who is done.
        todo: Shards and what is missing of them.
        actors: How many fit at once; default: 2.
        piece_size: People of a piece.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
    """
    ray = _load_ray()
    shards, left, pieces = {}, Counter[str](), []
    for shard, missing in todo:
        shards[shard.name], left[shard.name] = shard, len(missing)
        pieces += [json.dumps([piece.shard, piece.first, piece.end]) for piece in missing]
        if not missing:
            close_shard(place, shard, piece_size)
    if not pieces:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = 0 if setup.device in (None, "cpu") else 1
    count = min(actors or _ACTORS, len(pieces))
    # A block for each piece, so that what is done is told as it is done.
    done = ray.data.from_items(
        [{"piece": piece} for piece in pieces], override_num_blocks=len(pieces)
    ).map_batches(
        PieceActor,
        fn_constructor_args=(str(place.folder.absolute()), setup.to_json(), run_id),
        batch_size=1,
        concurrency=count,
        num_cpus=1,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in done.iter_rows():
        shard_name = json.loads(row["piece"])[0]
        log.add(PieceCounts(**json.loads(row["counts"])))
        left[shard_name] -= 1
        if not left[shard_name]:
            close_shard(place, shards[shard_name], piece_size)


def _load_ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "fit: --backend ray needs Ray; pip install 'eft-fast[ray]' on every machine, or leave "
            "the backend out",
            name=error.name,
        ) from error
    return ray
