from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_fast.pseudo_gt import SelectConfig, select_fits
from eft_fast.pseudo_gt.select import loss_2d
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
