"""EFT on a GPU: people per second beside a loop as the original writes it, and millimetres.

Run by ``gpu_check.py``: ``--part eft``, and ``--part training`` for a step of training.
ResNet-50 at 224 px with made-up weights, 20 steps, nobody stops early. The
original's step: one person at a time, full mesh, 49 points regressed from it, ``foreach`` Adam, all
updates although the last one is never seen, one read of the device per step. Nothing is scaled up:
what does not fit into the memory or the time is named and left out.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from torch import Tensor

    from eft_fast.body.smpl import Smpl
    from eft_fast.eft.config import EftConfig
    from eft_fast.models.hmr import Hmr
    from eft_fast.pipeline.fitter import PersonFit
    from eft_fast.pipeline.prepare import Prepared

DEVICE = "cuda"
STEPS = 20
#: The middle first: if the time runs out, the most telling rows are there.
SLOTS = (64, 1, 8, 256)
HEAD_SLOTS = (256, 64)
PEOPLE = 512
#: Options of a row: precision, state.
KINDS = (("tf32", "fp32"), ("tf32", "bf16"), ("3xtf32", "fp32"), ("fp32", "fp32"))
COLUMNS = (
    "case", "slots", "precision", "state", "people", "seconds", "people_per_second",
    "ratio_to_original", "device", "torch", "commit",
)  # fmt: skip
#: Images of a training step, and how its products are made.
TRAINING = (64, 256)
TRAINING_KINDS = ("fp32", "tf32", "bf16")


def make_regressor() -> Hmr:
    """ResNet-50 and head with made-up weights of trained size."""
    import torch

    from eft_fast.models.hmr import Hmr

    torch.manual_seed(0)
    return Hmr(weights_camera="scale_shift").eval()


def make_jobs(body: Smpl, size: int, count: int) -> list[Prepared]:
    """Noise for crops, and keypoints near the mean pose; on the CPU."""
    import torch

    from eft_fast.pipeline.prepare import Prepared

    generator = torch.Generator().manual_seed(count)
    pose = 0.2 * torch.randn(count, 24, 3, generator=generator)
    pose[:, 0, 0] += torch.pi
    points = body.keypoints(torch.zeros(count, 10), pose[:, 1:], pose[:, :1], joint_set="spin49")
    target = torch.cat([0.8 * points[..., :2], torch.ones(count, 49, 1)], -1)
    crops = torch.randn(min(count, 64), 3, size, size, generator=generator)
    return [Prepared(i, crops[i % len(crops)], target[i]) for i in range(count)]


class OriginalLoop:
    """One fit of the released code, written from its description."""

    def __init__(self, regressor: Hmr, body: Smpl, config: EftConfig) -> None:
        import torch
        from torch import nn

        self.network, self.body, self.config = copy.deepcopy(regressor), body, config
        self.start = copy.deepcopy(regressor.state_dict())
        self.weights = config.loss
        for norm in self.network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.requires_grad_(False)
        self.tuned = [p for p in self.network.parameters() if p.requires_grad]
        # 49 points from the vertices, as a dense regressor makes them.
        vertices = body.v_template.shape[0]
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(49, vertices, generator=generator).softmax(1)
        self.points = points.to(body.v_template)

    def fit(self, job: Prepared) -> None:
        """All steps of one person."""
        import torch

        from eft_fast.losses.keypoints import eft_loss

        config = self.config
        self.network.load_state_dict(self.start)
        optimiser = torch.optim.Adam(
            self.tuned, lr=config.lr_of("full"), betas=config.adam_betas, eps=config.adam_eps,
            foreach=True,
        )  # fmt: skip
        img, target = job.img[None].to(DEVICE), job.keypoints_2d[None].to(DEVICE)
        for _ in range(config.max_steps):
            out = self.network(img)
            mesh = self.body(
                betas=out.pred_betas, body_pose=out.pred_rotmat[:, 1:],
                global_orient=out.pred_rotmat[:, :1], pose2rot=False,
            )  # fmt: skip
            loss = eft_loss(
                self.points @ mesh.vertices, out.pred_betas, out.pred_cam, target, self.weights
            )
            optimiser.zero_grad()
            loss.total.mean().backward()
            optimiser.step()
            if loss.keypoint.item() < config.threshold:
                break


def fit_all(fitter: Any, jobs: list[Prepared]) -> list[PersonFit]:
    """Fits in the order of the jobs."""
    fits = dict(fitter.fit(jobs))
    return [fits[job.index] for job in jobs]


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of a call and everything that it started."""
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def device_name() -> str:
    """What the rows are of."""
    import torch

    return "rehearsal" if DEVICE == "cpu" else torch.cuda.get_device_name()


def wait() -> None:
    """Until the device has done everything."""
    import torch

    if DEVICE != "cpu":
        torch.cuda.synchronize()


def guarded(what: str, call: Callable[[], None]) -> bool:
    """Run one measurement; say in a sentence what kept it from ending, and go on."""
    import torch

    try:
        call()
    except torch.cuda.OutOfMemoryError:
        print(f"{what}: not enough GPU memory, left out", flush=True)
    except Exception as error:  # whatever it is, the next rows are worth having
        print(f"{what}: failed ({error})", flush=True)
        return False
    finally:
        if DEVICE != "cpu":
            torch.cuda.empty_cache()
    return True


def exercise() -> None:
    """Launch every per-slot kernel on small inputs: what compute-sanitizer watches."""
    import torch

    from eft_fast.ops import slot_layers
    from tests.ops.test_slot_layers import operator_arguments

    device = torch.device(DEVICE)
    if DEVICE == "cpu":
        print("the per-slot kernels need a GPU: nothing to rehearse")
        return
    assert slot_layers.has_kernels(torch.zeros(1, device=device)), "built without CUDA"
    for arithmetic in (None, *slot_layers.ARITHMETIC.values()):
        for name, values in operator_arguments(device).items():
            arguments = list(values)
            if arithmetic is not None:
                arguments = [_to_float32(each) for each in arguments]
                if name.startswith("slot_conv"):
                    arguments[-1] = arithmetic
            getattr(torch.ops.eft_fast, name)(*arguments)
    torch.cuda.synchronize()
    print("every per-slot kernel ran")


def _to_float32(value: Any) -> Any:
    """Activations, weights and state; Adam's constants [20, 2] stay float64."""
    import torch

    is_double = isinstance(value, torch.Tensor) and value.dtype == torch.float64
    return value.float() if is_double and tuple(value.shape) != (20, 2) else value


class Report:
    """Rows of the table, written as they come."""

    def __init__(self, path: Path, deadline: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)
        self.deadline, self.original, self.ok = deadline, 0.0, True
        from tools.gpu_ops import current_commit

        self._commit = current_commit()

    def add(
        self, case: str, slots: int, kind: tuple[str, str], people: int, seconds: float
    ) -> None:
        """Print and write one row."""
        import torch

        rate = people / seconds if DEVICE != "cpu" else float("nan")
        ratio = f"{rate / self.original:.1f}" if self.original and slots else ""
        place = [device_name(), torch.__version__, self._commit]
        row = [case, slots, *kind, people, f"{seconds:.3f}", f"{rate:.2f}", ratio, *place]
        self._writer.writerow(row)
        self._file.flush()
        print(f"{case:14} {slots:4} slots {'/'.join(kind):12} {rate:9.2f} /s  x{ratio}", flush=True)

    def run(self, what: str, call: Callable[[], None]) -> None:
        """One guarded measurement, while there is time."""
        if time.monotonic() > self.deadline:
            print(f"{what}: no time left", flush=True)
        else:
            self.ok &= guarded(what, call)


def training_step(report: Report) -> None:
    """Forward, keypoint loss, backward and AdamW of the regressor, images per second."""
    import torch

    from eft_fast.body import load_body
    from eft_fast.eft.config import EftConfig
    from eft_fast.losses.keypoints import eft_loss

    body, weights = load_body("open", device=DEVICE), EftConfig().loss

    def steps(count: int, kind: str) -> None:
        network = make_regressor().to(DEVICE).train()
        adam = torch.optim.AdamW(network.parameters(), lr=1e-5)
        img = torch.randn(count, 3, network.input_size, network.input_size, device=DEVICE)
        target = torch.rand(count, 49, 3, device=DEVICE)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"

        def step() -> None:
            half = torch.autocast(DEVICE, torch.bfloat16, enabled=kind == "bf16")
            with half:
                out = network(img)
            points = body.keypoints(
                out.pred_betas.float(), out.pred_rotmat[:, 1:].float(),
                out.pred_rotmat[:, :1].float(), joint_set="spin49", pose2rot=False,
            )  # fmt: skip
            loss = eft_loss(points, out.pred_betas, out.pred_cam, target, weights).total.mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

        rounds = 1 if DEVICE == "cpu" else 5
        step()
        seconds = seconds_of(lambda: [step() for _ in range(rounds)])
        report.add("training step", 0, (kind, "fp32"), rounds * count, seconds)

    for count in TRAINING:
        for kind in TRAINING_KINDS:
            report.run(f"training, {count} images, {kind}", lambda c=count, k=kind: steps(c, k))


def rehearse() -> None:
    """Let everything run on the CPU, small: a few steps of a few people."""
    changes: dict[str, Any] = {
        "DEVICE": "cpu", "STEPS": 2, "SLOTS": (2,), "HEAD_SLOTS": (2,), "PEOPLE": 4,
        "KINDS": (("fp32", "fp32"),), "TRAINING": (2,), "TRAINING_KINDS": ("fp32", "bf16"),
    }  # fmt: skip
    for name, value in changes.items():
        setattr(sys.modules[__name__], name, value)


def measure(report: Report) -> None:
    """Every row: the original first, then slots by precision, then the head alone."""
    from eft_fast.body import load_body
    from eft_fast.eft.config import EftConfig
    from eft_fast.pipeline.dispatch import make_fitter

    cpu_body = load_body("open")
    body, regressor = load_body("open", device=DEVICE), make_regressor().to(DEVICE)
    jobs = make_jobs(cpu_body, regressor.input_size, PEOPLE)

    def original() -> None:
        plain = copy.deepcopy(body)
        plain.backend = "torch"
        loop = OriginalLoop(regressor, plain, EftConfig(threshold=0.0, max_steps=STEPS))
        loop.fit(jobs[0])
        seconds = seconds_of(lambda: [loop.fit(job) for job in jobs[1:4]])
        report.original = 3 / seconds
        report.add("original", 1, ("fp32", "fp32"), 3, seconds)

    def slots(mode: str, count: int, kind: tuple[str, str], people: int) -> None:
        config = EftConfig(threshold=0.0, max_steps=STEPS, precision=kind[0], state=kind[1])
        fitter = make_fitter(regressor, body, method="eft", mode=mode, config=config, slots=count)
        fit_all(fitter, jobs[:count])
        seconds = seconds_of(lambda: fit_all(fitter, jobs[:people]))
        report.add(f"eft {mode}", count, kind, people, seconds)

    report.run("original loop", original)
    report.run("millimetres", lambda: compare_with_cpu(regressor, body, cpu_body, jobs[:2]))
    for count in SLOTS:
        for kind in KINDS:
            report.run(
                f"full, {count} slots, {'/'.join(kind)}",
                lambda count=count, kind=kind: slots("full", count, kind, max(count, 2)),
            )
    for count in HEAD_SLOTS:
        report.run(f"head, {count} slots", lambda n=count: slots("head", n, KINDS[0], PEOPLE))


def joints_of(body: Smpl, fits: list[PersonFit]) -> Tensor:
    """The 49 points of finished fits, millimetres."""
    import torch

    betas, pose = (
        torch.cat([getattr(fit.final, name) for fit in fits]).cpu()
        for name in ("pred_betas", "pred_rotmat")
    )
    with torch.no_grad():
        points = body.keypoints(betas, pose[:, 1:], pose[:, :1], joint_set="spin49", pose2rot=False)
    return 1000 * points


def compare_with_cpu(regressor: Hmr, body: Smpl, cpu_body: Smpl, jobs: list[Prepared]) -> None:
    """Print how far every kind of GPU fit lies from the float32 loop on the CPU."""
    from eft_fast.eft.config import EftConfig
    from eft_fast.eft.loop import LoopFitter
    from eft_fast.pipeline.dispatch import make_fitter

    cpu = copy.deepcopy(regressor).cpu()
    plain = EftConfig(threshold=0.0, max_steps=STEPS)
    want = fit_all(LoopFitter(cpu, cpu_body, config=plain, mode="full"), jobs)
    for precision, state in KINDS:
        config = EftConfig(threshold=0.0, max_steps=STEPS, precision=precision, state=state)
        fitter = make_fitter(regressor, body, method="eft", mode="full", config=config, slots=2)
        got, right = joints_of(cpu_body, fit_all(fitter, jobs)), joints_of(cpu_body, want)
        apart = (got - right).norm(dim=-1)
        print(
            f"GPU {precision}, state {state}, against the CPU: mean {float(apart.mean()):.3f} mm, "
            f"most {float(apart.max()):.3f} mm",
            flush=True,
        )


def main() -> int:
    """Measure for so many seconds; 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=ROOT / "build" / "gpu" / "gpu_eft.csv")
    parser.add_argument("--time", type=float, default=100, metavar="SECONDS", help="for so long")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--exercise", action="store_true", help="only launch every kernel once")
    what.add_argument("--part", choices=("eft", "training"), help="measure this")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small")
    arguments = parser.parse_args()
    import torch

    if arguments.rehearse:
        rehearse()
    elif not torch.cuda.is_available():
        print("gpu_eft: torch sees no GPU; check the driver with nvidia-smi", file=sys.stderr)
        return 2
    if arguments.exercise:
        exercise()
        return 0
    report = Report(arguments.csv, time.monotonic() + arguments.time)
    (measure if arguments.part == "eft" else training_step)(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
