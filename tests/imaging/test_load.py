"""Photos of every kind to upright 8-bit RGB."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from eft_fast import imaging
from eft_fast.imaging import load_image


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth RGB picture whose four corners all differ."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [x * 255 / (width - 1), y * 255 / (height - 1), np.full_like(x, 60)], axis=-1
    ).astype(np.uint8)


def test_load_png_is_exact(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.writeable
        np.testing.assert_array_equal(loaded, gradient())
    np.testing.assert_array_equal(load_image(Image.fromarray(gradient())), gradient())


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_applies_exif_orientation(tmp_path: Path, orientation: int, ending: str) -> None:
    """The stored picture is the upright one, moved by the inverse of the tag's meaning."""
    upright = gradient(48, 64)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=98)
    loaded = load_image(path)
    assert loaded.shape == upright.shape
    assert np.abs(loaded.astype(int) - upright).mean() < 2.0
    assert imaging.load_image_size(path) == (64, 48)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


XMP = (
    b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description "
    b'tiff:Orientation="8"/></x:xmpmeta>'
)


@pytest.mark.parametrize("early", [None, 1, 6])
@pytest.mark.parametrize("late", [b"eXIf", b"iTXt", b"tEXt", b"?", None])
def test_the_size_of_a_png_is_known_before_it_is_decoded(
    early: int | None, late: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EXIF may stand behind the pixels, where Pillow looks for it by decoding them all."""
    exif = Image.Exif()
    file = io.BytesIO()
    if early is not None:
        exif[0x0112] = early
        Image.fromarray(gradient(48, 64)).save(file, "PNG", exif=exif)
    else:
        Image.fromarray(gradient(48, 64)).save(file, "PNG")
    data, end = file.getvalue()[:-12], file.getvalue()[-12:]
    exif[0x0112] = 5
    if late == b"eXIf":
        data += chunk(late, exif.tobytes()[6:])
    elif late is not None:
        data += chunk(late, XMP if late == b"iTXt" else b"Title\0word")
    data += end
    expected = load_image(data).shape[1::-1]
    decoded, decode = [], PngImageFile.load_prepare

    def watch(picture: PngImageFile) -> None:
        decoded.append(picture.size)
        decode(picture)

    monkeypatch.setattr(PngImageFile, "load_prepare", watch)
    assert imaging.load_image_size(data) == expected
    assert (64, 48) not in decoded


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_load_survives_broken_exif(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xffgarbage")
    assert load_image(tmp_path / "a.jpg").shape == (40, 60, 3)


def test_load_gray_palette_bilevel(tmp_path: Path) -> None:
    gray = gradient()[:, :, 0]
    Image.fromarray(gray).save(tmp_path / "gray.jpg", quality=98)
    loaded = load_image(tmp_path / "gray.jpg")
    assert np.ptp(loaded, axis=2).max() == 0
    assert np.abs(loaded[:, :, 0].astype(int) - gray).max() < 8

    Image.fromarray(gradient()).quantize(64).save(tmp_path / "palette.png")
    assert np.abs(load_image(tmp_path / "palette.png").astype(int) - gradient()).mean() < 12

    Image.fromarray(gray > 99).save(tmp_path / "bilevel.png")
    assert set(np.unique(load_image(tmp_path / "bilevel.png"))) == {0, 255}


def test_load_cmyk(tmp_path: Path) -> None:
    solid = np.zeros((32, 32, 3), np.uint8) + np.array([200, 90, 30], np.uint8)
    for name in ("cmyk.jpg", "cmyk.tif"):
        Image.fromarray(solid).convert("CMYK").save(tmp_path / name)
        assert np.abs(load_image(tmp_path / name).astype(int) - solid).max() <= 4


def test_load_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64 * 4).reshape(4, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        loaded = load_image(tmp_path / name)
        np.testing.assert_array_equal(loaded[:, :, 1], np.rint(deep / 257.0).astype(np.uint8))


def test_load_16_bit_rgb(tmp_path: Path) -> None:
    """Pillow cannot write this kind, so the file is put together by hand."""
    import struct
    import zlib

    deep = (gradient(8, 8).astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    loaded = load_image(png + chunk(b"IEND", b""))
    np.testing.assert_array_equal(loaded, gradient(8, 8))


def test_load_lays_transparent_parts_over_black(tmp_path: Path) -> None:
    rgba = np.dstack([gradient(), np.full((40, 60), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    rgba[20:30, :, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    loaded = load_image(tmp_path / "alpha.png")
    assert not loaded[:20].any()
    assert np.abs(loaded[20:30] - gradient()[20:30] * (128 / 255)).max() <= 1
    np.testing.assert_array_equal(loaded[30:], gradient()[30:])
    np.testing.assert_array_equal(load_image(rgba), loaded)

    palette = Image.fromarray(gradient()).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert not load_image(tmp_path / "palette.png")[0, 0].any()


def test_load_float_tiff(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 0.5, np.float32)).save(tmp_path / "float.tif")
    assert (load_image(tmp_path / "float.tif") == 128).all()
    Image.fromarray(np.full((4, 5), 99.0, np.float32)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 99 to 99"):
        load_image(tmp_path / "wide.tif")
    Image.fromarray(np.full((4, 5), 70000, np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(ValueError, match="32-bit pixels from 70000 to 70000"):
        load_image(tmp_path / "int.tif")


def test_load_array_kinds() -> None:
    rgb = gradient()
    assert load_image(rgb) is rgb
    np.testing.assert_array_equal(load_image(rgb.astype(np.uint16) * 257), rgb)
    np.testing.assert_array_equal(load_image(rgb / 255.0), rgb)
    np.testing.assert_array_equal(load_image((rgb / 255.0).astype(np.float32)), rgb)
    for gray in (rgb[:, :, 0], rgb[:, :, :1]):
        np.testing.assert_array_equal(load_image(gray), np.repeat(rgb[:, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    ("pixels", "kind", "words"),
    [
        (np.zeros((3, 8, 9), np.uint8), ValueError, r"got \[3, 8, 9\]; move the channels last"),
        (np.zeros((8, 9, 2), np.uint8), ValueError, r"must be \[H, W, 3\], got \[8, 9, 2\]"),
        (np.zeros((2, 8, 9, 3), np.uint8), ValueError, r"got \[2, 8, 9, 3\]"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"must have pixels"),
        (np.full((8, 9, 3), 255.0), ValueError, r"\[0, 1\], got 255 to 255; pass uint8"),
        (np.full((8, 9, 3), -0.1), ValueError, r"\[0, 1\], got -0.1"),
        (np.full((8, 9, 3), np.nan), ValueError, r"\[0, 1\], got nan"),
        (np.zeros((8, 9, 3), np.int64), TypeError, "uint8, uint16 or floats .* got int64"),
        (np.zeros((8, 9, 3), bool), TypeError, "got bool"),
        ([[1, 2], [3, 4]], TypeError, "must be a path, an opened file, .* got list"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_load_refuses_other_arrays(pixels: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        load_image(pixels)  # type: ignore[arg-type]


def write_bad_files(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(
        folder / "whole.jpg"
    )
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "stub.jpg").write_bytes(whole[:100])
    Image.open(folder / "whole.jpg").save(folder / "progressive.jpg", progressive=True)
    whole = (folder / "progressive.jpg").read_bytes()
    (folder / "progressive.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    for name in ("png", "webp", "gif", "tif", "bmp"):
        Image.open(folder / "whole.jpg").save(folder / f"half.{name}")
        whole = (folder / f"half.{name}").read_bytes()
        (folder / f"half.{name}").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not a picture\n")
    (folder / "folder.jpg").mkdir()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("missing.jpg", FileNotFoundError, "no file"),
        ("empty.jpg", ValueError, r"is empty \(0 bytes\)"),
        ("text.jpg", ValueError, "is not a picture that Pillow can read"),
        ("folder.jpg", ValueError, "expected a picture file, got the folder"),
        ("half.jpg", ValueError, "is damaged or cut off"),
        ("stub.jpg", ValueError, "is (damaged|not a picture)"),
        ("progressive.jpg", ValueError, "is damaged or cut off"),
        ("half.png", ValueError, "is damaged or cut off"),
        ("half.webp", ValueError, "is (damaged|not a picture)"),
        ("half.gif", ValueError, "is damaged or cut off"),
        ("half.tif", ValueError, "is (damaged|not a picture)"),
        ("half.bmp", ValueError, "is damaged or cut off"),
    ],
)
def test_load_refuses_bad_files(
    tmp_path: Path, name: str, kind: type[Exception], words: str
) -> None:
    write_bad_files(tmp_path)
    with pytest.raises(kind, match=words) as caught:
        load_image(tmp_path / name)
    message = str(caught.value)
    assert message.startswith("load_image: ")
    assert name in message
    assert "\n" not in message
    assert "!" not in message


def test_load_refuses_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 20 kB that would unfold to 600 MB; also if Pillow's own limit is lifted."""
    side = 14_200
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    with pytest.raises(ValueError, match="more pixels than Pillow's limit"):
        load_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match=f"is {side} x {side}, more than"):
        load_image(tmp_path / "bomb.png")


def test_load_names_bytes() -> None:
    with pytest.raises(ValueError, match="the 5 bytes is not a picture"):
        load_image(b"hello")


def test_load_from_a_stream_of_jpeg_bytes() -> None:
    stream = io.BytesIO()
    Image.fromarray(gradient()).save(stream, "JPEG", quality=98)
    assert load_image(stream.getvalue()).shape == (40, 60, 3)
