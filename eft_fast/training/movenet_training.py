"""The training of the regressor on MoveNet: which stage reads and writes what, in one folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import conventions
from eft_fast.body import Smpl, load_body
from eft_fast.evaluation.bench_people import make_people
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet_file import (
    OPEN2_REGRESSOR_PATH,
    load_movenet_regressor,
    save_movenet_regressor,
)
from eft_fast.models.movenet_keypoints import MOVENET_PATHS, load_movenet
from eft_fast.models.movenet_regressor import Answers, MoveNetHead, MoveNetRegressor
from eft_fast.models.open_file import OPEN_REGRESSOR_PATH, load_open_regressor
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.synth import SynthConfig, SynthJob, load_motion, load_shards
from eft_fast.synth.config import CameraConfig, PoseConfig, make_scenes
from eft_fast.synth.landmarks import MIRROR_LANDMARKS, NUM_COCO
from eft_fast.synth.motion import Split
from eft_fast.training.confidence import train_confidence
from eft_fast.training.finetune import MIRROR_OFFSET
from eft_fast.training.measure import choice_score, score_renders
from eft_fast.training.memory import keep_freed_memory
from eft_fast.training.movenet_cache import cache_evidence, load_evidence
from eft_fast.training.movenet_head import (
    HeadData,
    LiftConfig,
    RenderedPeople,
    set_mean_pose,
    train_head,
)
from eft_fast.training.rendered_sets import RenderedSets
from eft_fast.training.simulated_people import PeopleSimulator
from eft_fast.training.skeleton_poses import fit_skeletons, load_poses, save_poses
from eft_fast.training.skeletons import Skeletons
from eft_fast.training.targets import body_points, make_targets, mirror_targets

#: Licence of the weights: that of the trunk and of this package.
LICENCE: Final = "Apache-2.0"
#: Noise of the keypoints that validation gives, over the longer side of the person.
_VAL_NOISE: Final = 0.012
#: Children, people who lie, who have a procedural posture, and who stand, of the simulated ones.
_ODDS_CHILD, _ODDS_LYING, _ODDS_POSTURE, _ODDS_STANDING = 0.08, 0.04, 0.22, 0.4
#: Pictures of people who stand: what their seed is more than that of the first set, and the odds
#: of who does stand there and of who has a procedural posture.
_STANDING_SEED: Final = 30
_STANDING_OF_THEM, _POSTURES_OF_THEM = 0.8, 0.05
#: People of the training split that the confidence is fitted on, and at once.
_CONFIDENCE_PEOPLE: Final = 4000
_CHUNK: Final = 250
#: Updates between two states.
_SAVE_EVERY: Final = 100


@dataclass(frozen=True)
class MoveNetTraining(RenderedSets):
    """Options of a run.

    Pictures of training and validation are rendered in the network's own, tighter crop; those of
    the test and of the calibration in the package's, from whose middle the network cuts its own, as
    it does from a photo.

    Attributes:
        standing: Further training images of people of whom most stand (``PoseConfig.standing``).
        movenet: Which MoveNet finds keypoints: ``"thunder"``, or ``"lightning"`` for a network of
            a third of the work.
        base: Whether the package's ``open-1`` answers first.
        skeletons: File of labelled people without photos (``Skeletons.load``), or None.
        fitted: How many of them, upright ones aside, are fitted by ``map`` from the weights that
            ship as ``open-2``, to lend their poses to simulated people; 0: none. Needs
            ``skeletons``.
        fitted_odds: Odds of a simulated person to have such a pose.
        crop_margin: ``CameraConfig.margin`` of the pictures that are learned from.
        mirror: Share of the training pictures that is seen mirrored.
        lift: Options of the first stage, which trains the first pass alone.
        head: Options of the second stage, which trains all of them.
    """

    train: int = 8000
    varied: int = 8000
    standing: int = 3000
    calibration: int = 1250
    movenet: str = "thunder"
    base: bool = True
    skeletons: Path | None = None
    fitted: int = 20_000
    fitted_odds: float = 0.25
    crop_margin: float = 1.12
    mirror: float = 0.5
    lift: LiftConfig = field(default_factory=lambda: LiftConfig(steps=4000, trained_passes=0))
    head: LiftConfig = field(default_factory=lambda: LiftConfig(lr=8e-4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.movenet not in MOVENET_PATHS:
            raise ValueError(
                f"train: movenet must be one of {', '.join(MOVENET_PATHS)}, got {self.movenet!r}"
            )
        if self.lift.head_options != self.head.head_options:
            raise ValueError(
                "train: lift and head must be of one network, got other widths, blocks or passes"
            )

    def job(self, split: Split) -> SynthJob:
        """Return the set of one split."""
        job = super().job(split)
        return job if split == "test" else replace(job, config=self._tight(job.config))

    def jobs(self, split: Split) -> list[SynthJob]:
        """Return the sets of one split; see ``RenderedSets.jobs``."""
        first, *others = super().jobs(split)
        if split == "train" and self.standing:
            others.append(self._standing_job())
        return [first, *(replace(job, config=self._tight(job.config)) for job in others)]

    def calibration_job(self) -> SynthJob:
        """Return the set of the error covariance: other people than weights are chosen on."""
        job = super().calibration_job()
        return replace(job, config=replace(job.config, camera=self.synth.camera))

    def train_head(self) -> dict[str, float]:
        """Run the trunk, train the head and its confidence; return the held-out score."""
        keep_freed_memory()
        body = load_body()
        network = self._make_network(body)
        trained, seen = self.shards("train"), self.shards("val")
        cache_evidence(network, trained, mirror=self.mirror)
        cache_evidence(network, seen)
        people, chosen = (self._people(each, network, body) for each in (trained, seen))
        set_mean_pose(network.head, people.targets.rotmat)
        margin = network.box_margin
        skeletons = (
            None if self.skeletons is None else Skeletons.load(self.skeletons, margin=margin)
        )
        simulator = PeopleSimulator(
            body,
            load_motion(self.motion, "train"),
            self._simulated(),
            fitted=self._fitted_poses(skeletons, body),
            fitted_odds=self.fitted_odds,
        )
        data = HeadData(people, simulator, skeletons, load_pose_prior())
        validate = HeadScore(chosen, body)
        for name in ("lift", "head"):
            config: LiftConfig = getattr(self, name)
            train_head(
                network.head,
                body,
                data,
                config,
                state=self.work / f"{name}.pt",
                save_every=_SAVE_EVERY,
                validate=validate,
            )
        network.eval()
        rows = torch.arange(min(_CONFIDENCE_PEOPLE, len(people.seen)))
        train_confidence(
            network, observe(network, body, people, rows), observe(network, body, chosen)
        )
        # Weights pass through the shipped precision, so that what is measured is what is shipped.
        save_movenet_regressor(network, self.weights, licence=LICENCE, source_sha256="")
        self.measure_errors(self.weights)
        return self.evaluate()

    @property
    def weights(self) -> Path:
        """File of the finished weights."""
        return self.work / "open2.npz"

    def export(self, out: Path, *, source_sha256: str) -> None:
        """Write the finished weights, with their errors, as they ship."""
        network = load_movenet_regressor(self._finished())
        save_movenet_regressor(network, out, licence=LICENCE, source_sha256=source_sha256)
        self.carry_errors(self.weights, out)

    def evaluate(self) -> dict[str, float]:
        """Score the finished weights on the held-out images, without keypoints."""
        network = load_movenet_regressor(self._finished())
        return score_renders(network, load_body(), load_shards(self.shards("test"))).summary()

    def _finished(self) -> Path:
        if not self.weights.is_file():
            raise FileNotFoundError(f"train: no {self.weights}; run the stage head first")
        return self.weights

    def _standing_job(self) -> SynthJob:
        """People who stand: seen in pictures, so that the base's answers to them are known."""
        scenes = make_scenes("standing", self.synth.size, self.synth.seed + _STANDING_SEED)
        pose = replace(scenes.pose, standing=_STANDING_OF_THEM, procedural=_POSTURES_OF_THEM)
        config = replace(scenes, child=_ODDS_CHILD, pose=pose)
        return replace(
            self.job("train"), out=self.work / "standing", count=self.standing, config=config
        )

    def _tight(self, config: SynthConfig) -> SynthConfig:
        camera: CameraConfig = replace(config.camera, margin=self.crop_margin)
        return replace(config, camera=camera)

    def _simulated(self) -> SynthConfig:
        """How people are drawn who are not rendered: a mix of plain and varied scenes."""
        pose: PoseConfig = replace(
            self.synth.pose, procedural=_ODDS_POSTURE, lying=_ODDS_LYING, standing=_ODDS_STANDING
        )
        return replace(self._tight(self.synth), child=_ODDS_CHILD, pose=pose)

    def _fitted_poses(
        self, skeletons: Skeletons | None, body: Smpl
    ) -> Float[Tensor, "N 24 3 3"] | None:
        """Poses of labelled people; fitted once, and stored."""
        if skeletons is None or not self.fitted:
            return None
        path = self.work / "poses.npz"
        if not path.is_file():
            network = load_movenet_regressor(OPEN2_REGRESSOR_PATH)
            save_poses(path, fit_skeletons(skeletons, network, body, count=self.fitted))
        return load_poses(path).rotmat

    def _make_network(self, body: Smpl) -> MoveNetRegressor:
        """A new head on the networks as they ship."""
        torch.manual_seed(self.head.seed)
        rig = KeypointRig.from_plan(body.points_plan("coco17"))
        base = load_open_regressor(OPEN_REGRESSOR_PATH) if self.base else None
        trunk = load_movenet(self.movenet)
        network = MoveNetRegressor(trunk, rig, base, **self.head.head_options)
        return network.eval()

    def _people(self, shards: list[Path], network: MoveNetRegressor, body: Smpl) -> RenderedPeople:
        evidence = load_evidence(shards, network.trunk.variant)
        arrays = load_shards(shards, images=False)
        side = evidence.is_mirrored
        targets = mirror_targets(make_targets(arrays, body), side, MIRROR_OFFSET)
        seen = torch.from_numpy(arrays.landmarks_2d[..., 2]).long()
        seen = torch.where(side[:, None], seen[:, list(MIRROR_LANDMARKS)], seen)
        return RenderedPeople(evidence, targets, seen[:, :NUM_COCO])


@dataclass(frozen=True)
class HeadScore:
    """Scores a head on stored evidence: with the picture alone, and with given keypoints too."""

    people: RenderedPeople
    body: Smpl

    @torch.no_grad()
    def __call__(self, head: nn.Module) -> float:
        """The mean of both scores, see ``measure.choice_score``."""
        assert isinstance(head, MoveNetHead)
        evidence = self.people.evidence.take(torch.arange(len(self.people.seen)))
        scores = []
        for given in (None, bench_keypoints(self.people)):
            answers: Answers = head(evidence, given)
            scores.append(choice_score(answers.outputs[-1], self.people.targets, self.body))
        return sum(scores) / len(scores)


@torch.no_grad()
def observe(
    network: MoveNetRegressor,
    body: Smpl,
    people: RenderedPeople,
    rows: Tensor | None = None,
) -> tuple[Float[Tensor, "N W"], Float[Tensor, "N 24"]]:
    """What the confidence reads, and 1 where a joint is as near as it should be, else 0.

    Everybody is seen twice, without and with given keypoints: it is about either answer.
    """
    rows = torch.arange(len(people.seen)) if rows is None else rows
    given = bench_keypoints(people)
    hidden, near = [], []
    for part in rows.split(_CHUNK):
        targets, evidence = people.targets.take(part), people.evidence.take(part)
        for told in (None, given[part]):
            answers: Answers = network.head(evidence, told)
            output = answers.outputs[-1]
            joints = body_points(body, output.pred_rotmat, output.pred_betas).joints
            distance = (joints - targets.joints).norm(dim=-1)
            near.append((distance < conventions.CONFIDENT_WITHIN_M).to(joints))
            hidden.append(answers.hidden)
    return torch.cat(hidden), torch.cat(near)


def bench_keypoints(people: RenderedPeople, noise: float = _VAL_NOISE) -> Float[Tensor, "N 17 3"]:
    """Keypoints of rendered people as the bench gives them."""
    targets = people.targets
    seen = torch.zeros(targets.landmarks_2d.shape[:2])
    seen[:, :NUM_COCO] = people.seen.float()
    landmarks = torch.cat([targets.landmarks_2d, seen[..., None]], -1).numpy()
    nothing = np.zeros((len(landmarks), 1, 1, 3), np.uint8)
    shown = make_people(
        nothing, landmarks, targets.rotmat.numpy(), targets.betas.numpy(), noise=noise
    )
    return torch.from_numpy(shown.keypoints_2d.astype(np.float32))
