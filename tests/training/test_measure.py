from __future__ import annotations

import numpy as np
import torch

from eft_fast.body import Smpl
from eft_fast.models.base import RegressorOutput
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.synth import SynthArrays
from eft_fast.training.cache import normalise_images
from eft_fast.training.measure import (
    SynthScore,
    choice_score,
    count_seen,
    predict,
    score_output,
)
from eft_fast.training.targets import Targets


def test_truth_scores_perfectly(targets: Targets, open_body: Smpl) -> None:
    truth = RegressorOutput(targets.rotmat, targets.betas, targets.camera)
    score = score_output(truth, targets, open_body)
    assert score.mpjpe_mm.max() < 0.1
    assert score.pa_mpjpe_mm.max() < 0.1
    assert score.pve_mm.max() < 0.1
    assert score.root_deg.max() < 0.1
    assert score.beta0_error.max() == 0
    # Weak perspective against a near pinhole camera: a few points of close people miss.
    assert np.nanmean(score.pck) > 0.95


def test_a_turned_person_is_a_flip(targets: Targets, open_body: Smpl) -> None:
    half = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    rotmat = targets.rotmat.clone()
    rotmat[:, 0] = half @ rotmat[:, 0]
    score = score_output(RegressorOutput(rotmat, targets.betas, targets.camera), targets, open_body)
    np.testing.assert_allclose(score.root_deg, 180, atol=0.2)
    # Turned about the pelvis the body is the same one: only the aligned error forgives it.
    assert score.pa_mpjpe_mm.max() < 0.1
    assert score.mpjpe_mm.min() > 20
    assert score.pve_mm.min() > 20
    summary = score.summary()
    assert summary["root_flips"] == summary["root_flips_low"] == 1
    assert summary["mpjpe_mm_low"] < summary["mpjpe_mm"] < summary["mpjpe_mm_high"]


def test_rows_by_seen_part_people_by_what_can_be_seen() -> None:
    """Each person is in one row; rows of nobody are left out."""
    errors = np.array([10.0, 30.0, 50.0, 70.0])
    flat = np.zeros(4)
    score = SynthScore(errors, errors / 2, flat, flat, np.array([0.0, 120.0, 0.0, 0.0]), flat)
    seen = np.array([17, 16, 14, 3])
    few, many, whole = score.rows_by_seen(seen)
    assert (few["seen"], few["people"], few["mpjpe_mm"]) == ("0 to 5", 1, 70.0)
    assert (many["seen"], many["people"], many["mpjpe_mm"]) == ("14 to 16", 2, 40.0)
    assert many["pa_mpjpe_mm"] == 20.0
    assert many["pa_mpjpe_mm_low"] == 15.0
    assert many["root_flips"] == 0.5
    assert (whole["seen"], whole["people"], whole["mpjpe_mm"]) == ("17", 1, 10.0)


def test_visible_keypoints_are_counted(arrays: SynthArrays) -> None:
    visible = arrays.landmarks_2d[:, :17, 2]
    assert count_seen(arrays).tolist() == [int((row == 2).sum()) for row in visible]
    assert 0 < count_seen(arrays).min() < 17


def test_weights_are_chosen_by_both_joint_errors(targets: Targets, open_body: Smpl) -> None:
    wrong = RegressorOutput(targets.rotmat.roll(1, 0), targets.betas, targets.camera)
    score = score_output(wrong, targets, open_body)
    expected = (score.mpjpe_mm.mean() + score.pa_mpjpe_mm.mean()) / 2
    assert expected > 20
    np.testing.assert_allclose(choice_score(wrong, targets, open_body), expected, rtol=1e-4)


def test_prediction_goes_in_batches(network: OpenRegressor, arrays: SynthArrays) -> None:
    with torch.no_grad():
        whole = network(normalise_images(arrays.image, network))
    parts = predict(network, arrays.image, batch=5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_nobody_inside_the_crop_has_no_pck(targets: Targets, open_body: Smpl) -> None:
    truth = RegressorOutput(targets.rotmat, targets.betas, targets.camera)
    away = targets._replace(landmarks_2d=targets.landmarks_2d + 10)
    with np.errstate(invalid="ignore"):
        score = score_output(truth, away, open_body)
    assert np.isnan(score.pck).all()
    assert score.pa_mpjpe_mm.max() < 0.1
