from __future__ import annotations

import pytest
import torch

from eft_fast.geometry import (
    crop_intrinsics,
    crop_to_image,
    default_focal_length,
    image_pinhole,
    pinhole_to_weak,
    project_intrinsics,
    project_pinhole,
    to_cam_transl,
    to_scale_shift,
    to_shift_scale,
    to_weak_camera,
    weak_project,
    weak_to_pinhole,
)


@pytest.fixture
def scene():
    points = torch.randn(4, 9, 3, dtype=torch.float64) * 0.5
    pred_cam = torch.tensor([[0.9, 0.1, -0.2], [0.6, 0, 0.3], [1.1, -0.4, 0], [0.8, 0.2, 0.2]])
    center = torch.rand(4, 2, dtype=torch.float64) * 400
    scale = torch.rand(4, dtype=torch.float64) + 0.5
    return points, pred_cam.double(), center, scale


def test_two_conventions_draw_the_same_points(scene):
    """u = s X + t of the converted camera equals s (X + t) of the original."""
    points, shift_scale, _, _ = scene
    other = shift_scale[:, None, :1] * (points[..., :2] + shift_scale[:, None, 1:])
    torch.testing.assert_close(weak_project(points, to_scale_shift(shift_scale)), other)
    torch.testing.assert_close(
        to_shift_scale(to_scale_shift(shift_scale)), shift_scale, rtol=1e-8, atol=0
    )


def test_crop_to_image_puts_the_corners_on_the_box():
    corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]])
    image = crop_to_image(corners, torch.tensor([[100.0, 60.0]]), torch.tensor([0.5]))
    assert image.tolist() == [[[50, 10], [150, 110], [100, 60]]]


def test_pinhole_of_the_crop_agrees_in_the_root_plane(scene):
    """At depth 0 both cameras agree exactly; within the body to a few percent of the depth."""
    points, pred_cam, _, _ = scene
    flat = points * torch.tensor([1.0, 1.0, 0.0])
    transl = to_cam_transl(pred_cam)
    pixels = project_pinhole(flat, transl, 5000.0, torch.full((4, 2), 112.0, dtype=torch.float64))
    torch.testing.assert_close(pixels / 112 - 1, weak_project(flat, pred_cam), rtol=0, atol=1e-8)


def test_pinhole_of_the_photo_agrees_in_the_root_plane(scene):
    points, pred_cam, center, scale = scene
    flat = points * torch.tensor([1.0, 1.0, 0.0])
    principal = torch.tensor([[320.0, 240.0]], dtype=torch.float64).expand(4, 2)
    focal = torch.tensor([600.0, 900.0, 1200.0, 5000.0], dtype=torch.float64)
    transl = image_pinhole(pred_cam, center, scale, focal, principal)
    pixels = project_pinhole(flat, transl, focal, principal)
    expected = crop_to_image(weak_project(flat, pred_cam), center, scale)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)
    one_focal = image_pinhole(pred_cam, center, scale, 900.0, principal)
    torch.testing.assert_close(one_focal[1], transl[1])


def test_zero_scale_stays_finite():
    cam = torch.zeros(1, 3)
    assert to_shift_scale(cam).isfinite().all()
    assert to_cam_transl(cam).isfinite().all()


def test_gradients(scene):
    points, pred_cam, center, scale = scene
    assert torch.autograd.gradcheck(
        lambda p, c: weak_project(p, to_scale_shift(c)),
        (points.requires_grad_(), pred_cam.requires_grad_()),
    )
    principal = center.detach() * 0 + 200
    assert torch.autograd.gradcheck(
        lambda p, c: project_pinhole(
            p, image_pinhole(c, center, scale, 900.0, principal), 900.0, principal
        ),
        (points, pred_cam),
        atol=1e-4,
    )


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"weak_project: pred_cam must be \[B, 3\], got \[3\]"):
        weak_project(torch.zeros(1, 4, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"points must be \[B, K, 3\] with B = 2, got \[1, 4, 3\]"):
        weak_project(torch.zeros(1, 4, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"crop_to_image: points must be \[B, K, 2\]"):
        crop_to_image(torch.zeros(1, 4, 3), torch.zeros(1, 2), torch.zeros(1))


def photo_intrinsics(focal, principal) -> torch.Tensor:
    """Pinholes with different focal lengths along x and y."""
    count = len(focal)
    matrix = torch.zeros(count, 3, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = focal, 1.1 * focal, 1
    matrix[:, :2, 2] = principal
    return matrix


def test_weak_and_pinhole_of_the_crop_are_inverse(scene):
    _, pred_cam, _, _ = scene
    for focal, size in ((5000.0, 224.0), (600.0, 256.0)):
        transl = to_cam_transl(pred_cam, focal_length=focal, crop_size=size)
        back = to_weak_camera(transl, focal_length=focal, crop_size=size)
        torch.testing.assert_close(back, pred_cam, rtol=1e-7, atol=1e-9)


def test_crop_intrinsics_are_the_photo_seen_in_the_crop(scene):
    points, _, center, scale = scene
    focal = torch.tensor([600.0, 900.0, 1200.0, 5000.0], dtype=torch.float64)
    photo = photo_intrinsics(focal, torch.tensor([320.0, 240.0], dtype=torch.float64))
    before = points + torch.tensor([0.3, -0.2, 4.0], dtype=torch.float64)
    crop = project_intrinsics(before, crop_intrinsics(photo, center, scale))
    torch.testing.assert_close(
        crop_to_image(crop, center, scale), project_intrinsics(before, photo)
    )


def test_weak_crop_full_image_round_trip(scene):
    """Weak camera to the photo's pinhole and back, both ways, and the one-step converter."""
    _, pred_cam, center, scale = scene
    focal = torch.tensor([600.0, 900.0, 1200.0, 5000.0], dtype=torch.float64)
    principal = torch.tensor([[310.0, 250.0]], dtype=torch.float64).expand(4, 2)
    photo = photo_intrinsics(focal, principal)
    photo[:, 1, 1] = focal
    crop = crop_intrinsics(photo, center, scale)
    transl = weak_to_pinhole(pred_cam, crop)
    torch.testing.assert_close(
        transl, image_pinhole(pred_cam, center, scale, focal, principal), rtol=1e-7, atol=1e-9
    )
    torch.testing.assert_close(pinhole_to_weak(transl, crop), pred_cam, rtol=1e-7, atol=1e-8)
    other = transl + 0.1
    torch.testing.assert_close(
        weak_to_pinhole(pinhole_to_weak(other, crop), crop), other, rtol=1e-7, atol=1e-7
    )
    unequal = crop_intrinsics(photo_intrinsics(focal, principal), center, scale)
    transl = weak_to_pinhole(pred_cam, unequal)
    torch.testing.assert_close(pinhole_to_weak(transl, unequal), pred_cam, rtol=1e-7, atol=1e-8)
    root = project_intrinsics(transl[:, None], unequal)[:, 0]
    torch.testing.assert_close(root, pred_cam[:, 1:], rtol=0, atol=1e-7)


def test_points_behind_the_camera_stay_finite():
    camera = torch.eye(3)[None]
    behind = torch.tensor([[[0.1, 0.2, -1.0]]], requires_grad=True)
    image = project_intrinsics(behind, camera)
    image.sum().backward()
    assert torch.isfinite(image).all()
    assert torch.isfinite(behind.grad).all()


def test_an_unknown_focal_length_is_the_diagonal():
    assert default_focal_length(640, 480) == 800


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: to_weak_camera(torch.zeros(4)), r"cam_transl must be \[B, 3\], got \[4\]"),
        (
            lambda: weak_to_pinhole(torch.zeros(2, 3), torch.zeros(3, 3)),
            r"intrinsics must be \[2, 3, 3\], got \[3, 3\]",
        ),
        (
            lambda: project_intrinsics(torch.zeros(2, 4, 2), torch.zeros(2, 3, 3)),
            r"points must be \[B, K, 3\]",
        ),
    ],
)
def test_wrong_shapes_of_pinholes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
