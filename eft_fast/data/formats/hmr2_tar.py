"""Training sets of HMR 2.0: tar files of WebDataset, a photo and the people in it under one key.

A key has ``KEY.jpg`` (or jpeg, png), ``KEY.data.pyd``, a pickled list with a dictionary per person,
and may have ``KEY.detection.npz`` with ``masks``. The dictionary holds ``keypoints_2d`` [44, 3]
in photo pixels, ``keypoints_3d`` [44, 4], ``body_pose`` [72] (axis-angle, the root first),
``betas`` [10], ``has_body_pose``, ``has_betas``, ``center`` [2], ``scale`` [2] in units of 200
pixels and ``extra_info``. The 44 points are OpenPose's 25 and the first 19 of J24: no eyes, ears
and nose of J24's own. Tar files are written and read by the standard library, and the pickles read
inertly, where WebDataset would run what they ask for.
"""

from __future__ import annotations

import io
import itertools
import pickle
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eft_fast.data.formats.fits import (
    EXTRAS,
    Fits,
    join_extras,
    to_axis_angle,
    to_rotmat,
)
from eft_fast.data.photos import natural_key
from eft_fast.files import make_folder, whole_file
from eft_fast.keypoints import to_spin49
from eft_fast.pickles.arrays import read_plain

_WHO: Final = "load_hmr2_tar"
#: Photos of one tar file.
PHOTOS_PER_TAR: Final = 1000
#: OpenPose's 25 and these many of J24.
_POINTS: Final = 44
_PHOTO_ENDINGS: Final = (".jpg", ".jpeg", ".png")
_PROTOCOL: Final = 4
_SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "keypoints_2d": (_POINTS, 3),
    "body_pose": (72,),
    "betas": (10,),
    "center": (2,),
}
#: Key in ``extra_info`` of what only this package writes.
_OURS: Final = "eft_fast"


@dataclass(frozen=True, eq=False)
class Hmr2Person:
    """One person of a photo.

    Attributes:
        keypoints_2d: Photo pixels and confidence.
        body_pose: Axis-angle of the 24 joints.
        betas: Shape coefficients.
        center: Centre of the box, photo pixels.
        scale: Width and height of the box / 200.
        keypoints_3d: Metres and confidence.
        has_body_pose: Whether the pose may be learnt from.
        has_betas: Whether the shape may.
        extra_info: More, by name; ``fitting_loss`` filters people in HMR 2.0's loader.
    """

    keypoints_2d: Float[np.ndarray, "44 3"]
    body_pose: Float[np.ndarray, " 72"]
    betas: Float[np.ndarray, " 10"]
    center: Float[np.ndarray, " 2"]
    scale: Float[np.ndarray, " 2"]
    keypoints_3d: Float[np.ndarray, "44 4"] = field(default_factory=lambda: np.zeros((44, 4)))
    has_body_pose: bool = True
    has_betas: bool = True
    extra_info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Hmr2Photo:
    """A photo and its people.

    Attributes:
        key: Name without ending; no dot in its last part, where WebDataset splits.
        image: The encoded file.
        ending: ``.jpg``, ``.jpeg`` or ``.png``.
        people: Everybody in it.
        masks: Pixels of each person, if there: [people, height, width].
    """

    key: str
    image: bytes
    ending: str
    people: tuple[Hmr2Person, ...]
    masks: np.ndarray | None = None


def save_hmr2_tars(
    path: str | Path, photos: Iterable[Hmr2Photo], *, photos_per_tar: int = PHOTOS_PER_TAR
) -> Path:
    """Write photos into ``000000.tar``, ``000001.tar`` ... of a folder, or into one ``.tar`` file.

    A file is renamed to its name when it is whole. Equal photos give equal bytes.
    """
    path = Path(path)
    single = path.suffix == ".tar"
    folder = path.parent if single else path
    make_folder(folder)
    rest = iter(photos)
    for number in itertools.count():
        part = rest if single else itertools.islice(rest, photos_per_tar)
        first = next(part, None)
        if first is None:
            break
        with (
            whole_file(path if single else folder / f"{number:06d}.tar") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for photo in itertools.chain([first], part):
                _add(archive, photo)
    return path


def _add(archive: tarfile.TarFile, photo: Hmr2Photo) -> None:
    people = [_to_dict(person) for person in photo.people]
    parts = {photo.ending: photo.image, ".data.pyd": pickle.dumps(people, _PROTOCOL)}
    if photo.masks is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, masks=photo.masks)
        parts[".detection.npz"] = buffer.getvalue()
    for ending, data in parts.items():
        info = tarfile.TarInfo(photo.key + ending)
        info.size, info.mode = len(data), 0o644
        archive.addfile(info, io.BytesIO(data))


def _to_dict(person: Hmr2Person) -> dict[str, Any]:
    return {
        "keypoints_2d": person.keypoints_2d.astype(np.float32),
        "keypoints_3d": person.keypoints_3d.astype(np.float32),
        "body_pose": person.body_pose.astype(np.float32),
        "betas": person.betas.astype(np.float32),
        "has_body_pose": np.array(float(person.has_body_pose), np.float32),
        "has_betas": np.array(float(person.has_betas), np.float32),
        "center": person.center.astype(np.float32),
        "scale": person.scale.astype(np.float32),
        "extra_info": dict(person.extra_info),
    }


def list_hmr2_tars(path: str | Path) -> list[Path]:
    """The tar files of a folder in order, or the one that is given.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path)
    files = sorted(path.glob("*.tar"), key=lambda file: natural_key(file.name))
    files = [path] if path.is_file() else files
    if not files:
        raise FileNotFoundError(f"{_WHO}: no tar file, or folder of them, {path}")
    return files


def load_hmr2_tars(path: str | Path, *, with_images: bool = True) -> Iterator[Hmr2Photo]:
    """Read photos and people, one photo after another; nothing that the file asks for is run.

    Args:
        path: A tar file, or a folder of them.
        with_images: Whether photos and masks are read; False: their bytes are empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is no tar, or people in it have no such fields.
    """
    for file in list_hmr2_tars(path):
        try:
            with tarfile.open(file, "r:*") as archive:
                yield from _photos_of(archive, file, with_images)
        except tarfile.TarError as error:
            raise ValueError(f"{_WHO}: {file} must be a tar file ({error})") from None


def _photos_of(archive: tarfile.TarFile, file: Path, with_images: bool) -> Iterator[Hmr2Photo]:
    key, parts = None, dict[str, bytes]()
    for member in archive:
        if not member.isfile():
            continue
        name, ending = split_key(member.name)
        if name != key:
            if key is not None and ".data.pyd" in parts:
                yield _to_photo(key, parts, file)
            key, parts = name, {}
        is_wanted = with_images or ending == ".data.pyd"
        source = archive.extractfile(member) if is_wanted else None
        parts[ending] = b"" if source is None else source.read()
    if key is not None and ".data.pyd" in parts:
        yield _to_photo(key, parts, file)


def split_key(name: str) -> tuple[str, str]:
    """Key and ending of a file in a tar, split at the first dot of its last part, in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return f"{folder}{slash}{stem}", (dot + ending).lower()


def _to_photo(key: str, parts: dict[str, bytes], file: Path) -> Hmr2Photo:
    where = f"{key}.data.pyd of {file}"
    people = read_plain(parts[".data.pyd"], _WHO, where)
    if not isinstance(people, list):
        people = [people]
    ending = next((ending for ending in _PHOTO_ENDINGS if ending in parts), "")
    masks = None
    if parts.get(".detection.npz"):
        try:
            with np.load(io.BytesIO(parts[".detection.npz"]), allow_pickle=False) as archive:
                masks = archive["masks"] if "masks" in archive.files else None
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"{_WHO}: {key}.detection.npz of {file} is damaged ({error})"
            ) from None
    return Hmr2Photo(
        key,
        parts.get(ending, b""),
        ending,
        tuple(_to_person(person, where) for person in people),
        masks,
    )


def _to_person(row: Any, where: str) -> Hmr2Person:
    if not isinstance(row, dict):
        raise ValueError(f"{_WHO}: {where} must list dictionaries, got {type(row).__name__}")
    got = {name: _array(row, name, shape, where) for name, shape in _SHAPES.items()}
    scale = np.asarray(row.get("scale", np.nan))
    if scale.size not in (1, 2) or scale.dtype.kind not in "fiu":
        raise ValueError(f"{_WHO}: scale of {where} must be one number or two, got {scale.shape}")
    points = np.zeros((_POINTS, 4), np.float32)
    if row.get("keypoints_3d") is not None:
        points = _array(row, "keypoints_3d", (_POINTS, 4), where)
    info = row.get("extra_info")
    return Hmr2Person(
        keypoints_2d=got["keypoints_2d"],
        body_pose=got["body_pose"],
        betas=got["betas"],
        center=got["center"],
        scale=np.broadcast_to(scale.reshape(-1), (2,)).copy(),
        keypoints_3d=points,
        has_body_pose=_flag(row, "has_body_pose"),
        has_betas=_flag(row, "has_betas"),
        extra_info=info if isinstance(info, dict) else {},
    )


def _flag(row: dict[str, Any], name: str) -> bool:
    """A flag, whatever it was written as; what is not there holds."""
    value = np.asarray(row.get(name, 1.0))
    return bool(value.size and value.reshape(-1)[0] > 0)


def _array(row: dict[str, Any], name: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        value = np.asarray(row[name])
    except (KeyError, ValueError):
        value = np.zeros(0)
    if value.dtype.kind not in "fiu" or value.size != int(np.prod(shape)):
        got = list(value.shape) if name in row else "none"
        raise ValueError(f"{_WHO}: {name} of {where} must be numbers {list(shape)}, got {got}")
    return value.reshape(shape)


def hmr2_photos_from_fits(
    fits: Fits, paths: Sequence[str | Path], left_out: dict[str, int]
) -> Iterator[Hmr2Photo]:
    """Turn fits into photos with people; a photo that cannot be read is counted and left out.

    ``fitting_loss.reprojection_loss`` is the sum over labelled points of the squared error in photo
    pixels, from ``kp_error_px`` where the fit says it: HMR 2.0's loader leaves out people above
    10**4.5.

    Args:
        fits: The people.
        paths: The photo of each person.
        left_out: Counts of people, by reason, are added here.
    """
    spin49 = to_spin49(fits.keypoints_2d_px, fits.joint_set)[:, :_POINTS]
    pose = to_axis_angle(fits.rotmat).reshape(-1, 72)
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        rows.setdefault(str(path), []).append(row)
    taken: set[str] = set()
    for path, people in rows.items():
        try:
            image = Path(path).read_bytes()
        except (OSError, ValueError):
            left_out["photo cannot be read"] = left_out.get("photo cannot be read", 0) + len(people)
            continue
        ending = ".png" if image[:4] == b"\x89PNG" else ".jpg" if image[:2] == b"\xff\xd8" else ""
        if not ending:
            reason = "photo is neither JPEG nor PNG"
            left_out[reason] = left_out.get(reason, 0) + len(people)
            continue
        key = re.sub(r"[^A-Za-z0-9_/-]", "_", PurePosixPath(Path(path).name).stem)[:80]
        key = key if key not in taken else f"{key}_{len(taken)}"
        taken.add(key)
        yield Hmr2Photo(
            key,
            image,
            ending,
            tuple(_from_fit(fits, spin49[row], pose[row], row) for row in people),
        )


def _from_fit(fits: Fits, points: np.ndarray, pose: np.ndarray, row: int) -> Hmr2Person:
    extras = fits.extras_of(row)
    info: dict[str, Any] = {
        _OURS: {
            "id": fits.ids[row],
            "photo": fits.photos[row],
            "track": fits.tracks[row],
            "regressor": fits.regressor_ids[row],
            "rotmat": fits.rotmat[row],
            "pred_cam": fits.pred_cam[row],
            **extras,
        }
    }
    if "kp_error_px" in extras:
        labelled = int((points[:, 2] > 0).sum())
        error = float(extras["kp_error_px"])
        info["fitting_loss"] = {"reprojection_loss": labelled * error * error}
    trusted = bool(fits.is_trusted[row])
    return Hmr2Person(
        keypoints_2d=points,
        body_pose=pose,
        betas=fits.betas[row],
        center=fits.bbox_center[row],
        scale=np.full(2, fits.bbox_scale[row]),
        has_body_pose=trusted,
        has_betas=trusted,
        extra_info=info,
    )


def _has(row: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> bool:
    value = row.get(name)
    return isinstance(value, np.ndarray) and value.shape == shape


def hmr2_photos_to_fits(photos: Iterable[Hmr2Photo]) -> Fits:
    """Turn photos with people into fits; the longer side of a box is the crop's."""
    people = [(photo, person) for photo in photos for person in photo.people]
    ours = [dict(person.extra_info.get(_OURS) or {}) for _, person in people]
    points = np.zeros((len(people), 49, 3), np.float32)
    rotmat = to_rotmat(np.stack([p.body_pose for _, p in people]).reshape(-1, 24, 3))
    camera = np.full((len(people), 3), np.nan)
    exact = all(_has(row, "rotmat", (24, 3, 3)) for row in ours)
    for row, (_, person) in enumerate(people):
        points[row, :_POINTS] = person.keypoints_2d
        if _has(ours[row], "pred_cam", (3,)):
            camera[row] = ours[row]["pred_cam"]
    if exact:
        rotmat = np.stack([row["rotmat"] for row in ours])
    return Fits(
        photos=tuple(
            str(row.get("photo") or photo.key + photo.ending)
            for (photo, _), row in zip(people, ours, strict=True)
        ),
        rotmat=rotmat,
        betas=np.stack([person.betas for _, person in people]),
        pred_cam=camera,
        bbox_center=np.stack([person.center for _, person in people]),
        bbox_scale=np.array([person.scale.max() for _, person in people]),
        keypoints_2d_px=points,
        joint_set="spin49",
        ids=tuple(
            str(row.get("id") or f"{photo.key}#{number}")
            for number, ((photo, _), row) in enumerate(zip(people, ours, strict=True))
        ),
        tracks=tuple(str(row.get("track", "")) for row in ours),
        is_trusted=np.array([p.has_body_pose and p.has_betas for _, p in people], bool),
        regressor_ids=tuple(str(row.get("regressor", "")) for row in ours),
        extras=join_extras([{k: v for k, v in row.items() if k in EXTRAS} for row in ours]),
    )
