"""Blocks of the known networks in which everything between two convolutions runs inside of them.

Frozen batch norm, residual sum and activation end a convolution here, so a block reads
and writes each map once. Batch norm stays a scale and shift behind the product: folded into trained
weights it would change Adam's step. Networks without such blocks run as they are, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional as F

from eft_fast.eft.batched.adam_in_backward import AdamConv2d
from eft_fast.eft.modes import leaves
from eft_fast.models.blazepose import HeadBlock
from eft_fast.models.hmr import Bottleneck, Hmr
from eft_fast.models.mobile import InvertedResidual
from eft_fast.ops.slot_layers import ConvEnd


class EpilogueBottleneck(nn.Module):
    """A ``Bottleneck`` of four convolutions with epilogues, or three."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = _end(block.conv1, block.bn1, "relu")
        self.conv2 = _end(block.conv2, block.bn2, "relu")
        self.conv3 = _end(block.conv3, block.bn3, "relu")
        self.shortcut: nn.Module = nn.Identity()
        if block.downsample is not None:
            self.shortcut = _end(block.downsample[0], block.downsample[1], "none")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.conv3(self.conv2(self.conv1(x)), self.shortcut(x))
        return out


class EpilogueResidual(nn.Module):
    """An ``InvertedResidual`` of three convolutions with epilogues."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.expand = _end(block.expand, None, "relu6")
        self.depthwise = _end(block.depthwise, None, "relu6")
        self.project = block.project
        self.skip = block.skip
        self.pad_after = block.pad_after

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.expand(x)
        if self.pad_after:
            y = F.pad(y, (0, self.pad_after, 0, self.pad_after))
        out: Tensor = self.project(self.depthwise(y), x if self.skip else None)
        return out


class EpilogueHeadBlock(nn.Module):
    """A ``HeadBlock`` of two convolutions with epilogues."""

    def __init__(self, block: HeadBlock) -> None:
        super().__init__()
        self.stride = block.stride
        self.depthwise = _end(block.depthwise, None, "relu6")
        self.pointwise = _end(block.pointwise, None, "relu6")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        if self.stride == 2:
            y = self.depthwise(F.pad(x, (0, 1, 0, 1)))
            x = F.max_pool2d(x, 2)
        else:
            y = self.depthwise(x)
        out: Tensor = self.pointwise(y, x)
        return out


def move_into_epilogues(network: nn.Module) -> None:
    """Replace the known blocks in place, where all of their convolutions are fused ones."""
    for parent, name, block in list(leaves(network)):
        if type(block) in _JOINED and _is_fused(block):
            setattr(parent, name, _JOINED[type(block)](block))
        elif isinstance(block, Hmr) and isinstance(block.conv1, AdamConv2d):
            # The ReLU that follows in Hmr finds nothing left to do.
            block.conv1 = _end(block.conv1, block.bn1, "relu")  # type: ignore[assignment]
            block.bn1 = nn.Identity()  # type: ignore[assignment]


_JOINED: Final[dict[type[nn.Module], Callable[[Any], nn.Module]]] = {
    Bottleneck: EpilogueBottleneck,
    InvertedResidual: EpilogueResidual,
    HeadBlock: EpilogueHeadBlock,
}


def _is_fused(block: nn.Module) -> bool:
    return not any(type(module) is nn.Conv2d for module in block.modules()) and any(
        isinstance(module, AdamConv2d) for module in block.modules()
    )


def _end(conv: nn.Module, norm: nn.Module | None, activation: str) -> AdamConv2d:
    """Give a convolution what follows it as its epilogue."""
    assert isinstance(conv, AdamConv2d)
    if norm is None:
        conv.end = ConvEnd(activation=activation)
        return conv
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = norm.weight.detach().double() / (variance + norm.eps).sqrt()
    shift = norm.bias.detach().double() - mean * scale
    like = norm.running_mean
    conv.end = ConvEnd(scale.to(like).contiguous(), shift.to(like).contiguous(), activation)
    return conv
