"""Sets of rendered people as other programs read them: pictures, COCO keypoints, parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.data import read_coco
from eft_fast.files import make_folder, save_npz, whole_file, write_text
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import joint_set
from eft_fast.sample import SampleList
from eft_fast.synth.dataset import ORIGIN, SynthJob, write_shards
from eft_fast.synth.landmarks import LANDMARKS, NUM_COCO
from eft_fast.synth.sample import SynthSample

#: Pictures of the contact sheet.
SHEET_PICTURES: Final = 48
_SHEET_COLUMNS: Final = 8
_SHEET_TILE: Final = 192  # pixels
#: Colour of a keypoint by visibility: hidden, visible.
_COLOURS: Final = {1: (255, 80, 80), 2: (80, 255, 80)}
#: Files of a set.
ANNOTATIONS: Final = "annotations.json"
PARAMETERS: Final = "parameters.npz"
_SETTINGS: Final = "dataset.json"
_FORMAT: Final = "eft-fast-synth/1"


@dataclass(frozen=True)
class WrittenSet:
    """Where the parts of a written set are.

    Attributes:
        images: Folder of the pictures.
        annotations: COCO person keypoints.
        parameters: Pose, shape, camera and 3D points of everybody, one row per annotation.
        sheet: The first pictures with their keypoints.
        people: How many people are annotated.
        pictures: How many pictures there are.
        rendered: How many pictures this call rendered; the others were there.
    """

    images: Path
    annotations: Path
    parameters: Path
    sheet: Path
    people: int
    pictures: int
    rendered: int


def write_set(job: SynthJob, *, processes: int = 1, progress: bool = True) -> WrittenSet:
    """Render a set into a folder that needs nothing of this package to be read.

    ``images/*.png`` are the pictures, ``annotations.json`` holds their keypoints as COCO does,
    ``parameters.npz`` everything else that is known, and ``contact_sheet.png`` shows the first of
    them. Pictures depend on the options and on their number only; those that are there are kept,
    so that a stopped run goes on and a larger ``count`` adds to a set.

    Args:
        job: What to render, and where to.
        processes: Worker processes.
        progress: Whether to show a bar on stderr.

    Raises:
        ValueError: If the folder holds a set with other options, or nobody is asked for.
    """
    if job.count < 1:
        raise ValueError(f"write_set: count must be at least 1, got {job.count}")
    images, parts = job.out / "images", replace(job, out=job.out / "parts")
    for folder in (images, parts.out):
        make_folder(folder)
    _check_settings(job)
    todo = [shard for shard in range(parts.num_shards) if not _is_done(parts, shard)]
    write_shards(parts, todo, _PictureWriter(images, job), processes=processes, progress=progress)
    arrays = _load_parts(parts)
    annotations = job.out / ANNOTATIONS
    write_text(annotations, json.dumps(make_coco(arrays, job)))
    parameters = job.out / PARAMETERS
    save_npz(parameters, _make_parameters(arrays, job), compressed=False)
    sheet = job.out / "contact_sheet.png"
    with whole_file(sheet) as file:
        _make_sheet(images, arrays, job).save(file, format="PNG")
    people, rendered = len(arrays["box"]), sum(len(parts.indices(shard)) for shard in todo)
    return WrittenSet(images, annotations, parameters, sheet, people, job.count, rendered)


def load_set(folder: str | Path, *, min_keypoints: int = 1) -> SampleList:
    """Read the people of a set with their true pose, shape and camera.

    The root's rotation is in the axes of the set's pinhole camera: of somebody beside the middle of
    a picture, the weak camera of a crop sees it turned by the angle of the ray.

    Args:
        folder: What ``write_set`` wrote.
        min_keypoints: Fewest labelled keypoints of a person.

    Raises:
        FileNotFoundError: If there is no such set.
        ValueError: If its parameters are not those of its annotations.
    """
    folder = Path(folder)
    parameters, annotations = folder / PARAMETERS, folder / ANNOTATIONS
    if not is_set(folder):
        raise FileNotFoundError(
            f"load_set: {folder} must hold {ANNOTATIONS} and {PARAMETERS}, as eft-fast synth "
            "writes them"
        )
    people = read_coco(annotations, folder / "images", min_keypoints=min_keypoints)
    with np.load(parameters, allow_pickle=False) as archive:
        rows = {str(number): row for row, number in enumerate(archive["annotation_id"].tolist())}
        pose = archive["pose"].reshape(-1, 24, 3)
        betas, transl, intrinsics = (archive[key] for key in ("betas", "transl", "intrinsics"))
    unknown = [sample.id for sample in people if sample.id not in rows]
    if unknown:
        raise ValueError(
            f"load_set: {parameters} must hold everybody of {annotations}, got nobody with the id "
            f"{unknown[0]}; render the set again"
        )
    samples = []
    for sample in people:
        row = rows[sample.id]
        samples.append(
            replace(
                sample,
                dataset="synth",
                full_pose=pose[row],
                betas=betas[row],
                gender="neutral",
                K=intrinsics[row].astype(np.float64),
                cam_transl=transl[row],
            )
        )
    return SampleList(samples, people.left_out, people.notes)


def is_set(folder: Path) -> bool:
    """Whether a folder holds what ``write_set`` writes."""
    return (folder / PARAMETERS).is_file() and (folder / ANNOTATIONS).is_file()


def image_name(job: SynthJob, index: int) -> str:
    """Return the file name of picture number ``index``."""
    return f"{job.split}_{index:07d}.png"


def make_coco(arrays: dict[str, np.ndarray], job: SynthJob) -> dict[str, Any]:
    """Make the COCO document of a set.

    Boxes and areas are those of a person's pixels before anything stood in front, cut at the
    border. Everybody with a pixel in the picture is annotated; of the annotations of a picture, the
    first is of the person that the crop is around.
    """
    coco = joint_set("coco17")
    side = job.config.size
    images = [
        {"id": index + 1, "file_name": image_name(job, index), "width": side, "height": side}
        for index in range(job.count)
    ]
    annotations = []
    for row in range(len(arrays["box"])):
        keypoints = arrays["keypoints_px"][row, :NUM_COCO].astype(np.float64)
        keypoints[keypoints[:, 2] == 0] = 0
        annotations.append(
            {
                "id": row + 1,
                "image_id": int(arrays["picture"][row]) + 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": np.round(arrays["box"][row].astype(np.float64), 3).tolist(),
                "area": float(arrays["area"][row]),
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "keypoints": np.round(keypoints, 3).ravel().tolist(),
            }
        )
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(LANDMARKS[:NUM_COCO]),
        "skeleton": [[a + 1, b + 1] for a, b in coco.edges],
    }
    info = {"description": "people rendered by eft_fast.synth", "seed": job.config.seed}
    return {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }


def _make_parameters(arrays: dict[str, np.ndarray], job: SynthJob) -> dict[str, np.ndarray]:
    """One row per annotation; metres, camera frame (x right, y down, z forward), pixels."""
    half = job.config.size / 2
    focal, shift = arrays["camera"][:, 0], arrays["camera"][:, 1:]
    intrinsics = np.zeros((len(focal), 3, 3), np.float32)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = half * focal
    intrinsics[:, :2, 2] = half * (shift + 1)
    intrinsics[:, 2, 2] = 1
    pose = matrix_to_axis_angle(torch.from_numpy(arrays["rotmat"])).numpy()
    count = len(focal)
    return {
        "format": np.array(_FORMAT),
        "body": np.array(job.body),
        "annotation_id": np.arange(1, count + 1),
        "image_id": arrays["picture"] + 1,
        "imgname": np.array([f"images/{image_name(job, p)}" for p in arrays["picture"].tolist()]),
        "pose": pose.reshape(count, 72),
        "rotmat": arrays["rotmat"],
        "betas": arrays["betas"],
        "transl": arrays["transl"],
        "intrinsics": intrinsics,
        "joints3d": arrays["joints"],
        "landmarks3d": arrays["landmarks"],
        "landmarks_px": arrays["keypoints_px"],
        "landmark_names": np.array(LANDMARKS),
    }


@dataclass(frozen=True)
class _PictureWriter:
    """Writes a picture and makes the rows of everybody in it.

    The rows of a part are stored after its pictures, as the sign that the part is whole.
    """

    images: Path
    job: SynthJob

    def __call__(self, index: int, people: Sequence[SynthSample]) -> list[dict[str, np.ndarray]]:
        path = self.images / image_name(self.job, index)
        with whole_file(path) as file:
            # Noise does not compress: a higher level costs time and saves hardly a byte.
            Image.fromarray(people[0].image).save(file, format="PNG", compress_level=1)
        return [
            {"picture": np.array(index), **_labels(sample)}
            for number, sample in enumerate(people)
            if number == 0 or sample.mask.any()
        ]


def _labels(sample: SynthSample) -> dict[str, np.ndarray]:
    """Everything of a sample but its pixels; landmarks in pixels with COCO's visibility."""
    size = len(sample.image)
    pixels = (sample.landmarks_2d[:, :2] + 1) * (size / 2)
    return {
        "rotmat": sample.rotmat,
        "betas": sample.betas,
        "transl": sample.transl,
        "joints": sample.joints,
        "landmarks": sample.landmarks,
        "camera": sample.camera,
        "keypoints_px": np.column_stack([pixels, sample.landmarks_2d[:, 2]]).astype(np.float32),
        "box": _box(sample.mask, pixels),
        "area": np.array(max(int(sample.mask.sum()), 1), np.float32),
    }


def _box(mask: np.ndarray, pixels: Float[np.ndarray, "K 2"]) -> Float[np.ndarray, " 4"]:
    """Return x, y, width and height of the person's pixels."""
    rows, columns = np.nonzero(mask)
    if len(rows):
        low = np.array([columns.min(), rows.min()], np.float32)
        high = np.array([columns.max(), rows.max()], np.float32) + 1
    else:  # nothing of the person is in the picture: the points that would be
        low = pixels.min(0).clip(0, len(mask) - 1)
        high = pixels.max(0).clip(low + 1, len(mask))
    return np.concatenate([low, high - low]).astype(np.float32)


def _is_done(parts: SynthJob, shard: int) -> bool:
    """Whether a part has all its rows; a last part may be shorter than a larger set needs."""
    path = parts.shard_path(shard)
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            return int(archive["picture"].max()) >= parts.indices(shard)[-1]
    except NUMPY_ERRORS:
        return False


def _load_parts(parts: SynthJob) -> dict[str, np.ndarray]:
    loaded: list[dict[str, np.ndarray]] = []
    for shard in range(parts.num_shards):
        with np.load(parts.shard_path(shard), allow_pickle=False) as archive:
            wanted = archive["picture"] < parts.count
            names = [key for key in archive.files if key != ORIGIN]
            loaded.append({key: archive[key][wanted] for key in names})
    return {key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]}


def _check_settings(job: SynthJob) -> None:
    """Refuse to mix pictures of different options in one folder."""
    path = job.out / _SETTINGS
    mine = json.loads(
        json.dumps(
            {
                "format": _FORMAT,
                "split": job.split,
                "body": job.body,
                "motion": None if job.motion is None else str(job.motion),
                "backgrounds": None if job.backgrounds is None else str(job.backgrounds),
                "part": job.shard_size,
                "config": asdict(job.config),
            }
        )
    )
    if not path.is_file():
        write_text(path, json.dumps(mine, indent=2) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in mine if found.get(key) != mine[key]]
    if different:
        raise ValueError(
            f"write_set: {job.out} holds a set with another {different[0]}; "
            "name another folder, or repeat the options of the first run"
        )


def _make_sheet(images: Path, arrays: dict[str, np.ndarray], job: SynthJob) -> Image.Image:
    """Tile the first pictures with their keypoints: green visible, red hidden."""
    count = min(job.count, SHEET_PICTURES)
    columns = min(count, _SHEET_COLUMNS)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * _SHEET_TILE, rows * _SHEET_TILE))
    for index in range(count):
        with Image.open(images / image_name(job, index)) as file:
            tile = file.convert("RGB").resize((_SHEET_TILE, _SHEET_TILE))
        for row in np.flatnonzero(arrays["picture"] == index).tolist():
            _draw_points(tile, arrays["keypoints_px"][row], _SHEET_TILE / job.config.size)
        sheet.paste(tile, (index % columns * _SHEET_TILE, index // columns * _SHEET_TILE))
    return sheet


def _draw_points(tile: Image.Image, points: Float[np.ndarray, "K 3"], zoom: float) -> None:
    draw = ImageDraw.Draw(tile)
    for x, y, flag in points.tolist():
        if int(flag) in _COLOURS:
            u, v = zoom * (x + 0.5), zoom * (y + 0.5)
            draw.ellipse((u - 2, v - 2, u + 2, v + 2), fill=_COLOURS[int(flag)])
