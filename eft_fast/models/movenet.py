"""MoveNet SinglePose (TF Hub, Apache-2.0) as a plain module that can be trained.

A MobileNetV2 with a feature pyramid down to a quarter of the crop, and four heads that look at each
cell: is the person's centre here, where are the keypoints of a person centred here, is keypoint k
here, and how far from the cell. Batch norm is folded into the published weights and there is no
dropout, so the network is deterministic and every weight may be fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eft_fast.models.mobile import (
    InvertedResidual,
    depthwise,
    depthwise_layer,
    depthwise_relu6,
    pointwise,
    to_channels_last,
)
from eft_fast.models.weights import load_arrays

#: Keypoints, in the order of the joint set ``coco17``.
NUM_KEYPOINTS: Final = 17
#: Crop pixels along a side of a cell.
CELL: Final = 4
#: Sides of crops are multiples of this: the coarsest map has whole cells.
COARSEST: Final = 32

#: Blocks of each encoder stage and whether the first halves the size: 1/4, 1/8, 1/16, 1/16, 1/32 of
#: the crop. The encoder is cut where the pyramid reads it, so that a stage ends there.
_DEPTHS: Final = ((2, True), (3, True), (4, True), (3, False), (4, True))
#: Stages whose outputs the pyramid reads, from fine to coarse, beside the last map.
_LATERAL_STAGES: Final = (0, 1, 2)
_EXPANSION: Final = 6

#: The graph holds its constants in float16. Pixels times this, minus 1, is the input.
_PIXEL_SCALE: Final = float(np.float16(1 / 127.5))
#: Cells that are added to a distance before a heatmap is divided by it.
_REACH: Final = float(np.float16(1.8))


@dataclass(frozen=True)
class MoveNetConfig:
    """Size and widths of one published variant.

    Attributes:
        size: Side of the crop, in pixels.
        stem: Channels of the first convolution.
        enter: Channels of the encoder's first stage, at half the crop.
        widths: Output channels inside the five encoder stages; the last block of the last stage has
            ``last``.
        last: Channels of the last block.
        top: Channels of the last encoder map.
        pyramid: Channels of the pyramid from 1/32 to 1/4 of the crop.
        head: Channels of the hidden layer of each head.
    """

    size: int
    stem: int
    enter: int
    widths: tuple[int, int, int, int, int]
    last: int
    top: int = 1280
    pyramid: tuple[int, int, int, int] = (64, 32, 24, 24)
    head: int = 96

    @property
    def cells(self) -> int:
        """Side of the heatmaps."""
        return self.size // CELL


VARIANTS: Final[Mapping[str, MoveNetConfig]] = {
    "thunder": MoveNetConfig(256, 56, 32, (40, 56, 112, 168, 280), 560),
    "lightning": MoveNetConfig(192, 32, 16, (24, 32, 64, 96, 160), 320),
    # Same layers, a thousandth of the work: for tests and dry runs. No published weights.
    "tiny": MoveNetConfig(64, 4, 2, (2, 3, 4, 5, 6), 8, 12, (6, 5, 4, 4), 8),
}


class MoveNetMaps(NamedTuple):
    """What the network says about each cell of a crop, S / 4 cells a side.

    Attributes:
        center: Logits that the centre of the person is in the cell.
        regression: Of a person centred in the cell, the distance from the cell to each keypoint in
            cells: y and x of the first keypoint, of the second, and so on.
        heatmaps: Logits that the keypoint is in the cell.
        offsets: From the cell to the keypoint, in cells, ordered as ``regression``.
        pyramid: The feature pyramid at 1/16, 1/8 and 1/4 of the crop; the heads read the last.
        encoder: Encoder maps at 1/4, 1/8, 1/16 and 1/32 of the crop, of which it is made.
    """

    center: Float[Tensor, "B 1 H W"]
    regression: Float[Tensor, "B 34 H W"]
    heatmaps: Float[Tensor, "B 17 H W"]
    offsets: Float[Tensor, "B 34 H W"]
    pyramid: tuple[Tensor, ...]
    encoder: tuple[Tensor, ...]


class SeparableConv(nn.Module):
    """A depthwise 3 x 3 convolution, one of 1 x 1, then ``relu``."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.depthwise = depthwise_layer(in_width, 3, bias=False)
        self.pointwise = nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Apply the block."""
        return F.relu(pointwise(self.pointwise, depthwise(self.depthwise, x)))


class CellHead(nn.Module):
    """One number or more about each cell."""

    def __init__(self, in_width: int, hidden: int, out_width: int) -> None:
        super().__init__()
        self.conv = SeparableConv(in_width, hidden)
        self.out = nn.Conv2d(hidden, out_width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Apply the head."""
        return pointwise(self.out, self.conv(x))


class MoveNet(nn.Module):
    """Keypoints of the one person in a square crop.

    Modules are created in the order in which the published graph runs them; the converter
    (``tools/convert_movenet.py``) relies on it.

    Args:
        variant: ``"thunder"`` (256 px, 6.2 M parameters), ``"lightning"`` (192 px, 2.3 M) or
            ``"tiny"`` (tests).
    """

    def __init__(self, variant: str = "thunder") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"MoveNet: variant must be one of {list(VARIANTS)}, got {variant!r}")
        self.variant = variant
        self.config = config = VARIANTS[variant]

        # Stride 2 over an even size: forward pads below and to the right, as TensorFlow does.
        self.stem = nn.Conv2d(3, config.stem, 3, 2)
        self.stem_depthwise = depthwise_layer(config.stem, 3)
        self.stem_project = nn.Conv2d(config.stem, config.enter, 1)
        stages, before = [], config.enter
        for index, width in enumerate(config.widths):
            stages.append(_make_stage(index, before, width, config.last))
            before = width
        self.stages = nn.ModuleList(stages)
        self.top = nn.Conv2d(config.last, config.top, 1)

        coarsest, *finer = config.pyramid
        self.top_lateral = nn.Conv2d(config.top, coarsest, 1)
        # Each level: the next finer map joins the sum, which is narrowed to the level after it.
        widths = (coarsest, *finer)
        self.laterals = nn.ModuleList()
        self.merges = nn.ModuleList()
        for level, stage in enumerate(reversed(_LATERAL_STAGES)):
            self.laterals.append(nn.Conv2d(config.widths[stage], widths[level], 1))
            self.merges.append(SeparableConv(widths[level], widths[level + 1]))
        finest = config.pyramid[-1]
        self.regression = CellHead(finest, config.head, 2 * NUM_KEYPOINTS)
        self.offsets = CellHead(finest, config.head, 2 * NUM_KEYPOINTS)
        self.heatmaps = CellHead(finest, config.head, NUM_KEYPOINTS)
        self.center = CellHead(finest, config.head, 1)

    @property
    def input_size(self) -> int:
        """Side of the crop as published, in pixels; others run too, see ``forward``."""
        return self.config.size

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray[Any, Any]], variant: str = "thunder"
    ) -> MoveNet:
        """Build the network with the weights of the converter.

        Args:
            arrays: State dict as numpy arrays, of any floating type.
            variant: Which network the weights belong to.

        Raises:
            ValueError: If a weight is missing, unexpected or has the wrong shape.
        """
        network = cls(variant)
        load_arrays(network, arrays, who="MoveNet")
        return network

    def forward(self, rgb: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 17 3"]:
        """Find the keypoints of the person in each crop, as published.

        Args:
            rgb: RGB in [0, 1], not mean/std normalised. S is ``input_size`` as published, or
                another multiple of 32: quicker and coarser where it is smaller.

        Returns:
            x and y in crop pixels, and the score in [0, 1]; joint set ``coco17``. See ``read_out``.

        Raises:
            ValueError: If the crops are no squares of such a side.
        """
        return read_out(self.maps(rgb))

    def maps(self, rgb: Float[Tensor, "B 3 S S"]) -> MoveNetMaps:
        """What stands behind ``forward``, for other heads and read-outs."""
        return self.run_to_maps(0, self.run_to_stage(0, rgb))

    def run_to_stage(self, stage: int, rgb: Float[Tensor, "B 3 S S"]) -> tuple[Tensor, ...]:
        """Run the encoder up to the input of one of its five stages.

        Returns:
            The input of the stage, and the maps so far that the pyramid reads.
        """
        return self._run_stages((self._stem(rgb),), 0, stage)

    def run_to_maps(self, stage: int, state: tuple[Tensor, ...]) -> MoveNetMaps:
        """Finish ``maps`` from the result of ``run_to_stage``."""
        x, *maps = self._run_stages(state, stage, len(self.stages))
        top = F.relu6(pointwise(self.top, x))
        x, pyramid = pointwise(self.top_lateral, top), []
        for lateral, merge, finer in zip(self.laterals, self.merges, reversed(maps), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = merge(x + pointwise(lateral, finer))
            pyramid.append(x)
        return MoveNetMaps(
            center=self.center(x),
            regression=self.regression(x),
            heatmaps=self.heatmaps(x),
            offsets=self.offsets(x),
            pyramid=tuple(pyramid),
            encoder=(*maps, top),
        )

    def _run_stages(self, state: tuple[Tensor, ...], start: int, end: int) -> tuple[Tensor, ...]:
        x, *maps = state
        for index in range(start, end):
            x = self.stages[index](x)
            if index in _LATERAL_STAGES:
                maps.append(x)
        return (x, *maps)

    def _stem(self, rgb: Tensor) -> Tensor:
        size = rgb.shape[-1] if rgb.dim() == 4 else 0
        if not size or size % COARSEST or tuple(rgb.shape[1:]) != (3, size, size):
            raise ValueError(
                f"MoveNet: rgb must be [B, 3, S, S], S a multiple of {COARSEST}, got "
                f"{list(rgb.shape)}; cut crops of input_size pixels with imaging.crop_image"
            )
        x = F.pad(rgb * (255.0 * _PIXEL_SCALE) - 1.0, (0, 1, 0, 1))
        x = self.stem(to_channels_last(x, self.stem))
        x = depthwise_relu6(self.stem_depthwise, x, relu6_before=True)
        return pointwise(self.stem_project, x)


def _make_stage(index: int, in_width: int, width: int, last: int) -> nn.Sequential:
    """Blocks of one width; the very last block of the encoder widens once more."""
    depth, halves = _DEPTHS[index]
    is_last = index == len(_DEPTHS) - 1
    blocks = [
        InvertedResidual(
            in_width, width, 3, 2 if halves else 1, _EXPANSION, skip=False, pad_before=not halves
        )
    ]
    for number in range(1, depth):
        widens = is_last and number == depth - 1
        out_width = last if widens else width
        blocks.append(InvertedResidual(width, out_width, 3, 1, _EXPANSION, skip=not widens))
    return nn.Sequential(*blocks)


def read_out(maps: MoveNetMaps) -> Float[Tensor, "B 17 3"]:
    """The published way from maps to keypoints.

    The person is where the centre heatmap, divided by the distance from the middle of the crop, is
    greatest; the regression there says about where its keypoints are; of each heatmap that cell is
    taken which is greatest after division by the distance from there; its offset is added, and its
    value is the score. Gradients reach heatmaps and offsets of the cells that were taken; see
    ``soft_read_out``.

    Returns:
        x and y in crop pixels, and the score in [0, 1].
    """
    grid = _cells(maps.center)
    best = (maps.center.sigmoid() * _center_weight(maps.center)).flatten(2).argmax(2)  # [B, 1]
    about = _at(_pairs(maps.regression), best.expand(-1, NUM_KEYPOINTS)) + grid[best]
    odds = maps.heatmaps.sigmoid().flatten(2)
    best = (odds / _distance(grid, about)).argmax(2)
    cells = _at(_pairs(maps.offsets), best) + grid[best]
    score = odds.gather(2, best[..., None])
    return torch.cat([_to_pixels(cells, maps), score], -1)


class SoftKeypoints(NamedTuple):
    """Means over the cells in place of the greatest ones; places in crop pixels.

    Attributes:
        points: x, y, and the score in [0, 1].
        about: About where the keypoints of a person are who is centred where this one is.
        spread: Root mean square distance of the cells of a keypoint from their mean, as weighed.
    """

    points: Float[Tensor, "B 17 3"]
    about: Float[Tensor, "B 17 2"]
    spread: Float[Tensor, "B 17"]


def soft_read_out(maps: MoveNetMaps, sharpness: float = 4.0) -> Float[Tensor, "B 17 3"]:
    """``read_out`` with means in place of the greatest cells: its gradient reaches every head.

    Args:
        maps: Of the network.
        sharpness: Power of the (divided) heatmaps that weigh the cells; the larger, the nearer to
            ``read_out``.

    Returns:
        x and y in crop pixels, and the score in [0, 1].
    """
    return soft_keypoints(maps, sharpness).points


def soft_keypoints(maps: MoveNetMaps, sharpness: float) -> SoftKeypoints:
    """``soft_read_out``, and what stands behind it."""
    grid = _cells(maps.center)
    log_center = F.logsigmoid(maps.center) + _center_weight(maps.center).log()
    weight = (sharpness * log_center.flatten(2)).softmax(2)[..., None]  # [B, 1, N, 1]
    about = (weight * (_pairs(maps.regression) + grid)).sum(2)
    log_odds = F.logsigmoid(maps.heatmaps).flatten(2)
    weight = (sharpness * (log_odds - _distance(grid, about).log())).softmax(2)
    places = _pairs(maps.offsets) + grid
    cells = (weight[..., None] * places).sum(2)
    score = (weight * log_odds.exp()).sum(2)
    away = (places - cells[:, :, None]).square().sum(-1)
    # The floor goes under the root: its derivative at zero would be infinite.
    spread = (weight * away).sum(2).clamp_min(1e-6).sqrt() * CELL
    points = torch.cat([_to_pixels(cells, maps), score[..., None]], -1)
    return SoftKeypoints(points, _to_pixels(about, maps), spread)


def _cells(maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "N 2"]:
    """Row and column (y, x) of each cell, row by row."""
    height, width = maps.shape[2:]
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype)
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)


def _center_weight(center: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "H W"]:
    """1 / (distance from the middle in cells + 1.8), rounded to float16 as in the graph."""
    height, width = center.shape[2:]
    rows, columns = _cells(center).double().unbind(1)
    # The graph's own rounding took one tie upwards; 5e-6 less does the same here.
    away = ((rows - height / 2).square() + (columns - width / 2).square()).sqrt()
    weight = 1.0 / (away + (1.8 - 5e-6))
    return weight.float().half().to(center.dtype).reshape(height, width)


def _distance(
    grid: Float[Tensor, "N 2"], about: Float[Tensor, "B 17 2"]
) -> Float[Tensor, "B 17 N"]:
    """What the heatmaps are divided by, in cells."""
    square = (grid[:, 0] - about[..., :1]).square() + (grid[:, 1] - about[..., 1:]).square()
    # The floor goes under the root: its derivative at zero would be infinite.
    return square.clamp_min(1e-12).sqrt() + _REACH


def _pairs(maps: Float[Tensor, "B 34 H W"]) -> Float[Tensor, "B 17 N 2"]:
    """Pairs y, x of each keypoint in each cell."""
    batch, channels, height, width = maps.shape
    return maps.reshape(batch, channels // 2, 2, height * width).transpose(2, 3)


def _at(pairs: Float[Tensor, "B 17 N 2"], cells: Int[Tensor, "B 17"]) -> Float[Tensor, "B 17 2"]:
    index = cells[..., None, None].expand(-1, -1, 1, 2)
    return pairs.gather(2, index).squeeze(2)


def _to_pixels(cells: Float[Tensor, "B 17 2"], maps: MoveNetMaps) -> Float[Tensor, "B 17 2"]:
    """From y, x in cells to x, y in crop pixels; the graph divides by the cells in float16."""
    # By tensors: an exported graph takes crops of any side.
    count = cells.new_ones(()) * maps.center.shape[-1]
    return cells.flip(-1) * ((1 / count).half().to(cells.dtype) * count * CELL)
