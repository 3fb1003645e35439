"""One image file -> one array. Everything that can be wrong with a file is said here."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.inputs._completeness import (
    CODESTREAM,
    MAX_PIXELS,
    check_complete,
    codestream_start,
    png_chunks,
)
from pyimgano.inputs._formats import describe, normalize_numpy_image, resize_image
from pyimgano.inputs._png import TAG_CHUNKS, read_plain_png
from pyimgano.utils._files import kind_of, open_at_once
from pyimgano.utils._stages import timed

#: Largest number of pixels of an image file. A file whose header says more is an error
#: before anything is decoded: a few kilobytes can claim to be gigabytes.

#: Suffixes of the file kinds that are read. The suffix only decides which files of a folder are
#: listed; what a file is, its first bytes say.
READABLE = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
        *(".pbm", ".pgm", ".ppm", ".pnm", ".gif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    )
)

#: Suffixes of everything that is a picture. One that cannot be read is listed all the same, so
#: that it becomes an error with a name and is not left out in silence.
PICTURES = READABLE | frozenset(
    (
        *(".apng", ".avif", ".dcm", ".exr", ".hdr", ".heic", ".heif", ".ico", ".jxl", ".jxr"),
        *(".pcx", ".pfm", ".psd", ".svg", ".tga"),
        *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),  # cameras
    )
)

# TIFF and EXIF tags
_ORIENTATION = 274
_COMPRESSION = 259
_LOSSY_TIFF = frozenset((6, 7, 50001))  # JPEG, old and new, and WebP
# Of a TIFF of 16-bit color, what Pillow needs to take it for one of 8 bits and twice the width:
# size, compression, photometric, fill order, strips, samples, planes, tiles. The others say how
# to show it, or are written anew.
_WIDTHS = (256, 322)  # of the image and of its tiles, if it has any
_PIXEL_TAGS = frozenset((256, 257, 259, 262, 266, 273, 277, 278, 279, 284, 322, 323, 324, 325))
_BITS_PER_SAMPLE, _PREDICTOR, _EXTRA_SAMPLES, _PLANES = 258, 317, 338, 284

_SUPPORTED = "PNG, JPEG, TIFF, BMP, WebP, PNM (PBM, PGM, PPM), GIF and JPEG 2000"
_WAY_OUT = "Convert it to PNG or TIFF with the software that made it"
_PILLOWS_LIMIT = "is larger than PIL.Image.MAX_IMAGE_PIXELS allows; raise it"

# The plugins are called directly, not through Image.open: that would warn and refuse by
# Pillow's own global pixel limit, and try fifty decoders on bytes that nobody vouches for.
_PLUGINS = (
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"(\x00\x00\x00", BmpImagePlugin.DibImageFile),  # a BMP without its file header
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile),
    (CODESTREAM, Jpeg2KImagePlugin.Jpeg2KImageFile),
)

# Pictures that are recognized but not read: where their first bytes stand, and their names.
_KNOWN = (
    (0, b"II+\x00", "a BigTIFF"),
    (0, b"MM\x00+", "a BigTIFF"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftypcrx", "the raw data of a camera"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (0, b"II\xbc", "a JPEG XR image"),
    (0, b"IIR", "the raw data of a camera"),
    (0, b"IIU\x00", "the raw data of a camera"),
    (0, b"FUJIFILM", "the raw data of a camera"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\x00\x00\x01\x00", "an icon"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"PF\n", "a PFM image"),
    (0, b"Pf\n", "a PFM image"),
    (0, b"P7\n", "a PAM image"),
    (0, b"%PDF", "a PDF document"),
)

_NO_MEMORY = (
    "cannot be decoded because the memory is used up, which says nothing about the file; free "
    "memory, or read fewer or smaller images at a time"
)

_T = TypeVar("_T")

# Pillow logs some of what it then raises. Without a handler, logging would print it.
logging.getLogger("PIL").addHandler(logging.NullHandler())

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
        uint8 or uint16; (H, W) for gray, (H, W, 3) in RGB order for color, upright
        according to its orientation tag.

    Raises
    ------
    ImageReadError
    """
    return decode_file(path).pixels


class DecodedFile(NamedTuple):
    """The content of an image file.

    Parameters
    ----------
    pixels : ndarray
        As from :func:`read_raw`.
    lossy : bool
        Whether the compression has changed the pixels: True for JPEG, JPEG 2000, WebP unless it
        is lossless, and TIFFs that hold JPEG or WebP.
    kind : str
        Name of the file format, by what the file holds, whatever its suffix says.
    """

    pixels: np.ndarray
    lossy: bool
    kind: str


# Pillow's names that are not the usual ones.
_USUAL_NAMES = {"MPO": "JPEG", "JPEG2000": "JPEG 2000", "WEBP": "WebP", "PPM": "PNM", "DIB": "BMP"}


def decode_file(path: str) -> DecodedFile:
    """Decode a file without losing anything, and tell how it was stored.

    Returns
    -------
    DecodedFile

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
    n_frames = _tolerant(path, lambda: getattr(image, "n_frames", 1))
    if n_frames > 1:
        raise ImageReadError(
            path, f"holds {n_frames} pages or frames; save each as a file of its own"
        )
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageReadError(
            path,
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damaged files would be filled up "
            "with gray unnoticed; set it to False",
        )
    lossy = _tolerant(path, lambda: _is_lossy(data, image))
    pixels = _tolerant(path, lambda: _decode(path, data, image))
    return DecodedFile(pixels, lossy, _USUAL_NAMES.get(image.format, image.format))


def read_image(path: str, u16_max: int, resize: tuple[int, int] | None) -> np.ndarray:
    """Decode a file to a canonical image: uint8 RGB of shape (H, W, 3)."""
    try:
        with timed("load"):
            raw = read_raw(path)
        with timed("preprocess"):
            image = as_canonical(raw, u16_max, f"file {path}")
            return image if resize is None else resize_image(image, resize)
    except (MemoryError, cv2.error) as error:
        if not _lacks_memory(error):
            raise
        raise ImageReadError(path, _no_memory(error)) from error


def as_canonical(raw: np.ndarray, u16_max: int, where: str) -> np.ndarray:
    """Make canonical what ``read_raw`` or ``pil_pixels`` gives."""
    kind = "gray_u{}_hw" if raw.ndim == 2 else "rgb_u{}_hwc"
    declared = kind.format(8 * raw.dtype.itemsize)
    return normalize_numpy_image(raw, declared, u16_max=u16_max, where=where)


def pil_pixels(image: Image.Image, where: str) -> np.ndarray:
    """Give the pixels of a PIL image, which says its own layout like a file.

    Returns
    -------
    ndarray
        As from ``read_raw``.

    Raises
    ------
    ImageFormatError
        When it has transparent pixels, a mode that is neither gray, RGB nor palette, or is
        not decoded yet and cannot be.
    """
    try:
        image.load()
        array = _pixels(where, image)
    except ImageReadError as error:
        raise ImageFormatError(f"{where}, {describe(image)}, {error.reason}") from error
    except _DECODE_ERRORS as error:
        raise ImageFormatError(f"{where}, {describe(image)}, is damaged ({error})") from error
    if not array.size:
        raise ImageFormatError(f"{where} is {describe(image)}; it must have at least one pixel")
    return _orient(array, image.getexif().get(_ORIENTATION, 1))


def read_size(path: str) -> tuple[int, int]:
    """Height and width of the image that ``read_raw`` gives, without decoding it."""
    data = _read_bytes(path)
    image = _open(path, data)
    return _tolerant(path, lambda: _upright_size(path, data, image))


def _upright_size(path: str, data: bytes, image: Any) -> tuple[int, int]:
    if image.format == "TIFF":
        # From the tags: versions of Pillow differ in when they turn image.size.
        tags = image.tag_v2
        width, height = int(tags[256]), int(tags[257])
        orientation = tags.get(_ORIENTATION, 1)
    else:
        width, height = image.size
        if image.format == "PNG":
            orientation = _orientation_of_png(path, data)
        else:
            orientation = image.getexif().get(_ORIENTATION, 1)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _orientation_of_png(path: str, data: bytes) -> object:
    """Read the tag from a PNG of one pixel with the tags of this one.

    Some come after the pixels, and Pillow decodes all pixels to see those.
    """
    tags = [data[at:end] for kind, at, end in png_chunks(path, data) if kind in TAG_CHUNKS]
    if not tags:
        return 1
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = _png_chunk(b"IDAT", zlib.compress(b"\0\0"))
    whole = b"".join([data[:8], header, *tags, pixel, _png_chunk(b"IEND", b"")])
    image: Any = PngImagePlugin.PngImageFile(io.BytesIO(whole))
    return image.getexif().get(_ORIENTATION, 1)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _tolerant(path: str, step: Callable[[], _T]) -> _T:
    """Run a step of decoding; whatever the decoder raises is a damaged file."""
    try:
        return step()
    except ImageReadError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, for TIFF and GIF only
        raise ImageReadError(path, f"{_PILLOWS_LIMIT} ({error})") from error
    except (*_DECODE_ERRORS, MemoryError) as error:
        if _lacks_memory(error):
            raise ImageReadError(path, _no_memory(error)) from error
        raise ImageReadError(path, f"is truncated or damaged ({error})") from error


def _no_memory(error: BaseException) -> str:
    """Say what there is to do; an image may be small, and what it takes to decode it large."""
    what = str(error) if isinstance(error, MemoryError) else ""
    return f"{_NO_MEMORY} ({what})" if what else _NO_MEMORY


def _lacks_memory(error: BaseException) -> bool:
    """Tell whether a decoder ran out of memory: Pillow says so in words, OpenCV by a code."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, MemoryError) or "out of memory" in str(error)


@contextmanager
def open_image_file(path: str) -> Iterator[BinaryIO]:
    """Open a regular file; never wait for a pipe or a device.

    Parameters
    ----------
    path : str

    Yields
    ------
    file
        What is looked at and what is read are the same file, whatever becomes of its name.

    Raises
    ------
    ImageReadError
        If there is no such file, or it cannot be opened or read.
    """
    try:
        handle = open_at_once(path)
        try:
            _check_kind(path, os.fstat(handle).st_mode)
            with open(handle, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(handle)
    except ImageReadError:
        raise
    except MemoryError as error:
        raise ImageReadError(path, _NO_MEMORY) from error
    except FileNotFoundError:
        if os.path.islink(path):
            raise ImageReadError(
                path, f"is a link to {os.readlink(path)}, which does not exist"
            ) from None
        raise ImageReadError(path, "does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if os.path.isdir(path):  # Windows does not open a folder
            _check_kind(path, stat.S_IFDIR)
        raise ImageReadError(path, f"cannot be read ({error})") from error


def _read_bytes(path: str) -> bytes:
    with open_image_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > 8 * MAX_PIXELS:  # bytes per pixel of 16-bit RGB with alpha
            raise ImageReadError(path, f"is {size} bytes, more than any image of MAX_PIXELS needs")
        data = file.read()
    if not data:
        raise ImageReadError(path, "is empty (0 bytes)")
    return data


def _check_kind(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ImageReadError(
            path, "is a directory, not an image file; use ImageSequence.from_folder"
        )
    kind = kind_of(mode)
    if kind is not None:
        raise ImageReadError(path, f"is not a regular file but {kind}")


def _open(path: str, data: bytes) -> Any:
    """Parse the header; nothing is decoded yet."""
    plugin: Any = next((p for magic, p in _PLUGINS if data.startswith(magic)), None)
    if plugin is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        plugin = WebPImagePlugin.WebPImageFile
    if plugin is None and re.match(rb"P[1-6][\s#]", data):
        plugin = PpmImagePlugin.PpmImageFile
    if plugin is None:
        name = next((n for at, magic, n in _KNOWN if data.startswith(magic, at)), None)
        if name is None and b"<svg" in data[:1024]:
            name = "an SVG drawing"
        if name is None:
            raise ImageReadError(path, f"is not an image file; supported are {_SUPPORTED}")
        raise ImageReadError(
            path, f"is {name}, which cannot be read. {_WAY_OUT}; supported are {_SUPPORTED}"
        )
    try:
        image = plugin(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageReadError(path, f"{_PILLOWS_LIMIT} ({error})") from error
    except MemoryError as error:
        raise ImageReadError(path, _NO_MEMORY) from error
    except _DECODE_ERRORS as error:
        # The decoder of WebP takes its memory here, and does not say why it fails.
        more = ", or the memory is used up" if plugin is WebPImagePlugin.WebPImageFile else ""
        raise ImageReadError(
            path, f"has a damaged or unsupported header{more} ({error})"
        ) from error
    if image.format == "TIFF":
        tags = image.tag_v2
        # 50706: version of DNG; 254: the first image is a preview of another one
        if data[8:10] == b"CR" or 50706 in tags or tags.get(254, 0) == 1:
            raise ImageReadError(
                path, f"is the raw data of a camera, or a preview of it. {_WAY_OUT}"
            )
    return image


def _is_lossy(data: bytes, image: Any) -> bool:
    if image.format == "TIFF":
        return image.tag_v2.get(_COMPRESSION, 1) in _LOSSY_TIFF
    if image.format == "WEBP":
        return _has_lossy_webp_chunk(data)
    return image.format not in ("PNG", "BMP", "DIB", "PPM", "GIF")  # MPO is JPEG, too


def _has_lossy_webp_chunk(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        at += 8 + length + length % 2
    return True  # no pixels: the decoder says so


def _decode(path: str, data: bytes, image: Any) -> np.ndarray:
    array = None
    orientation = 1
    if image.format == "PPM":
        _check_full_white(path, data, image)
    elif image.format == "JPEG2000":
        _check_depth_of_jpeg2000(path, data)
    elif image.format == "PNG":
        array = read_plain_png(path, data)
        if array is not None:
            return _orient(array, _orientation_of_png(path, data))
    check_complete(path, data, image)
    if image.format == "PPM":
        array = _u16_color_of_pnm(data, image)
    elif image.format == "PNG":
        if data[24] == 16 and data[25] != 0:  # bit depth and color type: 16 bit, not gray
            image.load()  # finds damage in the pixels, and tags after them
            array = _u16_png(path, data)
    elif image.format == "TIFF" and _is_u16_color_tiff(path, image.tag_v2):
        orientation = image.tag_v2.get(_ORIENTATION, 1)
        return _orient(_u16_color_tiff(path, data, image.tag_v2), orientation)
    if array is None:
        image.load()
        array = _pixels(path, image)
    if image.format != "TIFF":  # Pillow turns TIFFs upright when it loads them
        orientation = image.getexif().get(_ORIENTATION, 1)
    transparent = image.info.get("transparency")
    if array.dtype == np.uint16 and transparent is not None:  # one color is see-through
        hit = array == np.asarray(transparent)
        _check_opaque(path, not (hit if array.ndim == 2 else hit.all(axis=2)).any())
    return _orient(array, orientation)


def _pixels(path: str, image: Any) -> np.ndarray:
    """The pixels of a loaded image of at most 8 bits, or of 16-bit gray."""
    mode = image.mode
    if mode in ("I;16", "I;16L", "I;16B", "I;16N") or (
        mode == "I" and image.format in ("PNG", "PPM")
    ):
        return np.asarray(image).astype(np.uint16)
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA"):
        rgba = np.asarray(image.convert("RGBA"))
        _check_opaque(path, int(rgba[..., 3].min()) == 255)
        return rgba[..., 0] if mode in ("1", "L", "LA") else rgba[..., :3]
    if mode == "1":
        image = image.convert("L")
    elif mode == "P":
        image = image.convert("RGB")
    elif mode not in ("L", "RGB"):
        raise ImageReadError(
            path,
            f"has color mode {mode}; readable are gray, RGB and palette images of 8 or 16 bits. "
            "Convert it to RGB first",
        )
    return np.asarray(image)


def _u16_png(path: str, data: bytes) -> np.ndarray:
    """Color of 16 bits, which Pillow would cut to 8."""
    pixels = np.frombuffer(_png_of_pixels_alone(path, data), dtype=np.uint8)
    try:
        array = cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if _lacks_memory(error):
            raise ImageReadError(path, _NO_MEMORY) from error
        raise ImageReadError(path, f"is damaged or unsupported ({error})") from error
    if array is None or array.dtype != np.uint16:
        raise ImageReadError(
            path, "is a 16-bit color image that is damaged or of an unsupported kind"
        )
    if array.ndim == 2:
        return array
    if array.shape[2] == 4:
        _check_opaque(path, int(array[..., 3].min()) == 65535)
    return array[..., 2::-1]


def _u16_color_tiff(path: str, data: bytes, tags: Any) -> np.ndarray:
    """Color of 16 bits, which Pillow would cut to 8.

    To Pillow it is an image of 8 bits and twice the width, whose bytes are then put together.
    """
    predictor = tags.get(_PREDICTOR, 1)
    if predictor not in (1, 2):
        raise ImageReadError(path, f"is a 16-bit color TIFF with predictor {predictor}. {_WAY_OUT}")
    image: Any = TiffImagePlugin.TiffImageFile(io.BytesIO(_as_u8_tiff(data, tags)))
    image.load()
    samples = np.asarray(image)
    height, width, n_samples = samples.shape[0], samples.shape[1] // 2, samples.shape[2]
    order = "<" if data[:1] == b"I" else ">"
    if tags.get(_PLANES, 1) == 2:  # each sample has a plane of its own
        planes = np.ascontiguousarray(samples.transpose(0, 2, 1))
        array = planes.view(order + "u2").transpose(0, 2, 1)
    else:
        pairs = np.ascontiguousarray(samples).reshape(height, -1).view(order + "u2")
        array = pairs.reshape(height, width, n_samples)
    array = array.astype(np.uint16)
    if predictor == 2:  # differences to the pixel on the left, in each tile
        step = int(tags.get(_WIDTHS[1], width))
        for left in range(0, width, step):
            tile = array[:, left : left + step]
            np.cumsum(tile, axis=1, out=tile)
    if n_samples in (2, 4):
        _check_opaque(path, int(array[..., -1].min()) == 65535)
        array = array[..., :-1]
    return array[..., 0] if array.shape[2] == 1 else array


def _is_u16_color_tiff(path: str, tags: Any) -> bool:
    """Return True if a TIFF is 16-bit color; kinds that cannot be read exactly are errors."""
    bits = tags.get(258, (1,))
    sample_formats = tags.get(339, (1,))
    if max(bits) > 16 or any(f != 1 for f in sample_formats):
        names = {1: "unsigned integer", 2: "signed integer", 3: "floating point"}
        kind = names.get(max(sample_formats), "undefined")
        raise ImageReadError(
            path,
            f"is a TIFF of {max(bits)}-bit {kind} values; readable are unsigned integers of 8 "
            "or 16 bits. Load it yourself, pass arrays and declare their input_format",
        )
    if max(bits) > 8 and tags.get(262) not in (1, 2):
        raise ImageReadError(
            path, "is a 16-bit TIFF that is neither RGB nor gray with zero as black"
        )
    return max(bits) > 8 and len(bits) > 1


def _check_opaque(path: str, opaque: bool) -> None:
    if not opaque:
        raise ImageReadError(
            path,
            "has transparent pixels, and what is behind them is not known; save it without "
            "an alpha channel",
        )


def _png_of_pixels_alone(path: str, data: bytes) -> bytes:
    """The PNG without the chunks that OpenCV's libpng may print a message about."""
    header, stream = b"", []
    for kind, at, end in png_chunks(path, data):
        if kind == b"IHDR":
            header = data[at:end]
        elif kind == b"IDAT":
            stream.append(data[at + 8 : end - 4])
        elif kind == b"IEND":
            body = b"IDAT" + b"".join(stream)
            pixels = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
            return data[:8] + header + pixels + data[at:end]
    raise AssertionError("png_chunks ends with IEND")


def _pnm_header(data: bytes, image: Any) -> tuple[bytes, int]:
    """Kind of a PNM file and its value of full white."""
    tokens = re.sub(rb"#[^\r\n]*", b"", data[: image.tile[0][2]]).split()
    return tokens[0], 1 if tokens[0] in (b"P1", b"P4") else int(tokens[3])


def _check_full_white(path: str, data: bytes, image: Any) -> None:
    """Refuse a PNM file whose values Pillow would scale."""
    kind, full = _pnm_header(data, image)
    if full not in (1, 255, 65535) or (full == 1 and kind not in (b"P1", b"P4")):
        raise ImageReadError(
            path,
            f"is a PNM file whose full white is {full}; readable are 255 and 65535. Save it as "
            "a 16-bit PNG or TIFF, and declare u16_max where full white is less than 65535",
        )
    if kind == b"P3" and full == 65535:
        raise ImageReadError(path, f"is 16-bit color in a PNM file of text. {_WAY_OUT}")


def _u16_color_of_pnm(data: bytes, image: Any) -> np.ndarray | None:
    """The pixels of a PNM file that Pillow would cut to 8 bits; None if it would not."""
    if _pnm_header(data, image) != (b"P6", 65535):
        return None
    width, height = image.size
    pixels = np.frombuffer(data, ">u2", 3 * width * height, image.tile[0][2])
    return pixels.reshape(height, width, 3).astype(np.uint16)


def _check_depth_of_jpeg2000(path: str, data: bytes) -> None:
    """Refuse what Pillow would scale."""
    start = codestream_start(path, data)
    (count,) = struct.unpack_from(">H", data, start + 40)
    depths = [data[start + 42 + 3 * k] for k in range(count)]
    bits = max(depths) + 1 if max(depths) < 128 else 0  # the highest bit: signed values
    if len(set(depths)) > 1 or bits not in ((8, 16) if count == 1 else (8,)):
        kind = f"{bits}-bit" if bits else "signed"
        raise ImageReadError(
            path,
            f"is a JPEG 2000 file of {count} channels with {kind} values; readable are 8 bits, "
            f"and 16 bits in gray. {_WAY_OUT}",
        )


def _as_u8_tiff(data: bytes, tags: Any) -> bytes:
    """Declare a TIFF of 16-bit samples as one of 8 bits and twice the width.

    The offsets in the entries are those of the file, so another directory at its end is all it
    takes.
    """
    order = "<" if data[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(order + "H", data, at)
        if tag in _PIXEL_TAGS:
            entries[tag] = data[at : at + 12]
    for tag in _WIDTHS:
        if tag in entries:
            entries[tag] = struct.pack(order + "HHII", tag, 4, 1, 2 * int(tags[tag]))
    padding = bytes(len(data) % 2)  # directories, and values they point to, start at even offsets
    end = len(data) + len(padding)
    n_samples = len(tags[_BITS_PER_SAMPLE])
    bits = struct.pack(f"{order}{n_samples}H", *[8] * n_samples)
    if n_samples == 2:
        place = bits  # values of four bytes stand in the entry itself
        bits = b""
    else:
        place = struct.pack(order + "I", end)
    entries[_BITS_PER_SAMPLE] = struct.pack(order + "HHI", _BITS_PER_SAMPLE, 3, n_samples) + place
    if n_samples in (2, 4):  # alpha that has not been multiplied into the colors
        entries[_EXTRA_SAMPLES] = struct.pack(order + "HHIHH", _EXTRA_SAMPLES, 3, 1, 2, 0)
    directory = struct.pack(order + "H", len(entries))
    directory += b"".join(entry for _, entry in sorted(entries.items())) + bytes(4)
    header = data[:4] + struct.pack(order + "I", end + len(bits))
    return header + data[8:] + padding + bits + directory


def _orient(array: np.ndarray, orientation: object) -> np.ndarray:
    """Turn upright what the EXIF orientation tag says is stored turned or mirrored."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
