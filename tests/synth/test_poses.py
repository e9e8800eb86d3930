from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.synth.config import PoseConfig
from eft_fast.synth.landmarks import MIRROR_LANDMARKS, body_landmarks
from eft_fast.synth.poses import (
    UPPER,
    axis_angle_matrix,
    euler_matrix,
    mirror_rotations,
    sample_pose,
    sample_posture,
    sample_standing,
    sample_viewed_pose,
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


def knee_bends(rotmat: np.ndarray) -> np.ndarray:
    """Angles of both knees, degrees."""
    cosine = (np.trace(rotmat[..., 4:6, :, :], axis1=-2, axis2=-1) - 1) / 2
    bends: np.ndarray = np.rad2deg(np.arccos(cosine.clip(-1, 1)))
    return bends


def test_who_stands_has_straight_legs_and_the_feet_below(open_body: Smpl) -> None:
    rng = np.random.default_rng(2)
    rotmat = np.stack([sample_standing(rng) for _ in range(200)])
    bends = knee_bends(rotmat)
    assert np.median(bends) < 8
    assert bends.max() < 45
    turned = torch.from_numpy(rotmat).float()
    joints = open_body.keypoints(
        torch.zeros(200, 10), turned[:, 1:], turned[:, :1], joint_set="smpl24", pose2rot=False
    )
    feet, pelvis = joints[:, [7, 8]], joints[:, :1]
    assert (feet[..., 1] < pelvis[..., 1] - 0.6).all()
    # The body stands over its feet, which lie flat.
    assert (feet.mean(1) - pelvis[:, 0])[:, 2].abs().median() < 0.06
    toes = joints[:, [10, 11]]
    assert (feet[..., 1] - toes[..., 1]).abs().median() < 0.12


def test_standing_people_keep_their_arms_and_lose_their_lean(renderer: Renderer) -> None:
    config = PoseConfig(standing=1.0, jitter=0, mirror=0, procedural=0, any_roll=0, uniform_yaw=0)
    plain = replace(config, standing=0.0)
    pairs = [
        [
            sample_viewed_pose(np.random.default_rng(seed), renderer.pool, each)[0]
            for each in (config, plain)
        ]
        for seed in range(20)
    ]
    stands, moves = (np.stack(part) for part in zip(*pairs, strict=True))
    np.testing.assert_array_equal(stands[:, list(UPPER)], moves[:, list(UPPER)])
    assert np.median(knee_bends(stands)) < 8 < np.median(knee_bends(moves))


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
