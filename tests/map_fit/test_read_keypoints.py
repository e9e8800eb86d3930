"""A regressor that reads keypoints: what ``map`` shows it, and under which prior it fits then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.map_fit.fitter import JOINT_SIGMA
from eft_fast.map_fit.refit import Refitter
from eft_fast.map_rules import MIN_READ
from eft_fast.models.error_covariance import (
    ErrorCovariance,
    estimate_covariance,
    load_error_covariance,
    read_error_covariance,
)
from eft_fast.models.movenet_regressor import MoveNetRegressor


@pytest.fixture(scope="module")
def network() -> MoveNetRegressor:
    return MoveNetRegressor.make_tiny()


@pytest.fixture(scope="module")
def measured(network: MoveNetRegressor) -> ErrorCovariance:
    """Made-up errors; with keypoints a third of those without."""
    states = 0.3 * torch.randn(400, 85, generator=torch.Generator().manual_seed(0))
    return estimate_covariance(states, regressor=network, source="made up", given=states / 3)


@pytest.fixture(scope="module")
def covariance(measured: ErrorCovariance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("covariance") / "tiny.npz"
    measured.save(path)
    return path


@pytest.fixture(scope="module")
def given() -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (200, 160, 3), dtype=np.uint8) for _ in range(4)]
    keypoints = np.ones((4, 17, 3), np.float32)
    keypoints[..., :2] = rng.uniform(30, 130, (4, 17, 2))
    return photos, keypoints


def fit(network, covariance, photos, keypoints, *, joint_set="coco17", **options):
    config = eft_fast.MapConfig(covariance=covariance, **options)
    return eft_fast.fit_batch(
        photos, keypoints, method="map", regressor=network, config=config, progress=False,
        joint_set=joint_set,
    )  # fmt: skip


def test_the_start_has_read_the_keypoints(network, covariance, given) -> None:
    """Those that the fit has, in the crop; without them it is the picture's own answer."""
    photos, keypoints = given[0], given[1].copy()
    keypoints[:, 3] = 0
    told = fit(network, covariance, photos, keypoints)
    alone = fit(network, covariance, photos, keypoints, read_keypoints=False)
    none = eft_fast.fit_batch(photos, keypoints, method="none", regressor=network, progress=False)
    assert torch.equal(alone.init.pred_cam, none.pred_cam)
    assert not torch.equal(told.init.pred_cam, none.pred_cam)
    # A keypoint that is not given has no say, wherever it lies.
    keypoints[:, 3, :2] = 77.0
    again = fit(network, covariance, photos, keypoints)
    assert torch.equal(again.pred_cam, told.pred_cam)


def test_company_changes_nothing(network, covariance, given) -> None:
    """People with few keypoints, who are shown the picture only, between the others."""
    photos, keypoints = given[0], given[1].copy()
    keypoints[1, MIN_READ - 1 :] = 0
    whole = fit(network, covariance, photos, keypoints)
    for row in range(4):
        alone = fit(network, covariance, photos[row : row + 1], keypoints[row : row + 1])
        assert torch.equal(alone.pred_cam, whole.pred_cam[row : row + 1])
        assert torch.equal(alone.joint_sigma_mm, whole.joint_sigma_mm[row : row + 1])
    unread = fit(network, covariance, photos, keypoints, read_keypoints=False)
    same = [bool(torch.equal(unread.pred_cam[r], whole.pred_cam[r])) for r in range(4)]
    assert same == [False, True, False, False]


def test_keypoints_of_another_set_are_put_in_order(network, covariance, given) -> None:
    """The 12 limb joints of lsp14 are those of coco17 by another number."""
    coco, lsp = (eft_fast.keypoints.joint_set(name) for name in ("coco17", "lsp14"))
    shared = [name for name in lsp.names if name in coco.names]
    assert len(shared) == 12
    photos, keypoints = given[0], np.zeros((4, 14, 3), np.float32)
    same = np.zeros_like(given[1])
    for name in shared:
        keypoints[:, lsp.names.index(name)] = given[1][:, coco.names.index(name)]
        same[:, coco.names.index(name)] = given[1][:, coco.names.index(name)]
    boxes = np.tile([30.0, 30, 100, 100], (4, 1))
    config = eft_fast.MapConfig(covariance=covariance)
    starts = [
        eft_fast.fit_batch(
            photos, points, bboxes=boxes, method="map", regressor=network, config=config,
            joint_set=name, progress=False,
        ).init.pred_cam
        for name, points in (("lsp14", keypoints), ("coco17", same))
    ]  # fmt: skip
    assert torch.equal(*starts)


def test_a_smaller_error_ties_more(network, measured, given, tmp_path) -> None:
    """The prior of answers that read keypoints is their own."""
    paths = []
    for name, moment in (("same", measured.second_moment), ("own", None)):
        path = tmp_path / f"{name}.npz"
        replace(
            measured,
            second_moment_given=measured.second_moment_given if moment is None else moment,
        ).save(path)
        paths.append(path)
    wide, narrow = (fit(network, path, *given, robust=False) for path in paths)
    assert torch.equal(wide.init.pred_cam, narrow.init.pred_cam)
    assert float(narrow.joint_sigma_mm.mean()) < float(wide.joint_sigma_mm.mean())


def test_files_keep_both_matrices(network, measured, covariance, tmp_path) -> None:
    found = load_error_covariance(network, covariance)
    assert (found.second_moment_given == measured.second_moment_given).all()
    np.testing.assert_allclose(
        found.precision(given=True) @ found.covariance(given=True), np.eye(85), atol=1e-8
    )
    plain = replace(measured, second_moment_given=None)
    plain.save(tmp_path / "plain.npz")
    assert read_error_covariance(tmp_path / "plain.npz").second_moment_given is None
    with pytest.raises(ValueError, match="nothing is known of answers"):
        plain.precision(given=True)
    broken = -np.asarray(measured.second_moment)
    with pytest.raises(ValueError, match="of given keypoints: second_moment must be positive"):
        replace(measured, second_moment_given=broken)
    # Of other weights both are refused.
    with pytest.raises(ValueError, match="belongs to weights"):
        fit(MoveNetRegressor.make_tiny(seed=1), covariance, [np.zeros((9, 9, 3), np.uint8)],
            np.ones((1, 17, 3), np.float32))  # fmt: skip


def test_without_the_matrix_it_sees_the_picture_only(network, measured, given, tmp_path) -> None:
    replace(measured, second_moment_given=None).save(tmp_path / "plain.npz")
    result = fit(network, tmp_path / "plain.npz", *given)
    none = eft_fast.fit_batch(*given, method="none", regressor=network, progress=False)
    assert torch.equal(result.init.pred_cam, none.pred_cam)


@pytest.mark.parametrize("num_given", [17, MIN_READ - 1])
def test_a_refit_takes_the_prior_of_the_fit(network, covariance, given, num_given) -> None:
    """That of an answer which has read keypoints where it has; the same keypoints, the same fit."""
    photos, keypoints = given[0][:1], given[1][:1].copy()
    keypoints[:, num_given:] = 0
    was = fit(network, covariance, photos, keypoints)
    config = eft_fast.MapConfig(covariance=covariance)
    refitter = Refitter(network, eft_fast.load_body(), config)
    opened = refitter.open(was)
    assert opened.start.reads == (num_given >= MIN_READ)
    again = refitter.fit(opened, keypoints[0])
    torch.testing.assert_close(again.fit.final.pred_cam, was.pred_cam, rtol=1e-3, atol=1e-4)
    sigma = again.fit.outputs[JOINT_SIGMA]
    torch.testing.assert_close(sigma, was.joint_sigma_mm, rtol=1e-2, atol=0.1)
