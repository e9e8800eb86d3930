from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eft_fast import keypoints
from eft_fast.data import read_coco, stream_annotations

WIDTH, HEIGHT = 320, 240
COCO_NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    *(f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
      for side in ("left", "right")),
]  # fmt: skip


def points(count: int = 17, at: tuple[float, float] = (100, 80), flag: int = 2) -> list[float]:
    """The first ``count`` of 17 keypoints labelled, on a diagonal."""
    values: list[float] = []
    for i in range(17):
        values += [at[0] + 2 * i, at[1] + 3 * i, flag] if i < count else [0, 0, 0]
    return values


def person(number: int, image: int = 1, **fields: Any) -> dict[str, Any]:
    base = {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": 9000.0,
        "bbox": [90.0, 70.0, 60.0, 80.0],
        "keypoints": points(),
    }
    return {**base, **fields}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT), "gray").save(folder / name)
    return folder


def write(folder: Path, annotations: list[Any], **fields: Any) -> Path:
    document = {
        "images": [
            {"id": 2, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
        **fields,
    }
    path = folder / "people.json"
    path.write_text(json.dumps(document))
    return path


def test_reads_a_person(tmp_path: Path, photos: Path) -> None:
    values = points(9, flag=1)
    sample = read_coco(write(tmp_path, [person(7, keypoints=values)]), photos)[0]
    assert (sample.id, sample.dataset, sample.keypoint_set) == ("7", "coco", "coco17")
    assert sample.image == photos / "a.jpg"
    assert sample.image_size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(sample.keypoints_2d_px[:, :2], np.reshape(values, (17, 3))[:, :2])
    np.testing.assert_array_equal(sample.keypoints_2d_px[:, 2], [1] * 9 + [0] * 8)
    assert sample.num_labelled == 9
    np.testing.assert_array_equal(sample.bbox_xyxy, [90, 70, 150, 150])
    np.testing.assert_array_equal(sample.bbox_xywh, [90, 70, 60, 80])
    np.testing.assert_array_equal(sample.bbox_center, [120, 110])
    assert sample.bbox_scale == pytest.approx(1.2 * 80 / 200)
    assert (sample.problem, sample.notes) == (None, ())
    assert not any((sample.has_pose, sample.has_betas, sample.has_keypoints_3d))
    assert len(keypoints.joint_set(sample.keypoint_set)) == 17


def test_order_is_photo_then_id(tmp_path: Path, photos: Path) -> None:
    path = write(tmp_path, [person(10), person(9), person(30, 2), person(4, 2), person(1, 99)])
    samples = read_coco(path, photos)
    assert [sample.id for sample in samples] == ["4", "30", "9", "10", "1"]


def test_filters_are_counted(tmp_path: Path, photos: Path) -> None:
    path = write(
        tmp_path,
        [
            person(1),
            person(2, iscrowd=1),
            person(3, keypoints=points(0)),
            person(4, keypoints=points(9)),
            person(5, area=4000),
            person(6, area=4000.5, keypoints=points(10)),
            person(7, category_id=2),
            person(8, keypoints=[]),
            {key: value for key, value in person(9).items() if key not in ("area", "bbox")},
            {**person(11, bbox=[0, 0, 0, 0]), "area": None},
            {key: value for key, value in person(10).items() if key != "area"},
        ],
    )
    samples = read_coco(path, photos, min_keypoints=10, min_area=4000)
    assert [sample.id for sample in samples] == ["1", "6", "10"]
    assert samples.left_out == {
        "crowds": 1,
        "without keypoints": 2,
        "fewer than 10 keypoints": 1,
        "area of 4000 or less": 3,
        "not people": 1,
    }
    assert len(read_coco(path, photos)) == 7
    assert len(read_coco(path, photos, min_area=32 * 48 - 1)) == 7
    assert len(read_coco(path, photos, min_area=32 * 48)) == 5


def test_annotation_of_an_absent_photo_leaves_the_others(tmp_path: Path, photos: Path) -> None:
    (photos / "b.jpg").unlink()
    samples = read_coco(write(tmp_path, [person(1), person(2, 2), person(3)]), photos)
    assert [sample.id for sample in samples] == ["2", "1", "3"]
    assert samples.problems == [f"read_coco: no photo b.jpg in {photos}"]
    assert samples[0].image == photos / "b.jpg"
    assert samples[0].num_labelled == 17
    assert samples[1].problem is None


def test_list_of_files_is_a_selection(tmp_path: Path, photos: Path) -> None:
    path = write(tmp_path, [person(1), person(2, 2), person(3)])
    samples = read_coco(path, [photos / "a.jpg"])
    assert [sample.id for sample in samples] == ["1", "3"]
    assert samples.left_out == {"photo not asked for": 1}
    assert samples.problems == []


def test_photos_in_sub_folders(tmp_path: Path, photos: Path) -> None:
    (photos / "val").mkdir()
    (photos / "a.jpg").rename(photos / "val" / "a.jpg")
    path = write(tmp_path, [person(1), person(2, 2)])
    assert read_coco(path, photos)[1].image == photos / "val" / "a.jpg"
    (photos / "b").mkdir()
    (photos / "b" / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    samples = read_coco(path, photos)
    assert samples[0].problem is None
    assert "2 photos are called a.jpg" in samples.problems[0]


def test_photo_of_another_size(tmp_path: Path, photos: Path) -> None:
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(photos / "a.jpg")
    samples = read_coco(write(tmp_path, [person(1), person(2, 2)]), photos)
    assert samples[0].problem is None
    assert "a.jpg is 160 x 120 pixels, but its annotations are for 320 x 240" in samples.problems[0]


def test_photo_that_is_no_picture(tmp_path: Path, photos: Path) -> None:
    (photos / "a.jpg").write_text("hello")
    (photos / "b.jpg").write_bytes(b"")
    samples = read_coco(write(tmp_path, [person(1), person(2, 2)]), photos)
    assert "b.jpg is empty (0 bytes)" in samples.problems[0]
    assert "a.jpg is not a picture" in samples.problems[1]


def test_keypoints_outside_of_the_photo(tmp_path: Path, photos: Path) -> None:
    values = points()
    values[0:3] = [WIDTH + 0.4, 10, 2]  # rounding of a label on the border
    values[3:6] = [-40, 10, 2]  # cut off by the frame
    values[6:9] = [10, 5 * HEIGHT, 2]  # a mistake
    values[9:12] = [1e9, 0, 0]  # not labelled, so not a fault
    samples = read_coco(write(tmp_path, [person(1, keypoints=values), person(2)]), photos)
    assert samples[0].problem is None
    assert samples[0].notes == (
        "read_coco: annotation 1 has 2 keypoints outside of the 320 x 240 photo, 1 of them so far "
        "out that they are dropped",
    )
    np.testing.assert_array_equal(samples[0].keypoints_2d_px[:3, 2], [1, 1, 0])
    np.testing.assert_array_equal(samples[0].keypoints_2d_px[1, :2], [-40, 10])
    assert samples[1].notes == ()

    values = points(at=(9000, 9000))
    lost = read_coco(write(tmp_path, [person(1, keypoints=values), person(2)]), photos)
    assert lost.problems == ["read_coco: annotation 1 has no labelled keypoint left"]


def test_nan_keypoints(tmp_path: Path, photos: Path) -> None:
    values = points()
    values[0], values[5] = float("nan"), float("inf")
    path = write(tmp_path, [person(1, keypoints=values), person(2, keypoints=[np.nan] * 51)])
    samples = read_coco(path, photos, min_keypoints=17)
    assert samples[0].notes == (
        "read_coco: annotation 1 has keypoints that are not finite, left unlabelled",
    )
    np.testing.assert_array_equal(samples[0].keypoints_2d_px[:2], np.zeros((2, 3)))
    assert samples[0].num_labelled == 15
    assert samples[0].problem is None
    assert samples[1].problem == "read_coco: annotation 2 has no labelled keypoint left"
    assert np.isfinite(samples[1].keypoints_2d_px).all()


@pytest.mark.parametrize(
    "box", [[0, 0, 0, 0], [90, 70, 0, 80], [90, 70, -4, 80], [np.nan] * 4, "wide", [1, 2], [[1]]]
)
def test_unusable_box_comes_from_the_keypoints(tmp_path: Path, photos: Path, box: object) -> None:
    samples = read_coco(write(tmp_path, [person(1, bbox=box), person(2)]), photos)
    assert samples[0].problem is None
    np.testing.assert_array_equal(samples[0].bbox_xywh, [100, 80, 32, 48])
    assert len(samples[0].notes) == 1
    start = "read_coco: annotation 1: a box must be four numbers x, y, w, h with an area, got "
    assert samples[0].notes[0].startswith(start)
    assert samples[0].notes[0].endswith("; that of the keypoints was taken")
    assert samples[1].notes == ()


def test_no_box_at_all(tmp_path: Path, photos: Path) -> None:
    one = person(1, bbox=[0, 0, 0, 0], keypoints=points(1))
    huge = person(3, bbox=[0, 0, 99999, 5])
    samples = read_coco(write(tmp_path, [one, person(2), huge]), photos)
    assert samples[1].problem is None
    assert "annotation 1 has no usable box (box_to_center_scale: " in str(samples[0].problem)
    assert "1 to 15000 pixels wide, got 119999 from" in str(samples[2].problem)
    assert (samples[0].bbox_center, samples[0].bbox_scale) == (None, None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 2, 2], "must have 51 or 69 keypoint numbers, got 3"),
        (["a"] * 51, "got values that are not numbers"),
        ([[1, 2]] * 17, "must have keypoints of three numbers x, y and confidence, got rows of 2"),
        ([[1, 2], [3]], "got rows of 1, 2"),
        (["30"] * 51, "got values that are not numbers"),
        ([True] * 51, "got values that are not numbers"),
        ({"x": 1}, "got values that are not numbers"),
    ],
)
def test_unreadable_keypoints_are_reported(
    tmp_path: Path, photos: Path, values: object, words: str
) -> None:
    path = write(tmp_path, [person(1, keypoints=values), person(2)])
    samples = read_coco(path, photos, min_keypoints=10, min_area=4000)
    assert len(samples) == 2
    assert words in str(samples[0].problem)
    assert str(samples[0].problem).startswith("read_coco: annotation 1 must have")
    assert samples[0].keypoints_2d_px.shape == (17, 3)
    assert samples[0].num_labelled == 0
    assert samples[1].problem is None


def test_ids_that_repeat(tmp_path: Path, photos: Path) -> None:
    other = person(5, bbox=[10, 10, 50, 50])
    nameless = {key: value for key, value in person(0).items() if key != "id"}
    samples = read_coco(write(tmp_path, [person(5), person(5), other, nameless]), photos)
    assert [sample.id for sample in samples] == ["5", "5#3", "without-id"]
    assert samples.left_out == {"repeated annotations": 1}


def test_image_ids_that_repeat_or_are_unknown(tmp_path: Path, photos: Path) -> None:
    images = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 1, "file_name": "b.jpg"},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 3},
    ]
    people = [person(1), person(2, 2), person(3, 3), person(4, image_id=[7]), person(5, 77)]
    samples = read_coco(write(tmp_path, people, images=images), photos)
    assert [sample.id for sample in samples] == ["1", "2", "3", "4", "5"]
    assert samples[0].problem == "read_coco: image id 1 must name one photo, got a.jpg and b.jpg"
    assert samples[1].problem is None
    assert samples[1].image_size == (WIDTH, HEIGHT)
    assert samples[2].problem == "read_coco: image 3 has no file_name"
    assert samples[3].problem == "read_coco: annotation 4 has an unknown image_id [7]"
    assert samples[4].problem == "read_coco: annotation 5 has an unknown image_id 77"


def test_photos_of_2014_and_of_2017_are_the_same(tmp_path: Path) -> None:
    """EFT's fits name COCO's photos as in 2014, and who has those of 2017 has the same photos."""
    names = ["COCO_val2014_000000000139.jpg", "000000000285.jpg"]
    for given, there in ((names, names[::-1]), (names[::-1], names)):
        folder = tmp_path / given[0]
        folder.mkdir()
        images = [{"id": 1, "file_name": given[0]}]
        number = given[0][-16:]
        other = number if given[0].startswith("COCO") else f"COCO_train2014_{number}"
        for name in (other, there[0]):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
        samples = read_coco(write(folder, [person(1)], images=images), folder)
        assert samples[0].image == folder / other


def test_scores_and_feet(tmp_path: Path, photos: Path) -> None:
    scored = [0.5 if i % 3 == 2 else value for i, value in enumerate(points())]
    feet = [130, 140, 2] * 5 + [0, 0, 0]
    samples = read_coco(
        write(
            tmp_path,
            [
                person(1, keypoints=scored),
                person(2, keypoints=points() + feet),
                person(3, foot_kpts=feet),
            ],
        ),
        photos,
    )
    assert set(samples[0].keypoints_2d_px[:, 2]) == {0.5}
    for sample in samples[1:]:
        assert sample.keypoint_set == "coco23"
        np.testing.assert_array_equal(
            sample.keypoints_2d_px[17:, :2], np.reshape(feet, (6, 3))[:, :2]
        )
        np.testing.assert_array_equal(
            sample.extra["foot_keypoints_px"], [[130, 140, 1]] * 5 + [[0, 0, 0]]
        )


def test_posetrack_is_known_by_its_names(tmp_path: Path, photos: Path) -> None:
    names = ["nose", "head_bottom", "head_top", "left_ear", "right_ear", *COCO_NAMES[5:]]
    categories = [{"id": 1, "name": "person", "keypoints": names}]
    sample = read_coco(write(tmp_path, [person(1)], categories=categories), photos)[0]
    assert sample.keypoint_set == "posetrack17"
    assert len(keypoints.joint_set(sample.keypoint_set)) == 17


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"is empty \(0 bytes\)"),
        ('{"images": [', "is not JSON .*line 1"),
        ("\x89PNG", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[]", "must hold an object with images and annotations, got a list with no image_id, "),
        (
            '[{"image_id": 2, "keypoints": []}]',
            "got a list with the image_id 2, which names no photo; add the images",
        ),
        ('[{"image_id": "a.jpg"}]', "has keypoints; use the person_keypoints"),
        ("3", "got int"),
        ("{}", "must have a list of objects images, got the keys none"),
        ('{"people": []}', "got the keys people; of an OpenPose output give the folder"),
        ('{"images": [], "annotations": {}}', "must have a list of objects annotations"),
        ('{"images": 1, "annotations": []}', "must have a list of objects images"),
        ('{"images": [], "annotations": [{"id": 1}]}', "has keypoints; use the person_keypoints"),
    ],
)
def test_malformed_files(tmp_path: Path, photos: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=words) as caught:
        read_coco(path, photos)
    start = f"no annotation of {path}" if "person_keypoints" in words else str(path)
    assert str(caught.value).startswith(f"read_coco: {start}")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"read_coco: no file .*gone.json"):
        read_coco(tmp_path / "gone.json", photos)
    with pytest.raises(FileNotFoundError, match=r"read_coco: no file or folder .*gone"):
        read_coco(write(tmp_path, [person(1)]), tmp_path / "gone")


def test_file_without_people(tmp_path: Path, photos: Path) -> None:
    samples = read_coco(write(tmp_path, []), photos)
    assert (samples, samples.left_out) == ([], {})


def test_memory_is_a_few_bytes_a_person(tmp_path: Path) -> None:
    """What annotations hold is never kept: here 5,000 bytes each. Their ids are."""
    count = 1000
    entry = person(1, segmentation=[[float(i) + 0.5 for i in range(700)]])
    people = ",".join(
        json.dumps({**entry, "id": number, "image_id": number // 3}) for number in range(count)
    )
    images = json.dumps([{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(count // 3 + 1)])
    path = tmp_path / "large.json"
    path.write_text(f'{{"images": {images}, "annotations": [{people}], "categories": []}}')
    assert path.stat().st_size > 5000 * count
    samples = stream_annotations(path, None)
    # The first ones are looked at together, and the last photos are remembered.
    for _ in range(500):
        next(samples)
    tracemalloc.start()
    try:
        for _ in range(400):
            next(samples)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after < 400 * 600
    assert peak < 1e6
