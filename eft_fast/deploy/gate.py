"""The gate of reduced precision: what it costs on photos and on people whose truth is known."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8

from eft_fast.body.smpl import Smpl
from eft_fast.deploy.speed import Outputs, interleave
from eft_fast.deploy.verify import rotation_angle
from eft_fast.evaluation import metrics
from eft_fast.evaluation.protocols import J24_TO_J14
from eft_fast.serving.base import Session

#: Most that the mean error of rendered people may move, with and without alignment.
MAX_ERROR_CHANGE_MM: Final = 0.5
#: Most that joints may move on photos, in the mean, hips held in place.
MAX_SHIFT_MM: Final = 5.0
#: Fewest photographed and rendered people that a verdict may rest on.
MIN_PHOTOS: Final = 8
MIN_PEOPLE: Final = 32
#: J24 inside the order of the body's points that it is asked for.
_J24_IN_SPIN49: Final = 25
_CHUNK: Final = 32
_BATCH: Final = 8
_ROUNDS: Final = 5


@dataclass(frozen=True)
class GateSet:
    """Crops to judge a precision on.

    Attributes:
        photos: Crops of photographed people; not those of the calibration.
        people: Crops of rendered people.
        rotmat: Their true rotations.
        betas: Their true shapes, of the regressor's body.
    """

    photos: UInt8[np.ndarray, "N S S 3"]
    people: UInt8[np.ndarray, "M S S 3"]
    rotmat: Float[np.ndarray, "M 24 3 3"]
    betas: Float[np.ndarray, "M 10"]

    def __post_init__(self) -> None:
        for name, least in (("photos", MIN_PHOTOS), ("people", MIN_PEOPLE)):
            count = len(getattr(self, name))
            if count < least:
                raise ValueError(f"gate: {least} crops of {name} or more are needed, got {count}")


@dataclass(frozen=True)
class GateRow:
    """One line of the table: accuracy next to speed.

    Attributes:
        name: The precision, or the control: fp32 on pixels moved by one step.
        images_per_second: In batches of 8, in turns with fp32; NaN for the control.
        ratio: Of that to fp32.
        rotation_deg: Mean change of the rotations on photos, to fp32.
        rotation_p99_deg: Its 99th percentile.
        shift_mm: Mean change of the 24 joints on photos, hips held in place.
        mpjpe_mm: Mean error of the rendered people.
        mpjpe_change_mm: Less that of fp32.
        pa_mpjpe_mm: The same after alignment.
        pa_mpjpe_change_mm: Less that of fp32.
    """

    name: str
    images_per_second: float
    ratio: float
    rotation_deg: float
    rotation_p99_deg: float
    shift_mm: float
    mpjpe_mm: float
    mpjpe_change_mm: float
    pa_mpjpe_mm: float
    pa_mpjpe_change_mm: float


@dataclass(frozen=True)
class GateReport:
    """The table, and whether the precision passes.

    Attributes:
        rows: fp32, the control, and the precision.
        photos: Photographed people.
        people: Rendered people.
        problems: Why it does not pass; empty if it does.
    """

    rows: tuple[GateRow, ...]
    photos: int
    people: int
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the precision may be used."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The content of ``gate.json``."""
        return {"passed": self.passed, **asdict(self)}


def run_gate(
    name: str, reference: Session, candidate: Session, body: Smpl, crops: GateSet
) -> GateReport:
    """Hold a precision against fp32 on the same crops, and both against the truth.

    Args:
        name: The precision.
        reference: The fp32 model.
        candidate: The same in the other precision.
        body: The body of the regressor.
        crops: What to run.
    """
    noisy = GateSet(
        one_step_noise(crops.photos), one_step_noise(crops.people), crops.rotmat, crops.betas
    )
    exact = _measure(reference, body, crops)
    speed = _speed({"fp32": reference, name: candidate}, crops.photos)
    rows = (
        _row("fp32", exact, exact, speed["fp32"], speed["fp32"]),
        _row("fp32, pixels moved by 1", _measure(reference, body, noisy), exact, np.nan, np.nan),
        _row(name, _measure(candidate, body, crops), exact, speed[name], speed["fp32"]),
    )
    problems = tuple(_problems(rows[-1]))
    return GateReport(rows, len(crops.photos), len(crops.people), problems)


def one_step_noise(images: UInt8[np.ndarray, "N S S 3"]) -> UInt8[np.ndarray, "N S S 3"]:
    """Each value one step up or down: what no eye and no camera would tell apart."""
    steps = np.random.default_rng(0).integers(0, 2, images.shape) * 2 - 1
    moved = np.clip(images.astype(np.int16) + steps, 0, 255)
    return np.asarray(moved, np.uint8)


def _problems(row: GateRow) -> list[str]:
    """Sentences on each limit that is passed; NaN passes none."""
    limits = {
        "mpjpe_change_mm": (MAX_ERROR_CHANGE_MM, "the error of rendered people moves by"),
        "pa_mpjpe_change_mm": (MAX_ERROR_CHANGE_MM, "their aligned error moves by"),
        "shift_mm": (MAX_SHIFT_MM, "joints on photos move by"),
    }
    found = []
    for key, (limit, words) in limits.items():
        value = abs(getattr(row, key))
        if not value <= limit:
            found.append(f"{row.name}: {words} {value:.2f} mm (at most {limit:g})")
    return found


@dataclass(frozen=True)
class _Measured:
    rotmat: np.ndarray
    joints: np.ndarray
    mpjpe: float
    pa_mpjpe: float


def _measure(session: Session, body: Smpl, crops: GateSet) -> _Measured:
    on_photos, on_people = _run(session, crops.photos), _run(session, crops.people)
    joints = _joints(body, on_photos["betas"], on_photos["rotmat"])[0]
    found = _joints(body, on_people["betas"], on_people["rotmat"])
    truth = _joints(body, crops.betas, crops.rotmat)
    centred = [points14 - joints24[:, :1] for joints24, points14 in (found, truth)]
    return _Measured(
        on_photos["rotmat"],
        joints - joints[:, :1],
        float(1000 * metrics.mpjpe(*centred).mean()),
        float(1000 * metrics.pa_mpjpe(*centred).mean()),
    )


def _run(session: Session, images: np.ndarray) -> Outputs:
    pieces = [session.run(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


@torch.no_grad()
def _joints(body: Smpl, betas: np.ndarray, rotmat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 24 joints, and the 14 that are measured, in metres."""
    shape, turns = (torch.as_tensor(x).to(body.v_template) for x in (betas, rotmat))
    points = body.keypoints(
        shape, turns[:, 1:], turns[:, :1], joint_set="spin49", pose2rot=False
    ).numpy()
    posed = body(shape, turns[:, 1:], turns[:, :1], pose2rot=False, return_verts=False)
    picked = [_J24_IN_SPIN49 + joint for joint in J24_TO_J14]
    return posed.joints[:, :24].numpy(), points[:, picked]


def _speed(sessions: dict[str, Session], images: np.ndarray) -> dict[str, float]:
    """Images per second of each, in turns."""
    batch = images[np.arange(_BATCH) % len(images)]
    jobs = {name: (lambda s=session: s.run(batch)) for name, session in sessions.items()}
    seconds = interleave(jobs, _ROUNDS)
    return {name: _BATCH / statistics.median(values) for name, values in seconds.items()}


def _row(name: str, got: _Measured, exact: _Measured, speed: float, base: float) -> GateRow:
    turned = rotation_angle(got.rotmat.astype(np.float64), exact.rotmat.astype(np.float64))
    moved = np.linalg.norm(got.joints - exact.joints, axis=-1)
    return GateRow(
        name=name,
        images_per_second=float(speed),
        ratio=float(speed / base),
        rotation_deg=float(turned.mean()),
        rotation_p99_deg=float(np.percentile(turned, 99)),
        shift_mm=float(1000 * moved.mean()),
        mpjpe_mm=got.mpjpe,
        mpjpe_change_mm=got.mpjpe - exact.mpjpe,
        pa_mpjpe_mm=got.pa_mpjpe,
        pa_mpjpe_change_mm=got.pa_mpjpe - exact.pa_mpjpe,
    )
