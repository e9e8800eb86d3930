from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.keypoints import JOINT_SETS
from eft_fast.pseudo_gt import SelectConfig, select_fits
from eft_fast.pseudo_gt.select import DOUBTS, loss_2d
from eft_fast.result import FitResult, Prediction

COCO_KNEE, COCO_SHOULDER, COCO_HIP = 13, 5, 11


def test_good_fits_pass_and_have_no_2d_error(fits: FitResult) -> None:
    chosen = select_fits(fits)
    assert chosen.keep.all()
    assert chosen.counts() == {}
    assert chosen.loss_2d.max() < 1e-9
    assert len(fits[chosen.keep]) == 6


def test_the_2d_loss_is_that_of_the_reference(fits: FitResult) -> None:
    """One knee off by a tenth of half a crop: 0.1^2 over 49 x 2; hips do not count."""
    keypoints = fits.keypoints.clone()
    half = 100 * fits.bbox_scale
    keypoints[0, COCO_KNEE, 0] += 0.1 * half[0]
    keypoints[1, COCO_HIP, 0] += 0.1 * half[1]
    keypoints[2, COCO_KNEE, 0] += 0.1 * half[2]
    keypoints[2, COCO_KNEE, 2] = 0.5
    loss = loss_2d(replace(fits, keypoints=keypoints))
    expected = torch.tensor([0.01 / 98, 0.0, 0.005 / 98, 0, 0, 0])
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-8)


def test_each_rule_rejects_its_person_only(fits: FitResult) -> None:
    betas, pose = fits.params.betas.clone(), fits.params.body_pose.clone()
    keypoints, camera = fits.keypoints.clone(), fits.init.pred_cam.clone()
    betas[0, 4] = -3.5
    pose[1, 7] = float("nan")
    keypoints[2, COCO_SHOULDER, :2] += 0.5 * 100 * fits.bbox_scale[2]
    keypoints[3, COCO_SHOULDER, 2] = 0
    camera[4, 1] += 0.5
    changed = replace(
        fits,
        params=replace(fits.params, betas=betas, body_pose=pose),
        init=Prediction(fits.params, camera),
        keypoints=keypoints,
        stop_reason=(*fits.stop_reason[:5], "no_keypoints"),
    )
    # Moved betas move the projection of person 0 a little: only its own rule may see that.
    config = SelectConfig(max_init_loss_2d=0.03, all_limbs=True, max_loss_2d=0.004)
    chosen = select_fits(changed, config)
    assert chosen.reasons == (
        ("betas",), ("not_finite",), ("loss_2d",), ("limbs",), ("init_loss_2d",), ("failed",)
    )  # fmt: skip
    assert chosen.counts() == dict.fromkeys(
        ("betas", "not_finite", "loss_2d", "limbs", "init_loss_2d", "failed"), 1
    )
    assert not chosen.keep.any()
    off = SelectConfig(max_beta=None, max_loss_2d=None)
    assert select_fits(changed, off).keep.tolist() == [True, False, True, True, True, False]


def test_few_keypoints(fits: FitResult) -> None:
    keypoints = fits.keypoints.clone()
    keypoints[0, 9:] = float("nan")
    chosen = select_fits(replace(fits, keypoints=keypoints), SelectConfig(min_keypoints=10))
    assert chosen.reasons[0] == ("few_keypoints",)
    assert chosen.keep[1:].all()


def test_unsure_starts_are_rejected(fits: FitResult) -> None:
    """The pelvis, sure of itself, does not count; whoever nothing is said of passes."""
    sure = torch.full((6, 24), 0.8)
    sure[:, 0] = 1.0
    sure[1, 1:] = 0.19
    sure[2, 1:] = 0.21
    sure[3, 1:12], sure[3, 12:] = 0.9, 0.05  # mean (11 * 0.9 + 12 * 0.05) / 23
    sure[4] = float("nan")
    said = replace(fits, joint_confidence=sure)
    chosen = select_fits(said)
    assert chosen.reasons == ((), ("unsure",), (), (), (), ())
    expected = [0.8, 0.19, 0.21, 10.5 / 23, float("nan"), 0.8]
    torch.testing.assert_close(
        torch.from_numpy(chosen.confidence), torch.tensor(expected).double(),
        equal_nan=True, rtol=0, atol=1e-6,
    )  # fmt: skip
    strict = select_fits(said, SelectConfig(min_confidence=0.5))
    assert strict.keep.tolist() == [True, False, False, False, True, True]
    assert select_fits(said, SelectConfig(min_confidence=None)).keep.all()
    silent = select_fits(fits, SelectConfig(min_confidence=0.99))
    assert silent.keep.all()
    assert silent.confidence.shape == (6,)


@pytest.mark.parametrize("count", [0])
def test_nobody(fits: FitResult, count: int) -> None:
    chosen = select_fits(fits[:count])
    assert len(chosen.keep) == 0
    assert chosen.counts() == {}


LIMBS = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)


def test_two_levels(fits: FitResult) -> None:
    """Between the two limits a fit is doubtful: kept, unless the choice is strict."""
    betas = fits.params.betas.clone()
    betas[0, 2], betas[1, 2] = 2.5, 3.5
    keypoints = fits.keypoints.clone()
    keypoints[2, LIMBS[:7], 2] = 0
    sure = torch.full((6, 24), 0.8)
    sure[3], sure[4] = 0.4, 0.1
    changed = replace(
        fits,
        params=replace(fits.params, betas=betas),
        init=Prediction(replace(fits.params, betas=betas), fits.pred_cam),
        keypoints=keypoints,
        joint_confidence=sure,
    )
    config = SelectConfig(max_loss_2d=1.0, doubt=replace(DOUBTS, max_loss_2d=None))
    chosen = select_fits(changed, config)
    assert chosen.level == ("doubtful", "reject", "doubtful", "doubtful", "reject", "keep")
    assert chosen.reasons == ((), ("betas",), (), (), ("unsure",), ())
    assert chosen.doubts[:4] == (("betas",), ("betas",), ("limbs",), ("unsure",))
    assert chosen.keep.tolist() == [True, False, True, True, False, True]
    assert chosen.statistics() == {
        "keep": 1, "doubtful": 3, "reject": 2,
        "rejected_by": {"betas": 1, "unsure": 1},
        "doubtful_by": {"betas": 1, "limbs": 1, "unsure": 1},
    }  # fmt: skip
    strict = select_fits(changed, replace(config, strict=True))
    assert strict.keep.tolist() == [False] * 5 + [True]
    assert set(select_fits(changed, replace(config, doubt=None)).level) == {"keep", "reject"}


def test_limb_joints_are_counted(fits: FitResult) -> None:
    keypoints = fits.keypoints.clone()
    keypoints[0, LIMBS[:5], 2] = 0
    keypoints[1, LIMBS[:4], 2] = 0
    keypoints[2, :5, 2] = 0  # the face is no limb
    chosen = select_fits(replace(fits, keypoints=keypoints), SelectConfig(min_limbs=8))
    assert chosen.reasons[:3] == (("limbs",), (), ())


def with_pose(fits: FitResult, row: int, joint: int, axis_angle: list[float]) -> FitResult:
    """The people, one of whom has one joint of the body turned; keypoints follow the pose."""
    pose = fits.params.body_pose.clone()
    pose[row, joint] = axis_angle_to_matrix(torch.tensor(axis_angle))
    params = replace(fits.params, body_pose=pose)
    changed = replace(fits, params=params, init=Prediction(params, fits.pred_cam))
    places = [25 + place for place in JOINT_SETS["coco17"].to_j24]
    points = changed.keypoints_2d_px("spin49")[:, places]
    return replace(changed, keypoints=torch.cat([points, torch.ones(6, 17, 1)], -1))


def test_impossible_poses_are_rejected(fits: FitResult) -> None:
    """A knee bent forwards by 80 degrees; one bent backwards by as much is nothing special."""
    knee = 4  # right knee among the 23
    forwards = select_fits(with_pose(fits, 0, knee - 1, [-1.4, 0.0, 0.0]))
    assert forwards.level[0] == "reject"
    assert set(forwards.reasons[0]) <= {"pose", "overbend"}
    assert forwards.reasons[1:] == ((),) * 5
    backwards = select_fits(with_pose(fits, 0, knee - 1, [1.4, 0.0, 0.0]))
    assert backwards.reasons[0] == ()
    off = SelectConfig(max_pose=None, max_overbend_deg=None, doubt=None)
    assert select_fits(with_pose(fits, 0, knee - 1, [-1.4, 0, 0]), off).keep.all()


def test_exchanged_sides_are_rejected(fits: FitResult) -> None:
    """Labels mirrored by name against what the regressor saw before any fit."""
    keypoints = fits.keypoints.clone()
    keypoints[0] = keypoints[0, list(JOINT_SETS["coco17"].flip)]
    changed = replace(fits, keypoints=keypoints)
    config = SelectConfig(max_loss_2d=None, doubt=None)
    assert select_fits(changed, config).reasons == (("swapped",), (), (), (), (), ())
    assert select_fits(changed, replace(config, swapped=False)).keep.all()


def test_wide_error_bars_are_rejected_where_asked(fits: FitResult) -> None:
    sigma = torch.full((6, 24), 30.0)
    sigma[1], sigma[2] = 90.0, float("nan")
    changed = replace(fits, joint_sigma_mm=sigma)
    assert select_fits(changed).keep.all()
    chosen = select_fits(changed, SelectConfig(max_sigma_mm=80.0))
    assert chosen.reasons == ((), ("sigma",), (), (), (), ())


def test_verdicts_override_rules_but_not_failures(fits: FitResult) -> None:
    betas, pose = fits.params.betas.clone(), fits.params.body_pose.clone()
    betas[0, 4], betas[1, 4] = 3.5, 2.5
    pose[2, 7] = float("nan")
    changed = replace(fits, params=replace(fits.params, betas=betas, body_pose=pose))
    config = SelectConfig(max_loss_2d=None, doubt=replace(DOUBTS, max_loss_2d=None))
    said = ["keep", "keep", "keep", "reject", None, "reject"]
    chosen = select_fits(changed, config, verdicts=said)
    assert chosen.level == ("keep", "keep", "reject", "reject", "keep", "reject")
    assert chosen.reasons == ((), (), ("not_finite",), ("by_hand",), (), ("by_hand",))
    assert chosen.counts() == {"not_finite": 1, "by_hand": 2}
    with pytest.raises(ValueError, match="expected 6 of keep, reject and None, got 1"):
        select_fits(fits, verdicts=["keep"])
    with pytest.raises(ValueError, match="maybe"):
        select_fits(fits, verdicts=["maybe"] * 6)
