"""A small network and body on which fitting errors show, and the reference loop in plain torch.

Learning rate 2e-4 on 240,000 weights moves the answer by about 0.4; the reference's 5e-6 would move
it too little to tell a right loop from a wrong one. Batch norm has random constants, not 1 and 0.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from eft_fast.body.arrays import BodyArrays
from eft_fast.body.plan import joint_rows, make_points_plan, vertex_rows
from eft_fast.conventions import PARENTS
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.ops import PointsPlan

INPUT_SIZE = 64
LR = 2e-4
STEPS = 20
#: Modes that the reference can run, and modules that the smaller ones tune.
_HEAD = ("fc1", "fc2", "decpose", "decshape", "deccam")
PARTS = {
    "layer3": ("layer3", "layer4", *_HEAD),
    "layer4": ("layer4", *_HEAD),
    "head": _HEAD,
}
#: Rates at which each mode moves the answer enough for errors to show.
RATES = {"feature": 0.3, "lora": 3e-3}

#: Kinematic joint (0..23) or face point (24..28) behind each of the 49 keypoints.
SOURCES = [
    24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 10, 10, 7, 11, 11, 8,
    8, 5, 2, 1, 4, 7, 21, 19, 17, 16, 18, 20, 12, 15, 0, 9, 6, 15, 15, 24, 26, 25, 28, 27,
]  # fmt: skip


class Bottleneck(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(width_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
            if stride != 1 or width_in != 4 * width
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return torch.relu(h + (x if self.downsample is None else self.downsample(x)))


class ToyRegressor(Regressor):
    """HMR in small: bottleneck trunk, iterative head, dropout, batch norm."""

    stages = ("layer3", "layer4", "feature", "head")

    def __init__(self, width: int = 8, layers: tuple[int, ...] = (1, 2, 2, 1)) -> None:
        super().__init__()
        self.input_size = INPUT_SIZE
        self.id = "toy"
        self.body_id = "toy"
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for index, count in enumerate(layers):
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Bottleneck(channels, width * 2**index, stride))
                channels = 4 * width * 2**index
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc1 = nn.Linear(channels + 157, 128)
        self.fc2 = nn.Linear(128, 128)
        self.drop = nn.Dropout(0.5)
        self.decpose = nn.Linear(128, 144)
        self.decshape = nn.Linear(128, 10)
        self.deccam = nn.Linear(128, 3)
        identity = torch.eye(3)[:, :2].reshape(1, 6).repeat(1, 24)
        start = torch.cat([identity, torch.zeros(1, 10), torch.tensor([[0.9, 0.0, 0.0]])], 1)
        self.register_buffer("start", start)

    def features(self, img: Tensor) -> Tensor:
        return self.run_to("head", img)

    def run_to(self, stage: str, img: Tensor) -> Tensor:
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(img)))))
        if stage != "layer3":
            x = self.layer3(x)
        return x if stage in ("layer3", "layer4") else self.layer4(x).mean((2, 3))

    def run_from(self, stage: str, state: Tensor, *, raw_camera: bool = False) -> RegressorOutput:
        if stage == "layer3":
            state = self.layer3(state)
        if stage in ("layer3", "layer4"):
            state = self.layer4(state).mean((2, 3))
        return self.head_forward(state)

    def parameters_from(self, stage: str) -> list[nn.Parameter]:
        parts = {"layer3": (self.layer3, self.layer4), "layer4": (self.layer4,)}.get(stage, ())
        trunk = [parameter for part in parts for parameter in part.parameters()]
        return trunk + self.head_parameters()

    def head_forward(self, features: Tensor, *, raw_camera: bool = False) -> RegressorOutput:
        theta = self.start.expand(len(features), -1)
        for _ in range(3):
            h = self.drop(self.fc1(torch.cat([features, theta], 1)))
            h = self.drop(self.fc2(h))
            theta = theta + torch.cat([self.decpose(h), self.decshape(h), self.deccam(h)], 1)
        return RegressorOutput(to_matrix(theta[:, :144]), theta[:, 144:154], theta[:, 154:])

    def trunk_parameters(self) -> list[nn.Parameter]:
        head = {id(parameter) for parameter in self.head_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in head]

    def head_parameters(self) -> list[nn.Parameter]:
        parts = (self.fc1, self.fc2, self.decpose, self.decshape, self.deccam)
        return [parameter for part in parts for parameter in part.parameters()]

    def forward(self, img: Tensor, *, raw_camera: bool = False) -> RegressorOutput:
        return self.head_forward(self.features(img))


def to_matrix(pose: Tensor) -> Tensor:
    columns = pose.reshape(len(pose), 24, 3, 2)
    a, b = columns[..., 0], columns[..., 1]
    x = nn.functional.normalize(a, dim=-1)
    y = nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


class ToyBody:
    """24 joints that move with betas, and five points that ride on the head."""

    id = "toy"
    backend = "auto"

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(5)
        offsets = 0.25 * torch.randn(24, 3, generator=generator, dtype=torch.float64)
        joints = torch.zeros(24, 3, dtype=torch.float64)
        for joint, parent in enumerate(PARENTS):
            joints[joint] = offsets[joint] + (joints[parent] if parent >= 0 else 0)
        self.joints = joints.to(dtype)
        shape = 0.008 * torch.randn(24, 3, 10, generator=generator, dtype=torch.float64)
        self.shape = shape.to(dtype)
        face = 0.1 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
        self.face = face.to(dtype)
        self._plan = _make_plan(joints, shape, face).to(dtype=dtype)

    def to(self, device: str) -> ToyBody:
        """The same body elsewhere; it is moved in place."""
        self.joints, self.shape, self.face = (
            part.to(device) for part in (self.joints, self.shape, self.face)
        )
        self._plan = self._plan.to(device)
        return self

    def points_plan(self, joint_set: str) -> PointsPlan:
        """The 49 points for the operators; ``keypoints`` computes the same in its own way."""
        assert joint_set == "spin49"
        return self._plan

    def keypoints(
        self,
        betas: Tensor,
        body_pose: Tensor,
        global_orient: Tensor,
        *,
        joint_set: str,
        pose2rot: bool,
    ) -> Tensor:
        assert joint_set == "spin49"
        assert not pose2rot
        rotations = torch.cat([global_orient, body_pose], 1)
        rest = self.joints + torch.einsum("jck,bk->bjc", self.shape, betas)
        world: list[Tensor] = [rotations[:, 0]]
        place: list[Tensor] = [rest[:, 0]]
        for joint in range(1, 24):
            parent = PARENTS[joint]
            world.append(world[parent] @ rotations[:, joint])
            bone = (rest[:, joint] - rest[:, parent])[..., None]
            place.append(place[parent] + (world[parent] @ bone)[..., 0])
        face = place[15][:, None] + torch.einsum("bij,kj->bki", world[15], self.face)
        return torch.cat([torch.stack(place, 1), face], 1)[:, SOURCES]


def _make_plan(joints: Tensor, shape: Tensor, face: Tensor) -> PointsPlan:
    """The body as one of 29 vertices: one on each joint, and five that the head moves."""
    arrays = BodyArrays(
        model_id="toy",
        v_template=torch.cat([joints, joints[15] + face]).numpy(),
        faces=np.zeros((1, 3), np.int64),
        shapedirs=torch.cat([shape, shape[15].expand(5, 3, 10)]).numpy(),
        posedirs=np.zeros((29, 3, 207)),
        joint_idx=np.array([*range(24), *[15] * 5], np.int32)[:, None],
        joint_weight=np.ones((29, 1)),
        J_regressor=np.eye(24, 29),
        parents=np.array(PARENTS, np.int64),
    )
    names = [f"point{i}" for i in range(29)]
    rows = joint_rows(range(24), names[:24]) + vertex_rows(range(24, 29), names[24:])
    return make_points_plan(arrays, rows.take(SOURCES))


def make_regressor(dtype: torch.dtype = torch.float32) -> ToyRegressor:
    generator = torch.Generator().manual_seed(0)
    net = ToyRegressor()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
        # A silent decoder starts at the mean pose and a camera in front of the body.
        for decoder in (net.decpose, net.decshape, net.deccam):
            decoder.weight.mul_(0.02)
            decoder.bias.mul_(0.02)
    return net.to(dtype).eval()


def make_people(
    count: int, dtype: torch.dtype = torch.float32, *, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Images and keypoints; the first people do not depend on ``count``."""
    body = ToyBody(torch.float64)
    images, keypoints = [], []
    for person in range(count):
        generator = torch.Generator().manual_seed(1000 * seed + person)
        normal = partial(torch.randn, generator=generator, dtype=torch.float64)
        pose = torch.eye(3, dtype=torch.float64)[:, :2].reshape(1, 6).repeat(1, 24)
        rotations = to_matrix(pose + 0.4 * normal(1, 144))
        points = body.keypoints(
            0.5 * normal(1, 10), rotations[:, 1:], rotations[:, :1], joint_set="spin49",
            pose2rot=False,
        )  # fmt: skip
        target = 0.8 * points[..., :2] + 0.05 * normal(1, 1, 2) + 0.01 * normal(1, 49, 2)
        confidence = (torch.rand(1, 49, 1, generator=generator) > 0.2).double()
        images.append(normal(1, 3, INPUT_SIZE, INPUT_SIZE))
        keypoints.append(torch.cat([target * confidence, confidence], -1))
    return torch.cat(images).to(dtype), torch.cat(keypoints).to(dtype)


@dataclass
class ReferenceFit:
    output: RegressorOutput
    loss: Tensor
    steps: int
    converged: bool


def reference_loss(
    points: Tensor, betas: Tensor, cam: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """The released loss for one person, written from its description; total and 2D term."""
    projected = cam[0, 0] * points[0, :, :2] + cam[0, 1:]
    confidence = target[0, :, 2].clone()
    confidence[:25] = 0
    given = target[0, :, :2]
    for joint in (2, 3, 14):
        confidence[25 + joint] = 0
    leg = projected.new_zeros(())
    for knee, ankle in ((25 + 4, 25 + 5), (25 + 1, 25 + 0)):
        want, have = given[ankle] - given[knee], projected[ankle] - projected[knee]
        if want.norm() > 0.0089:
            cosine = (want / want.norm()) @ (have / have.norm())
            leg = leg + confidence[knee] * confidence[ankle] * (1 - cosine)
    for joint in (5, 0):
        confidence[25 + joint] = 0
    keypoint = (confidence[:, None] * (projected - given) ** 2).mean()
    camera = torch.exp(-10 * cam[0, 0]) ** 2
    return 60 * (5 * keypoint + 0.001 * (betas**2).mean() + camera + 0.005 * leg), keypoint


def reference_fit(
    net: ToyRegressor,
    body: ToyBody,
    img: Tensor,
    target: Tensor,
    *,
    lr: float = LR,
    steps: int = STEPS,
    threshold: float = 0.0,
    mode: str = "full",
) -> ReferenceFit:
    """One person, as the released code does it: update first, stop test afterwards."""
    private = copy.deepcopy(net).eval()
    forward = partial(private, img)
    layers = [module for module in private.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if mode in PARTS:
        parts = [getattr(private, name) for name in PARTS[mode]]
        layers = [m for part in parts for m in part.modules() if m in layers]
    tuned = [parameter for layer in layers for parameter in layer.parameters()]
    if mode == "feature":
        shift = torch.zeros(1, private.fc1.in_features - 157, dtype=img.dtype, requires_grad=True)
        features = private.features(img).detach()
        forward, tuned = (lambda: private.head_forward(features + shift)), [shift]
    optimiser = torch.optim.Adam(tuned, lr=lr, foreach=False, fused=False)
    done = 0
    for done in range(steps):  # noqa: B007 (the last value is the number of updates)
        output = forward()
        points = body.keypoints(
            output.pred_betas,
            output.pred_rotmat[:, 1:],
            output.pred_rotmat[:, :1],
            joint_set="spin49",
            pose2rot=False,
        )
        loss, keypoint = reference_loss(points, output.pred_betas, output.pred_cam, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if keypoint.item() < threshold:
            break
    return ReferenceFit(output, loss, done, keypoint.item() < threshold)
