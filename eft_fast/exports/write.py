"""Bodies of a run to files: one a person, or one a track."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from eft_fast.errors import unknown_name
from eft_fast.exports.bvh import save_bvh
from eft_fast.exports.glb import save_rig_glb
from eft_fast.exports.mesh import save_mesh
from eft_fast.exports.rig import FRAME_RATE, UPRIGHT, Rig, make_rig
from eft_fast.exports.usd import load_usd, save_rig_usd
from eft_fast.files import make_folder, safe_stem
from eft_fast.result import FitResult

#: Meshes of one moment, and rigs.
_MESHES: Final = ("obj", "ply")
BODY_FORMATS: Final = (*_MESHES, "glb", "bvh", "usd")


@dataclass(frozen=True)
class BodyOptions:
    """How bodies are written.

    Attributes:
        feet_on_ground: The lowest vertex is at y = 0; of a motion, that of all frames.
        shape_targets: In glb and usd the shape lies in morph targets, see ``make_rig``.
        frame_rate: Of motions, frames per second.
    """

    feet_on_ground: bool = False
    shape_targets: bool = False
    frame_rate: float = FRAME_RATE


def write_bodies(
    result: FitResult,
    names: Sequence[str],
    folder: Path | str,
    kind: str,
    *,
    tracks: Sequence[str] = (),
    options: BodyOptions | None = None,
) -> list[Path]:
    """Write ``<number>_<name>.<kind>`` per person, upright, y up.

    Args:
        result: The fits; a person whose fit is not finite gets no file.
        names: What to call each person.
        folder: Where to write; made if it is not there.
        kind: One of ``BODY_FORMATS``: obj and ply are meshes, a row a file; glb, bvh and usd rigs,
            a track a file.
        tracks: Who each row is: rows of one name are frames of one person, in their order. Where
            nothing is known, every row is a person of its own.
        options: How to write.

    Returns:
        The files.

    Raises:
        ValueError: If there are more or fewer names or tracks than fits, or the kind is unknown.
        ModuleNotFoundError: If the kind needs a package that is not installed.
    """
    options = options or BodyOptions()
    if kind not in BODY_FORMATS:
        raise ValueError(unknown_name("write_bodies", "kind", kind, BODY_FORMATS))
    for label, items in (("name", names), ("track", tracks or names)):
        if len(items) != len(result):
            counts = f"got {len(items)} for {len(result)} fits"
            raise ValueError(f"write_bodies: one {label} per fit expected, {counts}")
    if kind == "usd":
        load_usd()
    make_folder(folder)
    written = []
    for label, rows in _people(result, names, () if kind in _MESHES else tracks):
        path = Path(folder) / f"{rows[0] + 1:05d}_{safe_stem(label)}.{kind}"
        part = result[rows]
        if kind in _MESHES:
            vertices = part.vertices()[0].double().numpy() @ UPRIGHT
            if options.feet_on_ground:
                vertices[:, 1] -= vertices[:, 1].min()
            written.append(save_mesh(path, vertices, part.body().faces))
        else:
            rig = make_rig(
                part,
                is_one_person=True,
                frame_rate=options.frame_rate,
                feet_on_ground=options.feet_on_ground,
                shape_targets=options.shape_targets and kind != "bvh",
            )
            written.append(_save_rig(path, rig, safe_stem(label), kind))
    return written


def body_files(folder: Path, kind: str) -> Iterator[str]:
    """Names of the files in a folder that ``write_bodies`` may have written."""
    for path in folder.glob(f"*.{kind}"):
        if re.match(r"\d{5,}_", path.name):
            yield path.name


def _people(
    result: FitResult, names: Sequence[str], tracks: Sequence[str]
) -> Iterator[tuple[str, list[int]]]:
    """What each person is called, and the rows that are finite."""
    params = result.params
    finite = torch.isfinite(params.full_pose).flatten(1).all(1)
    finite &= torch.isfinite(params.betas).all(1)
    if tracks:
        finite &= torch.isfinite(result.pred_cam).all(1)
    rows: dict[str, list[int]] = {}
    for row in torch.nonzero(finite)[:, 0].tolist():
        rows.setdefault(str(tracks[row]) if tracks else str(row), []).append(row)
    for key, found in rows.items():
        yield f"track {key}" if tracks else names[found[0]], found


def _save_rig(path: Path, rig: Rig, name: str, kind: str) -> Path:
    if kind == "bvh":
        return save_bvh(path, rig)
    return save_rig_glb(path, rig, name) if kind == "glb" else save_rig_usd(path, rig, name)
