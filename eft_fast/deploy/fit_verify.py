"""Check the file that fits against torch's fits of stored people, with or without torch at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.deploy.folder import IMAGES, read_samples
from eft_fast.deploy.graph_checks import graph_faults
from eft_fast.serving.card import ModelCard
from eft_fast.serving.fit_card import FIT_CARD_NAME, FIT_MODEL_NAME, FIT_SAMPLES_NAME
from eft_fast.serving.fit_model import FitModel
from eft_fast.serving.fitting.asset import FitAsset, load_asset

if TYPE_CHECKING:
    from jaxtyping import Float

#: Largest differences to torch's fits in double precision: keypoints in pixels of the crop, joints
#: about the pelvis in mm, their mean, and ``joint_sigma_mm`` relative to itself.
TOLERANCES: Final[Mapping[str, float]] = {
    "keypoints_px": 0.5, "joints_mm": 1.0, "joint_sigma": 0.02,
}  # fmt: skip
_MM: Final = 1000.0


def verify_fit_model(
    folder: Path,
    card: ModelCard,
    *,
    threads: int | None,
    problems: list[str],
    checks: dict[str, str],
) -> dict[str, float]:
    """Check the file of an exported folder that fits, if it has one.

    Args:
        folder: The exported folder.
        card: Of the model beside it.
        threads: Threads on the CPU.
        problems: Gets a sentence about everything that is wrong.
        checks: Gets what was checked.

    Returns:
        The largest differences, as ``TOLERANCES``; empty without such a file.
    """
    if not (folder / FIT_CARD_NAME).is_file():
        return {}
    found: list[str] = []
    worst: dict[str, float] = {}
    try:
        samples = read_samples(folder, FIT_SAMPLES_NAME)
        model = FitModel(folder, threads=threads)
        if model.card.weights_sha256 != card.weights_sha256:
            raise ValueError(f"verify: {FIT_MODEL_NAME} belongs to other weights; export again")
        worst = compare_fit_model(model, load_asset(folder, card), samples)
        found += fit_problems(worst)
        found += graph_faults(folder / FIT_MODEL_NAME, model.card.opset, FIT_MODEL_NAME)
    except (OSError, ValueError, KeyError) as error:
        found.append(str(error))
    problems += found
    checks["fit model"] = "failed" if found else "passed"
    return worst


def compare_fit_model(
    model: FitModel, asset: FitAsset, samples: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Largest differences to the stored fits, alone and together, with both cameras."""
    worst = dict.fromkeys(TOLERANCES, 0.0)
    images = samples[IMAGES]
    everybody = np.arange(len(images))
    for camera, rows in (("assumed", everybody[:1]), ("assumed", everybody), ("given", everybody)):
        pinhole = samples["pinhole"][rows] * (camera == "given")
        keypoints, sigma = samples["keypoints"][rows], samples["sigma"][rows]
        outputs = model.run(images[rows], keypoints, sigma, pinhole)
        expected = {
            name.removeprefix(f"{camera}/"): value[rows]
            for name, value in samples.items()
            if name.startswith(f"{camera}/")
        }
        far = fit_difference(outputs, expected, asset, model.card.input_size)
        for name, values in far.items():
            largest = float(np.nan_to_num(values, nan=np.inf).max(initial=0.0))
            worst[name] = max(worst[name], largest)
    return worst


def fit_difference(
    outputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    asset: FitAsset,
    input_size: int,
) -> dict[str, Float[np.ndarray, " B"]]:
    """How far fits are from others of the same people, as ``TOLERANCES``.

    Args:
        outputs: Of the file that fits.
        expected: ``rotmat``, ``betas``, ``keypoints_2d`` and ``joint_sigma_mm`` of the others.
        asset: The body.
        input_size: Side of the crops in pixels.
    """
    places = []
    for each in (outputs, expected):
        rotmat, betas = (np.asarray(each[name], np.float64) for name in ("rotmat", "betas"))
        joints = asset.points("smpl24").pose(betas, rotmat).joints
        places.append(joints - joints[:, :1])
    away = np.linalg.norm(places[0] - places[1], axis=-1).mean(1)
    image = outputs["keypoints_2d"].astype(np.float64) - expected["keypoints_2d"]
    ours, theirs = outputs["joint_sigma_mm"], expected["joint_sigma_mm"]
    # The pelvis has none, of which nothing is relative.
    sigma = np.abs(ours[:, 1:] / theirs[:, 1:] - 1).max(1)
    return {
        "keypoints_px": input_size / 2 * np.linalg.norm(image, axis=-1).max(1),
        "joints_mm": _MM * away,
        "joint_sigma": sigma,
    }


def fit_problems(worst: Mapping[str, float]) -> list[str]:
    """Sentences on differences that may not pass."""
    over = [name for name, limit in TOLERANCES.items() if not worst[name] <= limit]
    listed = ", ".join(f"{name} {worst[name]:.2g} (at most {TOLERANCES[name]:g})" for name in over)
    return [f"fits of {FIT_MODEL_NAME} differ from torch's: {listed}"] if over else []
