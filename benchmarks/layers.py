"""Ways to compute a convolution with private weights, per layer: ``python -m benchmarks.layers``.

For every kind of layer of ResNet-50 and of the open regressor's trunk: forward and backward of all
slots by each way of ``StackedConv2d``, beside one call per slot (``one_by_one``). Printed are
milliseconds per slot and the ratio to ``one_by_one``; the last column is what the fitter chooses.
``shared`` is the first step, where all slots still have the start weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks import timing
from eft_fast.eft.batched.layers import StackedConv2d, StackedRegressor
from eft_fast.eft.modes import leaves, share
from eft_fast.models import load_regressor
from eft_fast.models.base import Regressor
from eft_fast.models.hmr import Hmr

WAYS = ("one_by_one", "grouped", "unfolded", "as_product", "shared")


def find_layers(regressor: Regressor) -> Iterator[tuple[str, nn.Conv2d, tuple[int, ...]]]:
    """Each convolution that differs from those before in shape or in input, and that input."""
    sizes: dict[int, tuple[int, ...]] = {}
    network, _ = share(regressor)
    hooks = [
        layer.register_forward_pre_hook(
            lambda module, inputs: sizes.__setitem__(id(module), tuple(inputs[0].shape[1:]))
        )
        for _, _, layer in leaves(network)
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, regressor.input_size, regressor.input_size))
    for hook in hooks:
        hook.remove()
    seen: set[tuple[object, ...]] = set()
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d) or id(layer) not in sizes:
            continue
        kind = (layer.weight.shape, layer.stride, layer.groups, sizes[id(layer)])
        if kind not in seen:
            seen.add(kind)
            yield name, layer, sizes[id(layer)]


def ways_of(layer: nn.Conv2d) -> list[str]:
    """Those that can compute it."""
    is_pointwise = layer.kernel_size == (1, 1) and layer.groups == 1
    return [
        way
        for way in WAYS
        if (way != "unfolded" or layer.groups == 1) and (way != "as_product" or is_pointwise)
    ]


class _One(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def make_job(
    layer: nn.Conv2d, size: tuple[int, ...], slots: int, way: str
) -> tuple[Callable[[], Tensor], str]:
    """Forward and backward of all slots, and the way that the fitter would choose."""
    stack = StackedRegressor(_One(layer), list(layer.parameters()), slots)
    (twin,) = stack.layers
    assert isinstance(twin, StackedConv2d)
    x = torch.randn(slots, *size)
    chosen = twin.choose(x)
    stack.set_at_start(way == "shared")
    if way != "shared":
        twin.choose = lambda _: way  # type: ignore[method-assign]
    x.requires_grad_(size[0] != 3)

    def job() -> Tensor:
        stack.narrow(slots)
        out = stack.network(x)
        x.grad = None
        out.backward(out.detach())
        return out.detach()

    return job, chosen


def measure(name: str, layer: nn.Conv2d, size: tuple[int, ...], slots: int, rounds: int) -> str:
    """One line of the table."""
    jobs, chosen = {}, ""
    for way in ways_of(layer):
        jobs[way], chosen = make_job(layer, size, slots, way)
    times = timing.time_interleaved(jobs, rounds, 0.05)
    medians = {way: statistics.median(values) / slots for way, values in times.items()}
    base = medians["one_by_one"]
    shape = "x".join(str(n) for n in layer.weight.shape)
    cells = " ".join(
        f"{medians[way]:9.3f} {base / medians[way]:5.2f}x" if way in medians else " " * 16
        for way in WAYS
    )
    private = {way: value for way, value in medians.items() if way != "shared"}
    best = min(private, key=private.__getitem__)
    note = "" if best == chosen else f"  (fastest: {best})"
    return f"{name:34s} {shape:>14s} at {size[1]:3d} {cells}  {chosen}{note}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers")
    parser.add_argument("--networks", nargs="+", choices=("hmr", "open"), default=["hmr", "open"])
    parser.add_argument("--only", default="", metavar="TEXT", help="layers whose name holds it")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = timing.parse_timed(parser, arguments)
    print(f"{'layer':34s} {'weight':>14s} {'':6s} " + " ".join(f"{way:>16s}" for way in WAYS))
    for name in options.networks:
        regressor = Hmr().eval() if name == "hmr" else load_regressor()
        for place, layer, size in find_layers(regressor):
            if options.only not in place:
                continue
            print(
                measure(f"{name} {place}", layer, size, options.slots, options.rounds), flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
