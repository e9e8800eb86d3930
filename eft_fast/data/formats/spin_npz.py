"""Labels in the npz form of SPIN's training sets, which EFT and its followers read too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from eft_fast.data.formats.npz import read_npz


@dataclass(frozen=True, eq=False)
class SpinLabels:
    """Labelled people.

    Attributes:
        image_names: Photo of each person, relative to the dataset's root.
        bbox_center: Centre of each crop, pixels.
        bbox_scale: Side of each crop / 200, pixels.
        keypoints_2d_px: 49 points in photo pixels and confidence: OpenPose's 25, then the 24.
        full_pose: Axis-angle of the 24 joints.
        betas: Shape coefficients.
        has_smpl: Whether pose and shape of a person may be trusted.
        annot_ids: Annotation of each person; -1 where there is none.
        regressor_ids: Regressor and hash of the weights that each fit started from; empty where
            that is unknown. SPIN's own files do not have it, and its readers pass over it.
    """

    image_names: tuple[str, ...]
    bbox_center: Float[np.ndarray, "N 2"]
    bbox_scale: Float[np.ndarray, " N"]
    keypoints_2d_px: Float[np.ndarray, "N 49 3"]
    full_pose: Float[np.ndarray, "N 72"]
    betas: Float[np.ndarray, "N 10"]
    has_smpl: Bool[np.ndarray, " N"]
    annot_ids: Int[np.ndarray, " N"]
    regressor_ids: tuple[str, ...] = ()


def save_spin_npz(path: str | Path, labels: SpinLabels) -> Path:
    """Write labels. SPIN's form has no camera, so the fitted one is not in the file."""
    path = Path(path)
    arrays: dict[str, np.ndarray] = {
        "imgname": np.array(labels.image_names, dtype=np.str_),
        "center": labels.bbox_center,
        "scale": labels.bbox_scale,
        "openpose": labels.keypoints_2d_px[:, :25],
        "part": labels.keypoints_2d_px[:, 25:],
        "pose": labels.full_pose,
        "shape": labels.betas,
        "has_smpl": labels.has_smpl.astype(np.int64),
        "annotIds": labels.annot_ids,
    }
    if labels.regressor_ids:
        arrays["regressor"] = np.array(labels.regressor_ids, dtype=np.str_)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def load_spin_npz(path: str | Path) -> SpinLabels:
    """Read labels; what SPIN calls optional may be missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an array is missing or has another shape.
    """
    arrays = read_npz(
        path,
        "load_spin_npz",
        required={"imgname": (), "center": (2,), "scale": (), "part": (24, 3)},
        optional={
            "openpose": (25, 3), "pose": (72,), "shape": (10,), "has_smpl": (), "annotIds": (),
            "regressor": (),
        },
    )  # fmt: skip
    count = len(arrays["imgname"])
    has_pose = "pose" in arrays and "shape" in arrays
    has_smpl = arrays.get("has_smpl", np.full(count, has_pose))
    return SpinLabels(
        image_names=tuple(str(name) for name in arrays["imgname"].tolist()),
        bbox_center=arrays["center"],
        bbox_scale=arrays["scale"],
        keypoints_2d_px=np.concatenate(
            [arrays.get("openpose", np.zeros((count, 25, 3))), arrays["part"]], 1
        ),
        full_pose=arrays.get("pose", np.zeros((count, 72))),
        betas=arrays.get("shape", np.zeros((count, 10))),
        has_smpl=has_smpl.astype(bool),
        annot_ids=arrays.get("annotIds", np.full(count, -1)).astype(np.int64),
        regressor_ids=tuple(str(name) for name in arrays.get("regressor", np.zeros(0)).tolist()),
    )
