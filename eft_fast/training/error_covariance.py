"""Measure how wrong a regressor usually is: on rendered people, or on the user's own pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.body import Smpl
from eft_fast.evaluation.bench_people import make_people
from eft_fast.geometry.cameras import fit_weak_camera
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.models.error_covariance import ErrorCovariance, estimate_covariance
from eft_fast.models.error_state import answer_frame, error_state
from eft_fast.synth import SynthArrays, SynthConfig, SynthJob, load_shards, render_shards
from eft_fast.training.measure import in_crops_of, predict, predict_given
from eft_fast.training.targets import make_targets

#: Of the rendered people of a covariance: training renders with seed 0, the bench with 20.
CALIBRATION_SEED: Final = 101
#: Noise of the keypoints of networks that read them, over the longer side of the person.
GIVEN_NOISE: Final = (0.0, 0.012, 0.02)
#: People whose joints are in memory at once.
_CHUNK: Final = 256
_ANSWER: Final = ("pred_rotmat", "pred_betas", "pred_cam")
_TRUTH: Final = ("gt_rotmat", "gt_betas", "gt_cam")
_SHAPES: Final = {"rotmat": (24, 3, 3), "betas": (10,), "cam": (3,), "joints_2d": (24, 2)}


def measure_error_covariance(
    regressor: Regressor, body: Smpl, people: SynthArrays, *, source: str
) -> ErrorCovariance:
    """Measure on rendered people that the network was not trained on.

    Args:
        regressor: The network, on the CPU.
        body: The body that was rendered, and whose betas the network predicts.
        people: Crops of the regressor's input size with their truth; 1,000 or more are advisable.
        source: What the people are, in a few words.

    Raises:
        ValueError: If there are too few people.
    """
    people = in_crops_of(regressor, people)
    answer = predict(regressor, people.image)
    targets = make_targets(people, body)
    truth = RegressorOutput(targets.rotmat, targets.betas, targets.camera)
    states, given = errors_of(body, answer, truth), None
    if regressor.reads_keypoints == "coco17":
        labels = people.landmarks_2d, people.rotmat, people.betas
        shown = [make_people(people.image, *labels, noise=level) for level in GIVEN_NOISE]
        keypoints = [torch.from_numpy(each.keypoints_2d.astype(np.float32)) for each in shown]
        told = predict_given(regressor, people.image, keypoints)
        given = torch.cat([errors_of(body, each, truth) for each in told])
        source += f"; given keypoints with noise of {', '.join(f'{n:g}' for n in GIVEN_NOISE)}"
    return estimate_covariance(states, regressor=regressor, source=source, given=given)


def calibration_job(
    regressor: Regressor,
    out: Path,
    count: int,
    *,
    body: str = "open",
    motion: Path | None = None,
    backgrounds: Path | None = None,
    seed: int = CALIBRATION_SEED,
) -> SynthJob:
    """The people that ``measure_on_renders`` wants: of the validation motion, in its own crops.

    Args:
        regressor: Says how large a picture is.
        out: Folder of the renders.
        count: People.
        body: As ``load_body`` takes it.
        motion: Folder of motion capture; None: poses drawn from the shipped prior.
        backgrounds: Folder of photographs, or None.
        seed: Of the people.
    """
    return SynthJob(
        out=out,
        split="val",
        count=count,
        motion=motion,
        backgrounds=backgrounds,
        body=body,
        config=SynthConfig(size=regressor.input_size, seed=seed),
    )


def measure_on_renders(
    regressor: Regressor, body: Smpl, job: SynthJob, *, processes: int = 1
) -> ErrorCovariance:
    """Render a set, or take it where it is already, and measure on it.

    Raises:
        ValueError: If the network predicts another body, or there are too few people.
    """
    _check_body(regressor, body)
    people = load_shards(render_shards(job, processes=processes))
    poses = "poses of the shipped prior" if job.motion is None else f"{job.split} motion"
    source = f"{len(people)} renders, {poses}, seed {job.config.seed}"
    return measure_error_covariance(regressor, body, people, source=source)


def measure_on_pairs(regressor: Regressor, body: Smpl, path: str | Path) -> ErrorCovariance:
    """Measure on pairs of answer and truth in a file.

    Args:
        regressor: The network that answered.
        body: Its body.
        path: An ``.npz`` with ``pred_rotmat`` [N,24,3,3], ``pred_betas`` [N,10], ``pred_cam`` [N,3]
            (``scale_shift``), ``gt_rotmat``, ``gt_betas``, and of the true camera either ``gt_cam``
            [N,3] or ``gt_joints_2d`` [N,24,2]: the true kinematic joints in [-1, 1] of the crop,
            to which the weak camera is fitted.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not hold these arrays, or too few people; or the network predicts
            another body.
    """
    _check_body(regressor, body)
    arrays = _read_pairs(Path(path))
    answer = RegressorOutput(*(torch.from_numpy(arrays[name]) for name in _ANSWER))
    rotmat, betas = (torch.from_numpy(arrays[name]) for name in _TRUTH[:2])
    if "gt_cam" in arrays:
        camera = torch.from_numpy(arrays["gt_cam"])
    else:
        seen = torch.from_numpy(arrays["gt_joints_2d"])
        camera = fit_weak_camera(_joints(body, rotmat, betas), seen)
    states = errors_of(body, answer, RegressorOutput(rotmat, betas, camera))
    return estimate_covariance(states, regressor=regressor, source=f"pairs of {Path(path).name}")


def errors_of(body: Smpl, answer: RegressorOutput, truth: RegressorOutput) -> Float[Tensor, "N 85"]:
    """``error_state`` of each person, in the frame of the answer's own projection."""
    joints = _joints(body, answer.pred_rotmat, answer.pred_betas)
    size = answer_frame(joints, answer.pred_cam.double()).size
    return error_state(answer, truth, size)


def _check_body(regressor: Regressor, body: Smpl) -> None:
    if regressor.body_id not in (body.arrays.family, body.id):
        raise ValueError(
            f"calibrate: regressor {regressor.id} predicts body {regressor.body_id}, got body "
            f"{body.id}; give the body that it was trained with"
        )


@torch.no_grad()
def _joints(body: Smpl, rotmat: Tensor, betas: Tensor) -> Float[Tensor, "N 24 3"]:
    """Kinematic joints, metres; without translation."""
    parts = []
    for first in range(0, len(betas), _CHUNK):
        turns = rotmat[first : first + _CHUNK].to(body.v_template)
        shape = betas[first : first + _CHUNK].to(body.v_template)
        parts.append(
            body.keypoints(shape, turns[:, 1:], turns[:, :1], joint_set="smpl24", pose2rot=False)
        )
    return torch.cat(parts).double()


def _read_pairs(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    who = f"measure_on_pairs: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"measure_on_pairs: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], np.float64) for name in file.files}
    except NUMPY_ERRORS as error:
        raise ValueError(f"{who} must be an .npz of numbers ({type(error).__name__})") from error
    needed = [*_ANSWER, *_TRUTH[:2], "gt_cam" if "gt_cam" in arrays else "gt_joints_2d"]
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(
            f"{who} must hold {', '.join((*_ANSWER, *_TRUTH))} (or gt_joints_2d instead of "
            f"gt_cam), got no {missing[0]}"
        )
    people = len(arrays["pred_cam"]) if arrays["pred_cam"].ndim else 0
    for name in needed:
        shape = (people, *_SHAPES[name.split("_", 1)[1]])
        if arrays[name].shape != shape:
            raise ValueError(f"{who}: {name} must be {list(shape)}, got {list(arrays[name].shape)}")
    return arrays
