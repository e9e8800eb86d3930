"""Formats of other programs: what is written comes back, and mistakes are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eft_fast.data.formats.amass_npz import AmassMotion, load_amass_npz, save_amass_npz
from eft_fast.data.formats.eft_json import EftRecord, load_eft_json, save_eft_json
from eft_fast.data.formats.spin_npz import SpinLabels, load_spin_npz, save_spin_npz


def make_record(seed: int, **changes) -> EftRecord:
    rng = np.random.default_rng(seed)
    values = {
        "image_name": f"COCO_{seed}.jpg",
        "full_pose_rotmat": rng.normal(size=(24, 3, 3)).astype(np.float32),
        "betas": rng.normal(size=10).astype(np.float32),
        "pred_cam": rng.normal(size=3).astype(np.float32),
        "bbox_scale": float(np.float32(rng.random())),
        "bbox_center": rng.normal(size=2).astype(np.float32),
        "joint_validity": np.ones(18),
        **changes,
    }
    return EftRecord(**values)


def test_eft_json_keeps_every_bit(tmp_path):
    points = np.random.default_rng(9).normal(size=(49, 3))
    records = [
        make_record(1, annot_id=183020, keypoints_2d_px=points),
        make_record(2, subject_id="walk_0", regressor_id="open-1:2d9ea62d0ab9f4fd"),
    ]
    read = load_eft_json(save_eft_json(tmp_path / "fits.json", records))
    for one, other in zip(records, read, strict=True):
        for name in ("full_pose_rotmat", "betas", "pred_cam", "bbox_center", "joint_validity"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        for name in (
            "image_name", "bbox_scale", "annot_id", "subject_id", "smpltype", "regressor_id"
        ):  # fmt: skip
            assert getattr(one, name) == getattr(other, name), name
    assert np.array_equal(read[0].keypoints_2d_px, points)
    assert read[1].keypoints_2d_px is None


def test_eft_json_has_the_fields_of_the_released_files(tmp_path):
    path = save_eft_json(tmp_path / "fits.json", [make_record(1, annot_id=5)])
    document = json.loads(path.read_text())
    assert set(document) == {"ver", "data"}
    assert set(document["data"][0]) == {
        "parm_pose", "parm_shape", "parm_cam", "bbox_scale", "bbox_center",
        "joint_validity_openpose18", "smpltype", "imageName", "annotId",
    }  # fmt: skip


def test_eft_json_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"parm_shape of COCO_1\.jpg must be finite"):
        save_eft_json(tmp_path / "x.json", [make_record(1, betas=np.full(10, np.nan))])
    path = save_eft_json(tmp_path / "fits.json", [make_record(1)])
    for change, words in (
        ({"parm_pose": [1, 2]}, r"parm_pose of record 0 must be numbers \[24, 3, 3\], got \[2\]"),
        ({"parm_cam": "x"}, r"parm_cam of record 0 must be numbers \[3\]"),
        ({"bbox_scale": None}, "record 0 must have a number bbox_scale"),
    ):
        document = json.loads(path.read_text())
        document["data"][0] |= change
        (tmp_path / "bad.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match=words):
            load_eft_json(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ValueError, match='list "data"'):
        load_eft_json(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_eft_json(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_eft_json(tmp_path / "none.json")


def test_spin_npz_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    labels = SpinLabels(
        image_names=("a/1.jpg", "b.jpg"),
        bbox_center=rng.normal(size=(2, 2)).astype(np.float32),
        bbox_scale=rng.random(2).astype(np.float32),
        keypoints_2d_px=rng.normal(size=(2, 49, 3)),
        full_pose=rng.normal(size=(2, 72)),
        betas=rng.normal(size=(2, 10)),
        has_smpl=np.array([True, False]),
        annot_ids=np.array([4, -1]),
        regressor_ids=("open-1:2d9ea62d0ab9f4fd", "open-1"),
    )
    read = load_spin_npz(save_spin_npz(tmp_path / "set.npz", labels))
    for name, value in vars(labels).items():
        assert np.array_equal(getattr(read, name), value), name
    with np.load(tmp_path / "set.npz") as file:
        assert file["part"].shape == (2, 24, 3)
        assert np.array_equal(file["openpose"], labels.keypoints_2d_px[:, :25])


def test_spin_npz_optional_and_wrong_arrays(tmp_path):
    base = {
        "imgname": np.array(["x.jpg"]), "center": np.zeros((1, 2)), "scale": np.ones(1),
        "part": np.ones((1, 24, 3)),
    }  # fmt: skip
    np.savez(tmp_path / "few.npz", **base)
    read = load_spin_npz(tmp_path / "few.npz")
    assert not read.has_smpl.any()
    assert read.annot_ids.tolist() == [-1]
    assert read.regressor_ids == ()
    assert (read.keypoints_2d_px[:, :25] == 0).all()
    np.savez(tmp_path / "bad.npz", **{**base, "part": np.ones((1, 23, 3))})
    with pytest.raises(ValueError, match=r"part must be \[1, 24, 3\] .*got \[1, 23, 3\]"):
        load_spin_npz(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", imgname=base["imgname"])
    with pytest.raises(ValueError, match="must hold center"):
        load_spin_npz(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", imgname=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="npz of plain arrays"):
        load_spin_npz(tmp_path / "bad.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(ValueError, match="npz of plain arrays"):
        load_spin_npz(tmp_path / "bad.npz")


def test_amass_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(4, 72))
    motion = AmassMotion(pose, rng.normal(size=(4, 3)), rng.normal(size=10), 30.0)
    read = load_amass_npz(save_amass_npz(tmp_path / "walk.npz", motion))
    assert np.array_equal(read.full_pose[:, :66], pose[:, :66])
    assert (read.full_pose[:, 66:] == 0).all()
    assert np.array_equal(read.transl, motion.transl)
    assert np.array_equal(read.betas, motion.betas)
    assert read.frame_rate == 30.0
    with np.load(tmp_path / "walk.npz") as file:
        assert file["poses"].shape == (4, 156)
        assert file["betas"].shape == (16,)
        arrays = dict(file)
    arrays["mocap_frame_rate"] = arrays.pop("mocap_framerate")
    np.savez(tmp_path / "other.npz", **arrays)
    assert load_amass_npz(tmp_path / "other.npz").frame_rate == 30.0
    del arrays["trans"]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match="must hold poses, trans and mocap_framerate"):
        load_amass_npz(tmp_path / "bad.npz")


def amass(path, **changes):
    """A file as AMASS has it, of SMPL-H unless the changes say otherwise."""
    arrays = {"poses": np.zeros((3, 156)), "trans": np.zeros((3, 3)), "betas": np.ones(16)}
    arrays |= {"mocap_framerate": np.array(120.0), "gender": np.array("female"), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "smplh"),
        ({"poses": np.zeros((3, 72))}, "smpl"),
        ({"poses": np.zeros((3, 165))}, "smplx"),
        ({"surface_model_type": np.array("SMPL-X")}, "smplx"),
        ({"pose_jaw": np.zeros((3, 3))}, "smplx"),
    ],
)
def test_amass_says_which_body_its_shape_is_of(tmp_path, changes, kind):
    """The first 66 numbers turn the same joints everywhere; shape coefficients do not."""
    assert load_amass_npz(amass(tmp_path / "m.npz", **changes)).model_type == kind


@pytest.mark.parametrize(
    "changes",
    [
        {"surface_model_type": np.array("mano"), "poses": np.zeros((3, 156))},
        {"poses": np.zeros((3, 51))},
        {"poses": np.zeros((3, 48))},
    ],
)
def test_amass_of_hands_is_named(tmp_path, changes):
    with pytest.raises(ValueError, match="of SMPL, SMPL-H or SMPL-X, got one of MANO in"):
        load_amass_npz(amass(tmp_path / "m.npz", **changes))


@pytest.mark.parametrize("name", ["poses", "trans", "betas"])
def test_amass_that_is_not_finite_is_refused(tmp_path, name):
    with np.load(amass(tmp_path / "m.npz")) as file:
        broken = file[name].astype(float)
    broken.flat[-1 if name != "betas" else 0] = np.nan
    with pytest.raises(ValueError, match=f"expected finite {name}, got NaN"):
        load_amass_npz(amass(tmp_path / "m.npz", **{name: broken}))


@pytest.mark.parametrize(
    ("stored", "gender"),
    [
        ("female", "female"),
        (b"male", "male"),
        (np.array(["Neutral "]), "neutral"),
        (np.array("f"), "female"),
        (np.array("unknown"), "neutral"),
        (None, "neutral"),
        (np.array(["male"], dtype=object), "neutral"),
    ],
)
def test_amass_says_whose_shape_it_is(tmp_path, stored, gender):
    value = None if stored is None else np.asarray(stored)
    motion = load_amass_npz(amass(tmp_path / "m.npz", gender=value, betas=np.ones((1, 10))))
    assert (motion.gender, motion.betas.shape) == (gender, (10,))
    assert load_amass_npz(save_amass_npz(tmp_path / "n.npz", motion)).gender == gender


def test_amass_with_smpls_own_numbers_keeps_the_hands(tmp_path):
    pose = np.arange(3 * 72.0).reshape(3, 72)
    path = amass(tmp_path / "m.npz", poses=pose)
    np.testing.assert_array_equal(load_amass_npz(path).full_pose, pose)
