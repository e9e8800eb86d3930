"""Files of many programs: what they mean is read, and one bad person costs nobody else."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eft_fast.data import list_photos, read_coco, read_openpose
from eft_fast.keypoints import JOINT_SETS
from tests.data.test_joint_names import COCO, FEET

SIZE = (400, 300)
#: A person walking, COCO's 17.
POINTS = [
    [215, 62, 2], [219, 58, 2], [211, 58, 2], [226, 61, 2], [205, 61, 2], [235, 90, 2],
    [195, 92, 2], [246, 124, 2], [186, 126, 2], [240, 155, 2], [180, 158, 2], [226, 160, 2],
    [203, 161, 2], [231, 205, 2], [196, 206, 2], [240, 248, 2], [188, 246, 2],
]  # fmt: skip
BOX = [170.0, 40.0, 90.0, 225.0]
FLAT = [value for point in POINTS for value in point]
FLIP = JOINT_SETS["coco17"].flip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE).save(tmp_path / "photos" / name)
    return tmp_path


def person(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "keypoints": FLAT, "bbox": BOX, **fields}


def coco(*people: Any, image: Any = None, **fields: Any) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    images[0] |= image or {}
    categories = [{"id": 1, "name": "person", "keypoints": COCO}]
    return {"images": images, "categories": categories, "annotations": list(people), **fields}


def read(folder: Path, document: Any, **options: Any) -> Any:
    (folder / "a.json").write_text(json.dumps(document))
    options = {"min_keypoints": 10, "min_area": 4000.0, **options}
    return read_coco(folder / "a.json", folder / "photos", **options)


def read_op(folder: Path, *people: Any, **options: Any) -> Any:
    (folder / "op").mkdir(exist_ok=True)
    extra = options.pop("extra", {})
    entries = [{"pose_keypoints_2d": p} if isinstance(p, list) else p for p in people]
    (folder / "op" / "a_keypoints.json").write_text(json.dumps({"people": entries, **extra}))
    return read_openpose(folder / "op", folder / "photos", **options)


def to_openpose(name: str, zoom: float = 1.0) -> list[float]:
    place = {j: np.array(p, float) for j, p in zip(JOINT_SETS["coco17"].names, POINTS, strict=True)}
    place["neck"] = (place["lsho"] + place["rsho"]) / 2
    place["pelvis"] = (place["lhip"] + place["rhip"]) / 2
    rows = [place.get(joint, np.zeros(3)) * [zoom, zoom, 0.4] for joint in JOINT_SETS[name].names]
    return np.concatenate(rows).tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {"image_id": "1"}, {"image_id": 1.0}, {"image_id": "1.0"}, {"image_id": "001"},
        {"image_id": "a.png"}, {"category_id": "1"}, {"category_id": 1.0}, {"category_id": None},
        {"keypoints": POINTS}, {"foot_kpts": []}, {"foot_kpts": None}, {"area": 0}, {"area": "9"},
        {"area": -1.0}, {"area": 10**400}, {"bbox": None}, {"iscrowd": False}, {"id": "²"},
    ],
)  # fmt: skip
def test_one_meaning_in_many_types(folder: Path, fields: dict[str, Any]) -> None:
    samples = read(folder, coco(person(**fields)))
    assert (len(samples), samples.left_out, samples.problems) == (1, {}, [])
    assert samples[0].image == folder / "photos" / "a.png"
    assert samples[0].notes == ()
    np.testing.assert_array_equal(samples[0].keypoints_2d_px[:, :2], np.array(POINTS)[:, :2])


@pytest.mark.parametrize("given", ["1", 1.0, "1.0"])
def test_ids_of_images_and_categories_in_other_types(folder: Path, given: Any) -> None:
    categories = [{"id": given, "name": "person"}, {"id": 2, "name": "dog"}]
    samples = read(folder, coco(person(), image={"id": given}, categories=categories))
    assert (len(samples), samples.problems) == (1, [])


@pytest.mark.parametrize("given", [0, "7", 1.5])
def test_categories_that_are_not_listed(folder: Path, given: Any) -> None:
    samples = read(folder, coco(person(category_id=given)))
    assert samples[0].notes == (
        f"read_coco: annotation 1 has the category_id {given}, which is not listed; it was taken "
        "for person",
    )
    two = [{"id": 1, "name": "man", "keypoints": COCO}, {"id": 2, "name": "woman"}]
    samples = read(folder, coco(person(category_id=given), person(id=2), categories=two))
    assert f"has the category_id {given}, which is not listed" in str(samples[0].problem)
    assert samples[1].problem is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keypoints": [10**400, *FLAT[1:]]}, None),
        ({"keypoints": [str(value) for value in FLAT]}, "values that are not numbers"),
        ({"keypoints": [True] * 51}, "values that are not numbers"),
        ({"keypoints": {"x": 1}}, "values that are not numbers"),
        ({"keypoints": [point[:2] for point in POINTS]}, "got rows of 2"),
        ({"keypoints": FLAT[:48]}, "must have 51 or 69 keypoint numbers, got 48"),
        ({"bbox": [10**400, 0, 5, 5]}, None),
        ({"image_id": True}, "unknown image_id True"),
        ({"image_id": 10**400}, "unknown image_id 1000000"),
        ({"image_id": 3}, "no photo xxxxxxxx"),
        ({"image_id": 4}, "no photo .*folder.png"),
        ({"image_id": 5}, "no file|gone"),
        ({"image_id": 6}, "no photo"),
        ({"id": "9" * 5000}, None),
        ({"id": "a\nb\ud800"}, None),
        ({"foot_kpts": [1, 2]}, None),
        ({"category_id": [1]}, None),
    ],
)
def test_one_bad_annotation_costs_nobody(
    folder: Path, fields: dict[str, Any], words: str | None
) -> None:
    (folder / "photos" / "folder.png").mkdir()
    (folder / "photos" / "link.png").symlink_to("gone.png")
    document = coco(5, person(id=50, **{"keypoints": FLAT}), person(**fields), None)
    names = ["x" * 300 + ".png", "folder.png", "link.png", "\0.png"]
    document["images"] += [{"id": 3 + n, "file_name": name} for n, name in enumerate(names)]
    samples = read(folder, document, min_area=0.0)
    good = [sample for sample in samples if sample.id == "50"]
    assert (len(good), good[0].problem, good[0].notes) == (1, None, ())
    assert samples.left_out["not objects"] == 2
    bad = next(sample for sample in samples if sample.id != "50")
    assert (bad.problem is None) == (words is None), bad.problem
    assert words is None or re.search(words, str(bad.problem))
    assert len(bad.id) < 200
    assert "\n" not in f"{bad.problem}{bad.notes}".replace("\\n", "")


@pytest.mark.parametrize("categories", [5, "person", {"id": 1}, [5, None, {"id": []}], []])
def test_categories_that_are_none(folder: Path, categories: Any) -> None:
    samples = read(folder, coco(person(), categories=categories))
    assert (len(samples), samples.problems) == (1, [])


def test_numbers_without_end_and_bytes_outside_of_utf8(folder: Path) -> None:
    """Python refuses the whole file for one such number, or byte."""
    text = json.dumps(coco(person(), person(id=2, area=77)))
    (folder / "a.json").write_text(text.replace("77", "7" * 5000))
    assert len(read_coco(folder / "a.json", folder / "photos")) == 2
    (folder / "photos" / os.fsdecode(b"\xff.png")).write_bytes(
        (folder / "photos" / "a.png").read_bytes()
    )
    data = text.encode().replace(b"b.png", b"\xff.png").replace(b'"image_id": 1', b'"image_id": 2')
    (folder / "a.json").write_bytes(data)
    samples = read_coco(folder / "a.json", folder / "photos")
    assert samples.problems == []
    assert os.fsencode(samples[0].image).endswith(b"\xff.png")


def test_many_annotations_without_ids_take_linear_time(folder: Path) -> None:
    people = [person(id=None, bbox=[170, 40, 90, 200 + n / 100]) for n in range(1500)]
    start = time.process_time()
    samples = read(folder, coco(*people, people[3]))
    assert time.process_time() - start < 5.0
    assert (len(samples), samples.left_out) == (1500, {"repeated annotations": 1})
    assert len({sample.id for sample in samples}) == 1500


@pytest.mark.parametrize(
    ("names", "places"),
    [
        ([COCO[i] for i in FLIP], FLIP),
        (COCO[::-1], range(16, -1, -1)),
        ([*COCO[5:], *COCO[:5]], [*range(5, 17), *range(5)]),
    ],
)
def test_named_keypoints_are_reordered(folder: Path, names: list[str], places: Any) -> None:
    keypoints = [value for i in places for value in POINTS[i]]
    category = {"id": 1, "name": "person", "keypoints": names}
    samples = read(folder, coco(person(keypoints=keypoints), categories=[category]))
    assert samples[0].keypoint_set == "coco17"
    np.testing.assert_array_equal(samples[0].keypoints_2d_px[:, :2], np.array(POINTS)[:, :2])
    assert samples.notes == [
        "read_coco: the keypoints of category person stand in another order than those of coco17, "
        "and were reordered by their names",
        "read_coco: visibility flags 0, 1, 2 were read as confidences 0, 1, 1",
    ]


@pytest.mark.parametrize("name", ["tail", "p0", None])
def test_names_that_are_no_joints_are_refused(folder: Path, name: Any) -> None:
    bad = {"id": 2, "name": "thing", "keypoints": [*COCO[:16], name]}
    document = coco(person(), person(id=2, category_id=2))
    document["categories"] = [{"id": 1, "name": "man", "keypoints": COCO}, bad]
    samples = read(folder, document)
    assert samples[0].problem is None
    assert f"has the category thing: the keypoints named {name} are no" in str(samples[1].problem)
    # Whoever knows better says so, and is told what the file says.
    samples = read(folder, document, joint_set="posetrack17")
    assert samples.problems == []
    assert {sample.keypoint_set for sample in samples} == {"posetrack17"}
    assert "are named as those of coco17; they were read as posetrack17" in samples.notes[0]


@pytest.mark.parametrize(("count", "expected"), [(17, "coco17"), (26, "halpe26"), (136, "halpe26")])
def test_unnamed_keypoints_are_known_by_their_number(
    folder: Path, count: int, expected: str
) -> None:
    keypoints = (FLAT + [0] * 357)[: 3 * count]
    samples = read(folder, coco(person(keypoints=keypoints), categories=[]))
    assert samples[0].keypoint_set == expected
    np.testing.assert_array_equal(samples[0].keypoints_2d_px[:17, :2], np.array(POINTS)[:, :2])


def test_named_feet(folder: Path) -> None:
    category = {"id": 1, "name": "person", "keypoints": COCO + FEET}
    feet = [[240, 255, 2]] * 6
    samples = read(folder, coco(person(keypoints=POINTS + feet), categories=[category]))
    assert samples[0].keypoint_set == "coco23"
    assert samples[0].extra["foot_keypoints_px"].tolist() == [[240, 255, 1]] * 6


@pytest.mark.parametrize("width", ["999", 999.0, 999, "800.0"])
def test_photos_of_another_size(folder: Path, width: Any) -> None:
    samples = read(folder, coco(person(), image={"width": width, "height": "600"}))
    assert f"but its annotations are for {int(float(width))} x 600" in samples.problems[0]
    samples = read(folder, coco(person(), image={"width": "400", "height": 300.0}))
    assert samples.problems == []


def test_photos_turned_by_exif(folder: Path) -> None:
    samples = read(folder, coco(person(), image={"width": 300, "height": 400}))
    assert "without the rotation that the photo's EXIF asks for" in samples.problems[0]


@pytest.mark.parametrize(
    ("zoom", "shift", "words"),
    [((400, 300), 0.0, "[0, 1]"), ((200, 150), 1.0, "[-1, 1]"), ((400, 400), 0.0, "[0, 1]")],
)
def test_normalised_keypoints_are_refused_before_any_filter(
    folder: Path, zoom: tuple[int, int], shift: float, words: str
) -> None:
    keypoints = [[x / zoom[0] - shift, y / zoom[1] - shift, v] for x, y, v in POINTS]
    samples = read(folder, coco(person(keypoints=keypoints, bbox=None)))
    assert samples.left_out == {}
    assert f"all of them within {words}, so they are normalised" in samples.problems[0]
    op = [value for x, y, _ in keypoints for value in (x, y, 0.9)]
    samples = read_op(folder, op + [0] * 24, min_area=4000.0)
    assert "so they are normalised" in samples.problems[0]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([170, 40, 260, 265], "it looks like x1, y1, x2, y2"),
        ([215, 152, 90, 225], "it looks like centre x, centre y, width, height"),
        ([5000, 5000, 100, 300], "lies beside the 400 x 300 photo; that of the keypoints was"),
    ],
)
def test_boxes_of_other_conventions(folder: Path, box: list[float], words: str) -> None:
    sample = read(folder, coco(person(bbox=box)))[0]
    assert sample.problem is None
    assert words in sample.notes[0]
    expected = [180, 58, 66, 190] if "beside" in words else box
    np.testing.assert_array_equal(sample.bbox_xywh, expected)


@pytest.mark.parametrize(("score", "note"), [(1.02, True), (93.0, True), (1.0 + 1e-6, False)])
def test_scores_above_one(folder: Path, score: float, note: bool) -> None:
    """The same rule for both readers: told, and 1."""
    scored = [[x, y, score] for x, y, _ in POINTS]
    flat = [value for point in scored for value in point] + [0.0] * 24
    for sample in (read(folder, coco(person(keypoints=scored)))[0], read_op(folder, flat)[0]):
        assert set(sample.keypoints_2d_px[:17, 2]) == {1.0}
        assert any("those above 1 count as 1" in text for text in sample.notes) == note


def test_a_list_of_results_that_names_its_photos(folder: Path) -> None:
    """AlphaPose's form, and a number for a photo, which names none."""
    entry = {"image_id": "a.png", "category_id": 1, "keypoints": FLAT, "score": 2.9, "box": BOX}
    samples = read(folder, [entry, {**entry, "image_id": "gone.png"}, 3])
    assert [sample.image for sample in samples if sample.problem is None] == [
        folder / "photos" / "a.png"
    ]
    np.testing.assert_array_equal(samples[0].bbox_xywh, BOX)
    for name in (2, "2", None):
        with pytest.raises(ValueError, match="which names no photo; add the images"):
            read(folder, [{**entry, "image_id": name}])


def test_a_list_of_results_with_numbers_finds_photos_named_by_them(folder: Path) -> None:
    """COCO's photos: 000000000139.jpg and COCO_val2014_000000000139.jpg are number 139."""
    (folder / "photos" / "a.png").rename(folder / "photos" / "COCO_val2014_000000000139.png")
    entry = {"image_id": 139, "category_id": 1, "keypoints": FLAT, "score": 0.9}
    samples = read(folder, [entry, {**entry, "image_id": 7}])
    assert [Path(str(s.image)).name for s in samples] == ["COCO_val2014_000000000139.png", "None"]
    assert samples.problems == ["read_coco: no photo, or several, with the number 7 in its name"]


@pytest.mark.parametrize("name", ["op25", "op25b"])
def test_openpose_body_25b_is_told_from_body_25(folder: Path, name: str) -> None:
    samples = read_op(folder, to_openpose(name), to_openpose(name))
    assert {sample.keypoint_set for sample in samples} == {name}
    assert bool(samples.notes) == (name == "op25b")
    asked = read_op(folder, to_openpose(name), joint_set="op25")
    assert (asked[0].keypoint_set, asked.notes) == ("op25", [])


def test_openpose_of_a_resized_copy(folder: Path) -> None:
    half = to_openpose("op25", 0.5)
    samples = read_op(folder, half, extra={"canvas_width": 200, "canvas_height": "150"})
    assert "is 400 x 300 pixels, but its annotations are for 200 x 150" in samples.problems[0]
    assert read_op(folder, half, extra={"canvas_width": None}).problems == []


def test_openpose_files_that_are_none(folder: Path) -> None:
    read_op(folder, to_openpose("op25"), [10**400, *to_openpose("op25")[1:]])
    (folder / "op" / "b_keypoints.json").mkdir()
    (folder / "op" / "c_keypoints.json").symlink_to("gone.json")
    samples = read_openpose(folder / "op", folder / "photos")
    assert [sample.problem is None for sample in samples] == [True, True, False, False]
    assert samples[1].num_labelled == samples[0].num_labelled - 1


@pytest.mark.parametrize("name", ["1²3.png", "١٢.png", "a\nb.png", "7" * 200 + ".png"])
def test_photos_with_odd_names_are_listed(folder: Path, name: str) -> None:
    Image.new("RGB", SIZE).save(folder / "photos" / name)
    photos = list_photos(folder / "photos")
    assert sorted(path.name for path in photos) == sorted(["a.png", "b.png", name])
    samples = read(folder, coco(person(), image={"file_name": name}))
    assert samples[0].image == folder / "photos" / name
