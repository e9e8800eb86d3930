"""Fits to files: what a ``FitResult`` holds, in the formats of ``data.formats`` and as meshes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.data.formats.amass_npz import TO_Z_UP, AmassMotion, save_amass_npz
from eft_fast.data.formats.eft_json import eft_records_from_fits, save_eft_json
from eft_fast.data.formats.eft_pickle import eft_pickles_from_fits, save_eft_pickles
from eft_fast.data.formats.fits import Fits
from eft_fast.data.formats.fits_parquet import save_fits_parquet
from eft_fast.data.formats.hmr2_tar import hmr2_photos_from_fits, save_hmr2_tars
from eft_fast.data.formats.humandata_npz import humandata_from_fits, save_humandata_npz
from eft_fast.data.formats.smpl_file import SmplMotion, save_smpl_file
from eft_fast.data.formats.spin_npz import save_spin_npz, spin_labels_from_fits
from eft_fast.geometry.cameras import to_cam_transl
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.result import FitResult

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Of a motion whose photos say nothing about time.
FRAME_RATE: Final = 30.0
#: Fields of ``FitResult`` that ``Fits`` has under names of its own.
OWN_FIELDS: Final = frozenset(
    {
        "params", "pred_cam", "init", "bbox_center", "bbox_scale", "keypoints", "joint_set",
        "photo", "id", "regressor_id", "_body",
    }
)  # fmt: skip
#: Stop reasons of people whose pose nobody should learn from.
UNTRUSTED: Final = ("no_keypoints", "nan")

#: What was written, and how many people are in it.
Written: TypeAlias = tuple[Path, int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PersonNames:
    """What the people of a FitResult are called, in its order.

    Attributes:
        photos: Name of each person's photo.
        ids: Id of each person's annotation.
        tracks: Who it is: rows with one name are one person in several frames, in their order.
            Where nothing is known, every row is a person of its own.
    """

    photos: Sequence[str] = field(default_factory=tuple)
    ids: Sequence[str] = field(default_factory=tuple)
    tracks: Sequence[str] = field(default_factory=tuple)

    def photo(self, row: int) -> str:
        """Name of a photo; a number where no names are known."""
        return self.photos[row] if self.photos else f"{row:07d}"

    def or_those_of(self, result: FitResult) -> PersonNames:
        """The same; photos and ids that are not named here are called as the result calls them."""
        photos = self.photos or (result.photo if any(result.photo) else ())
        ids = self.ids or (result.id if any(result.id) else ())
        return replace(self, photos=photos, ids=ids)

    def people(self, count: int) -> dict[str, list[int]]:
        """The rows of each person among ``count`` rows, by the name of the person."""
        rows: dict[str, list[int]] = {}
        for row in range(count):
            name = str(self.tracks[row]) if self.tracks else f"{row + 1:05d}"
            rows.setdefault(name, []).append(row)
        return rows

    def take(self, rows: Sequence[int]) -> PersonNames:
        """Names of the people with these numbers."""
        return PersonNames(
            [self.photos[row] for row in rows] if self.photos else (),
            [self.ids[row] for row in rows] if self.ids else (),
            [self.tracks[row] for row in rows] if self.tracks else (),
        )


def write_fits(
    result: FitResult, names: PersonNames, kind: str, path: str | Path
) -> tuple[Path, int]:
    """Write fits in one of ``FORMATS``; people without a finite fit are left out.

    Args:
        result: The fits.
        names: What the people are called.
        kind: Key of ``FORMATS``.
        path: File to write. A motion is of one person: ``amass-npz`` of several people writes one
            file each, ``walk-00001.npz`` and so on for ``walk.npz``.

    Returns:
        What was written, of several files their folder, and how many people are in it.

    Raises:
        ValueError: If the format is unknown, nobody has a finite fit, or there are more or fewer
            names than fits.
    """
    if kind not in FORMATS:
        raise ValueError(f"write_fits: format must be one of {', '.join(FORMATS)}, got {kind}")
    for label, items in (("photo", names.photos), ("id", names.ids), ("track", names.tracks)):
        if items and len(items) != len(result):
            raise ValueError(
                f"write_fits: one {label} per fit expected, got {len(items)} for {len(result)}"
            )
    finite = torch.isfinite(result.params.full_pose).flatten(1).all(1)
    finite &= torch.isfinite(result.params.betas).all(1) & torch.isfinite(result.pred_cam).all(1)
    rows = torch.nonzero(finite)[:, 0].tolist()
    if not rows:
        raise ValueError("write_fits: nobody has a finite fit, so there is nothing to write")
    return FORMATS[kind](result[rows], names.take(rows), Path(path))


def to_fits(result: FitResult, names: PersonNames) -> Fits:
    """Turn a FitResult into the arrays that formats are written from; nothing is left out."""
    count, names = len(result), names.or_those_of(result)
    extras: dict[str, np.ndarray] = {
        "init_rotmat": result.init.params.full_pose.numpy(),
        "init_betas": result.init.betas.numpy(),
        "init_pred_cam": result.init.pred_cam.numpy(),
    }
    facts: dict[str, str] = {}
    for item in fields(result):
        value = getattr(result, item.name)
        if item.name in OWN_FIELDS or value is None:
            continue
        if isinstance(value, Tensor):
            extras[item.name] = value.numpy()
        elif isinstance(value, tuple):
            extras[item.name] = np.array(value, np.str_)
        elif isinstance(value, str):
            facts[item.name] = value
            extras[item.name] = np.full(count, value)
    return Fits(
        photos=tuple(names.photo(row) for row in range(count)),
        rotmat=result.params.full_pose.numpy(),
        betas=result.params.betas.numpy(),
        pred_cam=result.pred_cam.numpy(),
        bbox_center=result.bbox_center.numpy(),
        bbox_scale=result.bbox_scale.numpy(),
        keypoints_2d_px=result.keypoints.numpy(),
        joint_set=result.joint_set,
        ids=tuple(map(str, names.ids)),
        tracks=tuple(map(str, names.tracks)),
        is_trusted=np.array([reason not in UNTRUSTED for reason in result.stop_reason], bool),
        regressor_ids=(result.regressor_id,) * count,
        cam_transl=result.cam_transl().numpy(),
        extras=extras,
        facts=facts,
    )


def to_amass_motion(result: FitResult, *, is_one_person: bool = False) -> AmassMotion:
    """Turn fits of one person into a motion: a row is a frame, the shape is their mean.

    Translations are those of the crop's nominal pinhole (5000 px for a 224 px crop), so depths
    compare with each other only where the crops have one size.

    Args:
        result: The fits.
        is_one_person: Several rows are frames of one person, which a result does not tell.

    Raises:
        ValueError: If there are several rows and nobody says that they are one person's.
    """
    if len(result) > 1 and not is_one_person:
        raise ValueError(
            f"to_amass_motion: a motion is of one person, got {len(result)} rows; say "
            "is_one_person=True if they are frames of one, or write_fits writes a file each"
        )
    rotmat = result.params.full_pose.double()
    turn = torch.from_numpy(TO_Z_UP)
    # A body turns about its pelvis joint, whose place at rest depends on the shape alone.
    betas = result.params.betas.mean(0)
    pelvis = result.joints3d("smpl24")[:, 0].double()
    placed = (pelvis + to_cam_transl(result.pred_cam.double())) @ turn.T
    turned = torch.cat([(turn @ rotmat[:, 0])[:, None], rotmat[:, 1:]], 1)
    return AmassMotion(
        full_pose=matrix_to_axis_angle(turned).reshape(len(result), 72).numpy(),
        transl=(placed - rest_pelvis(result.body(), betas)).numpy(),
        betas=betas.double().numpy(),
        frame_rate=FRAME_RATE,
        regressor_id=result.regressor_id,
    )


@torch.no_grad()
def rest_pelvis(body: Smpl, betas: Float[Tensor, " 10"]) -> Float[Tensor, " 3"]:
    """The joint that a body turns about, at rest, metres: it depends on the shape alone."""
    joints: Tensor = body(betas[None].to(body.v_template), return_verts=False).joints
    return joints[0, 0].double().cpu()


def to_smpl_motion(result: FitResult, *, is_one_person: bool = False) -> SmplMotion:
    """Turn fits of one person into a motion of a ``.smpl`` file: as ``to_amass_motion``, hands too.

    The codec knows no axes; as in AMASS, z is up.
    """
    motion = to_amass_motion(result, is_one_person=is_one_person)
    return SmplMotion(motion.full_pose, motion.transl, motion.betas, motion.frame_rate)


def _write_eft_json(result: FitResult, names: PersonNames, path: Path) -> Written:
    return save_eft_json(path, eft_records_from_fits(to_fits(result, names))), len(result)


def _write_eft_pickle(result: FitResult, names: PersonNames, path: Path) -> Written:
    return save_eft_pickles(path, eft_pickles_from_fits(to_fits(result, names))), len(result)


def _write_spin_npz(result: FitResult, names: PersonNames, path: Path) -> Written:
    return save_spin_npz(path, spin_labels_from_fits(to_fits(result, names))), len(result)


def _write_humandata_npz(result: FitResult, names: PersonNames, path: Path) -> Written:
    return save_humandata_npz(path, humandata_from_fits(to_fits(result, names))), len(result)


def _write_hmr2_tar(result: FitResult, names: PersonNames, path: Path) -> Written:
    left_out: dict[str, int] = {}
    paths = names.or_those_of(result).photos
    photos = hmr2_photos_from_fits(to_fits(result, names), paths, left_out)
    save_hmr2_tars(path, photos)
    if not paths or sum(left_out.values()) == len(result):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"write_fits: hmr2-tar holds the photos themselves, and none can be put there "
            f"({reasons or 'no photos are named'}); give fits whose photos are where they were"
        )
    for reason, count in left_out.items():
        logger.warning("write_fits: %d people are left out of %s: %s", count, path, reason)
    return path, len(result) - sum(left_out.values())


def _write_parquet(result: FitResult, names: PersonNames, path: Path) -> Written:
    return save_fits_parquet(path, to_fits(result, names)), len(result)


def _write_npz(result: FitResult, names: PersonNames, path: Path) -> Written:
    names = names.or_those_of(result)
    photos, ids = (tuple(map(str, part)) for part in (names.photos, names.ids))
    replace(result, photo=photos, id=ids).save(path)
    return path, len(result)


def _write_amass_npz(result: FitResult, names: PersonNames, path: Path) -> Written:
    def save(file: Path, part: FitResult) -> Path:
        return save_amass_npz(file, to_amass_motion(part, is_one_person=True))

    return _write_motions(result, names, path, save)


def _write_smpl(result: FitResult, names: PersonNames, path: Path) -> Written:
    def save(file: Path, part: FitResult) -> Path:
        return save_smpl_file(file, to_smpl_motion(part, is_one_person=True))

    return _write_motions(result, names, path, save)


def _write_motions(
    result: FitResult, names: PersonNames, path: Path, save: Callable[[Path, FitResult], Path]
) -> Written:
    """One file a person: of several, the person's name is put into the file's."""
    people = names.people(len(result))
    if len(people) == 1:
        return save(path, result), len(result)
    for name, rows in people.items():
        save(
            path.with_name(f"{path.stem}-{_to_file_name(name)}{path.suffix or '.npz'}"),
            result[rows],
        )
    return path.parent, len(result)


def _to_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]


#: Formats, by the name that ``convert`` takes. All but motions hold many people in one file; those
#: of ``FOLDERS`` are folders.
FORMATS: Final[dict[str, Callable[[FitResult, PersonNames, Path], Written]]] = {
    "eft-json": _write_eft_json,
    "eft-pickle": _write_eft_pickle,
    "spin-npz": _write_spin_npz,
    "hmr2-tar": _write_hmr2_tar,
    "humandata-npz": _write_humandata_npz,
    "amass-npz": _write_amass_npz,
    "smpl": _write_smpl,
    "parquet": _write_parquet,
    "npz": _write_npz,
}
