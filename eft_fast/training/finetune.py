"""Stage two: train trunk and head together on pictures, the trunk slowly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from eft_fast.body import Smpl
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.training.cache import Source, run_trunk
from eft_fast.training.config import FinetuneConfig
from eft_fast.training.loss import regression_loss, trunk_error
from eft_fast.training.state import Run, append_log, choose
from eft_fast.training.targets import Targets, mirror_targets

#: Crop side that mirrored pictures are measured in: reversing S columns shifts u by 2 / S.
MIRROR_OFFSET = -2.0 / 256


def freeze_early_layers(network: OpenRegressor, stages: int) -> None:
    """Keep the trunk's stem and its first ``stages`` encoder stages as they are."""
    trunk = network.trunk
    for module in (trunk.stem, trunk.stem_depthwise, trunk.stem_project, *trunk.stages[:stages]):
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def parameter_groups(network: OpenRegressor, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Return the groups of the optimiser: the earlier a part of the trunk, the slower it moves."""
    trunk = network.trunk
    top: list[nn.Module] = [trunk.top_expand, trunk.top_depthwise]
    out = [trunk.neck_depthwise, trunk.neck_project, trunk.head]
    parts: list[list[nn.Module]] = [[*out, trunk.landmark_out, trunk.world_out]]
    parts += [[trunk.stages[-1], *top]]
    parts += [[stage] for stage in reversed(trunk.stages[config.frozen_stages : -1])]
    groups: list[dict[str, Any]] = [
        {"params": list(network.head_parameters()), "lr": config.head_lr}
    ]
    for depth, modules in enumerate(parts):
        parameters = chain.from_iterable(module.parameters() for module in modules)
        kept = [parameter for parameter in parameters if parameter.requires_grad]
        if kept:
            groups.append({"params": kept, "lr": config.trunk_lr * config.stage_decay**depth})
    return groups


def finetune(
    network: OpenRegressor,
    body: Smpl,
    source: Source,
    targets: Targets,
    config: FinetuneConfig,
    *,
    state: Path | None = None,
    save_every: int = 100,
    on_save: Callable[[], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> list[float]:
    """Train the whole network, on the device it is on.

    It ends with the moving average of its weights; with ``validate``, with the average that did
    best. On a GPU the encoder runs in bfloat16, with float32 weights.

    Args:
        network: Trunk and trained head; changed in place.
        body: The body model that the labels belong to, on the same device.
        source: Rendered crops, or what the frozen stages made of them.
        targets: Their labels.
        config: Steps and rates.
        state: File to resume from and to save to, or None. A log lies beside it.
        save_every: Updates between two saves.
        on_save: Called after each save.
        validate: Scores a network on people who are not trained on; lower is better.

    Returns:
        Loss of each update of this call.

    Raises:
        ValueError: If the source has been through stages that are to be trained.
    """
    if source.stages > config.frozen_stages:
        raise ValueError(
            f"finetune: maps behind {source.stages} stages need frozen_stages of at least "
            f"{source.stages}, got {config.frozen_stages}; store maps of fewer stages"
        )
    freeze_early_layers(network, config.frozen_stages)
    # Backward passes of small depthwise convolutions take half as long with the channels last.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(network, parameter_groups(network, config), config, ema=config.ema)
    if state is not None:
        run.resume(state)
    device = next(network.parameters()).device
    half = device.type == "cuda" if config.half is None else config.half
    losses = []
    network.train()
    with tqdm(total=config.steps, initial=run.step, desc="finetune", unit="step") as bar:
        while not run.finished:
            inputs, people = _batch(run, source, targets, device)
            output = run_trunk(network, inputs, source.stages, half=half)
            loss = regression_loss(network.head_forward(output), people, body, config.loss)
            loss = loss + trunk_error(output, people, config.loss)
            losses.append(run.update(loss.mean()))
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", best=f"{run.best_score:.1f}")
            score = run.validate_when_due(validate)
            if score is not None and state is not None:
                recent = losses[-config.validate_every :]
                append_log(state, step=run.step, loss=float(np.mean(recent)), score=score)
            run.save_when_due(state, save_every, on_save)
    run.finish()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return losses


def _batch(
    run: Run, source: Source, targets: Targets, device: torch.device
) -> tuple[Tensor, Targets]:
    """Return the inputs and labels of one update, each person mirrored or not."""
    config: FinetuneConfig = run.config
    generator = run.generator()
    rows = torch.randint(len(source), (config.batch,), generator=generator)
    mirrored = choose(config.batch, config.mirror, generator)
    people = mirror_targets(targets.take(rows), mirrored, MIRROR_OFFSET)
    return source.take(rows, mirrored).to(device), people.to(device)
