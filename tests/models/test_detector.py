"""People and keypoints from a photo: what is asked of the networks, joint sets, and real photos."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eft_fast import person_search
from eft_fast.imaging import load_image
from eft_fast.keypoints import joint_set
from eft_fast.models.detector import Detection, detect_people
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.person_boxes import box_overlap
from tests.conftest import REPO

DEMO = REPO / "eft_fast" / "assets" / "demo"
COCO = joint_set("coco17").names


@pytest.fixture
def made_up(monkeypatch) -> np.ndarray:
    """Boxes and keypoints that the networks are said to find, the second person partly outside."""
    boxes = np.array([[10.0, 20, 40, 60, 0.9], [60, 5, 40, 90, 0.5]])
    points = np.random.default_rng(3).uniform(0, 1, (2, 17, 3))
    points[..., :2] = boxes[:, None, :2] + points[..., :2] * boxes[:, None, 2:4]
    points[1, 3, 0], points[1, 4, 1] = 100.5, -0.5
    monkeypatch.setattr(person_search, "find_boxes", lambda image, network: boxes)

    def keypoints(image, given, network, **_):
        np.testing.assert_array_equal(given, boxes[:, :4])
        return points

    monkeypatch.setattr(person_search, "keypoints_in_boxes", keypoints)
    return points


def test_each_box_gets_its_keypoints(made_up):
    found = detect_people(np.zeros((100, 100, 3), np.uint8))
    assert [type(each) for each in found] == [Detection, Detection]
    assert [each.score for each in found] == [0.9, 0.5]
    np.testing.assert_array_equal(found[1].box, [60, 5, 40, 90])
    np.testing.assert_array_equal(found[0].keypoints, made_up[0])
    outside = np.isin(np.arange(17), (3, 4))
    assert (found[1].keypoints[outside] == 0).all()
    np.testing.assert_array_equal(found[1].keypoints[~outside], made_up[1, ~outside])


@pytest.mark.parametrize("name", ["op25", "mp33", "h36m17_Jreg", "coco17"])
def test_other_joint_sets_are_matched_by_name(made_up, name):
    found = detect_people(np.zeros((100, 100, 3), np.uint8), joint_set=name)[0]
    names = joint_set(name).names
    assert found.keypoints.shape == (len(names), 3)
    assert found.joint_set == name
    for row, joint in zip(found.keypoints, names, strict=True):
        expected = made_up[0, COCO.index(joint)] if joint in COCO else np.zeros(3)
        np.testing.assert_array_equal(row, expected)


def test_rejects_bad_input():
    photo = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(TypeError, match="detect_people: regressor must be a Regressor or None"):
        detect_people(photo, "coco17")
    with pytest.raises(TypeError, match="detect_people: image must be a uint8 array"):
        detect_people(photo / 255)
    with pytest.raises(ValueError, match="joint_set: expected the name of a joint set"):
        detect_people(photo, joint_set="coco71")


@pytest.mark.parametrize("shape", [(256, 256), (1, 1), (40, 900)])
@pytest.mark.parametrize("level", [0, 114, 255])
def test_nobody_is_in_a_blank_photo(shape, level):
    assert detect_people(np.full((*shape, 3), level, np.uint8)) == []


def test_the_photographer_of_the_demo_is_found():
    """One person, his box and his keypoints where the annotations of the package have them."""
    content = json.loads((DEMO / "people.json").read_text())
    (image,) = [each for each in content["images"] if each["file_name"] == "cameraman.png"]
    (person,) = [each for each in content["annotations"] if each["image_id"] == image["id"]]
    photo = load_image(DEMO / "cameraman.png")
    (found,) = detect_people(photo, OpenRegressor.make_tiny())
    assert found.score > 0.6
    assert box_overlap(found.box, person["bbox"]) > 0.75
    errors = keypoint_errors(found, person)
    assert np.median(errors) < 0.05
    flipped = detect_people(np.ascontiguousarray(photo[:, ::-1]))
    mirrored = photo.shape[1] - 1 - (flipped[0].box[0] + flipped[0].box[2])
    assert abs(mirrored - found.box[0]) < 0.1 * found.box[2]


def keypoint_errors(detection: Detection, annotation: dict) -> np.ndarray:
    """Distance over the root of the box area, for each labelled keypoint."""
    given = np.asarray(annotation["keypoints"], dtype=float).reshape(-1, 3)
    labelled = given[:, 2] > 0
    size = (annotation["bbox"][2] * annotation["bbox"][3]) ** 0.5
    return np.linalg.norm((detection.keypoints - given)[labelled, :2], axis=1) / size


def test_two_people_of_an_open_photo(shared_dir):
    folder = shared_dir / "data" / "coco_people_open"
    annotations = json.loads((folder / "people.json").read_text())["annotations"]
    people = [a for a in annotations if a["image_id"] == 442450]
    found = detect_people(load_image(folder / "images" / "000000442450.jpg"))
    assert len(people) == 2
    for person in people:
        best = max(found, key=lambda each: box_overlap(each.box, person["bbox"]))
        assert box_overlap(best.box, person["bbox"]) > 0.5
        assert np.median(keypoint_errors(best, person)) < 0.04


@pytest.mark.slow
def test_the_people_of_the_open_photos(shared_dir):
    """The figures quoted for the detector on the 17 people of 13 photos."""
    folder = shared_dir / "data" / "coco_people_open"
    content = json.loads((folder / "people.json").read_text())
    found, right, labelled = 0, 0, 0
    for image in content["images"]:
        detections = detect_people(load_image(folder / "images" / image["file_name"]))
        for person in content["annotations"]:
            if person["image_id"] != image["id"] or person["iscrowd"]:
                continue
            if person["num_keypoints"] < 10 or person["area"] <= 4000:
                continue
            labelled += person["num_keypoints"]
            best = max(detections, key=lambda each: box_overlap(each.box, person["bbox"]))
            if box_overlap(best.box, person["bbox"]) >= 0.5:
                found += 1
                right += int((keypoint_errors(best, person) < 0.1).sum())
    assert found >= 16
    assert right / labelled >= 0.8
