"""Each 2D dataset in its native layout, written here: all fields, and every trap of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eft_fast import data
from eft_fast.data.readers.datasets.densepose import load_surface_map
from eft_fast.keypoints import JOINT_SETS, joint_set
from tests.data.walker import BOX, COCO_NAMES, CORNERS, SIZE, flat, make_photo, points_of

savemat = pytest.importorskip("scipy.io", reason="the extra datasets is not installed").savemat
h5py = pytest.importorskip("h5py", reason="the extra datasets is not installed")


def read(path: Path, photos: Path | None = None, **options: Any) -> Any:
    """Detect, read, and check what holds for every reader."""
    stream = data.stream_annotations(path, photos, **options)
    samples = stream.to_list()
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.keypoints_2d_px.shape == (len(joint_set(sample.keypoint_set)), 3)
        if sample.problem is None:
            assert 0.0 <= sample.keypoints_2d_px[:, 2].min() <= sample.keypoints_2d_px.max()
            assert sample.bbox_scale is not None
    samples.format = stream.format
    return samples


def xy(sample: Any) -> np.ndarray:
    return sample.keypoints_2d_px[:, :2]


# MPII


def mpii_rect(points: np.ndarray, visible: Any = 1, **fields: Any) -> dict[str, Any]:
    """One annorect: joints by id, in another order, counted from 1."""
    rows = [
        {"x": x + 1, "y": y + 1, "id": i, "is_visible": visible}
        for i, (x, y, c) in reversed(list(enumerate(points.tolist())))
        if c > 0
    ]
    head = {"x1": 200.0, "y1": 41.0, "x2": 231.0, "y2": 83.0}
    place = {"scale": 1.1, "objpos": {"x": 216.0, "y": 151.0}}
    return {**head, "annopoints": {"point": rows}, **place, **fields}


def write_mpii_mat(path: Path, annolist: list[Any], img_train: list[int]) -> Path:
    release = {"annolist": annolist, "img_train": img_train, "version": "12"}
    savemat(path, {"RELEASE": release})
    return path


def test_mpii_mat(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "images" / "015601864.jpg")
    points = points_of("mpii16")
    points[[0, 9]] = 0.0  # not labelled: no point with this id
    one, other = mpii_rect(points), mpii_rect(points_of("mpii16"), visible="0")
    bare = {"x1": 1.0, "y1": 1.0, "x2": 9.0, "y2": 9.0, "scale": 1.0, "objpos": {"x": 5, "y": 5}}
    annolist = [
        {"image": {"name": photo.name}, "annorect": [one, other]},
        {"image": {"name": "gone.jpg"}, "annorect": [bare]},
        {"image": {"name": "empty.jpg"}, "annorect": []},
        {"image": {"name": photo.name}, "annorect": {**one, "scale": [], "objpos": []}},
    ]
    path = write_mpii_mat(tmp_path / "mpii_human_pose_v1_u12_1.mat", annolist, [1, 0, 0, 0])
    samples = read(path, tmp_path / "images")
    assert samples.format == "mpii-mat"
    assert [s.keypoint_set for s in samples] == ["mpii16"] * 3
    assert samples.problems == []
    assert samples.left_out == {"without keypoints": 1}
    np.testing.assert_allclose(samples[0].keypoints_2d_px, points)  # from 1 to 0, once
    np.testing.assert_allclose(samples[0].bbox_center, [215, 150])
    assert samples[0].bbox_scale == pytest.approx(1.1)  # as shipped, no second margin
    np.testing.assert_allclose(samples[0].extra["head_xyxy"], [199, 40, 230, 82])
    assert [s.extra["split"] for s in samples] == ["train", "train", "test"]
    assert not samples[0].extra["hidden"].any()
    assert samples[1].extra["hidden"].all()
    assert (samples[1].keypoints_2d_px[:, 2] == 1).all()  # hidden joints are labelled
    assert samples[2].bbox_scale == pytest.approx(1.2 * np.ptp(xy(samples[2])[1:9], 0).max() / 200,
                                                  rel=0.3)  # fmt: skip
    assert samples[0].image == photo


def test_mpii_json_of_hrnet(tmp_path: Path) -> None:
    make_photo(tmp_path / "images" / "a.jpg")
    points = points_of("mpii16")
    entry = {
        "image": "a.jpg", "center": [216.0, 151.0], "scale": 1.1,
        "joints": (points[:, :2] + 1).tolist(), "joints_vis": [1] * 16,
    }  # fmt: skip
    missing = json.loads(json.dumps(entry))
    missing["joints"][0], missing["joints_vis"][0] = [-1, -1], 0
    missing["joints"][1] = [0, 0]
    broken = {**entry, "joints": [[1, 2]] * 15}
    test = {key: entry[key] for key in ("image", "center", "scale")}
    (tmp_path / "train.json").write_text(json.dumps([entry, missing, broken, 7, test]))
    samples = read(tmp_path / "train.json", tmp_path / "images")
    assert samples.format == "mpii-json"
    assert [s.problem is None for s in samples] == [True, True, False]
    assert "must have 16 joints" in samples.problems[0]
    np.testing.assert_allclose(samples[0].keypoints_2d_px, points)
    assert samples[0].bbox_scale == pytest.approx(1.1)
    assert not samples[1].keypoints_2d_px[:2].any()
    assert (samples[1].keypoints_2d_px[2:, 2] == 1).all()
    assert samples.left_out == {"not objects": 1, "without keypoints": 1}


@pytest.mark.parametrize("names", ["text", "codes"])
def test_mpii_h5(tmp_path: Path, names: str) -> None:
    make_photo(tmp_path / "images" / "a.jpg")
    points = points_of("mpii16")
    part = np.stack([points[:, :2] + 1] * 2)
    part[1, 0] = 0
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["part"], file["scale"], file["center"] = part, [1.1, 1.1], [[216.0, 151.0]] * 2
        file["visible"] = np.array([[1] * 15 + [0]] * 2)
        file["index"], file["person"], file["normalize"] = [0, 3], [0, 1], [30.0, 31.0]
        file["torsoangle"] = [0.0, 1.0]
        codes = np.array([list(b"a.jpg") + [0] * 3] * 2, dtype=np.float64)
        file["imgname"] = codes if names == "codes" else [b"a.jpg"] * 2
    samples = read(tmp_path / "train.h5", tmp_path / "images")
    assert samples.format == "mpii-h5"
    assert samples.problems == []
    np.testing.assert_allclose(samples[0].keypoints_2d_px, points)
    assert not samples[1].keypoints_2d_px[0].any()
    assert samples[0].extra["hidden"].tolist() == [False] * 15 + [True]
    assert samples[1].extra["normalize"] == 31.0


# LSP


def test_lsp_and_lspet_have_other_axes_and_flags(tmp_path: Path) -> None:
    points = points_of("lsp14")
    hidden = np.zeros(14)
    hidden[3] = 1
    lsp = np.stack([np.column_stack([points[:, :2], hidden]).T] * 3, axis=2)  # [3, 14, N]
    extended = np.stack([np.column_stack([points[:, :2], 1 - hidden])] * 3, axis=2)  # [14, 3, N]
    extended[5, :, 1] = 0
    for name, joints, stem in (("lsp", lsp, "im{:04d}"), ("lspet", extended, "im{:05d}")):
        root = tmp_path / name
        for number in (1, 2, 3):
            suffix = ".png" if name == "lspet" else ".jpg"
            make_photo(root / "images" / (stem.format(number) + suffix))
        savemat(root / "joints.mat", {"joints": joints})
        samples = read(root, root / "images")
        assert samples.format == name
        assert len(samples) == 3
        assert samples.problems == []
        np.testing.assert_allclose(samples[0].keypoints_2d_px, points)  # hidden ones count too
        assert samples[0].extra["hidden"].tolist() == hidden.astype(bool).tolist()
        assert Path(str(samples[2].image)).stem == stem.format(3)
        assert read(root / "joints.mat")[2].image is None  # photos are not looked for
    assert samples[1].keypoints_2d_px[5].tolist() == [0, 0, 0]
    assert samples[1].num_labelled == 13
    assert samples[0].extra["split"] == "train"


def test_lsp_with_one_person(tmp_path: Path) -> None:
    savemat(tmp_path / "joints.mat", {"joints": points_of("lsp14").T[..., None]})
    assert len(read(tmp_path / "joints.mat")) == 1


# Penn Action


def write_penn(root: Path, clip: str, frames: int, boxes: int, points: np.ndarray) -> None:
    (root / "labels").mkdir(parents=True, exist_ok=True)
    for frame in range(frames):
        make_photo(root / "frames" / clip / f"{frame + 1:06d}.jpg")
    visibility = np.ones((frames, 13))
    visibility[0, 3] = 0
    fields = {
        "x": np.stack([points[:, 0]] * frames), "y": np.stack([points[:, 1]] * frames),
        "visibility": visibility, "bbox": np.array([CORNERS] * boxes), "nframes": frames,
        "dimensions": [SIZE[1], SIZE[0], frames], "action": "squat", "pose": "front", "train": 1,
    }  # fmt: skip
    savemat(root / "labels" / f"{clip}.mat", fields)


def test_penn_action(tmp_path: Path) -> None:
    points = points_of("penn13")
    write_penn(tmp_path, "0001", 3, 2, points)
    write_penn(tmp_path, "0010", 2, 2, points)
    (tmp_path / "labels" / "0011.mat").write_bytes(b"MATLAB 5.0 MAT-file and nothing")
    samples = read(tmp_path, tmp_path)
    assert samples.format == "penn-action"
    assert samples.problems == []
    assert [(s.track_id, s.frame) for s in samples] == [
        ("0001", 1), ("0001", 2), ("0001", 3), ("0010", 1), ("0010", 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(samples[0].bbox_xywh, BOX)  # from x1, y1, x2, y2
    assert samples[0].keypoints_2d_px[3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(samples[1].keypoints_2d_px, points)
    assert str(samples[4].image).endswith("frames/0010/000002.jpg")
    assert samples[0].extra["action"] == "squat"
    assert samples[0].extra["split"] == "train"
    notes = " ".join(samples.notes)
    assert "clip 0001 has 2 boxes for 3 frames" in notes
    assert samples.left_out == {"unreadable clips": 1}
    assert len(read(tmp_path / "labels" / "0010.mat", tmp_path)) == 2


def test_penn_action_as_eft_reads_it() -> None:
    """EFT's map exchanges left and right against the dataset's names."""
    ours, eft = JOINT_SETS["penn13"], JOINT_SETS["penn13_eft"]
    assert eft.to_j24 == (18, 8, 9, 7, 10, 6, 11, 2, 3, 1, 4, 0, 5)
    assert [eft.to_j24[i] for i in ours.flip] == list(ours.to_j24)


# JHMDB


def test_jhmdb(tmp_path: Path) -> None:
    points = points_of("jhmdb15")
    for clip in ("clip_2", "clip_10"):
        for frame in (1, 2):
            make_photo(tmp_path / "Rename_Images" / "walk" / clip / f"{frame:05d}.png")
        folder = tmp_path / "joint_positions" / "walk" / clip
        folder.mkdir(parents=True)
        joints = np.stack([points[:, :2].T + 1] * 2, axis=2)
        fields = {"pos_img": joints, "pos_world": joints, "scale": [[1.0, 1.0]], "viewpoint": "W"}
        savemat(folder / "joint_positions.mat", fields)
    for path in (tmp_path, tmp_path / "joint_positions"):
        samples = read(path, tmp_path)
        assert samples.format == "jhmdb"
        assert samples.problems == []
        assert [s.id for s in samples][:3] == ["clip_2/00001", "clip_2/00002", "clip_10/00001"]
        np.testing.assert_allclose(samples[0].keypoints_2d_px, points)  # from 1 to 0
        assert samples[2].track_id == "clip_10"
        assert str(samples[3].image).endswith("clip_10/00002.png")
        assert samples[0].extra == {"action": "walk", "viewpoint": "W"}


# Files of COCO's form


def coco(names: list[str] | None, *people: Any, image: Any = None, **fields: Any) -> dict[str, Any]:
    category: dict[str, Any] = {"id": 1, "name": "person"}
    if names is not None:
        category["keypoints"] = names
    images = [{"id": 1, "file_name": "a.jpg", "width": SIZE[0], "height": SIZE[1], **(image or {})}]
    people = tuple(
        {"id": i, "image_id": 1, "category_id": 1, "bbox": BOX, **p} for i, p in enumerate(people)
    )
    return {"images": images, "annotations": list(people), "categories": [category], **fields}


CROWDPOSE = [*COCO_NAMES[5:], "head", "neck"]
AIC = [f"{s}_{p}" for s in ("right", "left") for p in ("shoulder", "elbow", "wrist")]
AIC += [f"{s}_{p}" for s in ("right", "left") for p in ("hip", "knee", "ankle")]
AIC += ["head_top", "neck"]
JHMDB = ["neck", "belly", "head", "right_shoulder", "left_shoulder", "right_hip", "left_hip",
         "right_elbow", "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist",
         "right_ankle", "left_ankle"]  # fmt: skip
POSETRACK = ["nose", "head_bottom", "head_top", "left_ear", "right_ear", *COCO_NAMES[5:]]


@pytest.mark.parametrize(
    ("name", "names", "expected", "image", "shift"),
    [
        ("crowdpose", CROWDPOSE, "crowdpose14", {"crowdIndex": 0.6}, 0),
        ("crowdpose", None, "crowdpose14", {"crowdIndex": 0.6}, 0),
        ("aic", AIC, "aic14", {}, 0),
        ("jhmdb", JHMDB, "jhmdb15", {}, 1),  # counts from 1, as mmpose's file does
        ("posetrack18", POSETRACK, "posetrack17", {"vid_id": "000001", "is_labeled": True}, 0),
        ("coco", COCO_NAMES, "coco17", {}, 0),
    ],
)
def test_datasets_in_the_form_of_coco(
    tmp_path: Path, name: str, names: list[str] | None, expected: str, image: Any, shift: int
) -> None:
    make_photo(tmp_path / "a.jpg")
    points = points_of(expected)
    moved = points + [shift, shift, 0]
    box = [BOX[0] + shift, BOX[1] + shift, *BOX[2:]]
    people = [{"keypoints": flat(moved, flag), "bbox": box} for flag in (2, 1)]
    document = coco(names, *people, image=image)
    (tmp_path / "ann.json").write_text(json.dumps(document))
    samples = read(tmp_path / "ann.json", tmp_path)
    assert (samples.format, samples.problems) == (name, [])
    assert [s.keypoint_set for s in samples] == [expected] * 2
    for sample in samples:
        np.testing.assert_allclose(sample.keypoints_2d_px, points)
        np.testing.assert_array_equal(sample.bbox_xywh, BOX)


def test_coco_whole_body_halpe_and_human_art(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.jpg")
    whole, halpe = points_of("wholebody133"), points_of("halpe136")
    parts = {"foot_kpts": whole[17:23], "face_kpts": whole[23:91], "lefthand_kpts": whole[91:112]}
    v1 = {"keypoints": flat(whole[:17]), **{key: flat(value) for key, value in parts.items()}}
    cases: list[tuple[str, Any, Any, str, int]] = [
        ("coco-wholebody", None, {"keypoints": flat(whole)}, "coco23", 110),
        ("coco-wholebody", COCO_NAMES, v1, "coco23", 0),
        ("halpe", None, {"keypoints": flat(halpe)}, "halpe26", 110),
        ("halpe", None, {"keypoints": flat(halpe[:26])}, "halpe26", 0),
        ("coco-foot", None, {"keypoints": flat(whole[:23])}, "coco23", 0),
        ("humanart", COCO_NAMES, {"keypoints": flat(whole[:17]), "keypoints_21": []}, "coco17", 0),
    ]
    for name, names, entry, expected, unused in cases:
        (tmp_path / "ann.json").write_text(json.dumps(coco(names, entry)))
        samples = read(tmp_path / "ann.json", tmp_path)
        assert (samples.format, samples.problems) == (name, [])
        assert samples[0].keypoint_set == expected
        np.testing.assert_allclose(samples[0].keypoints_2d_px, points_of(expected))
        assert len(samples[0].extra.get("unused_keypoints_px", [])) == unused
        told = [note for note in samples.notes if "have no place on the body" in note]
        assert len(told) == (unused > 0)


def test_posetrack_folder_keeps_videos_apart(tmp_path: Path) -> None:
    points = points_of("posetrack17")
    points[[3, 4]] = 0  # ears are never labelled
    for video in ("000001_mpii_test", "000010_mpii_test"):
        make_photo(tmp_path / "images" / "val" / video / "000000.jpg")
        image = {
            "id": 10000010000, "file_name": f"images/val/{video}/000000.jpg", "is_labeled": True,
            "vid_id": video[:6], "frame_id": 10000010000, "nframes": 99, "width": None,
            "ignore_regions_x": [], "ignore_regions_y": [],
        }  # fmt: skip
        entry = {
            "image_id": 10000010000, "track_id": 0, "keypoints": flat(points, 1),
            "id": 1000001000000, "scores": [], "bbox_head": [200, 40, 30, 40],
        }  # fmt: skip
        no_box = {key: value for key, value in entry.items() if key != "bbox"}
        document = coco(
            POSETRACK, entry, {**no_box, "bbox": None, "track_id": 1, "id": 1000001000001},
            {"image_id": 10000010000, "track_id": 2, "id": 3}, image=image,
        )  # fmt: skip
        (tmp_path / "annotations" / "val").mkdir(parents=True, exist_ok=True)
        (tmp_path / "annotations" / "val" / f"{video}.json").write_text(json.dumps(document))
    for path in (tmp_path / "annotations", tmp_path / "annotations" / "val", tmp_path):
        samples = read(path, tmp_path)
        assert samples.format == "posetrack18"
        assert samples.problems == []
        assert [s.track_id for s in samples] == ["000001-0", "000001-1", "000010-0", "000010-1"]
        assert len({s.subject_id for s in samples}) == 4
        assert {s.frame for s in samples} == {0}
        assert samples.left_out == {"without keypoints": 2}
        np.testing.assert_allclose(samples[0].keypoints_2d_px, points)
        assert "000010_mpii_test" in str(samples[2].image)
        assert samples[1].bbox_scale is not None


# Native files of AI Challenger and OCHuman


def test_aic_native(tmp_path: Path) -> None:
    make_photo(tmp_path / "a0f6bdc0.jpg")
    points = points_of("aic14")
    values = flat(points, 1)
    values[2], values[3:6] = 2, [0, 0, 3]  # hidden; not labelled
    people = {"human2": flat(points, 1), "human1": values, "human10": [1, 2]}
    boxes = {"human1": [int(v) for v in CORNERS], "human2": [int(v) for v in CORNERS]}
    entry = {"image_id": "a0f6bdc0", "human_annotations": boxes, "keypoint_annotations": people}
    (tmp_path / "ann.json").write_text(json.dumps([{**entry, "url": "-"}, 3]))
    samples = read(tmp_path / "ann.json", tmp_path)
    assert samples.format == "aic"
    assert [s.id for s in samples] == ["a0f6bdc0/human1", "a0f6bdc0/human2", "a0f6bdc0/human10"]
    assert "must have 42 keypoint numbers, got 2" in samples.problems[0]
    assert samples[0].keypoints_2d_px[:3, 2].tolist() == [1, 0, 1]
    assert samples[0].extra["hidden"][:2].tolist() == [True, False]
    np.testing.assert_array_equal(samples[0].bbox_xywh, BOX)
    np.testing.assert_allclose(samples[1].keypoints_2d_px, points)
    assert samples.left_out == {"not objects": 1}


def test_ochuman_native(tmp_path: Path) -> None:
    make_photo(tmp_path / "000001.jpg")
    points = points_of("ochuman19")
    names = [*AIC[:12], "head", "neck", "right_ear", "left_ear", "nose", "right_eye", "left_eye"]
    values = flat(points, 1)
    values[2], values[5], values[6:9] = 2, 3, [0, 0, 0]
    people = [
        {"bbox": CORNERS, "keypoints": values, "segms": None, "max_iou": 0.6},
        {"bbox": CORNERS, "keypoints": None, "segms": None, "max_iou": 0.2},
    ]
    image = {"image_id": "000001", "file_name": "000001.jpg", "width": 400, "height": 300}
    document = {
        "images": [{**image, "annotations": people}, {**image, "image_id": "2", "annotations": 1}],
        "keypoint_names": names,
        "keypoint_visible": {"missing": 0, "vis": 1, "self_occluded": 2, "others_occluded": 3},
    }
    (tmp_path / "ochuman.json").write_text(json.dumps(document))
    samples = read(tmp_path / "ochuman.json", tmp_path)
    assert (samples.format, samples.problems) == ("ochuman", [])
    assert samples.left_out == {"without keypoints": 1, "not objects": 1}
    expected = points.copy()
    expected[2] = 0
    np.testing.assert_allclose(samples[0].keypoints_2d_px, expected)
    np.testing.assert_array_equal(samples[0].bbox_xywh, BOX)
    assert samples[0].extra["hidden"][:3].tolist() == [True, True, False]
    # The names decide, not the usual order.
    turned = {**document, "keypoint_names": names[::-1]}
    turned["images"][0]["annotations"][0]["keypoints"] = [
        value for i in range(19)[::-1] for value in values[3 * i : 3 * i + 3]
    ]
    (tmp_path / "ochuman.json").write_text(json.dumps(turned))
    np.testing.assert_allclose(
        read(tmp_path / "ochuman.json", tmp_path)[0].keypoints_2d_px, expected
    )


# DensePose


def test_densepose_points_and_the_user_s_map(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.jpg")
    entry = {
        "keypoints": flat(points_of("coco17")), "dp_x": [0.0, 255, 51], "dp_y": [0.0, 255, 51],
        "dp_I": [1.0, 2.0, 9.0], "dp_U": [0.25, 0.5, 0.1], "dp_V": [0.25, 0.5, 0.1], "dp_masks": [],
    }  # fmt: skip
    bad = {**entry, "dp_U": [0.5]}
    document = coco(COCO_NAMES, entry, {"keypoints": entry["keypoints"]}, bad)
    (tmp_path / "dp.json").write_text(json.dumps(document))
    samples = read(tmp_path / "dp.json", tmp_path)
    assert (samples.format, samples.problems) == ("densepose-coco", [])
    points = samples[0].extra["densepose"]
    x, y, w, h = BOX
    np.testing.assert_allclose(points["xy_px"], [[x, y], [x + w, y + h], [x + w / 5, y + h / 5]])
    assert points["part"].tolist() == [1, 2, 9]
    assert "densepose" not in samples[1].extra
    assert "surface points that cannot be read" in samples[2].notes[-1]

    # Two triangles of part 1 that make a square, and one of part 2; the last vertex doubles one.
    savemat(tmp_path / "UV_Processed.mat", {
        "All_FaceIndices": np.array([[1], [1], [2]]),
        "All_Faces": [[1, 2, 3], [2, 4, 3], [1, 3, 5]],
        "All_vertices": np.array([[11, 21, 31, 41, 11]]),
        "All_U_norm": np.array([[0.0], [1], [0], [1], [1]]),
        "All_V_norm": np.array([[0.0], [0], [1], [1], [1]]),
    })  # fmt: skip
    uv_file = str(tmp_path / "UV_Processed.mat")
    mapped = read(tmp_path / "dp.json", tmp_path, uv_file=uv_file)[0].extra["densepose"]
    assert mapped["vertices"].tolist() == [[10, 20, 30], [10, 30, 10], [-1, -1, -1]]
    np.testing.assert_allclose(mapped["weights"][0], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(mapped["weights"].sum(axis=1), [1, 1, 0])
    surface = load_surface_map(uv_file)
    vertices, weights = surface.find(np.array([1]), np.array([[0.75, 0.75]]))
    assert vertices.tolist() == [[20, 40, 30]]
    np.testing.assert_allclose(weights[0], [0.25, 0.5, 0.25])
    savemat(tmp_path / "other.mat", {"a": 1})
    with pytest.raises(ValueError, match="must be DensePose's UV_Processed"):
        load_surface_map(tmp_path / "other.mat")


# What holds for every reader


def test_another_joint_set_can_be_asked_for(tmp_path: Path) -> None:
    savemat(tmp_path / "joints.mat", {"joints": points_of("lsp14").T[..., None]})
    assert read(tmp_path / "joints.mat", joint_set="crowdpose14")[0].keypoint_set == "crowdpose14"
    with pytest.raises(ValueError, match=r"has the 14 keypoints of lsp14, while coco17 has 17"):
        read(tmp_path / "joints.mat", joint_set="coco17")


def test_normalised_and_misplaced_people_are_told(tmp_path: Path) -> None:
    make_photo(tmp_path / "im0001.jpg")
    make_photo(tmp_path / "im0002.jpg")
    points = points_of("lsp14")
    tiny = points / [400, 300, 1]
    joints = np.stack([points.T, tiny.T], axis=2)
    savemat(tmp_path / "joints.mat", {"joints": joints})
    samples = read(tmp_path / "joints.mat", tmp_path)
    assert [s.problem is None for s in samples] == [True, False]
    assert "they are normalised" in samples.problems[0]


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    for name in ("mpii-mat", "lsp"):
        (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b" " * 200)
        with pytest.raises(ValueError, match="is no MATLAB file"):
            read(tmp_path / "x.mat", format_name=name)
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"x.h5 is no HDF5 file"):
        read(tmp_path / "x.h5", format_name="mpii-h5")
    with pytest.raises(FileNotFoundError, match="read_lsp: no file"):
        read(tmp_path / "gone.mat", format_name="lsp")
