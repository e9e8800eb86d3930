"""Train the head of ``MoveNetRegressor``, on what its two networks say.

A batch has three kinds of people. Rendered ones, with what the networks made of their pictures;
simulated ones without a picture, in any number, with answers as the networks would give them; and
real skeletons, which know places in the picture only. Half of them have given keypoints as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import matrix_to_axis_angle, matrix_to_rot6d
from eft_fast.losses.priors import mixture_loss
from eft_fast.models.base import RegressorOutput
from eft_fast.models.movenet_regressor import (
    Answers,
    BaseAnswer,
    Evidence,
    MoveNetHead,
    find_frame,
)
from eft_fast.smplify.prior import PosePrior
from eft_fast.synth.landmarks import NUM_COCO
from eft_fast.training.config import LossConfig, check_numbers
from eft_fast.training.given_keypoints import TrunkErrors, give_keypoints
from eft_fast.training.loss import regression_loss
from eft_fast.training.movenet_cache import CachedEvidence
from eft_fast.training.simulated_people import Dice, PeopleSimulator
from eft_fast.training.skeletons import Skeletons
from eft_fast.training.state import Run, append_log
from eft_fast.training.targets import Targets

#: Errors of skeletons count no more than this many frame sizes.
_CLAMP: Final = 3.0


@dataclass(frozen=True)
class LiftConfig:
    """Training of the head on stored evidence.

    Attributes:
        seed: Seed of the weights and of every batch.
        steps: Updates.
        batch: People per update.
        lr: Peak learning rate of AdamW; linear warm-up, then cosine.
        warmup: Updates of the warm-up.
        weight_decay: Of AdamW.
        width: Width of the hidden layers.
        blocks: Residual blocks of the first pass.
        refine_blocks: Of the passes after it.
        passes: How many passes follow the first.
        trained_passes: How many of them run in this stage; the first pass learns at a third of the
            cost alone. None: all.
        dropout: Inside the blocks.
        simulated: Share of a batch that was never rendered.
        skeletons: Share that are real people without a picture, if there are any.
        given: Odds of a rendered or simulated person to have given keypoints.
        drop_base: Odds of a rendered or simulated person not to have the base's answer.
        drop_found: Odds of a simulated person with given keypoints to have nothing else: labels
            without a picture.
        worse_base: Odds of a simulated person to have one of its worse answers.
        found: Odds of a skeleton to have found keypoints; all others have given ones.
        skeleton_prior: Weight of the pose prior, for people of whom no pose is known.
        skeleton_betas: Weight of their mean squared shape.
        ema: Decay of the moving average of the weights, which is what is kept.
        max_norm: Gradients longer than this are shortened.
        validate_every: Updates between two looks at the validation split. The weights that did
            best there are kept.
        loss: Weights of the terms.
    """

    seed: int = 0
    steps: int = 3000
    batch: int = 512
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.02
    width: int = 512
    blocks: int = 3
    refine_blocks: int = 2
    passes: int = 4
    trained_passes: int | None = None
    dropout: float = 0.0
    simulated: float = 0.7
    skeletons: float = 0.1
    given: float = 0.5
    drop_base: float = 0.3
    drop_found: float = 0.0
    worse_base: float = 0.4
    found: float = 0.5
    skeleton_prior: float = 0.0005
    skeleton_betas: float = 0.05
    ema: float = 0.99
    max_norm: float = 5.0
    validate_every: int = 500
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "train")
        if self.simulated + self.skeletons > 1:
            raise ValueError(
                f"train: simulated and skeletons must be at most 1 together, got "
                f"{self.simulated + self.skeletons:g}"
            )

    @property
    def head_options(self) -> dict[str, float | int]:
        """Arguments of the head."""
        shape = ("width", "blocks", "refine_blocks", "passes", "dropout")
        return {name: getattr(self, name) for name in shape}


class RenderedPeople(NamedTuple):
    """Rendered people as the head sees them.

    Attributes:
        evidence: What the trunk says.
        targets: Labels, mirrored where the evidence is.
        seen: Of the 17 keypoints: 2 visible, 1 hidden, 0 outside the picture.
    """

    evidence: CachedEvidence
    targets: Targets
    seen: Int[Tensor, "N 17"]


class HeadData(NamedTuple):
    """What the head learns from.

    Attributes:
        rendered: Rendered people.
        simulator: Draws people who were not.
        skeletons: Real people without pictures, or None.
        prior: Pose prior of people of whom no pose is known.
    """

    rendered: RenderedPeople
    simulator: PeopleSimulator
    skeletons: Skeletons | None
    prior: PosePrior


def set_mean_pose(head: MoveNetHead, rotmat: Float[Tensor, "N 24 3 3"]) -> None:
    """Let a silent head answer the mean pose, upright, seen from the front."""
    mean = matrix_to_rot6d(rotmat).mean(0)
    # The mean of directions all around is no direction.
    mean[0] = matrix_to_rot6d(torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    with torch.no_grad():
        head.mean_pose.copy_(mean.reshape(-1))


def train_head(
    head: MoveNetHead,
    body: Smpl,
    data: HeadData,
    config: LiftConfig,
    *,
    state: Path | None = None,
    save_every: int = 250,
    on_save: Callable[[], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> list[float]:
    """Train the head, all but its confidence.

    It ends with the moving average of its weights; with ``validate``, with the average that did
    best.

    Args:
        head: With its mean pose set; changed in place.
        body: The body model that the labels belong to.
        data: Whom it learns from.
        config: Steps, rates and odds.
        state: File to resume from and to save to, or None. A log lies beside it.
        save_every: Updates between two saves.
        on_save: Called after each save.
        validate: Scores a head on people who are not trained on; lower is better.

    Returns:
        Loss of each update of this call.
    """
    fixed = "certainty."
    trained = [each for name, each in head.named_parameters() if not name.startswith(fixed)]
    run = Run(head, [{"params": trained, "lr": config.lr}], config, ema=config.ema)
    if state is not None:
        run.resume(state)
    errors = TrunkErrors(*data.rendered, worse_base=config.worse_base)
    losses: list[float] = []
    all_passes = head.passes
    if config.trained_passes is not None:
        head.passes = min(config.trained_passes, all_passes)
    head.train()
    with tqdm(total=config.steps, initial=run.step, desc="lift", unit="step") as bar:
        while not run.finished:
            losses.append(run.update(_batch_loss(run, body, data, errors)))
            bar.update()
            if run.step % 20 == 0:
                mean = float(np.mean(losses[-50:]))
                bar.set_postfix(loss=f"{mean:.3f}", best=f"{run.best_score:.1f}")
            score = run.validate_when_due(validate)
            if score is not None and state is not None:
                recent = losses[-config.validate_every :]
                append_log(state, step=run.step, loss=float(np.mean(recent)), score=score)
            run.save_when_due(state, save_every, on_save)
    head.passes = all_passes
    run.finish()
    return losses


def _batch_loss(run: Run, body: Smpl, data: HeadData, errors: TrunkErrors) -> Tensor:
    """The mean loss of one update's people, all passes together."""
    config: LiftConfig = run.config
    head = run.model
    assert isinstance(head, MoveNetHead)
    dice = Dice(run.generator())
    real = round(config.batch * config.skeletons) if data.skeletons is not None else 0
    simulated = round(config.batch * config.simulated)
    rows = dice.integers(config.batch - real - simulated, len(data.rendered.seen))
    shown = data.rendered.targets.take(rows)
    drawn = data.simulator.draw(simulated, dice.generator)
    labels = Targets(*(torch.cat(pair) for pair in zip(shown, drawn.targets, strict=True)))
    seen = torch.cat([data.rendered.seen[rows], drawn.seen])
    found = errors.find(drawn.targets, drawn.seen, dice)
    evidence = _concatenate(data.rendered.evidence.take(rows), found)
    evidence = _without_base(evidence, dice.happens(len(seen), config.drop_base))
    given = _maybe_given(labels, seen, config.given, dice)
    # Without such people no number is drawn, so that earlier runs repeat.
    if config.drop_found:
        was_drawn = torch.arange(len(seen)) >= len(rows)
        has_labels = was_drawn & (given[..., 2] > 0).any(1)
        evidence = _without_picture(
            evidence, has_labels & dice.happens(len(seen), config.drop_found)
        )
    total = _answer_loss(head(evidence, given), labels, body, config.loss).sum()
    if real:
        assert data.skeletons is not None, "no share without people"
        total = total + _skeleton_loss(head, body, data, config, errors, real, dice).sum()
    return total / config.batch


def _answer_loss(
    answers: Answers, people: Targets, body: Smpl, config: LossConfig
) -> Float[Tensor, " B"]:
    losses = [regression_loss(each, people, body, config) for each in answers.outputs]
    return torch.stack(losses).sum(0)


def _maybe_given(
    people: Targets, seen: Int[Tensor, "N 17"], odds: float, dice: Dice
) -> Float[Tensor, "N 17 3"]:
    """Given keypoints of some of the people; nothing of the others."""
    size = (people.landmarks_2d.amax(1) - people.landmarks_2d.amin(1)).amax(1)
    given = give_keypoints(people.landmarks_2d[:, :NUM_COCO], seen, size, dice)
    return given * dice.happens(len(given), odds)[:, None, None]


def _concatenate(first: Evidence, second: Evidence) -> Evidence:
    """Two groups of people, both with a base or both without."""
    points, about, spread = (torch.cat(pair) for pair in zip(first[:3], second[:3], strict=True))
    base = None
    if first.base is not None and second.base is not None:
        base = BaseAnswer(*(torch.cat(pair) for pair in zip(first.base, second.base, strict=True)))
    return Evidence(points, about, spread, base)


def _without_base(evidence: Evidence, chosen: Bool[Tensor, " B"]) -> Evidence:
    """Of the chosen people the base says nothing."""
    if evidence.base is None:
        return evidence
    confidence = evidence.base.confidence.masked_fill(chosen[:, None], 0.0)
    return evidence._replace(base=evidence.base._replace(confidence=confidence))


def _without_picture(evidence: Evidence, chosen: Bool[Tensor, " B"]) -> Evidence:
    """Of the chosen people nothing is found, and the base says nothing."""
    evidence = _without_base(evidence, chosen)
    kept = (~chosen)[:, None]
    return evidence._replace(
        points=evidence.points * kept[..., None],
        about=evidence.about * kept[..., None],
        spread=evidence.spread * kept,
    )


def _skeleton_loss(
    head: MoveNetHead,
    body: Smpl,
    data: HeadData,
    config: LiftConfig,
    errors: TrunkErrors,
    count: int,
    dice: Dice,
) -> Float[Tensor, " B"]:
    """Places of all labels, the withheld ones among them, and the priors of pose and shape."""
    assert data.skeletons is not None, "asked for with people only"
    given, labels = data.skeletons.draw(count, dice)
    found = errors.find_labelled(labels, dice)
    is_found = dice.happens(count, config.found)
    evidence = _without_picture(found, ~is_found)
    given = given * (~is_found | dice.happens(count, config.given))[:, None, None]
    nothing = evidence._replace(points=torch.zeros_like(labels))
    frame = find_frame(labels[..., :2], labels[..., 2] > 0, nothing)
    answers: Answers = head(evidence, given)
    total = given.new_zeros(count)
    for output in answers.outputs:
        total = total + _label_error(output, labels, frame.size, body, config.loss)
        pose = matrix_to_axis_angle(output.pred_rotmat[:, 1:]).flatten(1)
        mixture = data.prior.to(pose).mixture
        total = total + config.skeleton_prior * mixture_loss(mixture, pose)
        total = total + config.skeleton_betas * output.pred_betas.square().mean(1)
    return total


def _label_error(
    output: RegressorOutput,
    labels: Float[Tensor, "B 17 3"],
    size: Float[Tensor, "B 1"],
    body: Smpl,
    config: LossConfig,
) -> Float[Tensor, " B"]:
    """Weighted mean absolute error of labelled keypoints in frame sizes."""
    rotmat, betas, camera = output
    points = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="coco17", pose2rot=False)
    gap = (weak_project(points, camera) - labels[..., :2]).abs() / size[:, None]
    there = labels[..., 2:]
    mean = (gap.clamp(max=_CLAMP) * there).sum((1, 2)) / (2 * there.sum((1, 2))).clamp_min(1)
    return config.points_2d * mean
