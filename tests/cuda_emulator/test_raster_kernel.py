"""The CUDA rasteriser, run on the CPU, against the CPU's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eft_fast.body import load_body
from eft_fast.ops.raster import Raster, rasterize
from tests.cuda_emulator import raster_call
from tests.cuda_emulator.emulator import ASCENDING, DESCENDING, RANDOM


def body_scene(pictures: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Turned bodies that fill a picture, with random attributes."""
    body = load_body()
    angles = torch.linspace(0, 3, pictures)
    rest = body.v_template
    turned = []
    for angle in angles.tolist():
        c, s = np.cos(angle), np.sin(angle)
        turn = torch.tensor([[c, 0, s], [0, -1, 0], [-s, 0, c]], dtype=torch.float32)
        turned.append(rest @ turn.T)
    points = torch.stack(turned)
    points = (points - points.amin((0, 1))) / (points.amax((0, 1)) - points.amin((0, 1)))
    points = points * torch.tensor([side, side, 1.0]) + torch.tensor([-0.5, -0.5, 2.0])
    attributes = torch.randn(pictures, len(rest), 5)
    # One face of six: a thread of a kernel is a fibre here, and a whole body takes half a minute.
    faces = torch.from_numpy(np.asarray(body.faces, dtype=np.int32))[::6].contiguous()
    return points.contiguous(), faces, attributes


def assert_same(ours: Raster, cpu: Raster) -> None:
    assert torch.equal(ours.coverage, cpu.coverage)
    torch.testing.assert_close(ours.depth, cpu.depth, rtol=1e-6, atol=1e-6)
    # A sub-sample whose two nearest faces tie in float32 may show either of them.
    differs = (ours.image - cpu.image).abs().amax(-1) > 1e-5
    assert differs.float().mean() <= 1e-3


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("perspective", [False, True])
def test_bodies(gpu, samples, perspective):
    """Several pictures of a mesh, in a size that is no multiple of the tile."""
    scene = body_scene(2, 38)
    size = {"height": 40, "width": 37, "samples": samples, "perspective": perspective}
    cpu = rasterize(*scene, **size)
    assert cpu.coverage.mean() > 0.05
    assert_same(raster_call.draw(gpu, *scene, **size), cpu)


def loose_triangles(count: int, side: int, size: float) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(count)
    centres = rng.uniform((-5, -5, 2), (side + 5, side + 5, 6), (1, count, 1, 3))
    corners = centres + rng.normal(0, size, (1, count, 3, 3)) * (1, 1, 0.02)
    vertices = torch.from_numpy(corners.reshape(1, -1, 3).astype(np.float32))
    faces = torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)
    return vertices, faces, torch.randn(1, 3 * count, 2)


@pytest.mark.parametrize("samples", [1, 3, 8])
@pytest.mark.parametrize(("count", "size"), [(33, 20.0), (700, 3.0)])
def test_triangles_of_any_size(gpu, count, size, samples):
    """Large ones cross many tiles, and a tile may be reached by more faces than a block holds."""
    scene = loose_triangles(count, 20, size)
    options = {"height": 18, "width": 20, "samples": samples, "perspective": True}
    assert_same(raster_call.draw(gpu, *scene, **options), rasterize(*scene, **options))


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING, RANDOM])
def test_no_order_of_threads_changes_a_bit(kernels, order):
    scene = loose_triangles(300, 20, 6.0)
    options = {"height": 20, "width": 20, "samples": 2, "perspective": True}
    kernels.schedule(ASCENDING)
    first = raster_call.draw(kernels, *scene, **options)
    kernels.schedule(order, 5)
    again = raster_call.draw(kernels, *scene, **options)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)


def test_a_picture_does_not_depend_on_the_others(gpu):
    vertices, faces, attributes = body_scene(3, 20)
    options = {"height": 20, "width": 20, "samples": 1, "perspective": True}
    together = raster_call.draw(gpu, vertices, faces, attributes, **options)
    alone = raster_call.draw(
        gpu, vertices[1:2].contiguous(), faces, attributes[1:2].contiguous(), **options
    )
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[1:2], b)


def test_equal_depth_keeps_the_earlier_face(gpu):
    triangle = torch.tensor([[0.0, 0, 1], [30, 0, 1], [0, 30, 1]])
    vertices = triangle.repeat(70, 1)[None].contiguous()
    faces = torch.arange(210, dtype=torch.int32).reshape(70, 3)
    colour = (torch.arange(70.0) + 1).repeat_interleave(3)[None, :, None].contiguous()
    options = {"height": 8, "width": 8, "samples": 1, "perspective": False}
    assert raster_call.draw(gpu, vertices, faces, colour, **options).image[0, 2, 2, 0] == 1
    back = faces.flip(0).contiguous()
    assert raster_call.draw(gpu, vertices, back, colour, **options).image[0, 2, 2, 0] == 70


def test_unusable_faces_are_left_out(gpu):
    """Not finite, behind the camera, without area, or with an index that is not there."""
    vertices = torch.tensor(
        [[0.0, 0, 1], [9, 0, 1], [0, 9, 1], [9, 9, 1], [9, 9, -1], [torch.nan, 0, 1], [2, 2, 1]]
    )[None]
    faces = torch.tensor(
        [[1, 2, 3], [0, 1, 4], [0, 1, 5], [0, 0, 1], [0, 1, 7], [0, -1, 1]], dtype=torch.int32
    )
    options = {"height": 8, "width": 8, "samples": 2, "perspective": True}
    colour = torch.ones(1, 7, 1)
    both = raster_call.draw(gpu, vertices, faces, colour, **options)
    alone = raster_call.draw(gpu, vertices, faces[:1].contiguous(), colour, **options)
    assert 0 < alone.coverage.mean() < 1
    for a, b in zip(both, alone, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("pictures", "vertices", "faces"), [(0, 3, 1), (2, 0, 0), (1, 3, 0)])
def test_nothing_to_draw(gpu, pictures, vertices, faces):
    scene = (
        torch.zeros(pictures, vertices, 3),
        torch.zeros(faces, 3, dtype=torch.int32),
        torch.zeros(pictures, vertices, 2),
    )
    out = raster_call.draw(gpu, *scene, height=5, width=6, samples=1, perspective=False)
    assert out.image.shape == (pictures, 5, 6, 2)
    assert (out.image == 0).all()
    assert (out.coverage == 0).all()
    assert torch.isinf(out.depth).all()
