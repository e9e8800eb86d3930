"""Draw and train on one device: images per second, and a training run of so many minutes.

    python tools/gpu_train.py --minutes 10 --motion cmu --backgrounds photos

Part of ``make gpu``, where EFT_FAST_GPU_TRAIN_MINUTES gives the minutes (default 0.5), and
EFT_FAST_GPU_TRAIN_MOTION and EFT_FAST_GPU_TRAIN_BACKGROUNDS the folders; without the first, poses
come from the prior that ships. The run starts from the shipped regressor and writes its weights and
a CSV of what was measured.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import torch

    from eft_fast.models.open_regressor import OpenRegressor
    from eft_fast.synth.stream import SynthBatches

COLUMNS = ("what", "batch", "images_per_second", "value", "device", "torch")
#: Updates before anything is timed, and updates that give the time of one.
WARM_UP, TIMED = 3, 10


def parse() -> argparse.Namespace:
    """Options; the environment gives defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    env = os.environ.get
    parser.add_argument(
        "--minutes", type=float, default=float(env("EFT_FAST_GPU_TRAIN_MINUTES", "0.5"))
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--motion", default=env("EFT_FAST_GPU_TRAIN_MOTION"))
    parser.add_argument("--backgrounds", default=env("EFT_FAST_GPU_TRAIN_BACKGROUNDS"))
    parser.add_argument("--batch", type=int, default=128, help="of training")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256], help="of drawing")
    parser.add_argument("--poses", type=int, default=20_000, help="of the bank")
    parser.add_argument("--bank", type=int, default=256, help="outfits and pictures of the bank")
    parser.add_argument("--held-out", type=int, default=512, help="pictures of the score")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_train")
    return parser.parse_args()


def make_stream(options: argparse.Namespace, split: str, batch: int) -> SynthBatches:
    """A stream of one split on the device."""
    import torch

    from eft_fast.body import load_body
    from eft_fast.synth import make_renderer
    from eft_fast.synth.stream import BankSize, SynthBatches

    renderer = make_renderer(load_body(), options.motion, split, backgrounds=options.backgrounds)
    size = BankSize(options.poses, options.bank, options.bank)
    return SynthBatches(renderer, torch.device(options.device), batch=batch, bank=size)


def seconds_of(call: Callable[[int], object], device: torch.device) -> float:
    """Seconds per call, after a warm-up."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for step in range(WARM_UP):
        call(step)
    wait()
    start = time.perf_counter()
    for step in range(TIMED):
        call(step)
    wait()
    return (time.perf_counter() - start) / TIMED


def score(network: OpenRegressor, stream: SynthBatches, count: int) -> dict[str, float]:
    """Errors on held-out pictures, which every call draws alike."""
    import torch

    from eft_fast.models.base import RegressorOutput
    from eft_fast.training.measure import score_output
    from eft_fast.training.stream import RenderedStream
    from eft_fast.training.targets import Targets

    source = RenderedStream(stream)
    outputs, people = [], []
    network.eval()
    with torch.no_grad():
        for number in range(-(-count // stream.batch)):
            inputs, targets = source.draw(number)
            outputs.append(network(inputs))
            people.append(targets)
    output = RegressorOutput(*(torch.cat(part).cpu() for part in zip(*outputs, strict=True)))
    labels = Targets(*(torch.cat(part).cpu() for part in zip(*people, strict=True)))
    from eft_fast.body import load_body

    return score_output(output, labels, load_body()).summary()


def main() -> int:
    """Measure, train, measure; 0 if everything ran."""
    options = parse()
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu_train: torch sees no GPU; check with eft-fast doctor", file=sys.stderr)
        return 2
    from eft_fast.models.open_file import load_open_regressor, save_open_regressor
    from eft_fast.training.config import FinetuneConfig
    from eft_fast.training.finetune import finetune
    from eft_fast.training.stream import RenderedStream

    device = torch.device(options.device)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[object, ...]] = []

    def row(what: str, batch: int, speed: float | str, value: float | str = "") -> None:
        rows.append((what, batch, speed, value, place, torch.__version__))
        print(f"{what:28} batch {batch:5} {speed:>12} images/s {value}", flush=True)

    stream = make_stream(options, "train", options.batch)
    for batch in options.batches:
        stream.batch = batch
        row("drawing", batch, f"{batch / seconds_of(stream.get, device):.1f}")
    stream.batch = options.batch
    weights = ROOT / "eft_fast" / "assets" / "open_regressor.npz"
    network = load_open_regressor(weights).to(device)
    held_out = make_stream(options, "test", min(options.batch, options.held_out))
    for name, value in score(network, held_out, options.held_out).items():
        row(f"before: {name}", options.batch, "", f"{value:.4g}")
    source = RenderedStream(stream)
    trial = FinetuneConfig(steps=WARM_UP + TIMED, batch=options.batch, frozen_stages=0, warmup=1)
    start = time.perf_counter()
    finetune(network, stream.body, source, None, trial)
    each = (time.perf_counter() - start) / trial.steps
    steps = max(int(60 * options.minutes / each), 1)
    network = load_open_regressor(weights).to(device)
    start = time.perf_counter()
    losses = finetune(network, stream.body, source, None, replace(trial, steps=steps, warmup=100))
    seconds = time.perf_counter() - start
    row("training", options.batch, f"{options.batch * steps / seconds:.1f}", f"{steps} updates")
    tenth = max(len(losses) // 10, 1)
    row("loss, first tenth", options.batch, "", f"{sum(losses[:tenth]) / tenth:.4f}")
    row("loss, last tenth", options.batch, "", f"{sum(losses[-tenth:]) / tenth:.4f}")
    for name, value in score(network, held_out, options.held_out).items():
        row(f"after: {name}", options.batch, "", f"{value:.4g}")
    save_open_regressor(
        network.cpu(), options.out / "regressor.npz", licence="Apache-2.0", source_sha256=""
    )
    with (options.out / "gpu_train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print(f"weights and rows are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
