"""Fits that are wrong on purpose, made from the photos that ship: what reports must show, and how.

    python tools/wrong_fits.py --out wrong

writes a run folder with a good fit of each photo and every wrong one: ``report.html``, overlays and
the 3D view, as ``eft-fast fit`` writes them. ``docs/gallery.md`` shows them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

import eft_fast
from eft_fast.data import read_coco
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.result import FitResult

DEMO: Final = Path(eft_fast.__file__).resolve().parent / "assets" / "demo"
PHOTOS: Final = ("runner.png", "sitter.png", "cameraman.png")
_LEGS: Final = (1, 2, 4, 5, 7, 8)  # hips, knees and ankles of the 24
_PAIRS: Final = {"arms": (7, 8, 9, 10), "legs": (13, 14, 15, 16)}  # elbows and wrists of COCO's 17


@dataclass(frozen=True)
class WrongFit:
    """One fit: what is wrong with it in a word, and the person it was made from.

    Attributes:
        name: In a word; ``good`` of the fits that are right.
        photo: File name of the photo.
        result: The fit, of one person.
    """

    name: str
    photo: str
    result: FitResult


def make_fits() -> list[WrongFit]:
    """The good fits of the photos, then the wrong ones."""
    network, body = eft_fast.load_regressor(), eft_fast.load_body()
    people = {Path(s.photo).name: s for s in read_coco(DEMO / "people.json", DEMO)}

    def fit(name: str, edit: Callable[[np.ndarray], None] | None = None, **options) -> FitResult:
        person = people[name]
        keypoints = person.keypoints_2d_px.copy()
        if edit is not None:
            edit(keypoints)
        return eft_fast.fit_batch(
            [person.photo], keypoints[None], bboxes=[person.bbox_xywh], method="map",
            regressor=network, body=body, progress=False,
            config=eft_fast.MapConfig(hypotheses=False, swaps=False, robust=False, **options),
        )  # fmt: skip

    good = {name: fit(name) for name in PHOTOS}
    made = [WrongFit("good", name, good[name]) for name in PHOTOS]
    for label, name, change in _CHANGES:
        made.append(WrongFit(label, name, ended(change(good[name]))))
    made.append(WrongFit("arms exchanged", "runner.png", fit("runner.png", _exchange("arms"))))
    made.append(WrongFit("sides exchanged", "runner.png", fit("runner.png", _exchange("all"))))
    made.append(WrongFit("legs guessed", "sitter.png", stand(fit("sitter.png", _without_legs))))
    return made


def stand(result: FitResult) -> FitResult:
    """The same person with straight legs, as somebody behind a table is often drawn."""
    pose = result.params.body_pose.clone()
    pose[:, [j - 1 for j in _LEGS]] = torch.eye(3)
    return ended(with_params(result, body_pose=pose))


def with_params(result: FitResult, **changes: Tensor) -> FitResult:
    """The fits with other parameters at their end."""
    return replace(result, params=replace(result.params, **changes))


def ended(result: FitResult) -> FitResult:
    """The fits with the errors and messages that a run gives to such an end."""
    error = result.keypoint_distances("final").nanmean(dim=1)
    result = replace(result, kp_error_px=error)
    return replace(result, message=tuple(result._faults()))


def _turned_root(result: FitResult, axis: tuple[float, float, float], degrees: float) -> FitResult:
    """Turned about an axis of the camera through the pelvis."""
    turn = axis_angle_to_matrix(torch.tensor([axis]) * np.deg2rad(degrees))
    pelvis = result.joints3d("smpl24")[:, 0]
    root = turn @ result.params.global_orient[:, 0]
    turned = with_params(result, global_orient=root[:, None])
    moved = turned.joints3d("smpl24")[:, 0]
    cam = result.pred_cam.clone()
    cam[:, 1:] += cam[:, :1] * (pelvis - moved)[:, :2]
    return replace(turned, pred_cam=cam)


def _bent(result: FitResult, joints: dict[int, tuple[float, float, float]]) -> FitResult:
    """Joints of the 24 set to rotation vectors, in degrees."""
    pose = result.params.body_pose.clone()
    for joint, degrees in joints.items():
        pose[:, joint - 1] = axis_angle_to_matrix(torch.tensor([degrees]) * np.pi / 180)
    return with_params(result, body_pose=pose)


def _moved(result: FitResult, scale: float, shift: float) -> FitResult:
    cam = result.pred_cam.clone()
    cam[:, 0] *= scale
    cam[:, 1] += shift
    return replace(result, pred_cam=cam)


def _elsewhere(result: FitResult) -> FitResult:
    """As if it lay on somebody else: another pose at another place."""
    pose = result.params.body_pose.flip(0).clone()
    pose[:, :] = torch.eye(3)
    return _moved(with_params(result, body_pose=pose), 0.8, -0.9)


def _exchange(what: str) -> Callable[[np.ndarray], None]:
    def edit(keypoints: np.ndarray) -> None:
        pairs = range(1, 17) if what == "all" else _PAIRS[what]
        order = np.arange(17)
        for left in pairs:
            if left % 2:  # COCO's left ones are odd, the right ones follow
                order[[left, left + 1]] = left + 1, left
        keypoints[:] = keypoints[order]

    return edit


def _without_legs(keypoints: np.ndarray) -> None:
    keypoints[13:] = 0


_FOLDED: Final = {
    1: (150.0, 0.0, 60.0), 2: (150.0, 0.0, -60.0), 4: (-120.0, 0.0, 60.0), 5: (-120.0, 0.0, -60.0),
    16: (0.0, 120.0, 90.0), 17: (0.0, -120.0, -90.0), 18: (0.0, 150.0, 0.0), 19: (0.0, -150.0, 0.0),
    3: (70.0, 0.0, 0.0),
}  # fmt: skip
_CHANGES: Final[tuple[tuple[str, str, Callable[[FitResult], FitResult]], ...]] = (
    ("front and back exchanged", "cameraman.png", lambda r: _turned_root(r, (0.0, 1.0, 0.0), 180)),
    ("faces away", "sitter.png", lambda r: _turned_root(r, (0.0, 1.0, 0.0), 180)),
    ("seated drawn standing", "sitter.png", stand),
    ("on somebody else", "runner.png", _elsewhere),
    ("half as large", "runner.png", lambda r: _moved(r, 0.5, 0.0)),
    ("beside the person", "cameraman.png", lambda r: _moved(r, 1.0, 0.7)),
    ("collapsed", "runner.png", lambda r: _bent(r, _FOLDED)),
    ("upside down", "runner.png", lambda r: _turned_root(r, (0.0, 0.0, 1.0), 180)),
    ("knees backwards", "cameraman.png", lambda r: _bent(r, {4: (-70.0, 0, 0), 5: (-70.0, 0, 0)})),
    ("leaning in depth", "runner.png", lambda r: _turned_root(r, (1.0, 0.0, 0.0), 50)),
    ("nobody's shape", "sitter.png",
     lambda r: with_params(r, betas=r.params.betas + torch.tensor([[0.0, 6.0] + [0.0] * 8]))),
)  # fmt: skip


def write(out: Path, made: list[WrongFit]) -> None:
    """Overlays, 3D view and report of the fits."""
    from eft_fast.cli.report_rows import add_views, judge_people
    from eft_fast.viz.fits import write_overlays
    from eft_fast.viz.report import ReportSummary, write_report

    result = FitResult.concatenate([one.result for one in made])
    names, labels = [one.photo for one in made], [one.name for one in made]
    photos = [DEMO / one.photo for one in made]
    judged = judge_people(result, [f"{k + 1} {name}" for k, name in enumerate(labels)])
    rows = write_overlays(result, photos, names, labels, out / "overlays", warnings=judged.words)
    rows = add_views(judged.to_rows(rows), result, photos, out)
    write_report(out / "report.html", rows, ReportSummary(title="Fits that are wrong on purpose"))


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    write(options.out, make_fits())
    print(options.out / "report.html")


if __name__ == "__main__":
    main()
