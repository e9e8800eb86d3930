"""YOLOX-nano (Megvii, Apache-2.0) as a plain module: boxes of people in a picture.

The batch norms of the published network are folded into its convolutions, and of its 80 classes
only the person is kept. ``eft_fast.person_boxes`` makes the input and turns the answer into boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from eft_fast.models.mobile import depthwise, pointwise, to_channels_last
from eft_fast.models.weights import load_arrays
from eft_fast.ops.ambient import plain_torch
from eft_fast.person_boxes import STRIDES

#: The published weights, as ``tools/convert_yolox.py`` wrote them.
PUBLISHED_PATH: Final = Path(__file__).parent.parent / "assets" / "yolox_nano.npz"
#: Channels of the maps at strides 4, 8, 16 and 32; half of the first come out of the stem.
_WIDTHS: Final = (32, 64, 128, 256)
#: Bottlenecks of the encoder's four stages.
_DEPTHS: Final = (1, 3, 3, 1)
#: Channels of the heads.
_HEAD: Final = 64
#: Windows whose maxima stand beside the coarsest map.
_POOLS: Final = (5, 9, 13)


class Pointwise(nn.Module):
    """1 x 1 convolution and SiLU."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Apply the layer."""
        return F.silu(pointwise(self.conv, x))


class Separable(nn.Module):
    """3 x 3 convolution of each channel, then a 1 x 1 convolution; SiLU behind both."""

    def __init__(self, in_width: int, out_width: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_width, in_width, 3, stride, padding=1, groups=in_width)
        self.pointwise = nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Apply the layers."""
        return F.silu(pointwise(self.pointwise, F.silu(depthwise(self.depthwise, x))))


class Bottleneck(nn.Module):
    """Two layers at the width of the input, perhaps with a shortcut."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.conv1 = Pointwise(width, width)
        self.conv2 = Separable(width, width)
        self.skip = skip

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Apply the block."""
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.skip else y


class CspBlock(nn.Module):
    """Cross-stage partial block: one half goes through bottlenecks, the other past them."""

    def __init__(self, in_width: int, out_width: int, depth: int = 1, *, skip: bool) -> None:
        super().__init__()
        half = out_width // 2
        self.conv1 = Pointwise(in_width, half)
        self.conv2 = Pointwise(in_width, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, skip=skip) for _ in range(depth)))
        self.conv3 = Pointwise(2 * half, out_width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Apply the block."""
        out: Tensor = self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], 1))
        return out


class PoolPyramid(nn.Module):
    """Maxima over three windows beside the map itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Pointwise(width, width // 2)
        self.conv2 = Pointwise(width // 2 * (len(_POOLS) + 1), width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Apply the block."""
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, side, 1, side // 2) for side in _POOLS]
        out: Tensor = self.conv2(torch.cat([x, *pooled], 1))
        return out


class Head(nn.Module):
    """Box, objectness and class of each cell of one map."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.stem = Pointwise(in_width, _HEAD)
        self.class_convs = nn.Sequential(Separable(_HEAD, _HEAD), Separable(_HEAD, _HEAD))
        self.class_out = nn.Conv2d(_HEAD, 1, 1)
        self.box_convs = nn.Sequential(Separable(_HEAD, _HEAD), Separable(_HEAD, _HEAD))
        self.box_out = nn.Conv2d(_HEAD, 4, 1)
        self.object_out = nn.Conv2d(_HEAD, 1, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N 6"]:
        """x, y, log width, log height (in cells), and the odds of an object and of a person."""
        x = self.stem(x)
        person = pointwise(self.class_out, self.class_convs(x))
        boxes = self.box_convs(x)
        out = [pointwise(self.box_out, boxes), pointwise(self.object_out, boxes).sigmoid()]
        return torch.cat([*out, person.sigmoid()], 1).flatten(2).transpose(1, 2)


class YoloxNano(nn.Module):
    """Boxes of the people in pictures; 0.9 M parameters.

    Modules are created in the order in which the published graph runs them; the converter
    (``tools/convert_yolox.py``) relies on it.
    """

    def __init__(self) -> None:
        super().__init__()
        w4, w8, w16, w32 = _WIDTHS
        self.stem = nn.Conv2d(12, w4 // 2, 3, padding=1)
        stages: list[nn.Module] = []
        width = w4 // 2
        for out, depth in zip(_WIDTHS, _DEPTHS, strict=True):
            last = out == w32
            stage: list[nn.Module] = [Separable(width, out, 2)]
            if last:
                stage.append(PoolPyramid(out))
            stage.append(CspBlock(out, out, depth, skip=not last))
            stages.append(nn.Sequential(*stage))
            width = out
        self.stages = nn.ModuleList(stages)
        # Down to the fine map, with the coarse one beside it, and back up.
        self.reduce32 = Pointwise(w32, w16)
        self.down16 = CspBlock(2 * w16, w16, skip=False)
        self.reduce16 = Pointwise(w16, w8)
        self.down8 = CspBlock(2 * w8, w8, skip=False)
        self.shrink8 = Separable(w8, w8, 2)
        self.up16 = CspBlock(2 * w8, w16, skip=False)
        self.shrink16 = Separable(w16, w16, 2)
        self.up32 = CspBlock(2 * w16, w32, skip=False)
        self.heads = nn.ModuleList(Head(each) for each in (w8, w16, w32))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> YoloxNano:
        """Build the network with the weights of the converter.

        Args:
            arrays: State dict as numpy arrays, of any floating type.

        Raises:
            ValueError: If a weight is missing, unexpected or has the wrong shape.
        """
        network = cls()
        load_arrays(network, arrays, who="YoloxNano")
        return network

    def forward(self, bgr: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N 6"]:
        """Look for people.

        Args:
            bgr: Blue, green, red in [0, 255], not normalised; sides multiples of 32. The network
                was trained on squares of about 416.

        Returns:
            For each cell of the maps at strides 8, 16 and 32, rows of each map first: x and y from
            the cell's corner and log of width and height, in cells; the probabilities that an
            object is there, and that an object there is a person.

        Raises:
            ValueError: If the pictures have another size.
        """
        if bgr.dim() != 4 or bgr.shape[1] != 3:
            raise ValueError(f"YoloxNano: bgr must be [B, 3, H, W], got {list(bgr.shape)}")
        height, width = bgr.shape[2:]
        if height == 0 or height % STRIDES[-1] or width == 0 or width % STRIDES[-1]:
            raise ValueError(
                f"YoloxNano: both sides must be multiples of {STRIDES[-1]}, got {height} x {width}"
            )
        # Each 2 x 2 pixels to one of 12 channels: upper left, lower left, upper right, lower right.
        corners = [bgr[..., y::2, x::2] for x in (0, 1) for y in (0, 1)]
        x = to_channels_last(torch.cat(corners, 1), self.stem)
        x = F.silu(self.stem(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        _, x8, x16, x32 = maps
        top = self.reduce32(x32)
        y16 = self.reduce16(self.down16(torch.cat([_twice(top), x16], 1)))
        y8 = self.down8(torch.cat([_twice(y16), x8], 1))
        z16 = self.up16(torch.cat([self.shrink8(y8), y16], 1))
        z32 = self.up32(torch.cat([self.shrink16(z16), top], 1))
        levels = zip(self.heads, (y8, z16, z32), strict=True)
        return torch.cat([head(each) for head, each in levels], 1)


def to_bgr(pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """RGB pixels to what the network reads."""
    return pictures.to(torch.float32).permute(0, 3, 1, 2).flip(1)


def _twice(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 2H 2W"]:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def load_published_yolox() -> YoloxNano:
    """The network as it was published, which the package ships; a new one at each call."""
    with plain_torch(), np.load(PUBLISHED_PATH, allow_pickle=False) as archive:
        return YoloxNano.from_arrays({name: archive[name] for name in archive.files}).eval()
