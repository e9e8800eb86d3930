"""A dataset of noise with many people, and a run over it in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from eft_fast.data import stream_annotations
from eft_fast.models.open_file import save_open_regressor
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pseudo_gt.jobs.plan import RunPlace, RunRecord, cut_shards, make_run_id, write_plan
from eft_fast.pseudo_gt.jobs.setup import RunSetup
from eft_fast.pseudo_gt.jobs.work import PieceFitter, close_shard, pieces_to_do


def make_dataset(folder: Path, people: int, *, per_photo: int = 2) -> Path:
    """Photos, ``people.json`` and a tiny regressor."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(5)
    network = OpenRegressor.make_tiny()
    save_open_regressor(network, folder / "tiny.npz", licence="Apache-2.0", source_sha256="0")
    photos = -(-people // per_photo)
    for number in range(photos):
        pixels = generator.integers(0, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number:04d}.png")
    annotations = []
    for number in range(people):
        xy = generator.uniform((10, 10), (110, 80), (17, 2))
        keypoints = np.column_stack([xy, np.full(17, 2)]).round(2)
        annotations.append(
            {
                "id": number,
                "image_id": number // per_photo,
                "area": 8000,
                "bbox": [5, 5, 100, 80],
                "keypoints": keypoints.ravel().tolist(),
            }
        )
    images = [{"id": k, "file_name": f"photo{k:04d}.png"} for k in range(photos)]
    document = {"images": images, "annotations": annotations}
    (folder / "people.json").write_text(json.dumps(document))
    return folder


def make_setup(folder: Path, **options: object) -> RunSetup:
    values: dict[str, object] = {"method": "none", "regressor": str(folder / "tiny.npz")}
    return RunSetup(**(values | options))  # type: ignore[arg-type]


def plan_run(data: Path, out: Path, setup: RunSetup, *, size: int) -> RunRecord:
    """Plan a run as the command does."""
    out.mkdir(parents=True, exist_ok=True)
    samples = stream_annotations(data / "people.json", data)
    parts = setup.parts(*setup.load())
    place = RunPlace(out)
    shards = write_plan(cut_shards(samples, size), place, parts)
    record = RunRecord(
        make_run_id(parts, shards), parts, tuple(shards), "coco17", "people.json", {}
    )
    record.save(out)
    return record


def fit_here(record: RunRecord, out: Path, setup: RunSetup, *, piece_size: int) -> Iterable[str]:
    """Fit what is missing of a run without processes; say which pieces that were."""
    place = RunPlace(out)
    fitter = PieceFitter(place, setup, record.run_id)
    fitted = []
    for shard in record.shards:
        for piece in pieces_to_do(place, shard, piece_size):
            fitter.fit(piece)
            fitted.append(f"{piece.shard[:5]}.{piece.first}")
        close_shard(place, shard, piece_size)
    return fitted
