"""Operators on a GPU: every kernel once, and their times beside plain torch and smplx.

Run by ``gpu_check.py``: ``--exercise`` launches every kernel on small inputs, which is what
compute-sanitizer watches; ``--part smpl`` and ``--part map`` write a CSV of microseconds per call
for ``--time`` seconds. ``--rehearse``: the same on the CPU, small, where nothing is measured.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from eft_fast.ops.plans import MeshPlan, PointsPlan

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DEVICE = "cuda"
BATCHES = (1, 32, 256, 1024, 4096, 16384, 65536)
#: People of the direct fit; plain torch up to MAP_TORCH.
MAP_BATCHES = (1, 256, 1024, 4096, 16384)
MAP_TORCH = 1024
#: People for which smplx is compiled: every size costs a minute of compiling.
COMPILED = (256, 4096)
COLUMNS = (
    "case",
    "people",
    "implementation",
    "microseconds_median",
    "microseconds_p10",
    "microseconds_p90",
    "microseconds_per_person",
    "device",
    "torch",
    "commit",
)


def choose_arithmetic(name: str) -> None:
    """How float32 meshes multiply."""
    from eft_fast.ops import _load

    choose = _load.load().eft_fast_choose_mesh_arithmetic
    choose.argtypes = [ctypes.c_char_p]
    if choose(name.encode()) != 0:
        raise ValueError(f"choose_arithmetic: float32 or 3xtf32 expected, got {name!r}")


def exercise() -> None:
    """Launch every kernel on small inputs: what compute-sanitizer watches."""
    import torch

    from eft_fast import ops
    from tests.ops.op_inputs import make_inputs, make_plans

    for dtype in (torch.float32, torch.float64):
        mesh, points = make_plans(37, DEVICE, dtype)
        for people in (3, 17):
            inputs = make_inputs(people, device=DEVICE, dtype=dtype, grad=True)
            camera = torch.ones(people, 3, device=DEVICE, dtype=dtype)
            keypoints = torch.ones(people, points.num_points, 3, device=DEVICE, dtype=dtype)
            for arithmetic in ("float32", "3xtf32"):
                choose_arithmetic(arithmetic)
                vertices, joints = ops.smpl_mesh(mesh, *inputs)
                torch.autograd.grad(vertices.sum() + joints.sum(), inputs)
            torch.autograd.grad(ops.smpl_points(points, *inputs).sum(), inputs)
            ops.keypoint_gradients(points, *inputs[:2], camera, keypoints, transl=inputs[2])
    exercise_raster()
    arguments, options = map_problem()
    small = [first_people(each, 3) for each in arguments]
    ops.map_solve(*small, **{k: first_people(v, 3) for k, v in options.items()}, steps=2)
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    print("every kernel ran")


@lru_cache(maxsize=1)
def chosen_points() -> tuple[list[int], list[list[int]]]:
    """Points as EFT has them, beside the 24 joints: 16 single vertices, 9 means of a few."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = [rng.choice(6890, n, replace=False).tolist() for n in (5, 5, 9, 1, 8, 12, 6, 8, 8)]
    return rng.choice(6890, 16, replace=False).tolist(), means


def exercise_raster() -> None:
    """Draw loose triangles, large and small, in pictures that are no multiple of a tile."""
    import torch

    from eft_fast.ops.raster import rasterize

    faces = torch.arange(900, device=DEVICE).reshape(-1, 3)
    for size in (2.0, 30.0):
        centres = torch.rand(2, 300, 1, 3, device=DEVICE) * torch.tensor([50.0, 40, 4]).to(DEVICE)
        corners = centres + size * torch.randn(2, 300, 3, 3, device=DEVICE)
        vertices = (corners + torch.tensor([0.0, 0, 2 * size]).to(DEVICE)).reshape(2, 900, 3)
        for samples in (1, 2, 8):
            options = {"height": 37, "width": 50, "samples": samples}
            rasterize(vertices, faces, torch.rand(2, 900, 5).to(DEVICE), **options)
            rasterize(vertices, faces, vertices, perspective=True, **options)


@lru_cache(maxsize=1)
def plans() -> tuple[MeshPlan, PointsPlan]:
    """A body of SMPL's sizes, and 49 points."""
    import torch

    from eft_fast.body import plan
    from tests.ops.op_inputs import make_smpl_sized

    arrays = make_smpl_sized()
    vertices, means = chosen_points()
    sums = plan.PointRows(
        tuple(f"mean {i}" for i in range(9)),
        ({},) * 9,
        tuple({vertex: 1 / len(row) for vertex in row} for row in means),
    )
    picks = plan.vertex_rows(vertices, ["vertex"] * 16)
    points = plan.joint_rows(range(24), ["joint"] * 24) + picks + sums
    made = plan.make_mesh_plan(arrays), plan.make_points_plan(arrays, points)
    return made[0].to(DEVICE, torch.float32), made[1].to(DEVICE, torch.float32)


def quiet(call: Callable[[], object]) -> Callable[[], object]:
    """The same call without recording gradients."""
    import torch

    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def plain_gradients(run: Callable, inputs: list) -> Callable[[], object]:
    """Forward and backward of a function whose outputs are summed."""
    import torch

    return lambda: torch.autograd.grad(sum(x.sum() for x in run()), inputs)


def both(case: str, who: str, run: Callable, inputs: list) -> Iterator[tuple[str, str, Callable]]:
    """Rows of a function: forward, then forward and backward."""
    yield f"{case} forward", who, quiet(run)
    yield f"{case} forward+backward", who, plain_gradients(run, inputs)


def cases(people: int) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(case, implementation, call): ours beside the plain torch operators, in the same process."""
    import torch

    from eft_fast import ops
    from tests.ops.op_inputs import make_inputs

    mesh, points = plans()
    inputs = list(make_inputs(people, device=DEVICE, grad=True))
    camera = torch.tensor([0.9, 0.0, 0.0], device=DEVICE).repeat(people, 1)
    keypoints = torch.rand(people, points.num_points, 3, device=DEVICE)

    def mesh_of(backend: str) -> Callable[[], object]:
        return lambda: ops.smpl_mesh(mesh, *inputs, backend=backend)

    def points_of(backend: str) -> Callable[[], object]:
        return lambda: (ops.smpl_points(points, *inputs, backend=backend),)

    def loss_of(backend: str) -> Callable[[], object]:
        return lambda: ops.keypoint_gradients(
            points, *inputs[:2], camera, keypoints, transl=inputs[2], backend=backend
        )

    for arithmetic in ("float32", "3xtf32"):
        choose_arithmetic(arithmetic)
        yield from both("mesh", f"eft_fast {arithmetic}", mesh_of("native"), inputs)
    choose_arithmetic("float32")
    yield from both("points", "eft_fast", points_of("native"), inputs)
    yield "points+loss forward+backward", "eft_fast", loss_of("native")
    yield "points+loss forward+backward", "eft_fast, graph", graphed(loss_of("native"))
    yield from both("mesh", "plain torch", mesh_of("torch"), inputs)
    yield from both("points", "plain torch", points_of("torch"), inputs)
    yield "points+loss forward+backward", "plain torch", loss_of("torch")
    yield from smplx_cases(people)


@lru_cache(maxsize=1)
def map_problem() -> tuple[list, dict]:
    """256 people of the shipped body about the answers of a regressor, on EFT's 49 points."""
    import torch

    from eft_fast.body import load_body
    from tests.ops.test_map import make_case

    plan = load_body("open").to(torch.float64).points_plan("spin49")
    case = make_case(256, pinhole=True, plan=plan).to(torch.float32, DEVICE)
    return list(case.arguments()), case.options


def first_people(value: object, people: int) -> object:
    """The first people of something that has 256, over and over for more."""
    import torch

    if isinstance(value, tuple):
        return type(value)(*(first_people(each, people) for each in value))
    if not isinstance(value, torch.Tensor) or len(value) != 256:
        return value
    return value.repeat(-(-people // 256), *(1,) * (value.ndim - 1))[:people].contiguous()


def map_cases(people: int) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(case, implementation, call) of the direct fit."""
    from eft_fast import ops

    arguments, options = map_problem()
    arguments = [first_people(each, people) for each in arguments]
    options = {name: first_people(each, people) for name, each in options.items()}

    def solve_of(backend: str) -> Callable[[], object]:
        return lambda: ops.map_solve(*arguments, **options, backend=backend)

    yield "map solve", "eft_fast", quiet(solve_of("native"))
    if people <= MAP_TORCH:
        yield "map solve", "plain torch", quiet(solve_of("torch"))


@lru_cache(maxsize=1)
def smplx_functions() -> dict[str, tuple[Callable, Callable]]:
    """Mesh and 49 points from betas and pose through smplx.lbs: eager and compiled."""
    import torch
    from smplx.lbs import lbs

    from tests.ops.op_inputs import make_smpl_sized

    arrays = make_smpl_sized()

    def move(array: object) -> torch.Tensor:
        return torch.as_tensor(array, device=DEVICE, dtype=torch.float32)

    data = [move(arrays.v_template), move(arrays.shapedirs)]
    data += [move(arrays.posedirs.reshape(-1, 207).T.copy()), move(arrays.J_regressor)]
    parents = torch.as_tensor(arrays.parents, device=DEVICE)
    weights = move(arrays.weights_dense())
    picks, means = chosen_points()
    regressor = torch.zeros(len(means), len(arrays.v_template), device=DEVICE)
    for row, vertices in enumerate(means):
        regressor[row, vertices] = 1 / len(vertices)
    index = torch.tensor(picks, device=DEVICE)

    def mesh(betas: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return lbs(betas, pose.flatten(1), *data, parents, weights)

    def points(betas: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor, ...]:
        vertices, joints = mesh(betas, pose)
        regressed = torch.einsum("kv,bvc->bkc", regressor, vertices)
        return (torch.cat([joints, vertices[:, index], regressed], 1),)

    return {
        "smplx": (mesh, points),
        "smplx, compiled": (torch.compile(mesh), torch.compile(points)),
    }


def smplx_cases(people: int) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """The same sizes through smplx, where it is installed; compiled for a few of them."""
    if importlib.util.find_spec("smplx") is None:
        if people == BATCHES[0]:
            print("smplx is not installed: its rows are left out, plain torch is the baseline")
        return
    from tests.ops.op_inputs import make_inputs

    betas, pose, _ = make_inputs(people, device=DEVICE, grad=True)
    for who, (mesh, points) in smplx_functions().items():
        if who.endswith("compiled") and people not in COMPILED:
            continue
        yield from both("mesh", who, lambda run=mesh: run(betas, pose), [betas, pose])
        yield from both("points", who, lambda run=points: run(betas, pose), [betas, pose])


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of one call."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = call()
    return lambda: (graph.replay(), held)


def measure(call: Callable[[], object], rounds: int = 30) -> list[float]:
    """Microseconds per call between CUDA events, sorted: median, 10th and 90th percentile."""
    import torch

    if DEVICE == "cpu":  # a rehearsal
        call()
        return [float("nan")] * 3
    for _ in range(5):
        call()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    times.sort()
    return [times[rounds // 2], times[rounds // 10], times[rounds * 9 // 10]]


def time_everything(path: Path, seconds: float, part: str) -> None:
    """Write a row per case of a part, while there is time."""
    import torch

    batches, make_cases = (BATCHES, cases) if part == "smpl" else (MAP_BATCHES, map_cases)

    deadline = time.monotonic() + seconds
    commit = current_commit()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for people in batches:
            for case, implementation, call in make_cases(people):
                if time.monotonic() > deadline:
                    print(f"no time left: the rows from {case}, {people} people on are missing")
                    return
                try:
                    median, low, high = measure(call)
                except torch.OutOfMemoryError:
                    print(f"{case:30} {people:6} {implementation:18} does not fit on this GPU")
                    torch.cuda.empty_cache()
                    continue
                figures = [f"{x:.2f}" for x in (median, low, high)] + [f"{median / people:.4f}"]
                place = [device_name(), torch.__version__, commit]
                writer.writerow([case, people, implementation, *figures, *place])
                file.flush()
                print(f"{case:30} {people:6} {implementation:18} {median:10.1f} us", flush=True)


def current_commit() -> str:
    """Short hash of what is measured; empty outside of a checkout."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def device_name() -> str:
    """What the rows are of."""
    import torch

    return "rehearsal" if DEVICE == "cpu" else torch.cuda.get_device_name()


def rehearse() -> None:
    """Let everything run on the CPU: few people, and stubs for what only a GPU has."""
    module = sys.modules[__name__]
    changes: dict[str, object] = {
        "DEVICE": "cpu",
        "BATCHES": (1, 3),
        "MAP_BATCHES": (1, 3),
        "COMPILED": (),
        "graphed": lambda call: call,
        "choose_arithmetic": lambda name: None,
    }
    for name, value in changes.items():
        setattr(module, name, value)


def main() -> int:
    """Launch every kernel, or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, default=ROOT / "build" / "gpu" / "gpu_ops.csv")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--exercise", action="store_true", help="launch every kernel once")
    what.add_argument("--part", choices=("smpl", "map"), help="measure this")
    parser.add_argument("--time", type=float, default=60, metavar="SECONDS", help="for so long")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with few people")
    options = parser.parse_args()
    if options.rehearse:
        rehearse()
    if options.exercise:
        exercise()
    else:
        time_everything(options.csv, options.time, options.part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
