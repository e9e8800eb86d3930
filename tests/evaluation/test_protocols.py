"""Protocols pick the joints they name and print what they pin."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.evaluation import metrics
from eft_fast.evaluation.protocols import (
    H36M_TO_J17,
    J24_TO_J17,
    PROTOCOLS,
    protocol,
)
from eft_fast.keypoints import JOINT_SETS


def test_both_lists_of_seventeen_name_the_same_joints():
    h36m, j24 = JOINT_SETS["h36m17_Jreg"].names, JOINT_SETS["j24"].names
    assert [h36m[i] for i in H36M_TO_J17] == [j24[i] for i in J24_TO_J17]


def test_the_root_is_taken_before_joints_are_picked():
    """Joint 0 of the regressor is none of the 14, so picking first would lose it."""
    rng = np.random.default_rng(0)
    pred, gt = rng.normal(size=(3, 17, 3)), rng.normal(size=(3, 17, 3))
    values = protocol("3dpw14").measure(pred, gt)
    picked = [list(H36M_TO_J17[:14])]
    centred = (pred - pred[:, :1])[:, picked[0]], (gt - gt[:, :1])[:, picked[0]]
    np.testing.assert_allclose(values["mpjpe_mm"], 1000 * metrics.mpjpe(*centred))
    np.testing.assert_allclose(values["pa_mpjpe_mm"], 1000 * metrics.pa_mpjpe(*centred))
    moved = protocol("3dpw14").measure(pred + 5.0, gt)
    np.testing.assert_allclose(moved["mpjpe_mm"], values["mpjpe_mm"])


def test_measures_are_those_of_the_protocol():
    joints = np.random.default_rng(1).normal(size=(2, 17, 3))
    assert list(protocol("h36m_p2").measure(joints, joints)) == ["pa_mpjpe_mm"]
    values = protocol("3dhp17").measure(joints, joints)
    assert list(values) == ["mpjpe_mm", "pck150", "auc", "pa_mpjpe_mm"]
    np.testing.assert_allclose(values["auc"], 30 / 31)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_card_says_what_is_pinned(name):
    chosen = protocol(name)
    card = chosen.card()
    for words in (name, chosen.frames, chosen.ground_truth, chosen.gender, chosen.joint_source):
        assert words in card
    if chosen.root is not None:
        assert f"joint {chosen.root} of" in card


def test_2d_keypoints_are_measured_in_parts_of_the_box():
    """Two labelled keypoints 6 and 3 px off, of a person whose box is 100 px: one within 0.05."""
    gt = np.array([[[10.0, 10, 1], [50, 50, 2], [0, 0, 0]], [[0.0, 0, 0]] * 3])
    pred = gt[..., :2] + np.array([[6.0, 0], [0, 3], [500, 0]])
    values = protocol("coco_pck").measure_2d(pred, gt, np.array([[0.0, 0, 200, 50]] * 2))
    assert list(values) == ["pck_0.05", "pck_0.1", "kp_error_px"]
    assert values["kp_error_px"][0] == 4.5
    assert (values["pck_0.05"][0], values["pck_0.1"][0]) == (0.5, 1.0)
    assert all(np.isnan(column[1]) for column in values.values())
    broken = pred.copy()
    broken[0, 0] = np.nan
    assert np.isnan(metrics.reprojection_error(broken, gt)[0])
    with pytest.raises(ValueError, match="boxes"):
        protocol("coco_pck").measure_2d(pred, gt, np.zeros((1, 4)))
    with pytest.raises(ValueError, match="3dpw14 has no 2D keypoints"):
        protocol("3dpw14").measure_2d(pred, gt, np.zeros((2, 4)))


def test_label_images_are_measured_with_the_background():
    gt = np.array([[0, 0, 1, 255], [1, 1, 0, 255]])
    pred = np.array([[0, 1, 1, 0], [1, 1, 0, 1]])
    values = protocol("lsp_mask").measure_labels(pred, gt, classes=2)
    assert values["accuracy"] == pytest.approx(5 / 6)
    assert values["f1"] == pytest.approx((2 * 2 / 5 + 2 * 3 / 7) / 2)
    with pytest.raises(ValueError, match="coco_pck has no label images"):
        protocol("coco_pck").measure_labels(pred, gt, classes=2)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="expected one of 3dpw14"):
        protocol("3dpw")
    with pytest.raises(ValueError, match="has no 3D joints"):
        protocol("coco_pck").measure(np.zeros((1, 17, 3)), np.zeros((1, 17, 3)))
    with pytest.raises(ValueError, match="K at least 17"):
        protocol("3dpw14").measure(np.zeros((1, 14, 3)), np.zeros((1, 14, 3)))
