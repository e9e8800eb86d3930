"""People in photos around made-up networks: where each looks, and what comes back."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.person_boxes import INPUT_SIZE
from eft_fast.person_keypoints import CROP_FACTOR, keypoints_in_boxes
from eft_fast.person_search import SearchNetworks, search_people
from tests.test_person_boxes import answer_with

PHOTO = np.random.default_rng(2).integers(0, 256, (INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
SIZE = 48


class Marks:
    """Stands for the network of keypoints: says where the crop's brightest pixel is."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.sizes: list[int] = []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        assert crops.dtype == np.uint8
        size = crops.shape[1]
        assert crops.shape[1:] == (size, size, 3)
        self.batches.append(len(crops))
        self.sizes.append(size)
        brightest = crops.astype(int).sum(-1).reshape(len(crops), -1).argmax(1)
        points = np.zeros((len(crops), 17, 3), np.float32)
        points[:, :, 0] = (brightest % size)[:, None] + 0.5
        points[:, :, 1] = (brightest // size)[:, None] + 0.5
        points[:, :, 2] = 0.5
        return points


def photo_with(*marks) -> np.ndarray:
    photo = np.full((INPUT_SIZE, INPUT_SIZE, 3), 9, np.uint8)
    for x, y in marks:
        photo[y - 3 : y + 4, x - 3 : x + 4] = 120
        photo[y, x] = 255
    return photo


BOXES = [(100, 80, 60, 90, 0.9), (300, 200, 120, 60, 0.6)]
MARKS = [(120, 110), (390, 230)]


def networks(keypoints, **values) -> SearchNetworks:
    return SearchNetworks(
        boxes=lambda picture: answer_with(BOXES, picture.shape[1:3])[None],
        keypoints=keypoints,
        size=SIZE,
        **values,
    )


@pytest.mark.parametrize("batch", [1, 16])
def test_each_box_gets_the_keypoints_in_it(batch):
    marks = Marks()
    found = search_people(photo_with(*MARKS), networks(marks, batch=batch))
    assert marks.batches == ([1, 1] if batch == 1 else [2])
    assert set(marks.sizes) == {SIZE}
    assert [person.joint_set for person in found] == ["coco17"] * 2
    np.testing.assert_allclose([person.score for person in found], [0.9, 0.6], atol=1e-6)
    for person, box, mark in zip(found, BOXES, MARKS, strict=True):
        np.testing.assert_allclose(person.box, np.subtract(box[:4], (0.5, 0.5, 0, 0)), atol=1e-3)
        pixel = CROP_FACTOR * max(box[2:4]) / SIZE
        np.testing.assert_allclose(person.keypoints[:, :2] - mark, 0, atol=pixel)
        np.testing.assert_array_equal(person.keypoints[:, 2], 0.5)


@pytest.mark.parametrize("batch", [1, 16])
def test_small_people_get_smaller_crops(batch):
    """Each its own points whatever the order in which sizes are run; a limit is no longer small."""
    boxes = [[100, 80, 60, 90], [500, 400, 20, 30], [300, 200, 120, 60], [200, 400, 60, 89.5]]
    centers = [(130, 125), (510, 415), (360, 230), (230, 445)]
    marks = Marks()
    points = keypoints_in_boxes(
        photo_with(*centers), boxes, marks, size=SIZE, smaller=((40, 16), (90, 32)), batch=batch
    )
    assert sorted(marks.sizes) == ([16, 32, SIZE, SIZE] if batch == 1 else [16, 32, SIZE])
    for box, center, each in zip(boxes, centers, points, strict=True):
        np.testing.assert_allclose(each[:, :2] - center, 0, atol=CROP_FACTOR * max(box[2:]) / 16)


def test_the_crop_is_as_large_as_the_networks_want_it():
    """The brighter mark beside the box is in the wider crop only."""
    photo = photo_with((120, 110), (60, 125))
    photo[110, 120] = 200
    for factor, mark in ((1.1, (120, 110)), (2.0, (60, 125))):
        points = keypoints_in_boxes(
            photo, [[100, 80, 60, 90]], Marks(), size=SIZE, crop_factor=factor
        )
        np.testing.assert_allclose(
            points[0, :, :2], np.tile(mark, (17, 1)), atol=factor * 90 / SIZE
        )


def test_points_outside_the_photo_are_no_points():
    def beside(crops):
        points = Marks()(crops)
        points[:, 5, 0] = -400
        points[:, 6, 1] = 4000
        return points

    person = search_people(photo_with(*MARKS), networks(beside))[0]
    np.testing.assert_array_equal(person.keypoints[[5, 6]], 0)
    assert (person.keypoints[[0, 7], 2] == 0.5).all()


def test_nobody_has_no_keypoints():
    empty = SearchNetworks(
        boxes=lambda picture: answer_with([], picture.shape[1:3])[None],
        keypoints=Marks(),
        size=SIZE,
    )
    assert search_people(PHOTO, empty) == []
    assert keypoints_in_boxes(PHOTO, np.zeros((0, 4)), Marks(), size=SIZE).shape == (0, 17, 3)
    one = keypoints_in_boxes(PHOTO, [10, 20, 50, 60], Marks(), size=SIZE)
    assert one.shape == (17, 3)


def test_rejects_bad_input_in_the_name_of_who_asks():
    with pytest.raises(TypeError, match="me: image must be a uint8 array"):
        search_people(PHOTO / 255, networks(Marks()), who="me")
    with pytest.raises(ValueError, match="joint_set: expected the name of a joint set"):
        search_people(PHOTO, networks(Marks()), "coco71")
    with pytest.raises(ValueError, match=r"you: boxes must be x, y, w, h, .* got \[3\]"):
        keypoints_in_boxes(PHOTO, [1, 2, 3], Marks(), size=SIZE, who="you")
