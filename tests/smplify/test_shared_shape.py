"""Several photos of one person: recovery by calibrated views, and one shape for a subject."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import eft_fast
from eft_fast.evaluation import metrics
from eft_fast.geometry import axis_angle_to_matrix, project_intrinsics
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify import objective as obj
from eft_fast.smplify.config import SmplifyConfig, resolve_recipe
from eft_fast.smplify.fit import fit_smplify, start_from
from eft_fast.smplify.multiview import PhotoCameras, fit_views
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.smplify.shared_shape import SharedObjective, fit_subjects, make_places


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


def make_normal(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def make_scenes(body, people: int = 6, views: int = 3, noise_px: float = 2.0):
    """People in the middle of a ring of cameras three and a half metres away."""
    normal = make_normal(12)
    pose = load_pose_prior().mixture.mean_pose().float() + 0.25 * normal(people, 69)
    orient = normal(people, 3)
    betas = normal(people, 10)
    transl = 0.3 * normal(people, 3)
    points = body.keypoints(betas, pose, orient, joint_set="spin49") + transl[:, None]
    angle = torch.arange(views) * 2 * math.pi / max(views, 3)
    about_y = torch.stack([torch.zeros(views), angle, torch.zeros(views)], 1)
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    rotation = (upright @ axis_angle_to_matrix(about_y)).expand(people, views, 3, 3)
    translation = torch.tensor([0.0, 0.2, 3.5]).expand(people, views, 3)
    camera = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]).expand(people, views, 3, 3)
    seen = points[:, None] @ rotation.transpose(2, 3) + translation[:, :, None]
    image = project_intrinsics(seen.flatten(0, 1), camera.flatten(0, 1))
    image = image.reshape(people, views, 49, 2) + noise_px * normal(people, views, 49, 2)
    keypoints = torch.cat([image, torch.ones(people, views, 49, 1)], -1)
    return points, betas, keypoints, PhotoCameras(camera, rotation, translation)


def world_points(body, fits) -> Tensor:
    params = fits.params
    points = body.keypoints(
        params.betas, params.body_pose, params.global_orient, joint_set="spin49", pose2rot=False
    )
    return points + fits.transl[:, None]


@pytest.mark.parametrize(("recipe", "solver"), [("smplify_spin", None), ("smplify2016", "lm")])
def test_people_are_found_in_the_world(recipe, solver, body):
    """Where they are, not only up to a similarity: 2 px of noise, three views, no network."""
    points, _, keypoints, cameras = make_scenes(body)
    config = SmplifyConfig(recipe=recipe, solver=solver)
    fits = fit_views(body, keypoints, cameras, config=config)
    error = metrics.mpjpe(world_points(body, fits), points)
    assert fits.finite.all()
    assert error.median() < 0.045
    assert error.max() < 0.09
    assert fits.kp_error_px.median() < 6
    assert fits.kp_error_px.shape == (6, 3)


def test_more_views_find_more(body):
    points, _, keypoints, cameras = make_scenes(body, views=4)

    def error(views: int) -> float:
        some = PhotoCameras(*(part[:, :views] for part in vars(cameras).values()))
        fits = fit_views(body, keypoints[:, :views], some)
        return float(metrics.mpjpe(world_points(body, fits), points).mean())

    assert error(4) < error(2)


def test_views_of_one_person_do_not_touch_another(body):
    """Alone, beside others, and beside people of whom nothing can be triangulated."""
    _, _, keypoints, cameras = make_scenes(body, 4)
    config = SmplifyConfig(max_steps=5)
    together = fit_views(body, keypoints, cameras, config=config)
    keypoints = keypoints.clone()
    keypoints[1, 1:, :, 2] = 0
    keypoints[2, :, :, :] = float("nan")
    beside = fit_views(body, keypoints, cameras, config=config)
    assert beside.finite.tolist() == [True, False, False, True]
    for person in (0, 3):
        one = slice(person, person + 1)
        alone = fit_views(
            body, keypoints[one], PhotoCameras(*(part[one] for part in vars(cameras).values())),
            config=config,
        )  # fmt: skip
        for fits in (together, beside):
            assert torch.equal(fits.params.body_pose[one], alone.params.body_pose)
            assert torch.equal(fits.transl[one], alone.transl)
            assert torch.equal(fits.loss[one], alone.loss)


def test_priors_count_once_however_many_views(body):
    """The same view twice: twice the data, one set of priors."""
    _, _, keypoints, cameras = make_scenes(body, 2, 2)
    twice = PhotoCameras(*(torch.cat([part, part], 1) for part in vars(cameras).values()))
    config = SmplifyConfig(recipe="smplify2016", solver="lm", max_steps=40)
    weak = fit_views(body, keypoints, cameras, config=replace(config, prior="none"))
    doubled = fit_views(
        body, keypoints.repeat(1, 2, 1, 1), twice, config=replace(config, prior="none")
    )
    torch.testing.assert_close(doubled.loss, 2 * weak.loss, rtol=0.05, atol=1.0)
    one = fit_views(body, keypoints, cameras, config=config)
    two = fit_views(body, keypoints.repeat(1, 2, 1, 1), twice, config=config)
    assert (two.loss < 2 * one.loss).all()
    assert (two.loss > one.loss).all()


def make_subjects(body, photos: int = 5, noise: float = 0.008):
    """Two subjects on several photos each, one on a single one, in mixed order."""
    normal = make_normal(4)
    subject = torch.tensor([7] * photos + [3] * photos + [5])[
        torch.randperm(2 * photos + 1, generator=torch.Generator().manual_seed(1))
    ]
    shapes = {7: 1.5 * normal(10), 3: 1.5 * normal(10), 5: normal(10)}
    betas = torch.stack([shapes[int(s)] for s in subject])
    count = len(subject)
    pose = load_pose_prior().mixture.mean_pose().float() + 0.2 * normal(count, 69)
    orient = 0.2 * normal(count, 3)
    orient[:, 0] += math.pi
    points = body.keypoints(betas, pose, orient, joint_set="spin49")
    target = torch.cat([0.8 * points[..., :2] + noise * normal(count, 49, 2),
                        torch.ones(count, 49, 1)], 2)  # fmt: skip
    rotmat = axis_angle_to_matrix(
        torch.cat([orient, pose + 0.05 * normal(count, 69)], 1).reshape(-1, 24, 3)
    )
    camera = torch.tensor([0.8, 0.0, 0.0]).expand(count, 3).clone()
    return RegressorOutput(rotmat, torch.zeros(count, 10), camera), target, subject, betas


@pytest.mark.parametrize("recipe", ["smplify_spin", "smplify_eft_baseline"])
def test_a_subject_has_one_shape_and_it_is_a_better_one(recipe, body):
    init, target, subject, betas = make_subjects(body)
    config = SmplifyConfig(recipe=recipe, threshold=0.0)
    shared = fit_subjects(body, init, target, subject, config=config)
    single = fit_smplify(body, init, target, config=config)
    found = shared.final.pred_betas
    for who in (3, 7):
        rows = found[subject == who]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    alone = subject == 5
    assert torch.equal(found[alone], single.final.pred_betas[alone])
    several = ~alone
    error, other = (
        (part - betas)[several].norm(dim=1).mean() for part in (found, single.final.pred_betas)
    )
    assert error < other
    assert (shared.steps[several] > single.steps[several]).all()


def test_subjects_do_not_touch_each_other(body):
    init, target, subject, _ = make_subjects(body, 3)
    config = SmplifyConfig(max_steps=6)
    together = fit_subjects(body, init, target, subject, config=config)
    rows = (subject == 3).nonzero()[:, 0]
    alone = fit_subjects(
        body, RegressorOutput(*(part[rows] for part in init)), target[rows], subject[rows],
        config=config,
    )  # fmt: skip
    for some, own in zip(together.final, alone.final, strict=True):
        assert torch.equal(some[rows], own)


def test_a_shared_objective_is_the_sum_of_its_photos(body):
    """Value, gradient and curvature against finite differences and the sum."""
    double = eft_fast.load_body(dtype=torch.float64)
    init, target, _, _ = make_subjects(body, 2)
    init = RegressorOutput(*(part[:4].double() for part in init))
    recipe = resolve_recipe(SmplifyConfig(recipe="smplify_eft_baseline"))
    rows = start_from(init)
    stage = replace(recipe.stages[-1], free=("betas", "body_pose", "camera"))
    prior = load_pose_prior().to(rows)
    photos = obj.StageObjective(double, prior, recipe, stage, target[:4].double(), rows, rows)
    places, size = make_places(2, obj.BETAS)
    shared = SharedObjective(photos, places, size)
    x = rows.new_zeros(2, size)
    x[:, places.flatten()] = rows.reshape(2, -1)
    x = x + 0.02
    value = shared.evaluate(x)
    each = photos.evaluate(shared.expand(x))
    torch.testing.assert_close(value.loss, each.loss.reshape(2, 2).sum(1))
    for place in (0, 9, 14, 100, size - 1):
        step = torch.zeros_like(x)
        step[:, place] = 1e-6
        slope = (shared.evaluate(x + step).loss - shared.evaluate(x - step).loss) / 2e-6
        torch.testing.assert_close(
            value.gradient[:, place], slope * shared.free[place], rtol=1e-4, atol=1e-3
        )
    curvature = shared.curvature(x)
    blocks = photos.curvature(shared.expand(x)).reshape(2, 2, 85, 85)
    torch.testing.assert_close(curvature[:, :10, :10], blocks[:, :, obj.BETAS, obj.BETAS].sum(1))
    assert torch.equal(curvature[:, 10:85, 85:], torch.zeros(2, 75, size - 85).double())
    assert (curvature.diagonal(dim1=1, dim2=2)[:, shared.free == 0] == 1).all()


def test_wrong_shapes_are_refused(body):
    init, target, subject, _ = make_subjects(body, 2)
    with pytest.raises(ValueError, match="subject must be 5 whole numbers"):
        fit_subjects(body, init, target, subject[:2])
    with pytest.raises(ValueError, match=r"keypoints_2d must be \[G, V, 49, 3\]"):
        fit_views(body, target, PhotoCameras(target, target, target))
