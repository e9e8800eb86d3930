"""Points from several cameras, and rigid motions: exact on exact input, blind to missing ones."""

from __future__ import annotations

import pytest
import torch

from eft_fast.geometry import axis_angle_to_matrix, project_intrinsics
from eft_fast.geometry.triangulation import rigid_motion, triangulate


def make_views(groups: int = 3, views: int = 4, points: int = 7):
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    world = normal(groups, points, 3)
    rotation = axis_angle_to_matrix(0.5 * normal(groups, views, 3))
    translation = 0.3 * normal(groups, views, 3) + torch.tensor([0.0, 0.0, 6.0])
    camera = torch.tensor([[800.0, 0, 320], [0, 810, 240], [0, 0, 1]], dtype=torch.float64)
    camera = camera.expand(groups, views, 3, 3)
    seen = world[:, None] @ rotation.transpose(2, 3) + translation[:, :, None]
    image = project_intrinsics(seen.flatten(0, 1), camera.flatten(0, 1))
    image = image.reshape(groups, views, points, 2)
    return world, torch.cat([image, torch.ones_like(image[..., :1])], -1), (
        camera, rotation, translation,
    )  # fmt: skip


def test_exact_rays_meet_in_the_point():
    world, keypoints, cameras = make_views()
    got = triangulate(keypoints, *cameras)
    torch.testing.assert_close(got[..., :3], world)
    assert (got[..., 3] == 4).all()


def test_unlabelled_views_do_not_count():
    world, keypoints, cameras = make_views()
    keypoints[:, 1, 2:5, :2] = float("nan")
    keypoints[:, 1, 2:5, 2] = 0
    got = triangulate(keypoints, *cameras)
    torch.testing.assert_close(got[..., :3], world)
    assert (got[:, 2:5, 3] == 3).all()


def test_one_ray_has_no_point_and_nor_have_parallel_ones():
    _, keypoints, cameras = make_views()
    keypoints[0, 1:, 0, 2] = 0
    got = triangulate(keypoints, *cameras)
    assert not got[0, 0].any()
    assert (got[1:, 0, 3] == 4).all()
    same = tuple(part[:, :1].expand(-1, 2, *part.shape[2:]) for part in cameras)
    assert not triangulate(keypoints[:, :1].expand(-1, 2, -1, -1), *same).any()


def test_the_point_is_nearest_to_noisy_rays():
    """No other point has a smaller weighted sum of squared distances."""
    _, keypoints, cameras = make_views(1)
    generator = torch.Generator().manual_seed(5)
    keypoints[..., :2] += 20 * torch.randn(1, 4, 7, 2, generator=generator)
    keypoints[..., 2] = torch.rand(1, 4, 7, generator=generator) + 0.1
    got = triangulate(keypoints, *cameras)[0, :, :3]
    camera, rotation, translation = (part[0] for part in cameras)

    def cost(points: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(7, dtype=torch.float64)
        for view in range(4):
            pixel = torch.cat([keypoints[0, view, :, :2], torch.ones(7, 1)], 1)
            ray = (rotation[view].T @ torch.linalg.inv(camera[view]) @ pixel.T).T
            away = points + rotation[view].T @ translation[view]
            across = torch.linalg.cross(away, ray / ray.norm(dim=1, keepdim=True))
            total += keypoints[0, view, :, 2] * across.square().sum(1)
        return total

    for step in torch.eye(3, dtype=torch.float64):
        assert (cost(got + 1e-3 * step) > cost(got)).all()
        assert (cost(got - 1e-3 * step) > cost(got)).all()


def test_rigid_motion_is_found_and_never_a_reflection():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3, 9, 3, generator=generator, dtype=torch.float64)
    rotation = axis_angle_to_matrix(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    shift = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    target = source @ rotation.transpose(1, 2) + shift[:, None]
    target[:, 0] = 100.0
    weight = torch.ones(3, 9, dtype=torch.float64)
    weight[:, 0] = 0
    got = rigid_motion(source, target, weight)
    torch.testing.assert_close(got[0], rotation)
    torch.testing.assert_close(got[1], shift)
    mirrored = rigid_motion(source, target * torch.tensor([-1.0, 1, 1]), weight)[0]
    torch.testing.assert_close(torch.linalg.det(mirrored), torch.ones(3, dtype=torch.float64))
    weight[1, 2:] = 0
    few = rigid_motion(source, target, weight)
    assert few[0][1].isnan().all()
    assert torch.equal(few[0][0], got[0][0])


def test_wrong_shapes_are_refused():
    _, keypoints, (camera, rotation, translation) = make_views()
    with pytest.raises(ValueError, match=r"rotation must be \[3, 4, 3, 3\]"):
        triangulate(keypoints, camera, rotation[:, :2], translation)
