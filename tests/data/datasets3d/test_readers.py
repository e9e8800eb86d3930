"""Datasets with truth in space, each written in its own format: units, axes, cameras, traps."""

from __future__ import annotations

import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from eft_fast import data
from eft_fast.data.formats.fits import to_rotmat
from eft_fast.data.readers.datasets3d.human36m import RAW_TO_H36M17
from eft_fast.data.readers.datasets3d.humaneva import NAMES
from eft_fast.data.readers.datasets3d.solid import fit_pinhole, project
from eft_fast.keypoints import JOINT_SETS

K = np.array([[1100.0, 0, 480.0], [0, 1120.0, 510.0], [0, 0, 1]])


def make_rotation(seed: int) -> np.ndarray:
    return to_rotmat(np.random.default_rng(seed).normal(size=3))


def make_people(count: int, joints: int, seed: int = 0) -> np.ndarray:
    """Joints about 4 m before a camera, metres."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, joints, 3)) * [0.3, 0.5, 0.3] + [0.1, -0.2, 4.0]


def look(points: np.ndarray, pinhole: np.ndarray = K) -> np.ndarray:
    return project(points.reshape(-1, 3), pinhole).reshape(*points.shape[:-1], 2)


def save_photo(path, size=(960, 1020)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def assert_seen(sample, atol: float = 1e-4) -> None:
    """The points in space, through the pinhole, are the points in the picture."""
    if sample.order_3d != sample.keypoint_set:
        return
    solid, flat = sample.keypoints_3d, sample.keypoints_2d_px
    both = (solid[:, 3] > 0) & (flat[:, 2] > 0)
    assert both.sum() > 3
    np.testing.assert_allclose(look(solid[both, :3], sample.K), flat[both, :2], atol=atol)


class Python2:
    """Pickles as Python 2 does: protocol 2, text as bytes."""

    @staticmethod
    def dump(path, content) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content, 2))


@pytest.fixture
def threedpw(tmp_path, body):
    """Two people, three frames; the camera moves, and does not see the second person once."""
    rng = np.random.default_rng(1)
    frames, poses, joints, trans = 3, [], [], []
    betas = [rng.normal(size=10), rng.normal(size=10)]
    camera = np.tile(np.eye(4), (frames, 1, 1))
    for frame in range(frames):
        camera[frame, :3, :3] = make_rotation(frame + 5)
        camera[frame, :3, 3] = [0.1 * frame, 0.2, 3.0]
    for person in range(2):
        pose, place = 0.4 * rng.normal(size=(frames, 72)), rng.normal(size=(frames, 3))
        shape = torch.from_numpy(betas[person]).float().expand(frames, 10)
        turned = torch.from_numpy(pose).float()
        posed = body(shape, turned[:, 3:], turned[:, :3], torch.from_numpy(place).float())
        poses.append(pose)
        trans.append(place)
        joints.append(posed.joints[:, :24].numpy().reshape(frames, 72))
    content = {
        "sequence": "walk_00", "poses": poses, "trans": trans, "betas": betas,
        "jointPositions": joints, "cam_poses": camera, "cam_intrinsics": K,
        "poses2d": [rng.random((frames, 3, 18)) * [[[900], [1000], [1]]] for _ in range(2)],
        "campose_valid": [np.ones(frames), np.array([1, 0, 1])], "genders": ["m", "f"],
        "v_template_clothed": [np.zeros((6890, 3))] * 2, "img_frame_ids": np.arange(frames),
    }  # fmt: skip
    Python2.dump(tmp_path / "sequenceFiles" / "test" / "walk_00.pkl", content)
    return tmp_path, content


@pytest.fixture(scope="module")
def body():
    from eft_fast.body import load_body

    return load_body()


def test_3dpw(threedpw, body):
    """Posed from the sample, the body is where the dataset's is, seen from the camera (trap 15)."""
    root, content = threedpw
    samples = data.open_annotations(root)
    assert [sample.id for sample in samples] == [
        "walk_00_0_00000", "walk_00_0_00001", "walk_00_0_00002", "walk_00_1_00000",
        "walk_00_1_00002",
    ]  # fmt: skip
    assert samples.left_out == {"camera pose not valid": 1}
    assert {sample.dataset for sample in samples} == {"3dpw"}
    for sample in samples:
        person, frame = int(sample.id[8]), sample.frame
        assert np.array_equal(sample.keypoints_2d_px, content["poses2d"][person][frame].T)
        assert (sample.keypoint_set, sample.order_3d) == ("op18", "smpl24")
        assert sample.gender == ("male", "female")[person]
        assert np.array_equal(sample.K, K)
        pose = torch.from_numpy(sample.full_pose).float().reshape(1, 72)
        posed = body(
            torch.from_numpy(sample.betas).float()[None], pose[:, 3:], pose[:, :3],
            torch.from_numpy(sample.cam_transl).float()[None],
        ).joints[0, :24].numpy()  # fmt: skip
        world = content["jointPositions"][person][frame].reshape(24, 3)
        camera = content["cam_poses"][frame]
        expected = world @ camera[:3, :3].T + camera[:3, 3]
        np.testing.assert_allclose(posed, expected, atol=2e-5)
        np.testing.assert_allclose(sample.keypoints_3d[:, :3], expected, atol=1e-6)
    again = data.open_annotations(root / "sequenceFiles", split="test")
    assert len(again) == 5
    with pytest.raises(FileNotFoundError, match="read_3dpw: no sequence"):
        data.open_annotations(root, format_name="3dpw", split="train")


def test_3dpw_photos_and_damage(threedpw, tmp_path):
    root, content = threedpw
    for frame in range(3):
        save_photo(root / "imageFiles" / "walk_00" / f"image_{frame:05d}.jpg")
    samples = data.open_annotations(root, root)
    assert [s.problem for s in samples] == [None] * 5
    assert samples[0].image.name == "image_00000.jpg"
    del content["cam_poses"]
    path = tmp_path / "x.pkl"
    Python2.dump(path, content)
    with pytest.raises(ValueError, match=r"read_3dpw: .*x\.pkl must hold cam_poses"):
        data.open_annotations(path, format_name="3dpw")


def test_human36m_cdf(tmp_path):
    """Millimetres, 32 joints, every fifth frame; the pinhole is found from the points (trap 18)."""
    cdflib = pytest.importorskip("cdflib")
    from cdflib.cdfwrite import CDF

    solid = make_people(11, 32)
    for kind, values in (("D3_Positions_mono", solid * 1000), ("D2_Positions", look(solid))):
        path = tmp_path / "S9" / "MyPoseFeatures" / kind / "Walking 1.54138969.cdf"
        path.parent.mkdir(parents=True)
        rows = values.reshape(1, 11, -1)
        with CDF(path, cdf_spec={"Majority": "row_major"}) as file:
            spec = {"Variable": "Pose", "Data_Type": cdflib.cdfwrite.CDF.CDF_DOUBLE}
            spec |= {"Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": list(rows.shape[1:])}
            file.write_var(spec, var_data=rows)
    samples = data.open_annotations(tmp_path)
    assert [sample.frame for sample in samples] == [0, 5, 10]
    assert samples[1].id == "S9_Walking_1.54138969_000006"
    for sample in samples:
        assert (sample.dataset, sample.keypoint_set) == ("human36m", "h36m17_Jreg")
        expected = solid[sample.frame, list(RAW_TO_H36M17)]
        np.testing.assert_allclose(sample.keypoints_3d[:, :3], expected, atol=1e-9)
        np.testing.assert_allclose(sample.K, K, atol=1e-6)
        assert_seen(sample)
    assert len(data.open_annotations(tmp_path, every=1)) == 11
    # The left leg of the set is raw 6 to 8: the first six are the official right leg, 1 to 3.
    names = JOINT_SETS["h36m17_Jreg"].names
    assert [RAW_TO_H36M17[names.index(name)] for name in ("lhip", "rhip")] == [6, 1]
    (tmp_path / "S9" / "MyPoseFeatures" / "D2_Positions" / "Walking 1.54138969.cdf").unlink()
    with pytest.raises(FileNotFoundError, match="no 2D positions"):
        data.open_annotations(tmp_path)


def test_human36m_h5(tmp_path):
    h5py = pytest.importorskip("h5py")
    solid = make_people(6, 32)
    other = np.array([[1200.0, 0, 500.0], [0, 1190.0, 490.0], [0, 0, 1]])
    cameras = np.array([54138969] * 3 + [60457274] * 3)
    flat = np.concatenate([look(solid[:3]), look(solid[3:], other)])
    path = tmp_path / "Walking-1" / "annot.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["pose/3d"], file["pose/2d"] = solid * 1000, flat
        file["camera"], file["frame"] = cameras, np.array([1, 65, 129] * 2)
        file["subject"] = np.full(6, 11)
    samples = data.open_annotations(path)
    assert len(samples) == 6
    for row, sample in enumerate(samples):
        np.testing.assert_allclose(sample.K, K if row < 3 else other, atol=1e-5)
        assert_seen(sample)
        assert sample.subject_id == "S11"
    assert samples[4].id == "Walking-1.60457274_000065"


def test_human36m_json(tmp_path):
    """World coordinates, R and t in mm, focal length and centre apart; the right leg first."""
    world = make_people(2, 17) * 1000
    rotation, shift = make_rotation(3), np.array([100.0, -200.0, 9000.0])
    name = "s_09_act_02_subact_01_ca_01/s_09_act_02_subact_01_ca_01_00000{}.jpg"
    images = [
        {"id": n, "file_name": name.format(n), "width": 1000, "height": 1002, "subject": 9,
         "action_idx": 2, "subaction_idx": 1, "cam_idx": 1, "frame_idx": 5 * n}
        for n in range(2)
    ]  # fmt: skip
    seen = look((world @ rotation.T + shift) / 1000)
    low, high = seen.min((0, 1)) - 5, seen.max((0, 1)) + 5
    box = np.round([*low, *(high - low)]).tolist()
    people = [{"id": 7 + n, "image_id": n, "bbox": box} for n in range(2)]
    files = {
        "data": {"images": images, "annotations": people},
        "camera": {"1": {"R": rotation.tolist(), "t": shift.tolist(), "f": [1100, 1120],
                         "c": [480, 510]}},
        "joint_3d": {"2": {"1": {str(5 * n): world[n].tolist() for n in range(2)}}},
    }  # fmt: skip
    for kind, content in files.items():
        (tmp_path / f"Human36M_subject9_{kind}.json").write_text(json.dumps(content))
    samples = data.open_annotations(tmp_path)
    assert [sample.id for sample in samples] == ["7", "8"]
    for row, sample in enumerate(samples):
        assert sample.keypoint_set == "h36m17_rightfirst"
        expected = (world[row] @ rotation.T + shift) / 1000
        np.testing.assert_allclose(sample.keypoints_3d[:, :3], expected, atol=1e-9)
        assert np.array_equal(sample.K, K)
        assert sample.bbox_xywh.tolist() == box
        assert sample.image_size == (1000, 1002)


def test_humaneva(tmp_path):
    """World metres and two cameras that are in no file: both are found from the points."""
    world = make_people(40, 15, seed=4) - [0.1, -0.2, 4.0]
    views = [(make_rotation(n), np.array([0.2, 0.1, 5.0 + n])) for n in range(2)]
    placed = [world @ rotation.T + shift for rotation, shift in views]
    seen = [look(points) for points in placed]
    subject = "Train/S1"
    np.savez(tmp_path / "data_3d_humaneva15.npz", positions_3d={subject: {"Walking 1": world}})
    np.savez(
        tmp_path / "data_2d_humaneva15_gt.npz",
        positions_2d={subject: {"Walking 1": seen, "Jog 1": []}}, metadata={"num_joints": 15},
    )  # fmt: skip
    samples = data.open_annotations(tmp_path, every=10)
    assert len(samples) == 8
    j24 = JOINT_SETS["j24"].names
    for row, sample in enumerate(samples):
        camera, frame = divmod(row, 4)
        np.testing.assert_allclose(sample.K, K, rtol=1e-5, atol=1e-4)
        for name in ("lwri", "rank", "head"):
            point = sample.keypoints_3d[j24.index(name)]
            expected = placed[camera][10 * frame, NAMES.index(name)]
            np.testing.assert_allclose(point[:3], expected, atol=1e-6)
        assert sample.num_labelled == 15
        assert_seen(sample)
    assert samples[5].image is None
    assert samples[5].track_id == "Train/S1/Image_Data/Walking_1_C2"


def test_humaneva_without_a_camera(tmp_path):
    """Points of one frame on a line tell no camera: said, counted, and nobody else suffers."""
    world = make_people(30, 15, seed=4)
    flat_world = np.zeros((30, 15, 3))
    flat_world[..., 0] = np.arange(15)
    solid = {"S1": {"Walk": world, "Line": flat_world, "Odd": np.zeros((5, 14, 3))}}
    flat = {"S1": {"Walk": [look(world)], "Line": [look(world)], "Odd": [np.zeros((5, 14, 2))]}}
    np.savez(tmp_path / "data_3d_humaneva15.npz", positions_3d=solid)
    np.savez(tmp_path / "data_2d_humaneva15_gt.npz", positions_2d=flat)
    samples = data.open_annotations(tmp_path)
    assert len(samples) == 30
    assert samples.left_out == {"without a camera": 30, "without 15 joints in 2D and 3D": 5}
    assert "the camera of S1/Line, camera 1 cannot be told" in samples.notes[0]


def make_panoptic(folder):
    rotation, shift = make_rotation(6), np.array([10.0, 20.0, 300.0])
    joints = np.column_stack([make_people(1, 19)[0] * 100 - [0, 0, 400], np.full(19, 0.9)])
    joints[4, 3], joints[5, 3] = -1, 1.05
    distortion = [-0.1, 0.05, 0.001, -0.002, 0.01]
    cameras = [
        {"name": f"00_{n:02d}", "type": "hd", "resolution": [1920, 1080], "K": K.tolist(),
         "R": rotation.tolist(), "t": [[value] for value in shift], "distCoef": distortion}
        for n in (0, 1)
    ]  # fmt: skip
    cameras.append({"name": "01_01", "type": "vga", "resolution": [640, 480]})
    (folder / "hdPose3d_stage1_coco19").mkdir(parents=True)
    (folder / f"calibration_{folder.name}.json").write_text(json.dumps({"cameras": cameras}))
    for frame, bodies in ((100, [joints]), (101, [])):
        listed = [{"id": 3, "joints19": one.ravel().tolist()} for one in bodies]
        content = {"version": 0.7, "univTime": 1.0, "bodies": listed}
        path = folder / "hdPose3d_stage1_coco19" / f"body3DScene_{frame:08d}.json"
        path.write_text(json.dumps(content))
    return joints, rotation, shift, distortion


def test_panoptic(tmp_path):
    """Centimetres, -1 for no joint, distortion, cameras that EFT leaves out (trap 18)."""
    joints, rotation, shift, distortion = make_panoptic(tmp_path / "171204_pose1")
    (sample,) = data.open_annotations(tmp_path / "171204_pose1")
    assert sample.id == "171204_pose1_00000100_00_3"
    solid = (joints[:, :3] @ rotation.T + shift) / 100
    known = sample.keypoints_3d[:, 3] > 0
    assert np.flatnonzero(~known).tolist() == [4]
    assert sample.keypoints_3d[5, 3] == 1.0
    np.testing.assert_allclose(sample.keypoints_3d[known, :3], solid[known], atol=1e-9)
    labelled = sample.keypoints_2d_px[:, 2] > 0
    expected = project(solid, K, distortion)
    np.testing.assert_allclose(sample.keypoints_2d_px[labelled, :2], expected[labelled], atol=1e-9)
    assert not np.allclose(expected, project(solid, K), atol=0.1)
    assert sample.keypoint_set == "panoptic19"
    assert len(data.open_annotations(tmp_path, cameras=(0, 1))) == 2
    with pytest.raises(ValueError, match="none of the wanted HD cameras"):
        data.open_annotations(tmp_path, cameras=(5,))


def test_distortion_is_that_of_opencv():
    """Against the formula written out for one point, in another order."""
    ((u, v),) = project(np.array([[0.2, -0.1, 1.0]]), np.eye(3), [0.1, 0.2, 0.01, 0.02, 0.3])
    r2 = 0.05
    radial = 1 + 0.1 * r2 + 0.2 * r2**2 + 0.3 * r2**3
    assert u == pytest.approx(0.2 * radial + 2 * 0.01 * 0.2 * -0.1 + 0.02 * (r2 + 2 * 0.04))
    assert v == pytest.approx(-0.1 * radial + 0.01 * (r2 + 2 * 0.01) + 2 * 0.02 * 0.2 * -0.1)


def test_mpi_inf_3dhp_training(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    solid = make_people(21, 28)
    flat = look(solid)
    flat[20, 3] = [3000, 10]
    folder = tmp_path / "S1" / "Seq2"
    folder.mkdir(parents=True)
    cells = {name: np.empty((14, 1), object) for name in ("annot2", "annot3", "univ_annot3")}
    for camera in range(14):
        cells["annot2"][camera, 0] = flat.reshape(21, 56)
        cells["annot3"][camera, 0] = solid.reshape(21, 84) * 1000
        cells["univ_annot3"][camera, 0] = solid.reshape(21, 84) * 900
    savemat(folder / "annot.mat", {**cells, "cameras": np.arange(14), "frames": np.arange(21)})
    rows = np.eye(4)
    rows[:3, :3] = K
    numbers = " ".join(map(str, rows.ravel()))
    lines = ["Skeleton 1"]
    for camera in range(14):
        lines += [f"name          {camera}", "  sensor      10 10", "  size        2048 2048"]
        lines += ["  animated    0", f"  intrinsic   {numbers}", "  extrinsic   1 0"]
        lines += ["  radial      0"]
    (folder / "camera.calibration").write_text("\n".join(lines))
    samples = data.open_annotations(tmp_path)
    assert len(samples) == 8 * 2
    assert samples.left_out == {"joints outside of the photo": 8}
    sample = samples[3]
    assert sample.id == "S1_Seq2_1_000011"
    assert (sample.keypoint_set, sample.frame) == ("mpiinf28", 10)
    np.testing.assert_allclose(sample.keypoints_3d[:, :3], solid[10], atol=1e-6)
    np.testing.assert_allclose(sample.extra["univ_annot3_m"], solid[10] * 0.9, atol=1e-6)
    assert np.array_equal(sample.K, K)
    assert_seen(sample, 1e-3)
    assert len(data.open_annotations(tmp_path, cameras=(3,), every=1, inside=False)) == 21
    (folder / "camera.calibration").unlink()
    fitted = data.open_annotations(tmp_path, cameras=(3,), inside=False)[0].K
    assert abs(fitted - K).max() < 60  # one point is beside its place


def test_mpi_inf_3dhp_test(tmp_path):
    h5py = pytest.importorskip("h5py")
    solid = make_people(5, 17)
    folder = tmp_path / "TS5"
    folder.mkdir()
    with h5py.File(folder / "annot_data.mat", "w") as file:
        file["annot2"] = look(solid)[:, None]
        file["annot3"] = solid[:, None] * 1000
        file["univ_annot3"] = solid[:, None] * 800
        file["valid_frame"] = np.array([[1, 0, 1, 1, 1]]).T
    samples = data.open_annotations(tmp_path, inside=False)
    assert samples.left_out == {"frame not valid": 1}
    assert [sample.frame for sample in samples] == [0, 2, 3, 4]
    for sample in samples:
        assert sample.keypoint_set == "mpiinf17test"
        assert sample.image_size == (1920, 1080)
        np.testing.assert_allclose(sample.keypoints_3d[:, :3], solid[sample.frame], atol=1e-9)
        np.testing.assert_allclose(sample.K, K, atol=1e-5)
        assert_seen(sample)


def test_up3d(tmp_path, body):
    """3 x 14 keypoints, lists with a slash and the ending of photos (trap 20), a turned camera."""
    rng = np.random.default_rng(0)
    for number in range(3):
        pose = 0.3 * rng.normal(size=72)
        camera = {"rt": np.zeros(3), "t": np.array([0.1, 0.2, 20.0]), "f": 5000.0}
        if number == 2:
            camera["rt"] = np.array([0.0, 0.3, 0.0])
        content = {"pose": pose, "betas": rng.normal(size=10), "trans": np.ones(3), **camera}
        Python2.dump(tmp_path / f"{number:05d}_body.pkl", content)
        points = np.concatenate([rng.random((2, 14)) * 300, rng.random((1, 14)) + 0.5])
        np.save(tmp_path / f"{number:05d}_joints.npy", points)
        save_photo(tmp_path / f"{number:05d}_image.png", (400, 300))
    (tmp_path / "train.txt").write_text("/00001_image.png\n/00002_image.png\n")
    samples = data.open_annotations(tmp_path, tmp_path)
    assert [sample.id for sample in samples] == ["00000", "00001", "00002"]
    first, last = samples[0], samples[2]
    given = np.load(tmp_path / "00000_joints.npy")
    assert np.array_equal(first.keypoints_2d_px[:, :2], given[:2].T)
    assert first.keypoints_2d_px[:, 2].max() <= 1
    assert first.cam_transl.tolist() == pytest.approx([1.1, 1.2, 21.0])
    assert first.K.tolist() == [[5000, 0, 200], [0, 5000, 150], [0, 0, 1]]
    assert last.cam_transl is None
    raw = pickle.loads((tmp_path / "00002_body.pkl").read_bytes())
    expected = to_rotmat(raw["rt"]) @ to_rotmat(raw["pose"][:3])
    np.testing.assert_allclose(to_rotmat(last.full_pose[0]), expected, atol=1e-9)
    assert np.array_equal(last.full_pose[1:].ravel(), raw["pose"][3:])
    listed = data.open_annotations(tmp_path / "train.txt", tmp_path)
    assert [sample.id for sample in listed] == ["00001", "00002"]
    np.save(tmp_path / "00001_joints.npy", np.zeros((14, 3)))
    samples = data.open_annotations(tmp_path, tmp_path)
    assert [sample.problem is None for sample in samples] == [True, False, True]
    assert "00001_joints.npy must be [3, 14], got [14, 3]" in samples[1].problem


def make_bedlam(path, *, size: int = 165, photo: str = "seq/seq_0.png"):
    rng = np.random.default_rng(0)
    solid = make_people(2, 127)
    arrays = {
        "imgname": np.array([photo, "seq/seq_1.png"]), "center": rng.random((2, 2)) * 500,
        "scale": np.array([1.5, 2.0]), "pose_cam": 0.3 * rng.normal(size=(2, size)),
        "shape": rng.normal(size=(2, 11)), "trans_cam": rng.normal(size=(2, 3)),
        "cam_int": np.tile(K, (2, 1, 1)), "cam_ext": np.tile(np.eye(4), (2, 1, 1)),
        "gtkps": np.concatenate([look(solid), np.ones((2, 127, 1))], 2),
        "gender": np.array(["female", "male"]), "sub": np.array(["rp_a", "rp_b"]),
    }  # fmt: skip
    arrays["cam_ext"][:, :3, 3] = [1.0, 2.0, 3.0]
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("size", [165, 72])
def test_bedlam(tmp_path, size):
    arrays = make_bedlam(tmp_path / "b.npz", size=size)
    samples = data.open_annotations(tmp_path / "b.npz")
    for row, sample in enumerate(samples):
        assert sample.bbox_scale == arrays["scale"][row]
        assert np.array_equal(sample.bbox_center, arrays["center"][row])
        kept = 72 if size == 72 else 66
        assert np.array_equal(sample.full_pose.ravel()[:kept], arrays["pose_cam"][row, :kept])
        assert not sample.full_pose.ravel()[kept:].any()
        assert np.array_equal(sample.betas, arrays["shape"][row, :10])
        np.testing.assert_allclose(sample.cam_transl, arrays["trans_cam"][row] + [1, 2, 3])
        assert np.array_equal(sample.keypoints_2d_px[:22, :2], arrays["gtkps"][row, :22, :2])
        assert not sample.keypoints_2d_px[22:].any()
        assert sample.extra["body"] == ("smpl" if size == 72 else "smplx")
    assert [sample.gender for sample in samples] == ["female", "male"]
    assert samples[0].subject_id == "rp_a"


def test_bedlam_turns_closeups(tmp_path):
    """A red left border lies on top after a turn by 90 degrees clockwise (trap 19)."""
    photo = np.zeros((720, 1280, 3), np.uint8)
    photo[:, :100, 0] = 255
    (tmp_path / "closeup").mkdir()
    (tmp_path / "seq").mkdir()
    Image.fromarray(photo).save(tmp_path / "closeup" / "seq_0.png")
    Image.fromarray(photo).save(tmp_path / "seq" / "seq_1.png")
    make_bedlam(tmp_path / "b.npz", photo="closeup/seq_0.png")
    turned, plain = data.open_annotations(tmp_path / "b.npz", tmp_path)
    assert turned.image.shape == (1280, 720, 3)
    assert turned.image_size == (720, 1280)
    assert (turned.image[:100, :, 0] == 255).all()
    assert not turned.image[100:].any()
    assert plain.image.name == "seq_1.png"


def agora_table():
    solid, flat = make_people(3, 45), None
    flat = look(solid, np.array([[3900.0, 0, 1920], [0, 3900.0, 1080], [0, 0, 1]]))
    return {
        "imgPath": ["a.png", "b.png"], "camX": [1.0, 2.0], "camYaw": [3, 4],
        "gender": [["male"], ["female", "male"]], "kid": [[False], [True, False]],
        "occlusion": [[10.0], [20.0, 95.0]], "isValid": [[True], [True, False]],
        "gt_path_smpl": [["x.obj"], ["y.obj", "z.obj"]],
        "gt_joints_2d": [[flat[0]], [flat[1], flat[2]]],
        "gt_joints_3d": [[solid[0]], [solid[1], solid[2]]],
    }, flat, solid  # fmt: skip


def check_agora(path, flat, solid):
    samples = data.open_annotations(path)
    assert samples.left_out == {"not valid": 1}
    assert [sample.id for sample in samples] == ["a_0", "b_0"]
    for row, sample in enumerate(samples):
        assert sample.keypoint_set == "smpl45"
        np.testing.assert_allclose(sample.keypoints_2d_px[:, :2], flat[row], atol=1e-9)
        np.testing.assert_allclose(sample.keypoints_3d[:, :3], solid[row], atol=1e-9)
        np.testing.assert_allclose(sample.K[0, 0], 3900, atol=1e-5)
        assert sample.image_size == (3840, 2160)
    assert [sample.gender for sample in samples] == ["male", "female"]
    assert samples[1].extra["kid"] is True
    assert samples[1].extra["gt_path_smpl"] == "y.obj"
    small = data.open_annotations(path, size=(1280, 720))
    np.testing.assert_allclose(small[0].keypoints_2d_px[:, :2], flat[0] / 3, atol=1e-9)


def test_agora_of_a_new_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    table, flat, solid = agora_table()
    frame = pandas.DataFrame({name: pandas.Series(values, dtype=object if not isinstance(
        values[0], (int, float)) else None) for name, values in table.items()})  # fmt: skip
    frame.columns = pandas.Index(list(table), dtype=object)
    path = tmp_path / "train_0_withjv.pkl"
    path.write_bytes(pickle.dumps(frame, 4))
    check_agora(path, flat, solid)
    check_agora(tmp_path, flat, solid)


def test_agora_of_its_own_pandas(tmp_path, monkeypatch):
    """What pandas 1.0 to 1.2 wrote: axes, values, items, and the blocks under "0.14.1"."""
    table, flat, solid = agora_table()
    modules = {}
    for name in ("pandas", "pandas.core", "pandas.core.frame", "pandas.core.internals",
                 "pandas.core.internals.managers", "pandas.core.indexes",
                 "pandas.core.indexes.base"):  # fmt: skip
        modules[name] = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, modules[name])

    def add(module, name, **fields):
        kind = type(name, (), {"__module__": module, **fields})
        setattr(modules[module], name, kind)
        return kind

    def new_index(kind, given):
        raise AssertionError("nothing of the file may run")

    new_index.__module__, new_index.__qualname__ = "pandas.core.indexes.base", "_new_Index"
    modules["pandas.core.indexes.base"]._new_Index = new_index

    def reduce_index(self):
        return new_index, (type(self), {"data": self.data, "name": None})

    index = add("pandas.core.indexes.base", "Index", __reduce__=reduce_index)
    frame_kind = add("pandas.core.frame", "DataFrame", __getstate__=lambda self: self.state)
    blocks_kind = add("pandas.core.internals.managers", "BlockManager",
                      __getstate__=lambda self: self.state)  # fmt: skip

    def make_index(values):
        one = index()
        one.data = np.array(values, dtype=object)
        return one

    names = list(table)
    objects = [name for name in names if name not in ("camX", "camYaw")]
    cells = np.empty((len(objects), 2), object)
    for row, name in enumerate(objects):
        for column in range(2):
            cells[row, column] = table[name][column]
    blocks = [
        {"values": np.array([table["camX"]]), "mgr_locs": slice(1, 2, 1)},
        {"values": np.array([table["camYaw"]]), "mgr_locs": slice(2, 3, 1)},
        {"values": cells, "mgr_locs": np.array([names.index(name) for name in objects])},
    ]
    axes = [make_index(names), make_index([0, 1])]
    manager = blocks_kind()
    manager.state = (axes, [block["values"] for block in blocks], [axes[0]],
                     {"0.14.1": {"axes": axes, "blocks": blocks}})  # fmt: skip
    frame = frame_kind()
    frame.state = {"_data": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}}
    path = tmp_path / "validation_withjv.pkl"
    path.write_bytes(pickle.dumps(frame, 2))
    check_agora(path, flat, solid)


def test_agora_without_joints(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"imgPath": pandas.Series(["a"], dtype=object)})
    frame.columns = pandas.Index(["imgPath"], dtype=object)
    path = tmp_path / "x_withjv.pkl"
    path.write_bytes(pickle.dumps(frame, 4))
    with pytest.raises(ValueError, match="must hold gt_joints_2d, gt_joints_3d; use the tables"):
        data.open_annotations(path)


def test_a_pinhole_is_told_or_not():
    solid = make_people(3, 20).reshape(-1, 3)
    np.testing.assert_allclose(fit_pinhole(solid, look(solid)), K, atol=1e-6)
    assert fit_pinhole(solid[:3], look(solid[:3])) is None
    assert fit_pinhole(np.tile(solid[:1], (9, 1)), look(np.tile(solid[:1], (9, 1)))) is None


def test_a_damaged_sequence_costs_no_other(threedpw):
    root, content = threedpw
    folder = root / "sequenceFiles" / "test"
    Python2.dump(folder / "a_00.pkl", {**content, "poses": 3})
    Python2.dump(folder / "b_00.pkl", {**content, "poses2d": [np.zeros((3, 2, 18))] * 2})
    (folder / "c_00.pkl").write_bytes(b"nothing")
    samples = data.open_annotations(root, format_name="3dpw")
    assert {sample.id[:7] for sample in samples} == {"walk_00"}
    assert len(samples) == 5
    assert samples.left_out["files that cannot be read"] == 3
    assert "a_00.pkl is not in the form that is expected (TypeError" in samples.notes[0]
    assert "keypoints must be [18, 3] for op18, got [18, 2]" in samples.notes[1]
    with pytest.raises(ValueError, match="not in the form that is expected"):
        data.open_annotations(folder / "a_00.pkl", format_name="3dpw")


def said_of(path, name: str) -> str:
    """The sentence of a file that cannot be read; empty if it can."""
    try:
        data.open_annotations(path, format_name=name)
    except ValueError as error:
        return str(error)
    return ""


ODD = (None, "x", 3, float("nan"), [], {}, np.zeros(0), np.zeros((2, 2)), np.zeros((3, 24, 3)))


@pytest.mark.parametrize("name", ["poses", "trans", "poses2d", "cam_poses", "genders", "betas"])
def test_odd_values_of_3dpw_end_in_one_sentence(threedpw, name):
    """Whatever stands there: samples, or a ValueError; nothing else."""
    root, content = threedpw
    path = root / "x.pkl"
    for odd in ODD:
        for value in (odd, [odd, odd]):
            Python2.dump(path, {**content, name: value})
            assert "\n" not in said_of(path, "3dpw")


@pytest.mark.parametrize("name", ["pose_cam", "gtkps", "shape", "center", "scale", "cam_int"])
def test_odd_values_of_bedlam_end_in_one_sentence(tmp_path, name):
    arrays = make_bedlam(tmp_path / "b.npz")
    for odd in ODD:
        np.savez(tmp_path / "b.npz", **{**arrays, name: odd})
        assert "\n" not in said_of(tmp_path / "b.npz", "bedlam")
