"""Break the fitter in one way after another and see that its tests notice.

``python -m tests.eft.mutants [NAME ...]`` runs, for each mutant, the tests that are there to
notice it: once as the code is, where they must pass, and once with the mutant, where one must fail.
A mutant that survives shows a hole in the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eft_fast.eft import loop as eft
from eft_fast.eft import modes
from eft_fast.eft.batched import functional_weights as slotwise
from eft_fast.eft.batched import layers as stacked
from eft_fast.eft.batched import slots
from eft_fast.eft.batched.adam import StackedAdam
from eft_fast.pipeline.fitter import FitRecords, StopRule

VARIABLE = "EFT_FAST_MUTANT"
REPO = Path(__file__).resolve().parent.parent.parent
ADAM = "test_batched_layers.py::test_stacked_adam_is_adam_per_slot"
LOOP = "test_loop.py::test_loop_equals_reference[full]"
BATCH = "test_slots.py::test_batch_equals_loop_in_float64[full-4-True]"
REFILL = "test_slots.py::test_refilled_slots_equal_fresh_ones[2-batched]"
ISOLATION = "test_slots.py::test_a_bad_person_leaves_the_others_bits_alone[full-nan_image-batched]"
EXACT = "test_precision.py::test_float32_slots_are_exact[batched]"


def change_adam(before: Callable[..., Any] | None = None, after: Any = None) -> None:
    """Run the optimiser's step with other gradients, or change its state behind it."""
    step = StackedAdam.step

    def changed(self: StackedAdam, grads: list[Tensor | None], first: int = 0) -> None:
        step(self, grads if before is None else before(grads), first)
        if after is not None:
            after(self, grads, first)

    StackedAdam.step = changed  # type: ignore[method-assign]


def mean_over_the_batch() -> None:
    """The loss is averaged over people."""
    change_adam(lambda grads: [None if g is None else g / len(g) for g in grads])


def second_moment_shared() -> None:
    """One ``v`` for all people."""

    def share(adam: StackedAdam, grads: list[Tensor | None], first: int) -> None:
        for state, grad in zip(adam._state, grads, strict=True):
            if grad is not None:
                rows = state.second[first : first + len(grad)]
                rows.copy_(state.second.mean(0, keepdim=True).expand_as(rows))

    change_adam(after=share)


def time_goes_on_after_a_refill() -> None:
    """A new person in a slot inherits the time of the last one."""
    reset = StackedAdam.reset

    def changed(self: StackedAdam, slot: int) -> None:
        kept = self.time[slot].clone()
        reset(self, slot)
        self.time[slot] = kept

    StackedAdam.reset = changed  # type: ignore[method-assign]


def moments_stay_after_a_refill() -> None:
    """A new person in a slot inherits the moments of the last one."""

    def changed(self: StackedAdam, slot: int) -> None:
        self.time[slot] = 0
        for state in self._state:
            state.storage[slot].zero_()

    StackedAdam.reset = changed  # type: ignore[method-assign]


def epsilon_inside_the_root() -> None:
    """``m / sqrt(v + eps)``."""

    @torch.no_grad()
    def changed(self: StackedAdam, grads: list[Tensor | None], first: int = 0) -> None:
        beta1, beta2 = self._config.adam_betas
        for state, grad in zip(self._state, grads, strict=True):
            if grad is None:
                continue
            rows = slice(first, first + len(grad))
            time = self.time[rows] + 1
            shape = (-1,) + (1,) * (grad.ndim - 1)
            state.first[rows].lerp_(grad, 1 - beta1)
            state.second[rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            mean = state.first[rows] / (1 - beta1 ** time.to(grad)).reshape(shape)
            square = state.second[rows] / (1 - beta2 ** time.to(grad)).reshape(shape)
            state.storage[rows] -= self._lr * mean / (square + self._config.adam_eps).sqrt()
        self.time[first : first + next(len(g) for g in grads if g is not None)] += 1

    StackedAdam.step = changed  # type: ignore[method-assign]


def batch_norm_folded() -> None:
    """The scale of batch normalisation is multiplied into the weights that are trained."""
    make = slots.make_network

    def changed(regressor: Any, *arguments: Any) -> Any:
        folded, _ = modes.share(regressor, list(regressor.parameters()))
        layers = dict(folded.named_modules())
        for name, norm in layers.items():
            if isinstance(norm, nn.BatchNorm2d):
                head, _, tail = name.rpartition("bn")
                before = layers[f"{head}conv{tail}" if tail else name[:-1] + "0"]
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                shift = norm.bias - norm.running_mean * scale
                before.weight.data.mul_(scale.detach()[:, None, None, None])
                norm.weight.data.copy_((norm.running_var + norm.eps).sqrt())
                norm.bias.data.copy_(shift.detach() + norm.running_mean)
        return make(folded, *arguments)

    slots.make_network = changed  # type: ignore[assignment]


def answer_after_the_last_update() -> None:
    """What is returned was never seen by the stop test: one update more."""
    codes, fit = StopRule.codes, FitRecords.fit

    def late(self: StopRule, error: Tensor, time: Tensor, **known: Tensor) -> Tensor:
        return codes(replace(self, max_steps=self.max_steps + 1), error, time, **known)

    def counted(self: FitRecords, *arguments: Any) -> Any:
        found = fit(self, *arguments)
        return replace(found, steps=max(found.steps - 1, 0))

    StopRule.codes, FitRecords.fit = late, counted  # type: ignore[method-assign]


def change_share(kind: type[nn.Module]) -> None:
    """Leave some layers of every private network in training mode."""
    share = modes.share

    def changed(*arguments: Any) -> Any:
        copy, parameters = share(*arguments)
        for module in copy.modules():
            if isinstance(module, kind):
                module.train()
        return copy, parameters

    for user in (eft, slotwise, stacked, modes, slots):
        user.share = changed  # type: ignore[attr-defined]


def batch_norm_in_training_mode() -> None:
    """Statistics of the batch instead of the stored ones."""
    change_share(nn.BatchNorm2d)


def dropout_on() -> None:
    """Dropout acts."""
    change_share(nn.Dropout)


def batch_norm_tuned() -> None:
    """The scale and shift of batch normalisation are tuned, too."""
    modes._without_batch_norm = lambda _, parameters: list(parameters)


def weights_in_bfloat16() -> None:
    """Weights, not differences, are stored in bfloat16."""
    narrow = stacked.StackedLayer.narrow

    def changed(self: Any, active: int) -> None:
        for name, storage in self.storage.items():
            start = self.start[name]
            storage.copy_((start + storage).to(torch.bfloat16).to(start) - start)
        narrow(self, active)

    stacked.StackedLayer.narrow = changed  # type: ignore[method-assign]


def stop_before_the_test() -> None:
    """Whoever converges at this pass makes one update more."""
    codes = StopRule.codes
    waits: set[int] = set()

    def changed(self: StopRule, error: Tensor, time: Tensor, **known: Tensor) -> Tensor:
        code = codes(self, error, time, **known)
        for place in ((code == 1) & (time > 0)).nonzero()[:, 0].tolist():
            if place in waits:
                waits.discard(place)
            else:
                waits.add(place)
                code[place] = 0
        return code

    StopRule.codes = changed  # type: ignore[method-assign]


def stop_at_equality() -> None:
    """Everybody who reaches the last step but one stops there."""
    codes = StopRule.codes

    def early(self: StopRule, error: Tensor, time: Tensor, **known: Tensor) -> Tensor:
        return codes(replace(self, max_steps=max(1, self.max_steps - 1)), error, time, **known)

    StopRule.codes = early  # type: ignore[method-assign]


def bad_rows_in_the_sum() -> None:
    """The gradient of everybody is scaled by whether everybody is finite."""
    change_adam(
        lambda grads: [
            None if g is None else g * torch.isfinite(g).all().to(g).clamp(min=0.5) for g in grads
        ]
    )


#: What breaks, and the test that must notice.
MUTANTS: dict[str, tuple[Callable[[], None], str]] = {
    each.__name__: (each, test)
    for each, test in (
        (mean_over_the_batch, ADAM),
        (second_moment_shared, BATCH),
        (time_goes_on_after_a_refill, REFILL),
        (moments_stay_after_a_refill, REFILL),
        (epsilon_inside_the_root, BATCH),
        (batch_norm_folded, BATCH),
        (answer_after_the_last_update, BATCH),
        (batch_norm_in_training_mode, LOOP),
        (dropout_on, LOOP),
        (batch_norm_tuned, LOOP),
        (weights_in_bfloat16, EXACT),
        (stop_before_the_test, REFILL),
        (stop_at_equality, BATCH),
        (bad_rows_in_the_sum, ISOLATION),
    )
}


def pytest_configure() -> None:
    """As a plugin of pytest: break what the environment names."""
    name = os.environ.get(VARIABLE)
    if name:
        MUTANTS[name][0]()


def run_tests(mutant: str, tests: list[str]) -> tuple[int, str]:
    """Run tests with a mutant, or with none; the exit status and the line that says it all."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no"]
    command += ["-p", "tests.eft.mutants"]
    command += [str(REPO / "tests" / "eft" / test) for test in tests]
    run = subprocess.run(
        command,
        cwd=REPO,
        env={**os.environ, VARIABLE: mutant},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return run.returncode, (failed or lines or [run.stderr[-200:]])[-1]


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(MUTANTS))
    if unknown:
        print(f"mutants: no mutant {unknown[0]}; there are {', '.join(MUTANTS)}", file=sys.stderr)
        return 2
    chosen = names or list(MUTANTS)
    code, line = run_tests("", sorted({MUTANTS[name][1] for name in chosen}))
    print(f"{'(unchanged)':30s} {'passes' if code == 0 else 'FAILS':9s} {line}", flush=True)
    bad = int(code != 0)
    for name in chosen:
        start = time.perf_counter()
        code, line = run_tests(name, [MUTANTS[name][1]])
        verdict = {0: "SURVIVES", 1: "noticed"}.get(code, f"ERROR {code}")
        bad += code != 1
        seconds = time.perf_counter() - start
        print(f"{name:30s} {verdict:9s} {seconds:5.0f} s  {line}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
