"""Photos and boxes to bodies: the same numbers as fitting's regressor, whatever the photo."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from eft_fast.serving import Predictor
from eft_fast.serving.predictor import GPU_BUCKETS, pad_to_bucket


@pytest.fixture(scope="module")
def predictor(tiny_export):
    return Predictor(tiny_export, provider="cpu", threads=1)


@pytest.fixture
def photo():
    """A colour picture without any symmetry, 90 x 70."""
    generator = np.random.default_rng(5)
    coarse = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC))


def encode(pixels, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


BOX = [10.0, 5.0, 30.0, 50.0]


def assert_same(got, expected, atol=1e-6):
    for name in ("rotmat", "betas", "cam", "joints", "joints_2d_px", "vertices"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=atol)


def test_equals_the_regressor_of_fit_batch(predictor, photo):
    """Crop included: the same photo and box through fit_batch(method="none")."""
    from eft_fast.api import fit_batch
    from eft_fast.body import load_body
    from eft_fast.models.open_regressor import OpenRegressor

    boxes = [BOX, [40.0, 20.0, 45.0, 45.0], [-20.0, -10.0, 60.0, 60.0]]
    keypoints = np.zeros((3, 17, 3))  # none: a box that holds no given one would not be taken
    found = predictor([photo] * 3, boxes)
    fits = fit_batch(
        [photo] * 3,
        keypoints,
        bboxes=boxes,
        method="none",
        regressor=OpenRegressor.make_tiny(),
        body=load_body(),
    )
    np.testing.assert_allclose(found.betas, fits.params.betas, atol=1e-4)
    np.testing.assert_allclose(found.cam, fits.pred_cam, atol=1e-4)
    np.testing.assert_allclose(found.rotmat[:, :1], fits.params.global_orient, atol=1e-4)
    np.testing.assert_allclose(found.rotmat[:, 1:], fits.params.body_pose, atol=1e-4)
    np.testing.assert_allclose(found.bbox_center, fits.bbox_center, atol=1e-4)
    np.testing.assert_allclose(found.bbox_scale, fits.bbox_scale, atol=1e-6)
    np.testing.assert_allclose(found.joints, fits.joints3d("smpl45"), atol=1e-4)
    np.testing.assert_allclose(found.vertices, fits.vertices(), atol=1e-4)
    np.testing.assert_allclose(
        found.joints_2d_px, fits.keypoints_2d_px("smpl45")[..., :2], atol=0.02
    )
    assert np.abs(np.diff(found.betas, axis=0)).max() > 1e-3, "the crops do not tell people apart"


def test_without_a_box_the_whole_photo_is_the_person(predictor, photo):
    whole = predictor([photo], [[0, 0, 90, 70]])
    assert_same(predictor([photo]), whole)
    assert_same(predictor([photo], [[np.nan] * 4]), whole)


def test_every_kind_of_file_is_the_same_person(predictor, photo, tmp_path):
    expected = predictor([photo], [BOX])
    path = tmp_path / "photo.png"
    path.write_bytes(encode(photo))
    assert_same(predictor([path], [BOX]), expected)
    assert_same(predictor([str(path)], [BOX]), expected)
    assert_same(predictor([encode(photo)], [BOX]), expected)

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees for viewing
    turned = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
    assert_same(predictor([encode(turned, exif=exif)], [BOX]), expected)

    gray = np.asarray(Image.fromarray(photo).convert("L"))
    in_gray = predictor([np.repeat(gray[..., None], 3, 2)], [BOX])
    assert_same(predictor([encode(gray)], [BOX]), in_gray)
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    assert_same(predictor([encode(deep)], [BOX]), in_gray)

    cmyk = Image.fromarray(photo).convert("CMYK")
    back = np.asarray(Image.open(io.BytesIO(encode(cmyk, "TIFF"))).convert("RGB"))
    assert_same(predictor([encode(cmyk, "TIFF")], [BOX]), predictor([back], [BOX]))


def bomb() -> bytes:
    """A JPEG of a few hundred bytes that claims to be 60,000 pixels wide and high."""
    data = bytearray(encode(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = (60000).to_bytes(2, "big") * 2
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_photo_is_named_and_changes_nobody_else(predictor, photo, tmp_path):
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    good = encode(photo)
    bad = [empty, tmp_path / "missing.jpg", b"", b"text", good[:400], bomb(), tmp_path, None]
    boxes = [BOX] * (2 + len(bad)) + [
        [0, 0, 0, 0],
        [0, 0, -5, 9],
        [np.nan, 0, 9, 9],
        [0, 0, 9e9, 9],
    ]
    photos = [photo, *bad, good, *[photo] * 4]
    found = predictor(photos, boxes)
    alone = predictor([photo], [BOX])
    for row, message in enumerate(found.message):
        is_good = row in (0, len(bad) + 1)
        assert (message == "") == is_good
        assert "\n" not in message
        assert np.isfinite(found.vertices[row]).all() == is_good
        assert np.isnan(found.betas[row]).all() == (not is_good)
        if is_good:
            np.testing.assert_allclose(found.rotmat[row], alone.rotmat[0], atol=1e-6)
    words = " ".join(found.message)
    for expected in ("empty", "no file", "not a picture", "cut off", "pixels", "folder", "box"):
        assert expected in words


@pytest.mark.parametrize("box", [[1e9, 1e9, 5.0, 5.0], [-50.0, 5.0, 40.0, 50.0]])
def test_a_box_beside_the_photo_is_no_black_crop(predictor, photo, box):
    found = predictor([photo] * 2, [box, BOX])
    assert "lies beside the 90 x 70 photo" in found.message[0]
    assert np.isnan(found.betas[0]).all()
    assert found.message[1] == ""
    np.testing.assert_allclose(found.betas[1:], predictor([photo], [BOX]).betas, atol=1e-6)


def test_batches_do_not_matter(tiny_export, predictor, photo):
    boxes = [[x, 5.0, 30.0, 40.0] for x in range(7)]
    together = predictor([photo] * 7, boxes)
    pieces = Predictor(tiny_export, provider="cpu", batch_size=3)
    sizes = []
    run = pieces.session.run
    pieces.session.run = lambda images: sizes.append(len(images)) or run(images)
    assert_same(pieces([photo] * 7, boxes), together, atol=1e-5)
    assert sizes == [3, 3, 1]


def test_batches_on_a_gpu_are_padded_to_buckets(tiny_export, predictor, photo):
    padded = Predictor(tiny_export, provider="cpu", batch_size=10)
    padded._pads = True  # as on a GPU
    sizes = []
    run = padded.session.run
    padded.session.run = lambda images: sizes.append(len(images)) or run(images)
    boxes = [[x, 5.0, 30.0, 40.0] for x in range(12)]
    assert_same(padded([photo] * 12, boxes), predictor([photo] * 12, boxes), atol=1e-5)
    assert sizes == [16, 8]  # 32 would be more than was verified
    assert [pad_to_bucket(n) for n in (1, 2, 8, 9, 128, 200)] == [1, 8, 8, 32, 128, 200]
    assert sorted(GPU_BUCKETS) == list(GPU_BUCKETS)


def test_nobody_is_an_empty_answer(predictor):
    nobody = predictor([], [])
    assert len(nobody) == 0
    assert nobody.vertices.shape == (0, 6890, 3)
    assert nobody.joints_2d_px.shape == (0, 45, 2)


@pytest.mark.parametrize(
    ("photos", "boxes", "kind", "words"),
    [
        ("photo.jpg", None, TypeError, "must be a sequence"),
        ([np.zeros((5, 5, 3), np.uint8)], [[1, 2, 3]], ValueError, r"boxes must be \[1, 4\]"),
        ([np.zeros((5, 5, 3), np.uint8)], [["a"] * 4], ValueError, "boxes must be numbers"),
    ],
)
def test_wrong_calls_are_refused(predictor, photos, boxes, kind, words):
    with pytest.raises(kind, match=words):
        predictor(photos, boxes)


def test_predictions_are_saved_without_pickles(predictor, photo, tmp_path):
    found = predictor([photo, b"no"], [BOX, BOX])
    found.save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["rotmat"], found.rotmat)
        assert list(file["message"]) == list(found.message)
        assert len(file["joint_names"]) == 45


def test_serving_runs_where_torch_is_not(tiny_export, tmp_path):
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(tmp_path / "a.png")
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from eft_fast.cli import main\n"
        f"assert main(['predict', {str(tmp_path)!r}, '--model', {str(tiny_export)!r}, '--out', "
        f"{str(tmp_path / 'p.npz')!r}]) == 0\n"
        f"assert main(['verify', {str(tiny_export)!r}]) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "p.npz").stat().st_size > 1000
