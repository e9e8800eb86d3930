"""``method="map"`` from photos to a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.body.smpl import Smpl
from eft_fast.geometry.cameras import crop_intrinsics, photo_intrinsics
from eft_fast.models.error_covariance import estimate_covariance
from eft_fast.models.open_regressor import OpenRegressor


@pytest.fixture(scope="module")
def network() -> OpenRegressor:
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def covariance(network: OpenRegressor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the tiny network's made-up errors."""
    generator = torch.Generator().manual_seed(0)
    states = 0.3 * torch.randn(400, 85, generator=generator)
    path = tmp_path_factory.mktemp("covariance") / "tiny.npz"
    estimate_covariance(states, regressor=network, source="made up").save(path)
    return path


@pytest.fixture(scope="module")
def given() -> tuple[list[np.ndarray], np.ndarray]:
    """Noisy pictures and keypoints scattered like a person."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (200, 160, 3), dtype=np.uint8) for _ in range(5)]
    keypoints = np.ones((5, 17, 3), np.float32)
    keypoints[..., :2] = rng.uniform(30, 130, (5, 17, 2))
    return photos, keypoints


def fit(network: OpenRegressor, covariance: Path, photos: object, keypoints: object, **options):
    config = eft_fast.MapConfig(covariance=covariance, **options)
    return eft_fast.fit_batch(
        photos, keypoints, method="map", regressor=network, config=config, progress=False
    )


def test_a_result_says_how_and_how_sure(network, covariance, given, tmp_path) -> None:
    result = fit(network, covariance, *given)
    assert (result.method, result.mode) == ("map", "residual")
    assert bool((result.kp_error_px < result.init_kp_error_px).all())
    assert bool((result.loss < result.init_loss).all())
    assert result.joint_sigma_mm.shape == (5, 24)
    assert bool((result.joint_sigma_mm[:, 1:] > 0).all())
    assert result.joint_confidence.shape == (5, 24)
    assert set(result.stop_reason) <= {"converged", "max_steps"}
    # The pinhole that was assumed: the network's answer stands 5 m away.
    torch.testing.assert_close(
        result.cam_transl("init")[:, 2], torch.full((5,), 5.0), rtol=1e-4, atol=0
    )
    result.save(tmp_path / "fits.npz")
    again = eft_fast.FitResult.load(tmp_path / "fits.npz")
    assert torch.equal(again.joint_sigma_mm, result.joint_sigma_mm)
    weak = fit(network, covariance, *given, distance=None, posterior=False)
    assert bool(weak.intrinsics.isnan().all())
    assert weak.joint_sigma_mm is None


def test_batches_and_company_change_nothing(network, covariance, given) -> None:
    photos, keypoints = given
    whole = fit(network, covariance, photos, keypoints)
    pairs = fit(network, covariance, photos, keypoints, batch=2)
    alone = fit(network, covariance, photos[3:4], keypoints[3:4])
    for other, rows in ((pairs, slice(None)), (alone, slice(3, 4))):
        assert torch.equal(other.params.body_pose, whole.params.body_pose[rows])
        assert torch.equal(other.pred_cam, whole.pred_cam[rows])
        assert torch.equal(other.joint_sigma_mm, whole.joint_sigma_mm[rows])


def test_bad_people_keep_the_answer_and_stop_nobody(network, covariance, given) -> None:
    photos, keypoints = list(given[0]), given[1].copy()
    whole = fit(network, covariance, photos, keypoints)
    photos[0] = "no_such_file.jpg"
    keypoints[1] = 0
    result = fit(network, covariance, photos, keypoints)
    assert result.stop_reason[0] == "bad_image"
    assert result.stop_reason[1] == "no_keypoints"
    assert torch.equal(result.pred_cam[1], result.init.pred_cam[1])
    assert torch.equal(result.pred_cam[2:], whole.pred_cam[2:])


@pytest.mark.parametrize("kind", ["landmarks", "movenet"])
def test_fill_takes_what_a_network_sees(network, covariance, given, kind) -> None:
    photos, keypoints = given[0], given[1].copy()
    keypoints[:, 9] = 0
    plain, filled = (fit(network, covariance, photos, keypoints, fill=f) for f in ("none", kind))
    assert not torch.equal(plain.pred_cam, filled.pred_cam)
    if kind == "movenet":
        unsure = fit(network, covariance, photos, keypoints, fill=kind, fill_above=1.0)
        assert torch.equal(unsure.pred_cam, plain.pred_cam)
    alone = fit(network, covariance, photos[3:4], keypoints[3:4], fill=kind)
    assert torch.equal(alone.pred_cam, filled.pred_cam[3:4])


def test_without_a_covariance_one_sentence_says_what_to_do(network, given) -> None:
    with pytest.raises(ValueError, match="eft-fast calibrate"):
        eft_fast.fit_batch(*given, method="map", regressor=network, progress=False)


@pytest.mark.parametrize("method", ["map", "smplify"])
def test_workers_fit_as_one_process_does(network, covariance, given, method) -> None:
    """More people than one bundle holds; the fits of direct methods do not depend on company."""
    photos, keypoints = given[0] * 4, np.concatenate([given[1]] * 4)
    keypoints[5:, :, :2] += np.random.default_rng(1).uniform(-5, 5, (15, 17, 2))
    config = eft_fast.MapConfig(covariance=covariance)
    options = {"config": config if method == "map" else eft_fast.SmplifyConfig(max_steps=3)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone, helped = (
            eft_fast.fit_batch(
                photos, keypoints, regressor=network, progress=False, workers=workers, **options
            )
            for workers in (1, 2)
        )
    finally:
        torch.set_num_threads(threads)
    assert alone.method == helped.method
    for name in ("full_pose", "betas"):
        assert torch.equal(getattr(alone.params, name), getattr(helped.params, name))
    for name in ("pred_cam", "loss", "steps"):
        assert torch.equal(getattr(alone, name), getattr(helped, name))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "head"}, "map tunes no weights, got mode 'head'"),
        ({"slots": 2}, "map tunes no weights and takes no slots"),
        ({"config": eft_fast.EftConfig()}, "map takes a MapConfig, got EftConfig"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, options, words) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        eft_fast.fit_batch(*given, method="map", progress=False, **options)


def test_a_pinhole_goes_to_the_photo_and_back() -> None:
    intrinsics = torch.tensor([[[900.0, 0, 310], [0, 905, 240], [0, 0, 1]]])
    box = torch.tensor([[300.0, 200.0]]), torch.tensor([1.7])
    crop = crop_intrinsics(intrinsics, *box)
    torch.testing.assert_close(photo_intrinsics(crop, *box), intrinsics)


def test_the_shipped_regressor_has_its_covariance(body: Smpl) -> None:
    """One person by the shipped pair, as a user calls it."""
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 255, (240, 240, 3), dtype=np.uint8)
    keypoints = np.ones((1, 17, 3), np.float32)
    keypoints[..., :2] = rng.uniform(60, 180, (1, 17, 2))
    result = eft_fast.fit_batch([photo], keypoints, method="map", body=body, progress=False)
    assert float(result.kp_error_px) < float(result.init_kp_error_px)


def test_keypoints_in_space_reach_the_fit() -> None:
    """Triangulated joints through ``fit_batch``: the answer bends to them; other methods refuse."""
    regressor, body = eft_fast.load_regressor(), eft_fast.load_body()
    rng = np.random.default_rng(5)
    photo = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    with torch.no_grad():
        turn = torch.eye(3).expand(1, 24, 3, 3).clone()
        turn[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        points = body.keypoints(
            torch.zeros(1, 10), turn[:, 1:], turn[:, :1], joint_set="coco17", pose2rot=False
        )
    image = 128 + 90 * points[0, :, :2].numpy()
    keypoints = np.concatenate([image, np.ones((17, 1))], 1)[None]
    solid = torch.cat([points + 2.0, torch.ones(1, 17, 1)], -1)
    options = {"regressor": regressor, "body": body, "progress": False}
    given = {"bboxes": [[0, 0, 256, 256]]}
    flat = eft_fast.fit_batch([photo], keypoints, **given, **options)
    deep = eft_fast.fit_batch([photo], keypoints, **given, **options, keypoints_3d=solid)

    def error(result: eft_fast.FitResult) -> float:
        found = result.joints3d("coco17")[0]
        away = (found - found.mean(0)) - (points[0] - points[0].mean(0))
        return float(away.norm(dim=-1).mean())

    assert error(deep) < 0.5 * error(flat)
    with pytest.raises(ValueError, match="keypoints_3d are data of method 'map', got method 'eft'"):
        eft_fast.fit_batch(
            [photo], keypoints, mode="head", regressor=regressor, body=body, keypoints_3d=solid
        )
    with pytest.raises(ValueError, match=r"keypoints_3d must be \[1, 17, 4\]"):
        eft_fast.fit_batch([photo], keypoints, **options, keypoints_3d=np.zeros((1, 17, 3)))
