"""How good a regressor is on rendered people that it never saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.conventions import BOX_MARGIN
from eft_fast.evaluation import metrics
from eft_fast.geometry.cameras import weak_project
from eft_fast.models.base import Regressor, RegressorOutput
from eft_fast.synth import SynthArrays
from eft_fast.synth.landmarks import NUM_COCO
from eft_fast.training.cache import normalise_images
from eft_fast.training.crops import CropReader
from eft_fast.training.labels import LabelledPeople
from eft_fast.training.targets import Targets, body_points, make_targets

#: Hips, knees, ankles, shoulders, elbows, wrists, neck and head: the 14 joints of the errors.
JOINTS_14: Final = (1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21, 12, 15)
#: Least and most visible keypoints of each group of people.
SEEN_GROUPS: Final = ((0, 5), (6, 10), (11, 13), (14, 16), (17, 17))
#: People whose vertices are in memory at once.
_CHUNK: Final = 64


@dataclass(frozen=True)
class SynthScore:
    """Errors on rendered people, one value per person; NaN where nothing could be measured.

    Attributes:
        mpjpe_mm: Mean joint error about the pelvis, millimetres.
        pa_mpjpe_mm: The same after the best similarity transform.
        pve_mm: Mean vertex error about the pelvis joint, millimetres.
        pck: Share of COCO landmarks inside the crop that land within 0.1 of the root area of
            the box around all landmarks.
        root_deg: Angle between the root orientations, degrees.
        beta0_error: Absolute error of the first shape coefficient.
    """

    mpjpe_mm: Float[np.ndarray, " N"]
    pa_mpjpe_mm: Float[np.ndarray, " N"]
    pve_mm: Float[np.ndarray, " N"]
    pck: Float[np.ndarray, " N"]
    root_deg: Float[np.ndarray, " N"]
    beta0_error: Float[np.ndarray, " N"]

    def summary(self) -> dict[str, float]:
        """Return means with their 95 % bootstrap intervals, ``<name>_low`` and ``<name>_high``.

        ``root_flips`` is the share of people turned by over 90 degrees.
        """
        row: dict[str, float] = {"people": len(self.mpjpe_mm)}
        for name, column in self._columns().items():
            row |= metrics.mean_row(name, column)
        return row | {
            "pa_mpjpe_median_mm": float(np.median(self.pa_mpjpe_mm)),
            "root_median_deg": float(np.median(self.root_deg)),
            "beta0_error": float(self.beta0_error.mean()),
        }

    def rows_by_seen(self, seen: Int[np.ndarray, " N"]) -> list[dict[str, Any]]:
        """Errors of people of whom few or many keypoints are visible, few first.

        What nobody can see has to be guessed, so that a mean says as much of how much of its people
        is hidden as of the network.

        Args:
            seen: Visible keypoints of each person, of 17.

        Returns:
            For each of ``SEEN_GROUPS`` that has people ``seen`` (its name), ``people``, and
            ``mpjpe_mm``, ``pa_mpjpe_mm`` and ``root_flips`` with their intervals as in ``summary``.
        """
        columns, rows = self._columns(), []
        for low, high in SEEN_GROUPS:
            chosen = (seen >= low) & (seen <= high)
            if chosen.any():
                row: dict[str, Any] = {"seen": f"{low} to {high}" if low < high else str(low)}
                row["people"] = int(chosen.sum())
                for name in ("mpjpe_mm", "pa_mpjpe_mm", "root_flips"):
                    row |= metrics.mean_row(name, columns[name][chosen])
                rows.append(row)
        return rows

    def _columns(self) -> dict[str, Float[np.ndarray, " N"]]:
        """What is averaged, by the names that means have."""
        return {
            "mpjpe_mm": self.mpjpe_mm,
            "pa_mpjpe_mm": self.pa_mpjpe_mm,
            "pve_mm": self.pve_mm,
            "pck_0.1": self.pck,
            "root_flips": (self.root_deg > 90).astype(np.float64),
        }


@torch.no_grad()
def predict(
    network: Regressor, images: Iterable[np.ndarray], *, batch: int = 16
) -> RegressorOutput:
    """Run a regressor over uint8 crops of its input size."""
    stack = list(images)
    outputs = [
        network(normalise_images(np.stack(stack[start : start + batch]), network))
        for start in range(0, len(stack), batch)
    ]
    return RegressorOutput(*(torch.cat(part) for part in zip(*outputs, strict=True)))


@torch.no_grad()
def predict_given(
    network: Regressor,
    images: UInt8[np.ndarray, "N S S 3"],
    given: Sequence[Float[Tensor, "N K 3"]],
    *,
    batch: int = 16,
) -> list[RegressorOutput]:
    """Run a regressor that reads keypoints over the same crops with several sets of them.

    Args:
        network: The regressor.
        images: uint8 crops of its input size.
        given: Keypoints of ``Regressor.reads_keypoints``.
        batch: How many people at a time.

    Returns:
        One answer for each of ``given``.
    """
    answers: list[list[RegressorOutput]] = [[] for _ in given]
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        features = network.features(normalise_images(images[rows], network))
        for told, parts in zip(given, answers, strict=True):
            # Only networks that read keypoints know the argument.
            asked: dict[str, Any] = {"given": told[rows]}
            parts.append(network.head_with_confidence(features, **asked)[0])
    return [
        RegressorOutput(*(torch.cat(part) for part in zip(*parts, strict=True)))
        for parts in answers
    ]


def in_crops_of(network: Regressor, arrays: SynthArrays) -> SynthArrays:
    """Rendered people in the crops that a network takes.

    Pictures are rendered as crops of a box with the package's margin; who takes another margin gets
    the part of them that it would cut out of a photo.
    """
    return arrays.cropped(network.box_margin / BOX_MARGIN, network.input_size)


@torch.no_grad()
def score_renders(network: Regressor, body: Smpl, arrays: SynthArrays) -> SynthScore:
    """A regressor's errors on rendered people; ``body`` is who they show."""
    arrays = in_crops_of(network, arrays)
    output = predict(network, arrays.image)
    return score_output(output, make_targets(arrays, body), body)


def count_seen(arrays: SynthArrays) -> Int[np.ndarray, " N"]:
    """Visible keypoints of each rendered person, of COCO's 17."""
    count: np.ndarray = (arrays.landmarks_2d[:, :NUM_COCO, 2] == 2).sum(1)
    return count


@torch.no_grad()
def score_people(network: Regressor, body: Smpl, people: LabelledPeople) -> dict[str, np.ndarray]:
    """Joint errors of a regressor on photos of people whose pose is known.

    Args:
        network: The regressor.
        body: Its body.
        people: All of them with pose and shape.

    Returns:
        ``mpjpe_mm`` and ``pa_mpjpe_mm``, one value per person, over ``JOINTS_14``.

    Raises:
        ValueError: If somebody's pose is not known.
    """
    if bool((people.rotmat_weight == 0).any()) or bool((people.betas_weight == 0).any()):
        raise ValueError(
            "score_people: people with a known pose and shape expected, got some without"
        )
    read = CropReader(people, network)
    errors: list[tuple[Tensor, Tensor]] = []
    for rows in torch.arange(len(people)).split(16):
        img, labels = read(rows, torch.Generator().manual_seed(0))
        output = network(img)
        found = body_points(body, output.pred_rotmat, output.pred_betas).joints
        true = body_points(body, labels.rotmat, labels.betas).joints
        chosen = list(JOINTS_14)
        plain = (found - true)[:, chosen].norm(dim=-1).mean(1)
        errors.append((plain, metrics.pa_mpjpe(found[:, chosen], true[:, chosen])))
    plain, aligned = (torch.cat(part) for part in zip(*errors, strict=True))
    return {"mpjpe_mm": 1e3 * plain.numpy(), "pa_mpjpe_mm": 1e3 * aligned.numpy()}


@torch.no_grad()
def score_output(output: RegressorOutput, targets: Targets, body: Smpl) -> SynthScore:
    """Compare predictions with labels."""
    points = body_points(body, output.pred_rotmat, output.pred_betas)
    joints, true = points.joints[:, list(JOINTS_14)], targets.joints[:, list(JOINTS_14)]
    flat = weak_project(points.landmarks + points.root, output.pred_cam)[:, :NUM_COCO]
    labels = targets.landmarks_2d[:, :NUM_COCO]
    box = targets.landmarks_2d.amax(1) - targets.landmarks_2d.amin(1)
    error = (flat - labels).norm(dim=-1) / box.prod(1).sqrt().clamp_min(1e-6)[:, None]
    inside = (labels.abs() < 1).all(-1)
    hits = ((error < 0.1) & inside).sum(1) / inside.sum(1)
    turn = torch.einsum("nij,nij->n", output.pred_rotmat[:, 0], targets.rotmat[:, 0])
    angle = torch.rad2deg(torch.arccos(((turn - 1) / 2).clamp(-1, 1)))
    return SynthScore(
        mpjpe_mm=1e3 * (joints - true).norm(dim=-1).mean(1).cpu().numpy(),
        pa_mpjpe_mm=1e3 * metrics.pa_mpjpe(joints, true).cpu().numpy(),
        pve_mm=1e3 * _vertex_error(output, targets, body),
        pck=hits.cpu().numpy(),
        root_deg=angle.cpu().numpy(),
        beta0_error=(output.pred_betas[:, 0] - targets.betas[:, 0]).abs().cpu().numpy(),
    )


def _vertex_error(output: RegressorOutput, targets: Targets, body: Smpl) -> Float[np.ndarray, " N"]:
    errors = []
    for start in range(0, len(targets.betas), _CHUNK):
        part = slice(start, start + _CHUNK)
        posed = [
            body(betas[part], rotmat[part, 1:], rotmat[part, :1], pose2rot=False)
            for rotmat, betas in (output[:2], targets[:2])
        ]
        found, true = (each.vertices - each.joints[:, :1] for each in posed)
        errors.append((found - true).norm(dim=-1).mean(1).cpu().numpy())
    return np.concatenate(errors)


@torch.no_grad()
def choice_score(output: RegressorOutput, targets: Targets, body: Smpl) -> float:
    """Return what weights are chosen by on the validation split: the mean of both joint errors.

    Millimetres; lower is better.
    """
    points = body_points(body, output.pred_rotmat, output.pred_betas)
    joints, true = points.joints[:, list(JOINTS_14)], targets.joints[:, list(JOINTS_14)]
    plain = (joints - true).norm(dim=-1).mean()
    return 500 * float(plain + metrics.pa_mpjpe(joints, true).mean())
