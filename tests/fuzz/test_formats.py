"""Mutated files of every reader of JSON or text, as ``test_annotations`` mutates COCO's."""

from __future__ import annotations

import copy
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eft_fast.data import READERS, open_annotations
from tests.fuzz.test_annotations import Rounds, check, is_same, mutate, photos, to_bytes

__all__ = ["photos"]

NUM: dict[str, int] = {"mpii-json": 16, "aic": 14, "ochuman": 19, "alphapose": 18, "mediapipe": 33}
KINDS = (
    "mpii-json", "aic", "ochuman", "mmpose", "alphapose", "ultralytics", "mediapipe", "rtmlib",
    "dwpose", "densepose-coco", "yolo",
)  # fmt: skip


def make_person(kind: str, rng: random.Random) -> Any:
    """A person as the format has it."""
    count = NUM.get(kind, 17)
    xy = [[rng.uniform(5, 110), rng.uniform(5, 80)] for _ in range(count)]
    flat = [value for x, y in xy for value in (x, y, 1)]
    if kind == "mpii-json":
        return {"image": "p0.png", "center": [60, 45], "scale": 0.4, "joints": xy,
                "joints_vis": [1] * count}  # fmt: skip
    if kind == "aic":
        return {"image_id": "p0", "human_annotations": {"h": [5, 5, 110, 80]},
                "keypoint_annotations": {"h": flat}}  # fmt: skip
    if kind == "ochuman":
        return {"bbox": [5, 5, 110, 80], "keypoints": flat, "max_iou": 0.5, "segms": None}
    if kind == "mmpose":
        return {"keypoints": xy, "keypoint_scores": [0.5] * count, "bbox": [[5, 5, 110, 80]],
                "bbox_score": 0.5}  # fmt: skip
    if kind == "alphapose":
        return {"joints": flat}
    if kind == "ultralytics":
        sides = dict(zip(("x1", "y1", "x2", "y2"), (5.0, 5.0, 110.0, 80.0), strict=True))
        x, y = zip(*xy, strict=True)
        keypoints = {"x": list(x), "y": list(y), "visible": [0.5] * count}
        return {"name": "person", "class": 0, "box": sides, "keypoints": keypoints}
    if kind == "mediapipe":
        return [{"x": x / 120, "y": y / 90, "z": 0.0, "visibility": 0.5} for x, y in xy]
    if kind == "densepose-coco":
        surface = {f"dp_{name}": [0.5] for name in "IUVxy"}
        entry = {"image_id": 0, "category_id": 1, "keypoints": flat, "bbox": [5, 5, 100, 80]}
        return {**entry, **surface}
    if kind == "yolo":
        points = " ".join(f"{x / 120:.5f} {y / 90:.5f} 1" for x, y in xy)
        return f"0 0.5 0.5 0.8 0.8 {points}"
    return xy


def make_document(kind: str, people: list[Any]) -> Any:
    """A document of these people."""
    if kind == "ochuman":
        image = {"image_id": "0", "file_name": "p0.png", "width": 120, "height": 90}
        return {"images": [{**image, "annotations": people}]}
    if kind == "alphapose":
        return {"p0.png": {"version": "AlphaPose v0.3", "bodies": people}}
    if kind == "mediapipe":
        return {"pose_landmarks": people}
    if kind == "rtmlib":
        return {"keypoints": people, "scores": [[0.5] * 17 for _ in people]}
    if kind == "dwpose":
        points = [[x / 120, y / 90] for person in people for x, y in [*person, person[0]]]
        subset = [list(range(18)) for _ in people]
        return {"bodies": {"candidate": points, "subset": subset}}
    if kind == "densepose-coco":
        images = [{"id": 0, "file_name": "p0.png", "width": 120, "height": 90}]
        return {"images": images, "annotations": people, "categories": []}
    return people


def write(path: Path, kind: str, document: Any, rng: random.Random | None = None) -> None:
    if kind == "yolo":
        text = "\n".join(str(line)[:9000] for line in document) if document else ""
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    else:
        path.write_bytes(json.dumps(document).encode() if rng is None else to_bytes(document, rng))


def file_of(folder: Path, kind: str) -> Path:
    return folder / ("p0.txt" if kind == "yolo" else "p0.json")


def who(kind: str) -> tuple[str, ...]:
    name = READERS[kind].function.replace("samples_of_", "read_")
    return f"{name}: ", "read_coco: "


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(tmp_path: Path, photos: Path, rounds: Rounds, kind: str) -> None:
    file = file_of(tmp_path, kind)
    for number, rng in enumerate(rounds()):
        document = make_document(kind, [make_person(kind, rng) for _ in range(3)])
        if kind == "yolo":
            document = [mutate_line(line, rng) for line in document]
        else:
            for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
                mutate(document, rng)
        write(file, kind, document, rng)
        options: Any = rng.choice([{}, {"min_area": 100.0, "min_keypoints": 3}])
        start = time.process_time()
        try:
            check(open_annotations(file, photos, format_name=kind, **options))
        except Exception as error:
            is_told = isinstance(error, (ValueError, FileNotFoundError))
            if not (is_told and str(error).startswith(who(kind))):
                raise AssertionError(f"round {number}") from error
        assert time.process_time() - start < 5, f"round {number}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("rtmlib", "dwpose")])
def test_one_bad_person_leaves_the_others(
    tmp_path: Path, photos: Path, rounds: Rounds, kind: str
) -> None:
    """In rtmlib's and DWPose's arrays people are not apart."""
    file = file_of(tmp_path, kind)
    for number, rng in enumerate(rounds()):
        people = [make_person(kind, rng) for _ in range(2)]
        write(file, kind, make_document(kind, people))
        before = open_annotations(file, photos, format_name=kind)
        bad = [make_person(kind, rng)]
        if kind == "yolo":
            bad = [mutate_line(bad[0], rng)]
        else:
            for _ in range(rng.choice([1, 2, 4])):
                mutate(bad, rng)
        write(file, kind, make_document(kind, [*people, *bad]))
        after = open_annotations(file, photos, format_name=kind)
        for one in before:
            same = [other for other in after if other.id == one.id]
            assert same, f"round {number}"
            assert is_same(same[0], one), f"round {number}"


def mutate_line(line: str, rng: random.Random) -> str:
    words = line.split()
    words[rng.randrange(len(words))] = rng.choice(
        ["x", "nan", "1e400", "-1", "", "1", "2", "٣", "0.5 0.5"]
    )
    return " ".join(words[: rng.choice([len(words), len(words), rng.randrange(len(words))])])


@pytest.mark.parametrize("seed", range(8))
def test_mutated_arrays(tmp_path: Path, photos: Path, seed: int) -> None:
    """Numbers that are none in .mat and .npz files."""
    scipy_io = pytest.importorskip("scipy.io", reason="the extra datasets is not installed")
    rng = np.random.default_rng(seed)
    joints = rng.uniform(5, 80, (3, 14, 4))
    joints[2] = rng.integers(0, 2, (14, 4))
    for _ in range(6):
        place = tuple(int(rng.integers(n)) for n in joints.shape)
        joints[place] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0])
    scipy_io.savemat(tmp_path / "joints.mat", {"joints": joints})
    check(open_annotations(tmp_path / "joints.mat"))
    keypoints = copy.deepcopy(joints).transpose(2, 1, 0)
    keypoints = np.concatenate([keypoints, keypoints[:, :3]], axis=1)
    np.savez(tmp_path / "p0.npz", keypoints=keypoints[..., :2], scores=keypoints[..., 2])
    check(open_annotations(tmp_path / "p0.npz", photos))
