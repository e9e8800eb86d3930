"""fit_batch from photos to results: order, isolation, bad input, saving."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import eft_fast
from eft_fast.eft.loop import LoopFitter
from eft_fast.keypoints import joint_set
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.result import FitResult

CONFIG = eft_fast.EftConfig(max_steps=3, threshold=0.0, lr=1e-3)


@pytest.fixture(scope="module")
def regressor():
    return OpenRegressor.make_tiny()


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three photos with a person each; the last photo is used twice."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(7)
    photos, keypoints, boxes = [], [], []
    for index in range(3):
        pixels = generator.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        path = folder / f"photo{index}.png"
        Image.fromarray(pixels).save(path)
        photos.append(path)
    for photo in (*photos, photos[-1]):
        xy = generator.uniform([60, 40], [220, 200], (17, 2))
        keypoints.append(np.concatenate([xy, generator.integers(0, 2, (17, 1))], 1))
        boxes.append([50, 30, 180, 180])
        assert photo.is_file()
    return [*photos, photos[-1]], np.array(keypoints), np.array(boxes, float)


def fit(people, regressor, body, **options):
    photos, keypoints, boxes = people
    options = {"bboxes": boxes, "config": CONFIG, "progress": False} | options
    return eft_fast.fit_batch(photos, keypoints, regressor=regressor, body=body, **options)


def test_result_fields(people, regressor, body):
    result = fit(people, regressor, body)
    assert len(result) == 4
    assert result.params.betas.shape == (4, 10)
    assert result.params.global_orient.shape == (4, 1, 3, 3)
    assert result.params.body_pose.shape == (4, 23, 3, 3)
    assert result.pred_cam.shape == (4, 3)
    assert result.init.params.body_pose.shape == result.init.body_pose.shape == (4, 23, 3, 3)
    assert result.bbox_center.tolist()[0] == [140.0, 120.0]
    torch.testing.assert_close(result.bbox_scale[0], torch.tensor(1.2 * 180 / 200))
    assert result.stop_reason == ("max_steps",) * 4
    assert result.steps.tolist() == [2] * 4
    assert result.vertices().shape == (4, 6890, 3)
    assert result.joints3d("smpl24").shape == (4, 24, 3)
    assert result.keypoints_2d_px("coco17").shape == (4, 17, 2)
    assert (result.loss < result.init_loss).all()


def test_error_is_the_mean_over_labelled_keypoints(people, regressor, body):
    result = fit(people, regressor, body)
    _, keypoints, _ = people
    projected = result.keypoints_2d_px().numpy()
    for person in range(4):
        labelled = keypoints[person, :, 2] > 0
        distance = np.linalg.norm(projected[person] - keypoints[person, :, :2], axis=1)
        want = distance[labelled].mean()
        np.testing.assert_allclose(float(result.kp_error_px[person]), want, rtol=1e-4)


def test_projection_goes_back_to_the_photo(people, regressor, body):
    """Crop units to photo pixels: centre + side / 2 * (s * X + t)."""
    result = fit(people, regressor, body, method="none")
    points = result.joints3d("coco17")
    s, t = result.pred_cam[:, :1, None], result.pred_cam[:, None, 1:]
    side = 200 * result.bbox_scale[:, None, None]
    want = result.bbox_center[:, None] + side / 2 * (s * points[..., :2] + t)
    torch.testing.assert_close(result.keypoints_2d_px(), want)


def test_nobody_disturbs_anybody(people, regressor, body, tmp_path):
    """A missing photo, a broken one, nothing labelled and NaN: the others keep every bit."""
    photos, keypoints, boxes = people
    clean = fit(people, regressor, body)
    (tmp_path / "text.jpg").write_text("no picture")
    nothing, broken = keypoints[0].copy(), keypoints[0].copy()
    nothing[:, 2] = 0
    broken[3] = np.nan
    mixed_photos = [
        tmp_path / "missing.png", photos[0], tmp_path / "text.jpg", photos[1], photos[1],
        photos[2], photos[3],
    ]  # fmt: skip
    mixed_keypoints = np.stack(
        [keypoints[0], keypoints[0], keypoints[0], nothing, keypoints[1], keypoints[2],
         keypoints[3]]
    )  # fmt: skip
    mixed_boxes = boxes[[0, 0, 0, 1, 1, 2, 3]]
    mixed = fit((mixed_photos, mixed_keypoints, mixed_boxes), regressor, body)
    assert mixed.stop_reason == (
        "bad_image", "max_steps", "bad_image", "no_keypoints", "max_steps", "max_steps",
        "max_steps",
    )  # fmt: skip
    for place, person in ((1, 0), (4, 1), (5, 2), (6, 3)):
        assert torch.equal(mixed.params.body_pose[place], clean.params.body_pose[person])
        assert torch.equal(mixed.kp_error_px[place], clean.kp_error_px[person])
        assert torch.equal(mixed.loss[place], clean.loss[person])
    assert "missing.png" in mixed.message[0]
    assert "text.jpg" in mixed.message[2]
    assert "no keypoint is labelled" in mixed.message[3]
    assert mixed.message[1] == clean.message[0]
    assert mixed.params.betas[0].isnan().all()
    assert torch.isfinite(mixed.params.betas[3]).all()
    assert mixed.kp_error_px[3].isnan()


def test_nan_keypoints_count_as_unlabelled(people, regressor, body):
    photos, keypoints, boxes = people
    broken, unlabelled = keypoints[:1].copy(), keypoints[:1].copy()
    broken[0, 3] = np.nan
    unlabelled[0, 3] = 0
    results = [
        fit((photos[:1], given, boxes[:1]), regressor, body) for given in (broken, unlabelled)
    ]
    assert torch.equal(results[0].params.body_pose, results[1].params.body_pose)


def test_keypoints_outside_are_named_and_left_out(people, regressor, body):
    photos, keypoints, boxes = people
    far = keypoints[:1].copy()
    far[0, 0] = (5000, 10, 1)
    result = fit((photos[:1], far, boxes[:1]), regressor, body)
    assert "photo of 320 x 240 pixels, got 1 outside" in result.message[0]
    assert result.keypoints[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("box", [[50, 30, 0, 0], [np.nan] * 4, [50, np.inf, 10, 10]])
def test_unusable_box_falls_back_on_the_keypoints(people, regressor, body, box):
    photos, keypoints, _ = people
    keypoints = keypoints[:1].copy()
    keypoints[0, :, 2] = 1
    given = fit((photos[:1], keypoints, np.array([box], float)), regressor, body)
    none = eft_fast.fit_batch(
        photos[:1], keypoints, regressor=regressor, body=body, config=CONFIG, progress=False
    )
    assert torch.equal(given.bbox_center, none.bbox_center)
    assert (given.message[0] != none.message[0]) == (not np.isnan(box).all())


def test_arrays_and_paths_are_the_same(people, regressor, body):
    photos, keypoints, boxes = people
    arrays = [np.asarray(Image.open(photo)) for photo in photos]
    first = fit(people, regressor, body)
    second = fit((arrays, keypoints, boxes), regressor, body)
    assert torch.equal(first.params.body_pose, second.params.body_pose)


def test_method_none_is_the_start_of_eft(people, regressor, body):
    fitted, plain = fit(people, regressor, body), fit(people, regressor, body, method="none")
    assert torch.equal(plain.params.body_pose, fitted.init.params.body_pose)
    assert torch.equal(plain.kp_error_px, fitted.init_kp_error_px)
    assert plain.steps.tolist() == [0] * 4


@pytest.mark.parametrize("mode", ["full", "head"])
def test_slots_equal_the_loop(people, regressor, body, mode):
    # Float32 at this rate amplifies rounding; tests/fitting compares both in float64.
    config = eft_fast.EftConfig(max_steps=3, threshold=0.0, lr=1e-5)
    loop = fit(people, regressor, body, mode=mode, config=config)
    slots = fit(people, regressor, body, mode=mode, config=config, slots=3)
    torch.testing.assert_close(slots.params.body_pose, loop.params.body_pose, rtol=0, atol=1e-4)
    assert slots.steps.tolist() == loop.steps.tolist()
    assert slots.mode == mode


def test_save_and_load(people, regressor, body, tmp_path):
    result = fit(people, regressor, body)
    result.save(tmp_path / "fits.npz")
    loaded = FitResult.load(tmp_path / "fits.npz")
    assert loaded.stop_reason == result.stop_reason
    assert loaded.joint_set == "coco17"
    for name in ("pred_cam", "bbox_scale", "kp_error_px", "steps", "keypoints"):
        assert torch.equal(getattr(loaded, name), getattr(result, name))
    assert torch.equal(loaded.init.params.betas, result.init.params.betas)
    assert torch.equal(loaded.vertices(), result.vertices())


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: b"", lambda data: b"text" * 50]
)
def test_load_refuses_damage(people, regressor, body, tmp_path, damage):
    path = tmp_path / "fits.npz"
    fit(people, regressor, body, method="none").save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"FitResult.load: .*fits.npz"):
        FitResult.load(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        FitResult.load(tmp_path / "other.npz")


def test_selecting_people(people, regressor, body):
    result = fit(people, regressor, body, method="none")
    for rows, count in ((slice(1, 3), 2), ([0, 3], 2), (result.kp_error_px > 1e9, 0), (-1, 1)):
        part = result[rows]
        assert len(part) == count
        assert part.keypoints_2d_px().shape == (count, 17, 2)
    assert torch.equal(result[[3, 0]].pred_cam, result.pred_cam[[3, 0]])
    with pytest.raises(IndexError, match="index 4 is out of range for 4 people"):
        result[4]


def test_exchanged_sides_and_impossible_bodies_are_told(people, regressor, body):
    """The labels are the answer's own keypoints, with left and right exchanged for one person."""
    photos, keypoints, boxes = people
    given = {"bboxes": boxes[:3], "regressor": regressor, "body": body, "progress": False}
    probe = eft_fast.fit_batch(photos[:3], keypoints[:3], method="none", **given)
    labels = torch.cat([probe.keypoints_2d_px(), torch.ones(3, 17, 1)], 2).numpy()
    labels[1] = labels[1, list(joint_set("coco17").flip)]
    result = eft_fast.fit_batch(photos[:3], labels, method="none", **given)
    said = ["left and right of the keypoints look exchanged" in text for text in result.message]
    assert said == [False, True, False]
    odd = replace(result, params=replace(result.params, betas=result.params.betas + 9.0))
    assert all("no person's" in text for text in odd._faults())


def test_nobody(regressor, body):
    result = eft_fast.fit_batch(
        [], np.zeros((0, 17, 3)), method="eft", regressor=regressor, body=body
    )
    assert len(result) == 0
    assert result.vertices().shape == (0, 6890, 3)


def test_interrupt_keeps_what_is_done(people, regressor, body, monkeypatch):
    fit_person, calls = LoopFitter.fit_person, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit_person(*arguments, **options)

    monkeypatch.setattr(LoopFitter, "fit_person", interrupted)
    result = fit(people, regressor, body)
    assert result.stop_reason == ("max_steps", "max_steps", "interrupted", "interrupted")
    assert torch.isfinite(result.params.betas[:2]).all()
    assert result.params.betas[2:].isnan().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"joint_set": "coco18"}, "coco18"),
        ({"method": "eftt"}, "method must be one of eft, map, smplify, .*, none, got 'eftt'"),
        ({"mode": "haed"}, "mode must be one of full, layer3, layer4, head, .*, got 'haed'"),
        ({"bboxes": np.zeros((3, 4))}, r"bboxes must be \[4, 4\]"),
        ({"keypoints": np.zeros((4, 16, 3))}, r"keypoints must be \[4, 17, 3\]"),
        ({"keypoints": "many"}, "keypoints must be an array of numbers"),
    ],
)
def test_bad_arguments_are_one_sentence(people, regressor, body, change, words):
    photos, keypoints, boxes = people
    arguments = {"keypoints": keypoints, "bboxes": boxes} | change
    with pytest.raises(ValueError, match=words):
        eft_fast.fit_batch(photos, regressor=regressor, body=body, **arguments)


PIXELS = np.zeros((24, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ("photo.png", "a single path"),
        (PIXELS, r"a single array \[24, 32, 3\]"),
        (torch.from_numpy(PIXELS), r"a single array \[24, 32, 3\]"),
        (Image.fromarray(PIXELS), "a single picture"),
        (b"bytes of a file", "a single picture"),
        (io.BytesIO(b"bytes of a file"), "a single picture"),
        (7, "int"),
    ],
)
def test_a_single_photo_is_refused(people, regressor, body, images, kind):
    with pytest.raises(TypeError, match=f"got {kind}; put it into a list"):
        eft_fast.fit_batch(images, people[1], regressor=regressor, body=body)


def test_photos_may_come_in_any_iterable(people, regressor, body):
    photos, keypoints, boxes = people
    listed = fit(people, regressor, body, method="none")
    for images in ((photo for photo in photos), tuple(photos)):
        same = fit((images, keypoints, boxes), regressor, body, method="none")
        assert torch.equal(same.pred_cam, listed.pred_cam)
    stacked = np.stack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
    same = fit((stacked, keypoints, boxes), regressor, body, method="none")
    assert torch.equal(same.pred_cam, listed.pred_cam)


def test_photos_may_be_tensors_and_opened_files(people, regressor, body, tmp_path):
    """The pixels are the same, and so is every bit; what cannot be read costs nobody else."""
    photos, keypoints, boxes = people
    listed = fit(people, regressor, body, method="none")
    arrays = [np.array(Image.open(photo).convert("RGB")) for photo in photos]
    opened = [open(photo, "rb") for photo in photos]
    forms = {
        "files": opened,
        "bytes": [open(photo, "rb").read() for photo in photos],
        "pictures": [Image.fromarray(array) for array in arrays],
        "tensors": [torch.from_numpy(array) for array in arrays],
        "channels first": [torch.from_numpy(array).permute(2, 0, 1) for array in arrays],
        "floats": [torch.from_numpy(array).permute(2, 0, 1).double() / 255 for array in arrays],
    }
    for name, images in forms.items():
        same = fit((images, keypoints, boxes), regressor, body, method="none")
        assert torch.equal(same.pred_cam, listed.pred_cam), name
    assert not any(file.closed for file in opened)
    odd = list(arrays)
    odd[0], odd[1] = opened[0], io.StringIO("text")
    opened[2].close()
    odd[2] = opened[2]
    result = fit((odd, keypoints, boxes), regressor, body, method="none")
    assert result.stop_reason[:3] == ("bad_image",) * 3
    assert "nothing left to read" in result.message[0]
    assert 'open it with mode "rb"' in result.message[1]
    assert "the opened file cannot be read (" in result.message[2]
    assert torch.equal(result.pred_cam[3:], listed.pred_cam[3:])
    for file in opened:
        file.close()
    (streamed,) = eft_fast.fit_stream(
        [(forms["tensors"][0], keypoints[0], boxes[0])], regressor=regressor, body=body,
        method="none",
    )  # fmt: skip
    assert torch.equal(streamed.pred_cam, listed.pred_cam[:1])


@pytest.mark.parametrize(("layout", "device"), [("sparse", "cpu"), ("dense", "meta")])
def test_tensors_without_pixels_cost_nobody_else(people, regressor, body, layout, device):
    photos, keypoints, boxes = people
    odd = torch.zeros(90, 120, 3, dtype=torch.uint8, device=device)
    images = [odd.to_sparse() if layout == "sparse" else odd, *photos[1:]]
    listed = fit(people, regressor, body, method="none")
    result = fit((images, keypoints, boxes), regressor, body, method="none")
    assert result.stop_reason[0] == "bad_image"
    assert "a torch tensor must hold its pixels one by one" in result.message[0]
    assert torch.equal(result.pred_cam[1:], listed.pred_cam[1:])


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((1, 17, 2), "add the confidence, 1 where a point is labelled and 0 where not"),
        ((17, 2), "add the confidence"),
        ((17, 3), r"give one person as keypoints\[None\]"),
        ((1, 25, 3), "25 keypoints are those of op25 or op25b"),
    ],
)
def test_keypoints_of_another_shape_are_explained(people, regressor, body, shape, hint):
    with pytest.raises(ValueError, match=hint):
        eft_fast.fit_batch(people[0][:1], np.zeros(shape), regressor=regressor, body=body)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("betas", np.zeros((4, 9), np.float32), r"betas must be float numbers \[4, 10\]"),
        ("body_pose", np.zeros((3, 23, 3, 3), np.float32), r"body_pose must be .*\[4, 23, 3, 3\]"),
        ("init_pred_cam", np.zeros((4, 3), np.int64), r"init_pred_cam|pred_cam must be float"),
        ("init_betas", np.zeros(10, np.float32), r"init_betas must be float numbers \[4, 10\]"),
        ("keypoints", np.zeros((4, 25, 3), np.float32), r"keypoints must be .*\[4, 17, 3\]"),
        ("steps", np.zeros(4, np.float32), r"steps must be int numbers \[4\]"),
        ("intrinsics", np.zeros((4, 3), np.float32), r"intrinsics must be .*\[4, 3, 3\]"),
        ("message", np.array(["one"]), "message must be 4 texts"),
        ("stop_reason", np.array(["done"] * 4), "stop_reason must be of converged, .*got 'done'"),
        ("stop_reason", np.array("converged"), "stop_reason must be of"),
        ("joint_set", np.array("coco99"), "coco99"),
        ("method", np.zeros(2), "method must be a text"),
    ],
)
def test_load_checks_every_shape(people, regressor, body, tmp_path, name, value, words):
    path = tmp_path / "fits.npz"
    fit(people, regressor, body, method="none").save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, name: value})
    with pytest.raises(ValueError, match=rf"FitResult.load: (?s:.*)({words})"):
        FitResult.load(path)
