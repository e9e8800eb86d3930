"""Fits of people whose truth in space a dataset holds, measured by the published protocols."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.evaluation import metrics
from eft_fast.evaluation.protocols import PROTOCOLS, Protocol
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.keypoints import JOINT_SETS
from eft_fast.pipeline.dispatch import make_run
from eft_fast.result import FitResult
from eft_fast.sample import Sample

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl
    from eft_fast.evaluation.openbench import Method
    from eft_fast.models.base import Regressor

Columns = dict[str, npt.NDArray[np.float64]]

#: Protocol of each dataset; others by the order of their points.
_BY_DATASET: Final[Mapping[str, str]] = {"human36m": "h36m_p1"}
_CHUNK: Final = 256
_GENDERS: Final = ("neutral", "female", "male")


@dataclass(frozen=True, eq=False)
class TruthBodies:
    """What the truth of a dataset is posed with, and measured through.

    Attributes:
        by_gender: SMPL of each gender; where one is missing, its people have no mesh.
        regressor: ``J_regressor_h36m``: 17 joints, the left leg first, out of the vertices of a
            mesh. None: joints of ``h36m17_Jreg`` as the body has them, which are close and not the
            published ones.
    """

    by_gender: Mapping[str, Smpl]
    regressor: Float[Tensor, "17 V"] | None = None


def load_joint_regressor(path: str | Path) -> Float[Tensor, "17 V"]:
    """Read ``J_regressor_h36m.npy``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no array [17, V].
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_joint_regressor: no file {path}")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"load_joint_regressor: {path} must be an .npy ({error})") from None
    if array.ndim != 2 or array.shape[0] != 17 or array.dtype.kind != "f":
        raise ValueError(
            f"load_joint_regressor: {path} must be [17, V] floats, got {list(array.shape)}"
        )
    return torch.from_numpy(array).float()


def choose_protocol(samples: Sequence[Sample], bodies: TruthBodies | None) -> Protocol:
    """The protocol of the dataset that samples are from.

    3DPW's needs the bodies of its people; without them its 24 joints are compared. MPI-INF-3DHP's
    is that of the test set. Datasets without a protocol of their own are measured on SMPL's joints,
    if that is what they have, or on the twelve limb joints.

    Raises:
        ValueError: If nobody has a truth in space.
    """
    known = [s for s in samples if s.has_keypoints_3d or (s.has_pose and s.has_betas)]
    if not known:
        raise ValueError("choose_protocol: nobody has points in space or a pose of SMPL")
    first = known[0]
    if bodies is not None and bodies.by_gender and first.has_pose and first.has_betas:
        return PROTOCOLS["3dpw14"]
    if not first.has_keypoints_3d:
        raise ValueError(
            "choose_protocol: the truth is a pose of SMPL alone; give the bodies that it is posed "
            "with"
        )
    if first.order_3d == "mpiinf17test":
        return PROTOCOLS["3dhp17"]
    if first.order_3d in ("smpl24", "smpl45"):
        return PROTOCOLS["smpl24"]
    return PROTOCOLS[_BY_DATASET.get(first.dataset, "limbs12")]


def truth_joints(
    samples: Sequence[Sample], protocol: Protocol, bodies: TruthBodies | None
) -> Float[np.ndarray, "N K 3"]:
    """True joints in the order of ``protocol.joint_source``, metres; NaN where one is not known."""
    names = JOINT_SETS[protocol.joint_source].names
    joints = np.full((len(samples), len(names), 3), np.nan)
    if protocol.name == "3dpw14":
        return joints if bodies is None else _posed_joints(samples, bodies, joints)
    for row, sample in enumerate(samples):
        points = sample.keypoints_3d
        if protocol.name == "3dhp17" and "univ_annot3_m" in sample.extra:
            points = np.column_stack([sample.extra["univ_annot3_m"], np.ones(17)])
        if points is None:
            continue
        given = {name: place for place, name in enumerate(JOINT_SETS[sample.order_3d].names)}
        for place, name in enumerate(names):
            point = points[given[name]] if name in given else np.zeros(4)
            if np.isfinite(point).all() and point[3] > 0:
                joints[row, place] = point[:3]
    return joints


def _posed_joints(
    samples: Sequence[Sample], bodies: TruthBodies, joints: Float[np.ndarray, "N 17 3"]
) -> Float[np.ndarray, "N 17 3"]:
    """Joints of the datasets' own bodies, each of its person's gender."""
    for gender in _GENDERS:
        body = bodies.by_gender.get(gender)
        rows = [
            row
            for row, sample in enumerate(samples)
            if sample.full_pose is not None
            and sample.betas is not None
            and (sample.gender or "neutral") == gender
        ]
        if body is None or not rows:
            continue
        pose = torch.from_numpy(np.stack([np.array(samples[row].full_pose) for row in rows]))
        betas = torch.from_numpy(np.stack([np.array(samples[row].betas) for row in rows]))
        rotmat = axis_angle_to_matrix(pose.double())
        joints[rows] = mesh_joints(body, rotmat, betas, bodies.regressor).numpy()
    return joints


@torch.no_grad()
def mesh_joints(
    body: Smpl,
    rotmat: Float[Tensor, "N 24 3 3"],
    betas: Float[Tensor, "N 10"],
    regressor: Float[Tensor, "17 V"] | None,
) -> Float[Tensor, "N 17 3"]:
    """The 17 joints of Human3.6M, the left leg first, of posed bodies, metres.

    Raises:
        ValueError: If the regressor is for another number of vertices.
    """
    vertices = len(body.v_template)
    if regressor is not None and regressor.shape[1] != vertices:
        raise ValueError(
            f"mesh_joints: the regressor is for {regressor.shape[1]} vertices, the body {body.id} "
            f"has {vertices}; give the body that it is for, or leave the regressor out"
        )
    parts = []
    for start in range(0, len(rotmat), _CHUNK):
        turns = rotmat[start : start + _CHUNK].to(body.v_template)
        shape = betas[start : start + _CHUNK].to(body.v_template)
        if regressor is None:
            parts.append(
                body.keypoints(
                    shape, turns[:, 1:], turns[:, :1], joint_set="h36m17_Jreg", pose2rot=False
                )
            )
            continue
        posed = body(shape, turns[:, 1:], turns[:, :1], pose2rot=False).vertices
        parts.append(regressor.to(posed) @ posed)
    return torch.cat(parts).double().cpu() if parts else torch.zeros(0, 17, 3).double()


def predicted_joints(
    result: FitResult, protocol: Protocol, bodies: TruthBodies | None
) -> Float[np.ndarray, "N K 3"]:
    """Joints of fits in the order of ``protocol.joint_source``, metres."""
    regressor = None if bodies is None else bodies.regressor
    if protocol.joint_source == "h36m17_Jreg" and regressor is not None:
        rotmat, betas = result.params.full_pose, result.params.betas
        return mesh_joints(result.body(), rotmat, betas, regressor).numpy()
    joints: np.ndarray = result.joints3d(protocol.joint_source).double().numpy()
    return joints


def score_truth(
    result: FitResult,
    truth: Float[np.ndarray, "N K 3"],
    protocol: Protocol,
    bodies: TruthBodies | None,
) -> Columns:
    """Measures of the protocol, one value per person; NaN for whom truth or fit is not known."""
    found = predicted_joints(result, protocol, bodies)
    needed = [*(protocol.joints or range(truth.shape[1])), protocol.root or 0]
    known = np.isfinite(found).all((1, 2)) & np.isfinite(truth[:, needed]).all((1, 2))
    columns = {name: np.full(len(result), np.nan) for name in protocol.measures}
    if known.any():
        # What is not among the joints of the protocol may be unknown, and is not looked at.
        measured = protocol.measure(found[known], np.nan_to_num(truth[known]))
        for name, values in measured.items():
            columns[name][known] = values
    return columns


@dataclass(frozen=True)
class TruthScore:
    """One method.

    Attributes:
        name: Its name.
        columns: Measures, one value per person.
        seconds: Of all its fits.
    """

    name: str
    columns: Columns
    seconds: float

    def row(self) -> dict[str, float]:
        """Means with their intervals over people."""
        row: dict[str, float] = {}
        for name, values in self.columns.items():
            row |= metrics.mean_row(name, values)
        people = len(next(iter(self.columns.values())))
        return {**row, "fits_per_second": people / self.seconds}


def without_truth(sample: Sample) -> Sample:
    """What a method may see: photo, 2D keypoints, box and camera."""
    return replace(
        sample, keypoints_3d=None, full_pose=None, betas=None, cam_transl=None, gender=None
    )


def run_truth(
    samples: Sequence[Sample],
    method: Method,
    protocol: Protocol,
    *,
    regressor: Regressor,
    body: Smpl,
    bodies: TruthBodies | None = None,
) -> TruthScore:
    """Fit everybody by one method, which sees nothing of the truth, and measure.

    Args:
        samples: People of one joint set, with photos.
        method: How.
        protocol: What is measured.
        regressor: Start of the fits.
        body: Body of the fits.
        bodies: Of the truth.
    """
    truth = truth_joints(samples, protocol, bodies)
    start = time.perf_counter()
    run = make_run(
        regressor,
        body,
        method=method.method,
        mode=method.mode if method.method in ("eft", "none") else None,
        config=method.config,
    )
    seen = [without_truth(sample) for sample in samples]
    result = run.fit_all(seen, progress=False, joint_set=samples[0].keypoint_set)
    seconds = time.perf_counter() - start
    return TruthScore(method.name, score_truth(result, truth, protocol, bodies), seconds)
