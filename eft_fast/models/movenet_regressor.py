"""A regressor on MoveNet: keypoints that a network found, and those that somebody gave, to a body.

MoveNet knows people from real photos; it finds keypoints, and knows nothing of depth. A second
network, the base, answers with a body from the picture alone. The head starts from that body,
lifts the keypoints into space, and then looks a few times more: at how far its answer's keypoints
are from what was found and given, and at how each joint would turn to bring them there. Given
keypoints are a second input that may be missing. Every weight may be fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eft_fast import conventions
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import matrix_to_rot6d, rot6d_to_matrix
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.keypoint_pull import KeypointPull, Pull
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet import NUM_KEYPOINTS, MoveNet, soft_keypoints
from eft_fast.models.open_regressor import BODY_ID, OpenRegressor, ResidualBlock

#: Id of the network by the variant of its trunk; another head or body gets another number.
MOVENET_REGRESSOR_IDS: Final[Mapping[str, str]] = {
    "thunder": "open-2",
    "lightning": "open-2-lite",
    "tiny": "open-2",
}
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
#: the frame.
_KEYPOINT_INPUTS: Final = NUM_KEYPOINTS * (2 + 1 + 1 + 2 + 2 + 1 + 1) + 3
#: Numbers of the base's answer: its state, the confidence of its joints, whether there is one.
_BASE_INPUTS: Final = _STATE + conventions.NUM_JOINTS + 1
#: What a refinement reads beside them: the state, xy and depth of its keypoints, how far those are
#: from what was found and given, and where they pull the joints and the camera.
_REFINE_INPUTS: Final = _STATE + NUM_KEYPOINTS * (2 + 1 + 2 + 2) + conventions.NUM_JOINTS * 3 + 3
#: How far a refinement follows each pull: of the joints, and of the camera.
_GATES: Final = conventions.NUM_JOINTS + 1


class BaseAnswer(NamedTuple):
    """What the base says of each crop.

    Attributes:
        rotmat: Rotations.
        betas: Shape.
        camera: Scale and shift in crop units.
        confidence: Of each joint; 0 of all of them: it does not answer.
    """

    rotmat: Float[Tensor, "B 24 3 3"]
    betas: Float[Tensor, "B 10"]
    camera: Float[Tensor, "B 3"]
    confidence: Float[Tensor, "B 24"]


class Evidence(NamedTuple):
    """What the networks say of each crop; places in [-1, 1] of the crop.

    Attributes:
        points: x, y, and the score in [0, 1] of the keypoints that were found.
        about: Where the regression from the person's centre expects them.
        spread: How far the cells that speak for a keypoint lie apart, crop units.
        base: The answer of the base; None: there is no base, or no picture.
    """

    points: Float[Tensor, "B 17 3"]
    about: Float[Tensor, "B 17 2"]
    spread: Float[Tensor, "B 17"]
    base: BaseAnswer | None


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
        outputs: Length of the output.
    """

    def __init__(
        self, inputs: int, width: int, blocks: int, dropout: float, outputs: int = _STATE
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU())
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs)
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


class MoveNetHead(nn.Module):
    """Keypoints and the base's answer to pose (6D), shape and camera, in a few passes.

    Buffers: ``mean_pose`` (24 x 6D) is what a silent head answers where there is no base; those of
    the rig.

    Args:
        rig: Keypoints of the body.
        has_base: Whether a base answers first.
        width: Width of the hidden layers.
        blocks: Residual blocks of the first pass.
        refine_blocks: Of the passes after it, which share their weights.
        passes: How many passes follow the first.
        dropout: Probability inside each block, in training mode only.
        confidence: Have a layer for the confidence of each joint.
    """

    mean_pose: Tensor

    def __init__(
        self,
        rig: KeypointRig,
        *,
        has_base: bool,
        width: int = 512,
        blocks: int = 3,
        refine_blocks: int = 2,
        passes: int = 4,
        dropout: float = 0.0,
        confidence: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.passes, self.has_base = width, passes, has_base
        #: What shapes the weights, by the names of the arguments.
        self.options = {
            "width": width,
            "blocks": blocks,
            "refine_blocks": refine_blocks,
            "passes": passes,
        }
        self.rig = rig
        self.pull = KeypointPull()
        inputs = _KEYPOINT_INPUTS + (_BASE_INPUTS if has_base else 0)
        self.first = StateNet(inputs, width, blocks, dropout)
        looks = inputs + _REFINE_INPUTS
        self.refine = StateNet(looks, width, refine_blocks, dropout, _STATE + _GATES)
        # Weights files know this layer by the name certainty.
        self.certainty = nn.Linear(width, conventions.NUM_JOINTS) if confidence else None
        identity = torch.eye(3)[:, :2].reshape(6)
        self.register_buffer("mean_pose", identity.repeat(conventions.NUM_JOINTS))

    def forward(self, evidence: Evidence, given: Float[Tensor, "B 17 3"] | None = None) -> Answers:
        """Answer, and look again.

        Args:
            evidence: Of each person.
            given: Given keypoints: x, y in [-1, 1] of the crop and confidence; 0: not given. None:
                nothing is given.
        """
        if given is None:
            given = torch.zeros_like(evidence.points)
        is_given = given[..., 2] > 0
        known = torch.where(is_given[..., None], given[..., :2], evidence.points[..., :2])
        frame = find_frame(known, is_given, evidence)
        inputs = keypoint_inputs(evidence, given, frame)
        start = self._silent().expand(given.shape[0], -1)
        if self.has_base:
            start, said = self._read_base(evidence.base, frame, start)
            inputs = torch.cat([inputs, said], 1)
        change, hidden = self.first(inputs)
        state = start + change
        outputs = [decode(state, frame)]
        for _ in range(self.passes):
            # While it is trained each pass learns from its own loss. Fine-tuning moves all of them
            # by the last answer. What is looked at is no way for gradients in either case.
            before = state.detach() if self.training else state
            seen, pulled = self._look_back(before.detach(), frame, evidence, given)
            change, hidden = self.refine(torch.cat([inputs, seen], 1))
            state = before + change[:, :_STATE] + _follow(pulled, change[:, _STATE:])
            outputs.append(decode(state, frame))
        return Answers(outputs, hidden)

    def confidence(self, hidden: Float[Tensor, "B W"]) -> Float[Tensor, "B 24"]:
        """The confidence of each joint from ``Answers.hidden``, of a head that has the layer."""
        assert self.certainty is not None, "asked of heads that have the layer"
        said: Tensor = self.certainty(hidden).sigmoid()
        return said

    def _read_base(
        self, base: BaseAnswer | None, frame: PointFrame, silent: Float[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B I"]]:
        """The base's answer as a state, and what a pass reads of it: 0 where there is none."""
        if base is None:
            return silent, frame.center.new_zeros(frame.center.shape[0], _BASE_INPUTS)
        answers = base.confidence.amax(1, keepdim=True) > 0
        state = encode(RegressorOutput(base.rotmat, base.betas, base.camera), frame)
        state = torch.where(answers, state, silent)
        limited = (state - silent).clamp(-_FARTHEST, _FARTHEST)
        return state, torch.cat([limited, base.confidence, answers.to(state)], 1)

    def _silent(self) -> Float[Tensor, " S"]:
        """The state of a head that says nothing, where there is no base."""
        return torch.cat([self.mean_pose, self.mean_pose.new_zeros(_STATE - _POSE)])

    @torch.no_grad()
    def _look_back(
        self, state: Tensor, frame: PointFrame, evidence: Evidence, given: Tensor
    ) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B S"]]:
        """What a refinement reads of a state, and the change of it that the keypoints pull at."""
        rotmat, betas, camera = decode(state, frame)
        points = self.rig(rotmat, betas)
        own = _in_frame(weak_project(points, camera), frame)
        depth = points[..., 2] - points[..., 2].mean(1, keepdim=True)
        from_found = _in_frame(evidence.points[..., :2], frame) - own
        is_given = given[..., 2:] > 0
        from_given = (_in_frame(given[..., :2], frame) - own) * is_given.to(own)
        pull = self.pull(
            self.rig.chain(rotmat, betas),
            points,
            own,
            torch.where(is_given, from_given, from_found),
            torch.where(is_given, given[..., 2:], evidence.points[..., 2:])[..., 0],
            camera[:, :1] / frame.size,
        )
        parts = [
            state - self._silent(),
            own.clamp(-_FARTHEST, _FARTHEST).flatten(1),
            depth,
            from_found.clamp(-_FARTHEST, _FARTHEST).flatten(1),
            from_given.clamp(-_FARTHEST, _FARTHEST).flatten(1),
            pull.turn.flatten(1),
            pull.camera,
        ]
        return torch.cat(parts, 1), _pulled_state(rotmat, pull)


class MoveNetRegressor(Regressor):
    """MoveNet, a base and a head that reads both, and given keypoints if there are any.

    Crops are those of a box times ``box_margin``, tighter than those of other regressors: MoveNet
    finds people best there.

    Args:
        trunk: The keypoint network, usually ``MoveNet.from_arrays``.
        rig: Keypoints of the body that is predicted.
        base: A regressor of the same body whose answer the head starts from, usually ``open-1``;
            None: the head lifts keypoints alone.
        options: Widths of the head by the names of the arguments of ``MoveNetHead``.

    Raises:
        ValueError: If the base is of another body or says nothing of its joints' confidence.
    """

    stages = ("layer3", "layer4", "head")
    #: The trunk takes RGB in [0, 1] as it is, and so does the base.
    img_mean = (0.0, 0.0, 0.0)
    img_std = (1.0, 1.0, 1.0)
    reads_keypoints = KEYPOINT_SET

    def __init__(
        self, trunk: MoveNet, rig: KeypointRig, base: OpenRegressor | None = None, **options: Any
    ) -> None:
        super().__init__()
        if base is not None and not base.has_confidence:
            raise ValueError(
                "MoveNetRegressor: base must say how sure it is of its joints, got one without "
                "that layer; use the weights that ship with the package"
            )
        self.input_size = trunk.input_size
        self.id = MOVENET_REGRESSOR_IDS[trunk.variant]
        self.body_id = BODY_ID
        self.trunk = trunk
        self.base = base
        self.head = MoveNetHead(rig, has_base=base is not None, **options)
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
        base = OpenRegressor.make_tiny(seed)
        assert base.head.certainty is not None, "made with the layer"
        nn.init.normal_(base.head.certainty.weight)
        options = dict(width=16, blocks=1, refine_blocks=1, passes=2)
        network = cls(MoveNet("tiny"), rig, base, **options)
        for module in network.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        for net in (network.head.first, network.head.refine):
            nn.init.normal_(net.leave.weight, std=0.05)
        torch.set_rng_state(state)
        return network.eval()

    def features(self, img: Float[Tensor, "B 3 S S"]) -> Evidence:
        """Run both networks.

        Args:
            img: RGB crops in [0, 1].

        Raises:
            ValueError: If the crops do not have the size of the trunk.
        """
        self.check_img(img)
        return self._read_out(0, self.trunk.run_to_stage(0, img), self._ask_base(img))

    def run_to(self, stage: str, img: Float[Tensor, "B 3 S S"]) -> Any:
        """Run the network up to a stage; see ``Regressor.run_to``.

        The base answers in front of every stage: it moves where the whole network does.
        """
        self.check_stage(stage)
        if stage == "head":
            return self.features(img)
        self.check_img(img)
        return self.trunk.run_to_stage(_ENCODER_STAGES[stage], img), self._ask_base(img)

    def run_from(self, stage: str, state: Any, *, raw_camera: bool = False) -> RegressorOutput:
        """Finish ``forward`` from the result of ``run_to``; see ``Regressor.run_from``."""
        return self.head_forward(self.features_from(stage, state), raw_camera=raw_camera)

    def features_from(self, stage: str, state: Any) -> Any:
        """Go on from the result of ``run_to``; see ``Regressor.features_from``."""
        self.check_stage(stage)
        return state if stage == "head" else self._read_out(_ENCODER_STAGES[stage], *state)

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
        features: Evidence,
        *,
        raw_camera: bool = False,
        given: Float[Tensor, "B 17 3"] | None = None,
    ) -> RegressorOutput:
        """Finish ``forward`` from the result of ``features``; the camera is ours either way."""
        answers: Answers = self.head(features, given)
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
        self, features: Evidence, *, given: Float[Tensor, "B 17 3"] | None = None
    ) -> Float[Tensor, "B 24"] | None:
        """Say how sure the answer of ``head_forward`` is; see ``Regressor.joint_confidence``."""
        if self.head.certainty is None:
            return None
        return self.head.confidence(self.head(features, given).hidden)

    def head_with_confidence(
        self,
        features: Evidence,
        *,
        raw_camera: bool = False,
        given: Float[Tensor, "B 17 3"] | None = None,
    ) -> tuple[RegressorOutput, Float[Tensor, "B 24"] | None]:
        """Both from one run of the head; see ``Regressor.head_with_confidence``."""
        answers: Answers = self.head(features, given)
        with torch.no_grad():
            has_layer = self.head.certainty is not None
            said = self.head.confidence(answers.hidden) if has_layer else None
        return answers.outputs[-1], said

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the keypoint network, and those of the base that move its answer."""
        if self.base is None:
            return self.trunk.parameters()
        of_base = (self.base.trunk_parameters(), self.base.head_parameters())
        return chain(self.trunk.parameters(), *of_base)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the head that move the output: all but those of the confidence."""
        layer = self.head.certainty
        certain = set() if layer is None else {id(parameter) for parameter in layer.parameters()}
        return (each for each in self.head.parameters() if id(each) not in certain)

    def _ask_base(self, img: Float[Tensor, "B 3 S S"]) -> BaseAnswer | None:
        """What the base says of the same crops, at its own resolution."""
        if self.base is None:
            return None
        size = self.base.input_size
        if img.shape[-1] != size:
            img = F.interpolate(img, size=(size, size), mode="bilinear", align_corners=False)
        answer, said = self.base.head_with_confidence(self.base.features(img))
        assert said is not None, "checked when it was made"
        return BaseAnswer(*answer, said)

    def _read_out(self, stage: int, state: tuple[Tensor, ...], base: BaseAnswer | None) -> Evidence:
        found = soft_keypoints(self.trunk.run_to_maps(stage, state), _SHARPNESS)
        return Evidence(
            torch.cat([self._to_units(found.points[..., :2]), found.points[..., 2:]], -1),
            self._to_units(found.about),
            found.spread * (2.0 / self.input_size),
            base,
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
    ]
    return torch.cat(parts, 1)


def decode(state: Float[Tensor, "B S"], frame: PointFrame) -> RegressorOutput:
    """The body of a state."""
    pose, betas, camera = state.split([_POSE, conventions.NUM_BETAS, 3], dim=1)
    rotmat = rot6d_to_matrix(pose.reshape(-1, conventions.NUM_JOINTS, 6))
    scale = torch.exp(camera[:, :1] * _CAMERA_STEP) * frame.size * _SCALE_PER_SIZE
    shift = camera[:, 1:] * _CAMERA_STEP * frame.size + frame.center
    return RegressorOutput(rotmat, betas, torch.cat([scale, shift], 1))


def encode(body: RegressorOutput, frame: PointFrame) -> Float[Tensor, "B S"]:
    """The state of a body: the inverse of ``decode``."""
    size = frame.size
    scale = (body.pred_cam[:, :1].clamp_min(_MIN_SIZE) / (size * _SCALE_PER_SIZE)).log()
    shift = (body.pred_cam[:, 1:] - frame.center) / size
    pose = matrix_to_rot6d(body.pred_rotmat).flatten(1)
    return torch.cat([pose, body.pred_betas, scale / _CAMERA_STEP, shift / _CAMERA_STEP], 1)


def _pulled_state(rotmat: Float[Tensor, "B 24 3 3"], pull: Pull) -> Float[Tensor, "B S"]:
    """The change of a state by a whole pull: of its 6D numbers to first order, R [turn]x."""
    x, y, z = pull.turn.unbind(-1)
    zero = torch.zeros_like(x)
    # The first two columns of [turn]x, as 6D numbers have the first two of a rotation.
    columns = torch.stack([zero, -z, z, zero, -y, x], -1).unflatten(-1, (3, 2))
    pose = (rotmat @ columns).flatten(1)
    betas = pose.new_zeros(pose.shape[0], conventions.NUM_BETAS)
    return torch.cat([pose, betas, pull.camera / _CAMERA_STEP], 1)


def _follow(pulled: Float[Tensor, "B S"], gates: Float[Tensor, "B G"]) -> Float[Tensor, "B S"]:
    """As much of a pull as the gates say: one number for each joint, and one for the camera."""
    pose = pulled[:, :_POSE].unflatten(1, (conventions.NUM_JOINTS, 6)) * gates[:, :-1, None]
    return torch.cat([pose.flatten(1), pulled[:, _POSE:] * gates[:, -1:]], 1)


def _in_frame(points: Float[Tensor, "B K 2"], frame: PointFrame) -> Float[Tensor, "B K 2"]:
    return (points - frame.center[:, None]) / frame.size[:, None]
