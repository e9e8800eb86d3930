"""Boxes around a detector: the picture and the way back, the grids, and overlapping boxes."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.imaging import crop_image
from eft_fast.person_boxes import (
    INPUT_SIZE,
    LEAST_SIDE,
    STRIDES,
    decode,
    find_boxes,
    letterbox,
    suppress,
    to_picture,
)

SHAPES = [(427, 640), (640, 427), (640, 640), (1500, 900), (90, 120), (333, 77), (1, 1)]


def answer_with(boxes, shape=(INPUT_SIZE, INPUT_SIZE)) -> np.ndarray:
    """The answer of a network that sees these boxes (x, y, w, h, score in the picture)."""
    grids = [(shape[0] // stride, shape[1] // stride) for stride in STRIDES]
    counts = [rows * columns for rows, columns in grids]
    answer = np.zeros((sum(counts), 6), np.float32)
    for index, (x, y, w, h, score) in enumerate(boxes):
        level = index % len(STRIDES)
        stride = STRIDES[level]
        middle = np.array([x + w / 2, y + h / 2]) / stride
        column, row = middle.astype(int)
        answer[sum(counts[:level]) + row * grids[level][1] + column] = [
            *(middle - (column, row)), *np.log(np.array([w, h]) / stride), score, 1.0,
        ]  # fmt: skip
    return answer


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_photo_is_in_the_picture(shape):
    """Corners go in, come back, and lie inside; what is outside of the photo is grey."""
    image = np.full((*shape, 3), (200, 30, 60), np.uint8)
    square = letterbox(image)
    corners = np.array([[0, 0], [shape[1] - 1, 0], [0, shape[0] - 1], [shape[1] - 1, shape[0] - 1]])
    inside = square.to_crop(corners)
    pixel = INPUT_SIZE / max(shape)
    assert (inside + 0.5 >= pixel / 2 - 1e-9).all()
    assert (inside + 0.5 <= INPUT_SIZE - pixel / 2 + 1e-9).all()
    np.testing.assert_allclose(square.to_image(inside), corners, atol=1e-9)
    assert square.side == max(shape)

    picture, corner = to_picture(image, square)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    sides = np.array(picture.shape[1::-1])
    for pixels in (sides, corner):
        np.testing.assert_array_equal(pixels % STRIDES[-1], 0)
    middle = INPUT_SIZE // 2 - corner
    np.testing.assert_array_equal(picture[middle[1], middle[0]], [200, 30, 60])
    # All of the photo, and of the grey beside it what fills the outer cells.
    assert (inside + 0.5 >= corner).all()
    assert (inside + 0.5 <= corner + sides).all()
    covered = np.array(shape[::-1]) * pixel_of(shape)
    assert (sides < covered + 2 * STRIDES[-1]).all()
    assert max(sides) == INPUT_SIZE
    whole = crop_image(image, square, fill=114)
    kept = whole[corner[1] :, corner[0] :][: sides[1], : sides[0]]
    np.testing.assert_array_equal(picture, kept)
    is_left_out = np.ones(whole.shape[:2], bool)
    is_left_out[corner[1] : corner[1] + sides[1], corner[0] : corner[0] + sides[0]] = False
    # Resampling blends half a pixel of the photo's edge into the grey, no more.
    assert (whole[is_left_out] != 114).any(1).sum() <= 0.02 * is_left_out.sum()


def pixel_of(shape) -> float:
    """Pixels of the picture for one of the photo."""
    return INPUT_SIZE / max(shape)


def test_a_photo_of_the_pictures_size_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (427, INPUT_SIZE, 3), np.uint8)
    picture, corner = to_picture(image, letterbox(image))
    first = (INPUT_SIZE - 427) // 2 - corner[1]
    assert picture.shape == (448, INPUT_SIZE, 3)
    np.testing.assert_array_equal(picture[first : first + 427], image)
    np.testing.assert_array_equal(picture[first + 427 :], 114)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape) > 70])
def test_boxes_come_back_to_the_photo(shape):
    """Through the picture, the grids and back, to a thousandth of a pixel; one more is cut."""
    height, width = shape
    image = np.zeros((*shape, 3), np.uint8)
    square = letterbox(image)
    boxes = np.array([
        [5, 8, width * 0.3, height * 0.7],
        [width * 0.5, height * 0.4, width * 0.25, height * 0.5],
        [width * 0.7, -20, width * 0.5, 60],
    ])  # fmt: skip
    low, high = (square.to_crop(xy) + 0.5 for xy in (boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    low -= to_picture(image, square)[1]
    high -= to_picture(image, square)[1]
    scores = np.array([0.5, 0.9, 0.7])
    rows = np.column_stack([low, high - low, scores])
    found = find_boxes(image, lambda picture: answer_with(rows, picture.shape[1:3])[None])
    expected = boxes[[1, 2, 0]]
    expected[1] = [width * 0.7, 0, width - 1 - width * 0.7, 40]
    np.testing.assert_allclose(found[:, :4], expected, atol=2e-3)
    np.testing.assert_allclose(found[:, 4], [0.9, 0.7, 0.5], atol=1e-6)


def test_small_unsure_and_outside_boxes_are_nobody():
    image = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    boxes = [
        (10, 10, 20, LEAST_SIDE - 1, 0.9),
        (100, 100, 50, 90, 0.34),
        (300, 300, 50, 90, 0.36),
        (INPUT_SIZE - 20, 300, 90, 90, 0.9),
    ]
    found = find_boxes(image, lambda picture: answer_with(boxes[:3])[None])
    np.testing.assert_allclose(found[:, :4], [[299.5, 299.5, 50, 90]], atol=1e-3)
    answer = answer_with([])
    answer[0] = [-900.0, 0.0, 3.0, 3.0, 1.0, 1.0]  # wholly outside
    answer[1] = np.nan
    answer[2] = [0.0, 0.0, np.inf, 99.0, 0.1, 1.0]
    assert find_boxes(image, lambda picture: answer[None]).shape == (0, 5)
    assert find_boxes(image[:90], lambda p: answer_with([], p.shape[1:3])[None]).shape == (0, 5)


def test_the_score_is_of_an_object_that_is_a_person():
    answer = answer_with([(50, 50, 100, 100, 0.8)])
    answer[answer[:, 5] > 0, 5] = 0.5
    assert decode(answer)[:, 4].max() == pytest.approx(0.4)


def test_of_boxes_that_cover_each_other_the_surest_stays():
    boxes = np.array([
        [0, 0, 10, 10],
        [0, 0, 10, 9],    # 0.9 of the first
        [0, 0, 10, 4.9],  # 0.49 of the first, 0.544 of the second
        [5, 0, 10, 10],   # a third of the first
        [100, 0, 10, 10],
    ], float)  # fmt: skip
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.95])
    np.testing.assert_array_equal(suppress(boxes, scores, 0.5), [4, 0, 2, 3])
    # Those that are gone do not take others with them; who is surest decides.
    np.testing.assert_array_equal(suppress(boxes, scores[[1, 0, 2, 3, 4]], 0.5), [4, 1, 3])
    np.testing.assert_array_equal(suppress(boxes, scores, 0.3), [4, 0])
    assert suppress(boxes[:0], scores[:0]).shape == (0,)
    same = np.ones((3, 4))
    np.testing.assert_array_equal(suppress(same, np.array([0.5, 0.5, 0.5])), [0])


def test_rejects_bad_input():
    with pytest.raises(TypeError, match="find_boxes: image must be a uint8 array"):
        find_boxes(np.zeros((9, 9, 3)), lambda picture: picture)
    with pytest.raises(
        ValueError, match=r"decode: the answer for 640 x 640 pixels must be \[8400, 6\]"
    ):
        find_boxes(np.zeros((9, 9, 3), np.uint8), lambda picture: np.zeros((1, 9, 6)))
