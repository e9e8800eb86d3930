"""How well labels predict labels that are withheld, by what people do: sit, lie, bend, are cut.

    python tools/skeleton_kinds.py --skeletons COCO.npz --regressor open-2

No pictures: a network that reads given keypoints gets two thirds of a person's labels and says
where the others are. People are those that training leaves out (``val``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eft_fast.body import load_body
from eft_fast.body.smpl import Smpl
from eft_fast.evaluation.metrics import bootstrap_interval
from eft_fast.geometry.cameras import weak_project
from eft_fast.map_fit.fit import fit_map
from eft_fast.models import load_regressor
from eft_fast.models.error_covariance import load_error_covariance
from eft_fast.models.movenet_regressor import MoveNetRegressor
from eft_fast.training.skeleton_poses import answer_labels, given_labels, kinds_of
from eft_fast.training.skeletons import Skeletons

#: Share of the labels that is withheld, and the errors that count as hits, of the box's root.
WITHHELD, NEAR = 1 / 3, 0.1
SEED = 15
AT_ONCE = 256


class Score(NamedTuple):
    """Share of each person's withheld labels that were hit: by the network, and by ``map``."""

    network: np.ndarray
    map: np.ndarray


@torch.no_grad()
def score_people(network: MoveNetRegressor, body: Smpl, people: Skeletons, rows: Tensor) -> Score:
    """Withhold a third of the labels of some people, and look for them."""
    assert people.extent is not None, "loaded from a file"
    precision = torch.from_numpy(load_error_covariance(network).precision(given=True)).float()
    columns: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part in rows.split(AT_ONCE):
        labels = people.labels[part]
        there = labels[..., 2] > 0
        # By the row alone: the same labels for every network.
        chance = torch.stack(
            [torch.rand(17, generator=torch.Generator().manual_seed(SEED + int(i))) for i in part]
        )
        is_withheld = there & (chance < WITHHELD)
        given = given_labels(labels) * ~is_withheld[..., None]
        start = answer_labels(network, given)
        fitted = fit_map(body, start, given, precision).final
        for column, (rotmat, betas, camera) in zip(columns, (start, fitted), strict=True):
            places = weak_project(network.head.rig(rotmat, betas), camera)
            error = (places - labels[..., :2]).norm(dim=-1) / people.extent[part, None]
            hits = ((error < NEAR) & is_withheld).sum(1) / is_withheld.sum(1)
            column.append(hits)
    found = (torch.cat(column).numpy() for column in columns)
    return Score(*(each[np.isfinite(each)] for each in found))


def rows_of_kinds(people: Skeletons, count: int) -> Iterator[tuple[str, Tensor]]:
    """At most so many people of each kind, the same at every call."""
    for kind, chosen in kinds_of(people.labels).items():
        rows = chosen.nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
        yield kind, rows[order[:count]].sort().values


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--skeletons", type=Path, required=True)
    parser.add_argument("--regressor", nargs="+", default=["open-2"])
    parser.add_argument("--count", type=int, default=400, help="people of each kind at most")
    options = parser.parse_args()
    body = load_body()
    print("| kind | people | network | PCK@0.1 | `map`, PCK@0.1 |\n|---|---|---|---|---|")
    for source in options.regressor:
        network = load_regressor(source)
        if not isinstance(network, MoveNetRegressor):
            parser.error(f"--regressor {source} does not read given keypoints; use open-2")
        people = Skeletons.load(options.skeletons, margin=network.box_margin, val=True)
        for kind, rows in rows_of_kinds(people, options.count):
            cells = []
            for hits in score_people(network, body, people, rows):
                low, high = bootstrap_interval(hits)
                cells.append(f"{hits.mean():.3f} ({low:.3f} to {high:.3f})")
            print(f"| {kind} | {len(rows)} | `{network.full_id}` | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
