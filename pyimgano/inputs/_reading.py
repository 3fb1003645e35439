"""One image file -> one array. Everything that can be wrong with a file is said here."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pyimgano.exceptions import ImageReadError
from pyimgano.inputs._formats import normalize_numpy_image, resize_image

#: Largest number of pixels of an image file. A file whose header says more is an error
#: before anything is decoded: a few kilobytes can claim to be gigabytes.
MAX_PIXELS = 2**28

#: Suffixes of the file kinds that are read, for listing folders.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

_SUPPORTED = "PNG, JPEG, TIFF, BMP or WebP"

# The plugins are called directly, not through Image.open: that would warn and refuse by
# Pillow's own global pixel limit, and try fifty decoders on bytes that nobody vouches for.
_PLUGINS = (
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
)

# What Pillow and zlib raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    ZeroDivisionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


def read_raw(path: str) -> np.ndarray:
    """Decode a file without losing anything.

    Returns
    -------
    ndarray
        uint8 or uint16; (H, W) for gray, (H, W, 3) in RGB order for colour, upright
        according to its orientation tag.

    Raises
    ------
    ImageReadError
    """
    data = _read_bytes(path)
    image = _open(path, data)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageReadError(
            path,
            f"is {width} x {height} pixels, more than MAX_PIXELS = {MAX_PIXELS}; "
            "cut it into tiles first",
        )
    if getattr(image, "n_frames", 1) > 1:
        raise ImageReadError(
            path, f"holds {image.n_frames} pages or frames; save each as a file of its own"
        )
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageReadError(
            path,
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damaged files would be filled up "
            "with grey unnoticed; set it to False",
        )
    try:
        return _decode(path, data, image)
    except ImageReadError:
        raise
    except _DECODE_ERRORS as error:
        raise ImageReadError(path, f"is truncated or damaged ({error})") from error


def read_image(path: str, u16_max: int, resize: tuple[int, int] | None) -> np.ndarray:
    """Decode a file to a canonical image: uint8 RGB of shape (H, W, 3)."""
    raw = read_raw(path)
    colour = "gray" if raw.ndim == 2 else "rgb"
    bits = 8 * raw.dtype.itemsize
    axes = "hw" if raw.ndim == 2 else "hwc"
    image = normalize_numpy_image(
        raw, f"{colour}_u{bits}_{axes}", u16_max=u16_max, where=f"file {path}"
    )
    return image if resize is None else resize_image(image, resize)


def _read_bytes(path: str) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageReadError(
                path, "is a directory, not an image file; use ImageSequence.from_folder"
            )
        if not stat.S_ISREG(mode):  # reading a pipe or a device could block for ever
            raise ImageReadError(path, "is not a regular file")
        with open(path, "rb") as file:
            data = file.read()
    except ImageReadError:
        raise
    except FileNotFoundError:
        raise ImageReadError(path, "does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageReadError(path, f"cannot be read ({error})") from error
    if not data:
        raise ImageReadError(path, "is empty (0 bytes)")
    return data


def _open(path: str, data: bytes) -> ImageFile.ImageFile:
    """Parse the header; nothing is decoded yet."""
    plugin = next((p for magic, p in _PLUGINS if data.startswith(magic)), None)
    if plugin is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        plugin = WebPImagePlugin.WebPImageFile
    if plugin is None:
        raise ImageReadError(path, f"is not an image file; supported are {_SUPPORTED}")
    try:
        return plugin(io.BytesIO(data))
    except _DECODE_ERRORS as error:
        raise ImageReadError(path, f"has a damaged or unsupported header ({error})") from error


def _decode(path: str, data: bytes, image: ImageFile.ImageFile) -> np.ndarray:
    if image.format == "PNG":
        critical = _check_png(path, data)
        if data[24] == 16 and data[25] != 0:  # bit depth, colour type: 16 bit, not gray
            image.load()  # finds damage that OpenCV passes over
            array = _opencv_u16(path, critical)
            return _orient(array, image.getexif().get(274, 1))
    if image.format == "TIFF":
        tags = image.tag_v2
        bits = tags.get(258, (1,))
        kinds = tags.get(339, (1,))
        if any(kind != 1 for kind in kinds) or max(bits) > 16:
            raise ImageReadError(
                path,
                f"is a TIFF with {max(bits)} bits of sample format {max(kinds)}; readable are "
                "unsigned integers of 8 or 16 bits. Load it yourself, pass arrays and declare "
                "their input_format",
            )
        if max(bits) == 16:
            if tags.get(262) not in (1, 2):
                raise ImageReadError(
                    path, "is a 16-bit TIFF that is neither RGB nor gray with zero as black"
                )
            if len(bits) > 1:
                orientation = tags.get(274, 1)
                image.load()
                return _orient(_opencv_u16(path, data), orientation)
    image.load()
    # Asked after loading: some versions of Pillow turn TIFFs upright themselves.
    orientation = image.getexif().get(274, 1)
    return _orient(_pixels(path, image), orientation)


def _pixels(path: str, image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") and mode != "I;16S":
        return np.asarray(image).astype(np.uint16)
    if mode == "I" and image.format == "PNG":  # 16-bit gray in older versions of Pillow
        return np.asarray(image).astype(np.uint16)
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        gray = mode in ("L", "LA")
        rgba = np.asarray(image.convert("RGBA"))
        _check_opaque(path, int(rgba[..., 3].min()), 255)
        return np.ascontiguousarray(rgba[..., 0] if gray else rgba[..., :3])
    if mode == "1":
        image = image.convert("L")
    elif mode == "P":
        image = image.convert("RGB")
    elif mode not in ("L", "RGB"):
        raise ImageReadError(
            path,
            f"has colour mode {mode}; readable are gray, RGB and palette images of 8 or 16 bits. "
            "Convert it to RGB first",
        )
    return np.array(image)


def _opencv_u16(path: str, data: bytes) -> np.ndarray:
    """Colour of 16 bits, which Pillow would cut to 8."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    try:
        array = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageReadError(path, f"is damaged or unsupported ({error})") from error
    if array is None or array.dtype != np.uint16:
        raise ImageReadError(path, "is a 16-bit image that OpenCV cannot decode")
    if array.ndim == 2:
        return array
    if array.shape[2] == 4:
        _check_opaque(path, int(array[..., 3].min()), 65535)
    return np.ascontiguousarray(array[..., 2::-1])


def _check_opaque(path: str, alpha: int, opaque: int) -> None:
    if alpha < opaque:
        raise ImageReadError(
            path,
            "has transparent pixels, and what is behind them is not known; save it without "
            "an alpha channel",
        )


def _check_png(path: str, data: bytes) -> bytes:
    """Check every chunk's checksum; return the file without its ancillary chunks.

    Decoders skip checksums or print warnings about chunks that do not concern the pixels.
    """
    kept = [data[:8]]
    at = 8
    while True:
        if at + 12 > len(data):
            raise ImageReadError(path, "is truncated: the PNG ends before its end marker")
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise ImageReadError(path, "is truncated: the PNG ends before its end marker")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageReadError(path, f"is damaged: wrong checksum in PNG chunk {kind!r}")
        if not kind[0] & 32 or kind == b"tRNS":  # upper case first letter: critical
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end


def _orient(array: np.ndarray, orientation: object) -> np.ndarray:
    """Turn upright what the EXIF orientation tag says is stored turned or mirrored."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
