"""Layers, people and the plain Adam that the per-slot kernels are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.cuda_emulator.slot_call import FLOAT32, TF32, THREE_TF32, Clock, Layer, State

#: Layers of ResNet-50 and BlazePose scaled down, and odd ones.
LAYERS = {
    "stem": Layer(3, 10, (23, 21), (7, 7), (2, 2), (3, 3)),
    "1x1": Layer(37, 70, (7, 9)),
    "1x1-wide": Layer(70, 130, (5, 5)),
    "1x1-stride": Layer(12, 20, (9, 8), stride=(2, 2)),
    "3x3": Layer(17, 66, (9, 7), (3, 3), padding=(1, 1)),
    "3x3-stride": Layer(9, 5, (10, 7), (3, 3), (2, 2), (1, 1)),
    "2x2-output": Layer(8, 12, (2, 2), (2, 2)),
    "oblong": Layer(3, 4, (8, 11), (2, 3), (3, 1), (0, 2), (1, 2)),
    "dilated-stride": Layer(4, 3, (13, 12), (3, 3), (2, 2), (2, 2), (2, 3)),
    "depthwise": Layer(11, 11, (9, 7), (3, 3), padding=(1, 1), groups=11),
    "depthwise-stride": Layer(6, 6, (9, 10), (5, 5), (2, 2), (2, 2), groups=6),
    "depthwise-no-padding": Layer(5, 5, (9, 9), (3, 3), (2, 2), groups=5),
    "grouped": Layer(6, 9, (7, 8), (3, 3), (2, 1), (1, 0), groups=3),
    "in-parts": Layer(3, 5, (41, 40), (3, 3), padding=(1, 1)),
    # What the fast ways of float32 take: sixteen channels at a time, in fours or not.
    "fast-1x1": Layer(64, 144, (4, 5)),
    "fast-1x1-odd": Layer(64, 128, (5, 3)),
    "fast-3x3": Layer(64, 32, (6, 6), (3, 3), padding=(1, 1)),
    "fast-3x3-odd": Layer(64, 128, (3, 5), (3, 3), padding=(1, 1)),
    "fast-stride": Layer(16, 16, (9, 8), (3, 3), (2, 2), (1, 1)),
    "fast-1x1-stride": Layer(20, 16, (9, 7), stride=(2, 2)),
}
DTYPES = [torch.float32, torch.float64]
PEOPLE = [1, 3]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}  # over the largest entry of a slot
GRADE = {FLOAT32: 2e-6, THREE_TF32: 4e-6, TF32: 3e-3}


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Numbers that float32 holds."""
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).float().double()


def assert_near(got: Tensor, want: Tensor, tolerance: float, what: str = "") -> None:
    """Errors against the largest entry of each slot."""
    scale = want.flatten(1).abs().amax(1).clamp(min=1e-30).reshape(-1, *[1] * (want.ndim - 1))
    error = ((got.double() - want) / scale).abs()
    assert not got.isnan().any(), what
    assert not (error > tolerance).any(), f"{what}: {float(error.max()):.2e}"


def make_weights(layer: Layer, people: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start and delta of weights and bias; deltas as large as the start, so that each counts."""
    shape = layer.weight_shape
    return draw(*shape), draw(people, *shape), draw(layer.cout), draw(people, layer.cout)


def make_state(*shape: int, dtype: torch.dtype = torch.float32, **options: int) -> State:
    """Delta and moments of somebody in the middle of a fit; second moments are never negative."""
    parts = draw(*shape), draw(*shape, seed=1), draw(*shape, seed=2).square()
    return State(*(part.to(dtype) for part in parts), **options)


def convolve(layer: Layer, x: Tensor, start: Tensor, delta: Tensor | None) -> Tensor:
    weights = start.expand(len(x), *start.shape) if delta is None else start + delta
    return torch.stack([layer.convolve(*pair) for pair in zip(x, weights, strict=True)])


class Reference:
    """torch.optim.Adam on one person's weight, with gradients given from outside."""

    def __init__(self, start: Tensor, state: State, steps_before: int) -> None:
        self.start = start
        self.weight = torch.zeros_like(start, requires_grad=True)
        self.adam = torch.optim.Adam([self.weight], lr=state.lr, betas=state.betas, eps=state.eps)
        for step in range(steps_before):
            self.step(draw(*start.shape, seed=100 + step) * 10.0 ** (-step))

    def step(self, grad: Tensor) -> None:
        self.weight.grad = grad
        self.adam.step()

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        if not self.adam.state:
            return torch.zeros_like(self.start), torch.zeros_like(self.start)
        (state,) = self.adam.state.values()
        return state["exp_avg"], state["exp_avg_sq"]


def start_adam(
    start: Tensor, times: list[int], dtype: torch.dtype
) -> tuple[list[Reference], State, Clock]:
    """People with so many updates behind them; a new person's state is somebody else's NaN."""
    blank = torch.full((len(times), *start.shape), torch.nan, dtype=dtype)
    state = State(blank.clone(), blank.clone(), blank.clone())
    people = [Reference(start, state, time) for time in times]
    for slot, person in enumerate(people):
        if times[slot] > 0:
            values = (person.weight.detach(), *person.moments)
            for target, value in zip((state.delta, state.first, state.second), values, strict=True):
                target[slot] = value.to(dtype)
    return people, state, Clock(torch.tensor(times, dtype=torch.int32))


def assert_adam(people: list[Reference], state: State, tolerance: float) -> None:
    stack = (torch.stack([p.weight.detach() for p in people]),)
    stack += tuple(torch.stack(list(m)) for m in zip(*(p.moments for p in people), strict=True))
    for name, got, want in zip(
        ("delta", "m", "v"), (state.delta, state.first, state.second), stack, strict=True
    ):
        assert_near(got, want, tolerance, name)
