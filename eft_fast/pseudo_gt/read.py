"""Files of fits to a ``FitResult``: ours and those of other programs."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from eft_fast.conventions import BOX_UNIT
from eft_fast.data.formats.amass_npz import TO_Z_UP, load_amass_npz
from eft_fast.data.formats.detect import LOADERS, find_format, load_foreign
from eft_fast.data.formats.fits import Fits
from eft_fast.data.formats.smpl_file import load_smpl_file
from eft_fast.geometry.cameras import fit_weak_camera, to_weak_camera
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.pseudo_gt.write import OWN_FIELDS, PersonNames, rest_pelvis
from eft_fast.result import FitResult, Prediction, SmplParams

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_WHO: Final = "load_fits"
#: Of fits whose file does not say which body they belong to: poses and shapes of SMPL itself.
_FOREIGN_BODY: Final = "smpl-neutral"
#: Formats of ``load_fits``; motions have neither photos nor keypoints.
READABLE: Final = (*LOADERS, "amass-npz", "smpl", "npz")


@dataclass(frozen=True)
class LoadedFits:
    """What a file of fits holds.

    Attributes:
        result: The fits.
        names: What the people are called.
        kind: The format.
        notes: What had to be made up, a sentence each.
    """

    result: FitResult
    names: PersonNames
    kind: str
    notes: tuple[str, ...] = ()


def load_fits(path: str | Path, *, kind: str | None = None, body: Smpl | None = None) -> LoadedFits:
    """Read fits in any of ``READABLE``.

    What a format does not say is NaN: losses, errors, the start of the fit. A camera that is
    missing is fitted to the labelled keypoints (least squares, in the crop), if the body is known.

    Args:
        path: A file, or a folder of pickles, tars or shards.
        kind: The format; None: as ``find_format`` tells it.
        body: Body of the fits; needed for meshes and points of any but the open one.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it is in none of the formats, or ``body`` is not the one of the fits.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{_WHO}: no file or folder {path}")
    kind = kind or find_format(path)
    if kind not in READABLE:
        raise ValueError(f"{_WHO}: {path} must be fits in one of {', '.join(READABLE)}")
    if kind == "npz":
        result = FitResult.load(path / "fits.npz" if path.is_dir() else path, body=body)
        return LoadedFits(result, PersonNames().or_those_of(result), kind)
    if kind in ("amass-npz", "smpl"):
        return _load_motion(path, kind, body)
    fits = load_foreign(path, kind)
    if not len(fits):
        raise ValueError(f"{_WHO}: {path} holds nobody")
    result = to_result(fits, body)
    result, notes = _with_cameras(result)
    tracks = fits.tracks if all(fits.tracks) else ()
    return LoadedFits(result, PersonNames(fits.photos, fits.ids, tracks), kind, notes)


def to_result(fits: Fits, body: Smpl | None = None) -> FitResult:
    """Turn arrays into a FitResult: the way back of ``to_fits``, bit for bit where all is there.

    Raises:
        ValueError: If the people belong to several bodies, or ``body`` is another one.
    """
    said = {name: _only(fits, name) for name in ("body_id", "method", "mode")}
    body_id = said["body_id"] or (_FOREIGN_BODY if body is None else body.id)
    count = len(fits)
    values: dict[str, Any] = {}
    for item in fields(FitResult):
        if item.name in OWN_FIELDS or item.name in said:
            continue
        given = fits.extras.get(item.name)
        if item.name in fits.facts:
            values[item.name] = fits.facts[item.name]
        elif given is not None and given.dtype.kind == "U":
            values[item.name] = tuple(given.tolist())
        elif given is not None:
            values[item.name] = _tensor(given)
        elif item.default is MISSING:
            values[item.name] = torch.full((count,), float("nan"))
    values["steps"] = torch.nan_to_num(values["steps"]).long()
    if "stop_reason" not in fits.extras:
        trusted = fits.is_trusted.tolist()
        values["stop_reason"] = tuple("converged" if ok else "no_keypoints" for ok in trusted)
    if "message" not in fits.extras:
        values["message"] = ("",) * count
    result = FitResult(
        params=_params(fits.rotmat, fits.betas),
        pred_cam=_tensor(fits.pred_cam),
        init=_init(fits),
        bbox_center=_tensor(fits.bbox_center),
        bbox_scale=_tensor(fits.bbox_scale),
        keypoints=_tensor(fits.keypoints_2d_px),
        joint_set=fits.joint_set,
        body_id=body_id,
        regressor_id=_joined(fits.regressor_ids) or "unknown",
        method=said["method"] or "unknown",
        mode=said["mode"] or "unknown",
        photo=fits.photos,
        id=fits.ids,
        **values,
    )
    return result if body is None else result.with_body(body)


def _only(fits: Fits, name: str) -> str:
    """What all people have in common; empty where nothing is said."""
    if name in fits.facts:
        return fits.facts[name]
    found = sorted(set(map(str, fits.extras.get(name, np.zeros(0, "U1")).tolist())) - {""})
    if name == "body_id" and len(found) > 1:
        raise ValueError(
            f"{_WHO}: fits of one body are expected, got {', '.join(found)}; split the file"
        )
    return "+".join(found)


def _joined(texts: tuple[str, ...]) -> str:
    return "+".join(sorted(set(texts) - {""}))


def _tensor(array: np.ndarray) -> Tensor:
    """Floats as float32, as fits are; whole numbers and flags as they are."""
    given = np.ascontiguousarray(array)
    given = given.astype(np.float32) if given.dtype.kind == "f" else given
    return torch.from_numpy(given.copy() if not given.flags.writeable else given)


def _params(rotmat: np.ndarray, betas: np.ndarray) -> SmplParams:
    return SmplParams.from_rotmat(_tensor(rotmat), _tensor(betas))


def _init(fits: Fits) -> Prediction:
    """The start of the fits; NaN where the file does not have it."""
    shapes = {"init_rotmat": (24, 3, 3), "init_betas": (10,), "init_pred_cam": (3,)}
    rotmat, betas, cam = (
        fits.extras.get(name, np.full((len(fits), *shape), np.nan))
        for name, shape in shapes.items()
    )
    return Prediction(_params(rotmat, betas), _tensor(cam))


def _with_cameras(result: FitResult) -> tuple[FitResult, tuple[str, ...]]:
    """Fit the cameras that the file does not have."""
    without = ~torch.isfinite(result.pred_cam).all(1)
    labelled = (result.keypoints[..., 2] > 0).sum(1) >= 2
    count = int(without.sum())
    if not count:
        return result, ()
    try:
        points = result.joints3d()
    except ValueError:
        note = (
            f"{count} people have no camera in the file, and none can be fitted without the body "
            f"{result.body_id} (--body)"
        )
        return result, (note,)
    half = (BOX_UNIT / 2 * result.bbox_scale)[:, None, None]
    seen = (result.keypoints[..., :2] - result.bbox_center[:, None]) / half
    camera = fit_weak_camera(points, seen, result.keypoints[..., 2].clamp_min(0))
    chosen = without & labelled
    cam = torch.where(chosen[:, None], camera, result.pred_cam)
    note = f"{int(chosen.sum())} people have no camera in the file; it was fitted to the keypoints"
    return replace(result, pred_cam=cam), (note,)


def _load_motion(path: Path, kind: str, body: Smpl | None) -> LoadedFits:
    """Frames of one person as fits without photos and keypoints.

    The file's axes are taken for those that ``to_amass_motion`` writes: z up, the camera looking
    along y. The weak camera is that of the nominal pinhole, where the root is in front of it.
    """
    from eft_fast.body import load_body

    regressor, gender = None, "neutral"
    if kind == "smpl":
        motion = load_smpl_file(path)
        pose, transl, betas = motion.full_pose, motion.transl, motion.betas
    else:
        amass = load_amass_npz(path)
        if amass.model_type == "smplx":
            raise ValueError(
                f"load_fits: expected a motion of SMPL or SMPL-H, got one of SMPL-X in {path}, "
                "whose shape coefficients mean another body; eft-fast motion convert reads its "
                "poses alone"
            )
        pose, transl, betas, regressor = (
            amass.full_pose,
            amass.transl,
            amass.betas,
            amass.regressor_id,
        )
        gender = amass.gender
    frames = len(pose)
    rotmat = axis_angle_to_matrix(torch.from_numpy(pose.reshape(frames, 24, 3)).double())
    turn = torch.from_numpy(TO_Z_UP)
    rotmat = torch.cat([(turn.T @ rotmat[:, 0])[:, None], rotmat[:, 1:]], 1)
    model = load_body("open") if body is None else body
    shape = torch.zeros(10, dtype=torch.float64)
    shape[: len(betas)] = torch.from_numpy(np.asarray(betas, np.float64))
    pelvis = rest_pelvis(model, shape)
    placed = (torch.from_numpy(np.asarray(transl, np.float64)) + pelvis) @ turn
    cam = to_weak_camera(placed - pelvis)
    cam[(placed - pelvis)[:, 2] <= 0] = float("nan")
    fits = Fits(
        photos=("",) * frames,
        rotmat=rotmat.numpy(),
        betas=shape.expand(frames, 10).numpy(),
        pred_cam=cam.numpy(),
        bbox_center=np.full((frames, 2), np.nan),
        bbox_scale=np.full(frames, np.nan),
        keypoints_2d_px=np.zeros((frames, 24, 3)),
        joint_set="smpl24",
        tracks=(path.stem,) * frames,
        regressor_ids=(regressor or "",) * frames,
        cam_transl=(placed - pelvis).numpy(),
        facts={"body_id": model.id},
    )
    notes: tuple[str, ...] = ()
    if gender != "neutral" and not model.id.endswith(f"-{gender}"):
        notes = (
            f"the shape coefficients are those of a {gender} body, and mean another shape of "
            f"{model.id}; give the {gender} body (--body)",
        )
    return LoadedFits(to_result(fits, body), PersonNames((), (), fits.tracks), kind, notes)
