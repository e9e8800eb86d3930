"""BVH, opened again by bvhio and by the package's own reader of motion capture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from eft_fast.body.model_io import load_arrays
from eft_fast.data.motion.bvh import read_bvh
from eft_fast.data.motion.retarget import retarget
from eft_fast.data.motion.skeleton import euler_to_matrix
from eft_fast.exports.bvh import save_bvh, to_zxy
from eft_fast.exports.rig import JOINT_NAMES, make_rig
from eft_fast.geometry.rotations import axis_angle_to_matrix

UPRIGHT = np.array([1.0, -1.0, -1.0])


def test_another_reader_finds_the_joints(make_fits, tmp_path):
    """Places of all joints in every frame, in centimetres, by a package that is not ours."""
    bvhio = pytest.importorskip("bvhio", reason="bvhio is not installed")
    fits = make_fits(3)
    rig = make_rig(fits, is_one_person=True, frame_rate=24)
    path = save_bvh(tmp_path / "walk.bvh", rig)
    moved = (fits.cam_transl() - fits.cam_transl()[:1]).numpy()
    expected = 100 * (fits.joints3d("smpl24").numpy() + moved[:, None]) * UPRIGHT
    container = bvhio.readAsBvh(str(path))
    assert container.FrameCount == 3
    assert container.FrameTime == pytest.approx(1 / 24, abs=1e-7)
    root = bvhio.readAsHierarchy(str(path))
    for frame in range(3):
        root.loadPose(frame, recursive=True)
        found = {joint.Name: joint.PositionWorld for joint, _, _ in root.layout()}
        for index, name in enumerate(JOINT_NAMES):
            place = np.array([found[name].x, found[name].y, found[name].z])
            np.testing.assert_allclose(place, expected[frame, index], atol=2e-3)  # 0.02 mm


def test_the_own_reader_finds_the_pose_again(make_fits, tmp_path):
    """The limbs of SMPL that retargeting makes of the file point as those of the fit."""
    fits = make_fits(4, spread=0.3)
    path = save_bvh(tmp_path / "walk.bvh", make_rig(fits, is_one_person=True, feet_on_ground=True))
    motion = read_bvh(path)
    assert not motion.notes
    rig = make_rig(fits, is_one_person=True)
    order = [JOINT_NAMES.index(name) for name in motion.skeleton.names]
    np.testing.assert_allclose(motion.rotations, rig.rotations[:, order], atol=1e-6)
    arrays = load_arrays("open")
    betas = fits.params.betas[0].double().numpy()
    rest = arrays.J_regressor @ (arrays.v_template + arrays.shapedirs @ betas)
    pose = torch.from_numpy(retarget(motion, rest).full_pose).reshape(4, 24, 3)
    found = axis_angle_to_matrix(pose).numpy()
    for joint in (1, 2, 4, 5, 16, 17, 18, 19):
        np.testing.assert_allclose(found[:, joint], rig.rotations[:, joint], atol=2e-3)


def test_angles_come_back_everywhere():
    """Random turns, and those where two axes fall together."""
    vectors = torch.randn(500, 3, dtype=torch.float64) * 2
    turns = axis_angle_to_matrix(vectors).numpy()
    angles = itertools.product((0.0, 1.0, -3.0), (np.pi / 2, -np.pi / 2), (0.0, 0.7))
    locked = euler_to_matrix(np.array(list(angles)), "zxy", intrinsic=True)
    turns = np.concatenate([turns, locked])
    back = euler_to_matrix(to_zxy(turns), "zxy", intrinsic=True)
    np.testing.assert_allclose(back, turns, atol=2e-8)


def test_angles_do_not_jump(make_fits, tmp_path):
    fits = make_fits(1)[[0] * 60]
    spin = torch.zeros(60, 3)
    spin[:, 1] = torch.linspace(0, 4 * np.pi, 60)
    fits.params.global_orient[:, 0] = axis_angle_to_matrix(spin)
    path = save_bvh(tmp_path / "spin.bvh", make_rig(fits, is_one_person=True))
    rows = np.array([line.split() for line in path.read_text().splitlines()[-60:]], float)
    assert np.abs(np.diff(rows[:, 3:], axis=0)).max() < 20
