"""The fit as ONNX operators, in pieces and as a whole, against its forms in numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eft_fast.body import load_body
from eft_fast.deploy.fit_data import make_fit_asset
from eft_fast.deploy.fit_graph.body import PointsGraph
from eft_fast.deploy.fit_graph.energy import State as GraphState
from eft_fast.deploy.fit_graph.flips import mirror_in_depth
from eft_fast.deploy.fit_graph.problem import make_problem
from eft_fast.deploy.fit_graph.rotations import (
    right_jacobian_inverse,
    rotation_exp,
    rotation_log,
)
from eft_fast.deploy.fit_graph.solver import scale_to_one, solve_linear
from eft_fast.deploy.fit_verify import TOLERANCES, fit_difference
from eft_fast.map_fit.config import SOLVER_ONLY, MapConfig
from eft_fast.map_fit.fit import fit_map
from eft_fast.map_fit.problem import MapState
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_covariance import OPEN_COVARIANCE_PATH, read_error_covariance
from eft_fast.serving.fitting import rotations, search
from eft_fast.serving.fitting.energy import State
from eft_fast.serving.fitting.fit import _make_problem
from tests.deploy.fit_program import make_fit_program, run_values
from tests.map_fit.people import make_people


@pytest.fixture(scope="module")
def body():
    return load_body("open").double()


@pytest.fixture(scope="module")
def asset(body):
    return make_fit_asset(body, read_error_covariance(OPEN_COVARIANCE_PATH))


@pytest.fixture(scope="module")
def people():
    """Six people: plain, few keypoints, none, a gross error, exchanged arms, much noise."""
    made = make_people(load_body("open"), 6, noise=0.008, seed=1)
    keypoints = made.keypoints.double().numpy()
    keypoints[0, [3, 4, 9], 2] = (0.4, 0.0, np.nan)
    keypoints[1, 4:, 2] = 0.0
    keypoints[2, :, 2] = 0.0
    keypoints[3, 10, :2] = (0.9, -0.9)
    keypoints[4][[7, 8, 9, 10]] = keypoints[4][[8, 7, 10, 9]]
    keypoints[5, :, :2] += np.random.default_rng(0).normal(size=(17, 2)) * 0.05
    sigma = np.where(keypoints[..., 2] > 0.55, 0.015, 0.045)
    init = State(*(part.double().numpy() for part in made.init))
    return init, keypoints, sigma


def test_rotations_equal_numpys_at_every_angle():
    draw = np.random.default_rng(0)
    axis = draw.normal(size=(8, 24, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angles = np.array([0.0, 1e-8, 1e-4, 0.0099, 0.0101, 1.0, 3.0, 3.1415])
    vector = axis * angles[:, None, None]
    matrix = rotations.rotation_exp(vector)

    def build(vector, matrix):
        log = rotation_log(matrix)
        return [rotation_exp(vector), log.vector, right_jacobian_inverse(log)]

    exp, log, jacobian = run_values(build, vector=vector, matrix=matrix)
    np.testing.assert_allclose(exp, matrix, atol=5e-7)
    back = rotations.rotation_exp(log.astype(float))
    np.testing.assert_allclose(back, matrix, atol=2e-6)
    # At half a turn the Jacobian grows without bound in the sign of the axis, not in its size.
    np.testing.assert_allclose(
        jacobian[:7], rotations.right_jacobian_inverse(vector[:7]), atol=3e-6
    )


def test_bones_are_mirrored_as_in_numpy():
    bone = np.random.default_rng(0).normal(size=(4, 8, 3))
    bone[0, 0], bone[0, 1] = (0.0, 0.0, 0.3), (0.2, 0.0, 0.0)
    (got,) = run_values(lambda value: [mirror_in_depth(value)], value=bone)
    want = search.mirror_in_depth(bone.reshape(-1, 3)).reshape(4, 8, 3, 3)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("count", [1, 72])
def test_systems_are_solved_to_single_precision(count):
    """Of a condition of 20,000, as those of people, before and 1,000 after they are scaled."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(3, 34, 85)) * 8
    matrix = rows.swapaxes(1, 2) @ rows + np.eye(85) * np.geomspace(0.7, 500, 85)
    right = draw.normal(size=(3, 85, count))

    def build(matrix, right):
        unit, scaled = scale_to_one(matrix)
        return [solve_linear(scaled, right * unit, count) * unit]

    (got,) = run_values(build, matrix=matrix, right=right)
    want = np.linalg.solve(matrix, right)
    scale = np.linalg.norm(want, axis=1, keepdims=True)
    assert (np.abs(got - want) / scale).max() < 1e-3


@pytest.mark.parametrize("is_given", [False, True])
def test_energy_gradient_and_hessian_equal_numpys(asset, people, is_given):
    init, keypoints, sigma = people
    points = asset.points("coco17")
    pinhole = np.tile([4.5, 4.2, 0.1, -0.1], (6, 1)) * is_given
    want = _make_problem(
        points, asset.points("smpl24"), asset.precision, init, keypoints, SOLVER_ONLY
    )
    if is_given:
        object.__setattr__(want, "pinhole", pinhole)
    # Away from the answer, so that every part of the prior counts.
    state = want.move(init, 0.2 * np.random.default_rng(0).normal(size=(6, 85)))
    trial = want.try_state(state)
    model = want.model(trial)

    def build(*values):
        centre, other, rest = GraphState(*values[:3]), GraphState(*values[3:6]), values[6:]
        problem = make_problem(PointsGraph(points), asset.precision, centre, *rest, 5.0)
        return list(problem.evaluate(other))

    inputs = {f"c{k}": part for k, part in enumerate(init)}
    inputs |= {f"s{k}": part for k, part in enumerate(state)}
    got = run_values(build, **inputs, keypoints=keypoints, sigma=sigma, pinhole=pinhole)
    np.testing.assert_allclose(got[0][:, 0], trial.energy, rtol=1e-5)
    for mine, theirs in ((got[1][..., 0], model.gradient), (got[2], model.hessian)):
        assert np.abs(mine - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("is_given", [False, True])
def test_fits_equal_torchs(body, asset, people, is_given):
    """All stages: the decisions, the bodies, what the robust weights left, how sure."""
    init, keypoints, sigma = people
    start = RegressorOutput(*(torch.from_numpy(part) for part in init))
    pinhole = np.tile([4.5, 4.2, 0.1, -0.1], (6, 1)) * is_given
    matrix = torch.tensor([[4.5, 0, 0.1], [0, 4.2, -0.1], [0, 0, 1]]).double().repeat(6, 1, 1)
    want = fit_map(
        body,
        start,
        torch.from_numpy(keypoints),
        torch.from_numpy(asset.precision),
        intrinsics=matrix if is_given else None,
    )
    got = make_fit_program(asset)(init, keypoints, sigma, pinhole)
    expected = {
        "rotmat": want.final.pred_rotmat,
        "betas": want.final.pred_betas,
        "keypoints_2d": want.problem.project(MapState(*want.final)),
        "joint_sigma_mm": want.joint_sigma_mm,
    }
    expected = {name: value.numpy() for name, value in expected.items()}
    far = fit_difference(got, expected, asset, 256)
    for name, limit in TOLERANCES.items():
        assert far[name].max() < limit, name
    taken = np.stack([want.turned, want.flipped, want.swapped_arms], 1)
    np.testing.assert_array_equal(got["hypothesis"] > 0, taken)
    assert taken.any(), "nobody took a hypothesis"
    np.testing.assert_allclose(got["keypoint_weight"], want.weight_factor, atol=2e-3)
    assert (got["keypoint_weight"] < 0.5).any(), "nobody has robust weights"
    np.testing.assert_allclose(got["energy"], want.energy, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["init_energy"], want.init_energy, rtol=1e-4)
    np.testing.assert_array_equal(got["converged"] > 0, want.converged)
    focal = want.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    np.testing.assert_allclose(got["camera"][:, :2], focal, rtol=1e-5)
    # Without keypoints the answer stays, to the bit.
    np.testing.assert_array_equal(got["rotmat"][2], init.rotmat[2].astype(np.float32))


def test_nobodys_fit_depends_on_others(asset, people):
    init, keypoints, sigma = people
    run = make_fit_program(asset)
    together = run(init, keypoints, sigma)
    for row in (0, 3):
        one = slice(row, row + 1)
        alone = run(init.take(one), keypoints[one], sigma[one])
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], together[name][row], rtol=2e-3, atol=2e-3)


def test_joints_and_mesh_are_those_of_the_body(body, asset, people):
    init, keypoints, sigma = (
        State(*(part[:2] for part in people[0])),
        people[1][:2],
        people[2][:2],
    )
    got = make_fit_program(asset, joints="smpl45", mesh=body)(init, keypoints, sigma)
    rotmat, betas = (torch.from_numpy(got[name]).double() for name in ("rotmat", "betas"))
    posed = body(betas, rotmat[:, 1:], rotmat[:, :1], pose2rot=False)
    np.testing.assert_allclose(got["vertices"], posed.vertices, atol=2e-6)
    np.testing.assert_allclose(got["joints"], posed.joints, atol=2e-6)


def test_more_keypoints_than_unknowns_are_no_matter(body, asset, people):
    """Of the 49 points some joints stand twice."""
    init = State(*(part[:1] for part in people[0]))
    keypoints = np.ones((1, 49, 3))
    points = asset.points("spin49")
    posed = points.pose(init.betas, init.rotmat)
    keypoints[..., :2] = init.cam[:, None, :1] * posed.points[..., :2] + init.cam[:, None, 1:]
    keypoints[..., :2] += 0.03 * np.random.default_rng(0).normal(size=(1, 49, 2))
    start = RegressorOutput(*(torch.from_numpy(part) for part in init))
    want = fit_map(
        body,
        start,
        torch.from_numpy(keypoints),
        torch.from_numpy(asset.precision),
        joint_set="spin49",
        config=MapConfig(),
    )
    run = make_fit_program(asset, joint_set="spin49")
    got = run(init, keypoints, np.full((1, 49), 0.015))
    np.testing.assert_allclose(got["rotmat"], want.final.pred_rotmat, atol=2e-3)
    np.testing.assert_allclose(got["energy"], want.energy, rtol=1e-4)
