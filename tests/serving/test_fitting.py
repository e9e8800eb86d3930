"""The fit in numpy: its derivatives, the torch oracle after each solve, and people apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast.body import load_body
from eft_fast.deploy.fit_data import make_fit_asset
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import fit_map
from eft_fast.map_fit.hypotheses import flip_bone as flip_bone_torch
from eft_fast.map_fit.robust import robust_factor as robust_factor_torch
from eft_fast.map_rules import BONES, NUM_STATE
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import OPEN_COVARIANCE_PATH, read_error_covariance
from eft_fast.models.keypoint_noise import KeypointNoise
from eft_fast.ops.map import MapState, map_evaluate
from eft_fast.serving.fitting import solver
from eft_fast.serving.fitting.asset import FitAsset
from eft_fast.serving.fitting.energy import Problem, State
from eft_fast.serving.fitting.fit import fit_people
from eft_fast.serving.fitting.robust import robust_factor
from eft_fast.serving.fitting.rotations import (
    right_jacobian_inverse,
    rotation_exp,
    rotation_log,
)
from eft_fast.serving.fitting.search import flip_bone
from eft_fast.serving.fitting.solver import Solution, solve
from tests.map_fit.people import make_people
from tests.ops.test_map import Case, make_case, solution

F64 = torch.float64
#: Worst difference to the oracle over the largest number. Measured: 2e-14.
SAME = 1e-12
CAMERAS = [pytest.param(False, id="weak"), pytest.param(True, id="pinhole")]


@pytest.fixture(scope="module")
def asset() -> FitAsset:
    return make_fit_asset(load_body("open"), read_error_covariance(OPEN_COVARIANCE_PATH))


@pytest.fixture(scope="module")
def body64():
    return load_body("open").double()


def to_state(state: MapState | RegressorOutput) -> State:
    return State(*(part.double().numpy() for part in state))


def to_problem(asset: FitAsset, case: Case, joint_set: str) -> tuple[Problem, State]:
    pinhole = case.options.get("pinhole")
    problem = Problem(
        asset.points(joint_set),
        to_state(case.centre),
        case.keypoints.numpy(),
        case.precision.numpy(),
        case.frame.numpy(),
        None if pinhole is None else pinhole.numpy(),
    )
    return problem, to_state(case.options["begin"])


def difference(got: np.ndarray, want: torch.Tensor) -> float:
    return float(np.abs(got - want.numpy()).max() / np.abs(want.numpy()).max())


@pytest.mark.parametrize("pinhole", CAMERAS)
@pytest.mark.parametrize("joint_set", ["coco17", "spin49", "smpl24", "op25", "mp33"])
def test_model_equals_the_oracle(asset, body64, joint_set, pinhole):
    case = make_case(5, pinhole=pinhole, plan=body64.points_plan(joint_set))
    problem, begin = to_problem(asset, case, joint_set)
    want = map_evaluate(*case.arguments(), **case.options, backend="torch")
    trial = problem.try_state(begin)
    model = problem.model(trial)
    for got, name in (
        (trial.energy, "energy"),
        (trial.data, "data"),
        (model.gradient, "gradient"),
        (model.hessian, "hessian"),
    ):
        assert difference(got, getattr(want, name)) < SAME, name


@pytest.mark.parametrize("pinhole", CAMERAS)
@pytest.mark.parametrize("joint_set", ["coco17", "spin49"])
def test_every_solve_equals_the_oracles(asset, body64, joint_set, pinhole):
    case = make_case(6, pinhole=pinhole, plan=body64.points_plan(joint_set))
    problem, begin = to_problem(asset, case, joint_set)
    for steps in range(8):
        want = solution(case, "torch", steps=steps, tolerance=0.0)
        got = solve(problem, begin=begin, steps=steps, tolerance=0.0)
        for name, value in (*got.state._asdict().items(), ("energy", got.energy)):
            assert difference(value, getattr(want, name)) < SAME, (steps, name)
        assert got.steps.tolist() == want.steps.tolist()
    want = solution(case, "torch", steps=40, tolerance=1e-5)
    got = solve(problem, begin=begin, steps=40, tolerance=1e-5)
    assert got.steps.tolist() == want.steps.tolist()
    assert got.converged.tolist() == want.converged.tolist()


@pytest.mark.parametrize("pinhole", CAMERAS)
def test_derivatives_are_finite_differences(asset, body64, pinhole):
    """Of the energy and of the picture, by each of the 85 numbers; fourth order."""
    case = make_case(2, pinhole=pinhole, plan=body64.points_plan("coco17"))
    problem, begin = to_problem(asset, case, "coco17")
    trial = problem.try_state(begin)
    gradient, slopes = problem.model(trial).gradient, problem.slopes(trial)
    size = 1e-3
    for unknown in range(NUM_STATE):
        energy, image = np.zeros(2), np.zeros((2, 17, 2))
        for at, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            step = np.zeros((2, NUM_STATE))
            step[:, unknown] = at * size
            moved = problem.try_state(problem.move(begin, step))
            energy += factor * moved.energy / (12 * size)
            image += factor * moved.image / (12 * size)
        np.testing.assert_allclose(
            gradient[:, unknown], energy / 2, atol=1e-9 * np.abs(gradient).max()
        )
        np.testing.assert_allclose(slopes[..., unknown], image, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 9e-3, 1.1e-2, 0.5, 2.0, 3.14159])
def test_log_undoes_exp_and_its_jacobian_holds(angle):
    axis = np.random.default_rng(0).normal(size=(20, 3))
    vector = angle * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    matrix = rotation_exp(vector)
    np.testing.assert_allclose(
        matrix @ matrix.swapaxes(1, 2), np.tile(np.eye(3), (20, 1, 1)), atol=1e-14
    )
    np.testing.assert_allclose(rotation_log(matrix), vector, atol=1e-9 if angle > 3 else 1e-14)
    if angle > 3:
        return
    jacobian, size = right_jacobian_inverse(vector), 1e-4
    for axis_number in range(3):
        slope = np.zeros((20, 3))
        for at, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            step = np.zeros((20, 3))
            step[:, axis_number] = at * size
            slope += factor * rotation_log(matrix @ rotation_exp(step)) / (12 * size)
        np.testing.assert_allclose(jacobian[..., axis_number], slope, atol=1e-10)


def spoilt(count: int):
    """People whose fits pass all stages: far-off wrists, exchanged arms, bodies turned round."""
    people = make_people(load_body("open"), count, seed=3, noise=0.01)
    names, keypoints = JOINT_SETS["coco17"].names, people.keypoints.clone()
    keypoints[::4, names.index("lwri"), :2] += 1.0
    for joint in ("elb", "wri"):
        left, right = names.index(f"l{joint}"), names.index(f"r{joint}")
        keypoints[1::4, [left, right]] = keypoints[1::4, [right, left]]
    rotmat = people.init.pred_rotmat.clone()
    rotmat[2::4, 0] *= torch.tensor([-1.0, 1.0, -1.0])
    keypoints[3::4, 9:, 2] = 0.0
    return people.init._replace(pred_rotmat=rotmat), keypoints.double(), people.precision.double()


@pytest.mark.parametrize("camera", ["weak", "assumed", "given"])
def test_the_whole_fit_equals_torchs(asset, body64, camera):
    """Hypotheses, exchanged arms, robust rounds and posterior: the same choices and numbers."""
    init, keypoints, precision = spoilt(12)
    config = MapConfig(distance=None) if camera == "weak" else MapConfig()
    lens = np.tile([4.4, 4.5, 0.1, -0.1], (12, 1)) if camera == "given" else None
    matrix = None
    if lens is not None:
        matrix = torch.diag_embed(torch.tensor([[4.4, 4.5, 1.0]], dtype=F64)).repeat(12, 1, 1)
        matrix[:, :2, 2] = torch.tensor([0.1, -0.1], dtype=F64)
    exact = RegressorOutput(*(part.double() for part in init))
    want = fit_map(body64, exact, keypoints, precision, config=config, intrinsics=matrix)
    own = replace(asset, precision=precision.numpy())
    got = fit_people(own, to_state(exact), keypoints.numpy(), config=config, pinhole=lens)
    for name in (
        "steps",
        "converged",
        "finite",
        "turned",
        "flipped",
        "swapped_arms",
        "swapped_legs",
    ):
        assert getattr(got, name).tolist() == getattr(want, name).tolist(), name
    assert got.turned.any()
    assert camera == "given" or got.flipped.any()
    assert got.swapped_arms.any()
    assert (got.weight_factor < 0.5).any()
    for name in ("energy", "init_energy", "weight_factor", "joint_sigma_mm"):
        assert difference(getattr(got, name), getattr(want, name)) < 1e-6, name
    for value, other in zip(got.final, want.final, strict=True):
        assert difference(value, other) < 1e-7


def test_one_alone_is_bitwise_one_of_64(asset):
    init, keypoints, precision = spoilt(64)
    own, state = replace(asset, precision=precision.numpy()), to_state(init)
    whole = fit_people(own, state, keypoints.numpy())
    assert (whole.weight_factor < 0.5).any()
    assert whole.turned.any()
    assert whole.swapped_arms.any()
    for row in range(0, 64, 5):
        one = np.array([row])
        alone = fit_people(own, state.take(one), keypoints.numpy()[one])
        for name in vars(whole):
            mine, all_ = getattr(alone, name), getattr(whole, name)
            if name == "final":
                assert all(np.array_equal(a[0], b[row]) for a, b in zip(mine, all_, strict=True))
            else:
                assert np.array_equal(mine[0], all_[row], equal_nan=True), name


def test_more_people_than_a_piece_are_the_same_people(asset, monkeypatch):
    init, keypoints, precision = spoilt(7)
    own, state = replace(asset, precision=precision.numpy()), to_state(init)
    whole = fit_people(own, state, keypoints.numpy())
    monkeypatch.setattr("eft_fast.serving.fitting.fit.PEOPLE_AT_ONCE", 3)
    pieces = fit_people(own, state, keypoints.numpy())
    assert np.array_equal(whole.final.rotmat, pieces.final.rotmat)
    assert np.array_equal(whole.joint_sigma_mm, pieces.joint_sigma_mm)
    nobody = fit_people(own, state.take(np.arange(0)), keypoints.numpy()[:0])
    assert nobody.final.rotmat.shape == (0, 24, 3, 3)


def test_bad_people_change_nobody(asset):
    init, keypoints, precision = spoilt(8)
    own, state = replace(asset, precision=precision.numpy()), to_state(init)
    whole = fit_people(own, state, keypoints.numpy())
    bad = keypoints.numpy().copy()
    bad[1, :, 2], bad[2, :, :2] = 0.0, np.nan
    rotmat = state.rotmat.copy()
    rotmat[5] = np.nan
    fits = fit_people(own, state._replace(rotmat=rotmat), bad)
    others = [0, 3, 4, 6, 7]
    assert np.array_equal(fits.final.rotmat[others], whole.final.rotmat[others])
    assert fits.finite.tolist() == [True] * 5 + [False] + [True] * 2
    assert np.isnan(fits.joint_sigma_mm[5]).all()
    np.testing.assert_allclose(fits.final.betas[1:3], state.betas[1:3], atol=1e-9)


def test_a_singular_system_fails_for_its_person_alone():
    """What no energy makes; rounding might."""
    good = np.diag(np.arange(1.0, NUM_STATE + 1))
    model = solver.Model(
        np.ones((3, NUM_STATE)), np.stack([good, np.zeros((NUM_STATE, NUM_STATE)), good])
    )
    step, promise = solver._solve_damped(model, np.full(3, 0.1))
    assert np.isnan(step[1]).all()
    assert np.isnan(promise[1])
    np.testing.assert_allclose(step[[0, 2]], -1 / (1.1 * np.tile(np.arange(1, 86), (2, 1))))


@pytest.mark.parametrize("bone", BONES)
def test_flipped_bones_are_torchs(asset, body64, bone):
    init, _, _ = spoilt(4)
    exact = RegressorOutput(*(part.double() for part in init))
    want = flip_bone_torch(body64.points_plan("smpl24"), MapState(*exact), bone)
    got = flip_bone(asset.points("smpl24"), to_state(exact), bone)
    assert difference(got.rotmat, want.rotmat) < SAME


def test_a_curve_of_noise_weighs_as_torchs(asset, body64):
    init, keypoints, precision = spoilt(4)
    keypoints[..., 2] *= torch.linspace(0.1, 1.0, 17, dtype=F64)
    curve = KeypointNoise(np.array([0.2, 0.9]), np.array([0.05, 0.01]), 0, "chosen")
    config = MapConfig(keypoint_noise=curve, max_steps=3, hypotheses=False, swaps=False)
    exact = RegressorOutput(*(part.double() for part in init))
    want = fit_map(body64, exact, keypoints, precision, config=config)
    own = replace(asset, precision=precision.numpy())
    got = fit_people(own, to_state(exact), keypoints.numpy(), config=config)
    assert difference(got.init_energy, want.init_energy) < SAME
    plain = fit_people(own, to_state(exact), keypoints.numpy(), config=MapConfig(max_steps=3))
    assert difference(plain.init_energy, want.init_energy) > 0.01


def test_robust_factors_are_torchs():
    squared = np.random.default_rng(0).exponential(20.0, (30, 16))
    squared[np.random.default_rng(1).random((30, 16)) < 0.3] = np.nan
    squared[3] = np.nan
    want = robust_factor_torch(torch.from_numpy(squared), 4.0)
    np.testing.assert_allclose(robust_factor(squared, 4.0), want.numpy(), rtol=1e-14)


def test_solutions_are_chosen_and_put(asset):
    init, keypoints, precision = spoilt(4)
    own, state = replace(asset, precision=precision.numpy()), to_state(init)
    fits = fit_people(own, state, keypoints.numpy())
    one = Solution(state, *(np.arange(4.0),) * 2, np.full(4, 3), *(np.ones(4, bool),) * 2)
    other = replace(one, state=fits.final, steps=np.full(4, 5))
    chosen = one.choose(np.array([True, False, False, True]), other)
    assert chosen.steps.tolist() == [8] * 4
    assert np.array_equal(chosen.state.betas[[0, 3]], fits.final.betas[[0, 3]])
    assert np.array_equal(chosen.state.betas[[1, 2]], state.betas[[1, 2]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"joint_set": "mpiinf28"}, "joint_set must be one of"),
        ({"joint_set": "op25"}, r"keypoints_2d must be \[4, 25, 3\]"),
        ({"pinhole": np.zeros((3, 4))}, r"pinhole must be \[4, 4\]"),
        ({"config": MapConfig(fill="landmarks")}, "fill must be 'none'"),
        ({"config": MapConfig(covariance="x.npz")}, "covariance must be None"),
        ({"config": MapConfig(keypoint_noise="x")}, "keypoint_noise: must be one of labels, d"),
    ],
)
def test_wrong_calls_are_refused(asset, options, words):
    init, keypoints, _ = spoilt(4)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        fit_people(asset, to_state(init), keypoints.numpy(), **options)
