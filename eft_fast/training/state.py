"""What a stopped training run needs to go on, and the schedule that all stages share."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eft_fast.files import whole_file

#: Share of the peak learning rate that is left at the end.
_LAST_RATE = 0.01


class Run:
    """A model, its optimiser and, if asked for, a moving average of the weights.

    Batches and dropout of update i depend on the seed and i only, so a run that is stopped and
    resumed ends with the same weights as one that was not.

    Args:
        model: What is trained.
        groups: Parameter groups of AdamW; ``lr`` of each is its peak.
        config: The stage's frozen dataclass, stored with the state and compared on resuming.
        ema: Decay of the moving average; 0: none.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[dict[str, Any]],
        config: Any,
        *,
        ema: float = 0.0,
    ) -> None:
        self.model = model
        self.config = config
        self.step = 0
        # Fused: an update of five million weights on a CPU takes 20 ms instead of 33.
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self._decay = ema
        self._average = {k: v.clone() for k, v in model.state_dict().items()} if ema else {}
        self.best_score = math.inf
        self._best: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether all updates are done."""
        return bool(self.step >= self.config.steps)

    def generator(self) -> torch.Generator:
        """Return the generator of this update's batch, and seed dropout."""
        seed = self.config.seed * 1_000_003 + self.step
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    def update(self, loss: Tensor) -> float:
        """Take one step of the optimiser; return the loss."""
        rate = learning_rate(self.step, self.config.steps, self.config.warmup)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.config.max_norm)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return float(loss.detach())

    def _follow(self) -> None:
        # A young average forgets faster, or it would hold on to the start.
        decay = min(self._decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if name in self._average:
                self._average[name].lerp_(value.detach(), 1 - decay)

    def validate_when_due(self, score: Callable[[nn.Module], float] | None) -> float | None:
        """Score the weights that would be kept; remember them if none were better.

        Args:
            score: Lower is better; called with a copy of the model in evaluation mode.

        Returns:
            The score, or None if it is not due.
        """
        if score is None or (self.step % self.config.validate_every and not self.finished):
            return None
        kept = copy.deepcopy(self.model)
        if self._average:
            kept.load_state_dict(self._average)
        value = score(kept.eval())
        if value < self.best_score:
            self.best_score = value
            self._best = {k: v.clone() for k, v in kept.state_dict().items()}
        return value

    def finish(self) -> None:
        """Put into the model what is kept: the best weights, else the average, else the last."""
        if self._best or self._average:
            self.model.load_state_dict(self._best or self._average)
        self.model.eval()

    def save(self, path: Path) -> None:
        """Write the state; the file is there whole or not at all."""
        state = {
            "step": self.step,
            "config": repr(asdict(self.config)),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self._average,
            "best": self._best,
            "best_score": self.best_score,
        }
        with whole_file(path) as file:
            torch.save(state, file)

    def save_when_due(
        self, path: Path | None, every: int, on_save: Callable[[], None] | None
    ) -> None:
        """Save every so many updates and at the end, if there is a file to save to."""
        if path is None or (self.step % every and not self.finished):
            return
        self.save(path)
        if on_save is not None:
            on_save()

    def resume(self, path: Path) -> bool:
        """Go on from a file, if it is there.

        Raises:
            ValueError: If the file is of a run with other options.
        """
        if not path.is_file():
            return False
        state = torch.load(path, weights_only=True)
        mine = repr(asdict(self.config))
        if state["config"] != mine:
            raise ValueError(
                f"Run.resume: {path} is of a run with options {state['config']}, got {mine}; "
                "remove it, or train in another folder"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]
        self._best, self.best_score = state["best"], state["best_score"]
        self.step = state["step"]
        return True


def append_log(state: Path, **values: float) -> None:
    """Add a line of JSON to the log beside a state file."""
    with open(state.with_suffix(".jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate: linear warm-up, then cosine to 1 %."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(steps, 1))))
    return rise * (_LAST_RATE + (1 - _LAST_RATE) * fall)


def choose(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Return [count] bool, true with probability ``share``."""
    return torch.rand(count, generator=generator) < share
