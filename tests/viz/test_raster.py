"""Shading: what is lit, what is transparent, where contours lie."""

from __future__ import annotations

import numpy as np

from eft_fast.viz.raster import FIT_COLOUR, composite, render_mesh, shade


def test_surface_towards_the_light_is_brighter():
    up, down = np.array([[0, -0.7, -0.7], [0, 0.7, -0.7]])
    light, dark = shade(np.stack([up, down]), FIT_COLOUR).sum(1)
    assert light > 1.3 * dark


def test_both_sides_of_a_surface_are_lit():
    normals = np.random.default_rng(0).normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(shade(normals, FIT_COLOUR), shade(-normals, FIT_COLOUR))


def test_sphere_has_the_right_outline_and_depth(sphere):
    vertices, faces = sphere
    mesh = render_mesh(vertices * 20 + (24, 24, 0), faces, height=48, width=48)
    alpha = mesh.rgba[..., 3] / 255
    # Facets cut a little off the circle.
    assert np.isclose(alpha.sum(), np.pi * 400, rtol=0.04)
    assert mesh.depth.min() == np.float32(-20)
    assert np.isinf(mesh.depth[0, 0])
    assert mesh.rgba[24, 24, 3] == 255
    assert mesh.rgba[0, 0].sum() == 0


def test_colours_are_not_darkened_at_the_outline(sphere):
    """Alpha is straight: an edge pixel has the colour of the surface, and less alpha."""
    vertices, faces = sphere
    mesh = render_mesh(vertices * 20 + (24, 24, 0), faces, height=48, width=48)
    edge = (mesh.rgba[..., 3] > 20) & (mesh.rgba[..., 3] < 200)
    assert edge.sum() > 20
    assert mesh.rgba[edge, :3].mean() > 90


def test_contour_where_one_part_hides_another(sphere):
    """Behind the outline of a nearer sphere the farther one is darker than without it."""
    vertices, faces = sphere
    near = vertices * 6 + (24, 24, -60)
    far = vertices * 22 + (24, 24, 0)
    both = render_mesh(
        np.concatenate([near, far]), np.concatenate([faces, faces + len(near)]), height=48, width=48
    )
    alone = render_mesh(far, faces, height=48, width=48)
    column = 24 + 7  # just outside the nearer one
    assert both.rgba[24, column, :3].sum() < 0.75 * alone.rgba[24, column, :3].sum()
    np.testing.assert_array_equal(both.rgba[24, 40], alone.rgba[24, 40])


def test_composite_mixes_by_alpha():
    below = np.full((1, 3, 3), 100, np.uint8)
    above = np.array([[[200, 200, 200, a] for a in (0, 128, 255)]], np.uint8)
    assert composite(below, above)[0, :, 0].tolist() == [100, 150, 200]
    assert composite(below, above, 0.5)[0, :, 0].tolist() == [100, 125, 150]


def test_nothing_finite_draws_nothing():
    mesh = render_mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]), height=4, width=4)
    assert mesh.rgba.sum() == 0
