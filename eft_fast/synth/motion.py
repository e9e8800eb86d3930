"""Pools of poses: motion capture, split by recording, or draws from the shipped pose prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from eft_fast.data.formats.motion_npz import load_motion_npz
from eft_fast.smplify.prior import PosePrior, load_pose_prior

Split = Literal["train", "test", "val"]
#: The order is part of every image's seed.
SPLITS: Final[tuple[Split, ...]] = ("train", "test", "val")

#: File of the pool, and how many times a frame of it counts against the others.
_FILES: Final = {
    "cmu_smpl24_12fps": 1.0,
    "cmu_subjects_01_03_10hz": 1.0,
    "cmu_more_subjects_10hz": 1.5,
}
#: Recordings of ``cmu_smpl24_12fps`` that are only in the test split. Salsa takes 01 to 15 and
#: 16 to 30 are the two partners of the same dances, so partners are held out together.
TEST_RECORDINGS: Final = (
    "indian/13", "indian/14", "martial/09", "martial/10",
    "salsa/01", "salsa/16", "salsa/05", "salsa/20",
)  # fmt: skip
#: Subjects and actions of ``cmu_more_subjects_10hz`` that are only in the test split. Clips
#: without a stated subject may show subject 6 (basketball) or 14, so those actions go with them.
TEST_SUBJECTS: Final = (6, 14)
TEST_ACTIONS: Final = ("basketball", "washwindow", "everyday")
#: The same for the validation split, on which models and options are chosen.
VAL_RECORDINGS: Final = ("indian/08", "martial/05", "salsa/10", "salsa/25")
VAL_SUBJECTS: Final = (10, 11, 131)
VAL_ACTIONS: Final = ("soccer", "soccer kick")
#: Frames of a pool that is drawn from the pose prior; each split draws its own.
_PRIOR_FRAMES: Final = 8000
#: First number of their seed, so that no picture shares its random numbers.
_PRIOR_BRANCH: Final = 7919


@dataclass(frozen=True)
class PosePool:
    """Poses to draw from.

    Attributes:
        full_pose: Axis-angle, radians; y up, z to the front, left to +x.
        weight: Probability of each frame; sums to 1.
        recording: Name of the recording that each frame is from.
    """

    full_pose: Float[np.ndarray, "N 24 3"]
    weight: Float[np.ndarray, " N"]
    recording: np.ndarray

    def __len__(self) -> int:
        return len(self.full_pose)

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, "24 3"]:
        """Return a copy of one frame, drawn by weight."""
        index = int(np.searchsorted(self._cumulative(), rng.random(), side="right"))
        pose: np.ndarray = self.full_pose[min(index, len(self) - 1)].astype(np.float64)
        return pose

    def _cumulative(self) -> np.ndarray:
        cached: np.ndarray | None = self.__dict__.get("_cdf")
        if cached is None:
            cached = np.cumsum(self.weight)
            object.__setattr__(self, "_cdf", cached)
        return cached


def _recordings(name: str, data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the recording of each frame and the number of its split in ``SPLITS``."""
    count = len(data["pose"])
    if "seq" in data:
        stems = [n.removesuffix(".bvh").split("/", 1)[-1] for n in data["names"].tolist()]
        split = _number(np.isin(stems, TEST_RECORDINGS), np.isin(stems, VAL_RECORDINGS))
        return np.array([f"{name}/{s}" for s in stems])[data["seq"]], split[data["seq"]]
    if "clip" in data:
        subject, action = data["subject"], data["action"]
        split = _number(
            np.isin(subject, TEST_SUBJECTS) | np.isin(action, TEST_ACTIONS),
            np.isin(subject, VAL_SUBJECTS) | np.isin(action, VAL_ACTIONS),
        )
        return np.array([f"{name}/{c}" for c in data["clip"].tolist()]), split
    # Recordings are not marked in this file, so all of it trains.
    return np.full(count, f"{name}/all"), np.zeros(count, dtype=int)


def _number(is_test: np.ndarray, is_val: np.ndarray) -> np.ndarray:
    """Return the number of the split; who is held out twice is in the test split."""
    number: np.ndarray = np.where(is_test, SPLITS.index("test"), is_val * SPLITS.index("val"))
    return number


def load_motion(folder: str | Path, split: Split) -> PosePool:
    """Read the pose pool of one split.

    No recording is in two splits, nor is a subject that the files name.

    Args:
        folder: Folder with what ``eft-fast motion convert`` wrote (``data.formats.motion_npz``; all
            such files count), or with the three ``cmu_*.npz`` files that the shipped weights were
            trained on (``pose`` [N,72] axis-angle), which have their own splits.
        split: "train", "test" or "val".

    Returns:
        The frames of the split.

    Raises:
        FileNotFoundError: If there is no such file, or one of the three is missing.
        ValueError: If ``split`` is unknown, a file has another layout, or nothing is in the split.
    """
    if split not in SPLITS:
        raise ValueError(f'load_motion: split must be "train", "test" or "val", got "{split}"')
    folder = Path(folder)
    files = sorted(path for path in folder.glob("*.npz") if path.stem not in _FILES)
    if any((folder / f"{name}.npz").is_file() for name in _FILES) or not files:
        return _load_cmu(folder, split)
    poses, names = [], []
    for path in files:
        motion = load_motion_npz(path)
        keep = np.array([each == split for each in motion.splits])[motion.recording]
        poses.append(motion.pose[keep].astype(np.float32).reshape(-1, 24, 3))
        recordings = np.array([f"{path.stem}/{name}" for name in motion.names])
        names.append(recordings[motion.recording[keep]])
    full_pose = np.concatenate(poses)
    if not len(full_pose):
        raise ValueError(
            f"load_motion: no recording in {folder} is in the split {split}; convert more "
            f"subjects, or some with --split {split}"
        )
    return PosePool(full_pose, np.full(len(full_pose), 1 / len(full_pose)), np.concatenate(names))


def _load_cmu(folder: Path, split: Split) -> PosePool:
    """The three files of the shipped weights."""
    poses, weights, names = [], [], []
    for name, weight in _FILES.items():
        path = folder / f"{name}.npz"
        if not path.is_file():
            raise FileNotFoundError(
                f"load_motion: no file {path.name} in {folder}; "
                "make one with eft-fast motion convert"
            )
        with np.load(path, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
        pose = data.get("pose")
        if pose is None or pose.ndim != 2 or pose.shape[1] != 72:
            got = "none" if pose is None else list(pose.shape)
            raise ValueError(f"load_motion: {path.name} must hold pose [N, 72], got {got}")
        recording, number = _recordings(name, data)
        keep = number == SPLITS.index(split)
        poses.append(pose[keep].astype(np.float32).reshape(-1, 24, 3))
        weights.append(np.full(int(keep.sum()), weight))
        names.append(recording[keep])
    weight_all = np.concatenate(weights)
    return PosePool(np.concatenate(poses), weight_all / weight_all.sum(), np.concatenate(names))


def sample_prior_poses(
    split: Split, *, frames: int = _PRIOR_FRAMES, prior: PosePrior | None = None
) -> PosePool:
    """Draw a pool of upright poses from the prior, each number kept inside its joint limit.

    The prior knows standing, walking, dancing and sports, and hardly any sitting or lying: the
    procedural postures of ``synth.poses`` add those. Splits hold different draws of one
    distribution, so they test a network on other people, not on other kinds of motion.

    Args:
        split: Name of the split, part of the seed.
        frames: Poses to draw.
        prior: A loaded prior; None: the one that ships.

    Raises:
        ValueError: If ``split`` is unknown.
    """
    if split not in SPLITS:
        raise ValueError(
            f'sample_prior_poses: split must be one of {", ".join(SPLITS)}, got "{split}"'
        )
    prior = prior if prior is not None else load_pose_prior()
    mixture, limits = prior.mixture, prior.limits
    rng = np.random.default_rng([_PRIOR_BRANCH, SPLITS.index(split)])
    means, dims = mixture.means.numpy(), mixture.dims
    weights = mixture.weights.numpy() / float(mixture.weights.sum())
    # precision = L L^T, so mean + L^-T z has the covariance precision^-1.
    factors = np.linalg.cholesky(mixture.precision.numpy())
    chosen = rng.choice(len(weights), frames, p=weights)
    noise = rng.normal(size=(frames, dims))
    pose = np.zeros((frames, 72))
    for gaussian in range(len(weights)):
        rows = np.flatnonzero(chosen == gaussian)
        spread = np.linalg.solve(factors[gaussian].T, noise[rows].T).T
        pose[rows, 3 : 3 + dims] = means[gaussian] + spread
    pose[:, 3:] = np.clip(pose[:, 3:], limits.lower.numpy(), limits.upper.numpy())
    names = np.array([f"prior/{gaussian}" for gaussian in chosen.tolist()])
    full_pose = pose.reshape(frames, 24, 3).astype(np.float32)
    return PosePool(full_pose, np.full(frames, 1 / frames), names)
