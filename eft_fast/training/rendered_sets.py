"""The sets of rendered people of a training run, and how wrong weights are on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from eft_fast.body import load_body
from eft_fast.models import load_regressor
from eft_fast.models.error_covariance import covariance_beside, load_error_covariance
from eft_fast.synth import SynthConfig, SynthJob
from eft_fast.synth.config import varied
from eft_fast.synth.dataset import render_shards
from eft_fast.synth.motion import SPLITS, Split
from eft_fast.training.config import check_numbers
from eft_fast.training.error_covariance import CALIBRATION_SEED, measure_on_renders


@dataclass(frozen=True)
class RenderedSets:
    """Which people are rendered.

    Attributes:
        work: Folder of the run: shards, states, weights.
        motion: Folder of motion capture.
        backgrounds: Folder of photographs, or None.
        train: Rendered training images.
        varied: Further training images, of scenes with everything (``synth.config.varied``).
        val: Rendered images that weights are chosen on.
        test: Rendered held-out images.
        calibration: Further images of the validation motion, on which the errors of the finished
            weights are measured; 0: they are not.
        synth: How pictures look, and their seed.
    """

    work: Path
    motion: Path
    backgrounds: Path | None = None
    train: int = 20_000
    varied: int = 0
    val: int = 500
    test: int = 1000
    calibration: int = 1000
    synth: SynthConfig = field(default_factory=SynthConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "train")

    def job(self, split: Split) -> SynthJob:
        """Return the set of one split."""
        return SynthJob(
            out=self.work / "shards",
            split=split,
            count={"train": self.train, "val": self.val, "test": self.test}[split],
            motion=self.motion,
            backgrounds=self.backgrounds,
            config=self.synth,
        )

    def jobs(self, split: Split) -> list[SynthJob]:
        """Return the sets of one split: training may have one of varied scenes beside the first."""
        job = self.job(split)
        if split != "train" or not self.varied:
            return [job]
        # Another seed, so that picture i of the two sets is not the same pose.
        config = varied(self.synth.size, self.synth.seed + 1)
        out = self.work / "varied"
        return [job, replace(job, out=out, count=self.varied, config=config)]

    def calibration_job(self) -> SynthJob:
        """Return the set of the error covariance: other people than weights are chosen on."""
        config = replace(self.synth, seed=self.synth.seed + CALIBRATION_SEED)
        out = self.work / "calibration"
        return replace(self.job("val"), out=out, count=self.calibration, config=config)

    def shards(self, split: Split) -> list[Path]:
        """Return the files of one split."""
        return [
            job.shard_path(shard) for job in self.jobs(split) for shard in range(job.num_shards)
        ]

    def render(self, *, processes: int = 1) -> None:
        """Render all splits."""
        jobs = [job for split in SPLITS for job in self.jobs(split)]
        jobs += [self.calibration_job()] if self.calibration else []
        for job in jobs:
            render_shards(job, processes=processes)

    def measure_errors(self, weights: Path) -> None:
        """Write the error covariance of stored weights beside them."""
        if self.calibration:
            network = load_regressor(weights)
            found = measure_on_renders(network, load_body(), self.calibration_job())
            found.save(covariance_beside(weights))

    def carry_errors(self, weights: Path, out: Path) -> None:
        """The same for a further file of these weights: what is known of them goes along."""
        known = covariance_beside(weights)
        if known.is_file():
            load_error_covariance(load_regressor(out), known).save(covariance_beside(out))
        else:
            self.measure_errors(out)
