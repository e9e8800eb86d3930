"""Training on pictures that are drawn as they are needed, on the device that trains."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.models.base import Regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth.batch import SynthBatch
from eft_fast.synth.stream import SynthBatches
from eft_fast.training.targets import Targets, targets_from_labels


class RenderedStream:
    """New people for every update; nothing is stored, and nobody is seen twice.

    Update i gets batch i of the stream, so that a run that is stopped and resumed goes on with the
    batches that it would have had.

    Args:
        batches: The stream. Its batch size counts, not that of the training's options; mirroring
            is part of it.
    """

    stages = 0

    def __init__(self, batches: SynthBatches) -> None:
        self.batches = batches

    def draw(self, step: int) -> tuple[Float[Tensor, "B 3 S S"], Targets]:
        """Return the crops, as the open regressor takes them, and the labels of one update."""
        batch = self.batches.get(step)
        return normalise_batch(batch.image, OpenRegressor), self.targets(batch)

    def targets(self, batch: SynthBatch) -> Targets:
        """Return the labels of a batch."""
        labels = batch.rotmat, batch.betas, batch.transl, batch.camera
        return targets_from_labels(self.batches.body, *labels)


def normalise_batch(
    image: Tensor, regressor: Regressor | type[Regressor]
) -> Float[Tensor, "B 3 S S"]:
    """Turn uint8 crops [B, S, S, 3] into the input of a regressor; compare ``imaging.to_input``."""
    mean = torch.tensor(regressor.img_mean, device=image.device)
    std = torch.tensor(regressor.img_std, device=image.device)
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
