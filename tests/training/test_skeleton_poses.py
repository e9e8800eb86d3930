"""Poses of labelled people: fitted without pictures, sorted by what they do, lent to others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.body import Smpl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models import load_regressor
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.synth import PosePool, SynthConfig
from eft_fast.training import simulated_people
from eft_fast.training.simulated_people import PeopleSimulator
from eft_fast.training.skeleton_poses import (
    FittedPoses,
    fit_skeletons,
    given_labels,
    kinds_of,
    load_poses,
    save_poses,
)
from eft_fast.training.skeletons import Skeletons


def make_simulator(body: Smpl, pool: PosePool, **options: object) -> PeopleSimulator:
    plain = SynthConfig()
    calm = replace(plain.pose, jitter=0.0, mirror=0.0)
    simulated_people._POSTURES, kept = 20, simulated_people._POSTURES
    try:
        return PeopleSimulator(body, pool, replace(plain, pose=calm, child=0.0), **options)
    finally:
        simulated_people._POSTURES = kept


@pytest.fixture(scope="module")
def people(open_body: Smpl, pool: PosePool) -> Skeletons:
    """Labels of simulated people, all of them."""
    drawn = make_simulator(open_body, pool).draw(200, torch.Generator().manual_seed(0))
    places = drawn.targets.landmarks_2d[:, :17]
    return Skeletons(torch.cat([places, torch.full((200, 17, 1), 2.0)], -1))


def test_who_fits_lends_the_pose_upright(people: Skeletons, open_body: Smpl) -> None:
    network = load_regressor("open-2")
    assert isinstance(network, MoveNetRegressor)
    poses = fit_skeletons(people, network, open_body, count=30)
    assert poses.tried == 30
    assert 19 <= len(poses.rotmat) <= 30
    # Seen by a level camera again, most have the head up: the body's y axis up, y of motion.
    assert poses.rotmat[:, 0, 1, 1].median() > 0.8
    determinant = torch.linalg.det(poses.rotmat)
    torch.testing.assert_close(determinant, torch.ones_like(determinant), rtol=0, atol=1e-3)


def test_who_is_upright_lends_no_pose(people: Skeletons, open_body: Smpl) -> None:
    upright = kinds_of(people.labels)["upright"]
    assert 100 < upright.sum() < 180
    network = load_regressor("open-2")
    assert isinstance(network, MoveNetRegressor)
    chosen = Skeletons(people.labels[upright])
    assert fit_skeletons(chosen, network, open_body, count=40).tried == 0
    assert fit_skeletons(people, network, open_body, count=400).tried == (~upright).sum()


def test_nobody_without_legs_is_asked(people: Skeletons, open_body: Smpl) -> None:
    labels = people.labels.clone()
    labels[:, 13] = 0  # a knee
    network = load_regressor("open-2")
    assert isinstance(network, MoveNetRegressor)
    poses = fit_skeletons(Skeletons(labels), network, open_body, count=40)
    assert poses.tried == 0
    assert len(poses.rotmat) == 0


def test_poses_are_stored(tmp_path: Path) -> None:
    rotmat = axis_angle_to_matrix(torch.randn(5, 24, 3))
    save_poses(tmp_path / "poses.npz", FittedPoses(rotmat, 9))
    loaded = load_poses(tmp_path / "poses.npz")
    assert loaded.tried == 9
    torch.testing.assert_close(loaded.rotmat, rotmat, rtol=0, atol=1e-3)
    (tmp_path / "poses.npz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"poses\.npz must be an \.npz with rotmat and tried"):
        load_poses(tmp_path / "poses.npz")


def test_simulated_people_have_such_poses(open_body: Smpl, pool: PosePool) -> None:
    fitted = axis_angle_to_matrix(0.5 * torch.randn(3, 24, 3))
    lent = make_simulator(open_body, pool, fitted=fitted, fitted_odds=0.5)
    rotmat = lent.draw(400, torch.Generator().manual_seed(0)).targets.rotmat
    gap = (rotmat[:, None, 1:] - fitted[None, :, 1:]).abs().amax((2, 3, 4)).amin(1)
    assert 0.4 < (gap < 1e-5).float().mean() < 0.6
    nobody = make_simulator(open_body, pool, fitted=fitted[:0], fitted_odds=0.5)
    assert len(nobody.draw(4, torch.Generator().manual_seed(0)).seen) == 4


def test_hidden_labels_count_half() -> None:
    labels = torch.zeros(1, 17, 3)
    labels[0, 0], labels[0, 1] = torch.tensor([0.1, 0.2, 2.0]), torch.tensor([0.3, 0.4, 1.0])
    given = given_labels(labels)
    assert given[0, :3, 2].tolist() == [1.0, 0.5, 0.0]
    assert torch.equal(given[..., :2], labels[..., :2])


def standing() -> torch.Tensor:
    """Somebody upright, y down."""
    places = np.zeros((17, 3), np.float32)
    places[:, 2] = 2
    heights = {5: -0.5, 6: -0.5, 11: 0.0, 12: 0.0, 13: 0.5, 14: 0.5, 15: 0.9, 16: 0.9}
    for point, height in heights.items():
        places[point, :2] = 0.1 if point % 2 else -0.1, height
    return torch.from_numpy(places)


def turned(degrees: float) -> torch.Tensor:
    person = standing()
    angle = np.deg2rad(degrees)
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    person[:, :2] = person[:, :2] @ turn.float().T
    return person


def test_kinds_go_by_trunk_and_thighs() -> None:
    sitting, cut, no_hip, one_leg = (standing() for _ in range(4))
    sitting[13:15, 1] = 0.1
    cut[13:, 2] = 0
    no_hip[11, 2] = 0
    one_leg[13, 2] = 0
    named = {
        "upright": standing(), "sitting": sitting, "cut": cut, "lying": turned(90),
        "bent": turned(-45), "inverted": turned(180), "none": no_hip, "neither": one_leg,
    }  # fmt: skip
    kinds = kinds_of(torch.stack(list(named.values())))
    for row, name in enumerate(named):
        found = [kind for kind, chosen in kinds.items() if chosen[row]]
        assert found == ([name] if name in kinds else []), name
