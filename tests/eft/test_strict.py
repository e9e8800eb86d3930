"""``strict_reference`` repeats the reference's quirks; the default has none of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast.conventions import BOX_MARGIN, IMG_MEAN, IMG_STD
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.pipeline.prepare import prepare_person
from eft_fast.sample import Sample

BOX = np.array([40.0, 30.0, 101.0, 101.0])
#: Crops of 224 pixels, as of the published networks.
HMR_FORM = SimpleNamespace(
    input_size=224, img_mean=IMG_MEAN, img_std=IMG_STD, box_margin=BOX_MARGIN
)


def photo_of(height=200, width=240):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coco(ankle_y=100.0):
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:, :2] = np.random.default_rng(4).uniform(50, 120, (17, 2))
    keypoints[:, 2] = 1
    keypoints[15:, 1] = ankle_y
    return keypoints


def prepare(keypoints, name="coco17", *, strict, box=BOX, photo=None):
    photo = photo_of() if photo is None else photo
    (sample,) = Sample.from_arrays([photo], keypoints[None], bboxes=box[None], joint_set=name)
    return prepare_person(sample, photo, HMR_FORM, strict=strict)


def test_keypoints_are_truncated_only_in_strict_mode():
    """trunc(224 / h (x - c) + 112) + 1, then 2 x / 224 - 1, h = 1.2 times the box."""
    side = 1.2 * 101
    center = BOX[:2] + BOX[2:] / 2
    x = coco()[:, :2].astype(np.float64)
    exact = (x - center) / (side / 2)
    crop_px = 224 / side * (x - center) + 112
    strict = 2 * (np.trunc(crop_px) + 1) / 224 - 1
    places = [25 + place for place in (19, 20, 21, 22, 23, 9, 8, 10, 7, 11, 6, 3, 2, 4, 1, 5, 0)]
    for is_strict, want in ((True, strict), (False, exact)):
        got = prepare(coco(), strict=is_strict).keypoints_2d[places, :2]
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(strict - exact).max() > 2e-3


@pytest.mark.parametrize(("strict", "kept"), [(False, 1.0), (True, 0.0)])
def test_ankles_at_the_border_without_openpose(strict, kept):
    """COCO has no OpenPose block: its knees have confidence 0, so strict mode drops the ankles."""
    person = prepare(coco(ankle_y=195.0), strict=strict, box=np.array([40.0, 30, 120, 160]))
    assert person.keypoints_2d[25, 2] == person.keypoints_2d[30, 2] == kept
    inside = prepare(coco(ankle_y=185.0), strict=strict, box=np.array([40.0, 30, 120, 160]))
    assert inside.keypoints_2d[25, 2] == inside.keypoints_2d[30, 2] == 1


@pytest.mark.parametrize("strict", [False, True])
def test_ankles_at_the_border_with_openpose(strict):
    """With OpenPose's detections both modes ask for a knee: here the right one alone is seen."""
    keypoints = np.zeros((25, 3), np.float32)
    keypoints[:] = (100, 100, 0.9)
    keypoints[[11, 14], 1] = 195
    keypoints[13, 2] = 0.05
    person = prepare(keypoints, "op25", strict=strict, box=np.array([40.0, 30, 120, 160]))
    assert person.keypoints_2d[25, 2] == pytest.approx(0.9)
    assert person.keypoints_2d[30, 2] == 0


def test_a_crop_that_fails_is_black_only_in_strict_mode():
    tiny = np.array([-0.45, -0.45, 1, 1])
    default, strict = (prepare(coco(), strict=is_strict, box=tiny) for is_strict in (False, True))
    assert strict.img is not None
    black = -np.array([0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(strict.img, np.broadcast_to(black[:, None, None], (3, 224, 224)),
                               atol=1e-5)  # fmt: skip
    assert "a black picture was fitted" in strict.message
    assert default.img is None or "black" not in default.message


@pytest.mark.parametrize("strict", [False, True])
def test_a_crop_that_is_too_large_is_refused(strict):
    person = prepare(coco(), strict=strict, box=np.array([-10000.0, -10000, 20000, 20000]))
    assert "15000 pixels wide, got 24000" in person.message
    assert person.img is None


class Recorder(OpenRegressor):
    """Writes down how its camera was asked for."""

    seen: list[bool]

    def forward(self, img, *, raw_camera=False):
        self.seen.append(raw_camera)
        return super().forward(img)


@pytest.mark.parametrize("strict", [False, True])
def test_the_raw_camera_is_read_only_in_strict_mode(strict):
    regressor = OpenRegressor.make_tiny()
    regressor.__class__ = Recorder
    Recorder.seen = []
    config = eft_fast.EftConfig(max_steps=2, strict_reference=strict, threshold=0)
    for options in ({}, {"slots": 2}, {"method": "none"}):
        eft_fast.fit_batch(
            [photo_of()], coco()[None], regressor=regressor, config=config, progress=False,
            **options,
        )  # fmt: skip
    assert set(Recorder.seen) == {strict}


def test_strict_mode_changes_little_else():
    """The same loop: one step is the regressor's answer on the strict crop."""
    regressor = OpenRegressor.make_tiny()
    config = eft_fast.EftConfig(max_steps=1, strict_reference=True, threshold=0)
    fit = eft_fast.fit_batch(
        [photo_of()], coco()[None], bboxes=BOX[None], regressor=regressor, config=config,
        progress=False,
    )  # fmt: skip
    (sample,) = Sample.from_arrays([photo_of()], coco()[None], bboxes=BOX[None])
    person = prepare_person(sample, photo_of(), regressor, strict=True)
    with torch.no_grad():
        want = regressor(person.crop[None])
    assert torch.equal(fit.params.full_pose, want.pred_rotmat)
    assert fit.steps.tolist() == [0]
