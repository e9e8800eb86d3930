"""Remarks on fits that look right in their numbers."""

from __future__ import annotations

import numpy as np

from eft_fast.keypoints import joint_set
from eft_fast.viz.remarks import find_remarks

COCO = joint_set("coco17")


def turned(degrees):
    """A rotation about x: positive lifts a thigh to the front."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def person(left=0.0, right=0.0):
    keypoints = np.ones((17, 3)) * 20
    pose = np.tile(np.eye(3), (24, 1, 1))
    pose[1], pose[2] = turned(left), turned(right)
    return keypoints, pose


def test_nothing_is_said_of_a_plain_fit(sphere):
    keypoints, pose = person()
    assert find_remarks(keypoints, COCO, pose, vertices_px=sphere[0] * 10 + 30, size=(80, 60)) == []


def test_limbs_without_keypoints_are_a_guess():
    keypoints, pose = person()
    keypoints[13:, 2] = 0
    assert find_remarks(keypoints, COCO, pose) == ["no keypoint on the legs, which are a guess"]
    keypoints[7:11, 2] = 0
    assert "legs and arms" in find_remarks(keypoints, COCO, pose)[0]
    keypoints[13, 2] = 1  # one knee is enough to hold the legs
    assert find_remarks(keypoints, COCO, pose) == ["no keypoint on the arms, which are a guess"]
    keypoints[:, 2] = 0  # of nobody everything is a guess; the stop reason says so
    assert find_remarks(keypoints, COCO, pose) == []


def test_a_body_that_leaves_the_photo_is_cut(sphere):
    keypoints, pose = person()
    half = sphere[0] * 10 + (0, 30, 0)
    (remark,) = find_remarks(keypoints, COCO, pose, vertices_px=half, size=(80, 60))
    assert remark.startswith("cut: 4") or remark.startswith("cut: 5")
    for vertices in (half + (9, 0, 0), np.full((4, 3), np.nan)):
        assert find_remarks(keypoints, COCO, pose, vertices_px=vertices, size=(80, 60)) == []


def test_both_thighs_make_a_seat():
    for left, right, is_sitting in ((80, 75, True), (-70, 70, True), (80, 10, False)):
        found = find_remarks(person()[0], COCO, person(left, right)[1])
        assert found == (["drawn sitting or crouching"] if is_sitting else [])
    assert find_remarks(person()[0], COCO, np.full((24, 3, 3), np.nan)) == []


def about_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def test_front_and_back_exchanged_is_said():
    keypoints, pose = person()
    for degrees, said in ((170, "turned by 170 degrees from"), (80, ""), (-120, "by 120")):
        start = pose.copy()
        start[0] = about_y(degrees)
        found = find_remarks(keypoints, COCO, pose, start_pose=start)
        assert said in found[0] if said else found == []
    # Who lies on the back looks up: a small turn of the body is a large one about the vertical.
    lying, start = pose.copy(), pose.copy()
    lying[0], start[0] = turned(85), about_y(180) @ turned(85)
    assert find_remarks(keypoints, COCO, lying, start_pose=start) == []
    assert find_remarks(keypoints, COCO, pose, start_pose=np.full((24, 3, 3), np.nan)) == []


def test_exchanged_arms_are_said():
    keypoints, pose = person()
    keypoints[:, :2] = np.random.default_rng(0).uniform(0, 100, (17, 2))
    start = keypoints[:, :2].copy()
    assert find_remarks(keypoints, COCO, pose, start_px=start) == []
    keypoints[[7, 8, 9, 10]] = keypoints[[8, 7, 10, 9]]
    said = ["left and right of the arms look exchanged"]
    assert find_remarks(keypoints, COCO, pose, start_px=start) == said
    start_pose = np.tile(about_y(180), (24, 1, 1))
    (turned_alone,) = find_remarks(keypoints, COCO, pose, start_px=start, start_pose=start_pose)
    assert turned_alone == "turned by 180 degrees from the start"
    keypoints[9, 2] = 0  # a wrist alone tells nothing of its side
    assert find_remarks(keypoints, COCO, pose, start_px=start) == []
