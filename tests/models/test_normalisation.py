"""Every way to a regressor normalises crops with the numbers that the regressor states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eft_fast
from eft_fast import conventions, imaging
from eft_fast.deploy.graph import ExportGraph
from eft_fast.evaluation import openbench
from eft_fast.models.base import Regressor
from eft_fast.models.hmr import Hmr
from eft_fast.models.open_regressor import OpenRegressor
from eft_fast.training.cache import normalise_images

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


class Watching(OpenRegressor):
    """Keeps the crops that it was given, and wants them normalised in a way of its own."""

    img_mean, img_std = MEAN, STD

    def features(self, img):
        self.seen = img
        return super().features(img)


@pytest.fixture
def regressor() -> Watching:
    network = OpenRegressor.make_tiny()
    network.__class__ = Watching
    return network


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(pixels) -> torch.Tensor:
    wide = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(wide.astype(np.float32)).permute(2, 0, 1)[None]


def test_regressors_state_what_they_take() -> None:
    assert (OpenRegressor.img_mean, OpenRegressor.img_std) == ((0, 0, 0), (1, 1, 1))
    for kind in (Hmr, Regressor):
        assert (kind.img_mean, kind.img_std) == (conventions.IMG_MEAN, conventions.IMG_STD)


def test_to_input_and_back(pixels, expected) -> None:
    img = imaging.to_input(pixels, MEAN, STD)
    np.testing.assert_allclose(img, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(imaging.from_input(img, MEAN, STD), pixels)
    exact = imaging.to_input(pixels, OpenRegressor.img_mean, OpenRegressor.img_std)
    np.testing.assert_array_equal(exact, pixels.transpose(2, 0, 1) / np.float32(255))


def test_fitting(regressor, pixels, expected) -> None:
    """The box is the photo, so that the crop is the photo."""
    side = 256 / conventions.BOX_MARGIN
    box = [[128 - side / 2, 128 - side / 2, side, side]]
    keypoints = np.array([[[100.0, 100.0, 1.0]] * 17])
    result = eft_fast.fit_batch(
        [pixels], keypoints, bboxes=box, method="none", regressor=regressor, progress=False
    )
    crop = imaging.Crop(result.bbox_center[0].numpy(), float(result.bbox_scale[0]), 256)
    cut = imaging.crop_image(pixels, crop)
    assert np.abs(cut.astype(int) - pixels).mean() < 1
    torch.testing.assert_close(
        regressor.seen, torch.from_numpy(imaging.to_input(cut, MEAN, STD))[None], rtol=0, atol=0
    )


def test_exports(regressor, pixels, expected) -> None:
    ExportGraph(regressor).eval()(torch.from_numpy(pixels)[None])
    torch.testing.assert_close(regressor.seen, expected, rtol=0, atol=1e-6)


def test_training(regressor, pixels, expected) -> None:
    made = normalise_images(pixels[None], regressor)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


def test_evaluation(regressor, pixels, expected) -> None:
    people = openbench.BenchPeople(
        image=pixels[None],
        keypoints_2d=np.full((1, 17, 3), 0.5),
        true_2d=np.full((1, 17, 3), 0.5),
        rotmat=np.tile(np.eye(3, dtype=np.float32), (1, 24, 1, 1)),
        betas=np.zeros((1, 10), np.float32),
        is_hidden=np.zeros((1, 17), bool),
    )
    methods = tuple(m for m in openbench.default_methods(regressor) if m.name == "regressor")
    list(openbench.run_bench(regressor, eft_fast.load_body(), people, methods))
    torch.testing.assert_close(regressor.seen, expected, rtol=0, atol=1e-6)
