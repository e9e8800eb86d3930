"""The regressor that ships with the package: BlazePose landmarks, then a small head for the body.

The trunk knows people from real photos; the head turns its 2D and 3D landmarks and its last map
into pose, shape and camera of the open body. Every weight may be fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import conventions
from eft_fast.geometry.rotations import rot6d_to_matrix
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.blazepose import INPUT_SIZE, NUM_BODY_LANDMARKS, BlazePose, BlazePoseOutput

#: Id of the shipped network; another head or body gets another number.
REGRESSOR_ID: Final = "open-1"
#: Body whose shape coefficients and joints the head predicts.
BODY_ID: Final = "open-1"

#: Rows of the landmark output that the head reads (joint set ``mp33``): nose, eyes, ears, the
#: twelve limb joints, toes and heels, and the hands last.
LANDMARK_ROWS: Final = (
    0, 2, 5, 7, 8,
    11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28,
    31, 29, 32, 30,
    17, 18, 19, 20, 21, 22,
)  # fmt: skip
#: Positions in ``LANDMARK_ROWS`` of the twelve limb joints, which define the landmark frame.
LIMB_SLICE: Final = slice(5, 17)
#: Numbers per person from the landmarks: xy, z, world xyz, visible and present; and the frame.
NUM_LANDMARK_FEATURES: Final = len(LANDMARK_ROWS) * 8 + 3
#: Smallest landmark frame, in crop units; below it a collapsed answer would divide by nothing.
MIN_FRAME_SIZE: Final = 0.05
#: Smallest standard deviation that a feature is divided by: many trunk features never fire.
MIN_FEATURE_STD: Final = 1e-2

#: Encoder stages that stand where ``layer3`` and ``layer4`` stand in a ResNet: the last ones at 16
#: and at 8 cells.
_ENCODER_STAGES: Final = {"layer3": 3, "layer4": 4}

_NUM_POSE: Final = conventions.NUM_JOINTS * 6
#: Camera scale over the RMS radius of the limb landmarks, of an average pose: 1 / radius in metres.
_SCALE_PER_SIZE: Final = 1.9
#: Head outputs of unit size stand for this much log-scale and this many frame sizes of shift.
_CAMERA_STEP: Final = 0.5


class LandmarkFrame(NamedTuple):
    """Where the person is in the crop, in crop units ([-1, 1] over the crop).

    Attributes:
        center: Mean of the twelve limb landmarks.
        size: Their root mean square distance from it.
    """

    center: Float[Tensor, "B 2"]
    size: Float[Tensor, "B 1"]


class Landmarks(NamedTuple):
    """The 33 body landmarks (joint set ``mp33``) of each crop.

    Attributes:
        points: x and y in [-1, 1] of the crop, and z in the same unit, relative to the hips.
        visibility: Probability that the landmark is not hidden.
        presence: Probability that the landmark lies inside the crop.
        world: x, y, z in metres, hip-centred.
        score: Probability that a person is in the crop.
    """

    points: Float[Tensor, "B 33 3"]
    visibility: Float[Tensor, "B 33"]
    presence: Float[Tensor, "B 33"]
    world: Float[Tensor, "B 33 3"]
    score: Float[Tensor, " B"]


def to_crop_units(points_px: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """Turn crop pixels into [-1, 1], as ``imaging.Crop.normalise`` does."""
    return points_px * (2.0 / INPUT_SIZE) - 1.0


def _pick(landmarks: Float[Tensor, "B 39 C"]) -> Float[Tensor, "B N C"]:
    """The rows of ``LANDMARK_ROWS``; an index list would be copied to the GPU at every call."""
    return torch.cat([landmarks[:, run] for run in _ROW_RUNS], 1)


def _find_runs(rows: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices that together are ``rows``."""
    runs: list[slice] = []
    for row in rows:
        first = runs.pop().start if runs and runs[-1].stop == row else row
        runs.append(slice(first, row + 1))
    return tuple(runs)


_ROW_RUNS: Final = _find_runs(LANDMARK_ROWS)


def landmark_features(
    output: BlazePoseOutput,
) -> tuple[Float[Tensor, "B F"], LandmarkFrame]:
    """Describe the landmarks independently of where and how large the person is in the crop."""
    landmarks, world = _pick(output.landmarks), _pick(output.world)
    points = to_crop_units(landmarks[..., :2])
    depth = landmarks[..., 2:3] * (2.0 / INPUT_SIZE)

    limbs = points[:, LIMB_SLICE]
    center = limbs.mean(1)
    # The floor goes under the root: its derivative at zero would be infinite.
    mean_square = (limbs - center[:, None]).square().sum(-1).mean(1, keepdim=True)
    size = mean_square.clamp_min(MIN_FRAME_SIZE**2).sqrt()

    parts = [
        ((points - center[:, None]) / size[:, None]).flatten(1),
        (depth / size[:, None]).flatten(1),
        world.flatten(1),
        landmarks[..., 3:].sigmoid().flatten(1),
        center,
        size,
    ]
    return torch.cat(parts, 1), LandmarkFrame(center, size)


class ResidualBlock(nn.Module):
    """Two linear layers beside a shortcut."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """Apply the block."""
        out: Tensor = x + self.layers(x)
        return out


class BodyHead(nn.Module):
    """Features to pose (6D), shape and camera.

    Buffers: ``feature_mean`` and ``feature_std`` normalise the input; ``mean_pose`` (24 x 6D) is
    what a silent head answers. They are saved with the weights.

    Args:
        num_features: Length of the input.
        width: Width of the hidden layers.
        blocks: Residual blocks.
        dropout: Probability inside each block, in training mode only.
        confidence: Have a layer for the confidence of each joint.
    """

    feature_mean: Tensor
    feature_std: Tensor
    mean_pose: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        width: int = 512,
        blocks: int = 2,
        dropout: float = 0.1,
        confidence: bool = True,
    ) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Sequential(nn.Linear(num_features, width), nn.LayerNorm(width), nn.GELU())
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout) for _ in range(blocks))
        self.leave = nn.Linear(width, _NUM_POSE + conventions.NUM_BETAS + 3)
        # A new head starts near the mean pose, the mean shape and the landmark frame.
        nn.init.normal_(self.leave.weight, std=0.01)
        nn.init.zeros_(self.leave.bias)
        # Weights files know this layer by the name certainty.
        self.certainty = nn.Linear(width, conventions.NUM_JOINTS) if confidence else None
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_std", torch.ones(num_features))
        identity = torch.eye(3)[:, :2].reshape(6)
        self.register_buffer("mean_pose", identity.repeat(conventions.NUM_JOINTS))

    def hidden(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B W"]:
        """What the last layers read."""
        x: Tensor = self.enter((features - self.feature_mean) / self.feature_std)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, features: Float[Tensor, "B F"], frame: LandmarkFrame) -> RegressorOutput:
        """Predict the body of each person."""
        return self.answer(self.hidden(features), frame)

    def answer(self, hidden: Float[Tensor, "B W"], frame: LandmarkFrame) -> RegressorOutput:
        """The body from the result of ``hidden``."""
        out = self.leave(hidden)
        pose, betas, camera = out.split([_NUM_POSE, conventions.NUM_BETAS, 3], dim=1)
        rot6d = (pose + self.mean_pose).reshape(-1, conventions.NUM_JOINTS, 6)
        scale = torch.exp(camera[:, :1] * _CAMERA_STEP) * frame.size * _SCALE_PER_SIZE
        shift = camera[:, 1:] * _CAMERA_STEP * frame.size + frame.center
        return RegressorOutput(rot6d_to_matrix(rot6d), betas, torch.cat([scale, shift], 1))

    def confidence(self, hidden: Float[Tensor, "B W"]) -> Float[Tensor, "B 24"]:
        """The confidence from the result of ``hidden``, of a head that has a layer for it."""
        assert self.certainty is not None, "asked of heads that have the layer"
        said: Tensor = self.certainty(hidden).sigmoid()
        return said


class OpenRegressor(Regressor):
    """BlazePose trunk and body head.

    The weights come from ``models.open_file``; a network straight from this constructor has a
    trunk as given and an untrained head, which answers roughly the mean pose.

    Args:
        trunk: Landmark network, usually ``BlazePose.from_arrays``.
        width: Width of the head.
        blocks: Residual blocks of the head.
        dropout: Dropout of the head, in training mode only.
        use_features: Let the head see the trunk's last map beside the landmarks.
        confidence: Have a layer for ``joint_confidence``.
    """

    stages = ("layer3", "layer4", "feature", "head")
    #: The trunk takes RGB in [0, 1] as it is.
    img_mean = (0.0, 0.0, 0.0)
    img_std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        trunk: BlazePose,
        *,
        width: int = 512,
        blocks: int = 2,
        dropout: float = 0.1,
        use_features: bool = True,
        confidence: bool = True,
    ) -> None:
        super().__init__()
        self.input_size = INPUT_SIZE
        self.id = REGRESSOR_ID
        self.body_id = BODY_ID
        self.use_features, self.has_confidence = use_features, confidence
        self.trunk = trunk
        num_features = NUM_LANDMARK_FEATURES + (trunk.feature_size if use_features else 0)
        self.head = BodyHead(
            num_features, width=width, blocks=blocks, dropout=dropout, confidence=confidence
        )

    @classmethod
    def make_tiny(cls, seed: int = 0) -> OpenRegressor:
        """Build a network of all the same layers, a thousandth of the size, for tests.

        The weights are random, large enough for the output to depend on the picture.
        """
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        network = cls(BlazePose("tiny"), width=16, blocks=1)
        for module in network.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        for layer in (network.trunk.landmark_out, network.trunk.world_out):
            nn.init.normal_(layer.weight, std=1.0)
        # Spread the landmarks over the crop, or the landmark frame would sit at its floor.
        spread = torch.empty(network.trunk.landmark_out.out_channels).uniform_(40.0, 216.0)
        network.trunk.landmark_out.bias = nn.Parameter(spread)
        nn.init.normal_(network.head.leave.weight, std=0.05)
        torch.set_rng_state(state)
        return network.eval()

    def features(self, img: Float[Tensor, "B 3 256 256"]) -> BlazePoseOutput:
        """Run the trunk.

        Args:
            img: RGB crops in [0, 1].

        Raises:
            ValueError: If the crops are not 256 pixels wide and high.
        """
        self.check_img(img)
        output: BlazePoseOutput = self.trunk(img)
        return output

    def run_to(self, stage: str, img: Float[Tensor, "B 3 256 256"]) -> Any:
        """Run the network up to a stage; see ``Regressor.run_to``."""
        self.check_stage(stage)
        if stage == "head":
            return self.features(img)
        self.check_img(img)
        if stage in _ENCODER_STAGES:
            return self.trunk.run_to_stage(_ENCODER_STAGES[stage], img)
        return self.trunk.run_to_features(0, self.trunk.run_to_stage(0, img))

    def run_from(self, stage: str, state: Any, *, raw_camera: bool = False) -> RegressorOutput:
        """Finish ``forward`` from the result of ``run_to``; see ``Regressor.run_from``."""
        return self.head_forward(self.features_from(stage, state), raw_camera=raw_camera)

    def features_from(self, stage: str, state: Any) -> Any:
        """Go on from the result of ``run_to``; see ``Regressor.features_from``."""
        self.check_stage(stage)
        if stage in _ENCODER_STAGES:
            state = self.trunk.run_to_features(_ENCODER_STAGES[stage], state)
        if stage != "head":
            state = self.trunk.read_out(state)
        return state

    def parameters_from(self, stage: str) -> Iterator[nn.Parameter]:
        """Weights from a stage on; see ``Regressor.parameters_from``."""
        self.check_stage(stage)
        trunk, parts = self.trunk, list[nn.Module]()
        if stage in _ENCODER_STAGES:
            parts += trunk.stages[_ENCODER_STAGES[stage] :]
            parts += [trunk.top_expand, trunk.top_depthwise, trunk.neck_depthwise]
            parts += [trunk.neck_project, trunk.head]
        if stage != "head":
            parts += [trunk.landmark_out, trunk.world_out]
        parameters = chain.from_iterable(part.parameters() for part in parts)
        return chain(parameters, self.head_parameters())

    def head_input(self, features: BlazePoseOutput) -> tuple[Float[Tensor, "B F"], LandmarkFrame]:
        """What the head reads: landmark features and, if it uses them, the trunk's last map."""
        inputs, frame = landmark_features(features)
        if self.use_features:
            inputs = torch.cat([inputs, features.features], 1)
        return inputs, frame

    def head_forward(
        self, features: BlazePoseOutput, *, raw_camera: bool = False
    ) -> RegressorOutput:
        """Finish ``forward`` from the result of ``features``; the camera is ours either way."""
        output: RegressorOutput = self.head(*self.head_input(features))
        return output

    def forward(
        self, img: Float[Tensor, "B 3 256 256"], *, raw_camera: bool = False
    ) -> RegressorOutput:
        """Regress each person; see ``Regressor.forward``."""
        return self.head_forward(self.features(img))

    def joint_confidence(self, features: BlazePoseOutput) -> Float[Tensor, "B 24"] | None:
        """Say how sure the answer of ``head_forward`` is; see ``Regressor.joint_confidence``."""
        if self.head.certainty is None:
            return None
        return self.head.confidence(self.head.hidden(self.head_input(features)[0]))

    def head_with_confidence(
        self, features: BlazePoseOutput, *, raw_camera: bool = False
    ) -> tuple[RegressorOutput, Float[Tensor, "B 24"] | None]:
        """Both from one pass of the hidden layers; see ``Regressor.head_with_confidence``."""
        inputs, frame = self.head_input(features)
        hidden = self.head.hidden(inputs)
        with torch.no_grad():
            said = None if self.head.certainty is None else self.head.confidence(hidden)
        return self.head.answer(hidden, frame), said

    def landmarks(self, img: Float[Tensor, "B 3 256 256"]) -> Landmarks:
        """The trunk's body landmarks, in crop units, with their confidences."""
        return to_landmarks(self.features(img))

    @torch.no_grad()
    def set_feature_statistics(
        self, mean: Float[Tensor, " F"], std: Float[Tensor, " F"], mean_pose: Float[Tensor, "24 6"]
    ) -> None:
        """Set the buffers of the head from training data, before training it.

        Args:
            mean: Mean of ``head_input`` over the training crops.
            std: Standard deviation; values under ``MIN_FEATURE_STD`` are raised to it.
            mean_pose: Mean pose of the training set in the 6D form.
        """
        self.head.feature_mean.copy_(mean)
        self.head.feature_std.copy_(std.clamp_min(MIN_FEATURE_STD))
        self.head.mean_pose.copy_(mean_pose.reshape(-1))

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the landmark network that move the output.

        The person score and the heatmaps do not; they stay as they are.
        """
        trunk = self.trunk
        unused = (trunk.score_out, trunk.laterals, trunk.heatmap_out)
        left_out = {id(parameter) for module in unused for parameter in module.parameters()}
        return (parameter for parameter in trunk.parameters() if id(parameter) not in left_out)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the body head that move the output: all but those of the confidence."""
        head = self.head
        return chain.from_iterable(p.parameters() for p in (head.enter, head.blocks, head.leave))


def to_landmarks(output: BlazePoseOutput) -> Landmarks:
    """Keep the 33 body landmarks, in crop units and probabilities."""
    body = output.landmarks[:, :NUM_BODY_LANDMARKS]
    depth = body[..., 2:3] * (2.0 / INPUT_SIZE)
    return Landmarks(
        points=torch.cat([to_crop_units(body[..., :2]), depth], -1),
        visibility=body[..., 3].sigmoid(),
        presence=body[..., 4].sigmoid(),
        world=output.world[:, :NUM_BODY_LANDMARKS],
        score=output.score,
    )
