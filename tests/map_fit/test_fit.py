"""The direct fit: what it finds, what it bears, and that people do not touch each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from eft_fast import ops
from eft_fast.body.smpl import Smpl
from eft_fast.geometry.cameras import weak_to_pinhole
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import MapFits, fit_map
from eft_fast.map_fit.hypotheses import flip_bone, try_flips
from eft_fast.map_fit.problem import state_of
from eft_fast.map_rules import BONES
from eft_fast.models.base import RegressorOutput
from eft_fast.models.keypoint_noise import KeypointNoise
from eft_fast.ops.map import MapState
from tests.map_fit.people import COCO, People, make_people

#: The solver alone, with the camera that made the keypoints.
PLAIN = MapConfig(distance=None, hypotheses=False, swaps=False, robust=False, posterior=False)
WEAK = MapConfig(distance=None)


def run(body: Smpl, people: People, config: MapConfig, **given: object) -> MapFits:
    return fit_map(
        body,
        people.init,
        people.keypoints,
        people.precision,
        config=config,
        **given,  # type: ignore[arg-type]
    )


def joint_error(body: Smpl, people: People, found: RegressorOutput) -> Tensor:
    """Mean error of the joints about the pelvis, metres."""
    plan = body.points_plan("smpl24")
    pair = [ops.smpl_points(plan, o.pred_betas, o.pred_rotmat) for o in (found, people.truth)]
    first, second = (points - points[:, :1] for points in pair)
    return (first - second).norm(dim=-1).mean(1)


def reprojection(body: Smpl, people: People, found: RegressorOutput) -> Tensor:
    points = ops.smpl_points(body.points_plan(COCO), found.pred_betas, found.pred_rotmat)
    image = found.pred_cam[:, None, :1] * points[..., :2] + found.pred_cam[:, None, 1:]
    return (image - people.keypoints[..., :2]).norm(dim=-1)


def test_the_fit_is_nearer_than_the_answer_in_2d_and_in_3d(body: Smpl, people: People) -> None:
    fits = run(body, people, PLAIN)
    assert bool(fits.finite.all())
    assert bool((fits.energy < fits.init_energy).all())
    before, after = (reprojection(body, people, o).mean() for o in (people.init, fits.final))
    assert float(after) < 0.1 * float(before)
    before, after = (joint_error(body, people, o).mean() for o in (people.init, fits.final))
    assert float(after) < 0.75 * float(before)


def test_hips_and_ankles_count(body: Smpl, people: People) -> None:
    """The released loss leaves them out; here moving one of them moves the fit."""
    names = JOINT_SETS[COCO].names
    plain = run(body, people, PLAIN)
    for name in ("lhip", "rank"):
        moved = people.keypoints.clone()
        moved[:, names.index(name), 0] += 0.05
        other = run(body, replace(people, keypoints=moved), PLAIN)
        assert bool((other.final.pred_rotmat != plain.final.pred_rotmat).flatten(1).any(1).all())


def test_an_unsure_keypoint_pulls_less(body: Smpl, people: People) -> None:
    moved = people.keypoints.clone()
    wrist = JOINT_SETS[COCO].names.index("lwri")
    moved[:, wrist, :2] += 0.1
    errors = []
    for confidence in (1.0, 0.3):
        moved[:, wrist, 2] = confidence
        fits = run(body, replace(people, keypoints=moved), PLAIN)
        errors.append(reprojection(body, replace(people, keypoints=moved), fits.final)[:, wrist])
    assert float(errors[0].mean()) < float(errors[1].mean())


def test_keypoint_noise_says_how_far_to_follow(body: Smpl, people: People) -> None:
    """Keypoints of the built-in detector move the fit less; a curve is a sigma as any other."""
    plain, detected = (
        run(body, people, replace(PLAIN, keypoint_noise=source)) for source in (None, "detector")
    )
    followed, moved = (reprojection(body, people, each.final).mean() for each in (plain, detected))
    assert float(moved) > 2 * float(followed)
    level = KeypointNoise(np.array([0.5]), np.array([0.05]), 0, "made up")
    curve = run(body, people, replace(PLAIN, keypoint_noise=level))
    sigma = run(body, people, replace(PLAIN, sigma=0.05))
    torch.testing.assert_close(curve.final.pred_rotmat, sigma.final.pred_rotmat)


def test_every_person_is_bitwise_the_same_alone(body: Smpl) -> None:
    """All stages taken by somebody: gross errors, exchanged arms, noise."""
    people = spoil(make_people(body, 12, seed=3, noise=0.01))
    whole = run(body, people, WEAK)
    assert bool((whole.weight_factor < 1).any())
    for row in range(12):
        alone = run(body, people.take(slice(row, row + 1)), WEAK)
        for name in ("energy", "steps", "weight_factor", "swapped_arms", "joint_sigma_mm"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[row]), name
        for one, all_ in zip(alone.final, whole.final, strict=True):
            assert torch.equal(one[0], all_[row])


def spoil(people: People) -> People:
    """Every third person has a wrist far off, the one after it exchanged arms."""
    names, keypoints = JOINT_SETS[COCO].names, people.keypoints.clone()
    keypoints[::3, names.index("lwri"), :2] += 1.0
    for joint in ("elb", "wri"):
        left, right = names.index(f"l{joint}"), names.index(f"r{joint}")
        keypoints[1::3, [left, right]] = keypoints[1::3, [right, left]]
    return replace(people, keypoints=keypoints)


def test_one_bad_person_changes_nobody(body: Smpl, people: People) -> None:
    whole = run(body, people, WEAK)
    keypoints = people.keypoints.clone()
    keypoints[3] = 0
    keypoints[5, :, :2] = torch.nan
    rotmat = people.init.pred_rotmat.clone()
    rotmat[7] = torch.nan
    bad = replace(people, keypoints=keypoints, init=people.init._replace(pred_rotmat=rotmat))
    fits = run(body, bad, WEAK)
    others = [row for row in range(16) if row not in (3, 5, 7)]
    for one, other in zip(fits.final, whole.final, strict=True):
        assert torch.equal(one[others], other[others])
    # Without data the answer of the network is the most probable body.
    for row in (3, 5):
        torch.testing.assert_close(
            fits.final.pred_betas[row], people.init.pred_betas[row], rtol=0, atol=1e-5
        )
    assert not bool(fits.finite[7])
    assert bool(fits.finite[[3, 5]].all())


def test_nobody_is_no_fault(body: Smpl, people: People) -> None:
    fits = run(body, people.take(slice(0, 0)), WEAK)
    assert fits.final.pred_betas.shape == (0, 10)


def test_gross_errors_hardly_matter(body: Smpl, people: People) -> None:
    keypoints = people.keypoints.clone()
    keypoints[:, JOINT_SETS[COCO].names.index("rkne"), :2] += 0.8
    spoilt = replace(people, keypoints=keypoints)
    clean = joint_error(body, people, run(body, people, WEAK).final).mean()
    trusting = joint_error(body, people, run(body, spoilt, PLAIN).final).mean()
    bearing = run(body, spoilt, WEAK)
    assert float(bearing.weight_factor[:, 14].max()) < 0.1
    robust = joint_error(body, people, bearing.final).mean()
    assert float(robust) < 1.2 * float(clean)
    assert float(trusting) > 1.5 * float(clean)


def test_exchanged_arms_are_found_and_put_back(body: Smpl, people: People) -> None:
    names, keypoints = JOINT_SETS[COCO].names, people.keypoints.clone()
    for joint in ("elb", "wri"):
        left, right = names.index(f"l{joint}"), names.index(f"r{joint}")
        keypoints[:, [left, right]] = people.keypoints[:, [right, left]]
    clean, found = run(body, people, WEAK), run(body, replace(people, keypoints=keypoints), WEAK)
    assert not bool(clean.swapped_arms.any())
    assert int(found.swapped_arms.sum()) >= 14
    taken = found.swapped_arms
    torch.testing.assert_close(found.energy[taken], clean.energy[taken], rtol=0.25, atol=1.0)


def test_exchanged_legs_are_reported_and_left(body: Smpl, people: People) -> None:
    names, keypoints = JOINT_SETS[COCO].names, people.keypoints.clone()
    for joint in ("kne", "ank"):
        left, right = names.index(f"l{joint}"), names.index(f"r{joint}")
        keypoints[:, [left, right]] = people.keypoints[:, [right, left]]
    config = replace(WEAK, robust=False, leg_margin=20.0)
    found = run(body, replace(people, keypoints=keypoints), config)
    assert int(found.swapped_legs.sum()) >= 8
    assert not bool(run(body, people, WEAK).swapped_legs.any())
    legs = names.index("lank")
    error = reprojection(body, replace(people, keypoints=keypoints), found.final)[:, legs]
    assert float(error.median()) < 0.1  # fitted as they were given


def test_a_body_that_faces_away_is_turned(body: Smpl, people: People) -> None:
    """The network took the back for the front; only the turned prior explains the keypoints."""
    rotmat = people.init.pred_rotmat.clone()
    rotmat[:, 0] = rotmat[:, 0] * torch.tensor([-1.0, 1.0, -1.0])
    wrong = replace(people, init=people.init._replace(pred_rotmat=rotmat))
    fits = run(body, wrong, WEAK)
    assert int(fits.turned.sum()) >= 14
    assert not bool(run(body, people, WEAK).turned.any())
    right = joint_error(body, people, run(body, people, WEAK).final)
    turned = fits.turned
    assert float(joint_error(body, people, fits.final)[turned].mean()) < 1.3 * float(right.mean())


def test_the_assumed_pinhole_is_given_back_and_sees_the_keypoints(
    body: Smpl, people: People
) -> None:
    fits = run(body, people, replace(PLAIN, distance=5.0))
    assert fits.intrinsics is not None
    depth = weak_to_pinhole(people.init.pred_cam, fits.intrinsics)[:, 2]
    torch.testing.assert_close(depth, torch.full((16,), 5.0))
    assert float(fits.problem.squared_errors(fits.problem.centre).mean()) > 10
    state = fits.problem.centre._replace(
        rotmat=fits.final.pred_rotmat, betas=fits.final.pred_betas, cam=fits.final.pred_cam
    )
    assert float(fits.problem.squared_errors(state).nanmean()) < 0.5
    assert run(body, people, PLAIN).intrinsics is None


def test_3d_points_place_what_the_picture_hides(body: Smpl, people: People) -> None:
    """Triangulated joints, about any origin."""
    points = ops.smpl_points(
        body.points_plan(COCO), people.truth.pred_betas, people.truth.pred_rotmat
    )
    given = torch.cat([points + torch.tensor([3.0, -1.0, 9.0]), torch.ones(16, 17, 1)], -1)
    flat = joint_error(body, people, run(body, people, PLAIN).final).mean()
    deep = joint_error(body, people, run(body, people, PLAIN, keypoints_3d=given).final).mean()
    assert float(deep) < 0.5 * float(flat)
    given[:, ::2] = torch.nan
    half = joint_error(body, people, run(body, people, PLAIN, keypoints_3d=given).final).mean()
    assert float(deep) < float(half) < float(flat)


def test_any_joint_set(body: Smpl, people: People) -> None:
    plan = body.points_plan("op25")
    points = ops.smpl_points(plan, people.truth.pred_betas, people.truth.pred_rotmat)
    image = (
        people.truth.pred_cam[:, None, :1] * points[..., :2] + people.truth.pred_cam[:, None, 1:]
    )
    keypoints = torch.cat([image, torch.ones(16, 25, 1)], -1)
    fits = fit_map(body, people.init, keypoints, people.precision, joint_set="op25", config=WEAK)
    assert float(joint_error(body, people, fits.final).mean()) < 0.75 * float(
        joint_error(body, people, people.init).mean()
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("keypoints_3d", torch.zeros(16, 5, 4), r"keypoints_3d must be \[16, 17, 4\]"),
        ("intrinsics", torch.zeros(3, 3), r"intrinsics must be \[16, 3, 3\]"),
        ("fill", torch.zeros(16, 17, 2), r"fill must be \[16, 17, 3\]"),
    ],
)
def test_wrong_shapes_are_refused(
    body: Smpl, people: People, name: str, value: Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(body, people, PLAIN, **{name: value})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fill": "guess"}, "fill must be one of none, landmarks, movenet"),
        ({"fill": "movenet", "fill_above": 1.5}, "fill_above must be a score, 0 to 1, got 1.5"),
        ({"fill": "landmarks", "fill_above": 0.3}, "fill_above goes with fill='movenet'"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"distance": -1.0}, "distance must be positive, or None"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"flip_margin": float("nan")}, "flip_margin must not be negative"),
    ],
)
def test_options_that_no_fit_can_use_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MapConfig(**options)  # type: ignore[arg-type]


def test_the_energy_is_that_of_the_problem_at_the_answer(body: Smpl, people: People) -> None:
    """Turned centres and exchanged keypoints are in the problem that is given back."""
    rotmat = people.init.pred_rotmat.clone()
    rotmat[2::3, 0] = rotmat[2::3, 0] * torch.tensor([-1.0, 1.0, -1.0])
    mixed = spoil(replace(people, init=people.init._replace(pred_rotmat=rotmat)))
    fits = run(body, mixed, replace(WEAK, robust=False))
    assert bool(fits.turned.any())
    assert bool(fits.swapped_arms.any())
    state = MapState(*fits.final)
    torch.testing.assert_close(
        fits.problem.evaluate(state).energy, fits.energy, rtol=1e-4, atol=0.1
    )


def test_a_turned_body_with_a_gross_error(body: Smpl, people: People) -> None:
    rotmat = people.init.pred_rotmat.clone()
    rotmat[:, 0] = rotmat[:, 0] * torch.tensor([-1.0, 1.0, -1.0])
    keypoints = people.keypoints.clone()
    keypoints[:, JOINT_SETS[COCO].names.index("rkne"), :2] += 0.8
    wrong = People(
        people.truth, people.init._replace(pred_rotmat=rotmat), keypoints, people.precision
    )
    fits = run(body, wrong, WEAK)
    both = fits.turned & (fits.weight_factor[:, 14] < 0.1)
    assert int(both.sum()) >= 12
    clean = run(body, people, WEAK)
    # The knee costs k^2 = 16; a prior that had not turned would cost (pi / 0.3)^2.
    assert bool((fits.energy[both] < clean.energy[both] + 25).all())
    error, right = (joint_error(body, people, each.final)[both] for each in (fits, clean))
    assert float(error.mean()) < 1.3 * float(right.mean())


def test_flips_leave_a_valley(body: Smpl, people: People) -> None:
    """From the wrong lean of a thigh or an arm, the flips find the way back."""
    config = replace(PLAIN, flip_margin=2.0)
    fits = run(body, people, config)
    good = fits.problem.solve(config)
    plan = body.points_plan("smpl24")
    found = 0
    for bone in BONES:
        begin = flip_bone(plan, state_of(good), bone)
        stuck = fits.problem.solve(config, begin=begin)
        is_stuck = stuck.energy > good.energy + 5
        better, taken = try_flips(fits.problem, stuck, body, config)
        assert bool((better.energy <= stuck.energy).all())
        assert bool((~taken | (better.energy < stuck.energy - 2)).all())
        found += int((is_stuck & (better.energy < good.energy + 1)).sum())
        assert int((is_stuck & (better.energy < good.energy + 1)).sum()) >= int(is_stuck.sum()) // 2
    assert found >= 5
