"""The full perspective: SMPLify, EFT and fit_batch under each photo's own pinhole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import eft_fast
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.loop import LoopFitter
from eft_fast.evaluation import metrics
from eft_fast.geometry import (
    axis_angle_to_matrix,
    crop_intrinsics,
    project_intrinsics,
    weak_to_pinhole,
)
from eft_fast.losses.keypoints import eft_loss
from eft_fast.losses.weights import EftLossWeights
from eft_fast.models.base import RegressorOutput
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.predict import RegressorFitter
from eft_fast.pipeline.prepare import Prepared, stack_intrinsics
from eft_fast.result import FitResult
from eft_fast.smplify.fit import fit_smplify
from eft_fast.smplify.prior import load_pose_prior

#: A phone at arm's length: a person two metres away fills the photo.
PHOTO = torch.tensor([[700.0, 0, 319.5], [0, 700.0, 239.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny()


def make_scene(body, count: int = 6, noise: float = 0.05):
    """Near people, the pinholes of their crops, and starts that are a little off."""
    generator = torch.Generator().manual_seed(8)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pose = load_pose_prior().mixture.mean_pose().float() + 0.2 * normal(count, 69)
    orient = 0.2 * normal(count, 3)
    orient[:, 0] += math.pi
    betas = 0.5 * normal(count, 10)
    transl = torch.tensor([0.1, 0.3, 2.2]) + 0.1 * normal(count, 3)
    points = body.keypoints(betas, pose, orient, joint_set="spin49")
    center, scale = torch.full((count, 2), 300.0), torch.full((count,), 3.5)
    pinholes = crop_intrinsics(PHOTO.expand(count, 3, 3), center, scale)
    image = project_intrinsics(points + transl[:, None], pinholes)
    target = torch.cat([image, torch.ones(count, 49, 1)], 2)
    rotmat = axis_angle_to_matrix(
        torch.cat([orient, pose + noise * normal(count, 69)], 1).reshape(-1, 24, 3)
    )
    depth = transl[:, 2:] + 0.1
    focal = pinholes[:, :1, 0]
    camera = torch.cat([focal / depth, focal * transl[:, :2] / depth + pinholes[:, :2, 2]], 1)
    return points, transl, pinholes, target, RegressorOutput(rotmat, betas, camera)


def final_points(body, final: RegressorOutput) -> Tensor:
    rotmat = final.pred_rotmat
    return body.keypoints(
        final.pred_betas, rotmat[:, 1:], rotmat[:, :1], joint_set="spin49", pose2rot=False
    )


@pytest.mark.parametrize("recipe", ["smplify_spin", "smplify_eft_baseline", "smplify2016"])
def test_smplify_finds_where_people_stand(recipe, body):
    """Beside the axis within 2 cm; the depth stays about the start's, which is 10 cm off.

    The fixed far camera of the recipes cannot draw these people.
    """
    points, transl, pinholes, target, init = make_scene(body)
    config = eft_fast.SmplifyConfig(recipe=recipe, start="regressor", prior="none", threshold=0.0)
    near = fit_smplify(body, init, target, config=config, intrinsics=pinholes)
    far = fit_smplify(body, init, target, config=config)
    found = weak_to_pinhole(near.final.pred_cam, pinholes)
    off = (found - transl).abs()
    assert off[:, :2].norm(dim=1).median() < 0.02
    assert off[:, 2].max() < 0.15
    error, other = (
        metrics.pa_mpjpe(final_points(body, fits.final), points).median() for fits in (near, far)
    )
    assert error < 0.5 * other


def test_smplify_one_by_one_keeps_every_bit(body):
    _, _, pinholes, target, init = make_scene(body, 4)
    for recipe in ("smplify_spin", "smplifyx", "smplify2016"):
        config = eft_fast.SmplifyConfig(recipe=recipe, start="regressor", max_steps=5)
        together = fit_smplify(body, init, target, config=config, intrinsics=pinholes)
        for person in range(4):
            one = slice(person, person + 1)
            alone = fit_smplify(
                body, RegressorOutput(*(part[one] for part in init)), target[one],
                config=config, intrinsics=pinholes[one],
            )  # fmt: skip
            for some, own in zip(together.final, alone.final, strict=True):
                assert torch.equal(some[one], own)


def test_eft_loss_projects_by_the_pinhole(body):
    """Against the projection written out, and the exact keypoints cost nothing but the camera."""
    points, transl, pinholes, target, init = make_scene(body, 3)
    weights = EftLossWeights(beta=0.0, camera=0.0)
    depth = transl[:, 2:]
    exact = torch.cat(
        [pinholes[:, :1, 0] / depth, pinholes[:, :1, 0] * transl[:, :2] / depth
         + pinholes[:, :2, 2]], 1,
    )  # fmt: skip
    free = eft_loss(points, init.pred_betas, exact, target, weights, intrinsics=pinholes)
    assert free.total.max() < 1e-6
    camera = init.pred_cam.double().requires_grad_()
    double = points.double(), init.pred_betas.double(), target.double(), pinholes.double()
    terms = eft_loss(double[0], double[1], camera, double[2], weights, intrinsics=double[3])
    k = double[3]
    z = k[:, 0, 0] / camera[:, 0]
    x = (camera[:, 1] - k[:, 0, 2]) * z / k[:, 0, 0]
    y = (camera[:, 2] - k[:, 1, 2]) * z / k[:, 1, 1]
    moved = double[0] + torch.stack([x, y, z], 1)[:, None]
    u = k[:, None, 0, 0] * moved[..., 0] / moved[..., 2] + k[:, None, 0, 2]
    v = k[:, None, 1, 1] * moved[..., 1] / moved[..., 2] + k[:, None, 1, 2]
    want = eft_loss(
        torch.stack([u, v, torch.zeros_like(u)], 2), double[1],
        torch.tensor([[1.0, 0, 0]]).double().expand(3, 3), double[2], weights,
    )  # fmt: skip
    torch.testing.assert_close(terms.total, want.total, rtol=1e-6, atol=1e-9)
    (got,) = torch.autograd.grad(terms.total.sum(), camera, retain_graph=True)
    (expected,) = torch.autograd.grad(want.total.sum(), camera)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    assert (got != 0).all()


def test_a_far_pinhole_is_the_weak_camera(body):
    points, _, _, target, init = make_scene(body, 3)
    far = torch.diag(torch.tensor([1e4, 1e4, 1.0])).expand(3, 3, 3)
    weak = eft_loss(points, init.pred_betas, init.pred_cam, target)
    pinhole = eft_loss(points, init.pred_betas, init.pred_cam, target, intrinsics=far)
    torch.testing.assert_close(pinhole.total, weak.total, rtol=2e-3, atol=0)


def make_eft_jobs(regressor, body, count: int = 3) -> list[Prepared]:
    _, _, pinholes, target, _ = make_scene(body, count)
    generator = torch.Generator().manual_seed(1)
    size = regressor.input_size
    return [
        Prepared(i, torch.randn(3, size, size, generator=generator), target[i], pinholes[i])
        for i in range(count)
    ]


def test_eft_lowers_the_error_under_the_pinhole(regressor, body):
    jobs = make_eft_jobs(regressor, body)
    config = eft_fast.EftConfig.released(lr=1e-3, max_steps=12, threshold=0.0)
    alone = RegressorFitter(regressor, body)
    for job, (_, fit) in zip(
        jobs, LoopFitter(regressor, body, config=config).fit(jobs), strict=True
    ):
        assert float(fit.loss) < 0.6 * float(fit.init_loss)
        assert torch.equal(fit.init_loss, alone.fit_person(job).loss)
        terms = eft_loss(
            final_points(body, fit.final), fit.final.pred_betas, fit.final.pred_cam,
            job.keypoints_2d[None], intrinsics=job.crop_intrinsics[None],
        )  # fmt: skip
        torch.testing.assert_close(fit.loss, terms.total, rtol=1e-4, atol=0)


def test_every_way_of_eft_takes_the_pinhole(regressor, body):
    """Slots end where the loop does."""
    jobs = make_eft_jobs(regressor, body)
    config = eft_fast.EftConfig(lr=1e-3, max_steps=4, threshold=0.0)
    loop = dict(LoopFitter(regressor, body, config=config).fit(jobs))
    for batched in (False, True):
        fitter = SlotFitter(regressor, body, config=config, mode="full", slots=2, batched=batched)
        for index, fit in fitter.fit(jobs):
            torch.testing.assert_close(fit.loss, loop[index].loss, rtol=0.05, atol=0)


def test_pinholes_are_for_all_people_or_for_none(regressor, body):
    jobs = make_eft_jobs(regressor, body)
    mixed = [jobs[0], Prepared(1, jobs[1].img, jobs[1].keypoints_2d)]
    with pytest.raises(ValueError, match="have a pinhole or none has, got 1 of 2"):
        stack_intrinsics(mixed)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(2)]
    keypoints = np.concatenate([rng.uniform(60, 200, (2, 17, 2)), np.ones((2, 17, 1))], 2)
    return images, keypoints


@pytest.mark.parametrize("method", ["none", "eft", "smplify_spin"])
def test_fit_batch_under_a_given_pinhole(method, photos, regressor, body, tmp_path):
    pinhole = [[300.0, 0, 160], [0, 310.0, 120], [0, 0, 1]]
    options = {"regressor": regressor, "body": body, "progress": False, "method": method}
    result = eft_fast.fit_batch(*photos, intrinsics=pinhole, **options)
    assert torch.equal(result.intrinsics, torch.tensor(pinhole).expand(2, 3, 3))
    moved = result.joints3d() + result.cam_transl()[:, None]
    x = 300 * moved[..., 0] / moved[..., 2] + 160
    y = 310 * moved[..., 1] / moved[..., 2] + 120
    distance = torch.stack([x, y], 2) - torch.from_numpy(photos[1][..., :2]).float()
    torch.testing.assert_close(result.kp_error_px, distance.norm(dim=2).mean(1), rtol=1e-4, atol=0)
    if method != "none":
        assert (result.kp_error_px < result.init_kp_error_px).all()
    result.save(tmp_path / "fits.npz")
    loaded = FitResult.load(tmp_path / "fits.npz", body=body)
    assert torch.equal(loaded.cam_transl(), result.cam_transl())
    assert torch.equal(loaded[1:].keypoints_2d_px(), result.keypoints_2d_px()[1:])
    weak = eft_fast.fit_batch(*photos, **options)
    assert weak.intrinsics.isnan().all()
    assert weak.cam_transl().isnan().all()
    assert (weak.init_kp_error_px != result.init_kp_error_px).all()


def test_an_unknown_focal_length(photos, regressor, body):
    """The diagonal of the photo, and its middle, which is between two pixels."""
    result = eft_fast.fit_batch(
        *photos, intrinsics="diagonal", method="none", regressor=regressor, body=body,
        progress=False,
    )  # fmt: skip
    want = torch.tensor([[400.0, 0, 159.5], [0, 400.0, 119.5], [0, 0, 1]])
    assert torch.equal(result.intrinsics, want.expand(2, 3, 3))


def test_a_known_focal_length(photos, regressor, body):
    result = eft_fast.fit_batch(
        *photos, intrinsics=500, method="none", regressor=regressor, body=body, progress=False
    )
    want = torch.tensor([[500.0, 0, 159.5], [0, 500.0, 119.5], [0, 0, 1]])
    assert torch.equal(result.intrinsics, want.expand(2, 3, 3))


def test_files_without_pinholes_load(photos, regressor, body, tmp_path):
    result = eft_fast.fit_batch(
        *photos, method="none", regressor=regressor, body=body, progress=False
    )
    result.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{k: file[k] for k in file.files if k != "intrinsics"})
    loaded = FitResult.load(tmp_path / "old.npz", body=body)
    assert loaded.intrinsics.isnan().all()
    assert torch.equal(loaded.keypoints_2d_px(), result.keypoints_2d_px())


@pytest.mark.parametrize(
    ("intrinsics", "words"),
    [
        ("exif", "intrinsics must be 'diagonal'"),
        (np.eye(3)[None], r"must be \[3, 3\] or \[2, 3, 3\], got \[1, 3, 3\]"),
        (-np.eye(3), "positive focal lengths and a last row"),
        (np.full((3, 3), np.nan), "positive focal lengths"),
        (-3.0, "a focal length must be positive, got -3"),
    ],
)
def test_wrong_pinholes_are_refused(intrinsics, words, photos, regressor, body):
    with pytest.raises(ValueError, match=words):
        eft_fast.fit_batch(*photos, intrinsics=intrinsics, regressor=regressor, body=body)
