"""EFT with the tie: its energy, its pull to the start, the same answer in every way of fitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.eft.batched.graph_slots import GraphSlotFitter
from eft_fast.eft.batched.slots import SlotFitter
from eft_fast.eft.loop import LoopFitter
from eft_fast.eft.loss import EftLoss, EftTarget, resolve_tie
from eft_fast.geometry.cameras import project_intrinsics, weak_project, weak_to_pinhole
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from eft_fast.losses import tie
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import ErrorCovariance
from eft_fast.models.error_state import answer_frame, error_state
from eft_fast.models.keypoint_noise import KeypointNoise
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.prepare import Prepared


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body().to(torch.float64)


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny().double()


@pytest.fixture(scope="module")
def covariance(regressor, tmp_path_factory):
    path = tmp_path_factory.mktemp("tie") / "covariance.npz"
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(85, 300)) * np.linspace(0.1, 0.4, 85)[:, None]
    moment = factor @ factor.T / 300
    ErrorCovariance(moment, regressor.weights_hash, "open-1", 300, "made up").save(path)
    return path


@pytest.fixture(scope="module")
def config(covariance):
    return eft_fast.EftConfig(tie="residual", covariance=covariance, lr=1e-3, max_steps=5)


def make_people(count: int) -> list[Prepared]:
    generator = torch.Generator().manual_seed(2)
    img = torch.rand(count, 3, 256, 256, generator=generator, dtype=torch.float64)
    given = torch.rand(count, 17, 3, generator=generator, dtype=torch.float64)
    given[..., :2] = given[..., :2] - 0.5
    given[:, :3, 2] = 0
    blank = torch.ones(49, 3, dtype=torch.float64)
    return [
        Prepared(row, img[row], blank, given=given[row], joint_set="coco17") for row in range(count)
    ]


def answer_of(regressor, people) -> RegressorOutput:
    with torch.no_grad():
        return regressor(torch.stack([person.crop for person in people]))


@pytest.mark.parametrize("distance", [None, 5.0])
def test_energy_is_the_sum_of_its_terms(regressor, body, config, distance):
    people = make_people(3)
    config = replace(config, distance=distance)
    loss, target = EftLoss(regressor, body, config), EftTarget.of(people)
    start = answer_of(regressor, people)
    generator = torch.Generator().manual_seed(3)
    turn = axis_angle_to_matrix(0.02 * torch.randn(3, 24, 3, generator=generator).double())
    moved = RegressorOutput(start.pred_rotmat @ turn, start.pred_betas + 0.1, start.pred_cam * 1.05)
    total, error = loss(moved, target, start)
    joints = body.keypoints(
        start.pred_betas, start.pred_rotmat[:, 1:], start.pred_rotmat[:, :1],
        joint_set="smpl24", pose2rot=False,
    )  # fmt: skip
    frame = answer_frame(joints, start.pred_cam)
    points = body.keypoints(
        moved.pred_betas, moved.pred_rotmat[:, 1:], moved.pred_rotmat[:, :1],
        joint_set="coco17", pose2rot=False,
    )  # fmt: skip
    seen = weak_project(points, moved.pred_cam)
    if distance is not None:
        pinhole = tie.assumed_pinhole(frame.center, start.pred_cam[:, 0], distance)
        placed = points + weak_to_pinhole(moved.pred_cam, pinhole)[:, None]
        seen = project_intrinsics(placed, pinhole)
    confidence = target.given[..., 2]
    sigma = 3.46 * frame.size[:, None] * torch.where(confidence > 0.55, 0.02, 0.06)
    squared = ((seen - target.given[..., :2]) / sigma[..., None]).square().sum(-1)
    squared = torch.where(confidence > 0, squared, 0.0)
    # To second order the offset of the tie is the logarithm of the covariance's own state.
    state = error_state(start, moved, frame.size)
    prior = ((state @ loss._precision) * state).sum(1)
    torch.testing.assert_close(total, squared.sum(1) + prior, rtol=1e-4, atol=0)
    # The mean weighs as the sum does, in units of a sure keypoint's variance.
    weight = torch.where(confidence > 0, 1 / sigma.square(), 0.0).sum(1)
    scale = weight * (3.46 * frame.size * 0.02).square()
    torch.testing.assert_close(error, squared.sum(1) / scale, rtol=1e-9, atol=0)


def test_offset_is_the_logarithm_to_second_order():
    generator = torch.Generator().manual_seed(4)
    axis = torch.randn(50, 1, 3, generator=generator).double()
    axis = axis / axis.norm(dim=-1, keepdim=True)
    start = axis_angle_to_matrix(torch.randn(50, 1, 3, generator=generator).double())
    for angle in (1e-4, 0.1, 1.0, 3.1, np.pi):
        moved = start @ axis_angle_to_matrix(angle * axis)
        offset = tie.rotation_offset(start, moved)
        expected = 2 * np.sin(angle / 2)
        if angle <= 1.0:
            log = matrix_to_axis_angle(start.transpose(-1, -2) @ moved)
            torch.testing.assert_close(offset, log * (expected / angle), rtol=1e-6, atol=1e-9)
        assert offset.isfinite().all()
    moved = (start @ axis_angle_to_matrix(np.pi * axis)).requires_grad_()
    tie.rotation_offset(start, moved).square().sum().backward()
    assert moved.grad.isfinite().all()


def test_a_stiff_tie_keeps_the_answer(regressor, body, config, covariance, tmp_path):
    """A covariance of a thousandth holds the answer ten times nearer to the start."""
    (person,) = make_people(1)
    stiff = ErrorCovariance(1e-6 * np.eye(85), regressor.weights_hash, "open-1", 300, "stiff")
    stiff.save(tmp_path / "stiff.npz")
    config = replace(config, max_steps=30)
    moves = []
    for path in (covariance, tmp_path / "stiff.npz"):
        fitter = LoopFitter(regressor, body, config=replace(config, covariance=path))
        fit = fitter.fit_person(person)
        moves.append(float((fit.final.pred_rotmat - fit.init.pred_rotmat).norm()))
    assert moves[1] < 0.3 * moves[0]


def test_a_factor_weighs_a_keypoint(regressor, body, config):
    """0 leaves it out; people without factors beside one who has some keep their weights."""
    people = make_people(3)
    factor = torch.ones(17, dtype=torch.float64)
    factor[5] = 0
    weighed = [people[0], replace(people[1], weight_factor=factor), people[2]]
    dropped = [*people]
    dropped[1] = replace(people[1], given=people[1].given.clone())
    dropped[1].given[5] = 0
    loss, start = EftLoss(regressor, body, config), answer_of(regressor, people)
    want, _ = loss(start, EftTarget.of(dropped), start)
    got, _ = loss(start, EftTarget.of(weighed), start)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    assert not torch.equal(want[1], loss(start, EftTarget.of(people), start)[0][1])
    joined = EftTarget.concatenate([EftTarget.of([person]) for person in weighed])
    assert torch.equal(loss(start, joined, start)[0], got)


def test_keypoint_noise_reaches_the_loss(regressor, body, config):
    """A curve that is level at 0.04: the keypoints of all confidences weigh alike."""
    level = KeypointNoise(np.array([1.0]), np.array([0.04]), 0, "made up")
    people = make_people(2)
    start = answer_of(regressor, people)
    alike = replace(config, sigma=0.04, sigma_unsure=0.04)
    for source in (level, "labels"):
        loss = EftLoss(regressor, body, replace(config, keypoint_noise=source))
        got = loss(start, EftTarget.of(people), start)[0]
        want = EftLoss(regressor, body, alike)(start, EftTarget.of(people), start)[0]
        assert torch.allclose(got, want, rtol=1e-6) is (source is level)


@pytest.mark.parametrize("mode", ["full", "head", "feature", "lora"])
def test_every_way_gives_the_same_fit(regressor, body, config, mode):
    people = make_people(3)
    factor = torch.linspace(0, 1, 17, dtype=torch.float64)
    people[1] = replace(people[1], weight_factor=factor)
    loop = dict(LoopFitter(regressor, body, config=config, mode=mode).fit(people))
    ways = [
        SlotFitter(regressor, body, config=config, mode=mode, slots=2, batched=False),
        GraphSlotFitter(regressor, body, config=config, mode=mode, slots=2),
    ]
    for fitter in ways:
        for index, fit in fitter.fit(people):
            for got, want in zip(fit.final, loop[index].final, strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-7)
            torch.testing.assert_close(
                fit.crop_intrinsics, loop[index].crop_intrinsics, rtol=0, atol=1e-9
            )
            assert float(loop[index].loss) < float(loop[index].init_loss)


def test_auto_ties_where_the_error_is_known(regressor):
    auto = eft_fast.EftConfig()
    assert resolve_tie(auto, eft_fast.load_regressor()).tie == "residual"
    assert resolve_tie(auto, regressor).tie is None
    strict = eft_fast.EftConfig(strict_reference=True)
    assert resolve_tie(strict, eft_fast.load_regressor()).tie is None


def test_asked_for_without_a_covariance_is_one_sentence(regressor, body):
    with pytest.raises(ValueError, match=r"no error covariance is known .* `eft-fast calibrate"):
        LoopFitter(regressor, body, config=eft_fast.EftConfig(tie="residual"))
    with pytest.raises(ValueError, match="knows no tie; leave one of them out"):
        eft_fast.EftConfig(tie="residual", strict_reference=True)


def test_released_is_the_reference():
    released = eft_fast.EftConfig.released(lr=1e-3)
    assert released.tie is None
    assert not released.with_hips
    assert not released.with_ankles
    assert released.stop_rule_of("full").threshold == 1e-4
    assert released.lr_of("full") == 1e-3
    tied = eft_fast.EftConfig(tie="residual")
    assert tied.stop_rule_of("full").threshold == 0
    assert [each.steps_of("full") for each in (released, tied)] == [20, 20]
    assert [each.steps_of("head") for each in (released, tied)] == [20, 40]
    assert eft_fast.EftConfig(tie="residual", max_steps=7).stop_rule_of("head").max_steps == 7


def test_the_error_that_ends_a_fit_does_not_fall_with_confidences(regressor, body, config):
    """Unsure keypoints weigh less in the energy; the distance at which a fit may end stays."""
    people = make_people(2)
    sure, unsure = (
        [
            replace(p, given=torch.cat([p.given[:, :2], level * (p.given[:, 2:] > 0)], 1))
            for p in people
        ]
        for level in (1.0, 0.05)
    )
    loss, start = EftLoss(regressor, body, config), answer_of(regressor, people)
    (energy, error), (less, same) = (
        loss(start, EftTarget.of(group), start) for group in (sure, unsure)
    )
    torch.testing.assert_close(same, error)
    assert (less < energy).all()
