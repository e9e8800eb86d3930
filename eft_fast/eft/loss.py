"""What EFT minimises: the loss of each person, for any number of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.eft.config import EftConfig
from eft_fast.models.base import RegressorOutput
from eft_fast.pipeline.predict import output_loss
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl


@dataclass(frozen=True)
class EftTarget:
    """What people are fitted to.

    Attributes:
        keypoints_2d: x and y in [-1, 1] of the crop, and confidence.
        intrinsics: Pinholes as seen in the crops; None: the weak camera.
    """

    keypoints_2d: Float[Tensor, "B 49 3"]
    intrinsics: Float[Tensor, "B 3 3"] | None = None

    @classmethod
    def of(cls, people: Sequence[Prepared]) -> EftTarget:
        """The targets of people."""
        return cls(
            torch.stack([person.keypoints_2d for person in people]), stack_intrinsics(people)
        )


class EftLoss:
    """Total loss and 2D error of answers; a loop of any kind calls it once per step.

    Args:
        body: Body model on the device of the network.
        config: Weights of the terms.
    """

    def __init__(self, body: Smpl, config: EftConfig) -> None:
        self._body, self._weights = body, config.loss

    def __call__(
        self, output: RegressorOutput, target: EftTarget
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Total loss of each person, and the 2D error of ``StopRule``, without gradient."""
        return output_loss(
            self._body, output, target.keypoints_2d, self._weights, target.intrinsics
        )
