from __future__ import annotations

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import fit_weak_camera, weak_project
from eft_fast.synth import SynthArrays
from eft_fast.training.targets import (
    Targets,
    body_points,
    make_targets,
    mirror_targets,
)


def test_weak_camera_is_recovered() -> None:
    points = torch.randn(5, 27, 3)
    camera = torch.rand(5, 3) + 0.5
    torch.testing.assert_close(fit_weak_camera(points, weak_project(points, camera)), camera)


def test_weak_camera_is_the_best_one(targets: Targets, open_body: Smpl) -> None:
    """Any other camera near it has a larger squared error."""
    points = body_points(open_body, targets.rotmat, targets.betas)
    placed = points.landmarks + points.root

    def error(camera: torch.Tensor) -> torch.Tensor:
        return (weak_project(placed, camera) - targets.landmarks_2d).square().sum((1, 2))

    best = error(targets.camera)
    for axis in range(3):
        for step in (-0.02, 0.02):
            other = targets.camera.clone()
            other[:, axis] += step
            assert (error(other) > best).all()


def test_targets_agree_with_the_labels(
    targets: Targets, arrays: SynthArrays, open_body: Smpl
) -> None:
    """Joints about the pelvis are those of the rendered body."""
    expected = arrays.joints - arrays.joints[:, :1]
    np.testing.assert_allclose(targets.joints.numpy(), expected, atol=2e-5)
    expected = arrays.landmarks - arrays.joints[:, :1]
    np.testing.assert_allclose(targets.landmarks.numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(
        targets.landmarks_2d.numpy(), arrays.landmarks_2d[..., :2], atol=1e-4
    )
    in_chunks = make_targets(arrays, open_body, chunk=5)
    for one, other in zip(targets, in_chunks, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_mirrored_targets_are_those_of_the_mirrored_body(targets: Targets, open_body: Smpl) -> None:
    everyone = torch.ones(len(targets.rotmat), dtype=torch.bool)
    mirrored = mirror_targets(targets, everyone)
    points = body_points(open_body, mirrored.rotmat, mirrored.betas)
    # The body is symmetric to a few millimetres.
    torch.testing.assert_close(points.joints, mirrored.joints, rtol=0, atol=0.01)
    torch.testing.assert_close(points.landmarks, mirrored.landmarks, rtol=0, atol=0.01)
    torch.testing.assert_close(
        weak_project(points.landmarks + points.root, mirrored.camera),
        weak_project(
            targets.landmarks + body_points(open_body, targets.rotmat, targets.betas).root,
            targets.camera,
        )[:, MIRROR] * torch.tensor([-1.0, 1.0]),
        rtol=0,
        atol=0.02,
    )  # fmt: skip
    # The 2D labels moved with the 3D ones: the camera that fits both is the mirrored one.
    refitted = fit_weak_camera(points.landmarks + points.root, mirrored.landmarks_2d)
    torch.testing.assert_close(refitted, mirrored.camera, rtol=0, atol=0.02)
    # What a weak-perspective camera cannot fit is the same on both sides.
    left_over = weak_project(points.landmarks + points.root, refitted) - mirrored.landmarks_2d
    plain = body_points(open_body, targets.rotmat, targets.betas)
    before = weak_project(plain.landmarks + plain.root, targets.camera) - targets.landmarks_2d
    assert float(left_over.abs().mean()) == pytest.approx(float(before.abs().mean()), rel=0.1)


MIRROR = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15] + [
    19, 20, 17, 18, 22, 21, 24, 23, 26, 25,
]  # fmt: skip


def test_mirroring_twice_changes_nothing_and_mirroring_few_changes_few(targets: Targets) -> None:
    which = torch.zeros(len(targets.rotmat), dtype=torch.bool)
    which[::2] = True
    once = mirror_targets(targets, which, -2 / 256)
    twice = mirror_targets(once, which, -2 / 256)
    for start, middle, end in zip(targets, once, twice, strict=True):
        torch.testing.assert_close(start, end, rtol=0, atol=1e-6)
        torch.testing.assert_close(start[~which], middle[~which], rtol=0, atol=0)
    assert (once.rotmat[which] != targets.rotmat[which]).any()


def test_mirror_offset_matches_reversed_columns() -> None:
    """Pixel i becomes pixel S - 1 - i; u = 2 i / S - 1 on both sides."""
    size, pixel = 256, 40.0
    u, reversed_u = 2 * pixel / size - 1, 2 * (size - 1 - pixel) / size - 1
    assert -u - 2 / size == reversed_u
