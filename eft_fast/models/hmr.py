"""The HMR network in the form of SPIN and EFT, for their checkpoints.

ResNet-50, then three passes of a small head that corrects pose, shape and camera. Names of
parameters and buffers are those of SPIN's checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import conventions
from eft_fast.geometry.cameras import to_scale_shift
from eft_fast.geometry.rotations import rot6d_to_matrix
from eft_fast.models.base import Regressor, RegressorOutput

#: Blocks and width of the four ResNet-50 stages; a block widens fourfold at its end.
_STAGES: Final = ((3, 64), (4, 128), (6, 256), (3, 512))
_STAGE_NAMES: Final = ("layer1", "layer2", "layer3", "layer4")
_EXPANSION: Final = 4
_HIDDEN: Final = 1024
_NUM_POSE: Final = conventions.NUM_JOINTS * 6
#: Passes of the head.
ITERATIONS: Final = 3


@dataclass(frozen=True)
class CheckpointInfo:
    """Where the weights of an ``Hmr`` came from and how they are read.

    Attributes:
        path: The file.
        sha256: Its hash.
        weights_camera: Camera convention taken for its raw output.
        stride_in_1x1: Place of the stage stride.
        unexpected: Keys of the file that the network has no use for.
    """

    path: str
    sha256: str
    weights_camera: str
    stride_in_1x1: bool
    unexpected: tuple[str, ...]


class Bottleneck(nn.Module):
    """ResNet bottleneck: 1x1, 3x3, 1x1, and a shortcut."""

    def __init__(self, in_width: int, width: int, stride: int, *, stride_in_1x1: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        out_width = width * _EXPANSION
        self.conv1 = nn.Conv2d(in_width, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_width != out_width:
            shortcut = nn.Conv2d(in_width, out_width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_width))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Apply the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class Hmr(Regressor):
    """ResNet-50 and iterative regression of SMPL parameters.

    Batch norm always runs on its stored statistics and its scale and shift are frozen, also in
    training mode: one person must not depend on the others of the batch. Dropout acts in training
    mode only.

    Args:
        stride_in_1x1: Put the stride of stages 2 to 4 on the first 1x1 convolution (Caffe, Keras)
            instead of the 3x3 (SPIN, EFT, torchvision). Weights of one kind load into the other
            without an error and give wrong features.
        weights_camera: Camera convention that the weights were trained with, ``"shift_scale"`` or
            ``"scale_shift"``. What leaves the network is ``scale_shift`` either way.
    """

    stages = ("layer3", "layer4", "feature", "head")
    #: Where the weights came from; None for a new network.
    checkpoint: CheckpointInfo | None
    init_pose: Tensor
    init_shape: Tensor
    init_cam: Tensor

    def __init__(
        self,
        *,
        stride_in_1x1: bool = False,
        weights_camera: str = conventions.SHIFT_SCALE,
    ) -> None:
        super().__init__()
        known = (conventions.SCALE_SHIFT, conventions.SHIFT_SCALE)
        if weights_camera not in known:
            raise ValueError(
                f"Hmr: weights_camera must be one of {list(known)}, got {weights_camera!r}"
            )
        self.input_size = conventions.HMR_CROP
        self.id = "hmr"
        self.body_id = "smpl"
        self.checkpoint = None
        self.stride_in_1x1 = stride_in_1x1
        self.weights_camera = weights_camera

        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = _make_stages(stride_in_1x1)
        features = _STAGES[-1][1] * _EXPANSION
        self.fc1 = nn.Linear(features + _NUM_POSE + conventions.NUM_BETAS + 3, _HIDDEN)
        self.drop1 = nn.Dropout()
        self.fc2 = nn.Linear(_HIDDEN, _HIDDEN)
        self.drop2 = nn.Dropout()
        self.decpose = nn.Linear(_HIDDEN, _NUM_POSE)
        self.decshape = nn.Linear(_HIDDEN, conventions.NUM_BETAS)
        self.deccam = nn.Linear(_HIDDEN, 3)
        identity = torch.eye(3)[:, :2].reshape(1, 6)
        self.register_buffer("init_pose", identity.repeat(1, conventions.NUM_JOINTS))
        self.register_buffer("init_shape", torch.zeros(1, conventions.NUM_BETAS))
        self.register_buffer("init_cam", torch.tensor([[0.9, 0.0, 0.0]]))
        self._init_weights()
        self.train(self.training)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.requires_grad_(False)
                module.bias.requires_grad_(False)
        for decoder in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)

    def train(self, mode: bool = True) -> Hmr:
        """Switch dropout; batch norm stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def features(self, img: Float[Tensor, "B 3 224 224"]) -> Float[Tensor, "B 2048"]:
        """Run the trunk: pooled features of each crop."""
        return self.run_to("head", img)

    def run_to(self, stage: str, img: Float[Tensor, "B 3 224 224"]) -> Tensor:
        """Run the network up to a stage; see ``Regressor.run_to``."""
        self.check_stage(stage)
        self.check_img(img)
        x = F.relu(self.bn1(self.conv1(img)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        return self._run_trunk(x, "layer1", stage)

    def run_from(self, stage: str, state: Tensor, *, raw_camera: bool = False) -> RegressorOutput:
        """Finish ``forward`` from the result of ``run_to``; see ``Regressor.run_from``."""
        self.check_stage(stage)
        return self.head_forward(self._run_trunk(state, stage, "head"), raw_camera=raw_camera)

    def _run_trunk(self, x: Tensor, first: str, end: str) -> Tensor:
        """Run the stages from ``first`` up to, but without, ``end``; pool behind the last."""
        places = [*_STAGE_NAMES, "feature", "head"]
        for name in _STAGE_NAMES[places.index(first) : places.index(end)]:
            x = getattr(self, name)(x)
        if first in _STAGE_NAMES and end not in _STAGE_NAMES:
            x = F.avg_pool2d(x, 7, 1).flatten(1)
        return x

    def head_forward(
        self, features: Float[Tensor, "B 2048"], *, raw_camera: bool = False
    ) -> RegressorOutput:
        """Correct the mean parameters three times; see ``Regressor.forward``."""
        batch = features.shape[0]
        pose = self.init_pose.expand(batch, -1)
        betas = self.init_shape.expand(batch, -1)
        camera = self.init_cam.expand(batch, -1)
        for _ in range(ITERATIONS):
            hidden = torch.cat([features, pose, betas, camera], 1)
            # No activation between the two layers: the reference has none.
            hidden = self.drop2(self.fc2(self.drop1(self.fc1(hidden))))
            pose = pose + self.decpose(hidden)
            betas = betas + self.decshape(hidden)
            camera = camera + self.deccam(hidden)
        if self.weights_camera == conventions.SHIFT_SCALE and not raw_camera:
            camera = to_scale_shift(camera)
        rotmat = rot6d_to_matrix(pose.reshape(batch, conventions.NUM_JOINTS, 6))
        return RegressorOutput(rotmat, betas, camera)

    def forward(
        self, img: Float[Tensor, "B 3 224 224"], *, raw_camera: bool = False
    ) -> RegressorOutput:
        """Regress each person; see ``Regressor.forward``."""
        return self.head_forward(self.features(img), raw_camera=raw_camera)

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Convolutions of the ResNet; the frozen batch norm is left out."""
        return _convolutions(self)

    def parameters_from(self, stage: str) -> Iterator[nn.Parameter]:
        """Convolutions from a stage on, and the head; see ``Regressor.parameters_from``."""
        self.check_stage(stage)
        names = _STAGE_NAMES[_STAGE_NAMES.index(stage) :] if stage in _STAGE_NAMES else ()
        trunk = chain.from_iterable(_convolutions(getattr(self, name)) for name in names)
        return chain(trunk, self.head_parameters())

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The five linear layers."""
        layers = (self.fc1, self.fc2, self.decpose, self.decshape, self.deccam)
        return chain.from_iterable(layer.parameters() for layer in layers)


def _convolutions(module: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of all convolutions; the frozen batch norm is left out."""
    convolutions = (m for m in module.modules() if isinstance(m, nn.Conv2d))
    return chain.from_iterable(each.parameters() for each in convolutions)


def _make_stages(stride_in_1x1: bool) -> list[nn.Sequential]:
    stages = []
    in_width = 64
    for index, (count, width) in enumerate(_STAGES):
        stride = 1 if index == 0 else 2
        blocks = [Bottleneck(in_width, width, stride, stride_in_1x1=stride_in_1x1)]
        in_width = width * _EXPANSION
        blocks += [Bottleneck(in_width, width, 1, stride_in_1x1=False) for _ in range(count - 1)]
        stages.append(nn.Sequential(*blocks))
    return stages
