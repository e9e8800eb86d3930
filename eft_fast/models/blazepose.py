"""The BlazePose landmark network (MediaPipe, Apache-2.0) as a plain module that can be trained.

The published graphs hold no batch norm and no dropout, so the network is deterministic and every
weight may be fine-tuned. The segmentation branch of the graph is left out; heatmaps are computed
on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast.models.mobile import (
    InvertedResidual,
    depthwise_layer,
    depthwise_relu6,
    pointwise,
    to_channels_last,
)
from eft_fast.models.weights import load_arrays

#: The published weights, as ``tools/convert_blazepose.py`` wrote them.
PUBLISHED_PATH: Final = Path(__file__).parent.parent / "assets" / "blazepose_full.npz"
#: Side of the input, in pixels.
INPUT_SIZE: Final = 256
#: Landmarks in the output: 33 of the body and 6 auxiliary ones.
NUM_LANDMARKS: Final = 39
#: Body landmarks, the first ones of the output.
NUM_BODY_LANDMARKS: Final = 33
#: Side of the heatmaps, in cells.
HEATMAP_SIZE: Final = 64

#: Stages whose outputs (64, 32 and 16 cells wide) the heatmap branch reads, and its last input.
_LATERAL_STAGES: Final = (0, 1, 3)


class StageConfig(NamedTuple):
    """One resolution stage of the encoder.

    Attributes:
        width: Output channels.
        kernel: Side of the depthwise kernels.
        stride: Stride of the first block.
        residual: Blocks with a shortcut that follow the first block.
        expansion: Channels inside the first block over its input channels; later blocks use 6.
    """

    width: int
    kernel: int
    stride: int
    residual: int
    expansion: int = 6


@dataclass(frozen=True)
class BlazePoseConfig:
    """Widths and depths of one published variant.

    Attributes:
        stem: Channels after the stem, at 128 x 128.
        stages: Encoder stages, from 128 x 128 down to 8 x 8.
        head_width: Channels of the landmark head.
        head_depth: Residual blocks of the head at 4 x 4 and at 2 x 2.
        lateral_width: Channels of the heatmap branch.
    """

    stem: int
    stages: tuple[StageConfig, ...]
    head_width: int
    head_depth: tuple[int, int]
    lateral_width: int

    @property
    def feature_size(self) -> int:
        """Length of the flattened 2 x 2 map that the output layers read."""
        return self.head_width * 4


def _stages(*widths: int) -> tuple[StageConfig, ...]:
    kernels, strides, residuals = (3, 5, 3, 5, 5), (2, 2, 2, 1, 2), (1, 1, 2, 2, 3)
    expansions = (4, 6, 6, 6, 6)
    rows = zip(widths, kernels, strides, residuals, expansions, strict=True)
    return tuple(StageConfig(*row) for row in rows)


VARIANTS: Final[Mapping[str, BlazePoseConfig]] = {
    "full": BlazePoseConfig(16, _stages(24, 32, 64, 88, 144), 288, (4, 5), 48),
    "lite": BlazePoseConfig(8, _stages(16, 24, 40, 56, 96), 192, (2, 3), 32),
    # Same layers, a thousandth of the work: for tests and dry runs. No published weights.
    "tiny": BlazePoseConfig(2, _stages(2, 3, 4, 5, 6), 8, (1, 1), 4),
}


class BlazePoseOutput(NamedTuple):
    """What the network says about one square crop with one person in it.

    Attributes:
        landmarks: x, y and z in crop pixels (z relative to the hips, smaller is nearer), then
            the logits of visible and of present (inside the crop). Rows 0 to 32 are the body,
            in the order of the joint set ``mp33``; 33 to 38 are auxiliary.
        world: x, y, z in metres, hip-centred, axes of the camera.
        score: Probability that a person is there.
        features: Flattened last map of the head, before the output layers.
    """

    landmarks: Float[Tensor, "B 39 5"]
    world: Float[Tensor, "B 39 3"]
    score: Float[Tensor, " B"]
    features: Float[Tensor, "B D"]


class HeadBlock(nn.Module):
    """Depthwise-separable residual block; a stride of 2 halves the shortcut by max pooling."""

    def __init__(self, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        # At stride 2 TensorFlow's SAME pads only below and to the right; forward does that.
        padding = 1 if stride == 1 else 0
        self.depthwise = nn.Conv2d(width, width, 3, stride, padding=padding, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Apply the block."""
        y = depthwise_relu6(self.depthwise, x, after=self.stride - 1)
        if self.stride == 2:
            x = F.max_pool2d(x, 2)
        return F.relu6(x + pointwise(self.pointwise, y))


class Lateral(nn.Module):
    """Bring one encoder map to the width of the heatmap branch."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.depthwise = depthwise_layer(in_width, 3)
        self.project = nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Apply the block."""
        return F.relu6(pointwise(self.project, depthwise_relu6(self.depthwise, x)))


def _make_stage(in_width: int, config: StageConfig) -> nn.Sequential:
    width, kernel = config.width, config.kernel
    blocks = [
        InvertedResidual(in_width, width, kernel, config.stride, config.expansion, skip=False)
    ]
    for _ in range(config.residual):
        blocks.append(InvertedResidual(width, width, kernel, 1, 6, skip=True))
    return nn.Sequential(*blocks)


class BlazePose(nn.Module):
    """Landmarks of the one person in a square crop.

    Modules are created in the order in which the published graph runs them; the converter
    (``tools/convert_blazepose.py``) relies on it.

    Args:
        variant: ``"full"`` (3.2 M parameters), ``"lite"`` (1.4 M) or ``"tiny"`` (tests).
    """

    def __init__(self, variant: str = "full") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"BlazePose: variant must be one of {list(VARIANTS)}, got {variant!r}")
        self.variant = variant
        self.config = config = VARIANTS[variant]
        first = config.stages[0].width

        self.stem = nn.Conv2d(3, first if variant == "tiny" else 24, 3, 2, padding=1)
        channels = self.stem.out_channels
        self.stem_depthwise = depthwise_layer(channels, 3)
        self.stem_project = nn.Conv2d(channels, config.stem, 1)
        widths = [config.stem] + [stage.width for stage in config.stages]
        self.stages = nn.ModuleList(
            _make_stage(width, stage) for width, stage in zip(widths, config.stages, strict=False)
        )
        top = widths[-1] * 6
        self.top_expand = nn.Conv2d(widths[-1], top, 1)
        self.top_depthwise = depthwise_layer(top, 3)
        self.neck_depthwise = depthwise_layer(top, 3)
        self.neck_project = nn.Conv2d(top, config.head_width, 1)
        depth4, depth2 = config.head_depth
        blocks = [HeadBlock(config.head_width, stride=2)]
        blocks += [HeadBlock(config.head_width) for _ in range(depth4)]
        blocks += [HeadBlock(config.head_width, stride=2)]
        blocks += [HeadBlock(config.head_width) for _ in range(depth2)]
        self.head = nn.Sequential(*blocks)
        # Each output layer sees the whole 2 x 2 map at once: a fully connected layer in disguise.
        self.landmark_out = nn.Conv2d(config.head_width, NUM_LANDMARKS * 5, 2)
        self.world_out = nn.Conv2d(config.head_width, NUM_LANDMARKS * 3, 2)
        self.score_out = nn.Conv2d(config.head_width, 1, 2)

        lateral_inputs = [config.stages[i].width for i in _LATERAL_STAGES] + [top]
        self.laterals = nn.ModuleList(
            Lateral(width, config.lateral_width) for width in lateral_inputs
        )
        self.heatmap_out = nn.Conv2d(config.lateral_width, NUM_LANDMARKS, 1)

    @property
    def feature_size(self) -> int:
        """Length of ``BlazePoseOutput.features``."""
        return self.config.feature_size

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray[Any, Any]], variant: str = "full"
    ) -> BlazePose:
        """Build the network with the weights of the converter.

        Args:
            arrays: State dict as numpy arrays, of any floating type.
            variant: Which network the weights belong to.

        Raises:
            ValueError: If a weight is missing, unexpected or has the wrong shape.
        """
        network = cls(variant)
        load_arrays(network, arrays, who="BlazePose")
        return network

    def forward(self, rgb: Float[Tensor, "B 3 256 256"]) -> BlazePoseOutput:
        """Find the landmarks of the person in each crop.

        Args:
            rgb: RGB in [0, 1], not mean/std normalised.

        Raises:
            ValueError: If the crops are not 256 pixels wide and high.
        """
        return self._output(self._encode(rgb)[-1])

    def with_heatmaps(
        self, rgb: Float[Tensor, "B 3 256 256"]
    ) -> tuple[BlazePoseOutput, Float[Tensor, "B 39 64 64"]]:
        """``forward``, and the logits that each landmark lies in a cell of 4 x 4 crop pixels."""
        maps = self._encode(rgb)
        *finer, coarsest = (lateral(x) for lateral, x in zip(self.laterals, maps, strict=True))
        x = coarsest
        for lateral in reversed(finer):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) + lateral
        return self._output(maps[-1]), self.heatmap_out(x)

    def run_to_stage(self, stage: int, rgb: Float[Tensor, "B 3 256 256"]) -> Tensor:
        """Run the encoder up to the input of one of its stages."""
        x = self._stem(rgb)
        for each in self.stages[:stage]:
            x = each(x)
        return x

    def run_to_features(self, stage: int, x: Tensor) -> Float[Tensor, "B D"]:
        """Run from the input of a stage to ``BlazePoseOutput.features``."""
        for each in self.stages[stage:]:
            x = each(x)
        return self._encode_top(self._top(x)).flatten(1)

    def read_out(self, features: Float[Tensor, "B D"]) -> BlazePoseOutput:
        """Finish ``forward`` from the features."""
        batch = features.shape[0]
        encoded = features.reshape(batch, self.config.head_width, 2, 2)
        return BlazePoseOutput(
            landmarks=self.landmark_out(encoded).reshape(batch, NUM_LANDMARKS, 5),
            world=self.world_out(encoded).reshape(batch, NUM_LANDMARKS, 3),
            score=torch.sigmoid(self.score_out(encoded)).reshape(batch),
            features=features,
        )

    def _stem(self, rgb: Tensor) -> Tensor:
        if rgb.dim() != 4 or tuple(rgb.shape[1:]) != (3, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(
                f"BlazePose: rgb must be [B, 3, {INPUT_SIZE}, {INPUT_SIZE}], got {list(rgb.shape)}"
            )
        x = self.stem(to_channels_last(rgb, self.stem))
        x = depthwise_relu6(self.stem_depthwise, x, relu6_before=True)
        return pointwise(self.stem_project, x)

    def _top(self, x: Tensor) -> Tensor:
        return depthwise_relu6(self.top_depthwise, pointwise(self.top_expand, x), relu6_before=True)

    def _encode(self, rgb: Tensor) -> list[Tensor]:
        """The three stage outputs that the heatmaps need, and the last encoder map (8 x 8)."""
        x = self._stem(rgb)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _LATERAL_STAGES:
                maps.append(x)
        return [*maps, self._top(x)]

    def _encode_top(self, top: Float[Tensor, "B C 8 8"]) -> Float[Tensor, "B D 2 2"]:
        x = pointwise(self.neck_project, depthwise_relu6(self.neck_depthwise, top))
        encoded: Tensor = self.head(F.relu6(x))
        return encoded

    def _output(self, top: Float[Tensor, "B C 8 8"]) -> BlazePoseOutput:
        return self.read_out(self._encode_top(top).flatten(1))


def load_published_blazepose() -> BlazePose:
    """The network as it was published, which the package ships; a new one at each call."""
    with np.load(PUBLISHED_PATH, allow_pickle=False) as archive:
        return BlazePose.from_arrays({name: archive[name] for name in archive.files}).eval()
