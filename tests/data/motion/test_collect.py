from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eft_fast.data.formats.motion_npz import load_motion_npz, save_motion_npz
from eft_fast.data.motion.collect import collect_motion, find_motion_files, subject_of
from eft_fast.synth.motion import load_motion
from tests.data.motion.rigs import MIXAMO, random_angles, rest_joints, write_amass, write_bvh


def write_subjects(folder: Path, count: int, frames: int = 20) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for subject in range(count):
        for clip in range(2):
            degrees = random_angles(frames, 24, seed=subject + 100 * clip, size=30)
            name = f"{subject:02d}_{clip:02d}.bvh"
            write_bvh(folder / name, MIXAMO, rest_joints(), degrees, seconds=1 / 20)
    return find_motion_files([folder])


def test_no_subject_is_in_two_splits(tmp_path: Path) -> None:
    files = write_subjects(tmp_path / "in", 8)
    found = collect_motion(files, rest_joints())
    motion = found.motion
    assert motion is not None
    of_subject: dict[str, set[str]] = {}
    for subject, split in zip(motion.subjects, motion.splits, strict=True):
        of_subject.setdefault(subject, set()).add(split)
    assert len(of_subject) == 8
    assert all(len(splits) == 1 for splits in of_subject.values())
    share = {s: np.mean([s == each for each in motion.splits]) for s in ("train", "test", "val")}
    assert share == {"train": 5 / 8, "test": 2 / 8, "val": 1 / 8}
    again = collect_motion(list(reversed(files)), rest_joints()).motion
    assert again is not None
    assert dict(zip(again.names, again.splits, strict=True)) == dict(
        zip(motion.names, motion.splits, strict=True)
    )


@pytest.mark.parametrize(
    ("subjects", "splits"), [(1, {"test"}), (2, {"test", "train"}), (3, {"test", "train", "val"})]
)
def test_few_subjects(tmp_path: Path, subjects: int, splits: set[str]) -> None:
    motion = collect_motion(write_subjects(tmp_path / "in", subjects), rest_joints()).motion
    assert motion is not None
    assert set(motion.splits) == splits


def test_frames_are_picked_at_the_rate(tmp_path: Path) -> None:
    files = write_subjects(tmp_path / "in", 1)
    every = collect_motion(files, rest_joints(), rate=20).motion
    some = collect_motion(files, rest_joints(), rate=10, split="val").motion
    assert every is not None
    assert some is not None
    np.testing.assert_array_equal(some.pose[:10], every.pose[:20:2])
    assert some.frame_rate.tolist() == [10, 10]
    assert set(some.splits) == {"val"}


def test_faults_of_the_capture_and_rest_frames_go(tmp_path: Path) -> None:
    degrees = random_angles(6, 24, size=20)
    degrees[0] = 0
    degrees[3, 18] = (170, 0, 0)
    write_bvh(tmp_path / "a_1.bvh", MIXAMO, rest_joints(), degrees)
    found = collect_motion([tmp_path / "a_1.bvh"], rest_joints())
    assert found.motion is not None
    assert len(found.motion.pose) == 4
    assert found.dropped == 1


def test_a_bad_file_is_told_and_changes_no_other(tmp_path: Path) -> None:
    files = write_subjects(tmp_path / "in", 2)
    alone = collect_motion(files, rest_joints()).motion
    for name, content in (("x.bvh", b"no"), ("y.amc", b"1\nroot 1"), ("z.npz", b"PK\3\4")):
        (tmp_path / "in" / name).write_bytes(content)
    found = collect_motion(
        [*find_motion_files([tmp_path / "in"]), tmp_path / "k_mmm.xml"], rest_joints()
    )
    assert alone is not None
    assert found.motion is not None
    np.testing.assert_array_equal(found.motion.pose, alone.pose)
    assert [Path(name).name for name in found.failed] == ["x.bvh", "y.amc", "z.npz", "k_mmm.xml"]
    assert "take the KIT part of AMASS" in found.failed[str(tmp_path / "k_mmm.xml")]


def test_subjects_follow_the_names(tmp_path: Path) -> None:
    assert subject_of(Path("cmu/02/02_01.amc")) == "02"
    assert subject_of(Path("AMASS/KIT/183/walk_poses.npz")) == "KIT/183"
    assert subject_of(Path("lab/ann/jump.bvh")) == "ann"


def test_amass_shapes_are_no_motion(tmp_path: Path) -> None:
    write_amass(tmp_path / "a_poses.npz", np.zeros((2, 156)), np.zeros((2, 3)))
    shutil.copy(tmp_path / "a_poses.npz", tmp_path / "shape.npz")
    assert [path.name for path in find_motion_files([tmp_path])] == ["a_poses.npz"]


def test_pool_round_trip(tmp_path: Path) -> None:
    motion = collect_motion(write_subjects(tmp_path / "in", 4), rest_joints()).motion
    assert motion is not None
    (tmp_path / "out").mkdir()
    save_motion_npz(tmp_path / "out" / "motion.npz", motion)
    again = load_motion_npz(tmp_path / "out" / "motion.npz")
    np.testing.assert_array_equal(again.pose, motion.pose.astype(np.float32))
    np.testing.assert_array_equal(again.recording, motion.recording)
    assert (again.names, again.subjects, again.splits) == (
        motion.names, motion.subjects, motion.splits
    )  # fmt: skip
    pools = {split: load_motion(tmp_path / "out", split) for split in ("train", "test", "val")}
    assert sum(map(len, pools.values())) == len(motion.pose)
    assert not set(pools["train"].recording) & set(pools["test"].recording)


def test_an_empty_split_is_a_sentence(tmp_path: Path) -> None:
    motion = collect_motion(write_subjects(tmp_path / "in", 1), rest_joints()).motion
    assert motion is not None
    (tmp_path / "out").mkdir()
    save_motion_npz(tmp_path / "out" / "motion.npz", motion)
    assert len(load_motion(tmp_path / "out", "test")) == len(motion.pose)
    with pytest.raises(ValueError, match=r"no recording in .* is in the split train"):
        load_motion(tmp_path / "out", "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": None}, "names is missing; make it with eft-fast motion convert"),
        ({"pose": np.zeros((2, 71), np.float32)}, r"got pose \[2, 71\]"),
        ({"pose": np.full((2, 72), np.inf, np.float32)}, "must hold finite pose"),
        ({"recording": np.array([0, 5])}, "expected a recording of 0 to 0"),
        ({"splits": np.array(["dev"])}, "splits must be train, test or val"),
    ],
)
def test_pool_faults_are_sentences(tmp_path: Path, change: dict, words: str) -> None:
    arrays = {
        "pose": np.zeros((2, 72), np.float32), "recording": np.array([0, 0]),
        "names": np.array(["a"]), "subjects": np.array(["s"]), "splits": np.array(["test"]),
        "frame_rate": np.array([10.0]), **change,
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=words):
        load_motion_npz(tmp_path / "a.npz")
