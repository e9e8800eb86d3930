"""One file that fits: crop and keypoints in, the most probable body and how sure it is out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eft_fast import imaging
from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.deploy.fit_data import make_keypoints
from eft_fast.deploy.fit_graph.graph import INIT, UNITS, FitOptions, add_fit
from eft_fast.deploy.fit_graph.reading import GIVEN, Reading
from eft_fast.deploy.fit_verify import compare_fit_model, fit_problems
from eft_fast.deploy.folder import IMAGES, ROUNDING
from eft_fast.deploy.graph import ExportGraph
from eft_fast.deploy.onnx_graph import EXAMPLE_BATCH, save_onnx, trace_onnx
from eft_fast.files import save_npz, write_text
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import fit_map
from eft_fast.map_fit.fitter import readable_keypoints
from eft_fast.map_rules import MIN_READ
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.ops.map import MapState
from eft_fast.serving.card import ModelCard
from eft_fast.serving.fit_card import (
    FIT_CARD_NAME,
    FIT_MODEL_NAME,
    FIT_SAMPLES_NAME,
    FitCard,
)
from eft_fast.serving.fit_model import FitModel
from eft_fast.serving.fitting.asset import FitAsset

#: Largest batch that is promised: larger ones gain nothing, since flipped bones are rows as well.
MAX_BATCH: Final = 8
#: Crops on which torch itself rounds the answer by more than this, degrees, are left out: a fit
#: from another start may end elsewhere.
_MOST_ROUNDING: Final = 0.01
#: People who are stored: hard ones, each of whom takes as long as a hundred pictures.
_PEOPLE: Final = 5
#: A pinhole as seen in the crop, of the second case.
_PINHOLE: Final = (4.5, 4.5, 0.1, -0.1)
_INPUTS: Final[Mapping[str, str]] = {
    "image": "[S, S, 3] uint8: RGB crop, not normalised",
    "keypoints": "[K, 3] float32: x and y in [-1, 1] of the crop, and confidence; one with a "
    "confidence of 0 or a NaN is left out",
    "sigma": "[K] float32: standard deviation of each keypoint in units of the person's extent "
    "(0.015: sure, 0.045: unsure); 0 leaves it out",
    "pinhole": "[4] float32: f_x, f_y, c_x, c_y of the photo's pinhole as seen in the crop, in "
    "units in which the crop is [-1, 1]; 0: one that sees the person from the distance of options",
}


def add_fit_model(
    folder: Path,
    regressor: Regressor,
    asset: FitAsset,
    card: ModelCard,
    samples: Mapping[str, np.ndarray],
    *,
    reading: Reading | None,
    joint_set: str,
    body: Smpl | None,
    with_vertices: bool,
) -> None:
    """Write the file into an exported folder and check it there.

    Args:
        folder: Where the model is.
        regressor: The network, on the CPU, in evaluation mode.
        asset: Body and error covariance.
        card: Of the model beside it.
        samples: Crops and the network's answers in double precision, as of ``make_samples``.
        reading: Of a network that reads keypoints; None: it sees the picture alone.
        joint_set: Of the keypoints.
        body: Its body; None: the open one.
        with_vertices: Whether the mesh is an output.

    Raises:
        ValueError: If the joint set does not exist on the body.
        RuntimeError: If torch cannot export the network, or the file fits otherwise than torch.
    """
    exact = (load_body("open") if body is None else copy.deepcopy(body)).double()
    asset.points(joint_set)
    config = MapConfig()
    mesh = exact if with_vertices else None
    options = FitOptions(joint_set, config, card.joint_set, mesh, reading)
    model = _trace(regressor, card, reading)
    outputs = add_fit(model, asset, options)
    fit_card = _make_card(card, asset, options, outputs)
    stored = make_fit_model_samples(regressor, asset, exact, samples, options)
    # Once without the comparison in the metadata, to make it; then with it.
    _write(folder, model, fit_card)
    worst = compare_fit_model(FitModel(folder), asset, stored)
    problems = fit_problems(worst)
    if problems:
        raise RuntimeError("export: the exported file was not kept: " + "; ".join(problems))
    _write(folder, model, replace(fit_card, max_difference=worst))
    save_npz(folder / FIT_SAMPLES_NAME, stored)


def _trace(regressor: Regressor, card: ModelCard, reading: Reading | None) -> Any:
    """The network with its answers under the names that the fit reads."""
    names = [INIT + name for name in ("rotmat", "betas", "cam")]
    names += ["confidence"] if regressor.has_confidence else []
    size = card.input_size
    example = torch.zeros(EXAMPLE_BATCH, size, size, 3, dtype=torch.uint8)
    more = {}
    if reading is not None:
        more[GIVEN] = torch.zeros(EXAMPLE_BATCH, len(find_joint_set(reading.joint_set)), 3)
    return trace_onnx(ExportGraph(regressor).eval(), example, {}, names, card.opset, more)


def _write(folder: Path, model: Any, card: FitCard) -> None:
    save_onnx(model, card, folder / FIT_MODEL_NAME)
    write_text(folder / FIT_CARD_NAME, card.to_json())


def _make_card(
    card: ModelCard, asset: FitAsset, options: FitOptions, outputs: dict[str, list[int]]
) -> FitCard:
    config, points = options.config, find_joint_set(options.joint_set)
    assert config.distance is not None
    return FitCard(
        regressor=card.regressor,
        weights_sha256=card.weights_sha256,
        body=asset.body_id,
        joint_set=points.name,
        keypoint_names=list(points.names),
        input_size=card.input_size,
        box_margin=card.box_margin,
        camera_convention=card.camera_convention,
        inputs=_describe_inputs(options),
        outputs=outputs,
        units={name: UNITS[name] for name in outputs},
        options={
            "sigma": config.sigma,
            "sigma_unsure": config.sigma_unsure,
            "sure_above": config.sure_above,
            "distance": config.distance,
            "max_steps": config.max_steps,
            "tolerance": config.tolerance,
            "hard_above": config.hard_above,
            "flip_steps": config.flip_steps,
            "robust_rounds": config.robust_rounds,
            "robust_steps": config.robust_steps,
        },
        joint_names=card.joint_names,
        opset=card.opset,
        max_batch=MAX_BATCH,
        licence=card.licence,
        notice=card.notice,
        eft_fast_version=card.eft_fast_version,
        exported=card.exported,
    )


def _describe_inputs(options: FitOptions) -> dict[str, str]:
    inputs = dict(_INPUTS)
    if options.reading is not None:
        inputs["keypoints"] += (
            f"; the network reads them too, where it is given at least {MIN_READ} of "
            f"{options.reading.joint_set}"
        )
    return inputs


def make_fit_model_samples(
    regressor: Regressor,
    asset: FitAsset,
    body: Smpl,
    samples: Mapping[str, np.ndarray],
    options: FitOptions,
) -> dict[str, np.ndarray]:
    """Crops with keypoints about the network's answers, and torch's fits of them.

    Keypoints are absent, unsure, far off and exchanged for some; the last person has none, and if
    the network reads keypoints, the one before has too few for that.

    Args:
        regressor: The network.
        asset: Body and error covariance.
        body: The body in double precision.
        samples: Crops and the network's answers to the pictures alone.
        options: What the file reads, and how it fits.
    """
    config, joint_set = options.config, options.joint_set
    kept = np.flatnonzero(samples[ROUNDING + "rotmat"] <= _MOST_ROUNDING)[:_PEOPLE]
    images = samples[IMAGES][kept]
    init = RegressorOutput(
        *(torch.from_numpy(samples[name][kept]).double() for name in ("rotmat", "betas", "cam"))
    )
    keypoints = make_keypoints(asset, body, init, joint_set)
    keypoints[-1, :, 2] = 0.0
    # Each prior with the people whose answers it belongs to.
    groups = [(torch.ones(len(kept), dtype=torch.bool), asset.precision)]
    if options.reading is not None:
        keypoints[-2:-1, MIN_READ - 1 :, 2] = 0.0
        order = options.reading.joint_set
        shown, reads = readable_keypoints(keypoints, joint_set, order)
        init = _answer(regressor, images, shown)
        groups = [(~reads, asset.precision), (reads, options.reading.precision)]
    sigma = np.where(keypoints[..., 2] > config.sure_above, config.sigma, config.sigma_unsure)
    fx, fy, cx, cy = _PINHOLE
    matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    stored = {
        IMAGES: images,
        "keypoints": keypoints.numpy().astype(np.float32),
        "sigma": sigma.astype(np.float32),
        "pinhole": np.tile(np.array(_PINHOLE, np.float32), (len(kept), 1)),
    }
    cameras = {"assumed": None, "given": matrix}
    for camera, pinhole in cameras.items():
        pieces = [
            _fit(
                body,
                RegressorOutput(*(part[who] for part in init)),
                keypoints[who],
                precision,
                options,
                None if pinhole is None else pinhole.repeat(int(who.sum()), 1, 1),
            )
            for who, precision in groups
            if bool(who.any())
        ]
        # Back into the order in which people stand.
        places = torch.cat([who.nonzero()[:, 0] for who, _ in groups]).argsort()
        stored |= {
            f"{camera}/{name}": torch.cat([piece[name] for piece in pieces])[places].numpy()
            for name in pieces[0]
        }
    return stored


@torch.no_grad()
def _answer(regressor: Regressor, images: np.ndarray, given: Tensor) -> RegressorOutput:
    """What a network that reads keypoints says, in double precision."""
    network: Any = copy.deepcopy(regressor).double()
    img = torch.from_numpy(imaging.to_input(images, regressor.img_mean, regressor.img_std))
    answer, _ = network.head_with_confidence(network.features(img.double()), given=given)
    return RegressorOutput(*answer[:3])


def _fit(
    body: Smpl,
    init: RegressorOutput,
    keypoints: Tensor,
    precision: np.ndarray,
    options: FitOptions,
    intrinsics: Tensor | None,
) -> dict[str, Tensor]:
    """What is stored of the fits of people of one prior."""
    fits = fit_map(
        body,
        init,
        keypoints,
        torch.from_numpy(precision),
        joint_set=options.joint_set,
        config=options.config,
        intrinsics=intrinsics,
    )
    assert fits.joint_sigma_mm is not None
    final = fits.final
    return {
        "rotmat": final.pred_rotmat,
        "betas": final.pred_betas,
        "keypoints_2d": fits.problem.project(MapState(*final)),
        "joint_sigma_mm": fits.joint_sigma_mm,
    }
