"""Every registered reader, each over mutated files of its own and of its neighbours.

A file gives samples or one sentence, and never anything else. A new reader is in by being
registered; give it a seed below for mutations that go deep.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eft_fast import data
from eft_fast.data.readers.registry import READERS
from eft_fast.keypoints import joint_set
from tests.fuzz.test_annotations import make_coco, make_openpose, mutate, to_bytes
from tests.fuzz.test_readers import mutate_arrays, mutate_bytes


def points(count: int) -> list[list[float]]:
    return [[20.0 + 2 * n, 15.0 + 2 * n, 0.9] for n in range(count)]


def documents() -> dict[str, Any]:
    """A small valid document of each kind of JSON."""
    rng = Random(0)
    flat = [value for point in points(17) for value in point]
    coco = make_coco(rng)
    densepose = make_coco(rng)
    for person in densepose["annotations"]:
        person |= {key: [10, 200] for key in ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")}
    instance = {
        "keypoints": [point[:2] for point in points(17)], "keypoint_scores": [0.9] * 17,
        "bbox": [[5, 5, 100, 80]], "bbox_score": 0.9,
    }  # fmt: skip
    landmarks = [{"x": 0.3, "y": 0.4, "z": 0.0, "visibility": 0.9}] * 33
    named = {
        "x": [p[0] for p in points(17)], "y": [p[1] for p in points(17)], "visible": [0.9] * 17,
    }  # fmt: skip
    aic = {"human1": [v for p in points(14) for v in (p[0], p[1], 1)]}
    ochuman = {
        "keypoints": [v for p in points(19) for v in (p[0], p[1], 2)],
        "bbox": [5, 5, 90, 80],
    }
    return {
        "coco": coco,
        "densepose-coco": densepose,
        "coco-results": [
            {"image_id": 0, "category_id": 1, "keypoints": flat, "score": 0.8, "bbox": [5, 5, 9, 9]}
        ],
        "openpose": make_openpose(rng),
        "alphapose": [{"image_id": "p0.png", "keypoints": flat, "score": 2.0, "box": [5, 5, 9, 9]}],
        "mmpose": [instance],
        "mmpose-video": {"instance_info": [{"frame_id": 1, "instances": [instance]}]},
        "ultralytics": [
            {"name": "person", "class": 0, "confidence": 0.9, "keypoints": named,
             "box": {"x1": 5, "y1": 5, "x2": 100, "y2": 80}}
        ],
        "mediapipe": {"pose_landmarks": [landmarks]},
        "dwpose": {"bodies": {"candidate": points(18), "subset": [list(range(18))]}},
        "rtmlib": {"keypoints": [[p[:2] for p in points(17)]], "scores": [[0.9] * 17]},
        "mpii-json": [
            {"image": "p0.png", "center": [50, 40], "scale": 0.4, "joints_vis": [1] * 16,
             "joints": [p[:2] for p in points(16)]}
        ],
        "aic": [
            {"image_id": "p0", "keypoint_annotations": aic,
             "human_annotations": {"human1": [5, 5, 100, 80]}}
        ],
        "ochuman": {
            "images": [
                {"file_name": "p0.png", "image_id": "0", "width": 120, "height": 90,
                 "annotations": [ochuman]}
            ]
        },
        "panoptic": {"bodies": [{"id": 0, "joints19": [0.1] * 76}], "version": 0.7},
    }  # fmt: skip


def archives() -> dict[str, dict[str, np.ndarray]]:
    count = 2
    names = np.array(["p0.png", "p1.png"])
    box = {"imgname": names, "center": np.full((count, 2), 50.0)}
    return {
        "spin-npz": {
            **box, "scale": np.full(count, 0.5), "pose": np.zeros((count, 72)),
            "shape": np.zeros((count, 10)), "part": np.ones((count, 24, 3)),
            "openpose": np.ones((count, 25, 3)),
        },
        "hmr2-npz": {
            **box, "scale": np.full((count, 2), 90.0), "body_pose": np.zeros((count, 72)),
            "betas": np.zeros((count, 10)), "body_keypoints_2d": np.ones((count, 25, 3)),
            "extra_keypoints_2d": np.ones((count, 19, 3)),
        },
        "bedlam": {
            **box, "scale": np.full(count, 0.5), "pose_cam": np.zeros((count, 165)),
            "shape": np.zeros((count, 11)), "trans_cam": np.ones((count, 3)),
            "cam_int": np.tile(np.eye(3), (count, 1, 1)), "gtkps": np.ones((count, 24, 3)),
            "cam_ext": np.tile(np.eye(4), (count, 1, 1)),
        },
        "rtmlib-npz": {"keypoints": np.ones((count, 17, 2)), "scores": np.ones((count, 17))},
    }  # fmt: skip


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full(shape, 0.5))
    return file.getvalue()


def mat() -> bytes:
    savemat = pytest.importorskip("scipy.io").savemat
    file = io.BytesIO()
    savemat(file, {"joints": np.full((3, 14, 2), 30.0), "pos_img": np.full((2, 15, 3), 30.0)})
    return file.getvalue()


def write_mutant(folder: Path, rng: Random) -> Path:
    """One mutated file of a kind that is drawn; in its folder, where readers look for more."""
    kind = rng.choice(["json", "json", "json", "npz", "npy", "mat", "txt"])
    if kind == "json":
        name, document = rng.choice(sorted(documents().items(), key=lambda item: item[0]))
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            mutate(document, rng)
        content = to_bytes(document, rng) if document else b"[]"
        file = folder / ("p0_keypoints.json" if name == "openpose" else "p0.json")
    elif kind == "npz":
        _, arrays = rng.choice(sorted(archives().items(), key=lambda item: item[0]))
        try:
            content = npz(mutate_arrays(rng, arrays))
        except UnicodeEncodeError:
            content = npz(arrays)
        content = content if rng.random() < 0.6 else mutate_bytes(rng, content)
        file = folder / "p0.npz"
    elif kind == "npy":
        content = mutate_bytes(rng, npy(rng.choice([(33, 4), (2, 17, 3), (3, 14)])))
        file = folder / rng.choice(["p0.npy", "00001_joints.npy"])
    elif kind == "mat":
        content = mutate_bytes(rng, mat())
        file = folder / rng.choice(["joints.mat", "joint_positions.mat", "annot.mat"])
    else:
        line = "0 0.5 0.5 0.4 0.4 " + " ".join("0.5 0.5 1" for _ in range(17))
        content = mutate_bytes(rng, f"{line}\n{line}\n".encode())
        file = folder / "p0.txt"
    file.write_bytes(content)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (120, 90)).save(folder / f"p{number}.png")
    return folder


@pytest.mark.parametrize("name", [*READERS, "told by its content"])
def test_mutated_files(
    tmp_path: Path, photos: Path, rounds: Callable[[], Iterator[Random]], name: str
) -> None:
    for number, rng in enumerate(rounds()):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        file = write_mutant(folder, rng)
        chosen = name if name in READERS else None
        began = time.process_time()
        try:
            path = rng.choice([file, file, folder])
            samples = data.stream_annotations(path, photos, format_name=chosen).to_list()
            for sample in samples:
                assert sample.keypoints_2d_px.shape == (len(joint_set(sample.keypoint_set)), 3)
                assert np.isfinite(sample.keypoints_2d_px).all()
                json.dumps([*sample.notes, sample.problem]).encode()
        except Exception as error:
            is_told = isinstance(error, (ValueError, FileNotFoundError)) and ": " in str(error)
            if not is_told or isinstance(error, UnicodeError):
                raise AssertionError(f"round {number} of {file.name}") from error
        assert time.process_time() - began < 5, f"round {number}"
