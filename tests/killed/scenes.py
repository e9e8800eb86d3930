"""Runs in a process with the shim: every scene is killed at its file operations, in forks.

``python scenes.py SHIM FOLDER '{"SCENE": POINTS}'`` prints one line of JSON: what is left at each
point, as the scene judges it. A scene has a ``before`` (what is there already), an ``act`` (what is
killed) and a ``judge`` (in another fork, as the next command would: what is accepted).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eft_fast.cli import main
from eft_fast.files import PARTIAL, write_text
from eft_fast.folders import JOURNAL, finish_replacement, replaced_files
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pseudo_gt.jobs.plan import RunPlace, RunRecord
from eft_fast.result import FitResult
from tests.pseudo_gt.jobs_data import fit_here, make_dataset, make_setup, plan_run


@dataclass(frozen=True)
class Scene:
    """``act`` and ``judge`` take the folder; ``before`` fills it."""

    act: Callable[[Path], Any]
    judge: Callable[[Path], Any]
    before: Callable[[Path], Any] = lambda folder: None


def call(*words: object) -> int:
    return main([str(word) for word in words])


def make_photos(folder: Path, name: str) -> None:
    """Two photos with one person each."""
    (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(sum(map(ord, name)))
    document: dict[str, list[Any]] = {"images": [], "annotations": []}
    for number in range(2):
        pixels = generator.integers(0, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{name}{number}.png")
        document["images"].append({"id": number, "file_name": f"{name}{number}.png"})
        points = np.column_stack([generator.uniform(10, 80, (17, 2)), np.full(17, 2)])
        document["annotations"].append(
            {"id": number, "image_id": number, "keypoints": points.ravel().tolist(),
             "bbox": [5, 5, 100, 80], "area": 8000}
        )  # fmt: skip
    (folder / name / "people.json").write_text(json.dumps(document))


def fit(inputs: Path, name: str, out: Path, *more: object) -> int:
    photos = inputs / name
    return call(
        "fit", photos, "--annotations", photos / "people.json", "--regressor", inputs / "tiny.npz",
        "--method", "none", "--out", out, "--quiet", "--restart", *more,
    )  # fmt: skip


def judge_run(out: Path) -> dict[str, Any]:
    """Whose are the fits, the names, the summary and the report, raw and for the next command."""
    raw = {"fits": whose_fits(out), "names": whose_names(out)}
    found = dict(raw)
    code = call("convert", out, "--to", "eft-json", "--out", out.parent / "c.json", "--quiet")
    found["convert"] = code
    if code == 0:
        records = json.loads((out.parent / "c.json").read_text())["data"]
        found["converted"] = records[0]["imageName"][:3]
        found["fits"], found["names"] = whose_fits(out), whose_names(out)
    found["raw"] = f"{raw['fits']} {raw['names']}"
    report = out / "report.html"
    text = report.read_text() if report.is_file() else ""
    found["report"] = "none" if not text else "new" if "new0" in text else "old"
    found["cut"] = bool(text) and not text.rstrip().endswith("</html>")
    found["pictures"] = sorted({p.name[6:9] for p in (out / "overlays").glob("*.png")})
    for picture in (out / "overlays").glob("*.png"):
        Image.open(picture).load()
    found["journal"] = (out / JOURNAL).exists()
    return found


def whose_fits(out: Path) -> str:
    if not (out / "fits.npz").exists():
        return "none"
    return Path(FitResult.load(out / "fits.npz").photo[0]).name[:3]


def whose_names(out: Path) -> str:
    if not (out / "people.json").exists():
        return "none"
    return Path(json.loads((out / "people.json").read_text())["photos"][0]).name[:3]


def whole_or_nothing(path: Path, read: Callable[[Path], Any]) -> str:
    if not path.exists():
        return "none"
    read(path)
    return "whole"


def two_files(folder: Path, word: str) -> None:
    with replaced_files(folder, ["a.txt", "gone"]) as new:
        write_text(new / "a.txt", word)
        (new / "b").mkdir()
        write_text(new / "b" / "c.txt", word)


def judge_two_files(folder: Path) -> dict[str, Any]:
    (folder / "mine.txt").touch()
    finish_replacement(folder)
    texts = {
        name: (folder / name).read_text() if (folder / name).exists() else "none"
        for name in ("a.txt", "b/c.txt", "gone/d.txt")
    }
    two_files(folder, "last")
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {"texts": texts, "left": left}


def old_files(folder: Path) -> None:
    two_files(folder, "old")
    (folder / "gone").mkdir()
    (folder / "gone" / "d.txt").write_text("old")


def fit_in_shards(inputs: Path, out: Path) -> list[str]:
    """A run in shards as the command makes one, without its processes; it goes on if begun."""
    data, setup = inputs / "many", make_setup(inputs / "many")
    RunPlace(out).remove_partials()
    record = RunRecord.load(out) or plan_run(data, out, setup, size=4)
    return list(fit_here(record, out, setup, piece_size=2))


def judge_shards(out: Path) -> dict[str, Any]:
    """The run goes on to the fits of one that was not killed; each person is there once."""
    inputs, place = out.parent.parent / "inputs", RunPlace(out)
    fitted = fit_in_shards(inputs, out)
    record = RunRecord.load(out)
    assert record is not None
    shards = [FitResult.load(place.shard_file(shard.name)) for shard in record.shards]
    fits = FitResult.concatenate(shards)
    numbers = torch.cat([fits.params.full_pose.flatten(1), fits.pred_cam], 1).numpy()
    return {
        "ids": list(fits.id),
        "fits": zlib.crc32(numbers.tobytes()),
        "run": record.run_id,
        "again": len(fitted),
        "files": sorted(
            path.relative_to(out).as_posix()
            for path in out.rglob("*")
            # Those beside the record go when the command takes the folder.
            if path.name.endswith(".npz") or (path.parent != out and path.name.endswith(PARTIAL))
        ),
    }


def state_of_training(folder: Path) -> Any:
    from eft_fast.training.config import HeadConfig
    from eft_fast.training.state import Run

    model = torch.nn.Linear(3, 3)
    return Run(model, [{"params": list(model.parameters()), "lr": 0.1}], HeadConfig(), ema=0.9)


def save_states(folder: Path) -> None:
    run = state_of_training(folder)
    for _ in range(3):
        run.step += 1
        run.save(folder / "head.pt")


def judge_state(folder: Path) -> dict[str, Any]:
    run = state_of_training(folder)
    return {"resumed": run.resume(folder / "head.pt"), "step": run.step}


def synth(out: Path) -> int:
    return call("synth", "--out", out, "--n", 2, "--size", 32, "--quiet")


def judge_synth(out: Path) -> dict[str, Any]:
    """The same command goes on, to the same files, and leaves nothing else."""
    code = synth(out)
    whole = out.with_name("whole")
    if not whole.exists():
        synth(whole)
    names, wanted = (
        sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        for folder in (out, whole)
    )
    same = [(out / name).read_bytes() == (whole / name).read_bytes() for name in wanted]
    return {"code": code, "same": all(same), "others": sorted({*names} - {*wanted})}


def export(inputs: Path, out: Path) -> int:
    return call("export", "--regressor", inputs / "tiny.npz", "--out", out, "--quiet")


def judge_export(out: Path) -> dict[str, Any]:
    code = call("verify", out, "--quiet") if (out / "export.json").exists() else None
    return {"verify": code, "left": sorted(p.name for p in out.glob("[!.]*"))}


def scenes(inputs: Path) -> dict[str, Scene]:
    fits = inputs / "fits"
    return {
        "folder": Scene(lambda out: two_files(out, "new"), judge_two_files, old_files),
        "fit over a run": Scene(
            lambda out: fit(inputs, "new", out),
            judge_run,
            lambda out: fit(inputs, "old", out),
        ),
        "fit": Scene(lambda out: fit(inputs, "new", out), judge_run),
        "eft-json": Scene(
            lambda out: call("convert", fits, "--to", "eft-json", "--out", out / "c.json"),
            lambda out: whole_or_nothing(out / "c.json", lambda p: json.loads(p.read_text())),
        ),
        "spin-npz": Scene(
            lambda out: call("convert", fits, "--to", "spin-npz", "--out", out / "c.npz"),
            lambda out: whole_or_nothing(out / "c.npz", lambda p: dict(np.load(p))),
        ),
        "glb": Scene(
            lambda out: call("convert", fits, "--to", "glb", "--out", out),
            lambda out: sorted(p.stat().st_size for p in out.glob("*.glb")),
        ),
        "shards": Scene(lambda out: fit_in_shards(inputs, out), judge_shards),
        "train": Scene(save_states, judge_state),
        "synth": Scene(synth, judge_synth),
        "export": Scene(lambda out: export(inputs, out), judge_export),
    }  # fmt: skip


def make_inputs(inputs: Path) -> None:
    inputs.mkdir()
    network = OpenRegressor.make_tiny()
    save_open_regressor(network, inputs / "tiny.npz", licence="Apache-2.0", source_sha256="0")
    for name in ("old", "new"):
        make_photos(inputs, name)
    make_dataset(inputs / "many", 8)
    fit(inputs, "new", inputs / "fits", "--no-pictures")


def in_fork(work: Callable[[], Any]) -> tuple[Any, bool]:
    """What a forked child returns, and whether it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    return (json.loads(said) if said else None), os.WIFSIGNALED(os.waitpid(child, 0)[1])


def killed_at(scene: Scene, shim: Any, folder: Path, point: int) -> int:
    """Act until the point; return the number of operations if it ended."""

    def act() -> int:
        shim.kill_before(point, str(folder).encode())
        scene.act(folder)
        return int(shim.operations())

    said, was_killed = in_fork(act)
    assert was_killed or isinstance(said, int), said
    return 0 if was_killed else said


def run_scene(shim: Any, scene: Scene, work: Path, points: int) -> dict[str, Any]:
    folder, first = work / "out", work / "first"
    first.mkdir(parents=True)
    in_fork(lambda: scene.before(first))

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(first, folder)

    fresh()
    total = killed_at(scene, shim, folder, 0)
    said: dict[str, Any] = {"whole": in_fork(lambda: scene.judge(folder))[0], "found": []}
    wanted = range(1, total + 1)
    if points < total:
        # The last operations are those that put things at their places.
        ends = range(max(1, total + 1 - points // 2), total + 1)
        steps = np.linspace(1, total, points - len(ends)).astype(int).tolist()
        wanted = sorted({*steps, *ends})
    for point in wanted:
        fresh()
        assert killed_at(scene, shim, folder, point) == 0
        said["found"].append(in_fork(lambda: scene.judge(folder))[0])
    return said


def run(shim_path: str, work: Path, wanted: dict[str, int]) -> None:
    """Run scenes, each at so many points; print what was found as one line of JSON."""
    shim = ctypes.CDLL(shim_path)
    shim.kill_before.argtypes = [ctypes.c_long, ctypes.c_char_p]
    shim.operations.restype = ctypes.c_long
    torch.set_num_threads(1)
    make_inputs(work / "inputs")
    known = scenes(work / "inputs")
    found = {
        name: run_scene(shim, known[name], work / name.replace(" ", "_"), points)
        for name, points in wanted.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
