from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eft_fast.synth.motion import load_motion


def write_motion(folder: Path) -> None:
    """Three small files in the layout of the converted motion capture."""
    rng = np.random.default_rng(0)

    def pose(count: int) -> np.ndarray:
        return rng.normal(size=(count, 72)).astype(np.float16)

    names = np.array(["train_data_bvh/indian/04.bvh", "train_data_bvh/indian/13.bvh"])
    np.savez(
        folder / "cmu_smpl24_12fps.npz",
        pose=pose(10), seq=np.repeat(np.arange(2, dtype=np.int16), 5), names=names,
    )  # fmt: skip
    np.savez(folder / "cmu_subjects_01_03_10hz.npz", pose=pose(4))
    np.savez(
        folder / "cmu_more_subjects_10hz.npz",
        pose=pose(4),
        subject=np.array([5, 6, -1, -1], dtype=np.int16),
        clip=np.array(["05_01", "06_01", "cs_a", "cs_b"]),
        action=np.array(["dance", "basketball", "basketball", "walking"]),
    )


def test_splits_hold_different_recordings(tmp_path: Path) -> None:
    write_motion(tmp_path)
    train, test = load_motion(tmp_path, "train"), load_motion(tmp_path, "test")
    assert len(train) + len(test) == 18
    assert not set(train.recording) & set(test.recording)
    assert {r.split("/", 1)[1] for r in test.recording} == {"indian/13", "06_01", "cs_a"}


def test_weights_are_probabilities_and_decide_the_draw(tmp_path: Path) -> None:
    write_motion(tmp_path)
    pool = load_motion(tmp_path, "train")
    assert pool.weight.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = np.stack([pool.draw(rng) for _ in range(2000)])
    hits = (drawn == pool.full_pose[-1]).all((1, 2)).mean()
    assert hits == pytest.approx(pool.weight[-1], abs=0.02)


def test_shipped_motion_is_split_without_overlap(shared_dir: Path) -> None:
    """The real files: no recording is in both splits, and the others hold about what is planned."""
    folder = shared_dir / "data" / "cmu_mocap_smpl24"
    train = load_motion(folder, "train")
    for split, share in (("test", 0.15), ("val", 0.05)):
        held = load_motion(folder, split)
        assert not set(train.recording) & set(held.recording)
        assert len(held) / len(train) == pytest.approx(share, abs=0.04)
        # A frame that is in both, under whatever name, would be a leak.
        seen = {frame.tobytes() for frame in train.full_pose}
        assert not any(frame.tobytes() in seen for frame in held.full_pose)
    assert not set(load_motion(folder, "test").recording) & set(
        load_motion(folder, "val").recording
    )


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file cmu_smpl24_12fps\.npz"):
        load_motion(tmp_path, "train")


def test_wrong_layout_is_named(tmp_path: Path) -> None:
    write_motion(tmp_path)
    np.savez(tmp_path / "cmu_subjects_01_03_10hz.npz", pose=np.zeros((4, 24, 3)))
    with pytest.raises(ValueError, match=r"must hold pose \[N, 72\], got \[4, 24, 3\]"):
        load_motion(tmp_path, "train")


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='must be "train", "test" or "val", got "all"'):
        load_motion(tmp_path, "all")  # type: ignore[arg-type]
