from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from eft_fast.losses.keypoints import camera_loss, eft_loss, keypoint_loss, leg_loss
from eft_fast.losses.weights import EftLossWeights

GT = 25  # First place of the annotation block.


def make_inputs(people: int = 3, dtype: torch.dtype = torch.float64):
    points = torch.randn(people, 49, 3, dtype=dtype) * 0.4
    betas = torch.randn(people, 10, dtype=dtype)
    pred_cam = torch.tensor([0.9, 0.05, -0.1], dtype=dtype).expand(people, 3).clone()
    keypoints = torch.rand(people, 49, 3, dtype=dtype)
    keypoints[..., :2] = keypoints[..., :2] * 2 - 1
    return points, betas, pred_cam, keypoints


def reference_loss(points, betas, cam, keypoints):
    """The released loop for one person, in plain Python numbers, term by term."""
    projected = [[cam[0] * p[0] + cam[1], cam[0] * p[1] + cam[2]] for p in points]
    confidence = [float(k[2]) for k in keypoints]
    for hip in (2, 3, 14):
        confidence[GT + hip] = 0
    leg = 0.0
    for knee, ankle in ((4, 5), (1, 0)):
        given = [float(keypoints[GT + ankle][a] - keypoints[GT + knee][a]) for a in (0, 1)]
        shin = [float(projected[GT + ankle][a] - projected[GT + knee][a]) for a in (0, 1)]
        if math.hypot(*given) > 0.0089:
            cosine = (given[0] * shin[0] + given[1] * shin[1]) / math.hypot(*given)
            leg += confidence[GT + knee] * confidence[GT + ankle] * (1 - cosine / math.hypot(*shin))
    confidence[GT + 5] = confidence[GT] = 0
    l2d = sum(
        confidence[i] * float(projected[i][a] - keypoints[i][a]) ** 2
        for i in range(GT, 49)
        for a in (0, 1)
    ) / (49 * 2)
    beta = sum(float(b) ** 2 for b in betas) / 10
    camera = math.exp(-10 * float(cam[0])) ** 2
    return 60 * (5 * l2d + 0.001 * beta + camera + 0.005 * leg), l2d, leg


def test_total_equals_the_released_loop():
    inputs = make_inputs(4)
    terms = eft_loss(*inputs)
    for person in range(4):
        total, l2d, leg = reference_loss(*(value[person] for value in inputs))
        assert float(terms.total[person]) == pytest.approx(total, rel=1e-12)
        assert float(terms.keypoint[person]) == pytest.approx(l2d, rel=1e-12)
        assert float(terms.leg[person]) == pytest.approx(leg, rel=1e-12)


def test_input_confidences_are_not_changed():
    inputs = make_inputs()
    before = inputs[3].clone()
    eft_loss(*inputs)
    assert torch.equal(inputs[3], before)


def test_people_do_not_mix():
    inputs = make_inputs(5)
    together = eft_loss(*inputs).total
    alone = torch.cat([eft_loss(*(v[i : i + 1] for v in inputs)).total for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=0)


def test_a_bad_person_leaves_the_others_alone():
    points, betas, cam, keypoints = make_inputs(3)
    clean = eft_loss(points, betas, cam, keypoints).total
    points[1] = torch.nan
    assert torch.equal(eft_loss(points, betas, cam, keypoints).total[::2], clean[::2])


@pytest.mark.parametrize(
    ("change", "places"),
    [
        ({}, set(range(GT, 49)) - {GT + j for j in (2, 3, 14, 0, 5)}),
        ({"with_hips": True}, set(range(GT, 49)) - {GT, GT + 5}),
        ({"with_ankles": True}, set(range(GT, 49)) - {GT + j for j in (2, 3, 14)}),
        ({"openpose": 0.5}, set(range(49)) - {GT + j for j in (2, 3, 14, 0, 5)}),
        ({"gt": 0.0}, set()),
    ],
)
def test_which_keypoints_count(change, places):
    """Move one keypoint at a time and see whether the 2D term moves."""
    points, betas, cam, keypoints = make_inputs(1)
    weights = replace(EftLossWeights(), **change)
    base = eft_loss(points, betas, cam, keypoints, weights).keypoint
    felt = set()
    for place in range(49):
        moved = points.clone()
        moved[0, place, 0] += 0.1
        if not torch.equal(eft_loss(moved, betas, cam, keypoints, weights).keypoint, base):
            felt.add(place)
    assert felt == places


def test_gradients():
    points, betas, cam, keypoints = make_inputs(2)
    inputs = tuple(v.requires_grad_() for v in (points, betas, cam))
    assert torch.autograd.gradcheck(lambda p, b, c: eft_loss(p, b, c, keypoints).total, inputs)


def test_shin_without_length_has_zero_gradient():
    points, _, _, keypoints = make_inputs(1)
    flat = points[..., :2].clone()
    flat[0, GT + 5] = flat[0, GT + 4]
    keypoints[..., 2] = 1
    flat.requires_grad_()
    loss = leg_loss(flat, keypoints)
    loss.sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    assert not flat.grad[0, [GT + 4, GT + 5]].any()
    assert flat.grad[0, [GT, GT + 1]].abs().sum() > 0


def test_short_or_unlabelled_shins_do_not_count():
    points, _, _, keypoints = make_inputs(1)
    keypoints[..., 2] = 1
    keypoints[0, GT + 5, :2] = keypoints[0, GT + 4, :2] + torch.tensor([0.0088, 0.0])
    keypoints[0, GT, 2] = 0
    assert float(leg_loss(points[..., :2], keypoints)) == 0
    keypoints[0, GT + 5, 0] += 0.0002
    assert float(leg_loss(points[..., :2], keypoints)) > 0


def test_unlabelled_points_may_hold_nan():
    points, betas, cam, keypoints = make_inputs(1)
    for place in (GT + 12, GT + 5):
        keypoints[0, place] = torch.tensor([torch.nan, torch.nan, 0.0])
    cam.requires_grad_()
    total = eft_loss(points, betas, cam, keypoints).total
    total.sum().backward()
    assert total.isfinite().all()
    assert cam.grad is not None
    assert cam.grad.isfinite().all()


def test_camera_term():
    cam = torch.tensor([[0.0, 5.0, 5.0], [0.1, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(camera_loss(cam), torch.tensor([1.0, math.exp(-2)]).double())


def test_empty_batch():
    assert eft_loss(*make_inputs(0)).total.shape == (0,)


def test_wrong_shapes_are_named():
    points, betas, cam, keypoints = make_inputs(2)
    with pytest.raises(
        ValueError, match=r"eft_loss: points must be \[B, 49, 3\], got \[2, 24, 3\]"
    ):
        eft_loss(points[:, :24], betas, cam, keypoints)
    with pytest.raises(ValueError, match=r"keypoints_2d must be \[2, 49, 3\] like the points"):
        eft_loss(points, betas, cam, keypoints[:1])
    with pytest.raises(ValueError, match=r"keypoint_loss: points must be \[B, K, 2\]"):
        keypoint_loss(points, keypoints)
