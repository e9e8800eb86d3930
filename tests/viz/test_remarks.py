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
    assert find_remarks(keypoints, COCO, pose, sphere[0] * 10 + 30, (80, 60)) == []


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
    (remark,) = find_remarks(keypoints, COCO, pose, half, (80, 60))
    assert remark.startswith("cut: 4") or remark.startswith("cut: 5")
    assert find_remarks(keypoints, COCO, pose, half + (9, 0, 0), (80, 60)) == []
    assert find_remarks(keypoints, COCO, pose, np.full((4, 3), np.nan), (80, 60)) == []


def test_both_thighs_make_a_seat():
    for left, right, is_sitting in ((80, 75, True), (-70, 70, True), (80, 10, False)):
        found = find_remarks(person()[0], COCO, person(left, right)[1])
        assert found == (["drawn sitting or crouching"] if is_sitting else [])
    assert find_remarks(person()[0], COCO, np.full((24, 3, 3), np.nan)) == []
