"""ASF/AMC and BVH files give the rotations that were written into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eft_fast.data.motion.asf_amc import read_amc, read_asf
from eft_fast.data.motion.bvh import read_bvh
from eft_fast.data.motion.skeleton import euler_to_matrix
from tests.data.motion.rigs import (
    ACCLAIM,
    MIXAMO,
    PARENTS,
    random_angles,
    rest_joints,
    write_acclaim,
    write_bvh,
)


def test_euler_turns_the_right_way() -> None:
    quarter = np.array([[np.pi / 2]])
    for axis, source, target in (("x", 1, 2), ("y", 2, 0), ("z", 0, 1)):
        turned = euler_to_matrix(quarter, axis, intrinsic=True)[0] @ np.eye(3)[source]
        np.testing.assert_allclose(turned, np.eye(3)[target], atol=1e-12)
    angles = random_angles(1, 1)[0] / 30
    x, y, z = (euler_to_matrix(angles[:, [n]], "xyz"[n], intrinsic=True)[0] for n in range(3))
    np.testing.assert_allclose(euler_to_matrix(angles, "xyz", intrinsic=True)[0], x @ y @ z)
    np.testing.assert_allclose(euler_to_matrix(angles, "xyz", intrinsic=False)[0], z @ y @ x)


@pytest.mark.parametrize("order", ["zxy", "xyz", "yxz"])
def test_bvh_round_trip(tmp_path: Path, order: str) -> None:
    places, degrees = rest_joints(), random_angles(4, 24)
    root = np.arange(12.0).reshape(4, 3)
    local = write_bvh(tmp_path / "a.bvh", MIXAMO, places, degrees, order=order, root=root)
    motion = read_bvh(tmp_path / "a.bvh")
    index = [motion.skeleton.names.index(name) for name in MIXAMO]
    np.testing.assert_allclose(motion.rotations[:, index], local, atol=1e-8)
    np.testing.assert_allclose(motion.root_position, root)
    rest = motion.skeleton.rest_positions()[index]
    np.testing.assert_allclose(rest, places - places[0], atol=1e-8)
    assert motion.frame_rate == pytest.approx(10)
    assert motion.notes == ()


def test_positions_are_forward_kinematics(tmp_path: Path) -> None:
    """Against a sum along each chain, written the other way round."""
    places, degrees = rest_joints(), random_angles(2, 24)
    local = write_bvh(tmp_path / "a.bvh", MIXAMO, places, degrees)
    motion = read_bvh(tmp_path / "a.bvh")
    got = motion.positions()[:, [motion.skeleton.names.index(name) for name in MIXAMO]]
    for joint in range(24):
        point, at = np.zeros((2, 3)), joint
        while PARENTS[at] >= 0:
            point = np.einsum(
                "fij,fj->fi", local[:, PARENTS[at]], point + places[at] - places[PARENTS[at]]
            )
            at = PARENTS[at]
        np.testing.assert_allclose(got[:, joint], point, atol=1e-7)


def test_acclaim_round_trip(tmp_path: Path) -> None:
    """Bones turn about their own axes: L = C M C^-1."""
    places = rest_joints()[:22]
    degrees, axes = random_angles(3, 22), random_angles(1, 22, seed=1)[0]
    write_acclaim(tmp_path, places, degrees, axes)
    motion = read_amc(tmp_path / "07_01.amc", frame_rate=60)
    index = [motion.skeleton.names.index(name) for name in ACCLAIM]
    for joint in range(22):
        own = euler_to_matrix(np.radians(degrees[:, joint]), "xyz", intrinsic=False)
        if joint:
            c = euler_to_matrix(np.radians(axes[joint])[None], "xyz", intrinsic=False)[0]
            own = c @ own @ np.linalg.inv(c)
        np.testing.assert_allclose(motion.rotations[:, index[joint]], own, atol=1e-8)
    rest = motion.skeleton.rest_positions()[index]
    np.testing.assert_allclose(rest, places - places[0], atol=1e-7)
    np.testing.assert_allclose(motion.root_position, [[1, 2, 3]] * 3)
    assert motion.frame_rate == 60


BVH = """HIERARCHY
ROOT hip
{
 OFFSET 0 0 0
 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
 End Site
 {
  OFFSET 0 1 0
 }
}
MOTION
Frames: 2
Frame Time: 0.05
1 2 3 4 5 6
1 2 3 4 5 6
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("HIERARCHY", "", "expected HIERARCHY; is it a BVH file"),
        ("0.05", "0", "expected a Frame Time of seconds"),
        ("0.05", "x", "expected finite numbers, got '2 x'"),
        ("4 5 6\n1", "4 nan 6\n1", "expected finite numbers in the frames"),
        ("4 5 6\n1", "4 y 6\n1", "expected numbers in the frames"),
        ("1 2 3 4 5 6\n1 2 3 4 5 6", "1 2", "expected rows of 6 numbers, got 2 in all"),
        ("MOTION", "", "expected a joint, OFFSET, CHANNELS or }, got 'Frames:'"),
        ("CHANNELS 6", "CHANNELS 7", "count of CHANNELS"),
        ("Zrotation", "Wrotation", "channels such as Xrotation"),
        (" OFFSET 0 0 0", " OFFSET 0 0", "expected finite numbers"),
        ("ROOT hip\n{", "ROOT hip", "expected a joint, OFFSET, CHANNELS or }, got '}'"),
        ("ROOT hip\n", "JOINT hip\n", "one ROOT, and { behind each name"),
        (" End Site", " ROOT b", "one ROOT, and { behind each name"),
        ("}\nMOTION", "MOTION", "expected a joint, OFFSET, CHANNELS or }, got the end"),
    ],
)
def test_bvh_faults_are_sentences(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in BVH
    (tmp_path / "a.bvh").write_text(BVH.replace(old, new))
    with pytest.raises(ValueError, match=r"read_bvh: a\.bvh") as caught:
        read_bvh(tmp_path / "a.bvh")
    assert words in str(caught.value)


def test_bvh_cut_short_keeps_whole_frames(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(BVH.replace("\n1 2 3 4 5 6\n1 2 3 4 5 6", "\n1 2 3 4 5 6\n1 2"))
    motion = read_bvh(tmp_path / "a.bvh")
    assert len(motion.rotations) == 1
    assert motion.notes == ("2 frames of 6 numbers declared, 1 whole ones there",)


def test_bvh_colons_without_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(BVH.replace("Frames: 2\nFrame Time: ", "Frames:2\nFrame Time:"))
    assert len(read_bvh(tmp_path / "a.bvh").rotations) == 2


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("07.asf", ":hierarchy", ":nothing", "expected an ASF with :bonedata and :hierarchy"),
        ("07.asf", "name ltibia", "name lfemur", "bone 'lfemur' is given twice"),
        ("07.asf", "name ltibia", "name shin", "names 'ltibia', which :bonedata lacks"),
        ("07.asf", "lfemur ltibia", "ltibia ltibia", "does not hang on the root"),
        ("07.asf", "lfemur ltibia", "lfemur ltibia ltibia", "'ltibia' has two parents"),
        ("07.asf", "dof rx ry rz", "dof rx rx", "expected of tx ty tz rx ry rz l"),
        ("07.asf", "length 0.", "length x", "length of"),
        ("07.asf", "axis XYZ", "axis XY", "expected an axis order such as XYZ"),
        ("07_01.amc", "ltibia", "shin", "no bone 'shin'; is it the skeleton of another subject?"),
        ("07_01.amc", "ltibia ", "ltibia 1 ", "expected 3 numbers of ltibia"),
        ("07_01.amc", "\n1\n", "\n", "in a numbered frame"),
        ("07_01.amc", "ltibia ", "# ", "frame 2 does not hold the same bones (ltibia)"),
        ("07_01.amc", "root 1 2 3", "root 1 2 inf", "expected finite numbers"),
    ],
)
def test_acclaim_faults_are_sentences(
    tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    write_acclaim(tmp_path, rest_joints()[:22], random_angles(2, 22), np.zeros((22, 3)))
    text = (tmp_path / name).read_text()
    assert old in text
    count = 1 if words.startswith("frame 2") else -1
    (tmp_path / name).write_text(text.replace(old, new, count))
    with pytest.raises(ValueError, match=r"read_(amc|asf): ") as caught:
        read_amc(tmp_path / "07_01.amc")
    assert words in str(caught.value)


def test_the_skeleton_is_found_beside_the_motion(tmp_path: Path) -> None:
    write_acclaim(tmp_path, rest_joints()[:22], random_angles(1, 22), np.zeros((22, 3)))
    (tmp_path / "07.asf").rename(tmp_path / "other.asf")
    assert read_amc(tmp_path / "07_01.amc").frame_rate == 120
    (tmp_path / "second.asf").write_bytes((tmp_path / "other.asf").read_bytes())
    with pytest.raises(ValueError, match=r"expected the skeleton 07.asf beside 07_01.amc, got 2"):
        read_amc(tmp_path / "07_01.amc")
    assert read_amc(tmp_path / "07_01.amc", tmp_path / "other.asf").notes == ()
    with pytest.raises(FileNotFoundError, match="read_asf: no file"):
        read_asf(tmp_path / "gone.asf")
