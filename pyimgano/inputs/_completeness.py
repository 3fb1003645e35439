"""Checks that a file holds all of its pixels, format by format.

Decoders fill up what is missing, with black or with the row before, and say nothing. So the
pixel data is counted against the header before a file is decoded.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Jpeg2KImagePlugin, WebPImagePlugin

from pyimgano._kernels.entropy_codes import (
    INVALID,
    count_bmp_rle,
    count_fax_rows,
    count_gif_lzw,
)
from pyimgano.exceptions import ImageReadError
from pyimgano.inputs._jpeg import JpegError, check_jpeg

MAX_PIXELS = 2**28

__all__ = ["CODESTREAM", "check_complete", "codestream_start", "png_chunks"]

CODESTREAM = b"\xff\x4f\xff\x51"  # how the pixels of a JPEG 2000 file begin
_INFLATED_AT_ONCE = 1 << 20

# ---- PNG ------------------------------------------------------------------------------
# Rows and columns where the passes of an interlaced PNG begin, and their steps.
_PASSES = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its color type


def png_chunks(path: str, data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin and end of each chunk of a PNG, with a checksum that is right."""
    at = 8
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise ImageReadError(path, "is truncated: the PNG ends before its end marker")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageReadError(path, f"is damaged: wrong checksum in PNG chunk {kind!r}")
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _check_png(path: str, data: bytes) -> None:
    pieces = [data[at + 8 : end - 4] for kind, at, end in png_chunks(path, data) if kind == b"IDAT"]
    width, height, depth, color, packing, filtering, interlaced = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    if data[12:16] != b"IHDR" or packing or filtering or interlaced > 1 or color not in _CHANNELS:
        raise ImageReadError(path, "has a damaged or unsupported header")
    bits = depth * _CHANNELS[color]
    rows = []  # of each pass: their number, and bytes in each, the first of which is a filter
    for top, left, down, across in _PASSES if interlaced else ((0, 0, 1, 1),):
        n_rows, n_columns = -((top - height) // down), -((left - width) // across)
        if n_rows > 0 and n_columns > 0:
            rows.append((n_rows, 1 + (n_columns * bits + 7) // 8))
    needed = sum(n_rows * length for n_rows, length in rows)
    came, ended, filters_known = _count_rows(pieces, rows)
    if came < needed:
        raise ImageReadError(
            path, f"is truncated: {needed - came} of the {needed} bytes of its pixels are missing"
        )
    if came > needed or not ended:
        raise ImageReadError(path, "is damaged: its pixels are more than its header says")
    if not filters_known:
        raise ImageReadError(path, "is damaged: a row of the PNG has an unknown filter")


def _count_rows(pieces: Iterable[bytes], rows: list[tuple[int, int]]) -> tuple[int, bool, bool]:
    """Count the bytes that are compressed in a PNG, without keeping them.

    Returns
    -------
    total : int
        Counting stops when there are more than ``rows`` need.
    ended : bool
        Whether the compressed data has its end, with the right checksum.
    filters_known : bool
        Whether each row begins with a filter there is.
    """
    stream = zlib.decompressobj()
    limit = sum(n_rows * length for n_rows, length in rows)
    left = [n_rows * length for n_rows, length in rows]
    total, k, highest = 0, 0, 0
    for piece in pieces:
        while piece and not stream.eof and total <= limit:
            inflated = stream.decompress(piece, _INFLATED_AT_ONCE)
            piece = stream.unconsumed_tail
            total += len(inflated)
            at = 0
            while at < len(inflated) and k < len(rows):
                part = inflated[at : at + left[k]]
                # Rows are counted from the end, since the pass may have begun before.
                highest = max(highest, max(part[left[k] % rows[k][1] :: rows[k][1]], default=0))
                at += len(part)
                left[k] -= len(part)
                k += left[k] == 0
    return total, stream.eof, highest <= 4


# ---- GIF ------------------------------------------------------------------------------
def _check_gif(path: str, data: bytes) -> None:
    width, height = struct.unpack_from("<HH", data, 6)
    at = 13 + _palette_length(data[10])
    while data[at : at + 1] == b"!":
        _, at = _sub_blocks(path, data, at + 2)
    if data[at : at + 1] != b",":
        raise ImageReadError(path, "is truncated: the GIF holds no image")
    left, top, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
    missing = width * height - across * down
    if (left, top) != (0, 0) or missing:
        raise ImageReadError(path, f"is incomplete: the GIF lacks {max(missing, 1)} of its pixels")
    at += 10 + _palette_length(flags)
    min_bits = data[at]
    if not 1 <= min_bits <= 8:
        raise ImageReadError(path, f"is damaged: the GIF has codes of {min_bits} bits")
    codes, _ = _sub_blocks(path, data, at + 1)
    came, outcome = count_gif_lzw(np.frombuffer(codes, np.uint8), min_bits, width * height)
    if came < width * height:
        raise ImageReadError(
            path, f"is incomplete: the GIF lacks {width * height - came} of its pixels"
        )
    if came > width * height or outcome == INVALID:
        raise ImageReadError(path, "is damaged: the GIF holds more pixels than its header says")


def _palette_length(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 128 else 0


def _sub_blocks(path: str, data: bytes, at: int) -> tuple[bytes, int]:
    """Join the sub-blocks of a GIF that begin here; tell where they end."""
    parts: list[bytes] = []
    while True:
        if at >= len(data) or at + 1 + data[at] > len(data):
            raise ImageReadError(path, "is truncated: the GIF ends in the middle of its data")
        if data[at] == 0:
            return b"".join(parts), at + 1
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]


# ---- BMP ------------------------------------------------------------------------------
def _check_bmp(path: str, data: bytes, image: Any) -> None:
    header = 14 if data[:2] == b"BM" else 0
    start = image.tile[0][2]
    width, height = image.size
    if struct.unpack_from("<I", data, header)[0] == 12:  # the oldest header
        (bits,), compression, declared = struct.unpack_from("<H", data, header + 10), 0, 0
    else:
        bits, compression, declared = struct.unpack_from("<HII", data, header + 14)
    if compression in (1, 2):
        if start + declared > len(data):
            missing = start + declared - len(data)
            raise ImageReadError(path, f"is truncated: {missing} bytes of its pixels are missing")
        codes = np.frombuffer(data, np.uint8, offset=start)
        came, outcome = count_bmp_rle(codes, width, height, compression == 2)
        if came < width * height:
            raise ImageReadError(
                path,
                f"is truncated: {width * height - came} of its {width * height} pixels are missing",
            )
        if outcome:
            raise ImageReadError(path, "is damaged: the BMP has no end marker where it should")
        return
    needed = (width * bits + 31) // 32 * 4 * height
    came = len(data) - start  # what the header declares has no meaning here, and is often wrong
    if came < needed:
        raise ImageReadError(
            path, f"is truncated: {needed - came} of the {needed} bytes of its pixels are missing"
        )


# ---- PNM ------------------------------------------------------------------------------
def _check_pnm(path: str, data: bytes, image: Any) -> None:
    """Binary ones are counted; of text the decoder asks for every number, but for its digits."""
    start = image.tile[0][2]
    tokens = re.sub(rb"#[^\r\n]*", b"", data[:start]).split()
    kind = tokens[0]
    width, height = image.size
    if kind in (b"P2", b"P3") and not data[-1:].isspace():
        raise ImageReadError(
            path,
            "may be truncated: digits of its last number can be missing, since no end of line "
            "follows it; add one if the number is right",
        )
    if kind in (b"P1", b"P2", b"P3"):
        return
    samples = width * (3 if kind == b"P6" else 1)
    depth = 1 if kind == b"P4" else 16 if int(tokens[3]) > 255 else 8
    needed = (samples * depth + 7) // 8 * height
    left = len(data) - start - needed
    if left < 0:
        raise ImageReadError(path, f"is truncated: {-left} bytes of pixels are missing")
    if data[start + needed :].strip():
        raise ImageReadError(path, "holds more than one image; save each as a file of its own")


# ---- TIFF -----------------------------------------------------------------------------
# libtiff refuses strips and tiles that are too short in these: LZW, deflate under both of its
# numbers, LZMA, ZSTD, PackBits. benchmarks/fuzz_images.py shows that it does.
_CHECKED_BY_LIBTIFF = frozenset((5, 8, 32946, 34925, 50000, 32773))
_REVERSED = np.array([int(f"{k:08b}"[::-1], 2) for k in range(256)], np.uint8)


def _check_tiff(path: str, data: bytes, image: Any) -> None:
    tags = image.tag_v2
    width, height = int(tags[256]), int(tags[257])
    compression = tags.get(259, 1)
    samples = int(tags.get(277, 1))
    planes = samples if tags.get(284, 1) == 2 else 1
    tiled = 324 in tags
    if tiled:
        across, down = int(tags[322]), int(tags[323])
    else:
        across, down = width, min(int(tags.get(278, height)) or height, height)
    if across < 1 or down < 1 or across * down > MAX_PIXELS:
        raise ImageReadError(
            path, f"is damaged: its strips or tiles have {across} x {down} pixels each"
        )
    rows_of_chunks = -(-height // down)
    n_chunks = planes * -(-width // across) * rows_of_chunks
    kind = "tile" if tiled else "strip"
    offsets = _all_values(tags, 324 if tiled else 273)
    needed = _raw_length(tags, across, down, samples // planes)
    lengths = _all_values(tags, 325 if tiled else 279)
    if not lengths and compression == 1:  # old software left them out
        lengths = (needed,) * (n_chunks - 1)
        lengths += (
            needed
            if tiled
            else _raw_length(tags, across, height - down * (rows_of_chunks - 1), samples // planes),
        )
    if len(offsets) < n_chunks or len(lengths) < n_chunks:
        raise ImageReadError(
            path,
            f"is truncated: it holds {min(len(offsets), len(lengths))} of the {n_chunks} {kind}s "
            "of its pixels",
        )
    if sum(lengths[:n_chunks]) > len(data):
        raise ImageReadError(path, f"is truncated: its {kind}s are longer than the file")
    jpeg_tables = tags.get(347, b"")
    for k, (at, length) in enumerate(zip(offsets, lengths)):
        if k == n_chunks:
            break
        rows = down if tiled else min(down, height - down * (k % rows_of_chunks))
        if not at or not length or at + length > len(data):
            raise ImageReadError(
                path, f"is truncated: {kind} {k} of {n_chunks} does not lie in the file"
            )
        short = False
        if compression == 1:
            short = length < _raw_length(tags, across, rows, samples // planes)
        elif compression in (2, 3, 4):  # RLE of fax, groups 3 and 4
            codes = np.frombuffer(data, np.uint8, length, at)
            if tags.get(266, 1) == 2:
                codes = _REVERSED[codes]
            refers = compression == 4 or (compression == 3 and bool(tags.get(292, 0) & 1))
            came = count_fax_rows(codes, across, rows, group=compression, two_dimensional=refers)
            short = came < rows
        elif compression == 7:
            try:
                frame = check_jpeg(
                    data[at : at + length], jpeg_tables, most_pixels=4 * across * down
                )
            except JpegError as error:
                raise ImageReadError(
                    path, f"is truncated or damaged: the JPEG in {kind} {k} {error}"
                ) from error
            short = frame.height < rows or frame.width < across
            if planes > 1 and k // (n_chunks // planes) in (1, 2) and tags.get(262) == 6:
                short = False  # color may be kept at half the size
        elif compression not in _CHECKED_BY_LIBTIFF:
            raise ImageReadError(
                path,
                f"is a TIFF of compression {compression}, in which missing pixels cannot be "
                "noticed. Convert it to PNG, or to a TIFF with LZW or deflate compression",
            )
        if short:
            raise ImageReadError(
                path, f"is truncated: {kind} {k} of {n_chunks} holds fewer pixels than it should"
            )


def _all_values(tags: Any, tag: int) -> tuple[int, ...]:
    values = tags.get(tag, ())
    return values if isinstance(values, tuple) else (values,)


def _raw_length(tags: Any, width: int, height: int, samples: int) -> int:
    """Bytes of a strip or tile without compression."""
    bits = _all_values(tags, 258) or (1,)
    if tags.get(262) == 6 and tags.get(284, 1) == 1 and samples == 3:
        across, down = (int(value) for value in tags.get(530, (2, 2)))
        blocks = -(-width // across) * -(-height // down)
        return blocks * (across * down + 2) * bits[0] // 8
    return (width * samples * max(bits) + 7) // 8 * height


# ---- WebP -----------------------------------------------------------------------------
_FILLER = bytes((37 * k + 91) % 251 for k in range(64))


def _check_webp(path: str, data: bytes, image: Any) -> None:
    """The decoder refuses what ends early, except for two cases.

    The last code of lossless data may be cut, and the byte that pads data of odd length is read
    as if it was data. There the image is decoded once more with other bytes behind the data,
    which must not matter.
    """
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data):
        raise ImageReadError(
            path, f"is truncated: {length + 8 - len(data)} of its bytes are missing"
        )
    at, end = 12, length + 8
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        stop = at + 8 + length
        if stop > end:
            raise ImageReadError(path, "is truncated: the WebP ends in the middle of its data")
        if kind == b"ANMF":
            raise ImageReadError(path, "is an animation; save its image as a file of its own")
        if kind == b"VP8L" or (kind == b"VP8 " and length % 2):
            body = data[at + 8 : stop] + _FILLER[: 64 - length % 2]
            chunk = kind + struct.pack("<I", len(body)) + body
            more = io.BytesIO(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
            other = WebPImagePlugin.WebPImageFile(more)
            if other.size != image.size or other.tobytes() != image.convert(other.mode).tobytes():
                raise ImageReadError(path, "is truncated: the last of its pixels are missing")
        at = stop + length % 2


# ---- JPEG 2000 ------------------------------------------------------------------------
# Bytes behind the last packet. Read as the header of one, the longer are an error; a packet of
# which a part is missing announces more bytes than the shorter are.
_NO_PACKETS = (b"\xff", 3 * b"\xff", 8 * b"\xff")


def codestream_start(path: str, data: bytes) -> int:
    """Find where the pixels of a JPEG 2000 file begin, by its boxes as decoders do.

    Parameters
    ----------
    path : str
        Its name, for messages.
    data : bytes
        The file.

    Returns
    -------
    int

    Raises
    ------
    ImageReadError
        If no box holds any. The same bytes in another box, as in a comment, are not looked at.
    """
    if data.startswith(CODESTREAM):
        return 0
    at = 0
    while at + 8 <= len(data):
        length, begin = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:  # eight bytes more hold it
            length, begin = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        if data[at + 4 : at + 8] == b"jp2c" and data.startswith(CODESTREAM, begin):
            return begin
        if length < begin - at:  # zero: up to the end
            break
        at += length
    raise ImageReadError(path, "is truncated or damaged: no box of the JPEG 2000 file has pixels")


def _check_jpeg2000(path: str, data: bytes) -> None:
    """Every tile must be there, and every packet in it.

    A decoder that finds fewer packets than it looks for leaves out detail. So the packets of all
    tiles are gone through once more, without decoding the pixels, with bytes behind each tile
    that are no packet: a decoder that comes to these misses some.
    """
    start = codestream_start(path, data)
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, start + 8)
    n_tiles = -((left - right) // width) * -((top - bottom) // height)
    incomplete = ImageReadError(path, "is truncated or damaged: the JPEG 2000 data is incomplete")
    (n_channels,) = struct.unpack_from(">H", data, start + 40)
    at, levels = start + 2, 32
    while data[at : at + 2] != b"\xff\x90":  # the segments before the first tile
        levels = min(levels, _fewest_levels(path, data, at, n_channels))
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    parts: list[tuple[int, int, int]] = []
    header = data[start:at]
    while data[at : at + 2] == b"\xff\x90":
        tile, length = struct.unpack_from(">HI", data, at + 4)
        # zero: up to the end marker
        end = at + max(length, 14) if length else data.rindex(b"\xff\xd9")
        parts.append((tile, at, end))
        inside = at + 12
        while data[inside : inside + 2] != b"\xff\x93" and inside < end:
            levels = min(levels, _fewest_levels(path, data, inside, n_channels))
            inside += 2 + struct.unpack_from(">H", data, inside + 2)[0]
        at = end
    last = {tile: k for k, (tile, _, _) in enumerate(parts)}
    if data[at : at + 2] != b"\xff\xd9" or len(last) != n_tiles:
        raise incomplete
    for filler in _NO_PACKETS:
        pieces = [_jpeg2000_container(data, start), header]
        for k, (tile, at, end) in enumerate(parts):
            more = filler if last[tile] == k else b""
            length = struct.pack(">I", end - at + len(more))
            pieces += [data[at : at + 6], length, data[at + 10 : end], more]
        whole = io.BytesIO(b"".join([*pieces, b"\xff\xd9"]))
        probe: Any = Jpeg2KImagePlugin.Jpeg2KImageFile(whole)
        # probe.reduce = levels would round the size to the nearest, and the decoder rounds up.
        probe._size = (
            (-left >> levels) - (-right >> levels),
            (-top >> levels) - (-bottom >> levels),
        )
        decoder, _, offset, (codec, _, *others) = probe.tile[0]
        probe.tile = [(decoder, (0, 0, *probe._size), offset, (codec, levels, *others))]
        try:
            probe.load()
        except OSError as error:
            if "out of memory" in str(error):
                raise
            raise incomplete from None


def _jpeg2000_container(data: bytes, start: int) -> bytes:
    """Return the part before the codestream, of a length left open; empty if there is none."""
    for long in (0, 8):  # the length may have four bytes or eight
        if data[start - 4 - long : start - long] == b"jp2c":
            return data[: start - 8 - long] + bytes(4) + b"jp2c"
    return b""


def _fewest_levels(path: str, data: bytes, at: int, n_channels: int) -> int:
    """Resolutions to be left out at most, by a segment that says how many there are."""
    marker = data[at + 1]
    if marker in (0x60, 0x61):
        raise ImageReadError(
            path,
            "is a JPEG 2000 file with packed headers, in which missing pixels cannot be noticed. "
            "Convert it to PNG",
        )
    if marker == 0x52:
        return data[at + 9]
    if marker == 0x53:
        return data[at + (6 if n_channels < 257 else 7)]
    return 32


# ---- JPEG and all of them -------------------------------------------------------------
def _check_jpeg(path: str, data: bytes) -> None:
    try:
        check_jpeg(data, most_pixels=MAX_PIXELS)
    except JpegError as error:
        raise ImageReadError(path, f"is truncated or damaged: the JPEG {error}") from error


def check_complete(path: str, data: bytes, image: Any) -> None:
    """Refuse a file that does not hold every pixel its header promises.

    Parameters
    ----------
    path : str
        Its name, for messages.
    data : bytes
        The file.
    image : PIL.ImageFile.ImageFile
        The same file opened by its plugin, with one frame, not yet decoded.

    Raises
    ------
    ImageReadError
        If pixels are missing, or if it cannot be told.
    """
    checks: dict[str, Callable[[], None]] = {
        "PNG": lambda: _check_png(path, data),
        "JPEG": lambda: _check_jpeg(path, data),
        "TIFF": lambda: _check_tiff(path, data, image),
        "BMP": lambda: _check_bmp(path, data, image),
        "DIB": lambda: _check_bmp(path, data, image),
        "GIF": lambda: _check_gif(path, data),
        "WEBP": lambda: _check_webp(path, data, image),
        "PPM": lambda: _check_pnm(path, data, image),
        "JPEG2000": lambda: _check_jpeg2000(path, data),
    }
    checks[image.format]()
