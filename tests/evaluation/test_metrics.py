"""Measures against stored values (tests/assets/make_metric_goldens.py) and their invariances."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from eft_fast.evaluation import metrics

GOLDEN = {
    "mpjpe_raw": 1.1159974800946875,
    "mpjpe_root0": 0.9789313131056543,
    "mpjpe_hipmid": 1.2418766379069284,
    "pa": 0.7056805634193607,
    "ra_noscale": 0.7641233834443535,
    "pa_randn0": 1.1376274083034386,
    "pa_true_reflection_randn0": 1.3801156253715765,
    "pck_0.5_strict": 0.0,
    "auc31_incl0_max1.5": 0.31797235023041476,
    "accel_err_frames": [
        0.09523628244707631,
        0.08227666024471846,
        0.06196750902326282,
        0.03612298477556807,
    ],
}
TIGHT = 1e-12


def curves() -> tuple[np.ndarray, np.ndarray]:
    i, k = np.arange(14)[:, None], np.arange(3)[None]
    pred = np.sin(0.7 * i + 1.3 * k)
    return pred, np.cos(0.5 * i + 0.9 * k) + 0.1 * i * np.array([1, 0, -1])


def measured() -> dict[str, float | list[float]]:
    p, g = curves()
    pred, gt = p[None], g[None]
    random = np.random.RandomState(0)
    a, b = random.randn(1, 14, 3), random.randn(1, 14, 3)
    wave = np.cos(0.3 * np.arange(6))[:, None, None]
    return {
        "mpjpe_raw": metrics.mpjpe(pred, gt)[0],
        "mpjpe_root0": metrics.mpjpe(pred, gt, root=0)[0],
        "mpjpe_hipmid": metrics.mpjpe(pred, gt, root=(2, 3))[0],
        "pa": metrics.pa_mpjpe(pred, gt)[0],
        "ra_noscale": metrics.pa_mpjpe(pred, gt, with_scale=False)[0],
        "pa_randn0": metrics.pa_mpjpe(a, b)[0],
        "pa_true_reflection_randn0": metrics.pa_mpjpe(a, a * [-1, 1, 1])[0],
        "pck_0.5_strict": metrics.pck3d(pred, gt, threshold=0.5)[0],
        "auc31_incl0_max1.5": metrics.auc3d(pred, gt, limit=1.5)[0],
        "accel_err_frames": metrics.acceleration_error(p * wave, g * wave).tolist(),
    }


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_values(key):
    np.testing.assert_allclose(measured()[key], GOLDEN[key], rtol=0, atol=TIGHT)


def test_golden_values_of_the_fixture(shared_dir):
    fixture = json.loads((shared_dir / "fixtures" / "metric_vectors.json").read_text())
    for key, value in measured().items():
        # The accelerations are stored with nine digits.
        tolerance = 1e-9 if key == "accel_err_frames" else TIGHT
        np.testing.assert_allclose(value, fixture[key], rtol=0, atol=tolerance)


def test_a_planar_mirror_image_aligns():
    """The centred curve is planar, so its mirror is a rotation: a degenerate decomposition."""
    pred = curves()[0][None]
    assert metrics.pa_mpjpe(pred, pred * [-1, 1, 1])[0] < 1e-14


def random_people(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 14, 3, dtype=torch.float64), torch.randn(
        count, 14, 3, dtype=torch.float64
    )


def test_pa_ignores_similarity_transforms():
    pred, gt = random_people()
    turn = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)[:, None, None]
    moved = 1.7 * pred @ turn + torch.randn(5, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(
        metrics.pa_mpjpe(moved, gt), metrics.pa_mpjpe(pred, gt), rtol=0, atol=TIGHT
    )
    assert metrics.pa_mpjpe(moved, pred).max() < TIGHT
    assert metrics.pa_mpjpe(moved, pred, with_scale=False).min() > 0.1


def test_rooted_measures_ignore_translation():
    pred, gt = random_people()
    moved = pred + torch.randn(5, 1, 3, dtype=torch.float64)
    for root in (0, (2, 3)):
        expected = metrics.mpjpe(pred, gt, root=root)
        torch.testing.assert_close(metrics.mpjpe(moved, gt, root=root), expected)
    roots = (moved[:, 0], gt[:, 0])
    vertices = metrics.pve(moved, gt, pred_root=roots[0], gt_root=roots[1])
    torch.testing.assert_close(vertices, metrics.mpjpe(pred, gt, root=0))


def test_n_mpjpe_ignores_scale():
    pred, gt = random_people()
    torch.testing.assert_close(
        metrics.n_mpjpe(3 * pred, gt, root=0), metrics.n_mpjpe(pred, gt, root=0)
    )
    assert metrics.n_mpjpe(3 * gt, gt).max() < TIGHT


def test_auc_grows_as_errors_shrink():
    pred, gt = random_people()
    areas = [metrics.auc3d(gt + f * (pred - gt), gt, limit=1.0) for f in (1.0, 0.5, 0.1, 0.0)]
    for worse, better in itertools.pairwise(areas):
        assert (better >= worse).all()
    torch.testing.assert_close(areas[-1], torch.full((5,), 30 / 31, dtype=torch.float64))


def test_measures_keep_the_kind_and_compute_in_double():
    pred, gt = (part.float() for part in random_people())
    answer = metrics.mpjpe(pred, gt)
    assert isinstance(answer, torch.Tensor)
    assert answer.dtype == torch.float64
    array = metrics.mpjpe(pred.numpy(), gt.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, answer.numpy())


def test_a_bad_person_spoils_nobody_else():
    pred, gt = random_people()
    spoilt = pred.clone()
    spoilt[2, 4, 1] = float("nan")
    for measure in (metrics.mpjpe, metrics.pa_mpjpe, metrics.pck3d, metrics.auc3d):
        expected, got = measure(pred, gt), measure(spoilt, gt)
        assert torch.equal(got.isnan(), torch.arange(5) == 2)
        assert torch.equal(got[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


def test_no_people():
    empty = torch.zeros(0, 14, 3)
    assert metrics.pa_mpjpe(empty, empty).shape == (0,)


def test_an_invalid_frame_kills_three_windows():
    pred, gt = random_people(8)
    everything = metrics.acceleration_error(pred, gt)
    assert everything.shape == (6,)
    valid = [True] * 8
    valid[4] = False
    torch.testing.assert_close(metrics.acceleration_error(pred, gt, valid), everything[[0, 1, 5]])


def test_rotation_error_is_the_angle():
    angle = torch.tensor([0.3, 2.0], dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64).repeat(2, 4, 1, 1)
    turn[..., 0, 0] = turn[..., 1, 1] = angle.cos()[:, None]
    turn[..., 0, 1], turn[..., 1, 0] = -angle.sin()[:, None], angle.sin()[:, None]
    identity = torch.eye(3, dtype=torch.float64).expand(2, 4, 3, 3)
    torch.testing.assert_close(metrics.rotation_error(turn, identity), angle)


def test_part_scores_by_hand():
    gt = np.array([[0, 0, 1, 255], [0, 1, 1, 2]])
    pred = np.array([[0, 1, 1, 1], [0, 1, 0, 0]])
    accuracy, f1 = metrics.part_scores(pred, gt, classes=3)
    assert accuracy == pytest.approx(4 / 7)
    # Class 0: 2 hits of 4 and 3; class 1: 2 of 3 and 3; class 2: none.
    assert f1 == pytest.approx((4 / 7 + 4 / 6 + 0) / 3)


def test_pck_counts_labelled_keypoints():
    nan = float("nan")
    distance = torch.tensor([[1.0, 5.0, nan], [9.0, 11.0, nan]])
    assert metrics.pck(distance, torch.tensor([40.0, 100.0])) == pytest.approx(2 / 4)
    assert np.isnan(metrics.pck(torch.full((1, 2), nan), torch.ones(1)))


def test_bootstrap_interval_covers_the_mean():
    sample = np.random.default_rng(3).normal(5.0, 2.0, 400)
    low, high = metrics.bootstrap_interval([*sample, np.nan])
    assert low < sample.mean() < high
    # 1.96 standard errors to each side.
    assert high - low == pytest.approx(2 * 1.96 * sample.std() / 20, rel=0.1)
    assert metrics.bootstrap_interval(sample) == metrics.bootstrap_interval(sample)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda p, g: metrics.mpjpe(p[0], g[0]), ValueError, r"must be \[N, J, 3\]"),
        (lambda p, g: metrics.mpjpe(p[:, :3], g), ValueError, r"must be \[N, J, 3\]"),
        (lambda p, g: metrics.mpjpe(p, g, root=14), ValueError, "joints 0 to 13, got 14"),
        (lambda p, g: metrics.mpjpe(p.tolist(), g), TypeError, "pred must be a numpy array"),
        (lambda p, g: metrics.pve(p, g, pred_root=p[:, 0]), ValueError, "both"),
        (lambda p, g: metrics.pve(p, g, pred_root=p, gt_root=g), ValueError, "pred_root must"),
        (lambda p, g: metrics.auc3d(p, g, steps=1), ValueError, "steps"),
        (lambda p, g: metrics.acceleration_error(p, g, [True]), ValueError, "valid"),
        (lambda p, g: metrics.rotation_error(p, g), ValueError, "rotation_error"),
        (lambda p, g: metrics.pck(p, g), ValueError, "pck: distance"),
        (lambda p, g: metrics.bootstrap_interval([1.0], level=2), ValueError, "level"),
        (
            lambda p, g: metrics.part_scores(np.ones(3, int), np.ones(2, int), classes=2),
            ValueError,
            "like gt",
        ),
        (
            lambda p, g: metrics.part_scores(np.ones(3, int) * 5, np.ones(3, int), classes=2),
            ValueError,
            "labels must be 0 to 1",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call(*random_people())


def test_error_of_chosen_joints_by_hand():
    """Joint 0 is the root; joint 1 is 3 off and joint 2 is 4 off after it; joint 3 is right."""
    gt = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 3)
    pred = gt + np.array([[0, 0, 0], [0, 3, 0], [0, 0, 4], [0, 0, 0]]) + 5
    which = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(metrics.mpjpe_of(pred, gt, which, root=0), [3.5, 2.0, np.nan])
    shifted = metrics.mpjpe_of(pred, gt, which)
    np.testing.assert_allclose(shifted[1], (np.hypot(9, 50**0.5) + 75**0.5) / 2)
    everyone = np.ones((3, 4), bool)
    np.testing.assert_allclose(
        metrics.mpjpe_of(pred, gt, everyone, is_aligned=True), metrics.pa_mpjpe(pred, gt)
    )
    pred[0, 3] = np.nan
    assert np.isnan(metrics.mpjpe_of(pred, gt, which, root=0)[0])
    assert metrics.mpjpe_of(pred, gt, which, root=0)[1] == 2.0


def test_chosen_joints_are_aligned_by_all():
    """A body turned, scaled and moved as a whole has no error, whichever joints are looked at."""
    rng = np.random.default_rng(2)
    gt = rng.normal(size=(2, 14, 3))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    which = np.zeros((2, 14), bool)
    which[0, 3], which[1, 5:7] = True, True
    pred = 0.5 * gt @ turn.T + 2
    assert metrics.mpjpe_of(pred, gt, which, is_aligned=True).max() < 1e-9
    with pytest.raises(ValueError, match=r"which must be \[2, 14\] like the joints, got \[2, 3\]"):
        metrics.mpjpe_of(pred, gt, which[:, :3])
    with pytest.raises(ValueError, match="aligned joints have no root"):
        metrics.mpjpe_of(pred, gt, which, root=0, is_aligned=True)
