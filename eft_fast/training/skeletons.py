"""Labelled keypoints of real people without their photos: what is seen, cut and hidden in life."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.keypoints import joint_set
from eft_fast.training.simulated_people import Dice

#: Fewest labelled keypoints of a person.
_MIN_LABELLED: Final = 8
#: Smallest longer side of a box, photo pixels: labels of small people are coarse.
_MIN_SIDE: Final = 60.0
#: Share of the labels that is hidden from the network, which must find them.
_WITHHELD: Final = (0.0, 0.5)
#: Noise of the labels that are given, over the longer side of the box.
_NOISE: Final = 0.01


class SkeletonBatch(NamedTuple):
    """Some people.

    Attributes:
        given: x, y in [-1, 1] of the crop and confidence; 0: not given.
        labels: All labels: x, y and whether there is one.
    """

    given: Float[Tensor, "B 17 3"]
    labels: Float[Tensor, "B 17 3"]


class Skeletons:
    """Labelled people in their crops.

    Args:
        labels: x and y in [-1, 1] of the crop; 2 visible, 1 hidden, 0 not labelled.
        extent: Root of the area of each box, in the same unit; None: not known.
    """

    def __init__(
        self, labels: Float[Tensor, "N 17 3"], extent: Float[Tensor, " N"] | None = None
    ) -> None:
        self.labels, self.extent = labels, extent

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def load(cls, path: str | Path, *, margin: float, val: bool = False) -> Skeletons:
        """Read people who may be learned from, or those who may not.

        Args:
            path: An ``.npz`` with ``kp`` [N,17,3] in the order of COCO: x, y in photo pixels and 0,
                1, 2 as COCO has it; ``bbox_xywh`` [N,4]; and ``val`` [N] bool: who is left out.
            margin: Side of a crop over the longer side of the box.
            val: Those who are left out otherwise, to be measured on.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not hold these arrays, or nobody who can be used.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"train: no file of skeletons {path}")
        try:
            with np.load(path, allow_pickle=False) as file:
                points = np.asarray(file["kp"], np.float32)
                boxes = np.asarray(file["bbox_xywh"], np.float32)
                is_val = np.asarray(file["val"], bool)
        except NUMPY_ERRORS as error:
            raise ValueError(
                f"train: {path} must be an .npz with kp, bbox_xywh and val ({type(error).__name__})"
            ) from error
        count = len(joint_set("coco17").names)
        if points.ndim != 3 or points.shape[1:] != (count, 3) or boxes.shape != (len(points), 4):
            raise ValueError(
                f"train: {path} must hold kp [N, {count}, 3] and bbox_xywh [N, 4], got "
                f"{list(points.shape)} and {list(boxes.shape)}"
            )
        side = boxes[:, 2:].max(1)
        usable = (
            (is_val == val) & ((points[..., 2] > 0).sum(1) >= _MIN_LABELLED) & (side >= _MIN_SIDE)
        )
        if not usable.any():
            raise ValueError(
                f"train: {path} must hold people with labels, got none that can be used"
            )
        center = (boxes[:, :2] + boxes[:, 2:] / 2)[:, None]
        half = np.maximum(margin * side / 2, 1.0)[:, None, None]
        labels = np.concatenate([(points[..., :2] - center) / half, points[..., 2:]], -1)
        labels[points[..., 2] <= 0] = 0.0
        extent = np.sqrt(boxes[:, 2] * boxes[:, 3]) / half[:, 0, 0]
        found = (labels[usable].astype(np.float32), extent[usable].astype(np.float32))
        return cls(*(torch.from_numpy(each) for each in found))

    def draw(self, count: int, dice: Dice) -> SkeletonBatch:
        """Draw people, some of their labels withheld, half of them mirrored."""
        labels = self.labels[dice.integers(count, len(self))].clone()
        is_mirrored: Bool[Tensor, " B"] = dice.happens(count, 0.5)
        order = list(joint_set("coco17").flip)
        other = labels[:, order] * labels.new_tensor([-1.0, 1.0, 1.0])
        labels = torch.where(is_mirrored[:, None, None], other, labels)
        there = labels[..., 2] > 0
        share = dice.uniform(count, *_WITHHELD)[:, None]
        kept = there & (torch.rand(there.shape, generator=dice.generator) >= share)
        kept = torch.where((kept.sum(1) < 4)[:, None], there, kept)
        places = labels[..., :2] + _NOISE * dice.normal(count, there.shape[1], 2)
        confidence = torch.where(labels[..., 2] > 1, 1.0, 0.5)
        given = torch.cat([places, confidence[..., None]], -1) * kept[..., None]
        return SkeletonBatch(given, torch.cat([labels[..., :2], there[..., None].float()], -1))
