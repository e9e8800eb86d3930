"""Read photos of any common kind as 8-bit RGB."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

    ImageSource: TypeAlias = (
        str | os.PathLike[str] | bytes | IO[bytes] | np.ndarray | Image.Image | Tensor
    )

#: Photos with more pixels are refused before they are decoded: a small file may unfold to a giant.
MAX_PIXELS: Final = 178_956_970

_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"

#: What brings a picture with each EXIF orientation upright.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource) -> UInt8[np.ndarray, "H W 3"]:
    """Read a photo as 8-bit RGB, the way up in which a viewer shows it.

    The EXIF orientation is applied. Gray, palette and CMYK pictures become RGB; 16-bit values are
    scaled to 8 bits, not clipped; transparent parts are laid over black, the colour that a crop has
    outside of the photo. Colour profiles are not applied, and of several frames the first is taken.

    Args:
        source: A file, an opened one, the bytes of one, a Pillow picture, or an array ``[H, W]``,
            ``[H, W, 1]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA) of uint8, uint16, or floats
            in [0, 1]; or a torch tensor of such numbers, also ``[C, H, W]``.

    Returns:
        The pixels. A uint8 array ``[H, W, 3]`` comes back as it is, not copied.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or array is not a whole picture.
        TypeError: If ``source`` is of another kind.
    """
    plain = plain_image(source)
    if isinstance(plain, np.ndarray):
        return _array_to_rgb(plain)
    if isinstance(plain, Image.Image):
        return _picture_to_rgb(plain, "the picture")
    with _open_picture(plain) as picture:
        return _picture_to_rgb(picture, _name_of(plain))


def plain_image(source: Any) -> Any:
    """What is no path, bytes, picture or array as one of these; everything else as it is.

    Opened binary files are read from where they stand to their end, and stay open. A torch tensor
    becomes an array; ``[C, H, W]``, torch's own order, is turned, also where the last axis could
    be channels as well.

    Raises:
        ValueError: If the file is closed, or holds text; if the tensor is sparse or has no numbers.
    """
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        try:
            tensor = source.detach().cpu()
            # numpy has no bfloat16.
            array = np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
        except (TypeError, RuntimeError) as error:  # sparse, quantised, or without numbers ("meta")
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"load_image: a torch tensor must hold its pixels one by one, got one of layout "
                f"{source.layout} on {source.device} ({reason:.120})"
            ) from None
        is_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        return np.ascontiguousarray(np.moveaxis(array, 0, 2)) if is_first else array
    if hasattr(source, "read") and not isinstance(source, np.ndarray | Image.Image | os.PathLike):
        try:
            data = source.read()
        except (OSError, ValueError) as error:
            raise ValueError(f"load_image: the opened file cannot be read ({error})") from None
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ValueError(
                f"load_image: an opened file must give bytes, got {type(data).__name__}; open it "
                'with mode "rb"'
            )
        if not len(data):
            raise ValueError(
                "load_image: the opened file has nothing left to read; open it anew, or call "
                ".seek(0)"
            )
        return bytes(data)
    return source


def load_image_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Width and height that ``load_image`` will give, from the head of the file alone."""
    with _open_picture(source) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):
            # Some versions of Pillow turn the size of a TIFF already; its tags never are.
            width, height = int(picture.tag_v2[256]), int(picture.tag_v2[257])
        elif isinstance(picture, PngImageFile):
            _read_late_words(picture)
        is_turned = _orientation(picture) >= 5
    return (height, width) if is_turned else (width, height)


def _read_late_words(picture: PngImageFile) -> None:
    """Read EXIF and texts that stand behind a PNG's pixels, as Pillow does after decoding them.

    They are read from a picture of one pixel, so that a small file that unfolds to a giant costs
    nothing before its size is known.
    """
    file, words, is_behind = picture.fp, [], False
    if file is None:
        return
    file.seek(len(_PNG_MAGIC))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        is_next_frame = is_behind and kind == b"fcTL" and getattr(picture, "is_animated", False)
        if kind == b"IEND" or is_next_frame or not re.match(rb"\w{4}", kind):
            break
        if is_behind and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            words.append(_chunk(kind, file.read(length)))
            length = 0
        is_behind = is_behind or kind == b"IDAT"
        file.seek(length + 4, os.SEEK_CUR)
    if words:
        pixel = [_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))]
        pixel.append(_chunk(b"IDAT", zlib.compress(b"\0\0")))
        with Image.open(io.BytesIO(b"".join([_PNG_MAGIC, *pixel, *words, _chunk(b"IEND")]))) as one:
            with contextlib.suppress(Exception):  # Damaged words turn nothing.
                one.load()
            picture.info.update(one.info)


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _name_of(source: str | os.PathLike[str] | bytes) -> str:
    return f"the {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def _open_picture(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Open a file without decoding it, and refuse in words what is not a picture."""
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise TypeError(
            "load_image: source must be a path, an opened file, bytes, a Pillow picture, a numpy "
            f"array or a torch tensor, got {type(source).__name__}"
        )
    name = _name_of(source)
    if not isinstance(source, bytes):
        path = Path(source)
        if path.is_dir():
            raise ValueError(f"load_image: expected a picture file, got the folder {name}")
        if not path.exists():
            raise FileNotFoundError(f"load_image: no file {name}")
        if path.stat().st_size == 0:
            raise ValueError(f"load_image: {name} is empty (0 bytes)")
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        raise ValueError(
            f"load_image: {name} is not a picture that Pillow can read, whatever its name says"
        ) from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"load_image: {name} has more pixels than Pillow's limit allows; shrink it first"
        ) from None
    except PermissionError as error:
        raise ValueError(f"load_image: {name} cannot be opened ({error.strerror})") from None
    except Exception as error:  # Pillow's readers raise many kinds on a damaged head.
        raise ValueError(f"load_image: {name} is damaged ({_one_line(error)})") from None
    # Pillow's own limit may have been lifted by the program around us.
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(
            f"load_image: {name} is {picture.width} x {picture.height}, more than {MAX_PIXELS} "
            "pixels; shrink it first"
        )
    return picture


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or where the EXIF block is unreadable."""
    try:
        # That of a PNG would decode the picture in search of EXIF behind its pixels.
        value = Image.Image.getexif(picture).get(0x0112, 1)
    except Exception:  # A damaged EXIF block must not cost a picture whose pixels are whole.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _picture_to_rgb(picture: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    try:
        picture.load()
    except Exception as error:  # Truncated and damaged data raise OSError, SyntaxError and others.
        raise ValueError(f"load_image: {name} is damaged or cut off ({_one_line(error)})") from None
    # Asked after load, because Pillow itself turns a TIFF there and then drops the tag.
    orientation = _orientation(picture)
    if orientation != 1:
        picture = picture.transpose(_TURNS[orientation])
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _array_to_rgb(_deep_to_array(picture, name))
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        return _array_to_rgb(np.asarray(picture.convert("RGBA")))
    return np.array(picture.convert("RGB"))


def _deep_to_array(picture: Image.Image, name: str) -> np.ndarray:
    """Gray pictures of more than 8 bits, as uint16, or as floats that must lie in [0, 1]."""
    pixels = np.asarray(picture)
    if picture.mode == "F":
        return pixels
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise ValueError(
            f"load_image: {name} has 32-bit pixels from {pixels.min()} to {pixels.max()}, expected "
            "0 to 65535; save it with 16 bits"
        )
    return pixels.astype(np.uint16)


def _array_to_rgb(pixels: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    shape = list(pixels.shape)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = "; move the channels last" if pixels.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise ValueError(f"load_image: an array must be [H, W, 3], got {shape}{hint}")
    if pixels.size == 0:
        raise ValueError(f"load_image: an array must have pixels, got {shape}")
    eight = _to_uint8(pixels)
    if eight.ndim == 2:
        eight = eight[:, :, None]
    if eight.shape[2] == 1:
        return np.repeat(eight, 3, axis=2)
    if eight.shape[2] == 4:
        alpha = eight[:, :, 3:].astype(np.uint16)
        return ((eight[:, :, :3] * alpha + 127) // 255).astype(np.uint8)
    return eight


def _to_uint8(pixels: np.ndarray) -> UInt8[np.ndarray, "..."]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise TypeError(
            f"load_image: pixels must be uint8, uint16 or floats in [0, 1], got {pixels.dtype}"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails
        raise ValueError(
            f"load_image: float pixels must lie in [0, 1], got {low:g} to {high:g}; pass uint8 for "
            "values up to 255"
        )
    return np.rint(pixels * 255.0).astype(np.uint8)
