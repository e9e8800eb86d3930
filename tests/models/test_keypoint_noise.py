"""Keypoint noise by confidence: the curve that the errors were made with, and refused files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eft_fast.conventions import EXTENT_PER_SIZE
from eft_fast.keypoints import JOINT_SETS
from eft_fast.losses.tie import keypoint_weights
from eft_fast.models.keypoint_noise import (
    CURVES,
    LABELS,
    KeypointNoise,
    estimate_keypoint_noise,
    find_keypoint_noise,
    load_keypoint_noise,
    measure_keypoint_pairs,
    person_extent,
)


def draw(count: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and errors of a standard deviation of 0.08 - 0.06 confidence."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(count)
    error = np.linalg.norm(rng.normal(size=(count, 2)), axis=1) * (0.08 - 0.06 * confidence)
    return confidence, error


def test_the_curve_is_found_again():
    confidence, error = draw()
    noise = estimate_keypoint_noise(confidence, error, source="made up")
    at = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(noise.sigma_of(at), 0.08 - 0.06 * at, rtol=0.06)
    assert noise.count == 20_000
    # Level beyond the knots, and never rising.
    assert noise.sigma_of(0.0) == noise.sigma[0]
    assert noise.sigma_of(1.0) == noise.sigma[-1]
    assert (np.diff(noise.sigma) <= 0).all()


def test_gross_errors_do_not_widen_it_much():
    confidence, error = draw()
    error[::20] = 1.0
    noise = estimate_keypoint_noise(confidence, error, source="")
    assert noise.sigma_of(0.5) == pytest.approx(0.05, rel=0.1)


def test_a_detector_that_is_surer_where_it_is_wrong_gets_a_level():
    confidence, error = draw()
    noise = estimate_keypoint_noise(1.001 - confidence, error, source="")
    assert np.ptp(noise.sigma) == pytest.approx(0, abs=1e-12)
    assert noise.sigma[0] == pytest.approx(0.05, rel=0.1)


def test_equal_confidences_are_one_level():
    noise = estimate_keypoint_noise(np.ones(500), np.full(500, 0.02 * 1.1774), source="")
    assert noise.confidence.tolist() == [1.0]
    assert noise.sigma[0] == pytest.approx(0.02)
    with pytest.raises(ValueError, match="at least 100 keypoints with a known place"):
        estimate_keypoint_noise(np.ones(500), np.full(500, np.nan), source="")


def make_pairs(people: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    true = np.concatenate([rng.uniform(0, 300, (people, 17, 2)), np.ones((people, 17, 1))], 2)
    extent = person_extent(true, "coco17")
    step = rng.normal(size=(people, 17, 2)) * 0.03 * extent[:, None, None]
    return true, np.concatenate([true[..., :2] + step, np.full((people, 17, 1), 0.7)], 2), extent


def test_extent_is_that_of_the_limbs():
    true, _, extent = make_pairs(2)
    limbs = true[0, 5:17, :2]
    spread = np.sqrt(((limbs - limbs.mean(0)) ** 2).sum(1).mean())
    assert extent[0] == pytest.approx(EXTENT_PER_SIZE * spread)
    true[0, :5, 2] = 0
    assert person_extent(true, "coco17")[0] == extent[0]
    true[1, 16, 2] = 0
    assert np.isnan(person_extent(true, "coco17")[1])


def test_pairs_of_a_file(tmp_path):
    true, found, extent = make_pairs()
    true[3, 9, 2] = 0  # a limb joint is missing: without an extent nothing of him counts
    path = tmp_path / "pairs.npz"
    np.savez(path, keypoints=found, gt_keypoints=true)
    noise = measure_keypoint_pairs(path)
    assert noise.count == 39 * 17
    assert noise.sigma_of(0.7) == pytest.approx(0.03, rel=0.1)
    np.savez(path, keypoints=found, gt_keypoints=true, extent=2 * extent)
    halved = measure_keypoint_pairs(path)
    assert halved.count == 40 * 17 - 1
    assert halved.sigma_of(0.7) == pytest.approx(0.015, rel=0.1)
    noise.save(tmp_path / "noise.npz")
    again = load_keypoint_noise(tmp_path / "noise.npz")
    assert (again.sigma == noise.sigma).all()
    assert (again.count, again.source) == (noise.count, "pairs of pairs.npz")
    np.savez(path, keypoints=found[:, :16], gt_keypoints=true)
    with pytest.raises(ValueError, match=r"must be \[N, 17, 3\] of joint set coco17"):
        measure_keypoint_pairs(path)
    np.savez(path, keypoints=found)
    with pytest.raises(ValueError, match="with keypoints and gt_keypoints"):
        measure_keypoint_pairs(path)


@pytest.mark.parametrize(
    ("knots", "sigma", "words"),
    [
        ([0.2, 0.1], [0.1, 0.2], "ascend"),
        ([0.1, np.nan], [0.1, 0.2], "ascend"),
        ([0.1, 0.2], [0.1, 0.0], "positive"),
        ([0.1, 0.2], [0.1], r"must be \[M\]"),
    ],
)
def test_what_is_no_curve_is_refused(knots, sigma, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        KeypointNoise(np.array(knots), np.array(sigma), 1, "")
    LABELS.save(tmp_path / "n.npz")
    with np.load(tmp_path / "n.npz") as file:
        card = file["card"]
    np.savez(tmp_path / "n.npz", card=card, confidence=np.array(knots), sigma=np.array(sigma))
    with pytest.raises(ValueError, match="is no curve of keypoint noise") as error:
        load_keypoint_noise(tmp_path / "n.npz")
    assert "\n" not in str(error.value)


def test_labels_are_surer_than_doubtful_points():
    assert LABELS.sigma_of([0.3, 0.55, 1.0]) == pytest.approx([0.06, 0.04, 0.02])


def test_every_joint_set_has_limbs():
    for name, joints in JOINT_SETS.items():
        points = np.random.default_rng(0).random((1, len(joints.names), 3)) + 0.1
        assert np.isfinite(person_extent(points, name)).all(), name


def test_weights_follow_the_curve():
    """The curve of the fits is that of the file, at, between and beyond its knots."""
    for noise in (*CURVES.values(), KeypointNoise(np.array([0.5]), np.array([0.03]), 0, "level")):
        confidence = np.linspace(0, 1, 41)
        size = torch.tensor([0.4], dtype=torch.float64)
        found = keypoint_weights(
            torch.from_numpy(confidence)[None], size,
            sigma=1.0, sigma_unsure=1.0, sure_above=0.5, curve=noise.knots,
        )[0].numpy()  # fmt: skip
        want = 1 / (EXTENT_PER_SIZE * 0.4 * noise.sigma_of(confidence)) ** 2
        np.testing.assert_allclose(found[1:], want[1:], rtol=1e-9)
        assert found[0] == 0


def test_a_source_is_a_name_a_file_or_a_curve(tmp_path):
    LABELS.save(tmp_path / "mine.npz")
    assert find_keypoint_noise(None) is None
    assert find_keypoint_noise(LABELS) is LABELS
    assert find_keypoint_noise("detector") is CURVES["detector"]
    assert find_keypoint_noise(tmp_path / "mine.npz").knots == LABELS.knots
    with pytest.raises(
        FileNotFoundError, match="one of labels, detector, landmarks, movenet, or a file"
    ):
        find_keypoint_noise("detectron")
