"""One image file -> one array. Everything that can be wrong with a file is said here."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

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
from pyimgano.inputs._formats import describe, normalize_numpy_image, resize_image

#: Largest number of pixels of an image file. A file whose header says more is an error
#: before anything is decoded: a few kilobytes can claim to be gigabytes.
MAX_PIXELS = 2**28

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
_CODESTREAM = b"\xff\x4f\xff\x51"  # how the pixels of a JPEG 2000 file begin

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
    (_CODESTREAM, Jpeg2KImagePlugin.Jpeg2KImageFile),
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

# Left, top, and steps across and down of the pixels in each pass of an interlaced PNG.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
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
        uint8 or uint16; (H, W) for gray, (H, W, 3) in RGB order for color, upright
        according to its orientation tag.

    Raises
    ------
    ImageReadError
    """
    return read_raw_and_loss(path)[0]


def read_raw_and_loss(path: str) -> tuple[np.ndarray, bool]:
    """Decode a file and tell whether its compression has changed the pixels.

    Returns
    -------
    array : ndarray
        As from ``read_raw``.
    lossy : bool
        True for JPEG, JPEG 2000, WebP unless it is lossless, and TIFFs that hold JPEG or WebP.

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
    return _tolerant(path, lambda: _decode(path, data, image)), lossy


def read_image(path: str, u16_max: int, resize: tuple[int, int] | None) -> np.ndarray:
    """Decode a file to a canonical image: uint8 RGB of shape (H, W, 3)."""
    image = as_canonical(read_raw(path), u16_max, f"file {path}")
    return image if resize is None else resize_image(image, resize)


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
    return _tolerant(path, lambda: _upright_size(data, image))


def _upright_size(data: bytes, image: Any) -> tuple[int, int]:
    if image.format == "TIFF":
        # From the tags: versions of Pillow differ in when they turn image.size.
        tags = image.tag_v2
        width, height = int(tags[256]), int(tags[257])
        orientation = tags.get(_ORIENTATION, 1)
    else:
        width, height = image.size
        if image.format == "PNG" and b"eXIf" in data:
            image.load()  # the tag may come after the pixels
        orientation = image.getexif().get(_ORIENTATION, 1)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _tolerant(path: str, step: Callable[[], _T]) -> _T:
    """Run a step of decoding; whatever the decoder raises is a damaged file."""
    try:
        return step()
    except ImageReadError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, for TIFF and GIF only
        raise ImageReadError(path, f"{_PILLOWS_LIMIT} ({error})") from error
    except _DECODE_ERRORS as error:
        raise ImageReadError(path, f"is truncated or damaged ({error})") from error


def _read_bytes(path: str) -> bytes:
    try:
        status = os.stat(path)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise ImageReadError(
                path, "is a directory, not an image file; use ImageSequence.from_folder"
            )
        if not stat.S_ISREG(mode):  # reading a pipe or a device could block for ever
            raise ImageReadError(path, "is not a regular file")
        if status.st_size > 8 * MAX_PIXELS:  # bytes per pixel of 16-bit RGB with alpha
            raise ImageReadError(
                path, f"is {status.st_size} bytes, more than any image of MAX_PIXELS needs"
            )
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
    except _DECODE_ERRORS as error:
        raise ImageReadError(path, f"has a damaged or unsupported header ({error})") from error
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
        array = _binary_pnm(path, data, image)
    elif image.format == "GIF":
        _check_gif(path, data)
    elif image.format == "JPEG2000":
        _check_jpeg2000(path, data)
    elif image.format == "PNG":
        critical = _check_png(path, data)
        if data[24] == 16 and data[25] != 0:  # bit depth and color type: 16 bit, not gray
            image.load()  # finds damage in the pixels, and tags after them
            array = _u16_png(path, critical)
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
    """Color of 16 bits, which Pillow would cut to 8, of a PNG without ancillary chunks."""
    array = cv2.imdecode(
        np.frombuffer(_without_png_damage(path, data), dtype=np.uint8), cv2.IMREAD_UNCHANGED
    )
    if array is None or array.dtype != np.uint16:
        raise ImageReadError(
            path, "is a 16-bit color image that is damaged or of an unsupported kind"
        )
    if array.ndim == 2:
        return array
    if array.shape[2] == 4:
        _check_opaque(path, int(array[..., 3].min()) == 65535)
    return array[..., 2::-1]


def _without_png_damage(path: str, data: bytes) -> bytes:
    """Refuse what OpenCV's libpng would print a message about; return the chunks of the pixels."""
    header, pixels, at = data[8:33], [], 33
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            pixels.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    width, height, bits, color, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", header[8:21]
    )
    if header[:8] != b"\x00\x00\x00\rIHDR" or compression or filtering or interlace > 1:
        raise ImageReadError(path, "has a damaged or unsupported header")
    stream = b"".join(pixels)
    rows = zlib.decompress(stream)
    pixel = bits // 8 * {2: 3, 4: 2, 6: 4}[color]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    start = 0
    for left, top, across, down in passes:
        n_columns, n_rows = -((left - width) // across), -((top - height) // down)
        if n_columns <= 0 or n_rows <= 0:
            continue
        stride = 1 + n_columns * pixel
        filters = rows[start : start + n_rows * stride : stride]
        start += n_rows * stride
        if filters and max(filters) > 4:
            raise ImageReadError(path, "is damaged: a row of the PNG has an unknown filter")
    if len(rows) != start:
        raise ImageReadError(
            path, f"is damaged: the PNG holds {len(rows)} bytes of pixels, expected {start}"
        )
    body = len(stream).to_bytes(4, "big") + b"IDAT" + stream
    checksum = zlib.crc32(body[4:]).to_bytes(4, "big")
    return data[:8] + header + body + checksum + data[-12:]  # the end marker is the last chunk


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
        if not kind[0] & 32:  # the first letter is upper case: critical
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end


def _binary_pnm(path: str, data: bytes, image: Any) -> np.ndarray | None:
    """Check a PNM file; give its pixels where Pillow would cut them to 8 bits."""
    start = image.tile[0][2]
    tokens = re.sub(rb"#[^\r\n]*", b"", data[:start]).split()
    kind = tokens[0]
    width, height = image.size
    bitmap = kind in (b"P1", b"P4")
    maxval = 1 if bitmap else int(tokens[3])
    if not bitmap and maxval not in (255, 65535):
        raise ImageReadError(
            path,
            f"is a PNM file whose full white is {maxval}; readable are 255 and 65535. Save it as "
            "a 16-bit PNG or TIFF, and declare u16_max where full white is less than 65535",
        )
    if kind == b"P3" and maxval == 65535:
        raise ImageReadError(path, f"is 16-bit color in a PNM file of text. {_WAY_OUT}")
    if kind in (b"P1", b"P2", b"P3"):
        return None
    samples = width * (3 if kind == b"P6" else 1)
    row = (width + 7) // 8 if bitmap else samples * (2 if maxval == 65535 else 1)
    left = len(data) - start - row * height
    if left < 0:
        raise ImageReadError(path, f"is truncated: {-left} bytes of pixels are missing")
    if data[start + row * height :].strip():
        raise ImageReadError(path, "holds more than one image; save each as a file of its own")
    if kind == b"P6" and maxval == 65535:
        pixels = np.frombuffer(data, ">u2", samples * height, start)
        return pixels.reshape(height, width, 3).astype(np.uint16)
    return None


def _check_gif(path: str, data: bytes) -> None:
    """Refuse a GIF that does not give every pixel: decoded over two colors, it must be the same.

    Its frame may be smaller than the image, and its pixels may end early without an error.
    """
    decoded = []
    for index in (0, 1):
        image: Any = GifImagePlugin.GifImageFile(io.BytesIO(data))
        image.im = Image.core.fill(image.mode, image.size, index)
        image.load()
        decoded.append(np.asarray(image))
    missing = int((decoded[0] != decoded[1]).sum())
    if missing:
        raise ImageReadError(path, f"is incomplete: the GIF lacks {missing} of its pixels")


def _check_jpeg2000(path: str, data: bytes) -> None:
    """Refuse what Pillow would scale, and a file that ends early."""
    start = data.index(_CODESTREAM)
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
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, start + 8)
    n_tiles = -((left - right) // width) * -((top - bottom) // height)
    at = start + 2
    while data[at : at + 2] != b"\xff\x90":  # the segments before the first tile
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    tiles = set()
    while data[at : at + 2] == b"\xff\x90":
        tile, length = struct.unpack_from(">HI", data, at + 4)
        tiles.add(tile)
        # zero: up to the end marker
        at = at + max(length, 12) if length else data.rindex(b"\xff\xd9")
    if data[at : at + 2] != b"\xff\xd9" or len(tiles) != n_tiles:
        raise ImageReadError(path, "is truncated or damaged: the JPEG 2000 data is incomplete")


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
