"""Fits as a table: a row a person, plain columns with their units in the names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eft_fast.keypoints import JOINT_SETS

if TYPE_CHECKING:
    from eft_fast.result import FitResult


def to_columns(result: FitResult, *, pose: bool = False) -> dict[str, Any]:
    """Columns of the table by name; texts as lists, numbers as arrays, NaN where nothing is known.

    Args:
        result: The fits.
        pose: Also the 72 numbers of the pose, axis-angle in radians: ``pose_lkne_x`` ...
    """
    texts = {
        "photo": list(result.photo),
        "id": list(result.id),
        "stop_reason": list(result.stop_reason),
        "message": list(result.message),
        "hypothesis": list(result.hypothesis),
    }
    unknown = np.full(len(result), np.nan)
    sigma, sure = result.joint_sigma_mm, result.person_confidence
    corner = result.bbox_center - result.box_side_px[:, None] / 2
    numbers = {
        "kp_error_px": result.kp_error_px.numpy(),
        "init_kp_error_px": result.init_kp_error_px.numpy(),
        "kp_error_share": (result.kp_error_px / result.box_side_px).numpy(),
        "labelled_keypoints": (result.keypoints[..., 2] > 0).sum(1).numpy(),
        "loss": result.loss.numpy(),
        "steps": result.steps.numpy(),
        "confidence": unknown if sure is None else sure.numpy(),
        "sigma_mm": unknown if sigma is None else sigma.mean(1).numpy(),
        "box_x_px": corner[:, 0].numpy(),
        "box_y_px": corner[:, 1].numpy(),
        "box_side_px": result.box_side_px.numpy(),
    }
    numbers |= {f"{name}_m": value.numpy() for name, value in result.measures().items()}
    angles = result.joint_angles_deg()
    numbers |= {f"{name}_deg": value.numpy() for name, value in angles.items()}
    numbers |= {f"beta_{k}": column.numpy() for k, column in enumerate(result.params.betas.T)}
    if pose:
        vectors = result.params.axis_angle.numpy()
        for joint, name in enumerate(JOINT_SETS["smpl24"].names):
            for k, axis in enumerate("xyz"):
                numbers[f"pose_{name}_{axis}"] = vectors[:, joint, k]
    return {**texts, **numbers}


def to_dataframe(result: FitResult, *, pose: bool = False) -> Any:
    """``to_columns`` as a pandas ``DataFrame``.

    Raises:
        ModuleNotFoundError: If pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "FitResult.to_dataframe needs pandas; pip install pandas, or take "
            "eft_fast.present.table.to_columns(result), which needs nothing",
            name="pandas",
        ) from None
    return pandas.DataFrame(to_columns(result, pose=pose))
