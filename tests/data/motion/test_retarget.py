"""Known rotations come back; other rigs point where they pointed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.data.motion.amass import read_amass
from eft_fast.data.motion.asf_amc import read_amc
from eft_fast.data.motion.bvh import read_bvh
from eft_fast.data.motion.joint_map import SMPL24, find_joints
from eft_fast.data.motion.retarget import retarget
from eft_fast.data.motion.skeleton import Skeleton
from eft_fast.geometry.rotations import axis_angle_to_matrix
from tests.data.motion.rigs import (
    MIXAMO,
    PARENTS,
    random_angles,
    rest_joints,
    write_acclaim,
    write_amass,
    write_bvh,
)

#: Limb bones whose direction must be kept: (start, end) of SMPL.
LIMBS = ((1, 4), (2, 5), (4, 7), (5, 8), (13, 16), (14, 17), (16, 18), (17, 19), (18, 20), (19, 21))


def to_matrices(full_pose: np.ndarray) -> np.ndarray:
    return axis_angle_to_matrix(torch.from_numpy(full_pose)).numpy()


def pose_joints(full_pose: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """SMPL's joints [F, 24, 3] about the pelvis."""
    local = to_matrices(full_pose)
    world, places = local.copy(), np.zeros((len(local), 24, 3))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            world[:, joint] = world[:, parent] @ local[:, joint]
            places[:, joint] = places[:, parent] + world[:, parent] @ (rest[joint] - rest[parent])
    return places


def directions(places: np.ndarray) -> np.ndarray:
    bones = np.stack([places[..., end, :] - places[..., start, :] for start, end in LIMBS], -2)
    return np.asarray(bones / np.linalg.norm(bones, axis=-1, keepdims=True))


def test_smpls_own_rig_comes_back(tmp_path: Path) -> None:
    """Same rest pose: every rotation is the one that was written, and the root's way is whole."""
    rest, degrees = rest_joints(), random_angles(5, 24, size=80)
    root = np.random.default_rng(1).normal(size=(5, 3))
    local = write_bvh(tmp_path / "a.bvh", MIXAMO, rest, degrees, root=root)
    motion = retarget(read_bvh(tmp_path / "a.bvh"), rest)
    got = to_matrices(motion.full_pose)
    np.testing.assert_allclose(got[:, :22], local[:, :22], atol=1e-6)
    np.testing.assert_allclose(got[:, 22:], np.broadcast_to(np.eye(3), (5, 2, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(motion.transl, root - rest[0], atol=1e-7)
    assert motion.notes == ()


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_axes_and_unit_of_the_file_do_not_matter(tmp_path: Path, unit: float) -> None:
    """The same rig, z up and facing -y as some programs export, in metres or centimetres."""
    rest, degrees = rest_joints(), random_angles(4, 24)
    # Columns: where the file has SMPL's left, up and front.
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    root = np.random.default_rng(1).normal(size=(4, 3))
    local = write_bvh(
        tmp_path / "a.bvh", MIXAMO, unit * rest @ turn.T, degrees, root=unit * root @ turn.T
    )
    motion = retarget(read_bvh(tmp_path / "a.bvh"), rest)
    got = to_matrices(motion.full_pose)[:, :22]
    np.testing.assert_allclose(got, turn.T @ local[:, :22] @ turn, atol=1e-6)
    np.testing.assert_allclose(motion.transl, root - rest[0], atol=1e-6)


def other_rest(seed: int) -> np.ndarray:
    """A rig of other proportions, arms hanging down and legs apart, feet flat."""
    rest = rest_joints()
    offsets = np.array([rest[j] - (rest[p] if p >= 0 else 0) for j, p in enumerate(PARENTS)])
    offsets *= 1 + 0.3 * np.random.default_rng(seed).random((24, 1))
    for arm in (18, 19, 20, 21, 22, 23):
        offsets[arm] = (0.05 * np.sign(offsets[arm][0]), -np.linalg.norm(offsets[arm]), 0.0)
    places = np.zeros((24, 3))
    for joint, parent in enumerate(PARENTS):
        places[joint] = offsets[joint] + (places[parent] if parent >= 0 else 0)
    return places


def test_limbs_point_where_the_files_point(tmp_path: Path) -> None:
    rest, degrees = rest_joints(), random_angles(6, 24, size=60)
    write_bvh(tmp_path / "a.bvh", MIXAMO, other_rest(0), degrees)
    source = read_bvh(tmp_path / "a.bvh")
    motion = retarget(source, rest)
    index = [source.skeleton.names.index(name) for name in MIXAMO]
    theirs = directions(source.positions()[:, index])
    np.testing.assert_allclose(directions(pose_joints(motion.full_pose, rest)), theirs, atol=1e-6)


def test_acclaim_limbs_point_where_the_files_point(tmp_path: Path) -> None:
    rest = rest_joints()
    degrees, axes = random_angles(4, 22), random_angles(1, 22, seed=3)[0]
    write_acclaim(tmp_path, other_rest(1)[:22], degrees, axes)
    source = read_amc(tmp_path / "07_01.amc")
    found = find_joints(source.skeleton, "test")
    motion = retarget(source, rest)
    places = source.positions()[:, [found[joint] for joint in range(22)]]
    theirs = directions(places)
    np.testing.assert_allclose(directions(pose_joints(motion.full_pose, rest)), theirs, atol=1e-6)


def test_knees_and_elbows_bend_as_smpls_do(tmp_path: Path) -> None:
    """CMU's tibia and radius: rx above zero bends them; SMPL's knees bend about +x."""
    degrees = np.zeros((1, 22, 3))
    degrees[0, [4, 5], 0] = 60
    degrees[0, [18, 19], 1] = (-60, 60)
    write_acclaim(tmp_path, rest_joints()[:22], degrees, np.zeros((22, 3)))
    pose = np.degrees(retarget(read_amc(tmp_path / "07_01.amc"), rest_joints()).full_pose[0])
    for joint, turn in ((4, (60, 0, 0)), (5, (60, 0, 0)), (18, (0, -60, 0)), (19, (0, 60, 0))):
        np.testing.assert_allclose(pose[joint], turn, atol=1e-4)


def test_rest_pose_of_another_rig_keeps_the_feet_flat(tmp_path: Path) -> None:
    """Ankles of the rig are twice as high; its rest pose is still one of flat feet."""
    rest, places = rest_joints(), rest_joints()
    places[[10, 11], 1] -= 0.05
    write_bvh(tmp_path / "a.bvh", MIXAMO, places, np.zeros((1, 24, 3)))
    motion = retarget(read_bvh(tmp_path / "a.bvh"), rest)
    np.testing.assert_allclose(motion.full_pose, 0, atol=1e-6)


NAMES = {
    "mixamo": MIXAMO,
    "prefix": tuple(f"mixamorig:{name}" for name in MIXAMO),
    "biped": (
        "Bip01", "Bip01 L Thigh", "Bip01 R Thigh", "Bip01 Spine", "Bip01 L Calf", "Bip01 R Calf",
        "Bip01 Spine1", "Bip01 L Foot", "Bip01 R Foot", "Bip01 Spine2", "Bip01 L Toe0",
        "Bip01 R Toe0", "Bip01 Neck", "Bip01 L Clavicle", "Bip01 R Clavicle", "Bip01 Head",
        "Bip01 L UpperArm", "Bip01 R UpperArm", "Bip01 L Forearm", "Bip01 R Forearm",
        "Bip01 L Hand", "Bip01 R Hand", "Bip01 L Finger0", "Bip01 R Finger0",
    ),
    "daz": (
        "hip", "lThigh", "rThigh", "abdomen", "lShin", "rShin", "chest", "lFoot", "rFoot",
        "chestUpper", "lToe", "rToe", "neck", "lCollar", "rCollar", "head", "lShldr", "rShldr",
        "lForeArm", "rForeArm", "lHand", "rHand", "lThumb1", "rThumb1",
    ),
    "motionbuilder": (
        "Hips", "LeftHip", "RightHip", "Chest", "LeftKnee", "RightKnee", "Chest2", "LeftAnkle",
        "RightAnkle", "Chest3", "LeftToe", "RightToe", "Neck", "LeftCollar", "RightCollar", "Head",
        "LeftShoulder", "RightShoulder", "LeftElbow", "RightElbow", "LeftWrist", "RightWrist",
        "x", "y",
    ),
    "smpl": (
        "Pelvis", "L_Hip", "R_Hip", "Spine1", "L_Knee", "R_Knee", "Spine2", "L_Ankle", "R_Ankle",
        "Spine3", "L_Foot", "R_Foot", "Neck", "L_Collar", "R_Collar", "Head", "L_Shoulder",
        "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist", "R_Wrist", "L_Hand", "R_Hand",
    ),
    "blender": (
        "hips", "thigh.L", "thigh.R", "spine", "shin.L", "shin.R", "spine.001", "foot.L", "foot.R",
        "spine.002", "toe.L", "toe.R", "neck", "shoulder.L", "shoulder.R", "head", "upper_arm.L",
        "upper_arm.R", "forearm.L", "forearm.R", "hand.L", "hand.R", "a", "b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rig", NAMES)
def test_usual_names_are_known(rig: str) -> None:
    rest = rest_joints()
    offsets = np.array([rest[j] - (rest[p] if p >= 0 else 0) for j, p in enumerate(PARENTS)])
    skeleton = Skeleton(NAMES[rig], np.array(PARENTS), offsets, offsets)
    found = find_joints(skeleton, "test")
    assert {joint: found.get(joint) for joint in range(22)} == {joint: joint for joint in range(22)}


def test_unknown_names_are_told_and_can_be_given(tmp_path: Path) -> None:
    rest, names = rest_joints(), list(MIXAMO)
    names[16], names[4] = "Flipper", "Stick"
    local = write_bvh(tmp_path / "a.bvh", names, rest, random_angles(2, 24))
    source = read_bvh(tmp_path / "a.bvh")
    with pytest.raises(ValueError, match=r"no joint of the file is known as lkne; it has Hips"):
        retarget(source, rest)
    motion = retarget(source, rest, {"lsho": "Flipper", "lkne": "Stick", "lcol": "LeftShoulder"})
    np.testing.assert_allclose(to_matrices(motion.full_pose)[:, :22], local[:, :22], atol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'Flipper'"):
        retarget(source, rest, {"lsho": "Fliper"})
    with pytest.raises(ValueError, match="did you mean 'lsho'"):
        retarget(source, rest, {"lshoo": "Flipper"})


def test_missing_joints_stay_with_their_parents(tmp_path: Path) -> None:
    rest, names = rest_joints(), list(MIXAMO)
    names[13], names[14], names[10], names[11] = "p", "q", "r", "s"
    write_bvh(tmp_path / "a.bvh", names, rest, random_angles(2, 24))
    motion = retarget(read_bvh(tmp_path / "a.bvh"), rest)
    assert not motion.full_pose[:, [10, 11, 13, 14]].any()
    assert "the file has no lfoot, rfoot, lcol, rcol" in motion.notes[0]


@pytest.mark.parametrize("fault", ["leaning", "folded"])
def test_a_rest_pose_that_does_not_stand_is_refused(tmp_path: Path, fault: str) -> None:
    rest = rest_joints()
    if fault == "leaning":
        c = np.sqrt(0.5)
        rest = rest @ np.array([[1, 0, 0], [0, c, c], [0, -c, c]])
    else:
        rest = np.stack([np.arange(24.0) * (1, -1)[p % 2] for p in range(3)], 1)
    write_bvh(tmp_path / "a.bvh", MIXAMO, rest, np.zeros((1, 24, 3)))
    with pytest.raises(ValueError, match="expected a rest pose"):
        retarget(read_bvh(tmp_path / "a.bvh"), rest_joints())


def test_amass_is_turned_upright(tmp_path: Path) -> None:
    """The posed joints are the same points, z up in the file and y up here."""
    rest, rng = rest_joints(), np.random.default_rng(0)
    poses = np.zeros((3, 156))
    poses[:, :66] = rng.normal(size=(3, 66)) * 0.4
    trans = rng.normal(size=(3, 3))
    write_amass(tmp_path / "a_poses.npz", poses, trans, rate=60)
    motion = read_amass(tmp_path / "a_poses.npz", rest)
    full = np.concatenate([poses[:, :66], np.zeros((3, 6))], 1).reshape(3, 24, 3)
    theirs = pose_joints(full, rest) + rest[0] + trans[:, None]
    ours = pose_joints(motion.full_pose, rest) + rest[0] + motion.transl[:, None]
    np.testing.assert_allclose(ours, theirs[..., [0, 2, 1]] * (1, 1, -1), atol=1e-9)
    assert motion.frame_rate == 60
    assert motion.notes == ()


def test_amass_of_smplx_is_told(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a_stageii.npz", poses=np.zeros((2, 165)), trans=np.zeros((2, 3)),
        betas=np.ones(16), mocap_frame_rate=30.0, surface_model_type="smplx",
        labels=np.array([["a", None]], dtype=object),
    )  # fmt: skip
    motion = read_amass(tmp_path / "a_stageii.npz", rest_joints())
    assert motion.betas is None
    assert "SMPL-X" in motion.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"poses": None}, "must hold poses, trans and mocap_framerate"),
        ({"poses": np.full((2, 156), np.nan)}, "expected finite poses"),
        ({"mocap_framerate": np.array(0.0)}, "expected frames per second, got 0.0"),
        ({"mocap_framerate": np.array("fast")}, "must hold numbers"),
        ({"trans": np.zeros((3, 3))}, r"got \[2, 156\] and \[3, 3\]"),
    ],
)
def test_amass_faults_are_sentences(tmp_path: Path, change: dict, words: str) -> None:
    arrays = {
        "poses": np.zeros((2, 156)), "trans": np.zeros((2, 3)), "betas": np.zeros(16),
        "mocap_framerate": np.array(120.0), **change,
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=words):
        read_amass(tmp_path / "a.npz", rest_joints())


def test_names_of_smpl_are_in_smpls_order() -> None:
    assert SMPL24[16:22] == ("lsho", "rsho", "lelb", "relb", "lwri", "rwri")
