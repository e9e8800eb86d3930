"""Mutated annotation files: people, or one sentence about the file, and never anything else.

A failure names the round; EFT_FAST_FUZZ_SEED starts from it.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eft_fast.data import read_coco, read_openpose
from eft_fast.data.photos import list_photos, natural_key
from eft_fast.data.values import to_key
from eft_fast.keypoints import JOINT_SETS
from eft_fast.sample import Sample, SampleList

Rounds = Callable[[], Iterator[random.Random]]
NAMES = JOINT_SETS["coco17"].names
ODD: list[Any] = [
    None, True, False, 0, -1, 2, 5.5, 1e308, -1e308, float("nan"), float("inf"), 1e-320, 2**64,
    10**400, -(10**400), "", "x", "x" * 5000, "1", "nan", "\0", "\ud800", "²", "1²3", "١٢", "\n",
    "<script>alert(1)</script>", "../../../etc/passwd", "/etc/passwd", "p0.png/", ".", "..", [], {},
    [[]], [None] * 51, ["1"] * 51, [True] * 51, [1e308] * 51, [10**400] * 51, [[1, 2, 3]] * 17,
    [[1, 2], [3]], {"a": 1}, [0, 0, 1e308, 1e308], [-1e300, 0, 1e-300, 1e-300], [0, 0, -5, 5],
    [1e17, 1e17, 1, 1], [0, 0, 1e7, 1e7], ["nose"] * 17, list(NAMES), [1, None, {}],
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (120, 90)).save(folder / f"p{number}.png")
    (folder / "folder.png").mkdir()
    (folder / "broken.png").symlink_to("gone.png")
    return folder


def make_coco(rng: random.Random) -> dict[str, Any]:
    def person(number: int) -> dict[str, Any]:
        points = [v for _ in NAMES for v in (rng.uniform(5, 110), rng.uniform(5, 80), 2)]
        return {
            "id": 10 + number, "image_id": number % 3, "category_id": 1, "keypoints": points,
            "num_keypoints": 17, "bbox": [5, 5, 100, 80], "area": 900.0, "iscrowd": 0,
            "track_id": number, "foot_kpts": [30, 30, 2] * 6,
        }  # fmt: skip

    return {
        "images": [
            {"id": n, "file_name": f"p{n}.png", "width": 120, "height": 90} for n in range(3)
        ],
        "annotations": [person(number) for number in range(5)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(NAMES)}],
    }


def make_openpose(rng: random.Random) -> dict[str, Any]:
    def person() -> dict[str, Any]:
        points = [v for _ in range(25) for v in (rng.uniform(5, 110), rng.uniform(5, 80), 0.7)]
        return {"person_id": [-1], "pose_keypoints_2d": points}

    return {"version": 1.3, "canvas_width": 120, "canvas_height": 90, "people": [person()] * 2}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items if isinstance(value, (dict, list)) else ():
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))
        else:
            yield (*path, key)


def mutate(document: Any, rng: random.Random) -> None:
    """Change one place: short paths are as likely as the many numbers at the ends."""
    found = list(places(document))
    if not found:
        return
    depth = rng.choice([1, 2, 2, 3, 3, 3, 4, 5])
    *parents, key = rng.choice([path for path in found if len(path) == depth] or found)
    owner = document
    for parent in parents:
        owner = owner[parent]
    kind = rng.random()
    if kind < 0.6:
        owner[key] = copy.deepcopy(rng.choice(ODD))
    elif kind < 0.7:
        del owner[key]
    elif kind < 0.8 and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    elif kind < 0.85:
        for _ in range(rng.choice([1, 3, 60])):
            owner[key] = [owner[key]]
    elif isinstance(owner[key], (int, float)):
        owner[key] = rng.choice([str(owner[key])[:50], -owner[key], 0, 1e9, 1e200])


def to_bytes(document: Any, rng: random.Random) -> bytes:
    data = bytearray(
        json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    )
    if rng.random() < 0.1:
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def check(samples: SampleList) -> None:
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.keypoints_2d_px.shape == (len(JOINT_SETS[sample.keypoint_set]), 3)
        assert np.isfinite(sample.keypoints_2d_px).all()
        assert 0 <= sample.keypoints_2d_px[:, 2].min() <= sample.keypoints_2d_px[:, 2].max() <= 1
        for sentence in (*sample.notes, *filter(None, [sample.problem])):
            assert "\n" not in sentence
            assert len(sentence) < 2000
            sentence.encode()  # No lone surrogate: a report can hold it.
        if sample.problem is None:
            assert sample.bbox_scale is not None
            assert np.isfinite(sample.bbox_xyxy).all()


@pytest.mark.parametrize("kind", ["coco", "openpose"])
def test_mutated_files(tmp_path: Path, photos: Path, rounds: Rounds, kind: str) -> None:
    file = tmp_path / ("a.json" if kind == "coco" else "p0_keypoints.json")
    read = read_coco if kind == "coco" else read_openpose
    for number, rng in enumerate(rounds()):
        document = make_coco(rng) if kind == "coco" else make_openpose(rng)
        for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
            mutate(document, rng)
        file.write_bytes(to_bytes(document, rng))
        options = rng.choice([{}, {"min_area": 100.0, "min_keypoints": 3}, {"joint_set": "op25"}])
        start = time.process_time()
        try:
            check(read(file, photos, **options))
        except Exception as error:
            is_told = isinstance(error, (ValueError, FileNotFoundError))
            if not (is_told and str(error).startswith(f"read_{kind}: ")):
                raise AssertionError(f"round {number}") from error
        assert time.process_time() - start < 5, f"round {number}"


def test_one_bad_person_leaves_the_others(tmp_path: Path, photos: Path, rounds: Rounds) -> None:
    """Mutations of one annotation, its photo and its category change nobody else."""
    file = tmp_path / "a.json"
    for number, rng in enumerate(rounds()):
        document = make_coco(rng)
        file.write_text(json.dumps(document))
        before = {sample.id: sample for sample in read_coco(file, photos)}
        bad = {"a": make_coco(rng)["annotations"][0], "i": {"id": 9, "file_name": "p0.png"}}
        bad["c"] = {"id": 7, "name": "person", "keypoints": list(NAMES)}
        bad["a"] |= {"id": "bad", "image_id": 9, "category_id": 7}
        for _ in range(rng.choice([1, 2, 4])):
            mutate(bad, rng)
        # Whoever takes the id of another photo or category does change those.
        if {to_key(part.get("id")) for part in bad.values() if isinstance(part, dict)} & set("012"):
            continue
        for key, value in zip(("annotations", "images", "categories"), "aic", strict=True):
            document[key].insert(rng.randrange(len(document[key]) + 1), bad.get(value))
        file.write_text(json.dumps(document))
        after = {sample.id: sample for sample in read_coco(file, photos)}
        for name, sample in before.items():
            assert is_same(after[name], sample), f"round {number}"


def is_same(a: Sample, b: Sample) -> bool:
    return (
        (a.image, a.problem, a.notes, a.keypoint_set)
        == (b.image, b.problem, b.notes, b.keypoint_set)
        and np.array_equal(a.keypoints_2d_px, b.keypoints_2d_px)
        and np.array_equal(a.bbox_xyxy, b.bbox_xyxy)
    )


def test_names_of_photos(tmp_path: Path, rounds: Rounds) -> None:
    letters = 'a0١²\n"<&;\ud800\udcff🕺é .'
    for number, rng in enumerate(rounds()):
        names = ["".join(rng.choices(letters, k=rng.randrange(1, 300))) for _ in range(3)]
        sorted(names, key=natural_key)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "p.png").write_bytes(b"x")
        for name in names:
            try:
                (folder / f"{name}.png").write_bytes(b"x")
            except (OSError, ValueError):
                continue  # No file can have this name.
        assert folder / "p.png" in list_photos(folder)
