from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eft_fast import data, imaging

KEYPOINTS = [value for i in range(17) for value in (5 + i, 6 + i, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 3, "image_id": 1, "keypoints": KEYPOINTS}],
    }
    (tmp_path / "people.json").write_text(json.dumps(coco))
    (tmp_path / "people.txt").write_text(json.dumps(coco))
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "none.json").write_text('{"a": [1, 2], "b": 3}')
    (tmp_path / "void.json").write_text("")
    (tmp_path / "op").mkdir()
    people = {"people": [{"pose_keypoints_2d": [5, 6, 0.5] * 24 + [20, 20, 0.5]}]}
    (tmp_path / "op" / "a_keypoints.json").write_text(json.dumps(people))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("people.json", "coco"),
        ("op", "openpose"),
        ("op/a_keypoints.json", "openpose"),
        ("people.txt", "coco"),
        ("coco:people.txt", "coco"),
        ("openpose:op", "openpose"),
    ],
)
def test_reader_is_chosen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, dataset: str
) -> None:
    monkeypatch.chdir(folder)
    samples = data.open_annotations(name, folder)
    assert [sample.dataset for sample in samples] == [dataset]
    assert samples.problems == []
    assert data.open_annotations(name, folder, min_keypoints=26) == []
    assert data.open_annotations(name, folder, min_area=9999) == []


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("gone.json", FileNotFoundError, "open_annotations: no file or folder gone.json"),
        ("coco:gone.json", FileNotFoundError, "read_coco: no file gone.json"),
        (
            "cocoa:people.json",
            ValueError,
            r"format must be one of .*got 'cocoa'; did you mean 'coco'",
        ),
        ("note.txt", ValueError, r"no format that is known \(a file of 5 bytes\); name the format"),
        ("none.json", ValueError, "a JSON object with the keys a, b"),
        ("void.json", ValueError, "an empty file"),
        (".", ValueError, "a folder with a.jpg, none.json, note.txt, op"),
        ("openpose:.", ValueError, r"expected files \*_keypoints.json, got none in"),
    ],
)
def test_nothing_to_choose(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(kind, match=words):
        data.open_annotations(name, folder)


def test_a_matlab_file_without_its_library_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: PCWIN")
    with pytest.raises(ValueError, match=r"known \(a MATLAB file\); name the format"):
        data.detect(tmp_path / "a.mat")
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"which scipy reads: pip install scipy\)"):
        data.detect(tmp_path / "a.mat")
    with pytest.raises(ModuleNotFoundError, match="read_lsp: scipy is needed to read"):
        data.open_annotations(tmp_path / "a.mat", format_name="lsp")


def test_seventeen_people_of_the_open_coco_photos(shared_dir: Path) -> None:
    """At least 10 labelled keypoints and an area above 4000: found by an independent count."""
    root = shared_dir / "data" / "coco_people_open"
    samples = data.open_annotations(
        root / "people.json", root / "images", min_keypoints=10, min_area=4000
    )
    document = json.loads((root / "people.json").read_text())
    place = {image["id"]: i for i, image in enumerate(document["images"])}
    expected = [
        (place[entry["image_id"]], entry["id"])
        for entry in document["annotations"]
        if not entry["iscrowd"]
        and sum(flag > 0 for flag in entry["keypoints"][2::3]) >= 10
        and entry["area"] > 4000
    ]
    assert len(samples) == 17
    assert [int(sample.id) for sample in samples] == [number for _, number in sorted(expected)]
    assert len({sample.image for sample in samples}) == 13
    assert samples.problems == []
    assert all(sample.notes == () for sample in samples)
    assert sum(samples.left_out.values()) == len(document["annotations"]) - 17
    for sample in samples:
        assert isinstance(sample.image, Path)
        photo = imaging.load_image(sample.image)
        assert photo.shape[1::-1] == sample.image_size
        crop = imaging.Crop(sample.bbox_center, sample.bbox_scale)
        labelled = sample.keypoints_2d_px[sample.keypoints_2d_px[:, 2] > 0]
        # Hidden joints may be labelled outside of the box of what is seen.
        assert np.abs(crop.normalise(labelled)[:, :2]).max() <= 1.5
        assert np.abs(crop.normalise(labelled)[:, :2]).mean() <= 0.6
    assert len(data.list_photos(root)) == len(data.list_photos(root / "images")) == 13
    one = data.open_annotations(root / "people.json", [root / "images" / "000000000785.jpg"])
    assert [sample.id for sample in one] == ["442619"]


def test_coco_under_a_name_of_openpose(folder):
    """person_keypoints.json is what people call a COCO file, and OpenPose's files end like it."""
    (folder / "people.json").rename(folder / "person_keypoints.json")
    samples = data.open_annotations(folder / "person_keypoints.json", folder)
    assert [sample.dataset for sample in samples] == ["coco"]
