"""Worker processes fit as the loop does, in any order, and interruptions lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.config import EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.pipeline.dispatch import make_fitter, make_slot_fitter
from eft_fast.pipeline.fitter import Fitter
from eft_fast.pipeline.prepare import Prepared
from eft_fast.pipeline.workers import WorkerFitter
from tests.eft import toy

REPO = Path(__file__).resolve().parent.parent.parent

CONFIG = EftConfig(lr=toy.LR, max_steps=4, threshold=0.0)


def jobs(img, target):
    return (Prepared(i, img[i], target[i]) for i in range(len(img)))


def test_two_workers_equal_the_loop():
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loop = dict(LoopFitter(net, body, config=CONFIG).fit(jobs(img, target)))
    finally:
        torch.set_num_threads(threads)
    fitter = make_fitter(net, body, method="eft", mode="full", config=CONFIG, workers=2)
    fits = dict(fitter.fit(jobs(img, target)))
    assert sorted(fits) == [0, 1, 2, 3, 4]
    for index, fit in fits.items():
        assert torch.equal(fit.final.pred_rotmat, loop[index].final.pred_rotmat)
        assert torch.equal(fit.loss, loop[index].loss)


@pytest.mark.parametrize(("mode", "options"), [("lora", {}), ("head", {"state": "bf16"})])
def test_workers_in_other_modes(mode, options):
    net, body = toy.make_regressor(), toy.ToyBody()
    img, target = toy.make_people(3)
    config = replace(CONFIG, **options)
    loop = dict(
        make_slot_fitter(net, body, config=config, mode=mode, slots=1).fit(jobs(img, target))
    )
    fitter = make_fitter(net, body, method="eft", mode=mode, config=config, workers=2)
    fits = dict(fitter.fit(jobs(img, target)))
    for index, fit in fits.items():
        assert torch.equal(fit.final.pred_rotmat, loop[index].final.pred_rotmat)


def test_a_private_copy_shares_what_it_does_not_tune():
    """Head mode copies the head; every other tensor is the regressor's own memory."""
    net, body = toy.make_regressor(), toy.ToyBody()
    fitter = LoopFitter(net, body, config=CONFIG, mode="head")
    own = {parameter.data_ptr() for parameter in net.parameters()}
    head = {parameter.data_ptr() for parameter in net.head_parameters()}
    copied = [p for p in fitter._network.parameters() if p.data_ptr() not in own]
    assert len(copied) == len(head)
    assert {start.data_ptr() for start in fitter._start} == head


class Dying(Fitter):
    """A worker that is ended from outside, for want of memory for example."""

    def fit(self, people):
        os._exit(1)


class Failing(Fitter):
    def fit(self, people):
        raise ValueError("the fitter's own words")


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (Dying, RuntimeError, "one of 2 workers was ended from outside"),
        (Failing, ValueError, "the fitter's own words"),
    ],
)
def test_what_ends_a_worker_is_named(kind, error, words):
    img, target = toy.make_people(2)
    with pytest.raises(error, match=words):
        list(WorkerFitter(kind, count=2, outputs={}).fit(jobs(img, target)))


PROGRAM = """
import sys
import numpy as np
import eft_fast
FEW = {"config": eft_fast.EftConfig(max_steps=1)}
def work(_=0):
    keypoints = np.zeros((2, 17, 3)); keypoints[:, 5:, :2] = 20; keypoints[:, 5:, 2] = 1
    photos = [np.zeros((64, 64, 3), np.uint8)] * 2
    result = eft_fast.fit_batch(photos, keypoints, mode="head", workers=2, progress=False, **FEW)
    return list(result.stop_reason)
"""


def run_program(tmp_path, text, *, from_stdin=False):
    """Exit code and last line of stderr of a program that uses the package."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM + text)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-"] if from_stdin else [sys.executable, str(file)],
        input=file.read_text() if from_stdin else None,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=600,
    )
    return done.returncode, done.stdout, done.stderr.strip()


GUARDED = 'if __name__ == "__main__":\n'
POOL = (
    "    import multiprocessing\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
)


@pytest.mark.parametrize(
    ("text", "from_stdin", "words"),
    [
        ("print(work())", False, "put the call under if __name__"),
        ("for _ in eft_fast.fit_stream([], workers=2): pass", False, "put the call under"),
        ("try:\n    work()\nexcept ValueError:\n    pass", False, "put the call under"),
        ("print(work())", True, "save the program in a file"),
        (GUARDED + POOL + "        pool.map(work, [0])", False, "daemonic process"),
    ],
    ids=["unguarded", "stream", "in a try", "stdin", "daemon"],
)
def test_a_program_that_cannot_have_workers_is_told(tmp_path, text, from_stdin, words):
    """It used to hang, or to fail in Python's own words."""
    code, _, stderr = run_program(tmp_path, text, from_stdin=from_stdin)
    assert code == 1
    last = stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: fit_batch: ")
    assert words in last
    assert "bootstrapping" not in stderr


def test_a_guarded_program_has_workers(tmp_path):
    code, stdout, stderr = run_program(tmp_path, GUARDED + "    print(work())")
    assert (code, stdout.strip()) == (0, "['max_steps', 'max_steps']"), stderr


def test_a_program_that_fails_when_it_is_run_anew_is_told(tmp_path):
    text = "if __name__ != '__main__':\n    sys.exit(3)\n"
    code, _, stderr = run_program(tmp_path, text + GUARDED + "    print(work())")
    assert code == 1
    assert "ended before it was started (exit code 3)" in stderr


ENDLESS = (
    GUARDED
    + """    FEW["config"] = eft_fast.EftConfig(max_steps=10**9, threshold=0.0)
    print("ready", flush=True)
    try:
        print(work())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_workers_end_with_their_parent_in_the_middle_of_a_fit(tmp_path, end):
    if not Path("/proc/self/task").is_dir():
        pytest.skip("looks for processes in /proc")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM + ENDLESS)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(file)], env=environment, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "ready\n"
        workers = wait_for(lambda: [pid for pid in children(program.pid) if seconds(pid) > 6], 2)
        program.send_signal(end)
        began = time.monotonic()
        program.wait(60)
        wait_for(lambda: [pid for pid in workers if seconds(pid) == 0], 2)
        assert time.monotonic() - began < 60
        if end == signal.SIGINT:  # The result of the run: nobody was done.
            assert program.stdout.read().strip() == "['interrupted', 'interrupted']"


def wait_for(find, count, timeout=400):
    deadline = time.monotonic() + timeout
    while len(found := find()) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def seconds(pid):
    """Processor time of a process; 0 where it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return 0.0 if state == "Z" else (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")


def test_choice_of_fitter():
    net, body = toy.make_regressor(), toy.ToyBody()

    def make(**options):
        return make_fitter(net, body, method="eft", mode="full", config=CONFIG, **options)

    assert isinstance(make(), LoopFitter)
    assert isinstance(make(slots=3), SlotFitter)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        make(workers=0)
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        make(slots=0)
    with pytest.raises(ValueError, match="workers and slots exclude each other"):
        make(workers=2, slots=2)
