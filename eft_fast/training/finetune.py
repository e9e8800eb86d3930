"""Stage two: train trunk and head together on pictures, the trunk very slowly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from eft_fast.body import Smpl
from eft_fast.models.open_regressor import LANDMARK_ROWS, OpenRegressor, to_crop_units
from eft_fast.training.cache import normalise_images
from eft_fast.training.config import FinetuneConfig
from eft_fast.training.loss import NUM_POINTS, landmark_error, regression_loss
from eft_fast.training.state import Run, choose
from eft_fast.training.targets import Targets, mirror_targets


def freeze_early_layers(network: OpenRegressor, stages: int) -> None:
    """Keep the trunk's stem and its first ``stages`` encoder stages as they are."""
    trunk = network.trunk
    for module in (trunk.stem, trunk.stem_depthwise, trunk.stem_project, *trunk.stages[:stages]):
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def finetune(
    network: OpenRegressor,
    body: Smpl,
    images: UInt8[np.ndarray, "N S S 3"],
    targets: Targets,
    config: FinetuneConfig,
    *,
    state: Path | None = None,
    save_every: int = 100,
    on_save: Callable[[], None] | None = None,
) -> list[float]:
    """Train the whole network; it ends with the moving average of its weights.

    Args:
        network: Trunk and trained head; changed in place.
        body: The body model that the labels belong to.
        images: Rendered crops.
        targets: Their labels.
        config: Steps and rates.
        state: File to resume from and to save to, or None.
        save_every: Updates between two saves.
        on_save: Called after each save.

    Returns:
        Loss of each update of this call.
    """
    freeze_early_layers(network, config.frozen_stages)
    trunk = [p for p in network.trunk_parameters() if p.requires_grad]
    groups = [
        {"params": trunk, "lr": config.trunk_lr},
        {"params": list(network.head_parameters()), "lr": config.head_lr},
    ]
    run = Run(network, groups, config, ema=config.ema)
    if state is not None:
        run.resume(state)
    losses = []
    network.train()
    with tqdm(total=config.steps, initial=run.step, desc="finetune", unit="step") as bar:
        while not run.finished:
            pictures, people = _batch(run, images, targets)
            output = network.features(pictures)
            loss = regression_loss(network.head_forward(output), people, body, config.loss)
            seen = to_crop_units(output.landmarks[:, list(LANDMARK_ROWS[:NUM_POINTS]), :2])
            trunk_error = landmark_error(seen, people, config.loss.clamp_2d)
            loss = loss + config.loss.trunk_landmarks * trunk_error
            losses.append(run.update(loss.mean()))
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
            run.save_when_due(state, save_every, on_save)
    run.finish()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return losses


def _batch(
    run: Run, images: UInt8[np.ndarray, "N S S 3"], targets: Targets
) -> tuple[Tensor, Targets]:
    """Return the pictures and labels of one update, each person mirrored or not."""
    config: FinetuneConfig = run.config
    generator = run.generator()
    rows = torch.randint(len(images), (config.batch,), generator=generator)
    mirrored = choose(config.batch, config.mirror, generator)
    pictures = normalise_images(images[rows.numpy()])
    pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
    return pictures, mirror_targets(targets.take(rows), mirrored, -2.0 / images.shape[2])
