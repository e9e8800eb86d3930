"""Fit ``eft_fast/assets/pose_prior.npz`` and its card on converted motion capture.

Deterministic, numpy only, about a minute on one core. The folder holds the three ``cmu_*.npz``
files that ``eft_fast.synth`` reads; only its training split is used:

    python tools/build_pose_prior.py --motion FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

from eft_fast.keypoints import JOINT_SETS
from eft_fast.synth.motion import PosePool, load_motion

ASSET = Path(__file__).resolve().parent.parent / "eft_fast" / "assets" / "pose_prior.npz"
NUM_GAUSSIANS = 8
NUM_DIMS = 63
#: Added to every covariance, rad^2; and where motion capture holds only zeros, rad^2.
REGULARISER = 2e-3
UNSEEN = 2e-2
SEED = 6
ROUNDS = 60
#: Angles beyond this are faults of the conversion, radians.
LARGEST_ANGLE = np.deg2rad(150)
#: Frames of a file without marked recordings are cut into pieces of this many.
PIECE = 232
#: Added to both ends of the observed range, and range of joints that no data moves, radians.
MARGIN = np.deg2rad(5)
STILL = np.deg2rad(20)
#: Ranges known without data, degrees: joint, axis, lower, upper. The larger range holds.
ANATOMY = (
    ("lhip", 0, -125, 30), ("rhip", 0, -125, 30),
    ("lkne", 0, -5, 150), ("rkne", 0, -5, 150),
    ("lelb", 1, -150, 5), ("relb", 1, -5, 150),
)  # fmt: skip

Array = np.ndarray


def mirror(pose: Array) -> Array:
    """Left and right exchanged: joints permuted, second and third components negated."""
    names = JOINT_SETS["smpl24"].names
    swapped = {"l": "r", "r": "l"}
    order = [
        names.index(swapped[n[0]] + n[1:]) if swapped.get(n[0], "") + n[1:] in names else i
        for i, n in enumerate(names)
    ]
    return pose[:, order] * np.array([1.0, -1.0, -1.0])


def balanced(pool: PosePool) -> tuple[Array, Array]:
    """Body poses [N,69] with their mirror images, and weights 1/sqrt(n) per recording."""
    pose = pool.full_pose.astype(np.float64)
    names = pool.recording.astype("U64")
    unmarked = np.char.endswith(names, "/all")
    names[unmarked] = np.char.add(
        names[unmarked], (np.cumsum(unmarked)[unmarked] // PIECE).astype("U4")
    )
    _, place, count = np.unique(names, return_inverse=True, return_counts=True)
    weight = 1 / np.sqrt(count[place])
    keep = np.linalg.norm(pose[:, 1:], axis=2).max(1) < LARGEST_ANGLE
    pose, weight = pose[keep], weight[keep]
    both = np.concatenate([pose, mirror(pose)])[:, 1:].reshape(-1, 69)
    weight = np.concatenate([weight, weight])
    return both, weight / weight.sum()


def first_centres(x: Array, weight: Array, rng: np.random.Generator) -> Array:
    """Draw centres far from each other (k-means++)."""
    centres = [x[rng.choice(len(x), p=weight)]]
    for _ in range(NUM_GAUSSIANS - 1):
        nearest = np.min([((x - c) ** 2).sum(1) for c in centres], axis=0)
        chance = nearest * weight
        centres.append(x[rng.choice(len(x), p=chance / chance.sum())])
    return np.array(centres)


def log_densities(x: Array, means: Array, covars: Array, shares: Array) -> Array:
    """Logarithm of share times density of each Gaussian, [N, M]."""
    columns = []
    for mean, covar, share in zip(means, covars, shares, strict=True):
        factor = np.linalg.cholesky(covar)
        white = np.linalg.solve(factor, (x - mean).T)
        norm = len(mean) / 2 * np.log(2 * np.pi) + np.log(factor.diagonal()).sum()
        columns.append(np.log(share) - norm - 0.5 * (white**2).sum(0))
    return np.stack(columns, 1)


def fit_mixture(x: Array, weight: Array, floor: Array) -> tuple[Array, Array, Array]:
    """Weighted expectation maximisation with ``floor`` added to the diagonals."""
    centres = first_centres(x, weight, np.random.default_rng(SEED))
    nearest = np.argmin([((x - c) ** 2).sum(1) for c in centres], axis=0)
    soft = np.eye(NUM_GAUSSIANS)[nearest]
    for number in range(ROUNDS):
        mass = soft * weight[:, None]
        shares = mass.sum(0)
        means = mass.T @ x / shares[:, None]
        covars = np.stack(
            [
                (mass[:, [j]] * (x - means[j])).T @ (x - means[j]) / shares[j] + np.diag(floor)
                for j in range(NUM_GAUSSIANS)
            ]
        )
        logs = log_densities(x, means, covars, shares)
        top = logs.max(1, keepdims=True)
        total = top + np.log(np.exp(logs - top).sum(1, keepdims=True))
        soft = np.exp(logs - total)
        if number % 10 == 9:
            likelihood = float((weight * total[:, 0]).sum())
            print(f"round {number + 1}: log likelihood {likelihood:.3f}", file=sys.stderr)
    return means, covars, shares


def max_mixture(x: Array, means: Array, covars: Array, shares: Array) -> Array:
    """The prior's loss: determinants over the smallest one."""
    least = min(np.log(np.linalg.cholesky(c).diagonal()).sum() for c in covars)
    return -log_densities(x, means, covars, shares).max(1) - least


def weighted_quantile(values: Array, weight: Array, share: float) -> Array:
    """Quantile of each column."""
    result = []
    for column in values.T:
        order = np.argsort(column)
        position = np.searchsorted(np.cumsum(weight[order]), share)
        result.append(column[order][min(position, len(order) - 1)])
    return np.array(result)


def find_limits(pose: Array, weight: Array) -> tuple[Array, Array]:
    """Range of each of the 69 numbers: observed or known, whichever is larger."""
    lower = weighted_quantile(pose, weight, 0.001) - MARGIN
    upper = weighted_quantile(pose, weight, 0.999) + MARGIN
    still = np.ptp(pose, axis=0) < 1e-3
    lower[still], upper[still] = -STILL, STILL
    names = JOINT_SETS["smpl24"].names
    for name, axis, low, high in ANATOMY:
        place = 3 * (names.index(name) - 1) + axis
        lower[place] = min(lower[place], np.deg2rad(low))
        upper[place] = max(upper[place], np.deg2rad(high))
    return lower, upper


CARD = """# pose_prior.npz

What body poses are usual: {count} Gaussians over the axis-angle rotations of the 21 joints from
hips to wrists (63 numbers, radians; hands are left out), and a range of each of the 69 numbers. The
keys `means` [{count},63], `covars` [{count},63,63] and `weights` [{count}] are those of the prior
files that SMPLify users know, which hold 69 numbers. `limits_lower` and `limits_upper` are [69].

| | |
|---|---|
| Made by | `python tools/build_pose_prior.py --motion FOLDER`, seed {seed} |
| Content sha256 | `{content}` |
| Data | {frames} frames of {recordings} recordings, and their mirror images |
| Data sha256 | `{data}` |
| Weight | 1/sqrt(n) per frame of a recording of n frames; unmarked ones cut at {piece} frames |
| Covariance | full, {floor} rad^2 on the diagonal; {unseen} where the data holds only zeros |
| Negative log likelihood, median | {train:.1f} on the training, {test:.1f} on the test split |
| Outside the limits | {outside:.2%} of the numbers of the test split |

The data used in this project was obtained from mocap.cs.cmu.edu. The database was created with
funding from NSF EIA-0196217. The poses were converted to SMPL's 24 joints; no body model and
nothing of SMPL's own priors went in. The recordings that `eft_fast.synth` keeps for tests were not
used.

Known limits: walking, dancing, martial arts, sports and climbing; hardly any sitting, lying or
crouching, so the Gaussians pull seated people up. Toes never move in the data. The Gaussians hardly
forbid overstretched knees and elbows: keep the angle term or the limits beside them. The T-pose is
unlikely here; start fits from the mean instead.
"""


def write_card(arrays: dict[str, Array], pool: PosePool, test: Array, fit: Array) -> None:
    """Write what was measured on the fit beside it."""
    mixture = [arrays[key].astype(np.float64) for key in ("means", "covars", "weights")]
    low, high = arrays["limits_lower"], arrays["limits_upper"]
    text = CARD.format(
        count=NUM_GAUSSIANS,
        seed=SEED,
        content=hashlib.sha256(
            b"".join(np.ascontiguousarray(arrays[key]).tobytes() for key in sorted(arrays))
        ).hexdigest(),
        data=str(arrays["data_sha256"]),
        frames=len(pool),
        recordings=len(np.unique(pool.recording)),
        floor=REGULARISER,
        unseen=UNSEEN,
        piece=PIECE,
        train=np.median(max_mixture(fit[:, :NUM_DIMS], *mixture)),
        test=np.median(max_mixture(test[:, :NUM_DIMS], *mixture)),
        outside=np.mean((test < low) | (test > high)),
    )
    ASSET.with_suffix(".md").write_text(text, encoding="utf-8")


def main() -> None:
    """Fit, store and describe."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--motion", type=Path, required=True, help="folder of the converted files")
    folder = parser.parse_args().motion
    pool = load_motion(folder, "train")
    pose, weight = balanced(pool)
    x = pose[:, :NUM_DIMS]
    floor = np.where(np.ptp(x, axis=0) < 1e-3, UNSEEN, REGULARISER)
    means, covars, shares = fit_mixture(x, weight, floor)
    order = np.argsort(-shares)
    lower, upper = find_limits(pose, weight)
    arrays = {
        "means": means[order].astype(np.float32),
        "covars": covars[order].astype(np.float32),
        "weights": shares[order].astype(np.float32),
        "limits_lower": lower.astype(np.float32),
        "limits_upper": upper.astype(np.float32),
        "seed": np.array(SEED),
        "data_sha256": np.array(hashlib.sha256(pool.full_pose.tobytes()).hexdigest()),
    }
    with ASSET.open("wb") as file:
        np.savez_compressed(file, **{key: arrays[key] for key in sorted(arrays)})
    write_card(arrays, pool, balanced(load_motion(folder, "test"))[0], pose)
    print(f"{ASSET.name}: {ASSET.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
