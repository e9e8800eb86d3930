"""The parts of the direct fit: flips, weights, posterior, fill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eft_fast import ops
from eft_fast.body.smpl import Smpl
from eft_fast.imaging import Crop, crop_image, to_input
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fill import (
    check_can_fill,
    find_places,
    finds_as_thunder,
    landmarks_as_fill,
    movenet_as_fill,
)
from eft_fast.map_fit.fit import fit_map
from eft_fast.map_fit.hypotheses import compose, flip_bone, mirror_in_depth
from eft_fast.map_fit.posterior import joint_sigma, joint_slopes, keypoint_gain
from eft_fast.map_fit.problem import FitProblem
from eft_fast.map_fit.robust import robust_energy, robust_factor
from eft_fast.map_rules import BONES, SIGMA_POWER, SIGMA_SCALE, limb_pairs
from eft_fast.models.keypoint_noise import CURVES
from eft_fast.models.keypoint_rig import KeypointRig
from eft_fast.models.movenet import MoveNet
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.ops.map import MapState
from eft_fast.ops.map_reference import move
from eft_fast.person_keypoints import CROP_FACTOR
from tests.map_fit.people import COCO, People


@pytest.mark.parametrize("bone", [(0.3, -0.5, 0.2), (1.0, 0.0, 0.0), (0.0, 0.0, -0.4)])
def test_a_mirrored_direction_is_a_rotation_of_it(bone: tuple[float, float, float]) -> None:
    d = torch.tensor([bone], dtype=torch.float64)
    Q = mirror_in_depth(d)
    torch.testing.assert_close((Q @ d[..., None])[..., 0], d * torch.tensor([1.0, 1.0, -1.0]))
    torch.testing.assert_close(Q @ Q.transpose(1, 2), torch.eye(3, dtype=torch.float64)[None])
    torch.testing.assert_close(torch.linalg.det(Q), torch.ones(1, dtype=torch.float64))
    across = torch.tensor([[-bone[1], bone[0], 0.0]], dtype=torch.float64)
    torch.testing.assert_close((Q @ across[..., None])[..., 0], across)


@pytest.mark.parametrize("bone", BONES)
def test_a_flipped_bone_looks_the_same(body: Smpl, people: People, bone: tuple[int, int]) -> None:
    """Everybody's picture of the joints stays, the bone leans the other way, the rest shifts."""
    plan = body.points_plan("smpl24")
    state = MapState(*people.truth)
    flipped = flip_bone(plan, state, bone)
    before, after = (ops.smpl_points(plan, s.betas, s.rotmat) for s in (state, flipped))
    lean, other = (points[:, bone[1], 2] - points[:, bone[0], 2] for points in (before, after))
    torch.testing.assert_close(other, -lean, rtol=0, atol=1e-5)
    torch.testing.assert_close(after[..., :2], before[..., :2], rtol=0, atol=1e-5)
    below = _below(plan.parents.tolist(), bone[0])
    still = [j for j in range(24) if j not in below]
    torch.testing.assert_close(after[:, still], before[:, still], rtol=0, atol=1e-5)


def _below(parents: list[int], joint: int) -> set[int]:
    found = {joint}
    for child, parent in enumerate(parents):
        if parent in found:
            found.add(child)
    return found - {joint}


def test_compose_is_a_product() -> None:
    a, b = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(compose(a, b), a @ b)


def test_robust_weights_and_energy(body: Smpl, people: People) -> None:
    squared = torch.tensor([[0.0, 16.0, 1e6, torch.nan]])
    factor = robust_factor(squared, 4.0)
    # The median of three errors is 16, so K is 16 * 16 / 1.386.
    K = 16 * 16 / 1.386
    expected = torch.tensor([[1.0, (K / (K + 16)) ** 2, (K / (K + 1e6)) ** 2, 1.0]])
    torch.testing.assert_close(factor, expected)
    torch.testing.assert_close(
        robust_factor(torch.tensor([[0.0, 0.1, 16.0]]), 4.0)[0, 2], torch.tensor(0.25)
    )
    config = MapConfig(distance=None, posterior=False)
    fits = fit_map(body, people.init, people.keypoints, people.precision, config=config)
    found = fits.problem.solve(config)
    ones = torch.ones_like(fits.weight_factor)
    r2 = fits.problem.squared_errors(MapState(found.rotmat, found.betas, found.cam))
    bounded = found.energy - r2.sum(1) + (16 * r2 / (16 + r2)).sum(1)
    torch.testing.assert_close(robust_energy(fits.problem, found, ones, config), bounded)


def test_limb_pairs_of_sets() -> None:
    assert limb_pairs(JOINT_SETS[COCO].names, ("elb", "wri")) == [(7, 8), (9, 10)]
    assert len(limb_pairs(JOINT_SETS["spin49"].names, ("elb", "wri"))) == 4


@pytest.fixture(scope="module")
def fitted(body: Smpl, people: People) -> tuple[FitProblem, MapState, torch.Tensor]:
    """Problem with three keypoints left out, answers, energies."""
    keypoints = people.keypoints.clone()
    keypoints[:, [7, 9, 16], 2] = 0
    config = MapConfig(distance=4.0, hypotheses=False, robust=False, swaps=False, posterior=False)
    fits = fit_map(body, people.init, keypoints, people.precision, config=config)
    return fits.problem, MapState(*fits.final), fits.energy


def test_joint_slopes_are_differences(body: Smpl, people: People) -> None:
    state = MapState(*(part[:3].double() for part in people.truth))
    plan = body.points_plan("smpl24").to(dtype=torch.float64)
    slopes = joint_slopes(plan, state)
    frame, h = torch.ones(3, dtype=torch.float64), 1e-5
    for number in (0, 10, 55, 74, 84):
        step = torch.zeros(3, 85, dtype=torch.float64)
        step[:, number] = h
        ends = [
            ops.smpl_points(plan, s.betas, s.rotmat)
            for s in (move(state, step, frame), move(state, -step, frame))
        ]
        first, second = (points - points[:, :1] for points in ends)
        torch.testing.assert_close(
            slopes[..., number], (first - second) / (2 * h), rtol=0, atol=1e-6
        )


def test_joint_sigma_is_that_of_samples(
    body: Smpl, fitted: tuple[FitProblem, MapState, torch.Tensor]
) -> None:
    """Steps drawn from the Laplace covariance, through the linear model."""
    problem, state, energy = fitted
    rows = torch.arange(2)
    part, place = problem.take(rows), MapState(*(value[:2] for value in state))
    sigma = joint_sigma(part, place, energy[:2], body)
    H = part.evaluate(place).hessian.double()
    generator = torch.Generator().manual_seed(0)
    draws = torch.distributions.MultivariateNormal(torch.zeros(85).double(), precision_matrix=H)
    torch.manual_seed(int(torch.randint(1000, (1,), generator=generator)))
    steps = draws.sample((20000,))  # type: ignore[no-untyped-call]
    slopes = joint_slopes(body.points_plan("smpl24"), place)
    moved = torch.einsum("bjci,sbi->sbjc", slopes, steps)
    spread = moved.square().sum(-1).mean(0).sqrt()
    growth = part.tension(energy[:2]).double().clamp(0.05, 10) ** SIGMA_POWER
    expected = 1000 * SIGMA_SCALE * growth[:, None] * spread
    torch.testing.assert_close(sigma.double(), expected, rtol=0.03, atol=1e-6)
    assert bool((sigma[:, 0] == 0).all())


def test_the_gain_of_a_keypoint_is_what_giving_it_brings(
    body: Smpl, fitted: tuple[FitProblem, MapState, torch.Tensor]
) -> None:
    problem, state, _energy = fitted
    gain = keypoint_gain(problem, state, problem.frame * 0.05, body)
    assert bool((gain[:, :7] == 0).all())
    assert bool((gain[:, [7, 9, 16]] > 0).all())
    seen = problem.project(state)
    for k in (7, 16):
        keypoints = problem.keypoints.clone()
        keypoints[:, k, :2] = seen[:, k]
        keypoints[:, k, 2] = 1 / (problem.frame * 0.05) ** 2
        # At one tension for both, so that only the covariance differs.
        ones = problem.num_data * 1.0
        more = replace(problem, keypoints=keypoints)
        spreads = [
            joint_sigma(p, state, e, body).double().square().mean(1).sqrt() / SIGMA_SCALE
            for p, e in ((problem, ones), (more, more.num_data))
        ]
        torch.testing.assert_close(
            gain[:, k].double(), spreads[0] - spreads[1], rtol=1e-3, atol=1e-3
        )


def test_a_wrist_that_is_not_given_is_less_sure(body: Smpl, people: People) -> None:
    sigmas = []
    for confidence in (1.0, 0.0):
        keypoints = people.keypoints.clone()
        keypoints[:, 9, 2] = confidence
        fits = fit_map(body, people.init, keypoints, people.precision, config=MapConfig())
        assert fits.joint_sigma_mm is not None
        sigmas.append(fits.joint_sigma_mm[:, JOINT_SETS["smpl24"].names.index("lwri")])
    assert float((sigmas[1] / sigmas[0]).median()) > 1.2


def test_landmarks_go_to_their_own_joints() -> None:
    source = JOINT_SETS["mp33"]
    places = find_places(source, JOINT_SETS[COCO])
    assert [source.names[k] for k in places] == list(JOINT_SETS[COCO].names)
    of_all = find_places(source, JOINT_SETS["spin49"])
    assert [of_all[k] for k in (0, 19, 25 + 6)] == [-1, 31, 16]
    network = OpenRegressor.make_tiny()
    landmarks = network.landmarks(torch.zeros(2, 3, 256, 256))
    fill = landmarks_as_fill(landmarks, COCO)
    torch.testing.assert_close(fill[:, 9, :2], landmarks.points[:, 15, :2])
    assert bool((fill[..., 2] > 0).all())


class Looker(torch.nn.Module):
    """Stands in for MoveNet: keeps what it sees, answers points one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 1, 1)
        self.input_size = 192
        self.answer = torch.rand(1, 17, 3) * torch.tensor([192.0, 192.0, 1.0])

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        self.seen = rgb
        return self.answer


def test_movenet_fills_in_the_frame_of_the_crop() -> None:
    """It sees what a crop of its own would show, and its points come back to the same places."""
    network, regressor = Looker(), OpenRegressor.make_tiny()
    photo = np.zeros((300, 400, 3), np.uint8)
    photo[..., 0], photo[..., 1] = np.arange(400) // 2, np.arange(300)[:, None] // 2
    box = np.array([100.0, 70.0, 150.0, 180.0])
    crop = Crop.from_box(box, 256)
    inner = Crop.from_box(box, network.input_size, margin=CROP_FACTOR)
    img = to_input(crop_image(photo, crop), regressor.img_mean, regressor.img_std)
    fill = movenet_as_fill(network, torch.from_numpy(img)[None], regressor, COCO)
    assert fill.shape == (1, 17, 3)
    seen = (255 * network.seen[0]).permute(1, 2, 0).numpy()
    # 1 grey level is 2 photo pixels, 1.9 of the crop.
    np.testing.assert_allclose(seen, crop_image(photo, inner), atol=1.0)
    assert abs((seen - crop_image(photo, inner).astype(float)).mean()) < 0.1

    answer = network.answer[0].double().numpy()
    answer[:, :2] -= 0.5  # from the edge of the crop to the centre of its first pixel
    expected = crop.normalise(inner.to_image(answer))
    np.testing.assert_allclose(fill[0, :, :2], expected[:, :2], atol=1e-5)
    np.testing.assert_allclose(fill[0, :, 2], CURVES["movenet"].sigma_of(answer[:, 2]), rtol=1e-5)

    limit = float(np.median(answer[:, 2]))
    sure = movenet_as_fill(network, torch.from_numpy(img)[None], regressor, COCO, limit)
    is_sure = torch.from_numpy(answer[:, 2] >= limit)
    assert 0 < int(is_sure.sum()) < 17
    assert torch.equal(sure[0, is_sure], fill[0, is_sure])
    assert (sure[0, ~is_sure, 2] == 0).all()

    of_all = movenet_as_fill(network, torch.from_numpy(img)[None], regressor, "spin49")
    assert of_all[0, 19].tolist() == [0.0, 0.0, 0.0]  # a big toe, which it has not
    assert torch.equal(of_all[0, 25 + 6], fill[0, JOINT_SETS[COCO].names.index("rwri")])


def test_fill_counts_only_where_nothing_is_given(body: Smpl, people: People) -> None:
    keypoints = people.keypoints.clone()
    keypoints[:, 9, 2] = 0
    fill = torch.zeros(16, 17, 3)
    fill[..., :2] = people.keypoints[..., :2] + 0.5
    fill[:, 9, :2] = people.keypoints[:, 9, :2]
    fill[..., 2] = 0.03
    config = MapConfig(distance=None, hypotheses=False, robust=False, swaps=False, posterior=False)
    errors = []
    for value in (None, fill):
        fits = fit_map(body, people.init, keypoints, people.precision, config=config, fill=value)
        state = MapState(*fits.final)
        errors.append((fits.problem.project(state) - people.keypoints[..., :2]).norm(dim=-1))
    assert float(errors[1][:, 9].mean()) < 0.5 * float(errors[0][:, 9].mean())
    assert float(errors[1][:, :9].mean()) < 0.05


def test_the_curve_is_for_what_thunder_finds() -> None:
    assert finds_as_thunder(MoveNetRegressor.make_tiny())
    rig = KeypointRig(dict(points=17, rows=48, terms=39, joints=1, sources=17))
    assert not finds_as_thunder(MoveNetRegressor(MoveNet("lightning"), rig, width=16, blocks=1))
    assert not finds_as_thunder(OpenRegressor.make_tiny())


def test_who_has_no_landmarks_cannot_fill() -> None:
    check_can_fill(OpenRegressor.make_tiny(), "landmarks")

    class Other:
        id = "spin"

    with pytest.raises(ValueError, match="spin has none; use fill='movenet' or 'none'"):
        check_can_fill(Other(), "landmarks")  # type: ignore[arg-type]
    check_can_fill(Other(), "movenet")  # type: ignore[arg-type]
