"""The rasteriser against a slow twin that tests every triangle at every sub-sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eft_fast.ops.raster import rasterize, vertex_normals

FIXED = 256  # steps of a sub-sample that vertices snap to, as in csrc/cpu/raster.cpp


def slow_rasterize(vertices, faces, attributes, height, width, samples, perspective=False):
    """Plain numpy: exact integer edge tests, float64 depth, one triangle at a time."""
    xy = np.rint(((vertices[:, :2].astype(np.float64) + 0.5) * samples - 0.5) * FIXED)
    z = vertices[:, 2].astype(np.float64)
    rows, cols = np.mgrid[: height * samples, : width * samples].astype(np.int64) * FIXED
    nearest = np.full(rows.shape, np.inf)
    drawn = np.zeros((*rows.shape, attributes.shape[1]))
    for face in faces:
        if not np.isfinite(vertices[face]).all() or (perspective and (z[face] <= 0).any()):
            continue
        p = xy[face].astype(np.int64)
        order = [0, 1, 2]
        if cross(p[0], p[1], p[2, 0], p[2, 1]) < 0:
            order = [0, 2, 1]
        p, corners = p[order], face[order]
        area = cross(p[0], p[1], p[2, 0], p[2, 1])
        if area == 0:
            continue
        inside = np.ones(rows.shape, bool)
        weights = []
        for k in range(3):
            a, b = p[(k + 1) % 3], p[(k + 2) % 3]
            value = cross(a, b, cols, rows)
            dx, dy = b - a
            inside &= (value > 0) | ((value == 0) & (dy > 0 or (dy == 0 and dx > 0)))
            weights.append(value / area)
        weights = np.stack(weights, -1)
        if perspective:
            weights = weights / z[corners]
            depth = 1 / weights.sum(-1)
            weights = weights * depth[..., None]
        else:
            depth = weights @ z[corners]
        nearer = inside & (depth < nearest)
        nearest[nearer] = depth[nearer]
        drawn[nearer] = (weights @ attributes[corners])[nearer]
    blocks = (height, samples, width, samples)
    return (
        drawn.reshape(*blocks, -1).mean((1, 3)),
        np.isfinite(nearest).reshape(blocks).mean((1, 3)),
        nearest.reshape(blocks).min((1, 3)),
    )


def cross(a, b, x, y):
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


def random_scene(rng, faces, height, width, size, near=1.0):
    """Loose triangles, some of them far outside the picture."""
    centres = rng.uniform((-5, -5, near), (width + 5, height + 5, near + 4), (faces, 1, 3))
    vertices = centres + rng.normal(0, size, (faces, 3, 3)) * (1, 1, 0.02)
    index = rng.permutation(faces * 3).reshape(faces, 3)
    flat = np.empty((faces * 3, 3))
    flat[index] = vertices
    return flat.astype(np.float32), index, rng.uniform(-1, 1, (faces * 3, 4)).astype(np.float32)


def draw(vertices, faces, attributes, height, width, samples, perspective=False):
    return rasterize(
        torch.as_tensor(vertices),
        torch.as_tensor(faces),
        torch.as_tensor(attributes),
        height=height,
        width=width,
        samples=samples,
        perspective=perspective,
    )


@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(1, 1, 1.0), (37, 50, 6.0), (20, 90, 60.0)])
def test_matches_slow_twin(height, width, size, samples, perspective):
    """Coverage is equal to the last sub-sample; depth and attributes agree in float32."""
    rng = np.random.default_rng(height + samples)
    scene = random_scene(rng, 60, height, width, size)
    image, coverage, depth = slow_rasterize(*scene, height, width, samples, perspective)
    picture = draw(*scene, height, width, samples, perspective)
    np.testing.assert_allclose(picture.coverage.numpy(), coverage, atol=1e-7)
    np.testing.assert_allclose(picture.depth.numpy(), depth, rtol=1e-5, atol=1e-5)
    # A sub-sample whose two nearest triangles tie in float32 may show either of them.
    differs = np.abs(picture.image.numpy() - image).max(-1) > 1e-4
    assert differs.mean() <= 0.002


def test_one_triangle_by_hand():
    """Pixel centres lie at integers; the centres on the hypotenuse belong to this side of it."""
    vertices = np.array([[-0.5, -0.5, 2], [3.5, -0.5, 2], [-0.5, 3.5, 2]], np.float32)
    picture = draw(vertices, [[0, 1, 2]], np.ones((3, 1), np.float32), 4, 5, 1)
    rows, cols = np.mgrid[:4, :5]
    np.testing.assert_array_equal(picture.coverage, rows + cols <= 3)
    np.testing.assert_array_equal(picture.depth, np.where(rows + cols <= 3, 2, np.inf))


@pytest.mark.parametrize("perspective", [False, True])
def test_devices_agree(device, perspective):
    """A GPU draws what the CPU draws; on the CPU this says that batches and devices are taken."""
    scene = [
        torch.as_tensor(part) for part in random_scene(np.random.default_rng(1), 300, 60, 70, 8.0)
    ]
    vertices, faces, attributes = scene
    many = torch.stack([vertices, vertices * 0.9 + 1])
    options = {"height": 60, "width": 70, "samples": 2, "perspective": perspective}
    expected = rasterize(many, faces, torch.stack([attributes] * 2), **options)
    moved = [part.to(device) for part in (many, faces, torch.stack([attributes] * 2))]
    ours = rasterize(*moved, **options)
    assert ours.image.device.type == device.type
    torch.testing.assert_close(ours.coverage.cpu(), expected.coverage, rtol=0, atol=0)
    torch.testing.assert_close(ours.depth.cpu(), expected.depth, rtol=1e-5, atol=1e-5)
    # A sub-sample whose two nearest triangles tie in float32 may show either of them.
    assert ((ours.image.cpu() - expected.image).abs().amax(-1) > 1e-4).float().mean() < 0.002
    again = rasterize(*moved, **options)
    assert torch.equal(ours.image, again.image)


def test_shared_edges_are_covered_once():
    """Neighbours leave no gap and draw nothing twice, also where edges pass through centres."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), -1) * 4
    grid[1:-1, 1:-1] += rng.integers(-1, 2, (7, 7, 2))
    vertices = np.concatenate([grid.reshape(-1, 2), np.ones((81, 1))], 1).astype(np.float32)
    quads = np.arange(81).reshape(9, 9)
    a, b, c, d = quads[:-1, :-1], quads[:-1, 1:], quads[1:, 1:], quads[1:, :-1]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, d, c))])
    ones = np.ones((81, 1), np.float32)
    total = sum(draw(vertices, f[None], ones, 32, 32, 1).coverage for f in faces)
    np.testing.assert_array_equal(total[1:-1, 1:-1], 1)
    assert total.max() == 1


def test_depth_order_does_not_depend_on_face_order():
    rng = np.random.default_rng(5)
    vertices, faces, attributes = random_scene(rng, 40, 32, 32, 12.0)
    first = draw(vertices, faces, attributes, 32, 32, 2)
    second = draw(vertices, faces[::-1].copy(), attributes, 32, 32, 2)
    torch.testing.assert_close(first.depth, second.depth, rtol=1e-6, atol=0)


def test_equal_depth_keeps_the_earlier_face():
    triangle = [[0, 0, 1], [8, 0, 1], [0, 8, 1]]
    vertices = np.array(triangle * 2, np.float32)
    colour = np.array([[1.0]] * 3 + [[2.0]] * 3, np.float32)
    assert draw(vertices, [[0, 1, 2], [3, 4, 5]], colour, 4, 4, 1).image[1, 1, 0] == 1
    assert draw(vertices, [[3, 4, 5], [0, 1, 2]], colour, 4, 4, 1).image[1, 1, 0] == 2


def test_perspective_is_straight_in_space():
    """Half-way on the picture between z = 1 and z = 3 lies z = 1.5, a quarter of the way."""
    vertices = np.array([[0, -50, 1], [0, 50, 1], [20, 0, 3]], np.float32)
    attribute = np.array([[0.0], [0.0], [1.0]], np.float32)
    picture = draw(vertices, [[0, 1, 2]], attribute, 1, 21, 1, perspective=True)
    assert picture.depth[0, 10].item() == pytest.approx(1.5, rel=1e-5)
    assert picture.image[0, 10, 0].item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("bad", "perspective"),
    [(np.nan, False), (np.inf, False), (1e9, False), (-1.0, True), (0.0, True)],
)
def test_unusable_triangles_are_left_out(bad, perspective):
    """Only the triangle of the bad vertex goes; its neighbour stays as it was."""
    vertices = np.array([[0, 0, 1], [9, 0, 1], [0, 9, 1], [9, 9, 1]], np.float32)
    faces, colour = [[0, 1, 2], [1, 2, 3]], np.ones((4, 1), np.float32)
    axis = 0 if bad == 1e9 else 2
    alone = draw(vertices, faces[:1], colour, 8, 8, 1, perspective)
    vertices[3, axis] = bad
    both = draw(vertices, faces, colour, 8, 8, 1, perspective)
    assert alone.coverage.sum() > 0
    for ours, expected in zip(both, alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_triangles_without_area_draw_nothing():
    vertices = np.array([[0, 0, 1], [4, 4, 1], [8, 8, 1], [4, 4, 1]], np.float32)
    picture = draw(
        vertices, [[0, 1, 2], [1, 1, 1], [1, 3, 0]], np.ones((4, 1), np.float32), 9, 9, 2
    )
    assert picture.coverage.sum() == 0
    assert torch.isinf(picture.depth).all()


@pytest.mark.parametrize(("vertices", "faces", "channels"), [(0, 0, 3), (5, 0, 3), (3, 1, 0)])
def test_empty_inputs(vertices, faces, channels):
    points = np.zeros((vertices, 3), np.float32)
    picture = draw(
        points, np.zeros((faces, 3), np.int64), np.zeros((vertices, channels), np.float32), 3, 4, 2
    )
    assert picture.image.shape == (3, 4, channels)
    assert picture.image.sum() == picture.coverage.sum() == 0


def test_repeats_bit_for_bit_with_any_number_of_threads():
    height = 1100  # rows enough for two threads
    scene = random_scene(np.random.default_rng(2), 600, height, 20, 10.0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = draw(*scene, height, 20, 2)
        torch.set_num_threads(2)
        second = draw(*scene, height, 20, 2)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_strided_double_inputs_and_gradients_are_taken():
    vertices, faces, attributes = random_scene(np.random.default_rng(4), 10, 16, 16, 5.0)
    expected = draw(vertices, faces, attributes, 16, 16, 2)
    wide = torch.as_tensor(np.repeat(vertices.astype(np.float64), 2, 1))[:, ::2].requires_grad_()
    got = rasterize(
        wide, torch.as_tensor(faces), torch.as_tensor(attributes), height=16, width=16, samples=2
    )
    assert torch.equal(got.image, expected.image)
    assert not got.image.requires_grad


def test_registration():
    vertices, faces, attributes = random_scene(np.random.default_rng(4), 5, 8, 8, 5.0)
    draw(vertices, faces, attributes, 8, 9, 2)  # loads and registers
    inputs = torch.as_tensor(vertices)[None], torch.as_tensor(faces, dtype=torch.int32)
    values = torch.as_tensor(attributes)[None]
    torch.library.opcheck(torch.ops.eft_fast.rasterize.default, (*inputs, values, 8, 9, 2, False))


@pytest.mark.parametrize("pictures", [0, 1, 5])
def test_many_pictures_are_those_drawn_alone(pictures):
    """Bit for bit, and in the order given."""
    scenes = [random_scene(np.random.default_rng(4), 30, 16, 16, 5.0)]
    faces = scenes[0][1]
    rng = np.random.default_rng(8)
    vertices = scenes[0][0] + rng.normal(size=(pictures, 1, 3)).astype(np.float32)
    attributes = rng.normal(size=(pictures, len(vertices[0]) if pictures else 90, 4))
    attributes = attributes.astype(np.float32)
    together = draw(vertices, faces, attributes, 16, 17, 2, True)
    assert together.image.shape == (pictures, 16, 17, 4)
    for k in range(pictures):
        alone = draw(vertices[k], faces, attributes[k], 16, 17, 2, True)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[k], b)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"vertices": torch.zeros(2, 2, 3, 3)}, ValueError, r"must be \[V, 3\] or \[B, V, 3\]"),
        ({"vertices": torch.zeros(2, 3, 3)}, ValueError, r"attributes must be \[2, 3, C\]"),
        ({"faces": torch.zeros(1, 4, dtype=torch.int64)}, ValueError, r"faces must be \[F, 3\]"),
        ({"faces": torch.zeros(1, 3)}, TypeError, "faces must be integers"),
        ({"faces": torch.tensor([[0, 1, 3]])}, ValueError, "index the 3 vertices, got 3"),
        ({"faces": torch.tensor([[0, 1, -1]])}, ValueError, "index the 3 vertices, got -1"),
        (
            {"attributes": torch.zeros(4, 1)},
            ValueError,
            r"attributes must be \[3, C\]",
        ),
        ({"height": 0}, ValueError, "height must be 1 to 32768 pixels at 2 samples, got 0"),
        ({"samples": 9}, ValueError, "samples must be 1 to 8, got 9"),
        ({"width": 100_000}, ValueError, "width must be 1 to 32768"),
    ],
)
def test_refuses_in_one_sentence(change, error, words):
    call = {
        "vertices": torch.zeros(3, 3),
        "faces": torch.tensor([[0, 1, 2]]),
        "attributes": torch.zeros(3, 1),
        "height": 4,
        "width": 4,
    }
    with pytest.raises(error, match=words) as caught:
        rasterize(**{**call, **change})
    assert str(caught.value).startswith("rasterize: ")
    assert "\n" not in str(caught.value)


def test_vertex_normals_of_a_sphere_point_outwards():
    """A latitude-longitude sphere: normals are the radii, within the error of the facets."""
    polar, around = np.meshgrid(np.linspace(0.2, 2.9, 30), np.linspace(0, 6.2, 60), indexing="ij")
    points = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], -1
    )
    index = np.arange(1800).reshape(30, 60)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    vertices = torch.as_tensor(points.reshape(-1, 3))
    normals = vertex_normals(torch.stack([vertices, 2 * vertices]), torch.as_tensor(faces))
    inner = index[1:-1, 1:-1].ravel()
    assert (normals[0, inner] * vertices[inner]).sum(-1).min() > 0.99
    torch.testing.assert_close(normals[0], normals[1])


def test_vertex_normals_of_a_lone_vertex_are_zero():
    normals = vertex_normals(torch.eye(4)[:, :3], torch.tensor([[0, 1, 2]]))
    assert torch.isfinite(normals).all()
    assert normals[3].abs().sum() == 0
