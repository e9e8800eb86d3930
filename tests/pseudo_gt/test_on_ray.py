"""The same run on a local Ray cluster of two actors: one is killed, and then the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eft_fast.pseudo_gt.jobs.plan import RunPlace
from eft_fast.result import FitResult
from tests.pseudo_gt.jobs_data import fit_here, make_dataset, make_setup, plan_run

REPO = Path(__file__).resolve().parent.parent.parent
#: Plans nothing: the run is there; starts a cluster of its own, and fits.
DRIVER = """
import sys
from pathlib import Path
import ray
from eft_fast.pseudo_gt.jobs.log import RunLog
from eft_fast.pseudo_gt.jobs.on_ray import fit_on_ray
from eft_fast.pseudo_gt.jobs.plan import RunPlace, RunRecord
from eft_fast.pseudo_gt.jobs.work import pieces_to_do
from tests.pseudo_gt.jobs_data import make_setup

data, out = map(Path, sys.argv[1:3])
record, place = RunRecord.load(out), RunPlace(out)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
todo = [(shard, pieces_to_do(place, shard, 2)) for shard in record.shards]
with RunLog(record.people, shown=False) as log:
    fit_on_ray(place, make_setup(data), record.run_id, log, todo, 2, piece_size=2)
print(log.counts.people, flush=True)
"""


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(data), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
    )


def actors(session: int) -> list[int]:
    """Processes of the session that have become actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            name = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[3]) == session and ("PieceActor" in name or "MapWorker" in name):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_ray_fits_what_processes_fit(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    data, out = make_dataset(tmp_path / "data", 24), tmp_path / "out"
    setup = make_setup(data)
    record = plan_run(data, out, setup, size=8)
    place = RunPlace(out)

    process = start(data, out)
    end = time.monotonic() + 400
    while not any(place.shards.glob("*.npz")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    killed = actors(process.pid)
    for each in killed[:1]:
        os.kill(each, signal.SIGKILL)
    before = len(list(place.shards.glob("*.npz")))
    while len(list(place.shards.glob("*.npz"))) <= before + 1 and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    # The driver, and its cluster with it.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    process = start(data, out)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    assert 0 <= int(printed.split()[-1]) <= 24
    assert killed

    plan_run(data, tmp_path / "here", setup, size=8)
    fit_here(record, tmp_path / "here", setup, piece_size=4)
    fits, here = (
        FitResult.concatenate(
            [FitResult.load(each.shard_file(shard.name)) for shard in record.shards]
        )
        for each in (place, RunPlace(tmp_path / "here"))
    )
    assert fits.id == here.id == tuple(map(str, range(24)))
    for name in ("pred_cam", "loss", "kp_error_px", "keypoints"):
        assert np.array_equal(getattr(fits, name).numpy(), getattr(here, name).numpy())
    assert np.array_equal(fits.params.full_pose.numpy(), here.params.full_pose.numpy())
