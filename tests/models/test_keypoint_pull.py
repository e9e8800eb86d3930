"""The pull of keypoints on a body, against derivatives of the body itself."""

from __future__ import annotations

import pytest
import torch

from eft_fast.body import load_body
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models.keypoint_pull import _DAMPING, KeypointPull
from eft_fast.models.keypoint_rig import KeypointRig


@pytest.fixture(scope="module")
def rig() -> KeypointRig:
    body = load_body()
    return KeypointRig.from_plan(body.points_plan("coco17"))


def _pull(rig, rotmat, betas, camera, targets, weight, size=1.0):
    points = rig(rotmat, betas)
    own = weak_project(points, camera) / size
    return KeypointPull()(
        rig.chain(rotmat, betas), points, own, targets / size - own, weight, camera[:, :1] / size
    )


@pytest.fixture
def somebody(rig):
    generator = torch.Generator().manual_seed(3)
    rotmat = axis_angle_to_matrix(0.3 * torch.randn(4, 24, 3, generator=generator))
    betas = torch.randn(4, 10, generator=generator)
    camera = torch.tensor([[0.9, 0.1, -0.1]]).expand(4, -1)
    return rotmat, betas, camera, generator


def test_a_part_of_each_turn_brings_the_keypoints_nearer(rig, somebody):
    rotmat, betas, camera, generator = somebody
    targets = weak_project(rig(rotmat, betas), camera)
    bent = rotmat @ axis_angle_to_matrix(0.1 * torch.randn(4, 24, 3, generator=generator))
    weight = torch.ones(4, 17)

    def error(pose):
        gap = weak_project(rig(pose, betas), camera) - targets
        return gap.square().sum((1, 2))

    turn = _pull(rig, bent, betas, camera, targets, weight).turn
    for joint in (0, 1, 2, 4, 5, 16, 17, 18, 19):
        moved = bent.clone()
        moved[:, joint] = bent[:, joint] @ axis_angle_to_matrix(0.2 * turn[:, joint])
        assert (error(moved) < error(bent)).all(), joint


def test_turns_follow_the_derivative_of_the_body(rig, somebody):
    rotmat, betas, camera, generator = somebody
    targets = weak_project(rig(rotmat, betas), camera)
    targets = targets + 0.02 * torch.randn(targets.shape, generator=generator)
    # Of light keypoints the damping is all that the slope is divided by.
    weight = torch.rand(4, 17, generator=generator) * 1e-4
    turn = _pull(rig, rotmat, betas, camera, targets, weight).turn
    step = torch.zeros(4, 24, 3, requires_grad=True)
    image = weak_project(rig(rotmat @ axis_angle_to_matrix(step), betas), camera)
    loss = (weight[..., None] * (image - targets).square()).sum() / 2
    (gradient,) = torch.autograd.grad(loss, step)
    # Skinning weights and blendshapes, which the pull leaves out, change little.
    for joint in (0, 1, 2, 3, 4, 5, 6, 13, 14, 15, 18, 19):
        cosine = torch.cosine_similarity(-gradient[:, joint], turn[:, joint], dim=-1)
        ratio = _DAMPING * turn[:, joint].norm(dim=-1) / gradient[:, joint].norm(dim=-1)
        assert cosine.min() > 0.98, (joint, cosine)
        assert (ratio - 1).abs().max() < 0.1, (joint, ratio)


def test_nobody_is_pulled_by_nothing(rig, somebody):
    rotmat, betas, camera, _ = somebody
    targets = torch.full((4, 17, 2), 7.0)
    pull = _pull(rig, rotmat, betas, camera, targets, torch.zeros(4, 17))
    assert pull.turn.abs().max() == 0
    assert pull.camera.abs().max() == 0


def test_the_camera_is_pulled_to_size_and_place(rig, somebody):
    rotmat, betas, camera, _ = somebody
    targets = weak_project(rig(rotmat, betas), camera)
    own = weak_project(rig(rotmat, betas), camera)
    weight = torch.full((4, 17), 1e6)
    centred = own - own.mean(1, keepdim=True)
    # Larger by a tenth about its own middle and 0.05 to the right.
    targets = own.mean(1, keepdim=True) + 1.1 * centred + torch.tensor([0.05, 0.0])
    pull = _pull(rig, rotmat, betas, camera, targets, weight)
    assert (pull.camera[:, 1] - 0.05).abs().max() < 5e-3
    assert pull.camera[:, 0].min() > 0.03
