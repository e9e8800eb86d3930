from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eft_fast import keypoints
from eft_fast.data import read_openpose


def body(count: int = 25, at: tuple[float, float] = (60, 50), score: float = 0.8) -> list[float]:
    return [value for i in range(count) for value in (at[0] + 3 * i, at[1] + 4 * i, score)]


def write(folder: Path, stem: str, *people: object) -> None:
    folder.mkdir(exist_ok=True)
    entries = [{"pose_keypoints_2d": p} if isinstance(p, list) else p for p in people]
    document = {"version": 1.3, "people": entries}
    (folder / f"{stem}_keypoints.json").write_text(json.dumps(document))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("walk_2.jpg", "walk_10.png", "walk_11.jpg"):
        Image.new("RGB", (320, 240)).save(folder / name)
    return folder


def test_several_people_in_file_order(tmp_path: Path, photos: Path) -> None:
    write(tmp_path / "op", "walk_10", body())
    write(tmp_path / "op", "walk_2", body(), body(18, at=(100, 40)), {"person_id": [-1]})
    write(tmp_path / "op", "walk_11")
    (tmp_path / "op" / "notes.json").write_text("not read")
    samples = read_openpose(tmp_path / "op", photos)
    assert [sample.id for sample in samples] == ["walk_2/0", "walk_2/1", "walk_2/2", "walk_10/0"]
    assert [sample.keypoint_set for sample in samples] == ["op25", "op18", "op25", "op25"]
    assert [len(s.keypoints_2d_px) for s in samples] == [25, 18, 25, 25]
    for sample in samples:
        assert len(keypoints.joint_set(sample.keypoint_set)) == len(sample.keypoints_2d_px)
    assert samples[0].image == photos / "walk_2.jpg"
    assert samples[3].image == photos / "walk_10.png"
    assert samples[0].image_size == (320, 240)
    np.testing.assert_allclose(samples[1].keypoints_2d_px[3], [109, 52, 0.8])
    np.testing.assert_allclose(samples[1].bbox_xywh, [100, 40, 51, 68])
    assert samples.problems == [
        "read_openpose: person walk_2/2 must have 75 or 54 keypoint numbers, got values that are "
        "not numbers"
    ]


def test_old_files_and_person_ids(tmp_path: Path, photos: Path) -> None:
    write(tmp_path / "op", "walk_2", {"pose_keypoints": body(18), "person_id": [3]})
    sample = read_openpose(tmp_path / "op" / "walk_2_keypoints.json", photos)[0]
    assert (sample.keypoint_set, sample.extra) == ("op18", {"person_id": 3})


def test_confidences(tmp_path: Path, photos: Path) -> None:
    """Weak keypoints go, scores above 1 are cut, and the box needs more than 0.2."""
    values = body(score=0.9)
    values[2], values[5], values[8], values[11] = 1.03, 0.1, 0.15, 0.0
    values[3:5] = [300, 200]
    write(tmp_path / "op", "walk_2", values)
    sample = read_openpose(tmp_path / "op", photos)[0]
    np.testing.assert_allclose(sample.keypoints_2d_px[:5, 2], [1, 0.1, 0.15, 0, 0.9])
    np.testing.assert_allclose(sample.bbox_xywh, [60, 50, 72, 96])
    sample = read_openpose(tmp_path / "op", photos, min_confidence=0.1)[0]
    np.testing.assert_allclose(sample.keypoints_2d_px[:5, 2], [1, 0, 0.15, 0, 0.9])

    write(tmp_path / "op", "walk_2", body(score=0.15))
    sample = read_openpose(tmp_path / "op", photos)[0]
    np.testing.assert_allclose(sample.bbox_xywh, [60, 50, 72, 96])


def test_filters_are_counted(tmp_path: Path, photos: Path) -> None:
    few = [value if i < 9 else 0.0 for i, value in enumerate(body())]
    write(tmp_path / "op", "walk_2", body(), few, [0.0] * 75)
    samples = read_openpose(tmp_path / "op", photos, min_keypoints=4)
    assert len(samples) == 1
    assert samples.left_out == {"fewer than 4 keypoints": 1, "without keypoints": 1}
    assert read_openpose(tmp_path / "op", photos, min_area=72 * 96).left_out == {
        "area of 6912 or less": 2,
        "without keypoints": 1,
    }
    assert len(read_openpose(tmp_path / "op", photos, min_area=72 * 96 - 1)) == 1


def test_faults_leave_the_others(tmp_path: Path, photos: Path) -> None:
    nan = body()
    nan[4] = float("nan")
    write(tmp_path / "op", "absent", body())
    write(tmp_path / "op", "walk_2", nan, body()[:30], "text", body())
    write(tmp_path / "op", "walk_10", body())
    (tmp_path / "op" / "walk_10_keypoints.json").write_text("{")
    (tmp_path / "op" / "walk_11_keypoints.json").write_text('{"annotations": []}')
    samples = read_openpose(tmp_path / "op", photos)
    found = {sample.id: sample for sample in samples}
    assert found["absent/0"].problem == f"read_openpose: no photo absent in {photos}"
    assert found["walk_2/0"].problem is None
    assert "not finite, left unlabelled" in found["walk_2/0"].notes[0]
    assert found["walk_2/0"].num_labelled == 24
    assert "must have 75 or 54 keypoint numbers, got 30" in str(found["walk_2/1"].problem)
    assert "must have 75 or 54 keypoint numbers" in str(found["walk_2/2"].problem)
    assert found["walk_2/3"].problem is None
    assert "walk_10_keypoints.json is not JSON" in str(found["walk_10/0"].problem)
    assert "must have a list of people" in str(found["walk_11/0"].problem)
    assert all(np.isfinite(sample.keypoints_2d_px).all() for sample in samples)


def test_two_photos_with_one_stem(tmp_path: Path, photos: Path) -> None:
    Image.new("RGB", (320, 240)).save(photos / "walk_2.png")
    write(tmp_path / "op", "walk_2", body())
    write(tmp_path / "op", "walk_10", body())
    samples = read_openpose(tmp_path / "op", photos)
    assert "2 photos are called walk_2, " in str(samples[0].problem)
    assert samples[1].problem is None


def test_list_of_files_is_a_selection(tmp_path: Path, photos: Path) -> None:
    write(tmp_path / "op", "walk_2", body())
    write(tmp_path / "op", "walk_10", body())
    samples = read_openpose(tmp_path / "op", [photos / "walk_10.png"])
    assert [sample.id for sample in samples] == ["walk_10/0"]
    assert samples.left_out == {"photo not asked for": 1}


def test_wrong_paths(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match=r"expected files \*_keypoints.json, got none in"):
        read_openpose(photos, photos)
    with pytest.raises(FileNotFoundError, match=r"read_openpose: no file or folder"):
        read_openpose(tmp_path / "gone", photos)


def test_negative_scores_count_as_unlabelled(tmp_path: Path, photos: Path) -> None:
    values: list[Any] = body()
    values[2] = -1.0
    write(tmp_path / "op", "walk_2", values)
    assert read_openpose(tmp_path / "op", photos)[0].num_labelled == 24
