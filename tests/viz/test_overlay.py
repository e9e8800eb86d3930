"""Overlays, side views, skeletons and panels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from eft_fast.keypoints import JointSet, joint_set
from eft_fast.viz.overlay import overlay, side_view
from eft_fast.viz.panel import ProjectedBody, person_panel
from eft_fast.viz.raster import FIT_COLOUR, START_COLOUR
from eft_fast.viz.skeleton import (
    OUTLINE,
    SIDE_COLOURS,
    dot_radii,
    draw_comparison,
    draw_mark,
    draw_skeleton,
    side_of,
)

COCO = joint_set("coco17")


@pytest.fixture
def keypoints() -> np.ndarray:
    points = np.random.default_rng(1).uniform((20, 10, 1), (60, 50, 1), (17, 3))
    points[3] = 0  # not labelled
    return points


def changed(before, after):
    """Rows and columns of the pixels that differ."""
    return np.argwhere((before.astype(int) != after).any(-1))


def test_overlay_changes_only_the_body(photo, sphere):
    vertices, faces = sphere
    drawn = overlay(photo, vertices * 10 + (30, 20, 0), faces)
    rows, cols = changed(photo, drawn).T
    assert (rows.min(), rows.max()) == (10, 30)
    assert (cols.min(), cols.max()) == (20, 40)
    assert drawn.shape == photo.shape
    assert photo[20, 30, 2] == 99  # the photo itself stays


@pytest.mark.parametrize("centre", [(0, 0), (79, 59), (-5, 30), (30, 64)])
def test_overlay_of_a_body_partly_outside_is_the_cut_of_a_larger_one(photo, sphere, centre):
    vertices, faces = sphere
    body = np.round(vertices * 12 * 64) / 64 + (*centre, 0)  # exact in float32 after any shift
    large = np.pad(photo, ((20, 20), (20, 20), (0, 0)))
    expected = overlay(large, body + (20, 20, 0), faces)[20:-20, 20:-20]
    drawn = overlay(photo, body, faces)
    assert len(changed(photo, drawn)) > 20
    # Contours look at the neighbours of a pixel, which the outermost ones lack.
    assert np.abs(drawn.astype(int) - expected)[1:-1, 1:-1].max() <= 1


@pytest.mark.parametrize("shift", [(500, 0), (0, -500), (np.nan, 0)])
def test_overlay_of_a_body_that_is_not_there_leaves_the_photo(photo, sphere, shift):
    drawn = overlay(photo, sphere[0] * 10 + (*shift, 0), sphere[1])
    np.testing.assert_array_equal(drawn, photo)


def test_opacity_lets_the_photo_through(photo, sphere):
    body = sphere[0] * 10 + (30, 20, 0)
    np.testing.assert_array_equal(overlay(photo, body, sphere[1], opacity=0), photo)
    weak, strong = (overlay(photo, body, sphere[1], opacity=o).astype(int) for o in (0.3, 1))
    assert np.abs(weak - photo).sum() < 0.4 * np.abs(strong - photo).sum()


def test_side_view_shows_depth_as_width(sphere):
    """The far side of the body lies on the right; the camera is on the left."""
    vertices, faces = sphere
    # A long nose towards the camera (negative z).
    nose = vertices * (1, 1, 1)
    nose[nose[:, 2] < -0.5, 2] *= 3
    picture = side_view(nose, faces, height=40, width=80)
    mass = np.abs(picture.astype(int) - picture[0, 0]).sum(-1) > 0
    heights = mass.sum(0)
    filled = np.flatnonzero(heights)
    middle = (filled[0] + filled[-1]) // 2
    assert heights[:middle].sum() < heights[middle:].sum()


def test_side_view_lines_up_with_the_front(sphere):
    vertices, faces = sphere
    picture = side_view(vertices * 10 + (100, 25, 7), faces, height=50, width=50, fit=False)
    rows, cols = changed(np.full_like(picture, picture[0, 0]), picture).T
    assert (rows.min(), rows.max()) == (15, 35)
    assert abs((cols.min() + cols.max()) / 2 - 24.5) <= 0.5


def test_side_view_sees_the_right_of_the_picture(sphere):
    """A small sphere on the picture's right covers the large one; on the left it is hidden."""
    vertices, faces = sphere
    large, small = vertices * 20 + (50, 25, 0), vertices * 5 + (0, 25, 0)
    both = np.concatenate([faces, faces + len(vertices)])
    alone, right, left = (
        side_view(points, index, height=50, width=50, fit=False)
        for points, index in (
            (large, faces),
            (np.concatenate([large, small + (80, 0, 0)]), both),
            (np.concatenate([large, small + (20, 0, 0)]), both),
        )
    )
    np.testing.assert_array_equal(left, alone)
    assert len(changed(alone, right)) > 20


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("lsho", "left"),
        ("rank", "right"),
        ("nose", "middle"),
        ("spine1", "middle"),
        ("op_rwri", "right"),
    ],
)
def test_side_of_a_name(name, side):
    assert side_of(name) == side


def test_skeleton_draws_sides_and_leaves_unlabelled_points_out():
    keypoints = np.zeros((17, 3))
    keypoints[COCO.names.index("lsho")] = 10, 10, 1
    keypoints[COCO.names.index("lelb")] = 30, 10, 1
    keypoints[COCO.names.index("relb")] = 30, 40, 0  # no confidence
    keypoints[COCO.names.index("rwri")] = np.nan, 30, 1
    image = Image.new("RGB", (60, 60))
    draw_skeleton(ImageDraw.Draw(image), keypoints, COCO)
    assert image.getpixel((20, 10)) == SIDE_COLOURS["left"]
    assert image.getpixel((30, 40)) == image.getpixel((0, 0)) == (0, 0, 0)


def test_points_far_away_are_no_trouble():
    keypoints = np.full((17, 3), 1e12)
    keypoints[5:9, :2] = -1e12
    image = Image.new("RGB", (20, 20))
    draw_skeleton(ImageDraw.Draw(image), keypoints, COCO)
    draw_comparison(ImageDraw.Draw(image), keypoints, keypoints[:, :2] * -1, COCO)


def test_comparison_joins_given_and_projected():
    left = JointSet("one", ("lsho",), (0,), (9,), (-1,))
    given = np.array([[10.0, 20, 1]])
    image = Image.new("RGB", (50, 40))
    draw_comparison(ImageDraw.Draw(image), given, np.array([[40.0, 20]]), left)
    assert image.getpixel((25, 20)) == (255, 255, 255)
    assert image.getpixel((10, 20)) == SIDE_COLOURS["left"]


def test_panel_has_its_tiles(photo, sphere, keypoints):
    body = ProjectedBody(sphere[0] * 18 + (40, 30, 0), keypoints[:, :2] + 1, 1.4)
    full = person_panel(photo, sphere[1], keypoints, COCO, start=body, fit=body, height=200)
    only = person_panel(photo, sphere[1], keypoints, COCO, height=200)
    assert full.dtype == np.uint8
    assert full.shape[0] == only.shape[0] == 260
    assert full.shape[1] > 3 * only.shape[1]


def test_panel_shows_the_photo_where_it_lies(photo):
    """Colours of the photo tell the place: the tile's middle shows the keypoints' middle."""
    keypoints = np.zeros((17, 3))
    keypoints[[5, 12]] = [[30, 10, 1], [50, 50, 1]]
    panel = person_panel(photo, np.zeros((0, 3), int), keypoints, COCO, height=300)
    tile = panel[30:330, 8:-8].astype(float)
    # Away from the drawn line: the same row, at the left edge of the tile.
    red, green, blue = tile[150, 3]
    assert abs(green / 4 - 30) < 1.5
    assert blue == 99
    assert red / 3 < 30


def test_panel_lays_the_body_where_it_is_on_the_photo(sphere):
    """A white disc on black, and a sphere of the same place and size."""
    rows, cols = np.mgrid[:60, :80]
    disc = (cols - 33) ** 2 + (rows - 27) ** 2 <= 100
    photo = np.where(disc[..., None], 255, 0).repeat(3, -1).astype(np.uint8)
    body = ProjectedBody(sphere[0] * 10 + (33, 27, 0))
    panel = person_panel(photo, sphere[1], np.zeros((17, 3)), COCO, start=body, height=300)
    width = (panel.shape[1] - 3 * 8) // 2
    shown, drawn = panel[30:330, 8 : 8 + width], panel[30:330, 16 + width : 16 + 2 * width]
    white = np.argwhere(shown.min(-1) > 128)
    body_pixels = changed(shown, drawn)
    np.testing.assert_allclose(white.mean(0), body_pixels.mean(0), atol=1.5)
    assert len(body_pixels) == pytest.approx(len(white), rel=0.1)


@pytest.mark.parametrize("size", [1, 3000])
def test_panel_size_does_not_depend_on_the_photo(size, sphere):
    photo = np.zeros((size, size, 3), np.uint8)
    keypoints = np.concatenate([np.random.default_rng(0).uniform(0, size, (17, 2)), [[1]] * 17], 1)
    body = ProjectedBody(sphere[0] * size / 2 + (size / 2, size / 2, 0))
    panel = person_panel(photo, sphere[1], keypoints, COCO, fit=body, height=150)
    assert panel.shape[0] == 210
    assert panel.shape[1] < 3 * 200


@pytest.mark.parametrize("stray", [1e7, np.nan, np.inf])
def test_stray_body_does_not_blow_up_the_panel(photo, sphere, keypoints, stray):
    body = ProjectedBody(sphere[0] * 18 + (stray, 30, 0), keypoints[:, :2] + stray)
    panel = person_panel(photo, sphere[1], keypoints, COCO, start=body, fit=body, height=100)
    assert panel.shape[0] == 160


def test_panel_without_any_keypoint_shows_the_photo(photo, sphere):
    panel = person_panel(photo, sphere[1], np.zeros((17, 3)), COCO, height=100)
    assert panel[30:130, 8:-8].std() > 10


def test_refusals(photo, sphere, keypoints):
    with pytest.raises(ValueError, match=r"overlay: the photo must be uint8 RGB .* got float64"):
        overlay(photo / 255, *sphere)
    with pytest.raises(ValueError, match=r"keypoints of coco17 must be \[17, 3\], got \[16, 3\]"):
        person_panel(photo, sphere[1], keypoints[:16], COCO)


def test_sides_differ_in_tone_and_shape_and_no_colour_is_a_body():
    """A square reaches into its corners, a disc and a diamond do not."""
    image = Image.new("RGB", (90, 30))
    for x, side in ((15, "left"), (45, "right"), (75, "middle")):
        draw_mark(ImageDraw.Draw(image), (x, 15), 8, side)
    colours = [image.getpixel((x, 15)) for x in (15, 45, 75)]
    assert colours == [SIDE_COLOURS[side] for side in ("left", "right", "middle")]
    corners = [image.getpixel((x + 6, 15 + 6)) for x in (15, 45, 75)]
    assert corners[1] == SIDE_COLOURS["right"]
    assert SIDE_COLOURS["left"] != corners[0]
    assert SIDE_COLOURS["middle"] != corners[2]
    for colour in SIDE_COLOURS.values():
        for body in (FIT_COLOUR, START_COLOUR):
            assert np.abs(np.array(colour) - 255 * np.array(body)).max() > 60


@pytest.mark.parametrize(
    ("confidence", "weight", "is_hollow"),
    [(1, None, False), (0.3, None, True), (1, 0.1, True), (1, np.nan, False), (0.3, 1, True)],
)
def test_low_confidence_and_weight_are_hollow(confidence, weight, is_hollow):
    one = JointSet("one", ("lsho",), (0,), (9,), (-1,))
    image = Image.new("RGB", (40, 40), (10, 90, 10))
    draw_skeleton(
        ImageDraw.Draw(image),
        np.array([[20.0, 20, confidence]]),
        one,
        radius=8,
        weight=None if weight is None else np.array([weight]),
    )
    assert (image.getpixel((20, 20)) == (10, 90, 10)) == is_hollow
    colours = {colour for _, colour in image.getcolors()}
    assert SIDE_COLOURS["left"] in colours
    assert OUTLINE in colours


def test_dots_of_the_face_leave_the_head_visible():
    keypoints = np.zeros((17, 3))
    keypoints[:5] = [[20, 20, 1], [24, 16, 1], [16, 16, 1], [28, 18, 1], [12, 18, 1]]
    keypoints[5] = 60, 60, 1
    radii = dot_radii(keypoints, COCO, 5.0)
    assert radii[5] == 5
    assert radii[:5].max() < 2
    keypoints[:5, :2] *= 10
    assert dot_radii(keypoints, COCO, 5.0)[:5] == pytest.approx([3.0] * 5)


def test_panel_draws_what_weights_left_hollow(photo, sphere, keypoints):
    full, hollow = (
        person_panel(photo, sphere[1], keypoints, COCO, height=300, weight=np.full(17, weight))
        for weight in (1.0, 0.1)
    )
    assert len(changed(full, hollow)) > 100
