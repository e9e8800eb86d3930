"""Methods side by side on rendered people whose truth is known.

Everybody sees the same pictures and the same 17 keypoints; truth is the body that was drawn.
``eft-fast eval openbench`` draws its own people by the rules of training's test split
(``SynthConfig``, split "test": the same occluders, cuts and companions) from a seed of its own.
Picture i depends on the seed, the split and i alone: ``--seed 0`` with the motion and photographs
of a training run gives the very pictures of its test split.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from eft_fast import imaging
from eft_fast.eft.config import EFT_MODES, EftConfig
from eft_fast.eft.loop import LoopFitter
from eft_fast.eft.loss import EftLoss, EftTarget
from eft_fast.evaluation.bench_people import BenchPeople
from eft_fast.evaluation.bench_scores import (
    MeasuredBody,
    MethodScore,
    measure_body,
    quick_score,
    score,
)
from eft_fast.keypoints import to_spin49
from eft_fast.map_fit.config import SOLVER_ONLY, MapConfig
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.error_covariance import find_error_covariance
from eft_fast.pipeline.dispatch import make_fitter
from eft_fast.pipeline.predict import RegressorFitter
from eft_fast.pipeline.prepare import Prepared
from eft_fast.smplify.config import PRIORS, RECIPES, SmplifyConfig, resolve_recipe
from eft_fast.smplify.fit import fit_smplify
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.smplify.spin import SpinConfig, SpinTrainer

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Passes of the EFT runs that are followed, to compare methods where their 2D errors are equal.
LONG_PASSES: Final = 50
#: Learning rate of the run that moves the head alone.
HEAD_LR: Final = 1e-4
#: Learning rate of the run that moves the last stage. The only one tried, and looked at on the
#: first 32 people of the bench's own set: its rows are no independent test of this choice.
LAYER4_LR: Final = 1e-5
#: Rounds of the SPIN-style refit over the whole set, and pictures of one of its updates.
_SPIN_ROUNDS: Final = 3
_SPIN_BATCH: Final = 16


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: Its name.
        method: ``none``, ``eft``, ``map``, ``spin``, or a recipe of SMPLify.
        mode: What EFT tunes.
        config: Options.
        is_followed: Whether the errors after each pass of EFT are kept.
    """

    name: str
    method: str
    mode: str
    config: EftConfig | MapConfig | SmplifyConfig
    is_followed: bool = False


def default_methods(regressor: Regressor | None = None) -> tuple[Method, ...]:
    """The regressor, EFT in its modes, map, a SPIN-style refit, every recipe with every prior.

    Args:
        regressor: Modes that it does not have are left out, and the direct fit if its error
            covariance is not known; None: all methods.
    """
    stages = EFT_MODES if regressor is None else regressor.stages
    modes = [mode for mode in EFT_MODES[1:] if mode in (*stages, "lora")]
    rows = [
        Method("regressor", "none", "full", EftConfig()),
        Method("eft", "eft", "full", EftConfig()),
        *_followed_methods(modes),
        *(_direct_methods() if _is_known(regressor) else ()),
        Method("eft_released", "eft", "full", EftConfig.released()),
        *(Method(f"eft_{mode}", "eft", mode, EftConfig()) for mode in modes),
        Method("spin_refit", "spin", "full", SmplifyConfig(recipe="smplify_spin")),
    ]
    for start in ("regressor", "mean"):
        for recipe in RECIPES:
            for prior in PRIORS:
                # An anchor to the mean pose is no prior that anybody uses.
                if prior == "anchor" and start == "mean":
                    continue
                name = f"{recipe}_{prior}" + ("_mean" if start == "mean" else "")
                config = SmplifyConfig(recipe=recipe, prior=prior, start=start)
                rows.append(Method(name, recipe, prior, config))
    return tuple(rows)


def _direct_methods() -> tuple[Method, ...]:
    """The direct fit as it is, with the weak camera, and its solver alone."""
    return (
        Method("map", "map", "full", MapConfig()),
        Method("map_weak", "map", "full", MapConfig(distance=None)),
        Method("map_solver_only", "map", "full", SOLVER_ONLY),
    )


def _is_known(regressor: Regressor | None) -> bool:
    """Whether the usual error of a regressor is known; that of nobody in particular is."""
    if not isinstance(regressor, Regressor):
        return True
    return find_error_covariance(regressor) is not None


def _followed_methods(modes: Sequence[str]) -> list[Method]:
    """Released EFT of all weights at the published rate, of the last stage and of the head."""
    rates = {"full": None, "layer4": LAYER4_LR, "head": HEAD_LR}
    return [
        Method(
            "eft_long" if mode == "full" else f"eft_{mode}_long",
            "eft",
            mode,
            EftConfig.released(lr=lr, max_steps=LONG_PASSES, threshold=0.0),
            is_followed=True,
        )
        for mode, lr in rates.items()
        if mode == "full" or mode in modes
    ]


def run_bench(
    regressor: Regressor,
    body: Smpl,
    people: BenchPeople,
    methods: tuple[Method, ...],
    *,
    on_method: Callable[[str], None] | None = None,
) -> Iterator[MethodScore]:
    """Fit everybody by every method, one method after the other.

    Raises:
        ValueError: If the pictures are not of the regressor's size.
    """
    size = regressor.input_size
    if people.image.shape[1:] != (size, size, 3):
        raise ValueError(
            f"openbench: {regressor.id} takes crops of {size} px, got "
            f"{list(people.image.shape[1:3])}; render the set in that size"
        )
    bench = _Bench(regressor, body, people, [each for each in methods if each.is_followed])
    for method in methods:
        if on_method is not None:
            on_method(method.name)
        yield bench.run(method)


@dataclass
class _Followed:
    """Answers of everybody after each pass."""

    passes: list[dict[int, RegressorOutput]] = field(default_factory=list)

    def __call__(self, index: int, step: int, answer: RegressorOutput) -> None:
        if step == len(self.passes):
            self.passes.append({})
        self.passes[step][index] = answer

    def outputs(self) -> list[RegressorOutput]:
        """Everybody's answer after each pass; who stopped keeps the last one."""
        last: dict[int, RegressorOutput] = {}
        stacked = []
        for answers in self.passes:
            last |= answers
            stacked.append(_stack([last[index] for index in sorted(last)]))
        return stacked


class _Bench:
    """One set of people, and what the methods share: inputs, truth, and the regressor's answers."""

    def __init__(
        self, regressor: Regressor, body: Smpl, people: BenchPeople, long: list[Method]
    ) -> None:
        self._regressor, self._body, self._people = regressor, body, people
        self._long_methods = long
        self._long_runs: dict[str, tuple[list[RegressorOutput], float]] = {}
        device = next(regressor.parameters()).device
        given = to_spin49(people.keypoints_2d.astype(np.float32), "coco17").astype(np.float32)
        self._keypoints = torch.from_numpy(given).to(device)
        turns, shapes = torch.from_numpy(people.rotmat), torch.from_numpy(people.betas)
        self._truth: MeasuredBody = measure_body(body, turns, shapes)

    def run(self, method: Method) -> MethodScore:
        """Fit everybody and measure."""
        curve: tuple[dict[str, Any], ...] = ()
        start = ""
        if isinstance(method.config, SmplifyConfig):
            init, known = self._start
            begin = time.perf_counter()
            run = self._refit if method.method == "spin" else self._fit_parameters
            output = run(init, method.config)
            # What was computed once for all rows counts in each of them.
            seconds = known + time.perf_counter() - begin
            start = resolve_recipe(method.config).start
        elif method.is_followed:
            outputs, seconds = self._follow(method)
            output = outputs[-1]
            curve = tuple(
                quick_score(self._body, each, self._people, self._truth) for each in outputs
            )
        elif (long := self._find_long(method)) is not None:
            assert isinstance(method.config, EftConfig)
            output, seconds = self._cut(long, method.config)
        else:
            begin = time.perf_counter()
            output = self._fit_network(method, method.config)
            seconds = time.perf_counter() - begin
        values = score(self._body, output, self._people, self._truth)
        return MethodScore(method.name, values, seconds, start, curve)

    def _find_long(self, method: Method) -> Method | None:
        """The run that is followed and begins as this fit does, if there is one."""
        config = method.config
        if not isinstance(config, EftConfig):
            return None
        for long in self._long_methods:
            assert isinstance(long.config, EftConfig)
            same = replace(long.config, max_steps=config.max_steps, threshold=config.threshold)
            is_longer = config.steps_of(method.mode) <= long.config.steps_of(long.mode)
            if (method.method, method.mode) == (long.method, long.mode) and is_longer:
                if same == config:
                    return long
        return None

    def _follow(self, method: Method) -> tuple[list[RegressorOutput], float]:
        """Everybody's answers after each pass of a run that is followed, and its seconds."""
        assert isinstance(method.config, EftConfig)
        if method.name not in self._long_runs:
            followed = _Followed()
            begin = time.perf_counter()
            fitter = LoopFitter(
                self._regressor,
                self._body,
                config=method.config,
                mode=method.mode,
                on_step=followed,
            )
            for _ in fitter.fit(self._prepared()):
                pass
            self._long_runs[method.name] = followed.outputs(), time.perf_counter() - begin
        return self._long_runs[method.name]

    @torch.no_grad()
    def _cut(self, long: Method, config: EftConfig) -> tuple[RegressorOutput, float]:
        """The long fit as the stopping rule would have ended it, and its passes' share of time."""
        outputs, seconds = self._follow(long)
        loss = EftLoss(self._regressor, self._body, config)
        start = RegressorOutput(*(part.to(self._keypoints) for part in outputs[0]))
        answer, passes = outputs[0], torch.ones(len(self._people))
        going = torch.ones(len(self._people), dtype=torch.bool)
        for step, output in enumerate(outputs[: config.steps_of(long.mode)]):
            answer = RegressorOutput(
                *(_choose(going, new, old) for new, old in zip(output, answer, strict=True))
            )
            passes = torch.where(going, step + 1, passes)
            on_device = RegressorOutput(*(part.to(self._keypoints) for part in output))
            _, term = loss(on_device, EftTarget(self._keypoints, given=self._keypoints), start)
            going &= ~config.stop_rule_of(long.mode).has_converged(term.cpu())
        return answer, seconds * float(passes.mean()) / len(outputs)

    @cached_property
    def _start(self) -> tuple[RegressorOutput, float]:
        """The regressor's answers, and the seconds that they took."""
        begin = time.perf_counter()
        predictor = RegressorFitter(self._regressor, self._body)
        answers = [fit.final for _, fit in predictor.fit(self._prepared())]
        return _stack(answers), time.perf_counter() - begin

    def _prepared(self) -> Iterator[Prepared]:
        mean, std = self._regressor.img_mean, self._regressor.img_std
        for index, image in enumerate(self._people.image):
            img = torch.from_numpy(imaging.to_input(image, mean, std)).to(self._keypoints.device)
            given = torch.from_numpy(self._people.keypoints_2d[index].astype(np.float32))
            yield Prepared(
                index,
                img,
                self._keypoints[index],
                given=given.to(img.device),
                joint_set="coco17",
            )

    def _fit_network(self, method: Method, config: EftConfig | MapConfig) -> RegressorOutput:
        fitter = make_fitter(
            self._regressor, self._body, method=method.method, mode=method.mode, config=config
        )
        fits = dict(fitter.fit(self._prepared()))
        return _stack([fits[index].final for index in range(len(self._people))])

    def _fit_parameters(self, init: RegressorOutput, config: SmplifyConfig) -> RegressorOutput:
        prior = load_pose_prior(config.prior_source)
        parts = []
        for first in range(0, len(self._people), config.batch):
            rows = slice(first, first + config.batch)
            start = RegressorOutput(*(part[rows].to(self._keypoints) for part in init))
            fits = fit_smplify(self._body, start, self._keypoints[rows], config=config, prior=prior)
            parts.append(RegressorOutput(*(part.cpu() for part in fits.final)))
        return _stack(parts)

    def _refit(self, init: RegressorOutput, config: SmplifyConfig) -> RegressorOutput:
        """Labels as SPIN makes them: the best fits of a few rounds in the loop over this set."""
        people = len(self._people)
        private = copy.deepcopy(self._regressor).eval()
        for parameter in private.parameters():
            parameter.requires_grad_(True)
        trainer = SpinTrainer(private, self._body, people, config=SpinConfig(fit=config))
        img = torch.stack([person.crop for person in self._prepared()])
        for _ in range(_SPIN_ROUNDS):
            for first in range(0, people, _SPIN_BATCH):
                rows = torch.arange(first, min(first + _SPIN_BATCH, people), device=img.device)
                trainer.step(img[rows], self._keypoints[rows], rows)
        best = trainer.best
        found = RegressorOutput(best.rotmat.cpu(), best.betas.cpu(), best.camera.cpu())
        has = best.has_fit.cpu()
        return RegressorOutput(
            *(_choose(has, new, old) for new, old in zip(found, init, strict=True))
        )


def _choose(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _stack(outputs: list[RegressorOutput]) -> RegressorOutput:
    return RegressorOutput(*(torch.cat(parts).cpu() for parts in zip(*outputs, strict=True)))
