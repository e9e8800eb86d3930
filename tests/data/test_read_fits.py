"""Files of fits and labelled sets as annotations: keypoints, poses, crops, photos in tars."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from eft_fast import data
from eft_fast.data.formats.eft_json import eft_records_from_fits, save_eft_json
from eft_fast.data.formats.eft_pickle import eft_pickles_from_fits, save_eft_pickles
from eft_fast.data.formats.fits import Fits, to_rotmat
from eft_fast.data.formats.fits_parquet import save_fits_parquet
from eft_fast.data.formats.hmr2_tar import Hmr2Person, Hmr2Photo, save_hmr2_tars
from eft_fast.data.formats.humandata_npz import humandata_from_fits, save_humandata_npz
from eft_fast.data.formats.spin_npz import save_spin_npz, spin_labels_from_fits

COUNT = 3


@pytest.fixture
def fits(tmp_path):
    rng = np.random.default_rng(0)
    photos = []
    for row in range(COUNT):
        Image.new("RGB", (300, 200)).save(tmp_path / f"{row}.jpg")
        photos.append(str(tmp_path / f"{row}.jpg"))
    points = np.concatenate([rng.random((COUNT, 49, 2)) * 180, np.ones((COUNT, 49, 1))], 2)
    sigma = 50 * rng.random((COUNT, 24))
    return Fits(
        photos=tuple(photos),
        rotmat=to_rotmat(rng.normal(size=(COUNT, 24, 3))),
        betas=rng.normal(size=(COUNT, 10)),
        pred_cam=rng.normal(size=(COUNT, 3)),
        bbox_center=rng.random((COUNT, 2)) * 20 + 90,
        bbox_scale=rng.random(COUNT) * 0.2 + 1.0,
        keypoints_2d_px=points,
        joint_set="spin49",
        ids=("7", "8", "9"),
        is_trusted=np.array([True, True, False]),
        extras={"joint_sigma_mm": sigma, "kp_error_px": rng.random(COUNT)},
    )


SAVE = {
    "eft-json": ("f.json", lambda path, fits: save_eft_json(path, eft_records_from_fits(fits))),
    "eft-pickle": ("f", lambda path, fits: save_eft_pickles(path, eft_pickles_from_fits(fits))),
    "spin-npz": ("f.npz", lambda path, fits: save_spin_npz(path, spin_labels_from_fits(fits))),
    "humandata-npz": (
        "f.npz", lambda path, fits: save_humandata_npz(path, humandata_from_fits(fits)),
    ),
    "parquet": ("f.parquet", save_fits_parquet),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAVE)
def test_fits_are_annotations(fits, tmp_path, kind):
    """The format is told by content; keypoints, pose, shape, crop and error bars come along."""
    name, save = SAVE[kind]
    save(tmp_path / "out" / name if kind == "eft-pickle" else tmp_path / name, fits)
    path = tmp_path / "out" / name if kind == "eft-pickle" else tmp_path / name
    samples = data.open_annotations(path, tmp_path)
    assert [sample.dataset for sample in samples] == [kind] * COUNT
    assert [sample.problem for sample in samples] == [None] * COUNT
    assert [sample.id for sample in samples] == ["7", "8", "9"]
    for row, sample in enumerate(samples):
        assert sample.image.name == f"{row}.jpg"
        assert np.array_equal(sample.keypoints_2d_px, fits.keypoints_2d_px[row])
        np.testing.assert_allclose(sample.bbox_center, fits.bbox_center[row])
        assert sample.bbox_scale == pytest.approx(fits.bbox_scale[row])
        assert np.array_equal(sample.extra["joint_sigma_mm"], fits.extras["joint_sigma_mm"][row])
        trusted = bool(fits.is_trusted[row]) or kind in ("eft-json", "eft-pickle")
        assert sample.has_pose is sample.has_betas is trusted
        if trusted:
            np.testing.assert_allclose(to_rotmat(sample.full_pose), fits.rotmat[row], atol=1e-9)
            assert np.array_equal(sample.betas, fits.betas[row])
    assert data.detect(path).name == kind


def test_spin_npz_with_points_in_space(tmp_path):
    rng = np.random.default_rng(2)
    solid = rng.normal(size=(2, 24, 4))
    solid[1] = 0
    np.savez(
        tmp_path / "h36m.npz", imgname=["a.jpg", "b.jpg"], center=np.full((2, 2), 50.0),
        scale=np.ones(2), part=rng.random((2, 24, 3)) * [90, 90, 1], S=solid, gender=["m", "f"],
    )  # fmt: skip
    first, second = data.open_annotations(tmp_path / "h36m.npz")
    assert np.array_equal(first.keypoints_3d[25:], solid[0])
    assert not first.keypoints_3d[:25].any()
    assert second.keypoints_3d is None
    assert (first.has_pose, first.gender, second.gender) == (False, "male", "female")


def test_hmr2_npz_counts_scale_in_pixels(tmp_path):
    """Trap 5: 300 px are 1.5 boxes of 200 px, while the same number in SPIN's file would be 300."""
    rng = np.random.default_rng(0)
    body, extra = rng.random((2, 25, 3)) * 90 + [0, 0, 1], rng.random((2, 19, 3)) * 90 + [0, 0, 1]
    body[..., 2] = extra[..., 2] = 1
    np.savez(
        tmp_path / "eval.npz", imgname=np.array(["a.jpg", "b.jpg"]), center=np.full((2, 2), 50.0),
        scale=np.array([[200.0, 300.0], [100.0, 80.0]]), body_keypoints_2d=body,
        extra_keypoints_2d=extra, body_keypoints_3d=rng.random((2, 25, 4)),
        extra_keypoints_3d=rng.random((2, 19, 4)), body_pose=rng.normal(size=(2, 72)),
        has_body_pose=np.array([1, 0]), betas=rng.normal(size=(2, 10)), has_betas=np.array([1, 1]),
        personid=np.arange(2), extra_info=np.array([{}, {}], dtype=object),
    )  # fmt: skip
    samples = data.open_annotations(tmp_path / "eval.npz")
    assert [sample.dataset for sample in samples] == ["hmr2-npz"] * 2
    assert [sample.bbox_scale for sample in samples] == [1.5, 0.5]
    assert np.array_equal(samples[0].keypoints_2d_px[25:44, :2], extra[0, :, :2])
    assert not samples[0].keypoints_2d_px[44:].any()
    assert [sample.has_pose for sample in samples] == [True, False]
    assert samples[1].has_betas


def test_words_of_numpy_become_a_sentence(tmp_path):
    """Rows that are equally many, but of another shape."""
    arrays = {"imgname": np.array(["a.jpg"]), "center": np.full((1, 1), 50.0)}
    arrays |= {"scale": np.full((1, 2), 200.0), "body_keypoints_2d": np.ones((1, 25, 3))}
    np.savez(tmp_path / "eval.npz", **arrays)
    with pytest.raises(
        ValueError, match=r"^read_hmr2_npz: .*eval.npz is not in the form"
    ) as caught:
        data.open_annotations(tmp_path / "eval.npz", format_name="hmr2-npz")
    assert "cannot reshape array" in str(caught.value)


def test_hmr2_tars_bring_their_photos(tmp_path):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (120, 100, 3), dtype=np.uint8)).save(buffer, "PNG")

    def make(scale):
        points = np.concatenate([rng.random((44, 2)) * 90, np.ones((44, 1))], 1)
        return Hmr2Person(
            points.astype(np.float32), rng.normal(size=72).astype(np.float32),
            rng.normal(size=10).astype(np.float32), np.array([50, 60], np.float32),
            np.array([scale, 0.4], np.float32), has_body_pose=scale < 1,
            keypoints_3d=np.ones((44, 4), np.float32),
        )  # fmt: skip

    masks = rng.random((2, 120, 100)) > 0.5
    photos = [
        Hmr2Photo("a", buffer.getvalue(), ".png", (make(0.5), make(1.5)), masks),
        Hmr2Photo("b", b"no picture", ".jpg", (make(0.5),)),
    ]
    save_hmr2_tars(tmp_path / "tars", photos)
    samples = data.open_annotations(tmp_path / "tars")
    assert [sample.id for sample in samples] == ["a#0", "a#1", "b#0"]
    assert [sample.image_size for sample in samples] == [(100, 120), (100, 120), None]
    assert samples[0].image == buffer.getvalue()
    assert np.array_equal(samples[1].mask, masks[1])
    assert [sample.bbox_scale for sample in samples] == [0.5, 1.5, 0.5]
    assert [sample.has_pose for sample in samples] == [True, False, True]
    assert samples[0].keypoints_3d[:44].all()
    assert "b.jpg" in samples[2].problem
    assert samples[0].problem is None


def test_a_run_in_parquet_can_be_fitted_again(fits, tmp_path):
    """Rows of a folder of shards, by the name of the format as well."""
    save_fits_parquet(tmp_path / "shards", fits, people_per_shard=2)
    samples = data.open_annotations(f"parquet:{tmp_path / 'shards'}", tmp_path)
    assert len(samples) == COUNT
    assert samples.problems == []


def test_photos_in_tars_are_told_of_by_fit(fits, tmp_path, capsys):
    """The program names photos by their paths, and says so in one sentence."""
    from eft_fast.cli import main
    from eft_fast.data.formats.hmr2_tar import hmr2_photos_from_fits

    tars = save_hmr2_tars(tmp_path / "x.tar", hmr2_photos_from_fits(fits, fits.photos, {}))
    arguments = ["fit", str(tmp_path), "--annotations", str(tars), "--out", str(tmp_path / "o")]
    assert main([*arguments, "--quiet"]) == 2
    assert "3 people, the first of them 7, have photos that are no files" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SAVE)
def test_inspect_tells_of_fits(fits, tmp_path, kind, capsys):
    import json

    from eft_fast.cli import main

    name, save = SAVE[kind]
    path = tmp_path / "out" / name
    path.parent.mkdir()
    save(path, fits)
    assert main(["data", "inspect", str(path), "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["format"], summary["people"], summary["joint_set"]) == (kind, COUNT, "spin49")
