"""What detectors write, each in its native form, written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eft_fast import data
from eft_fast.keypoints import joint_set
from tests.data.walker import BOX, COCO_NAMES, CORNERS, SIZE, make_photo, points_of

SCORE = 0.875


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        make_photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


def read(path: Path, photos: Path | None = None, **options: Any) -> Any:
    stream = data.stream_annotations(path, photos, **options)
    samples = stream.to_list()
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.keypoints_2d_px.shape == (len(joint_set(sample.keypoint_set)), 3)
    samples.format = stream.format
    return samples


def dump(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def scored(name: str, score: float = SCORE) -> np.ndarray:
    return points_of(name) * [1, 1, score]


def check(samples: Any, name: str, photo: str = "a.jpg", place: int = 0) -> None:
    """The walker with the score, in this set, of this photo."""
    assert samples.problems == []
    assert samples[place].keypoint_set == name
    np.testing.assert_allclose(samples[place].keypoints_2d_px, scored(name), atol=1e-6)
    assert Path(str(samples[place].image)).name == photo


# mmpose


def instance(name: str, **fields: Any) -> dict[str, Any]:
    points = points_of(name)
    return {
        "keypoints": points[:, :2].tolist(), "keypoint_scores": [SCORE] * len(points),
        "bbox": [CORNERS], "bbox_score": 0.75, **fields,
    }  # fmt: skip


def test_mmpose_file_per_photo(tmp_path: Path, photos: Path) -> None:
    dump(tmp_path / "preds" / "a.json", [instance("coco17"), instance("coco17")])
    dump(tmp_path / "preds" / "b.json", [instance("halpe26"), {"keypoints": 1}, "x"])
    (tmp_path / "preds" / "c.json").write_text("[{")
    one = read(tmp_path / "preds" / "a.json", photos)
    check(one, "coco17", place=1)
    np.testing.assert_allclose(one[0].bbox_xywh, BOX)
    assert one[0].extra["score"] == 0.75
    samples = read(tmp_path / "preds", photos)
    assert samples.format == "mmpose"
    assert [s.problem is None for s in samples] == [True, True, True, False, False]
    assert samples[2].keypoint_set == "halpe26"
    assert Path(str(samples[2].image)).name == "b.jpg"
    assert samples.left_out == {"unreadable files": 1}
    assert "c.json is not JSON" in " ".join(samples.notes)


def test_mmpose_names_decide_and_whole_bodies_are_cut(tmp_path: Path, photos: Path) -> None:
    order = list(range(17))[::-1]
    points = points_of("coco17")[order]
    entry = {**instance("coco17"), "keypoints": points[:, :2].tolist()}
    names = {str(i): COCO_NAMES[k] for i, k in enumerate(order)}
    meta = {"dataset_name": "coco", "keypoint_id2name": names}
    dump(tmp_path / "a.json", {"meta_info": meta, "instance_info": [entry]})
    check(read(tmp_path / "a.json", photos), "coco17")
    dump(tmp_path / "a.json", [instance("wholebody133")])
    samples = read(tmp_path / "a.json", photos)
    check(samples, "coco23")
    assert len(samples[0].extra["unused_keypoints_px"]) == 110
    assert "110 of 133 keypoints (face and hands)" in samples.notes[0]
    dump(tmp_path / "a.json", [instance("crowdpose14")])
    assert "name the joint set" in read(tmp_path / "a.json", photos).problems[0]
    check(read(tmp_path / "a.json", photos, joint_set="crowdpose14"), "crowdpose14")


def test_mmpose_video(tmp_path: Path) -> None:
    make_photo(tmp_path / "clip" / "000001.jpg")
    frames = [{"frame_id": f, "instances": [instance("coco17", track_id=4)]} for f in (1, 2)]
    for document in (frames, {"meta_info": {}, "instance_info": frames}):
        dump(tmp_path / "preds" / "clip.json", document)
        samples = read(tmp_path / "preds" / "clip.json")
        assert [(s.frame, s.track_id, s.image) for s in samples] == [(1, "4", None), (2, "4", None)]
        samples = read(tmp_path / "preds" / "clip.json", tmp_path)
        assert samples[0].problem is None


# AlphaPose


def test_alphapose_forms(tmp_path: Path, photos: Path) -> None:
    values = scored("op18").reshape(-1).tolist()
    cmu = {"version": "AlphaPose v0.3", "bodies": [{"joints": values}, {"joints": [1]}]}
    opened = {"version": "AlphaPose v0.3", "people": [{"pose_keypoints_2d": values}]}
    dump(tmp_path / "cmu.json", {"b.jpg": cmu, "a.jpg": cmu, "x": 3})
    samples = read(tmp_path / "cmu.json", photos)
    assert samples.format == "alphapose"
    assert [s.problem is None for s in samples] == [True, False, True, False]
    assert samples.left_out == {"not objects": 1}
    check(read(dump(tmp_path / "open.json", {"a.jpg": opened}), photos), "op18")
    dump(tmp_path / "out" / "sep-json" / "a.json", opened)
    dump(tmp_path / "out" / "sep-json" / "b.json", opened)
    for path in (tmp_path / "out", tmp_path / "out" / "sep-json"):
        check(read(path, photos), "op18", "b.jpg", place=1)


def test_alphapose_list_and_coco_results(tmp_path: Path, photos: Path) -> None:
    values = scored("halpe136").reshape(-1).tolist()
    entry = {"image_id": "a.jpg", "category_id": 1, "keypoints": values, "score": 2.9, "box": BOX,
             "idx": [3.0]}  # fmt: skip
    samples = read(dump(tmp_path / "alphapose-results.json", [entry]), photos)
    check(samples, "halpe26")
    np.testing.assert_array_equal(samples[0].bbox_xywh, BOX)
    assert samples[0].track_id == "3"
    make_photo(photos / "000000000139.jpg")
    entry = {"image_id": 139, "category_id": 1, "keypoints": scored("coco17").reshape(-1).tolist()}
    results = read(dump(tmp_path / "results.json", [{**entry, "score": 0.5}]), photos)
    check(results, "coco17", "000000000139.jpg")
    assert read(tmp_path / "results.json").format == "coco"


# YOLO


def yolo_line(points: np.ndarray, *behind: float, cls: int = 0, width: int = 3) -> str:
    """A line in fractions of the photo: a pixel's centre is half a pixel from its border."""
    w, h = SIZE
    rows = (points + [0.5, 0.5, 0]) / [w, h, 1] * (points[:, 2:] > 0)
    x, y = (CORNERS[0] + CORNERS[2]) / 2 + 0.5, (CORNERS[1] + CORNERS[3]) / 2 + 0.5
    values = [cls, x / w, y / h, BOX[2] / w, BOX[3] / h, *rows[:, :width].reshape(-1), *behind]
    return " ".join(f"{value:.8g}" for value in values)


def test_yolo_text(tmp_path: Path, photos: Path) -> None:
    points = scored("coco17")
    lines = [
        yolo_line(points), yolo_line(points, 0.9), yolo_line(points, 0.9, 7),
        yolo_line(points, cls=1), "0 0.5 0.5 0.1 0.1", "0 a b c d e f g h i j k l m n", "",
    ]  # fmt: skip
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("\n".join(lines))
    (tmp_path / "labels" / "b.txt").write_text("")
    for path in (tmp_path / "labels", tmp_path / "labels" / "a.txt"):
        samples = read(path, photos)
        assert samples.format == "yolo"
        assert samples.left_out == {"not people": 1, "without keypoints": 1}
        assert [s.problem is None for s in samples] == [True, True, True, False]
        for sample in samples[:3]:
            np.testing.assert_allclose(sample.keypoints_2d_px, points, atol=1e-4)
            np.testing.assert_allclose(sample.bbox_xywh, BOX, atol=1e-4)
        assert samples[1].extra["score"] == 0.9
        assert (samples[2].track_id, samples[2].extra["score"]) == ("7", 0.9)
    alone = read(tmp_path / "labels" / "a.txt")
    assert "fractions of a photo whose size is not known; give the photos" in alone.problems[0]


def test_yolo_of_a_dataset_with_two_numbers_a_keypoint(tmp_path: Path, photos: Path) -> None:
    points = points_of("coco17")
    points[4] = 0
    (tmp_path / "a.txt").write_text(yolo_line(points, width=2))
    samples = read(tmp_path / "a.txt", photos)
    np.testing.assert_allclose(samples[0].keypoints_2d_px[:4], points[:4], atol=1e-4)
    assert samples[0].keypoints_2d_px[4, 2] == 0


@pytest.mark.parametrize("is_normalised", [False, True])
def test_ultralytics_json(tmp_path: Path, photos: Path, is_normalised: bool) -> None:
    points, corners = scored("coco17"), np.array(CORNERS)
    if is_normalised:
        points = (points + [0.5, 0.5, 0]) / [*SIZE, 1]
        corners = (corners + 0.5) / [*SIZE, *SIZE]
    box = dict(zip(("x1", "y1", "x2", "y2"), corners.tolist(), strict=True))
    keypoints = {"x": points[:, 0].tolist(), "y": points[:, 1].tolist(),
                 "visible": points[:, 2].tolist()}  # fmt: skip
    entry = {"name": "person", "class": 0, "confidence": 0.9, "box": box, "keypoints": keypoints,
             "track_id": 2}  # fmt: skip
    dump(tmp_path / "a.json", [entry, {**entry, "name": "dog"}, {**entry, "keypoints": None}, 4])
    samples = read(tmp_path / "a.json", photos)
    assert samples.format == "ultralytics"
    check(samples, "coco17")
    np.testing.assert_allclose(samples[0].bbox_xywh, BOX)
    assert samples[0].track_id == "2"
    assert samples.left_out == {"not people": 1, "without keypoints": 1, "not objects": 1}


# MediaPipe


def landmarks() -> list[dict[str, float]]:
    rows = (scored("mp33") + [0.5, 0.5, 0]) / [*SIZE, 1]
    return [{"x": x, "y": y, "z": -0.1, "visibility": v, "presence": 1.0} for x, y, v in rows]


def test_mediapipe_forms(tmp_path: Path, photos: Path) -> None:
    world = [{"x": 0.1, "y": 0.2, "z": 0.3}] * 33
    forms: list[Any] = [
        {"pose_landmarks": [landmarks()], "pose_world_landmarks": [world]},  # the Tasks result
        {"pose_landmarks": {"landmark": landmarks()}},  # the older solutions
        {"landmarks": [landmarks()], "worldLandmarks": [world]},  # the web's
        landmarks(),
        {"a.jpg": {"pose_landmarks": [landmarks()]}},
        [{"image": "a.jpg", "pose_landmarks": [landmarks()]}],
    ]
    for form in forms:
        samples = read(dump(tmp_path / "a.json", form), photos)
        assert samples.format == "mediapipe"
        check(samples, "mp33")
    assert "world_landmarks_m" not in samples[0].extra
    first = read(dump(tmp_path / "a.json", forms[0]), photos)[0]
    assert first.extra["world_landmarks_m"] == world
    rows = np.array([[m["x"], m["y"], m["z"], m["visibility"]] for m in landmarks()])
    for name, array in (("a.npy", rows), ("b.npy", rows[None])):
        np.save(tmp_path / name, array)
        check(read(tmp_path / name, photos), "mp33", name.replace("npy", "jpg"))
    assert read(dump(tmp_path / "a.json", {"pose_landmarks": []}), photos) == []


# rtmlib and DWPose


def test_rtmlib(tmp_path: Path, photos: Path) -> None:
    points = np.stack([points_of("halpe26")] * 2)
    scores = np.full((2, 26), SCORE)
    np.savez(tmp_path / "a.npz", keypoints=points[..., :2], scores=scores)
    check(read(tmp_path / "a.npz", photos), "halpe26", place=1)
    np.save(tmp_path / "b.npy", points * [1, 1, SCORE])
    check(read(tmp_path / "b.npy", photos), "halpe26", "b.jpg")
    one = {"keypoints": points[..., :2].tolist(), "scores": scores.tolist()}
    for document in (one, {"a.jpg": one}, {**one, "keypoints": one["keypoints"][0],
                                           "scores": one["scores"][0]}):  # fmt: skip
        samples = read(dump(tmp_path / "a.json", document), photos)
        assert samples.format == "rtmlib"
        check(samples, "halpe26")
    broken = {**one, "scores": [[1.0]]}
    assert "a score for each of 26" in read(dump(tmp_path / "a.json", broken), photos).problems[0]


def test_dwpose(tmp_path: Path, photos: Path) -> None:
    points = (points_of("op18") + [0.5, 0.5, 0]) / [*SIZE, 1]
    subset = [float(i) for i in range(18)]
    subset[4] = -1.0
    bodies = {"candidate": points[:, :2].tolist(), "subset": [subset], "score": [[SCORE] * 18]}
    path = dump(tmp_path / "a.json", {"bodies": bodies, "hands": [], "faces": []})
    samples = read(path, photos)
    assert samples.format == "dwpose"
    expected = scored("op18")
    np.testing.assert_allclose(samples[0].keypoints_2d_px[:4], expected[:4], atol=1e-6)
    assert samples[0].keypoints_2d_px[4, 2] == 0
    dump(path, {"bodies": {"candidate": [[1, 2]], "subset": []}})
    with pytest.raises(ValueError, match="must have bodies with candidate"):
        read(path, photos)


def test_a_folder_without_files_is_one_sentence(tmp_path: Path) -> None:
    for name in ("mmpose", "yolo", "rtmlib", "mediapipe", "alphapose", "ultralytics", "dwpose"):
        with pytest.raises(ValueError, match=r"expected files \*.*, got none in"):
            read(tmp_path, format_name=name)
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            read(tmp_path / "gone", format_name=name)
