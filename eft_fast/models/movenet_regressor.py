"""A regressor on MoveNet: keypoints that a network found, and those that somebody gave, to a body.

The trunk knows people from real photos. The head lifts its keypoints into space, reads its maps
where the keypoints lie, and then looks twice more: at where its answer's keypoints fall in the
picture, at what the maps hold there, and at how far that is from what was found and given. Given
keypoints are a second input that may be missing. Every weight may be fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import conventions
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import rot6d_to_matrix
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet import NUM_KEYPOINTS, MoveNet, soft_keypoints
from eft_fast.models.open_regressor import BODY_ID, ResidualBlock

#: Id of the network; another trunk, head or body gets another number.
MOVENET_REGRESSOR_ID: Final = "open-2"
#: Order of the keypoints that it finds and that it may be given.
KEYPOINT_SET: Final = "coco17"
#: Encoder stages that stand where ``layer3`` and ``layer4`` stand in a ResNet: the last one at 1/16
#: of the crop and the one at 1/32.
_ENCODER_STAGES: Final = {"layer3": 3, "layer4": 4}
#: Power of the heatmaps that weigh the cells. On 24 people of open COCO train photos PCK@0.1 is
#: .823 with 8, .826 with 2, .819 with the greatest cells alone; PCK@0.05 .694, .682 and .701.
_SHARPNESS: Final = 8.0

_POSE: Final = conventions.NUM_JOINTS * 6
#: Numbers of a state: 6D pose, shape, and a camera in units of the keypoints' frame.
_STATE: Final = _POSE + conventions.NUM_BETAS + 3
#: Smallest frame, in crop units; below it a collapsed answer would divide by nothing.
_MIN_SIZE: Final = 0.05
#: What every keypoint counts for the frame: nobody's is empty.
_MIN_WEIGHT: Final = 1e-4
#: Camera scale over the size of the frame, of an average pose: 1 / radius in metres.
_SCALE_PER_SIZE: Final = 1.9
#: State numbers of unit size stand for this much log-scale and this many frame sizes of shift.
_CAMERA_STEP: Final = 0.5
#: Places farther than this from the middle, in frame sizes, are no place of a body.
_FARTHEST: Final = 4.0
#: Numbers of the keypoints: found xy, score, spread, about xy; given xy, confidence, whether given;
#: the frame; whether there is a picture.
_KEYPOINT_INPUTS: Final = NUM_KEYPOINTS * (2 + 1 + 1 + 2 + 2 + 1 + 1) + 3 + 1
#: What a refinement reads beside them: the state, xy and depth of its keypoints, and how far those
#: are from what was found and given.
_REFINE_INPUTS: Final = _STATE + NUM_KEYPOINTS * (2 + 1 + 2 + 2)


class MoveNetFeatures(NamedTuple):
    """What the trunk says of each crop; places in [-1, 1] of the crop.

    Attributes:
        points: x, y, and the score in [0, 1] of the keypoints that were found.
        about: Where the regression from the person's centre expects them.
        spread: How far the cells that speak for a keypoint lie apart, crop units.
        top: The last encoder map, at 1/32 of the crop.
        fine: The first map of the pyramid, at 1/16.
    """

    points: Float[Tensor, "B 17 3"]
    about: Float[Tensor, "B 17 2"]
    spread: Float[Tensor, "B 17"]
    top: Float[Tensor, "B T h w"]
    fine: Float[Tensor, "B F H W"]


class Evidence(NamedTuple):
    """What the head knows of each person, see ``MoveNetFeatures``.

    Attributes:
        points: Found keypoints.
        about: Where they were expected.
        spread: Of their cells.
        coarse: The head's view of the last encoder map; None: there is no picture, or the head
            reads keypoints only.
        fine: Its view of the pyramid; None likewise.
    """

    points: Float[Tensor, "B 17 3"]
    about: Float[Tensor, "B 17 2"]
    spread: Float[Tensor, "B 17"]
    coarse: Float[Tensor, "B C h w"] | None
    fine: Float[Tensor, "B D H W"] | None


class PointFrame(NamedTuple):
    """Where the keypoints of a person are in the crop, crop units.

    Attributes:
        center: Their mean: given ones, and found ones by their scores.
        size: Root mean square distance from it.
    """

    center: Float[Tensor, "B 2"]
    size: Float[Tensor, "B 1"]


class Answers(NamedTuple):
    """What the head said, pass by pass.

    Attributes:
        outputs: Bodies; the last one is the answer.
        hidden: What the last layer of the last pass read.
    """

    outputs: list[RegressorOutput]
    hidden: Float[Tensor, "B W"]


class StateNet(nn.Module):
    """Numbers in, a change of the state out.

    Args:
        inputs: Length of the input.
        width: Of the hidden layers.
        blocks: Residual blocks.
        dropout: Probability inside each block, in training mode only.
    """

    def __init__(self, inputs: int, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU())
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, _STATE)
        # A new net changes little.
        nn.init.normal_(self.leave.weight, std=0.01)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "B I"]) -> tuple[Float[Tensor, "B S"], Tensor]:
        """The change, and what the last layer read."""
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        hidden = self.norm(x)
        return self.leave(hidden), hidden


class PointLens(nn.Module):
    """One linear layer per keypoint, side by side.

    Args:
        inputs: Numbers at each keypoint.
        outputs: What is made of them.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(
            torch.empty(NUM_KEYPOINTS, inputs, outputs).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(NUM_KEYPOINTS, 1, outputs))

    def forward(self, x: Float[Tensor, "B 17 I"]) -> Float[Tensor, "B 17 O"]:
        """Apply the layers."""
        return F.gelu(torch.baddbmm(self.bias, x.transpose(0, 1), self.weight)).transpose(0, 1)


class MapReader(nn.Module):
    """What the head sees of the trunk's maps: a view of them, read where keypoints lie.

    Args:
        top: Channels of ``MoveNetFeatures.top``.
        fine: Channels of ``MoveNetFeatures.fine``.
        neck: Channels that are made of ``top``.
        lens: Numbers that are read at each keypoint.
        dropout: Share of what is read that is blanked, in training mode only.
    """

    def __init__(self, top: int, fine: int, neck: int, lens: int, dropout: float) -> None:
        super().__init__()
        self.neck = nn.Conv2d(top, neck, 1)
        self.fine_neck = nn.Conv2d(fine, fine, 1)
        self.first = PointLens(neck + fine, lens)
        self.refine = PointLens(neck + fine, lens)
        self.blur = nn.Dropout(dropout)
        #: How many numbers are read of a person.
        self.numbers = NUM_KEYPOINTS * lens + neck

    def read(
        self, lens: PointLens, evidence: Evidence, places: Float[Tensor, "B 17 2"]
    ) -> Float[Tensor, "B M"]:
        """What the maps hold at some places, and the mean of the coarse one; 0 without a picture.

        Args:
            lens: ``first`` or ``refine``.
            evidence: Of each person.
            places: Crop units.
        """
        if evidence.coarse is None or evidence.fine is None:
            return places.new_zeros(places.shape[0], self.numbers)
        # Places are moved by no gradient: maps that a point slips over are rough.
        grid = places.detach().clamp(-1.5, 1.5)[:, :, None]
        found = [
            F.grid_sample(each, grid, padding_mode="border", align_corners=False).squeeze(-1)
            for each in (evidence.coarse, evidence.fine)
        ]
        read = lens(torch.cat(found, 1).transpose(1, 2)).flatten(1)
        out: Tensor = self.blur(torch.cat([read, evidence.coarse.mean((2, 3))], 1))
        return out


class MoveNetHead(nn.Module):
    """Keypoints and maps to pose (6D), shape and camera, in a few passes.

    Buffers: ``mean_pose`` (24 x 6D) is what a silent head answers; those of the rig.

    Args:
        top: Channels of ``MoveNetFeatures.top``.
        fine: Channels of ``MoveNetFeatures.fine``.
        rig: Keypoints of the body.
        width: Width of the hidden layers.
        blocks: Residual blocks of the first pass.
        refine_blocks: Of the passes after it, which share their weights.
        passes: How many passes follow the first.
        neck: Channels that the head makes of ``top``.
        lens: Numbers that the head reads of the maps at each keypoint; 0: it reads keypoints only.
        dropout: Probability inside each block, in training mode only.
        map_dropout: The same of each number that is read of the maps.
        confidence: Have a layer for the confidence of each joint.
    """

    mean_pose: Tensor

    def __init__(
        self,
        top: int,
        fine: int,
        rig: KeypointRig,
        *,
        width: int = 512,
        blocks: int = 3,
        refine_blocks: int = 2,
        passes: int = 2,
        neck: int = 128,
        lens: int = 24,
        dropout: float = 0.0,
        map_dropout: float = 0.0,
        confidence: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.passes = width, passes
        #: What shapes the weights, by the names of the arguments.
        self.options = {
            "width": width,
            "blocks": blocks,
            "refine_blocks": refine_blocks,
            "passes": passes,
            "neck": neck,
            "lens": lens,
        }
        self.rig = rig
        self.maps = MapReader(top, fine, neck, lens, map_dropout) if lens else None
        maps = 0 if self.maps is None else self.maps.numbers
        self.first = StateNet(_KEYPOINT_INPUTS + maps, width, blocks, dropout)
        inputs = _KEYPOINT_INPUTS + _REFINE_INPUTS + maps
        self.refine = StateNet(inputs, width, refine_blocks, dropout)
        # Weights files know this layer by the name certainty.
        self.certainty = nn.Linear(width, conventions.NUM_JOINTS) if confidence else None
        identity = torch.eye(3)[:, :2].reshape(6)
        self.register_buffer("mean_pose", identity.repeat(conventions.NUM_JOINTS))

    def look(self, features: MoveNetFeatures) -> Evidence:
        """The head's view of what the trunk says."""
        points, about, spread, top, fine = features
        if self.maps is None:
            return Evidence(points, about, spread, None, None)
        return Evidence(points, about, spread, self.maps.neck(top), self.maps.fine_neck(fine))

    def forward(self, evidence: Evidence, given: Float[Tensor, "B 17 3"] | None = None) -> Answers:
        """Answer, and look again.

        Args:
            evidence: Of each person.
            given: Given keypoints: x, y in [-1, 1] of the crop and confidence; 0: not given. None:
                nothing is given.
        """
        if given is None:
            given = torch.zeros_like(evidence.points)
        if self.maps is None:
            evidence = evidence._replace(coarse=None, fine=None)
        is_given = given[..., 2] > 0
        known = torch.where(is_given[..., None], given[..., :2], evidence.points[..., :2])
        frame = find_frame(known, is_given, evidence)
        inputs = keypoint_inputs(evidence, given, frame)
        silent = torch.cat([self.mean_pose, self.mean_pose.new_zeros(_STATE - _POSE)])
        parts = [inputs]
        if self.maps is not None:
            parts.append(self.maps.read(self.maps.first, evidence, known))
        change, hidden = self.first(torch.cat(parts, 1))
        state = silent + change
        outputs = [decode(state, frame)]
        for _ in range(self.passes):
            # While it is trained each pass learns from its own loss. Fine-tuning moves all of them
            # by the last answer. What is looked at is no way for gradients in either case.
            before = state.detach() if self.training else state
            seen, places = self._look_back(before.detach(), frame, evidence, given)
            parts = [inputs, seen]
            if self.maps is not None:
                parts.append(self.maps.read(self.maps.refine, evidence, places))
            change, hidden = self.refine(torch.cat(parts, 1))
            state = before + change
            outputs.append(decode(state, frame))
        return Answers(outputs, hidden)

    def confidence(self, hidden: Float[Tensor, "B W"]) -> Float[Tensor, "B 24"]:
        """The confidence of each joint from ``Answers.hidden``, of a head that has the layer."""
        assert self.certainty is not None, "asked of heads that have the layer"
        said: Tensor = self.certainty(hidden).sigmoid()
        return said

    @torch.no_grad()
    def _look_back(
        self, state: Tensor, frame: PointFrame, evidence: Evidence, given: Tensor
    ) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B 17 2"]]:
        """What a refinement reads of a state, and where its keypoints lie in the crop."""
        answer = decode(state, frame)
        points = self.rig(answer.pred_rotmat, answer.pred_betas)
        places = weak_project(points, answer.pred_cam)
        own = _in_frame(places, frame)
        depth = points[..., 2] - points[..., 2].mean(1, keepdim=True)
        from_found = _in_frame(evidence.points[..., :2], frame) - own
        is_given = (given[..., 2:] > 0).to(own)
        from_given = (_in_frame(given[..., :2], frame) - own) * is_given
        silent = torch.cat([self.mean_pose, self.mean_pose.new_zeros(_STATE - _POSE)])
        parts = [
            state - silent,
            own.clamp(-_FARTHEST, _FARTHEST).flatten(1),
            depth,
            from_found.clamp(-_FARTHEST, _FARTHEST).flatten(1),
            from_given.clamp(-_FARTHEST, _FARTHEST).flatten(1),
        ]
        return torch.cat(parts, 1), places


class MoveNetRegressor(Regressor):
    """MoveNet and a head that reads its keypoints and maps, and given keypoints if there are any.

    Crops are those of a box times ``box_margin``, tighter than those of other regressors: MoveNet
    finds people best there.

    Args:
        trunk: The keypoint network, usually ``MoveNet.from_arrays``.
        rig: Keypoints of the body that is predicted.
        options: Widths of the head by the names of the arguments of ``MoveNetHead``.
    """

    stages = ("layer3", "layer4", "head")
    #: The trunk takes RGB in [0, 1] as it is.
    img_mean = (0.0, 0.0, 0.0)
    img_std = (1.0, 1.0, 1.0)
    reads_keypoints = KEYPOINT_SET

    def __init__(self, trunk: MoveNet, rig: KeypointRig, **options: Any) -> None:
        super().__init__()
        self.input_size = trunk.input_size
        self.id = MOVENET_REGRESSOR_ID
        self.body_id = BODY_ID
        self.trunk = trunk
        config = trunk.config
        self.head = MoveNetHead(config.top, config.pyramid[1], rig, **options)
        self.has_confidence = self.head.certainty is not None

    @classmethod
    def make_tiny(cls, seed: int = 0) -> MoveNetRegressor:
        """Build a network of all the same layers, a thousandth of the size, for tests.

        The weights are random, large enough for the output to depend on the picture. Its rig is
        that of no body.
        """
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        rig = KeypointRig(dict(points=17, rows=48, terms=17, joints=17, sources=17))
        nn.init.normal_(rig.skeleton, std=0.3)
        nn.init.normal_(rig.basis, std=0.1)
        for index in (rig.term_index, rig.joint_index):
            index.copy_(torch.arange(17.0)[:, None].expand_as(index))
        rig.output_index.copy_(torch.arange(17.0))
        for weight in (rig.term_weight, rig.joint_weight):
            nn.init.constant_(weight, 0.5)
        network = cls(MoveNet("tiny"), rig, width=16, blocks=1, refine_blocks=1, neck=8, lens=2)
        for module in network.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        for net in (network.head.first, network.head.refine):
            nn.init.normal_(net.leave.weight, std=0.05)
        torch.set_rng_state(state)
        return network.eval()

    def features(self, img: Float[Tensor, "B 3 S S"]) -> MoveNetFeatures:
        """Run the trunk.

        Args:
            img: RGB crops in [0, 1].

        Raises:
            ValueError: If the crops do not have the size of the trunk.
        """
        self.check_img(img)
        return self._read_out(0, self.trunk.run_to_stage(0, img))

    def run_to(self, stage: str, img: Float[Tensor, "B 3 S S"]) -> Any:
        """Run the network up to a stage; see ``Regressor.run_to``."""
        self.check_stage(stage)
        if stage == "head":
            return self.features(img)
        self.check_img(img)
        return self.trunk.run_to_stage(_ENCODER_STAGES[stage], img)

    def run_from(self, stage: str, state: Any, *, raw_camera: bool = False) -> RegressorOutput:
        """Finish ``forward`` from the result of ``run_to``; see ``Regressor.run_from``."""
        return self.head_forward(self.features_from(stage, state), raw_camera=raw_camera)

    def features_from(self, stage: str, state: Any) -> Any:
        """Go on from the result of ``run_to``; see ``Regressor.features_from``."""
        self.check_stage(stage)
        return state if stage == "head" else self._read_out(_ENCODER_STAGES[stage], state)

    def parameters_from(self, stage: str) -> Iterator[nn.Parameter]:
        """Weights from a stage on; see ``Regressor.parameters_from``."""
        self.check_stage(stage)
        if stage == "head":
            return self.head_parameters()
        trunk = self.trunk
        parts: list[nn.Module] = [*trunk.stages[_ENCODER_STAGES[stage] :], trunk.top]
        parts += [trunk.top_lateral, trunk.laterals, trunk.merges]
        parts += [trunk.regression, trunk.offsets, trunk.heatmaps, trunk.center]
        return chain(
            chain.from_iterable(part.parameters() for part in parts), self.head_parameters()
        )

    def head_forward(
        self,
        features: MoveNetFeatures,
        *,
        raw_camera: bool = False,
        given: Float[Tensor, "B 17 3"] | None = None,
    ) -> RegressorOutput:
        """Finish ``forward`` from the result of ``features``; the camera is ours either way."""
        answers: Answers = self.head(self.head.look(features), given)
        return answers.outputs[-1]

    def forward(
        self,
        img: Float[Tensor, "B 3 S S"],
        *,
        raw_camera: bool = False,
        given: Float[Tensor, "B 17 3"] | None = None,
    ) -> RegressorOutput:
        """Regress each person; see ``Regressor.forward``.

        Args:
            img: RGB crops in [0, 1].
            raw_camera: Of no effect.
            given: Given keypoints of ``KEYPOINT_SET``: x, y in [-1, 1] of the crop and confidence;
                0: not given. None: nothing is given.
        """
        return self.head_forward(self.features(img), given=given)

    def joint_confidence(
        self, features: MoveNetFeatures, *, given: Float[Tensor, "B 17 3"] | None = None
    ) -> Float[Tensor, "B 24"] | None:
        """Say how sure the answer of ``head_forward`` is; see ``Regressor.joint_confidence``."""
        if self.head.certainty is None:
            return None
        return self.head.confidence(self.head(self.head.look(features), given).hidden)

    def head_with_confidence(
        self,
        features: MoveNetFeatures,
        *,
        raw_camera: bool = False,
        given: Float[Tensor, "B 17 3"] | None = None,
    ) -> tuple[RegressorOutput, Float[Tensor, "B 24"] | None]:
        """Both from one run of the head; see ``Regressor.head_with_confidence``."""
        answers: Answers = self.head(self.head.look(features), given)
        with torch.no_grad():
            has_layer = self.head.certainty is not None
            said = self.head.confidence(answers.hidden) if has_layer else None
        return answers.outputs[-1], said

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the keypoint network; all of them move the output."""
        return self.trunk.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the head that move the output: all but those of the confidence."""
        layer = self.head.certainty
        certain = set() if layer is None else {id(parameter) for parameter in layer.parameters()}
        return (each for each in self.head.parameters() if id(each) not in certain)

    def _read_out(self, stage: int, state: tuple[Tensor, ...]) -> MoveNetFeatures:
        maps = self.trunk.run_to_maps(stage, state)
        found = soft_keypoints(maps, _SHARPNESS)
        return MoveNetFeatures(
            torch.cat([self._to_units(found.points[..., :2]), found.points[..., 2:]], -1),
            self._to_units(found.about),
            found.spread * (2.0 / self.input_size),
            maps.encoder[-1],
            maps.pyramid[0],
        )

    def _to_units(self, pixels: Float[Tensor, "B K 2"]) -> Float[Tensor, "B K 2"]:
        """[-1, 1] as ``imaging.Crop.normalise`` has it: the trunk counts pixels from the edge."""
        return (pixels - 0.5) * (2.0 / self.input_size) - 1.0


def find_frame(known: Float[Tensor, "B 17 2"], is_given: Tensor, evidence: Evidence) -> PointFrame:
    """The frame of given keypoints, and of found ones by their scores."""
    weight = torch.where(is_given, 1.0, evidence.points[..., 2]) + _MIN_WEIGHT
    weight = (weight / weight.sum(1, keepdim=True))[..., None]
    center = (weight * known).sum(1)
    square = (weight * (known - center[:, None]).square()).sum((1, 2)).unsqueeze(1)
    # The floor goes under the root: its derivative at zero would be infinite.
    return PointFrame(center, square.clamp_min(_MIN_SIZE**2).sqrt())


def keypoint_inputs(
    evidence: Evidence, given: Float[Tensor, "B 17 3"], frame: PointFrame
) -> Float[Tensor, "B I"]:
    """Describe keypoints independently of where and how large the person is in the crop."""
    is_given = (given[..., 2:] > 0).to(given)
    has_picture = torch.full_like(given[:, 0, :1], 0.0 if evidence.coarse is None else 1.0)
    parts = [
        _in_frame(evidence.points[..., :2], frame).clamp(-_FARTHEST, _FARTHEST).flatten(1),
        evidence.points[..., 2],
        (evidence.spread / frame.size).clamp(max=_FARTHEST),
        _in_frame(evidence.about, frame).clamp(-_FARTHEST, _FARTHEST).flatten(1),
        (_in_frame(given[..., :2], frame) * is_given).clamp(-_FARTHEST, _FARTHEST).flatten(1),
        given[..., 2],
        is_given[..., 0],
        frame.center,
        frame.size.log(),
        has_picture,
    ]
    return torch.cat(parts, 1)


def decode(state: Float[Tensor, "B S"], frame: PointFrame) -> RegressorOutput:
    """The body of a state."""
    pose, betas, camera = state.split([_POSE, conventions.NUM_BETAS, 3], dim=1)
    rotmat = rot6d_to_matrix(pose.reshape(-1, conventions.NUM_JOINTS, 6))
    scale = torch.exp(camera[:, :1] * _CAMERA_STEP) * frame.size * _SCALE_PER_SIZE
    shift = camera[:, 1:] * _CAMERA_STEP * frame.size + frame.center
    return RegressorOutput(rotmat, betas, torch.cat([scale, shift], 1))


def _in_frame(points: Float[Tensor, "B K 2"], frame: PointFrame) -> Float[Tensor, "B K 2"]:
    return (points - frame.center[:, None]) / frame.size[:, None]
