"""Boxes, crops, and points in and out of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from eft_fast import imaging
from eft_fast.imaging import Crop

# ---------------------------------------------------------------- keypoints and boxes


def test_check_keypoints_cleans_a_copy() -> None:
    given = np.array([[[1, 2, 1], [np.nan, 3, 1], [4, np.inf, 1], [5, 6, np.nan], [7, 8, 0.5]]])
    before = given.copy()
    clean = imaging.check_keypoints(given)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(
        clean[0], [[1, 2, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [7, 8, 0.5]]
    )
    clean[:] = 9
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("keypoints", "words"),
    [
        (np.zeros((17, 2)), r"\(x, y, confidence\), got \[17, 2\]"),
        (np.zeros(51), r"got \[51\]"),
        (np.zeros((0, 3)), r"got \[0, 3\]"),
        (np.full((4, 3), 2.0), r"in \[0, 1\], got 2 to 2; of COCO visibility flags pass v > 0"),
        (np.full((4, 3), -1.0), r"got -1 to -1"),
    ],
)
def test_check_keypoints_refuses(keypoints: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        imaging.check_keypoints(keypoints)


def test_keypoints_to_box_ignores_unlabelled() -> None:
    keypoints = np.array([[0, 0, 0], [10, 40, 1], [30, 20, 0.3], [900, 900, 0.1], [np.nan, 1, 1]])
    box = imaging.keypoints_to_box(keypoints, min_confidence=0.2)
    np.testing.assert_array_equal(box, [10, 20, 20, 20])
    np.testing.assert_array_equal(imaging.keypoints_to_box(keypoints), [10, 20, 890, 880])
    with pytest.raises(ValueError, match="no keypoint has a confidence above 0; pass a box"):
        imaging.keypoints_to_box(np.zeros((17, 3)))


def test_box_to_center_scale() -> None:
    center, scale = imaging.box_to_center_scale([10, 20, 100, 50])
    np.testing.assert_array_equal(center, [60, 45])
    assert scale == pytest.approx(1.2 * 100 / 200)
    assert imaging.box_to_center_scale([0, 0, 0, 50], margin=1.0)[1] == 0.25
    crop = Crop.from_box([10, 20, 100, 50], 256)
    assert (crop.side, crop.size) == (pytest.approx(120.0), 256)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0, 0, 0, 0], r"must be 1 to 15000 pixels wide, got 0 "),
        ([0, 0, 13000, 10], r"got 15600 "),
        ([0, 0, -5, 10], r"w and h not negative"),
        ([0, np.nan, 5, 10], r"four finite numbers"),
        ([0, 0, 5], r"four finite numbers"),
    ],
)
def test_box_to_center_scale_refuses(box: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        imaging.box_to_center_scale(box)


# ---------------------------------------------------------------- crops


def random_crops(count: int, seed: int = 0) -> list[Crop]:
    rng = np.random.default_rng(seed)
    return [
        Crop(rng.uniform(-500, 2000, 2), 10 ** rng.uniform(-2.3, 1.87), int(rng.integers(1, 512)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("crop", random_crops(25), ids=str)
def test_crop_points_round_trip(crop: Crop) -> None:
    points = np.random.default_rng(1).uniform(-3000, 3000, (4, 17, 2))
    there = crop.to_crop(points)
    h, s = 200 * crop.scale, crop.size
    np.testing.assert_allclose(there, s / h * (points - crop.center) + s / 2, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(crop.to_image(there), points, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(crop.normalise(points), 2 * there / s - 1, rtol=1e-9, atol=1e-8)
    homogeneous = np.concatenate([points, np.ones((4, 17, 1))], axis=-1)
    np.testing.assert_allclose(homogeneous @ crop.matrix.T, there, rtol=1e-9, atol=1e-7)
    homogeneous[..., :2] = there
    np.testing.assert_allclose(homogeneous @ crop.inverse.T, points, rtol=1e-9, atol=1e-6)


def test_crop_passes_confidence_through() -> None:
    crop = Crop([50, 60], 0.5, 100)
    keypoints = np.array([[50, 60, 0.7], [0, 10, 0.0]])
    np.testing.assert_allclose(crop.normalise(keypoints), [[0, 0, 0.7], [-1, -1, 0]])
    assert keypoints[0, 0] == 50
    with pytest.raises(ValueError, match=r"points must be \[..., 2\]"):
        crop.to_crop(np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 0], 0.0), "1 to 15000 pixels, got 0"),
        (([0, 0], 75.1), "got 15020"),
        (([0, 0], float("nan")), "got nan"),
        (([0, np.inf], 1.0), "center must be two finite numbers"),
        (([0, 0, 0], 1.0), "center must be two"),
        (([0, 0], 1.0, 0), "size must be a whole number"),
        (([0, 0], 1.0, 2.5), "size must be a whole number"),
    ],
)
def test_crop_refuses(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Crop(*arguments)


def blob_photo(at: np.ndarray, sigma: float, height: int = 480, width: int = 640) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    blob = 250.0 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(blob).astype(np.uint8)[:, :, None], 3, axis=2)


def centroid(crop: np.ndarray) -> np.ndarray:
    # The faint rim is left out: 8-bit steps, wider there than a pixel, would move the centroid.
    weight = np.maximum(crop[:, :, 1].astype(np.float64) - 25.0, 0.0)
    y, x = np.mgrid[0 : crop.shape[0], 0 : crop.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("side", [61.3, 224.0, 333.3, 700.7, 1500.0])
@pytest.mark.parametrize("size", [224, 256])
def test_crop_image_agrees_with_to_crop(side: float, size: int) -> None:
    """A blob at a sub-pixel place is found where to_crop says, enlarged, shrunk, half outside."""
    rng = np.random.default_rng(int(side) + size)
    for _ in range(4):
        sigma = min(side / 25, 28.0)
        at = rng.uniform([4 * sigma, 4 * sigma], [639 - 4 * sigma, 479 - 4 * sigma])
        crop = Crop(at + rng.uniform(-0.3, 0.3, 2) * side, side / 200, size)
        cut = imaging.crop_image(blob_photo(at, sigma), crop)
        assert cut.shape == (size, size, 3)
        assert np.abs(centroid(cut) - crop.to_crop(at)).max() < 0.05


def test_crop_image_is_exact_at_scale_one() -> None:
    """Side = size and whole shifts: the crop is a slice of the photo, black outside."""
    photo = np.random.default_rng(0).integers(1, 255, (50, 70, 3), np.uint8)
    cut = imaging.crop_image(photo, Crop([16, 20], 32 / 200, 32))
    np.testing.assert_array_equal(cut, photo[4:36, 0:32])
    corner = imaging.crop_image(photo, Crop([66, 44], 32 / 200, 32))
    np.testing.assert_array_equal(corner[:22, :20], photo[28:50, 50:70])
    assert not corner[22:].any()
    assert not corner[:, 20:].any()


def test_crop_image_averages_when_shrinking() -> None:
    """Fine stripes become even gray instead of aliasing."""
    photo = np.zeros((640, 640, 3), np.uint8)
    photo[:, ::2] = 200
    cut = imaging.crop_image(photo, Crop([320, 320], 600 / 200, 50))
    assert np.abs(cut.astype(int) - 100).max() <= 3


def test_crop_image_keeps_the_mean_beyond_the_photo() -> None:
    """Padding enters the filter as black: a white photo fades over its border."""
    photo = np.full((100, 100, 3), 255, np.uint8)
    cut = imaging.crop_image(photo, Crop([49.5, 49.5], 1000 / 200, 100))
    assert cut.mean() == pytest.approx(255 * 0.01, rel=0.05)


@pytest.mark.parametrize(
    ("center", "scale"),
    [
        ([320, 240], 1 / 200),  # one pixel enlarged
        ([320, 240], 75.0),  # 15,000 px around a small photo
        ([-5000, 240], 1.0),  # wholly outside
        ([7000, 9000], 75.0),  # outside but touching
        ([0, 0], 0.37),
        ([639, 479], 1.11),
        ([320.3, -60.0], 0.6),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 224])
def test_crop_image_matches_a_fully_padded_photo(
    center: list[float], scale: float, size: int
) -> None:
    """Only the touched part is resampled; the answer is that of resampling everything."""
    photo = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    crop = Crop(np.array(center) / 10, max(scale / 10, 1 / 200), size)
    pad = int(crop.side + np.abs(crop.center).max()) + 4
    padded = np.pad(photo, ((pad, pad), (pad, pad), (0, 0)))
    corner = crop.center - crop.side / 2 + 0.5 - 0.5 * crop.side / size + pad
    box = (corner[0], corner[1], corner[0] + crop.side, corner[1] + crop.side)
    whole = Image.fromarray(padded).resize((size, size), Image.Resampling.BILINEAR, box=box)
    cut = imaging.crop_image(photo, crop)
    # Pillow keeps boxes in float32, so the two may round differently.
    assert np.abs(cut.astype(int) - np.asarray(whole)).max() <= 2


def test_crop_image_takes_the_largest_crop() -> None:
    photo = np.full((48, 64, 3), 255, np.uint8)
    assert imaging.crop_image(photo, Crop([30, 20], 75.0, 224)).sum() > 0
    assert not imaging.crop_image(photo, Crop([30000, 20], 75.0, 224)).any()


@pytest.mark.parametrize("cut", [imaging.crop_image, imaging.crop_image_strict])
def test_crop_image_refuses(cut: object) -> None:
    crop = Crop([5, 5], 0.05, 8)
    with pytest.raises(TypeError, match="must be a uint8 array, got float64; call load_image"):
        cut(np.zeros((9, 9, 3)), crop)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"must be \[H, W, 3\], got \[9, 9\]"):
        cut(np.zeros((9, 9), np.uint8), crop)  # type: ignore[operator]


# ---------------------------------------------------------------- strict reference


def test_strict_keypoints_are_truncated_and_one_based() -> None:
    crop = Crop([100.0, 100.0], 1.12, 224)  # zoom 1, so crop x = x + 12
    keypoints = np.array([[50.7, 80.2, 1.0], [-20.5, 100.0, 0.5]])
    expected = np.array([[62 + 1, 92 + 1], [-8 + 1, 112 + 1]]) * 2 / 224 - 1
    strict = imaging.keypoints_to_crop_strict(keypoints, crop)
    np.testing.assert_allclose(strict[:, :2], expected, atol=1e-12)
    np.testing.assert_array_equal(strict[:, 2], keypoints[:, 2])


def test_strict_keypoint_bias_is_within_a_pixel() -> None:
    crop = Crop([311.3, 207.9], 1.733, 224)
    points = np.random.default_rng(0).uniform(200, 380, (5000, 2))
    bias = (imaging.keypoints_to_crop_strict(points, crop) - crop.normalise(points)) * 112
    assert bias.min() > 0
    assert bias.max() <= 1
    assert bias.mean() == pytest.approx(0.5, abs=0.02)


def test_strict_crop_truncates_corners() -> None:
    photo = np.random.default_rng(0).integers(1, 255, (60, 90, 3), np.uint8)
    crop = Crop([20.9, 30.7], 32.0 / 200, 32)  # corners 4.9 and 36.9, 14.7 and 46.7
    np.testing.assert_array_equal(imaging.crop_image_strict(photo, crop), photo[14:46, 4:36])
    # Truncation is towards zero, also left of the photo: corners -3.5 and 28.5 give 31 columns.
    outside = imaging.crop_image_strict(photo, Crop([12.5, 30.5], 32.0 / 200, 32))
    assert not outside[:, :3].any()
    assert outside[:, 4:].all()
    with pytest.raises(ValueError, match="leave no pixel; use a larger box"):
        imaging.crop_image_strict(photo, Crop([0.2, 20.7], 1 / 200, 8))


def test_strict_crop_resizes_like_a_hand_written_bilinear() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    crop = Crop([40.0, 30.0], 40.0 / 200, 64)  # patch [10:50, 20:60]
    patch = photo[10:50, 20:60].astype(float)
    cut = imaging.crop_image_strict(photo, crop)
    for i, j in ((0, 0), (5, 17), (40, 63), (63, 2)):
        y, x = (min(max((k + 0.5) * 40 / 64 - 0.5, 0), 39) for k in (j, i))
        y0, x0 = int(y), int(x)
        y1, x1, fy, fx = min(y0 + 1, 39), min(x0 + 1, 39), y - y0, x - x0
        value = (patch[y0, x0] * (1 - fx) + patch[y0, x1] * fx) * (1 - fy)
        value += (patch[y1, x0] * (1 - fx) + patch[y1, x1] * fx) * fy
        np.testing.assert_allclose(cut[j, i], value, atol=0.51)


# ---------------------------------------------------------------- network input


def test_to_input_and_back() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    img = imaging.to_input(crops)
    assert (img.dtype, img.shape) == (np.float32, (2, 3, 9, 9))
    assert img.flags.c_contiguous
    assert img[1, 2, 3, 4] == pytest.approx((crops[1, 3, 4, 2] / 255 - 0.406) / 0.225, abs=1e-5)
    np.testing.assert_array_equal(imaging.from_input(img), crops)
    np.testing.assert_array_equal(imaging.to_input(crops[0]), img[0])
    with pytest.raises(ValueError, match=r"uint8 \[..., S, S, 3\], got float32 \[2, 3, 9, 9\]"):
        imaging.to_input(img)
    with pytest.raises(ValueError, match=r"must be \[..., 3, S, S\], got \[2, 9, 9, 3\]"):
        imaging.from_input(crops.astype(np.float64))
