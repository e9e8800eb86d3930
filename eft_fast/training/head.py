"""Stage one: train the head on stored trunk outputs and simulated landmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from eft_fast.body import Smpl
from eft_fast.geometry.rotations import matrix_to_rot6d
from eft_fast.models.blazepose import BlazePose
from eft_fast.models.open_regressor import (
    NUM_LANDMARK_FEATURES,
    LandmarkFrame,
    OpenRegressor,
)
from eft_fast.synth import PosePool, SynthConfig
from eft_fast.training.cache import CachedFeatures, CachedPair
from eft_fast.training.config import HeadConfig
from eft_fast.training.finetune import MIRROR_OFFSET
from eft_fast.training.loss import regression_loss
from eft_fast.training.simulate import Simulator, make_simulator, simulate
from eft_fast.training.state import Run, append_log, choose
from eft_fast.training.targets import Targets, mirror_targets


def make_network(trunk: BlazePose, config: HeadConfig) -> OpenRegressor:
    """Put an untrained head on a trunk; the seed decides its weights."""
    torch.manual_seed(config.seed)
    return OpenRegressor(trunk, width=config.width, blocks=config.blocks, dropout=config.dropout)


def prepare_head(network: OpenRegressor, rendered: CachedFeatures, targets: Targets) -> None:
    """Set the head's feature statistics and mean pose from the training set."""
    features = torch.cat([rendered.landmarks, rendered.trunk], 1)
    mean_pose = matrix_to_rot6d(targets.rotmat).mean(0)
    # The mean of directions all around is no direction: start upright, seen from the front.
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    mean_pose[0] = matrix_to_rot6d(upright)
    network.set_feature_statistics(features.mean(0), features.std(0), mean_pose)


def train_head(
    network: OpenRegressor,
    body: Smpl,
    rendered: CachedPair,
    targets: Targets,
    pool: PosePool,
    config: HeadConfig,
    *,
    state: Path | None = None,
    save_every: int = 500,
    on_save: Callable[[], None] | None = None,
    synth: SynthConfig | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> list[float]:
    """Train the head; the trunk is not touched.

    Args:
        network: Trunk and head; the head is changed in place.
        body: The body model that the labels belong to.
        rendered: Trunk outputs of the rendered people and of their mirror images.
        targets: Their labels.
        pool: Training motion, for the simulated people.
        config: Steps, rates and odds.
        state: File to resume from and to save to, or None.
        save_every: Updates between two saves.
        on_save: Called after each save.
        synth: How poses and shapes are drawn.
        validate: Scores a head on people who are not trained on; lower is better.

    Returns:
        Loss of each update of this call.
    """
    simulator = None
    if config.simulated > 0:
        options = synth if synth is not None else SynthConfig()
        simulator = make_simulator(
            pool, config.num_simulated, config.seed, options, rendered.plain, targets
        )
    head = network.head
    run = Run(head, [{"params": list(head.parameters()), "lr": config.lr}], config)
    if state is not None:
        run.resume(state)
    losses = []
    head.train()
    with tqdm(total=config.steps, initial=run.step, desc="head", unit="step") as bar:
        while not run.finished:
            features, batch_targets = _batch(run, simulator, network, body, rendered, targets)
            output = head(features, frame_of(features))
            loss = regression_loss(output, batch_targets, body, config.loss).mean()
            losses.append(run.update(loss))
            bar.update()
            if run.step % 50 == 0:
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
            score = run.validate_when_due(validate)
            if score is not None and state is not None:
                append_log(state, step=run.step, loss=losses[-1], score=score)
            run.save_when_due(state, save_every, on_save)
    run.finish()
    return losses


def frame_of(features: Float[Tensor, "B F"]) -> LandmarkFrame:
    """Return the landmark frame, which is the end of the landmark features."""
    last = NUM_LANDMARK_FEATURES
    return LandmarkFrame(features[:, last - 3 : last - 1], features[:, last - 1 : last])


def _batch(
    run: Run,
    simulator: Simulator | None,
    network: OpenRegressor,
    body: Smpl,
    rendered: CachedPair,
    targets: Targets,
) -> tuple[Float[Tensor, "B F"], Targets]:
    """Return the head's input and the labels of one update."""
    config: HeadConfig = run.config
    generator = run.generator()
    blank = network.head.feature_mean[NUM_LANDMARK_FEATURES:]
    if simulator is not None and float(torch.rand((), generator=generator)) < config.simulated:
        with torch.no_grad():
            features, people = simulate(simulator, body, config.batch, generator)
        return torch.cat([features, blank.expand(len(features), -1)], 1), people
    plain, flipped = rendered
    rows = torch.randint(len(plain.landmarks), (config.batch,), generator=generator)
    mirrored = choose(config.batch, config.mirror, generator)
    blanked = choose(config.batch, config.drop_features, generator)
    side = mirrored[:, None]
    features = torch.where(side, flipped.landmarks[rows], plain.landmarks[rows])
    trunk = torch.where(side, flipped.trunk[rows], plain.trunk[rows])
    trunk = torch.where(blanked[:, None], blank, trunk)
    people = mirror_targets(targets.take(rows), mirrored, MIRROR_OFFSET)
    return torch.cat([features, trunk], 1), people
