from __future__ import annotations

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.synth.config import PoseConfig
from eft_fast.synth.landmarks import MIRROR_LANDMARKS, body_landmarks
from eft_fast.synth.poses import (
    axis_angle_matrix,
    euler_matrix,
    mirror_rotations,
    sample_pose,
    sample_posture,
)
from eft_fast.synth.render import Renderer


def test_euler_is_the_product_of_three_turns() -> None:
    product = euler_matrix(20, 0, 0) @ euler_matrix(0, -35, 0) @ euler_matrix(0, 0, 50)
    np.testing.assert_allclose(euler_matrix(20, -35, 50), product, atol=1e-12)
    np.testing.assert_allclose(euler_matrix(90, 0, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_axis_angle_agrees_with_euler() -> None:
    angles = np.deg2rad([[30.0, 0, 0], [0, -70, 0], [0, 0, 110], [0, 0, 0]])
    expected = [euler_matrix(30, 0, 0), euler_matrix(0, -70, 0), euler_matrix(0, 0, 110), np.eye(3)]
    np.testing.assert_allclose(axis_angle_matrix(angles), expected, atol=1e-7)


def test_sampled_poses_are_rotations(renderer: Renderer) -> None:
    rng = np.random.default_rng(1)
    poses = [sample_pose(rng, renderer.pool, PoseConfig()) for _ in range(50)]
    poses += [sample_posture(rng) for _ in range(50)]
    stacked = np.stack(poses)
    identity = stacked @ np.swapaxes(stacked, -1, -2)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(stacked), 1, atol=1e-6)


def test_people_stand_upright_in_the_picture(renderer: Renderer) -> None:
    """The camera's y points down: the body's up axis must point to minus y."""
    rng = np.random.default_rng(2)
    config = PoseConfig(any_roll=0)
    up = np.stack([sample_pose(rng, renderer.pool, config)[0] @ [0, 1, 0] for _ in range(60)])
    assert (up[:, 1] < -0.5).all()


def test_front_views_face_the_camera(renderer: Renderer) -> None:
    rng = np.random.default_rng(2)
    config = PoseConfig(any_roll=0, uniform_yaw=0)
    front = np.stack([sample_pose(rng, renderer.pool, config)[0] @ [0, 0, 1] for _ in range(60)])
    assert np.median(front[:, 2]) < -0.7


def test_mirrored_pose_is_the_mirror_image_of_the_body(open_body: Smpl) -> None:
    """Landmarks of the mirrored pose: x reversed, left and right swapped. The body is symmetric."""
    rng = np.random.default_rng(4)
    rotmat = axis_angle_matrix(rng.normal(size=(24, 3)) * 0.4)
    betas = torch.from_numpy(rng.normal(size=(1, 10)).astype(np.float32))
    both = torch.from_numpy(np.stack([rotmat, mirror_rotations(rotmat)]).astype(np.float32))
    plain, mirrored = body_landmarks(open_body, both, betas.expand(2, -1))
    expected = plain[list(MIRROR_LANDMARKS)] * torch.tensor([-1.0, 1.0, 1.0])
    # The mesh is symmetric to a millimetre or two, not to the last digit.
    assert float((mirrored - expected).norm(dim=1).max()) < 0.01
    np.testing.assert_allclose(mirror_rotations(mirror_rotations(rotmat)), rotmat, atol=1e-12)


@pytest.mark.parametrize("option", ["procedural", "mix", "mirror", "jitter", "procedural_legs"])
def test_options_change_the_pose(renderer: Renderer, option: str) -> None:
    off = PoseConfig(procedural=0, procedural_legs=0, mix=0, jitter=0, mirror=0)
    on = PoseConfig(**{**vars(off), option: 1.0})
    plain = sample_pose(np.random.default_rng(5), renderer.pool, off)[1:22]
    changed = sample_pose(np.random.default_rng(5), renderer.pool, on)[1:22]
    assert np.abs(plain - changed).max() > 0.01
