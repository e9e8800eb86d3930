"""Both stages learn, repeat, and go on where they were stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import PosePool, SynthArrays
from eft_fast.training import FinetuneConfig, HeadConfig
from eft_fast.training.cache import CachedPair, normalise_images
from eft_fast.training.finetune import finetune, freeze_early_layers, parameter_groups
from eft_fast.training.head import prepare_head, train_head
from eft_fast.training.loss import regression_loss
from eft_fast.training.state import Run, learning_rate
from eft_fast.training.targets import Targets
from tests.training.pictures import Pictures

HEAD = HeadConfig(steps=30, batch=12, warmup=3, num_simulated=30)
FINETUNE = FinetuneConfig(
    steps=4, batch=4, warmup=1, trunk_lr=1e-4, head_lr=1e-3, ema=0, frozen_stages=1
)


def state_of(network: OpenRegressor) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def mean_loss(network: OpenRegressor, arrays: SynthArrays, targets: Targets, body: Smpl) -> float:
    with torch.no_grad():
        output = network(normalise_images(arrays.image, network))
        return float(regression_loss(output, targets, body, HEAD.loss).mean())


def test_head_learns_a_few_people(
    network: OpenRegressor,
    arrays: SynthArrays,
    targets: Targets,
    rendered: CachedPair,
    pool: PosePool,
    open_body: Smpl,
) -> None:
    prepare_head(network, rendered.plain, targets)
    before = mean_loss(network, arrays, targets, open_body)
    trunk = state_of(network)
    config = replace(HEAD, steps=60, simulated=0, mirror=0, drop_features=0, dropout=0)
    losses = train_head(network, open_body, rendered, targets, pool, config)
    assert len(losses) == 60
    assert mean_loss(network, arrays, targets, open_body) < 0.7 * before
    assert all(
        torch.equal(v, trunk[k]) for k, v in network.trunk.state_dict(prefix="trunk.").items()
    )
    assert not network.training


def test_head_resumes_with_the_same_result(
    targets: Targets, rendered: CachedPair, pool: PosePool, open_body: Smpl, tmp_path: Path
) -> None:
    """Stopped after a save and started again, or run in one go: the same weights."""

    def run(steps_at_once: int | None) -> dict[str, torch.Tensor]:
        network = OpenRegressor.make_tiny()
        prepare_head(network, rendered.plain, targets)
        if steps_at_once is None:
            train_head(network, open_body, rendered, targets, pool, HEAD)
            return state_of(network)
        state = tmp_path / "head.pt"
        with pytest.raises(KeyboardInterrupt):
            train_head(
                network, open_body, rendered, targets, pool, HEAD,
                state=state, save_every=steps_at_once, on_save=interrupt,
            )  # fmt: skip
        fresh = OpenRegressor.make_tiny(seed=1)
        fresh.trunk.load_state_dict(network.trunk.state_dict())
        losses = train_head(fresh, open_body, rendered, targets, pool, HEAD, state=state)
        assert len(losses) == HEAD.steps - steps_at_once
        return state_of(fresh)

    assert_same_weights(run(None), run(12))


def interrupt() -> None:
    raise KeyboardInterrupt


def test_finetuning_learns_and_keeps_the_early_layers(
    network: OpenRegressor, arrays: SynthArrays, targets: Targets, open_body: Smpl
) -> None:
    start = state_of(network)
    # An untrained trunk's metres are off by tens, which would hide everything else.
    quiet = replace(FINETUNE.loss, trunk_world=0)
    config = replace(FINETUNE, steps=40, batch=12, mirror=0, head_lr=1e-2, loss=quiet)
    losses = finetune(network, open_body, Pictures(arrays.image), targets, config)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    end = network.state_dict()
    frozen = ("trunk.stem", "trunk.stages.0.")
    unused = ("trunk.score_out", "trunk.laterals", "trunk.heatmap_out")
    for name, value in end.items():
        kept = torch.equal(value, start[name])
        if name.startswith(frozen + unused) or name.split(".")[-1] in ("feature_mean", "mean_pose"):
            assert kept, name
    assert not torch.equal(
        end["trunk.stages.4.0.expand.weight"], start["trunk.stages.4.0.expand.weight"]
    )
    assert not torch.equal(end["head.leave.weight"], start["head.leave.weight"])
    assert all(p.requires_grad for p in network.parameters())
    assert not network.training


def test_finetuning_resumes_with_the_same_result(
    arrays: SynthArrays, targets: Targets, open_body: Smpl, tmp_path: Path
) -> None:
    config = replace(FINETUNE, ema=0.9)
    whole = OpenRegressor.make_tiny()
    finetune(whole, open_body, Pictures(arrays.image), targets, config)
    state = tmp_path / "finetune.pt"
    with pytest.raises(KeyboardInterrupt):
        finetune(
            OpenRegressor.make_tiny(), open_body, Pictures(arrays.image), targets, config,
            state=state, save_every=2, on_save=interrupt,
        )  # fmt: skip
    resumed = OpenRegressor.make_tiny(seed=9)
    losses = finetune(resumed, open_body, Pictures(arrays.image), targets, config, state=state)
    assert len(losses) == 2
    assert_same_weights(state_of(whole), state_of(resumed))


def test_finetuning_keeps_the_weights_that_validate_best(
    network: OpenRegressor, arrays: SynthArrays, targets: Targets, open_body: Smpl, tmp_path: Path
) -> None:
    """Scores are given out by call: the second look is the best, so its weights are what ends."""
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([3.0, 1.0, 2.0, 2.0])

    def validate(candidate: torch.nn.Module) -> float:
        assert not candidate.training
        seen.append({k: v.clone() for k, v in candidate.state_dict().items()})
        return next(scores)

    config = replace(FINETUNE, ema=0.9, validate_every=1)
    state = tmp_path / "finetune.pt"
    source = Pictures(arrays.image)
    finetune(network, open_body, source, targets, config, state=state, validate=validate)
    assert len(seen) == 4
    assert_same_weights(state_of(network), seen[1])
    lines = [json.loads(line) for line in state.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [3.0, 1.0, 2.0, 2.0]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_earlier_stages_learn_more_slowly(network: OpenRegressor) -> None:
    config = replace(FINETUNE, frozen_stages=3, trunk_lr=1.0, stage_decay=0.5, head_lr=7.0)
    freeze_early_layers(network, 3)
    groups = parameter_groups(network, config)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    trunk = network.trunk
    assert rate[id(network.head.leave.weight)] == 7
    assert rate[id(trunk.landmark_out.weight)] == 1
    assert rate[id(trunk.top_expand.weight)] == rate[id(trunk.stages[4][0].expand.weight)] == 0.5
    assert rate[id(trunk.stages[3][0].expand.weight)] == 0.25
    trained = {id(p) for p in network.head_parameters()}
    trained |= {id(p) for p in network.trunk_parameters() if p.requires_grad}
    assert set(rate) == trained


def test_a_state_of_other_options_is_refused(network: OpenRegressor, tmp_path: Path) -> None:
    def make(config: FinetuneConfig) -> Run:
        return Run(network, [{"params": list(network.head.parameters()), "lr": 1e-3}], config)

    make(FINETUNE).save(tmp_path / "state.pt")
    assert make(FINETUNE).resume(tmp_path / "state.pt")
    assert not make(FINETUNE).resume(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is of a run with options"):
        make(replace(FINETUNE, batch=5)).resume(tmp_path / "state.pt")


def test_moving_average_follows_the_weights() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    config = FinetuneConfig(steps=200, warmup=1, weight_decay=0, ema=0.9, max_norm=1e9)
    run = Run(layer, [{"params": list(layer.parameters()), "lr": 0.1}], config, ema=config.ema)
    values = []
    while not run.finished:
        run.update((layer.weight - 1).square().sum())
        values.append(float(layer.weight.detach()))
    average = 0.0
    for step, value in enumerate(values, start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    run.finish()
    assert float(layer.weight.detach()) == pytest.approx(average, abs=1e-5)
    assert float(layer.weight.detach()) == pytest.approx(1, abs=0.05)


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, abs=0.01)
    assert max(rates) == pytest.approx(rates[9], abs=0.03)
    assert rates[-1] < 0.02
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)


def test_freezing_early_layers(network: OpenRegressor) -> None:
    freeze_early_layers(network, 2)
    frozen = {n for n, p in network.trunk.named_parameters() if not p.requires_grad}
    assert {n.split(".")[0] for n in frozen} == {"stem", "stem_depthwise", "stem_project", "stages"}
    assert {n.split(".")[1] for n in frozen if n.startswith("stages")} == {"0", "1"}
