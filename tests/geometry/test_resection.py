"""Least-squares cameras: exact on exact points, blind to what is not labelled."""

from __future__ import annotations

import pytest
import torch

from eft_fast.geometry import project_intrinsics, solve_translation, solve_translation_and_focal


def make_scene(count: int = 5, focal: float = 900.0):
    """Bodies of two metres about four metres away, seen by one pinhole each."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(count, 14, 3, generator=generator, dtype=torch.float64) * 0.5
    transl = torch.tensor([0.2, -0.1, 4.0]) + 0.3 * torch.randn(count, 3, generator=generator)
    camera = torch.tensor([[focal, 0, 320], [0, focal, 240], [0, 0, 1]], dtype=torch.float64)
    camera = camera.expand(count, 3, 3)
    image = project_intrinsics(points + transl.double()[:, None], camera)
    keypoints = torch.cat([image, torch.ones_like(image[..., :1])], 2)
    return points, transl.double(), camera, keypoints


def test_translation_of_exact_points():
    points, transl, camera, keypoints = make_scene()
    torch.testing.assert_close(solve_translation(points, keypoints, camera), transl)


def test_translation_under_any_pinhole():
    """Skew and two focal lengths."""
    points, transl, camera, keypoints = make_scene()
    camera = camera.clone()
    camera[:, 0, 1], camera[:, 1, 1] = 12.0, 870.0
    ray = (points + transl[:, None]) @ camera.transpose(1, 2)
    keypoints[..., :2] = ray[..., :2] / ray[..., 2:]
    torch.testing.assert_close(solve_translation(points, keypoints, camera), transl)


def test_unlabelled_points_do_not_count():
    points, transl, camera, keypoints = make_scene()
    keypoints[:, 3:6, :2] = float("nan")
    keypoints[:, 3:6, 2] = 0
    torch.testing.assert_close(solve_translation(points, keypoints, camera), transl)


def test_confidence_weighs_the_squared_error():
    """Against the normal equations written out for one person."""
    points, _, camera, keypoints = make_scene(1)
    keypoints[0, :, 2] = torch.linspace(0.1, 1, 14)
    keypoints[0, :, :2] += torch.randn(14, 2, generator=torch.Generator().manual_seed(0)) * 5
    rows, right = [], []
    for (x, y, c), (px, py, pz) in zip(keypoints[0].tolist(), points[0].tolist(), strict=True):
        root = c**0.5
        rows += [[900 * root, 0, (320 - x) * root], [0, 900 * root, (240 - y) * root]]
        right += [((x - 320) * pz - 900 * px) * root, ((y - 240) * pz - 900 * py) * root]
    want = torch.linalg.lstsq(torch.tensor(rows).double(), torch.tensor(right).double()[:, None])
    torch.testing.assert_close(
        solve_translation(points, keypoints, camera)[0], want.solution[:, 0], rtol=1e-5, atol=1e-6
    )


def test_too_few_points_have_no_answer_and_change_nobody():
    points, _, camera, keypoints = make_scene()
    expected = solve_translation(points, keypoints, camera)
    keypoints[2, 1:, 2] = 0
    keypoints[3, :, 2] = 0
    got = solve_translation(points, keypoints, camera)
    assert got[2:4].isnan().all()
    assert torch.equal(got[[0, 1, 4]], expected[[0, 1, 4]])


@pytest.mark.parametrize("focal", [1.5, 900.0, 3000.0])
def test_an_unknown_focal_length_is_found(focal):
    points, transl, camera, keypoints = make_scene(focal=focal)
    found, length = solve_translation_and_focal(points, keypoints, camera[:, :2, 2])
    torch.testing.assert_close(
        length, torch.full((5,), focal, dtype=torch.float64), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(found, transl, rtol=1e-6, atol=1e-6)


def test_flat_people_do_not_tell_the_focal_length():
    points, _, camera, keypoints = make_scene()
    points[..., 2] = 0
    keypoints[..., :2] = project_intrinsics(
        points + torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64), camera
    )
    _, length = solve_translation_and_focal(points, keypoints, camera[:, :2, 2])
    assert length.isnan().all()


def test_wrong_shapes_are_refused():
    points, _, camera, keypoints = make_scene()
    with pytest.raises(ValueError, match=r"intrinsics must be \[5, 3, 3\]"):
        solve_translation(points, keypoints, camera[:1])
    with pytest.raises(ValueError, match=r"must be \[B, K, 3\]"):
        solve_translation(points, keypoints[:, :3], camera)
    with pytest.raises(ValueError, match=r"principal must be \[5, 2\]"):
        solve_translation_and_focal(points, keypoints, camera[:, 0])
