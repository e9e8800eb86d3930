"""The training of the open regressor: which stage reads and writes what, in one folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eft_fast.body import Smpl, load_body
from eft_fast.models.blazepose import BlazePose
from eft_fast.models.open_file import load_open_regressor, save_open_regressor
from eft_fast.models.open_regressor import BodyHead, OpenRegressor
from eft_fast.synth import load_motion, load_shards
from eft_fast.synth.motion import Split
from eft_fast.training.cache import CachedFeatures, cache_features, cache_maps, run_source
from eft_fast.training.confidence import observe, train_confidence
from eft_fast.training.config import FinetuneConfig, HeadConfig
from eft_fast.training.finetune import finetune
from eft_fast.training.head import frame_of, make_network, prepare_head, train_head
from eft_fast.training.measure import choice_score, score_renders
from eft_fast.training.memory import keep_freed_memory
from eft_fast.training.rendered_sets import RenderedSets
from eft_fast.training.targets import Targets, make_targets

#: Licence of the weights: that of the trunk and of this package.
LICENCE = "Apache-2.0"
#: People of the training split that the confidence is fitted on.
_CONFIDENCE_PEOPLE = 4000


@dataclass(frozen=True)
class RegressorTraining(RenderedSets):
    """Options of a run.

    Attributes:
        trunk: Weights of the untrained trunk, from ``tools/convert_blazepose.py``.
        start: Weights to fine-tune; None: those of the stage ``head``.
        head: Options of the first stage.
        finetune_config: Options of the second stage.
    """

    trunk: Path | None = None
    start: Path | None = None
    head: HeadConfig = field(default_factory=HeadConfig)
    finetune_config: FinetuneConfig = field(default_factory=FinetuneConfig)

    def train_head(self) -> dict[str, float]:
        """Train the head on the stored outputs of the trunk; return its held-out score."""
        keep_freed_memory()
        body = load_body()
        network = make_network(self._load_trunk(), self.head)
        stages = self.finetune_config.frozen_stages
        for split in ("train", "val"):
            cache_maps(network, self.shards(split), stages)
        rendered = cache_features(network, self.shards("train"), stages)
        seen = cache_features(network, self.shards("val"), stages).plain
        targets = self._targets("train", body)
        prepare_head(network, rendered.plain, targets)
        train_head(
            network,
            body,
            rendered,
            targets,
            load_motion(self.motion, "train"),
            self.head,
            state=self.work / "head.pt",
            synth=self.synth,
            validate=_HeadScore(seen, self._targets("val", body), body),
        )
        self._save(network, "head.npz")
        return self._score(self.work / "head.npz")

    def finetune(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """Train trunk and head together, then the confidence; return the held-out score."""
        keep_freed_memory()
        device = torch.device(device)
        start = self.start if self.start is not None else self.work / "head.npz"
        network = load_open_regressor(start).to(device)
        body = load_body().to(device)
        stages = self.finetune_config.frozen_stages
        source = cache_maps(network, self.shards("train"), stages)
        seen = cache_maps(network, self.shards("val"), stages)
        people = self._targets("val", load_body()).to(device)

        def validate(candidate: nn.Module) -> float:
            assert isinstance(candidate, OpenRegressor)
            with torch.no_grad():
                output = candidate.head_forward(run_source(candidate, seen))
            return choice_score(output, people, body)

        labels = self._targets("train", load_body())
        finetune(
            network,
            body,
            source,
            labels,
            self.finetune_config,
            state=self.work / "finetune.pt",
            validate=validate,
        )
        network, body = network.cpu(), body.cpu()
        train_confidence(
            network,
            observe(network, body, source, labels, count=_CONFIDENCE_PEOPLE),
            observe(network, body, seen, people.to(torch.device("cpu"))),
        )
        self._save(network, "finetune.npz")
        self.measure_errors(self.work / "finetune.npz")
        return self._score(self.work / "finetune.npz")

    def export(self, out: Path, *, source_sha256: str) -> None:
        """Write the weights of the last finished stage, with their errors, as they ship."""
        network = load_open_regressor(self._last())
        save_open_regressor(network, out, licence=LICENCE, source_sha256=source_sha256)
        self.carry_errors(self._last(), out)

    def evaluate(self) -> dict[str, float]:
        """Score the weights of the last finished stage on the held-out images."""
        return self._score(self._last())

    def _score(self, weights: Path) -> dict[str, float]:
        network = load_open_regressor(weights)
        return score_renders(network, load_body(), load_shards(self.shards("test"))).summary()

    def _targets(self, split: Split, body: Smpl) -> Targets:
        return make_targets(load_shards(self.shards(split), images=False), body)

    def _last(self) -> Path:
        for name in ("finetune.npz", "head.npz"):
            if (self.work / name).is_file():
                return self.work / name
        raise FileNotFoundError(
            f"train: no finetune.npz or head.npz in {self.work}; run the stage head first"
        )

    def _load_trunk(self) -> BlazePose:
        if self.trunk is None or not self.trunk.is_file():
            raise FileNotFoundError(
                f"train: no file {self.trunk}; make it with tools/convert_blazepose.py and pass "
                "it as --trunk"
            )
        with np.load(self.trunk, allow_pickle=False) as archive:
            return BlazePose.from_arrays({key: archive[key] for key in archive.files})

    def _save(self, network: OpenRegressor, name: str) -> None:
        # Weights pass through the shipped precision between stages, so that what is measured
        # is what is shipped.
        save_open_regressor(network, self.work / name, licence=LICENCE, source_sha256="")


@dataclass(frozen=True)
class _HeadScore:
    """Scores a head on stored outputs of the trunk."""

    features: CachedFeatures
    targets: Targets
    body: Smpl

    @torch.no_grad()
    def __call__(self, head: nn.Module) -> float:
        assert isinstance(head, BodyHead)
        inputs = torch.cat([self.features.landmarks, self.features.trunk], 1)
        return choice_score(head(inputs, frame_of(inputs)), self.targets, self.body)
