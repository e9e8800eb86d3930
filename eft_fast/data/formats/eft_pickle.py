"""Fits as EFT's own code leaves them while it runs: a folder with a pickle per person.

The fields are EFT's: ``pred_pose_rotmat`` (1, 24, 3, 3), ``pred_shape``, ``pred_camera`` and the
same with ``_init``, ``loss``, ``loss_keypoints_2d``, ``scale``, ``center``, ``keypoint2d``
(1, 49, 3) in photo pixels, ``keypoint2d_cropped`` in [-1, 1], ``annotId``, ``subjectId``,
``imageName``, ``sampleIdx``, ``smpltype``, ``method``. Cameras are s, tx, ty with u = s*X + t.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eft_fast.conventions import BOX_UNIT
from eft_fast.data.formats.fits import EXTRAS, Fits, annotation_number, join_extras
from eft_fast.data.photos import natural_key
from eft_fast.files import make_folder, write_bytes
from eft_fast.keypoints import to_spin49
from eft_fast.pickles.arrays import load_plain

_WHO: Final = "load_eft_pickle"
#: Protocol that every Python 3 reads.
_PROTOCOL: Final = 4
_SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "pred_pose_rotmat": (24, 3, 3),
    "pred_shape": (10,),
    "pred_camera": (3,),
    "center": (2,),
    "scale": (),
}
_OPTIONAL: Final[Mapping[str, tuple[int, ...]]] = {
    "pred_pose_rotmat_init": (24, 3, 3),
    "pred_shape_init": (10,),
    "pred_camera_init": (3,),
    "keypoint2d": (49, 3),
    "loss": (),
    "loss_init": (),
    "numOfIteration": (),
}


@dataclass(frozen=True, eq=False)
class EftPickle:
    """One person of EFT's folder; None is what a file does not say.

    Attributes:
        image_name: The photo.
        rotmat: Rotations relative to the parent.
        betas: Shape coefficients.
        pred_cam: s, tx, ty with u = s*X + t.
        center: Centre of the crop, photo pixels.
        scale: Its side / 200, photo pixels.
        init_rotmat: ``rotmat`` before any update.
        init_betas: ``betas`` before any update.
        init_pred_cam: ``pred_cam`` before any update.
        keypoints_2d_px: 49 points, photo pixels, and confidence.
        loss: At the end.
        init_loss: At the start.
        steps: Updates.
        annot_id: Annotation.
        subject_id: Who it is, over several photos.
        index: Place in the dataset.
        extras: As in the JSON: ``fits.EXTRAS``.
        regressor_id: Regressor and hash of the weights that the fit started from.
    """

    image_name: str
    rotmat: Float[np.ndarray, "24 3 3"]
    betas: Float[np.ndarray, " 10"]
    pred_cam: Float[np.ndarray, " 3"]
    center: Float[np.ndarray, " 2"]
    scale: float
    init_rotmat: Float[np.ndarray, "24 3 3"] | None = None
    init_betas: Float[np.ndarray, " 10"] | None = None
    init_pred_cam: Float[np.ndarray, " 3"] | None = None
    keypoints_2d_px: Float[np.ndarray, "49 3"] | None = None
    loss: float | None = None
    init_loss: float | None = None
    steps: int | None = None
    annot_id: int | None = None
    subject_id: str | None = None
    index: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    regressor_id: str | None = None


def save_eft_pickles(path: str | Path, people: Iterable[EftPickle]) -> Path:
    """Write a folder of pickles, named by photo and annotation as EFT names them."""
    path = Path(path)
    make_folder(path)
    taken: set[str] = set()
    for number, person in enumerate(people):
        stem = PurePosixPath(person.image_name.replace("\\", "/")).stem or "person"
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", stem)[:100]
        name = f"{stem}_{number if person.annot_id is None else person.annot_id}"
        name = name if name not in taken else f"{name}_{number}"
        taken.add(name)
        content = pickle.dumps(_to_fields(person, number), _PROTOCOL)
        write_bytes(path / f"{name}.pkl", content)
    return path


def load_eft_pickles(path: str | Path) -> list[EftPickle]:
    """Read a folder of pickles, or one; nothing that they ask for is run.

    They come in the order of ``sampleIdx``, if everybody has another one, else of the names.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no pickle in it.
        ValueError: If one of them is no fit of EFT; the sentence names the file and the field.
    """
    people = list(_iter_pickles(Path(path)))
    places = [person.index for person in people if person.index is not None]
    if len(set(places)) == len(people):
        people.sort(key=lambda person: person.index or 0)
    return people


def _iter_pickles(path: Path) -> Iterator[EftPickle]:
    files = (
        [path] if path.is_file() else sorted(path.glob("*.pkl"), key=lambda f: natural_key(f.name))
    )
    if not files:
        raise FileNotFoundError(f"{_WHO}: no file or folder of .pkl files {path}")
    for file in files:
        yield _from_fields(load_plain(file, _WHO), file)


def _to_fields(person: EftPickle, number: int) -> dict[str, Any]:
    points = person.keypoints_2d_px
    row: dict[str, Any] = {
        "pred_pose_rotmat": person.rotmat[None],
        "pred_shape": person.betas[None],
        "pred_camera": person.pred_cam[None],
        "scale": person.scale,
        "center": person.center,
        "imageName": person.image_name,
        "annotId": -1 if person.annot_id is None else person.annot_id,
        "subjectId": person.subject_id,
        "sampleIdx": number if person.index is None else person.index,
        "smpltype": "smpl",
        "method": "eft",
        "loss": person.loss,
        "loss_init": person.init_loss,
        "numOfIteration": person.steps,
    }
    inits = {
        "pred_pose_rotmat_init": person.init_rotmat,
        "pred_shape_init": person.init_betas,
        "pred_camera_init": person.init_pred_cam,
    }
    row |= {name: value[None] for name, value in inits.items() if value is not None}
    if points is not None:
        half = person.scale * BOX_UNIT / 2
        cropped = np.concatenate([(points[:, :2] - person.center) / half, points[:, 2:]], 1)
        row["keypoint2d"] = points[None]
        row["keypoint2d_cropped"] = cropped[None]
    if person.regressor_id is not None:
        row["regressor"] = person.regressor_id
    return row | {name: value for name, value in person.extras.items() if name not in row}


def _from_fields(row: Any, file: Path) -> EftPickle:
    if not isinstance(row, dict):
        raise ValueError(f"{_WHO}: {file} must hold a dictionary, got {type(row).__name__}")
    got = {name: _array(row, name, shape, file) for name, shape in _SHAPES.items()}
    more = {
        name: None if row.get(name) is None else _array(row, name, shape, file)
        for name, shape in _OPTIONAL.items()
    }
    name = row.get("imageName")
    if not isinstance(name, str):
        raise ValueError(f"{_WHO}: {file} must hold an imageName, got {type(name).__name__}")
    annotation = annotation_number(str(_item(row.get("annotId"))))
    subject, regressor = _item(row.get("subjectId")), row.get("regressor")
    steps, index = more["numOfIteration"], row.get("sampleIdx")
    return EftPickle(
        image_name=name,
        rotmat=got["pred_pose_rotmat"],
        betas=got["pred_shape"],
        pred_cam=got["pred_camera"],
        center=got["center"],
        scale=float(got["scale"]),
        init_rotmat=more["pred_pose_rotmat_init"],
        init_betas=more["pred_shape_init"],
        init_pred_cam=more["pred_camera_init"],
        keypoints_2d_px=more["keypoint2d"],
        loss=None if more["loss"] is None else float(more["loss"]),
        init_loss=None if more["loss_init"] is None else float(more["loss_init"]),
        steps=None if steps is None else int(steps),
        annot_id=None if annotation is None or annotation < 0 else annotation,
        subject_id=None if subject in (None, "") else str(subject),
        index=None if index is None else int(_item(index)),
        extras={name: _item(row[name]) for name in EXTRAS if name in row and name != "loss"},
        regressor_id=None if regressor is None else str(regressor),
    )


def _item(value: Any) -> Any:
    """A list or an array of one element as that element."""
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _array(row: dict[str, Any], name: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    """A field in its shape; a first axis of one person is taken away."""
    try:
        value = np.asarray(row[name])
        value = value if value.dtype.kind == "f" else value.astype(np.float64)
    except (KeyError, TypeError, ValueError):
        value = np.zeros(0)
    if value.shape == (1, *shape):
        value = value[0]
    if value.shape != shape:
        got = list(value.shape) if name in row else "none"
        raise ValueError(f"{_WHO}: {name} of {file} must be numbers {list(shape)}, got {got}")
    return value


def eft_pickles_from_fits(fits: Fits) -> list[EftPickle]:
    """Turn fits into the people of a folder."""
    spin49 = to_spin49(fits.keypoints_2d_px, fits.joint_set)
    return [_from_fit(fits, spin49[row], row) for row in range(len(fits))]


def _from_fit(fits: Fits, spin49: np.ndarray, row: int) -> EftPickle:
    extras = fits.extras_of(row)
    loss, init_loss, steps = (extras.pop(name, None) for name in ("loss", "init_loss", "steps"))
    init = {
        name: fits.extras[name][row]
        for name in ("init_rotmat", "init_betas", "init_pred_cam")
        if name in fits.extras
    }
    return EftPickle(
        image_name=fits.photos[row],
        rotmat=fits.rotmat[row],
        betas=fits.betas[row],
        pred_cam=fits.pred_cam[row],
        center=fits.bbox_center[row],
        scale=float(fits.bbox_scale[row]),
        **init,
        keypoints_2d_px=spin49,
        loss=None if loss is None else float(loss),
        init_loss=None if init_loss is None else float(init_loss),
        steps=None if steps is None else int(steps),
        annot_id=annotation_number(fits.ids[row]),
        subject_id=fits.tracks[row] or None,
        index=row,
        extras=extras,
        regressor_id=fits.regressor_ids[row] or None,
    )


def eft_pickles_to_fits(people: list[EftPickle]) -> Fits:
    """Turn the people of a folder into fits."""
    rows = [
        {**p.extras, "loss": p.loss, "init_loss": p.init_loss, "steps": p.steps} for p in people
    ]
    nothing = np.zeros((49, 3))
    extras = join_extras(rows)
    for name in ("init_rotmat", "init_betas", "init_pred_cam"):
        values = [getattr(person, name) for person in people]
        if people and all(value is not None for value in values):
            extras[name] = np.stack(values)
    return Fits(
        photos=tuple(person.image_name for person in people),
        rotmat=np.stack([person.rotmat for person in people]),
        betas=np.stack([person.betas for person in people]),
        pred_cam=np.stack([person.pred_cam for person in people]),
        bbox_center=np.stack([person.center for person in people]),
        bbox_scale=np.array([person.scale for person in people]),
        keypoints_2d_px=np.stack(
            [nothing if p.keypoints_2d_px is None else p.keypoints_2d_px for p in people]
        ),
        joint_set="spin49",
        ids=tuple("" if p.annot_id is None else str(p.annot_id) for p in people),
        tracks=tuple(person.subject_id or "" for person in people),
        regressor_ids=tuple(person.regressor_id or "" for person in people),
        extras=extras,
    )
