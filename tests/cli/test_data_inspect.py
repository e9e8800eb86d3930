"""``eft-fast data inspect``, and what ``fit`` makes of annotations of any format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eft_fast.cli import main
from eft_fast.cli.people import people_from_annotations
from tests.data.walker import BOX, COCO_NAMES, SIZE, flat, make_photo, points_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_photo(tmp_path / "images" / "a.jpg")
    people = [
        {"id": 1, "keypoints": flat(points_of("coco17")), "bbox": BOX},
        {"id": 2, "keypoints": flat(points_of("coco23")), "bbox": BOX},
        {"id": 3, "keypoints": [0] * 51, "bbox": BOX},
        {"id": 4, "keypoints": "x", "bbox": BOX},
        {"id": 5, "keypoints": flat(points_of("coco17")), "iscrowd": 1},
        {"id": 6, "keypoints": flat(points_of("coco17")), "image_id": 2},
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "gone.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, **person} for person in people],
        "categories": [{"id": 1, "name": "person", "keypoints": COCO_NAMES}],
    }
    (tmp_path / "people.json").write_text(json.dumps(document))
    return tmp_path


def inspect(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert main(["data", "inspect", *map(str, words), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def test_inspect_counts_people_and_reasons(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "people.json"
    summary = inspect(capsys, path)
    assert (summary["format"], summary["people"], summary["joint_set"]) == ("coco", 3, "coco17")
    assert summary["joint_sets"] == {"coco17": 2, "coco23": 1}
    left_out = {"without keypoints": 1, "crowds": 1, "unreadable keypoints": 1}
    assert summary["left_out"] == left_out
    assert "annotation 4 must have" in summary["problems"][0]
    checked = inspect(capsys, path, "--photos", folder / "images")
    assert checked["people"] == 2
    assert checked["left_out"] == {**left_out, "without a usable photo": 1}
    assert checked["photos"] == 1
    few = inspect(capsys, path, "--min-keypoints", 18, "--format", "coco")
    assert few["left_out"]["fewer than 18 keypoints"] == 2
    assert main(["data", "inspect", str(path)]) == 0
    lines = capsys.readouterr().out
    assert "people     3" in lines
    assert "left out   1 crowds" in lines


def test_inspect_says_which_joints_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (points_of("mp33") + [0.5, 0.5, 0]) / [*SIZE, 1]
    np.save(tmp_path / "a.npy", np.insert(rows, 2, 0.0, axis=1))
    make_photo(tmp_path / "photos" / "a.jpg")
    summary = inspect(capsys, tmp_path / "a.npy", "--photos", tmp_path / "photos")
    assert (summary["format"], summary["people"], summary["joint_set"]) == ("mediapipe", 1, "mp33")
    assert summary["unused_joints"][:2] == ["leyein", "leyeout"]
    assert "lbtoe" in summary["approximate_joints"]
    assert main(["data", "inspect", str(tmp_path / "a.npy"), "--photos", str(tmp_path)]) == 0
    assert "not used   leyein, leyeout" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sheet.png", "out"])
def test_contact_sheet(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    words = [folder / "people.json", "--photos", folder / "images", "--out", folder / name]
    sheet = Path(inspect(capsys, *words)["sheet"])
    assert sheet == (folder / name if name.endswith("png") else folder / name / "contact_sheet.png")
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape == (168, 6 * 168, 3)
    assert (pixels[:, :168] == 0).all(-1).any()  # the black photo
    assert len(np.unique(pixels[:, :168].reshape(-1, 3), axis=0)) > 4  # with a skeleton on it


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ('{"a": 1}', [], "is in no format that is known (a JSON object with the keys a); name the"),
        ("{}", ["--format", "cocoo"], "did you mean 'coco'?"),
        ("{}", ["--format", "coco"], "must have a list of objects images"),
    ],
)
def test_what_is_not_recognised_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str], expected: str
) -> None:
    (tmp_path / "x.json").write_text(text)
    assert main(["data", "inspect", str(tmp_path / "x.json"), *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert main(["data", "inspect", str(tmp_path / "gone")]) == 2
    assert "PATH must be a file or folder, there is none" in capsys.readouterr().err


def test_fit_takes_any_format_and_joins_sets_that_begin_alike(folder: Path) -> None:
    people = people_from_annotations(
        str(folder / "people.json"), folder / "images", min_keypoints=10, min_area=0.0
    )
    assert (people.joint_set, people.keypoints.shape) == ("coco23", (2, 23, 3))
    assert not people.keypoints[0, 17:].any()  # no feet were labelled
    assert people.keypoints[1, 17:, 2].all()
    points = points_of("coco17")
    instance = {"keypoints": points[:, :2].tolist(), "keypoint_scores": [0.5] * 17}
    (folder / "preds").mkdir()
    (folder / "preds" / "a.json").write_text(json.dumps([instance]))
    for given in ({}, {"format_name": "mmpose"}):
        people = people_from_annotations(
            str(folder / "preds"), folder / "images", min_keypoints=10, min_area=0.0, **given
        )
        assert (people.joint_set, len(people), people.problems) == ("coco17", 1, [])
    assert main(["fit", str(folder / "images"), "--format", "coco"]) == 2
