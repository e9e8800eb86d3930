from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eft_fast.data.formats.amass_npz import TO_Z_UP, load_amass_npz
from eft_fast.data.formats.eft_json import load_eft_json
from eft_fast.data.formats.spin_npz import load_spin_npz
from eft_fast.geometry.cameras import to_cam_transl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.pseudo_gt import PersonNames, write_fits
from eft_fast.pseudo_gt.write import to_amass_motion, to_smpl_motion
from eft_fast.result import FitResult

NAMES = PersonNames([f"photos/{n}.jpg" for n in "abcdef"], ["7", "8", "x/1", "10", "11", "12"])


def turned(fits: FitResult) -> FitResult:
    """The same people in poses of their own."""
    noise = 0.4 * torch.randn(len(fits), 24, 3)
    full = axis_angle_to_matrix(noise) @ fits.params.full_pose
    params = replace(fits.params, global_orient=full[:, :1], body_pose=full[:, 1:])
    return replace(fits, params=params)


def test_eft_json_holds_the_fits_bit_for_bit(fits: FitResult, tmp_path: Path) -> None:
    fits = turned(fits)
    path, count = write_fits(fits, NAMES, "eft-json", tmp_path / "fits.json")
    records = load_eft_json(path)
    assert count == len(records) == 6
    for row, record in enumerate(records):
        assert np.array_equal(record.full_pose_rotmat, fits.params.full_pose[row].numpy())
        assert np.array_equal(record.betas, fits.params.betas[row].numpy())
        assert np.array_equal(record.pred_cam, fits.pred_cam[row].numpy())
        assert record.bbox_scale == float(fits.bbox_scale[row])
        assert record.image_name == "abcdef"[row] + ".jpg"
    assert [record.annot_id for record in records] == [7, 8, None, 10, 11, 12]


def test_every_format_names_the_weights(fits: FitResult, tmp_path: Path) -> None:
    paths = {
        kind: write_fits(fits, NAMES, kind, tmp_path / kind)[0]
        for kind in ("eft-json", "spin-npz", "amass-npz")
    }
    assert [r.regressor_id for r in load_eft_json(paths["eft-json"])] == [fits.regressor_id] * 6
    assert load_spin_npz(paths["spin-npz"]).regressor_ids == (fits.regressor_id,) * 6
    motions = sorted(tmp_path.rglob("amass-npz*.npz")) or sorted(tmp_path.rglob("*_*.npz"))
    assert motions
    assert {load_amass_npz(path).regressor_id for path in motions} == {fits.regressor_id}


def test_validity_is_in_openpose_order(fits: FitResult, tmp_path: Path) -> None:
    """COCO's right wrist (10) is OpenPose's 4, the left ankle (15) its 13; 1 is the neck."""
    keypoints = fits.keypoints.clone()
    keypoints[0, [10, 15], 2] = 0
    fits = replace(fits, keypoints=keypoints)
    path, _ = write_fits(fits, NAMES, "eft-json", tmp_path / "fits.json")
    validity = load_eft_json(path)[0].joint_validity
    assert np.flatnonzero(validity == 0).tolist() == [1, 4, 13]


def test_spin_npz_holds_the_fits(fits: FitResult, tmp_path: Path) -> None:
    fits = turned(fits)
    path, _ = write_fits(fits, NAMES, "spin-npz", tmp_path / "fits.npz")
    labels = load_spin_npz(path)
    rotmat = axis_angle_to_matrix(torch.from_numpy(labels.full_pose).view(-1, 24, 3))
    torch.testing.assert_close(rotmat.float(), fits.params.full_pose, rtol=0, atol=2e-6)
    assert np.array_equal(labels.betas, fits.params.betas.numpy())
    assert labels.annot_ids.tolist() == [7, 8, -1, 10, 11, 12]
    assert labels.has_smpl.all()
    # COCO's nose is number 19 of the 24.
    assert np.array_equal(labels.keypoints_2d_px[:, 25 + 19], fits.keypoints[:, 0].numpy())


def test_amass_poses_the_same_bodies_with_z_up(fits: FitResult, tmp_path: Path) -> None:
    """Posed from the file, the body is where the crop's pinhole puts it, in the turned frame."""
    same = fits.params.betas[:1].expand(6, 10).clone()
    fits = turned(replace(fits, params=replace(fits.params, betas=same)))
    names = replace(NAMES, tracks=["walker"] * 6)
    path, _ = write_fits(fits, names, "amass-npz", tmp_path / "walk.npz")
    motion = load_amass_npz(path)
    pose = torch.from_numpy(motion.full_pose).float()
    pose[:, 66:] = 0  # hands are not in the file
    straight = fits.params.body_pose.clone()
    straight[:, 21:] = torch.eye(3)
    placed = replace(fits, params=replace(fits.params, body_pose=straight)).vertices()
    placed = placed + to_cam_transl(fits.pred_cam)[:, None]
    expected = placed @ torch.from_numpy(TO_Z_UP).float().T
    body, betas = fits.body(), torch.from_numpy(motion.betas).float()[None]
    posed = body(betas, pose[:, 3:], pose[:, :3], torch.from_numpy(motion.transl).float())
    torch.testing.assert_close(posed.vertices, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("tracks", "frames"),
    [
        ((), {f"{row:05d}": 1 for row in range(1, 7)}),
        (["a", "b"] * 3, {"a": 3, "b": 3}),
        (["a/../x", *["b"] * 5], {"a_.._x": 1, "b": 5}),
    ],
)
def test_amass_keeps_people_apart(
    fits: FitResult, tmp_path: Path, tracks: list[str], frames: dict[str, int]
) -> None:
    """One file a person, each with that person's own shape."""
    path, count = write_fits(fits, replace(NAMES, tracks=tracks), "amass-npz", tmp_path / "w.npz")
    assert (path, count) == (tmp_path, 6)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"w-{n}.npz" for n in sorted(frames)
    ]
    motions = {name: load_amass_npz(tmp_path / f"w-{name}.npz") for name in frames}
    assert {name: len(motion.full_pose) for name, motion in motions.items()} == frames
    first = np.array([tracks[0] == track for track in tracks]) if tracks else np.arange(6) == 0
    expected = fits.params.betas[torch.from_numpy(first)].mean(0).double()
    np.testing.assert_allclose(motions[min(frames)].betas, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("photos", "written"),
    [
        (["x/a.jpg", "y/b.jpg"], ["a.jpg", "b.jpg"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["p/x/a.jpg", "q/x/a.jpg"], ["p/x/a.jpg", "q/x/a.jpg"]),
        (["x/a.jpg", "x/a.jpg"], ["a.jpg", "a.jpg"]),
    ],
)
def test_photos_of_one_name_stay_apart(
    fits: FitResult, tmp_path: Path, photos: list[str], written: list[str]
) -> None:
    names = PersonNames(photos, ["1", "1#2"])
    path, _ = write_fits(fits[:2], names, "eft-json", tmp_path / "fits.json")
    records = load_eft_json(path)
    assert [record.image_name for record in records] == written
    assert [record.annot_id for record in records] == [1, 1]


def test_failed_fits_are_left_out(fits: FitResult, tmp_path: Path) -> None:
    betas = fits.params.betas.clone()
    betas[2, 0] = float("nan")
    fits = replace(fits, params=replace(fits.params, betas=betas))
    path, count = write_fits(fits, NAMES, "eft-json", tmp_path / "fits.json")
    assert count == 5
    assert [r.image_name for r in load_eft_json(path)] == [f"{n}.jpg" for n in "abdef"]


def test_mistakes(fits: FitResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format must be one of eft-json, eft-pickle, spin-npz"):
        write_fits(fits, NAMES, "fbx", tmp_path / "x")
    with pytest.raises(ValueError, match="one photo per fit expected, got 1 for 6"):
        write_fits(fits, PersonNames(["a.jpg"]), "eft-json", tmp_path / "x")
    with pytest.raises(ValueError, match="nobody has a finite fit"):
        write_fits(fits[:0], PersonNames(), "eft-json", tmp_path / "x")
    _, count = write_fits(fits, PersonNames(), "eft-json", tmp_path / "x.json")
    assert load_eft_json(tmp_path / "x.json")[count - 1].image_name == "0000005"


def test_strangers_do_not_become_one_motion(fits: FitResult) -> None:
    """A result does not tell whether its rows are people or frames; the caller has to."""
    with pytest.raises(ValueError, match="a motion is of one person, got 6 rows"):
        to_amass_motion(fits)
    with pytest.raises(ValueError, match="a motion is of one person, got 6 rows"):
        to_smpl_motion(fits)
    assert len(to_amass_motion(fits, is_one_person=True).full_pose) == 6
    assert len(to_amass_motion(fits[2]).full_pose) == 1
