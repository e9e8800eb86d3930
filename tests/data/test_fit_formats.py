"""Formats of fits: what is written comes back bit for bit, and other programs read it."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from eft_fast.data.formats.detect import LOADERS, find_format
from eft_fast.data.formats.eft_json import (
    eft_records_from_fits,
    eft_records_to_fits,
    load_eft_json,
    save_eft_json,
)
from eft_fast.data.formats.eft_pickle import (
    eft_pickles_from_fits,
    load_eft_pickles,
    save_eft_pickles,
)
from eft_fast.data.formats.fits import Fits, to_rotmat
from eft_fast.data.formats.fits_parquet import load_fits_parquet, save_fits_parquet
from eft_fast.data.formats.hmr2_tar import (
    Hmr2Person,
    Hmr2Photo,
    hmr2_photos_from_fits,
    load_hmr2_tars,
    save_hmr2_tars,
    split_key,
)
from eft_fast.data.formats.humandata_npz import (
    SMPL24_TO_190,
    SPIN49_TO_190,
    HumanData,
    humandata_from_fits,
    humandata_to_fits,
    load_humandata_npz,
    save_humandata_npz,
)
from eft_fast.data.formats.smpl_file import SmplMotion, load_smpl_file, save_smpl_file
from eft_fast.data.formats.spin_npz import (
    SpinLabels,
    load_spin_npz,
    save_spin_npz,
    spin_labels_from_fits,
    spin_labels_to_fits,
)
from eft_fast.keypoints import JOINT_SETS

COUNT = 5


@pytest.fixture
def photos(tmp_path):
    """Three photos for five people: two stand in the first and two in the second."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for number, ending in enumerate((".jpg", ".png", ".jpg")):
        path = folder / f"photo.{number}{ending}"
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return [paths[0], paths[0], paths[1], paths[1], paths[2]]


@pytest.fixture
def fits(photos):
    rng = np.random.default_rng(3)

    def draw(*shape):
        return rng.normal(size=(COUNT, *shape)).astype(np.float32)

    keypoints = np.concatenate([draw(49, 2) * 50, rng.random((COUNT, 49, 1))], 2)
    keypoints[:, ::7, :] = 0
    sigma = np.abs(draw(24)) * 40
    sigma[3] = np.nan
    return Fits(
        photos=tuple(photos),
        rotmat=to_rotmat(draw(24, 3)).astype(np.float32),
        betas=draw(10),
        pred_cam=draw(3),
        bbox_center=draw(2) * 100,
        bbox_scale=np.abs(draw()),
        keypoints_2d_px=keypoints.astype(np.float32),
        joint_set="spin49",
        ids=("7", "8#2", "-1", "10", "x/1"),
        tracks=("a", "b", "a", "b", "a"),
        is_trusted=np.array([True, False, True, True, True]),
        regressor_ids=("open-1:2d9e",) * COUNT,
        genders=("neutral", "male", "female", "neutral", "neutral"),
        extras={
            "joint_sigma_mm": sigma,
            "loss": draw(),
            "init_loss": draw(),
            "kp_error_px": np.abs(draw()),
            "steps": np.arange(COUNT),
            "stop_reason": np.array(["converged", "nan", "max_steps", "converged", "converged"]),
            "body_id": np.array(["open-1"] * COUNT),
            "init_rotmat": draw(24, 3, 3),
            "init_betas": draw(10),
            "init_pred_cam": draw(3),
        },
    )


CORE = ("rotmat", "betas", "pred_cam", "bbox_center", "bbox_scale", "keypoints_2d_px")


def assert_same_people(one: Fits, other: Fits, names=CORE) -> None:
    for name in names:
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name


def assert_same_extras(one: Fits, other: Fits) -> None:
    for name, values in one.portable_extras().items():
        assert np.array_equal(values, other.extras[name], equal_nan=values.dtype.kind == "f"), name


def test_parquet_keeps_everything(fits, tmp_path):
    for path in (tmp_path / "one.parquet", tmp_path / "shards"):
        save_fits_parquet(path, fits, people_per_shard=2)
        read = load_fits_parquet(path)
        assert find_format(path) == "parquet"
        assert_same_people(fits, read)
        for name in ("photos", "ids", "tracks", "regressor_ids", "genders", "joint_set", "facts"):
            assert getattr(read, name) == getattr(fits, name), name
        assert np.array_equal(read.is_trusted, fits.is_trusted)
        assert set(read.extras) == set(fits.extras)
        for name, values in fits.extras.items():
            same_nan = values.dtype.kind == "f"
            assert np.array_equal(values, read.extras[name], equal_nan=same_nan), name
            assert read.extras[name].dtype.kind == values.dtype.kind, name
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        f"shard-0000{number}.parquet" for number in range(3)
    ]
    everyone = load_fits_parquet(save_fits_parquet(tmp_path / "none", fits.take([])))
    assert len(everyone) == 0


def test_parquet_mistakes(fits, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    with pytest.raises(FileNotFoundError, match="load_fits_parquet: no"):
        load_fits_parquet(tmp_path / "absent")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="must be a Parquet file"):
        load_fits_parquet(tmp_path / "x.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="must be of format eft-fast-fits-parquet/1, got none"):
        load_fits_parquet(tmp_path / "y.parquet")
    save_fits_parquet(tmp_path / "s", fits, people_per_shard=3)
    save_fits_parquet(tmp_path / "s" / "shard-00009.parquet", Fits(**{**vars(fits), "extras": {}}))
    with pytest.raises(ValueError, match="have different columns"):
        load_fits_parquet(tmp_path / "s")


def test_eft_json_takes_the_error_bars_along(fits, tmp_path):
    path = save_eft_json(tmp_path / "fits.json", eft_records_from_fits(fits))
    assert find_format(path) == "eft-json"
    read = eft_records_to_fits(load_eft_json(path))
    assert_same_people(fits, read)
    assert_same_extras(fits, read)
    assert read.ids == ("7", "8", "-1", "10", "")
    assert read.tracks == fits.tracks
    assert read.photos[1:4] == ("photo.0.jpg", "photo.1.png", "photo.1.png")


def test_eft_json_by_the_published_recipe(fits, tmp_path):
    """What EFT's README does: rotations, the camera s*X + t, and the box, from plain JSON."""
    import json

    path = save_eft_json(tmp_path / "fits.json", eft_records_from_fits(fits))
    data = json.loads(path.read_text())
    assert data["ver"] == 1.0
    for row, sample in enumerate(data["data"]):
        pose = np.array(sample["parm_pose"])[None]
        betas, cam = np.array(sample["parm_shape"])[None], np.array(sample["parm_cam"])
        joints = np.einsum("ij,kj->ki", pose[0, 0], np.eye(3))
        in_crop = joints[:, :2] * cam[0] + cam[1:]
        ratio = 224.0 / (sample["bbox_scale"] * 200)
        in_photo = in_crop * 112 / ratio + np.array(sample["bbox_center"])
        assert sample["smpltype"] == "smpl"
        assert len(sample["joint_validity_openpose18"]) == 18
        s, t = fits.pred_cam[row, 0].astype(float), fits.pred_cam[row, 1:].astype(float)
        half = 100 * float(fits.bbox_scale[row])
        points = fits.rotmat[row, 0].astype(float).T[:, :2]
        expected = fits.bbox_center[row] + half * (s * points + t)
        np.testing.assert_allclose(in_photo, expected, rtol=1e-12)
        assert np.array_equal(betas[0], fits.betas[row].astype(float))


def test_eft_pickles(fits, tmp_path):
    folder = save_eft_pickles(tmp_path / "pickles", eft_pickles_from_fits(fits))
    assert find_format(folder) == "eft-pickle"
    read = LOADERS["eft-pickle"](folder)
    assert len(read) == COUNT
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "photo.0_7.pkl", "photo.0_8.pkl", "photo.1_-1.pkl", "photo.1_10.pkl", "photo.2_4.pkl",
    ]  # fmt: skip
    assert_same_people(fits, read)
    assert_same_extras(fits, read)
    assert read.ids == ("7", "8", "", "10", "")
    assert np.array_equal(read.extras["init_rotmat"], fits.extras["init_rotmat"])
    plain = pickle.loads((folder / "photo.0_7.pkl").read_bytes())
    assert plain["pred_pose_rotmat"].shape == (1, 24, 3, 3)
    assert plain["keypoint2d"].shape == plain["keypoint2d_cropped"].shape == (1, 49, 3)
    half = 100 * fits.bbox_scale[0]
    expected = (fits.keypoints_2d_px[0, 1, :2] - fits.bbox_center[0]) / half
    np.testing.assert_allclose(plain["keypoint2d_cropped"][0, 1, :2], expected, rtol=1e-6)
    assert plain["scale"] == fits.bbox_scale[0]


def test_eft_pickles_of_eft_itself(tmp_path):
    """Shapes and types as EFT's code leaves them: lists of one, first axes of one."""
    row = {
        "pred_pose_rotmat": np.zeros((1, 24, 3, 3), np.float32),
        "pred_shape": np.zeros((1, 10), np.float32),
        "pred_camera": np.ones((1, 3), np.float32),
        "scale": np.array([1.5]), "center": np.array([[10.0, 20.0]]), "annotId": [np.int64(5)],
        "imageName": "a.jpg", "subjectId": [""], "loss": np.array(0.25), "spin_pose": np.zeros(72),
    }  # fmt: skip
    row["center"] = row["center"][0]
    row["scale"] = row["scale"][0]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(row, 2))
    (person,) = load_eft_pickles(path)
    assert (person.annot_id, person.subject_id, person.loss, person.scale) == (5, None, 0.25, 1.5)
    del row["pred_shape"]
    path.write_bytes(pickle.dumps(row))
    with pytest.raises(ValueError, match=r"pred_shape of .* must be numbers \[10\], got none"):
        load_eft_pickles(path)
    with pytest.raises(FileNotFoundError, match=r"no file or folder of \.pkl"):
        load_eft_pickles(tmp_path / "absent")


def test_spin_npz_loses_nothing(fits, tmp_path):
    path = save_spin_npz(tmp_path / "fits.npz", spin_labels_from_fits(fits))
    assert find_format(path) == "spin-npz"
    read = spin_labels_to_fits(load_spin_npz(path))
    assert_same_people(fits, read)
    assert_same_extras(fits, read)
    assert (read.photos, read.tracks, read.genders) == (fits.photos, fits.tracks, fits.genders)
    assert np.array_equal(read.is_trusted, fits.is_trusted)


def test_spin_npz_of_others(tmp_path):
    """SPIN's own fields: genders as m and f, 3D points, no camera, no matrices."""
    rng = np.random.default_rng(2)
    pose, points = rng.normal(size=(2, 72)), rng.normal(size=(2, 24, 4))
    np.savez(
        tmp_path / "train.npz", imgname=["a.jpg", "b/c.jpg"], center=np.ones((2, 2)),
        scale=np.ones(2), part=np.ones((2, 24, 3)), pose=pose, shape=np.zeros((2, 10)),
        has_smpl=np.array([1, 0]), gender=["m", "f"], S=points,
    )  # fmt: skip
    labels = load_spin_npz(tmp_path / "train.npz")
    assert labels.genders == ("male", "female")
    assert np.array_equal(labels.points_3d, points)
    assert labels.has_smpl.tolist() == [True, False]
    assert not labels.keypoints_2d_px[:, :25].any()
    fits = spin_labels_to_fits(labels)
    assert np.isnan(fits.pred_cam).all()
    np.testing.assert_allclose(fits.rotmat, to_rotmat(pose.reshape(2, 24, 3)))
    again = load_spin_npz(save_spin_npz(tmp_path / "again.npz", labels))
    for name, value in vars(labels).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, getattr(again, name)), name
        else:
            assert value == getattr(again, name), name
    assert isinstance(again, SpinLabels)


def test_humandata_loses_nothing(fits, tmp_path):
    path = save_humandata_npz(tmp_path / "fits.npz", humandata_from_fits(fits))
    assert find_format(path) == "humandata-npz"
    read = humandata_to_fits(load_humandata_npz(path))
    assert_same_people(fits, read)
    assert_same_extras(fits, read)
    assert (read.photos, read.ids, read.genders) == (fits.photos, fits.ids, fits.genders)
    assert np.array_equal(read.is_trusted, fits.is_trusted)


def test_humandata_as_its_own_library_reads_it(fits, tmp_path):
    """Dictionaries as 0-d objects, a flag of compression, a mask of 190, boxes of five numbers."""
    path = save_humandata_npz(tmp_path / "fits.npz", humandata_from_fits(fits))
    with np.load(path, allow_pickle=True) as archive:
        assert bool(archive["__keypoints_compressed__"].item())
        assert archive["__temporal_len__"].item() == COUNT
        smpl, mask = archive["smpl"].item(), archive["keypoints2d_mask"]
        assert mask.shape == (190,)
        assert archive["keypoints2d"].shape == (COUNT, mask.sum(), 3)
        padded = np.zeros((COUNT, 190, 3))
        padded[:, mask == 1] = archive["keypoints2d"]
        assert smpl["body_pose"].shape == (COUNT, 23, 3)
        assert smpl["global_orient"].shape == (COUNT, 3)
        box = archive["bbox_xywh"]
        assert archive["meta"].item()["gender"][1] == "male"
    # The crop's centre, and its side without EFT's margin.
    np.testing.assert_allclose(box[:, :2] + box[:, 2:4] / 2, fits.bbox_center, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(box[:, 2] * 1.2 / 200, fits.bbox_scale, rtol=1e-6)
    # left_shoulder is number 16 of SMPL and of the 190; J24's is 9, OpenPose's 5 is number 158.
    assert np.array_equal(padded[:, 16], fits.keypoints_2d_px[:, 25 + 9])
    assert np.array_equal(padded[:, 158], fits.keypoints_2d_px[:, 5])
    rotmat = to_rotmat(np.concatenate([smpl["global_orient"][:, None], smpl["body_pose"]], 1))
    np.testing.assert_allclose(rotmat, fits.rotmat, atol=1e-6)


def test_humandata_places_keep_sides_apart():
    """Mirrored points of the 49 go to mirrored points of the 190, none twice."""
    assert len(set(SPIN49_TO_190)) == 49
    assert len(set(SMPL24_TO_190)) == 24
    # SMPL's left joints are in front of the right ones in the 190.
    flip = JOINT_SETS["smpl24"].flip
    left = [j for j in range(24) if JOINT_SETS["smpl24"].names[j].startswith("l")]
    assert all(SMPL24_TO_190[flip[joint]] - SMPL24_TO_190[joint] == 1 for joint in left)


def test_humandata_of_others(tmp_path):
    """All 190 points, boxes without confidence, dictionaries, no misc; and an object that runs."""
    rng = np.random.default_rng(0)
    smpl = {"global_orient": rng.normal(size=(2, 3)), "body_pose": rng.normal(size=(2, 69)),
            "betas": rng.normal(size=(2, 10))}  # fmt: skip
    points = rng.normal(size=(2, 190, 3))
    arrays = {
        "image_path": np.array(["a.jpg", "b.jpg"]), "bbox_xywh": rng.random((2, 4)) * 100,
        "keypoints2d": points, "smpl": smpl, "meta": {"gender": ["m", "f"]},
        "__keypoints_compressed__": False, "config": "coco",
    }  # fmt: skip
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays)
    data = load_humandata_npz(path)
    fits = humandata_to_fits(data)
    assert np.array_equal(data.keypoints2d, points)
    assert fits.genders == ("male", "female")
    assert np.isnan(fits.pred_cam).all()
    assert (data.bbox_xywh[:, 4] == 1).all()
    again = load_humandata_npz(save_humandata_npz(tmp_path / "y.npz", data))
    assert np.array_equal(again.keypoints2d, points)
    assert np.array_equal(again.smpl["body_pose"], smpl["body_pose"])
    assert isinstance(again, HumanData)

    class Runs:
        def __reduce__(self):
            return print, ("run",)

    np.savez(path, **{**arrays, "misc": {"x": Runs()}})
    with pytest.raises(ValueError, match=r"asks for builtins\.print in misc\.npy"):
        load_humandata_npz(path)
    np.savez(path, **{**arrays, "keypoints2d": points[:, :100]})
    with pytest.raises(ValueError, match=r"keypoints2d must be \[2, 190, 3\] under a mask"):
        load_humandata_npz(path)


def test_hmr2_tars_lose_nothing(fits, photos, tmp_path):
    left_out: dict[str, int] = {}
    written = list(hmr2_photos_from_fits(fits, photos, left_out))
    assert [len(photo.people) for photo in written] == [2, 2, 1]
    assert left_out == {}
    for path in (tmp_path / "one.tar", tmp_path / "tars"):
        save_hmr2_tars(path, written, photos_per_tar=2)
        assert find_format(path) == "hmr2-tar"
        back = list(load_hmr2_tars(path))
        for one, other in zip(written, back, strict=True):
            assert (one.key, one.image, one.ending) == (other.key, other.image, other.ending)
        read = LOADERS["hmr2-tar"](path)
        names = ("rotmat", "betas", "pred_cam", "bbox_center", "bbox_scale")
        assert_same_people(fits, read, names)
        assert np.array_equal(read.keypoints_2d_px[:, :44], fits.keypoints_2d_px[:, :44])
        assert not read.keypoints_2d_px[:, 44:].any()
        assert_same_extras(fits, read)
        assert (read.photos, read.ids, read.tracks) == (fits.photos, fits.ids, fits.tracks)
        assert np.array_equal(read.is_trusted, fits.is_trusted)
    names = sorted(path.name for path in (tmp_path / "tars").iterdir())
    assert names == ["000000.tar", "000001.tar"]


def test_hmr2_tars_are_read_by_webdataset(fits, photos, tmp_path):
    """The calls of HMR 2.0's loader: decode, then people of data.pyd one by one."""
    wds = pytest.importorskip("webdataset")
    path = save_hmr2_tars(tmp_path / "x.tar", hmr2_photos_from_fits(fits, photos, {}))
    dataset = wds.WebDataset(f"file:{path}", shardshuffle=False, nodesplitter=None)
    items = list(dataset.decode("rgb8").rename(jpg="jpg;jpeg;png"))
    assert [item["jpg"].shape for item in items] == [(60, 50, 3)] * 3
    people = [person for item in items for person in item["data.pyd"]]
    assert len(people) == COUNT
    for row, person in enumerate(people):
        assert person["keypoints_2d"].shape == (44, 3)
        assert person["keypoints_3d"].shape == (44, 4)
        assert person["body_pose"].shape == (72,)
        assert np.array_equal(person["scale"], np.full(2, fits.bbox_scale[row]))
        assert float(person["has_body_pose"]) == float(fits.is_trusted[row])
        error = float(fits.extras["kp_error_px"][row])
        labelled = (fits.keypoints_2d_px[row, :44, 2] > 0).sum()
        loss = person["extra_info"]["fitting_loss"]["reprojection_loss"]
        assert loss == pytest.approx(labelled * error**2)


def test_hmr2_tars_of_others(tmp_path):
    """Masks, one number for the scale, folders and dots in names, no extra_info."""
    person = Hmr2Person(
        keypoints_2d=np.ones((44, 3), np.float32), body_pose=np.zeros(72, np.float32),
        betas=np.zeros(10, np.float32), center=np.array([1, 2], np.float32),
        scale=np.array([1.5, 1.0], np.float32), has_betas=False,
    )  # fmt: skip
    masks = np.random.default_rng(0).random((1, 4, 5)) > 0.5
    photo = Hmr2Photo("train/a", b"\xff\xd8abc", ".jpg", (person,), masks)
    path = save_hmr2_tars(tmp_path / "x.tar", [photo])
    (read,) = load_hmr2_tars(path)
    assert np.array_equal(read.masks, masks)
    assert (read.people[0].has_body_pose, read.people[0].has_betas) == (True, False)
    fits = LOADERS["hmr2-tar"](path)
    assert fits.bbox_scale.tolist() == [1.5]
    assert fits.is_trusted.tolist() == [False]
    assert split_key("a.b/c.detection.NPZ") == ("a.b/c", ".detection.npz")
    content = pickle.dumps([{"keypoints_2d": np.ones((17, 3))}])
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.data.pyd")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"keypoints_2d of a\.data\.pyd of .* \[44, 3\]"):
        list(load_hmr2_tars(path))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must be a tar file"):
        list(load_hmr2_tars(path))


def test_hmr2_tars_leave_out_photos_that_are_not_there(fits, photos, tmp_path):
    left_out: dict[str, int] = {}
    text = tmp_path / "x.gif"
    text.write_bytes(b"GIF89a")
    paths = [*photos[:2], str(text), str(text), str(tmp_path / "absent.jpg")]
    written = list(hmr2_photos_from_fits(fits, paths, left_out))
    assert [len(photo.people) for photo in written] == [2]
    assert left_out == {"photo is neither JPEG nor PNG": 2, "photo cannot be read": 1}


def test_smpl_files_keep_float32(tmp_path):
    import logging

    handlers = list(logging.getLogger().handlers)
    rng = np.random.default_rng(1)
    motion = SmplMotion(
        rng.normal(size=(4, 72)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32),
        rng.normal(size=10).astype(np.float32), 25.0, "female",
    )  # fmt: skip
    path = save_smpl_file(tmp_path / "walk.smpl", motion)
    assert find_format(path) == "smpl"
    read = load_smpl_file(path)
    for name in ("full_pose", "transl", "betas"):
        assert np.array_equal(getattr(read, name), getattr(motion, name)), name
    assert (read.frame_rate, read.gender) == (25.0, "female")
    assert logging.getLogger().handlers == handlers
    codec = pytest.importorskip("smplcodec")
    assert codec.SMPLCodec.from_file(path).body_pose.shape == (4, 24, 3)
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"must be a \.smpl file"):
        load_smpl_file(path)
    with pytest.raises(ValueError, match=r"full_pose must be \[F, 72\]"):
        save_smpl_file(path, SmplMotion(np.zeros((4, 69)), np.zeros((4, 3)), np.zeros(10), 1.0))


def test_a_format_is_found_or_not_without_raising(fits, tmp_path):
    path = tmp_path / "x.json"
    for content in (b"", b"{", b'{"images": []}', b'{"parm": 1}', b"\xff\xfe\x00"):
        path.write_bytes(content)
        assert find_format(path) is None
    path.write_text('{"ver": 1.0, "data": []}')
    assert find_format(path) == "eft-json"
    (tmp_path / "x.npz").write_bytes(b"nothing")
    assert find_format(tmp_path / "x.npz") is None
    np.savez(tmp_path / "m.npz", poses=np.zeros((1, 156)), trans=np.zeros((1, 3)))
    assert find_format(tmp_path / "m.npz") == "amass-npz"
    assert find_format(tmp_path / "absent") is None
    assert find_format("\0") is None
