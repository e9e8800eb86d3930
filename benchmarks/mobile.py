"""BlazePose on the CPU, by its own operators and by torch's: ``python -m benchmarks.mobile``.

``ours`` is what ``eft_fast.ops.mobile`` does; ``torch`` is the same network by ``F.conv2d`` alone,
in the order of channels that it is given. Both take turns in one process. Then the same for every
kind of depthwise layer with the channels last, forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks import timing
from benchmarks.eft import CONFIG, make_jobs
from benchmarks.layers import find_layers
from benchmarks.peers import body
from eft_fast.models import load_regressor
from eft_fast.models import mobile as layers
from eft_fast.models.base import Regressor
from eft_fast.ops import mobile
from eft_fast.ops.mobile import DepthwiseForm, depthwise_conv2d
from eft_fast.pipeline.dispatch import make_fitter


@contextmanager
def torch_alone() -> Iterator[None]:
    """Let torch's convolutions do everything."""
    before = mobile.runs_natively
    mobile.runs_natively = layers.runs_natively = lambda x, weight: False  # type: ignore
    try:
        yield
    finally:
        mobile.runs_natively = layers.runs_natively = before


def network_jobs(regressor: Regressor, people: int) -> dict[str, Callable[[], object]]:
    """Inference and one step of one person, an update from stored maps, and whole fits."""
    trunk: Any = regressor.trunk
    img, maps = torch.randn(1, 3, 256, 256), torch.randn(16, 88, 16, 16)
    maps = maps.contiguous(memory_format=torch.channels_last)
    jobs = make_jobs(regressor, people)

    def clear() -> None:
        for parameter in regressor.parameters():
            parameter.grad = None

    def infer() -> None:
        with torch.no_grad():
            regressor(img)

    def step() -> None:
        output = regressor(img)
        sum(value.square().sum() for value in output).backward()  # type: ignore[union-attr]
        clear()

    def update() -> None:
        trunk.run_to_features(4, maps).square().sum().backward()
        clear()

    def fit() -> None:
        fitter = make_fitter(regressor, body(), method="eft", mode="full", config=CONFIG)
        list(fitter.fit(jobs))

    return {
        "inference, batch 1": infer,
        "forward and backward, batch 1": step,
        "from stage 4, batch 16": update,
        f"fits of {people}, 20 steps": fit,
    }


def layer_job(layer: nn.Conv2d, size: tuple[int, ...], batch: int) -> Callable[[], object]:
    """Clamp, convolution and clamp, forward and backward."""
    x = torch.randn(batch, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    before = int(layer.padding[0])
    form = DepthwiseForm(layer.stride[0], before, before, True, True)
    assert layer.bias is not None
    weight, bias = (each.detach().requires_grad_() for each in (layer.weight, layer.bias))

    def job() -> None:
        y = depthwise_conv2d(x, weight, bias, form)
        torch.autograd.grad(y, [x, weight, bias], y.detach())

    return job


def measure(name: str, job: Callable[[], object], rounds: int, seconds: float) -> str:
    """One line: medians and their ratio."""

    def by_torch() -> None:
        with torch_alone():
            job()

    times = timing.time_interleaved({"ours": job, "torch": by_torch}, rounds, seconds)
    ours, theirs = (statistics.median(times[way]) for way in ("ours", "torch"))
    return f"{name:44s} ours {ours:9.3f}  torch {theirs:9.3f} ms  ratio {theirs / ours:5.2f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mobile")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="of the layers")
    parser.add_argument("--people", type=int, default=4, help="of the fits")
    parser.add_argument("--rounds", type=int, default=7)
    options = timing.parse_timed(parser, arguments)
    regressor = load_regressor()
    for name, job in network_jobs(regressor, options.people).items():
        print(measure(name, job, options.rounds, 0.2), flush=True)
    for place, layer, size in find_layers(regressor):
        for batch in options.batch if layer.groups > 1 else ():
            shape = f"{place.removeprefix('trunk.')} {layer.kernel_size[0]}/{layer.stride[0]}"
            label = f"{shape} {batch}x{size[0]}x{size[1]}x{size[2]}"
            print(measure(label, layer_job(layer, size, batch), options.rounds, 0.02), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
