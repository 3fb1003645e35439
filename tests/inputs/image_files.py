"""Image files of every kind that is read, and ways to take pixels out of them.

Every sample is made here, so that the tests and ``benchmarks/fuzz_images.py`` try the same files.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Sample(NamedTuple):
    """A good file: its bytes, its format, and the bytes that end every file of the kind."""

    data: bytes
    format: str
    end: bytes = b""


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A color image with structure in every row, so that no missing row looks like another."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + k) + k) + np.cos(y / (7 - k) + seed) for k in range(3)]
    image = 128 + 40 * np.stack(waves, axis=2) + rng.normal(0, 6, (height, width, 3))
    return np.clip(image, 1, 254).astype(np.uint8)


def deep(image: np.ndarray) -> np.ndarray:
    """The same in 16 bits, with low bytes that differ."""
    return image.astype(np.uint16) * 257 ^ (image.astype(np.uint16) >> 1)


def bits_of(image: np.ndarray) -> np.ndarray:
    """A pattern of 0 and 1 with edges in every row."""
    return (image[..., 0] > 128).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


# ---- PNG ------------------------------------------------------------------------------
ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
PNG_KINDS = [(0, b) for b in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16)]
PNG_KINDS += [(3, b) for b in (1, 2, 4, 8)] + [(4, 8), (4, 16), (6, 8), (6, 16)]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_rows(samples: np.ndarray, depth: int) -> bytes:
    """Rows of samples (H, W, C), each after filter byte 0."""
    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8).reshape(len(flat), -1)
    elif depth == 8:
        packed = flat.astype(np.uint8)
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)
    return np.hstack([np.zeros((len(flat), 1), np.uint8), packed]).tobytes()


def png_file(
    size: tuple[int, int], color: int, depth: int, rows: bytes, interlaced: bool = False
) -> bytes:
    """A PNG whose header claims ``size`` = (height, width), whatever the rows are."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, color, 0, 0, int(interlaced))
    parts = [PNG_SIGNATURE, png_chunk(b"IHDR", header)]
    if color == 3:
        palette = np.random.default_rng(3).integers(0, 256, (2**depth, 3), dtype=np.uint8)
        parts.append(png_chunk(b"PLTE", palette.tobytes()))
    body = zlib.compress(rows)
    half = len(body) // 2
    parts += [png_chunk(b"IDAT", body[:half]), png_chunk(b"IDAT", body[half:])]
    return b"".join([*parts, png_chunk(b"IEND", b"")])


def png_samples_of(image: np.ndarray, color: int, depth: int) -> np.ndarray:
    full = deep(image)
    opaque = np.full((*image.shape[:2], 1), 65535, np.uint16)
    planes = {0: full[..., :1], 2: full, 3: full[..., :1], 4: [full[..., :1], opaque]}
    planes[6] = [full, opaque]
    chosen = planes[color]
    stacked = np.concatenate(chosen, axis=2) if isinstance(chosen, list) else chosen
    return stacked >> (16 - depth)


def png_data(samples: np.ndarray, depth: int, interlaced: bool) -> bytes:
    if not interlaced:
        return png_rows(samples, depth)
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7]
    return b"".join(png_rows(one, depth) for one in passes if one.size)


# ---- TIFF -----------------------------------------------------------------------------
def tiff_file(
    size: tuple[int, int],
    chunks: list[bytes],
    *,
    bits: tuple[int, ...] = (8,),
    photometric: int = 1,
    compression: int = 1,
    rows_per_strip: int | None = None,
    tile: tuple[int, int] | None = None,
    planar: int = 1,
    order: str = "<",
    counts: list[int] | None = None,
    more: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """A TIFF of ready-made strips or tiles; pixels come before the directory."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + bytes(4)
    body, offsets = bytearray(head), []
    for one in chunks:
        offsets.append(len(body))
        body += one + bytes(len(one) % 2)
    short, long = 3, 4
    tags: dict[int, tuple[int, list[int]]] = {
        256: (short, [size[1]]),
        257: (short, [size[0]]),
        258: (short, list(bits)),
        259: (short, [compression]),
        262: (short, [photometric]),
        277: (short, [len(bits)]),
        284: (short, [planar]),
    }
    lengths = [len(one) for one in chunks] if counts is None else counts
    if tile:
        tags |= {322: (short, [tile[1]]), 323: (short, [tile[0]])}
        tags |= {324: (long, offsets), 325: (long, lengths)}
    else:
        tags |= {278: (short, [rows_per_strip or size[0]])}
        tags |= {273: (long, offsets), 279: (long, lengths)}
    tags |= more or {}
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        code = {1: "B", 3: "H", 4: "I", 7: "B"}[kind]
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            at = len(body)
            body += packed + bytes(len(packed) % 2)
            packed = struct.pack(order + "I", at)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    at = len(body)
    body += struct.pack(order + "H", len(tags)) + entries + bytes(4)
    body[4:8] = struct.pack(order + "I", at)
    return bytes(body)


def strips_of(image: np.ndarray, rows: int) -> list[np.ndarray]:
    return [image[y : y + rows] for y in range(0, len(image), rows)]


def tiles_of(image: np.ndarray, side: int) -> list[np.ndarray]:
    height, width = image.shape[:2]
    padding = [(0, -height % side), (0, -width % side)] + [(0, 0)] * (image.ndim - 2)
    full = np.pad(image, padding)
    return [
        full[y : y + side, x : x + side]
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


def packbits(data: bytes) -> bytes:
    """Literal runs and repeats, as few bytes as a plain encoder makes."""
    out, at = bytearray(), 0
    while at < len(data):
        run = 1
        while run < 128 and at + run < len(data) and data[at + run] == data[at]:
            run += 1
        if run > 1:
            out += bytes([257 - run, data[at]])
            at += run
            continue
        stop = at + 1
        while stop < len(data) and stop - at < 128 and data[stop] != data[stop - 1]:
            stop += 1
        out += bytes([stop - at - 1]) + data[at:stop]
        at = stop
    return bytes(out)


def libtiff_strip(image: np.ndarray | Image.Image, compression: str) -> bytes:
    """One strip as libtiff compresses it."""
    height = image.size[1] if isinstance(image, Image.Image) else len(image)
    data = encode(image, "TIFF", compression=compression, tiffinfo={278: height})
    tags = TiffImagePlugin.TiffImageFile(io.BytesIO(data)).tag_v2
    assert len(tags[273]) == 1
    return data[tags[273][0] : tags[273][0] + tags[279][0]]


def tiff_samples(image: np.ndarray) -> dict[str, bytes]:
    size = image.shape[:2]
    gray, wide = image[..., 0], deep(image)
    rgb = {"bits": (8, 8, 8), "photometric": 2}
    compress: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
        "none": (1, lambda part: part.tobytes()),
        "lzw": (5, lambda part: libtiff_strip(part, "tiff_lzw")),
        "deflate": (8, lambda part: zlib.compress(part.tobytes())),
        "old_deflate": (32946, lambda part: zlib.compress(part.tobytes())),
        "packbits": (32773, lambda part: b"".join(packbits(row.tobytes()) for row in part)),
    }
    out = {}
    for name, (code, pack) in compress.items():
        strips = [pack(part) for part in strips_of(image, 7)]
        out[f"strips_{name}"] = tiff_file(size, strips, compression=code, rows_per_strip=7, **rgb)
        tiles = [pack(part) for part in tiles_of(image, 16)]
        out[f"tiles_{name}"] = tiff_file(size, tiles, compression=code, tile=(16, 16), **rgb)
        planes = [pack(part) for k in range(3) for part in strips_of(image[..., k], 7)]
        out[f"planar_{name}"] = tiff_file(
            size, planes, compression=code, rows_per_strip=7, planar=2, **rgb
        )
        out[f"gray_{name}"] = tiff_file(size, [pack(gray)], compression=code)
    for name, order in (("little", "<"), ("big", ">")):
        strips = [part.astype(order + "u2").tobytes() for part in strips_of(wide, 7)]
        out[f"deep_color_{name}"] = tiff_file(
            size, strips, rows_per_strip=7, bits=(16,) * 3, photometric=2, order=order
        )
        strips = [zlib.compress(part.astype(order + "u2")) for part in strips_of(wide[..., 0], 7)]
        out[f"deep_gray_{name}"] = tiff_file(
            size, strips, rows_per_strip=7, bits=(16,), compression=8, order=order
        )
    bits = Image.fromarray(bits_of(image) * 255).convert("1")
    white = TiffImagePlugin.TiffImageFile(io.BytesIO(encode(bits, "TIFF", compression="group4")))
    for name, code in (("group3", 3), ("group4", 4)):
        parts = [bits.crop((0, y, size[1], min(y + 9, size[0]))) for y in range(0, size[0], 9)]
        strips = [libtiff_strip(part, name) for part in parts]
        out[f"bits_{name}"] = tiff_file(
            size,
            strips,
            rows_per_strip=9,
            bits=(1,),
            compression=code,
            photometric=int(white.tag_v2[262]),
        )
    strips = [np.packbits(part, axis=1).tobytes() for part in strips_of(bits_of(image), 9)]
    out["bits_none"] = tiff_file(size, strips, rows_per_strip=9, bits=(1,))
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        with suppress(OSError):  # Pillow's wheels before 9.5 cannot write zstd
            out[f"pillow_{name}"] = encode(image, "TIFF", compression=name)
    out["pillow_predictor"] = encode(
        image, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}
    )
    for name in ("group3", "group4", "tiff_ccitt"):
        out[f"pillow_{name}"] = encode(bits, "TIFF", compression=name)
    strips = [encode(part, "JPEG", quality=90, subsampling=0) for part in strips_of(image, 16)]
    ycbcr = {"bits": (8, 8, 8), "photometric": 6, "compression": 7}
    one = {530: (3, [1, 1])}
    out["jpeg_strips"] = tiff_file(size, strips, rows_per_strip=16, more=one, **ycbcr)
    tiles = [encode(part, "JPEG", quality=90, subsampling=0) for part in tiles_of(image, 16)]
    out["jpeg_tiles"] = tiff_file(size, tiles, tile=(16, 16), more=one, **ycbcr)
    out["opencv_deep_color"] = cv2.imencode(".tif", wide[..., ::-1])[1].tobytes()
    return out


# ---- BMP ------------------------------------------------------------------------------
def bmp_rle(indices: np.ndarray, bits: int) -> bytes:
    """A palette BMP with runs and absolute stretches."""
    height, width = indices.shape
    body = bytearray()
    per = 8 // bits
    for row in indices[::-1]:
        x = 0
        while x < width:
            run = 1
            while x + run < width and run < 255 and row[x + run] == row[x]:
                run += 1
            if run >= 3 or width - x < 4:
                value = int(row[x])
                body += bytes([run, value if bits == 8 else value * 17])
                x += run
                continue
            count = min(width - x, 9)
            part = row[x : x + count].astype(np.uint8)
            if bits == 4:
                part = np.append(part, np.zeros(count % 2, np.uint8))
                part = part[::2] << 4 | part[1::2]
            packed = part.tobytes()
            assert len(packed) == -(-count // per)
            body += bytes([0, count]) + packed + bytes(len(packed) % 2)
            x += count
        body += b"\0\0"
    body += b"\0\1"
    n = 2**bits
    palette = np.random.default_rng(1).integers(0, 256, (n, 4), dtype=np.uint8)
    palette[:, 3] = 0
    start = 54 + 4 * n
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1 if bits == 8 else 2,
                         len(body), 2835, 2835, n, 0)  # fmt: skip
    first = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    return first + header + palette.tobytes() + bytes(body)


# ---- all of them ----------------------------------------------------------------------
@functools.lru_cache
def samples(height: int = 37, width: int = 45) -> dict[str, Sample]:
    """Good files of every kind."""
    image = scene(height, width)
    gray, size = image[..., 0], (height, width)
    out: dict[str, Sample] = {}
    for color, depth in PNG_KINDS:
        for interlaced in (False, True):
            pixels = png_samples_of(image, color, depth)
            rows = png_data(pixels, depth, interlaced)
            name = f"png_{color}_{depth}{'_interlaced' if interlaced else ''}"
            data = png_file(size, color, depth, rows, interlaced)
            out[name] = Sample(data, "PNG", png_chunk(b"IEND", b""))
    out["png_pillow"] = Sample(encode(image, "PNG"), "PNG", png_chunk(b"IEND", b""))

    jpegs: dict[str, dict[str, Any]] = {
        "baseline": {},
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "optimized": {"optimize": True},
        "progressive": {"progressive": True},
        "restart": {"restart_marker_blocks": 3},
        "restart_rows": {"restart_marker_rows": 1, "progressive": True},
    }
    eoi = b"\xff\xd9"
    for name, options in jpegs.items():
        out[f"jpeg_{name}"] = Sample(encode(image, "JPEG", quality=88, **options), "JPEG", eoi)
    out["jpeg_gray"] = Sample(encode(gray, "JPEG"), "JPEG", eoi)
    out["jpeg_gray_progressive"] = Sample(encode(gray, "JPEG", progressive=True), "JPEG", eoi)
    cmyk = Image.fromarray(image).convert("CMYK")
    out["jpeg_cmyk"] = Sample(encode(cmyk, "JPEG"), "JPEG", eoi)

    for name, data in tiff_samples(image).items():
        out[f"tiff_{name}"] = Sample(data, "TIFF")

    palette = Image.fromarray(image).quantize(16)
    for name, one in (("rgb", image), ("gray", gray), ("palette", palette)):
        out[f"bmp_{name}"] = Sample(encode(one, "BMP"), "BMP")
        out[f"dib_{name}"] = Sample(encode(one, "DIB"), "DIB")
    out["bmp_bits"] = Sample(encode(Image.fromarray(gray).convert("1"), "BMP"), "BMP")
    indices = np.asarray(palette)
    for bits in (8, 4):
        out[f"bmp_rle{bits}"] = Sample(bmp_rle(indices, bits), "BMP", b"\0\0\0\1")

    out["webp_lossy"] = Sample(encode(image, "WEBP", quality=80), "WEBP")
    out["webp_lossless"] = Sample(encode(image, "WEBP", lossless=True), "WEBP")
    out["webp_palette"] = Sample(encode(palette.convert("RGB"), "WEBP", lossless=True), "WEBP")
    opaque = Image.fromarray(image).convert("RGBA")
    exif = Image.Exif()
    exif[274] = 1
    out["webp_exif"] = Sample(encode(opaque, "WEBP", quality=80, exif=exif), "WEBP")

    out["gif"] = Sample(encode(Image.fromarray(image).quantize(64), "GIF"), "GIF", b"\0;")
    out["gif_gray"] = Sample(encode(gray, "GIF", interlace=0), "GIF", b"\0;")
    out["gif_bits"] = Sample(encode(Image.fromarray(gray).convert("1"), "GIF"), "GIF", b"\0;")

    bits = bits_of(image)
    wide = deep(image)
    out["pnm_p4"] = Sample(encode(Image.fromarray(gray).convert("1"), "PPM"), "PPM")
    out["pnm_p5"] = Sample(encode(gray, "PPM"), "PPM")
    out["pnm_p6"] = Sample(encode(image, "PPM"), "PPM")
    out["pnm_p5_deep"] = Sample(cv2.imencode(".pgm", wide[..., 0])[1].tobytes(), "PPM")
    out["pnm_p6_deep"] = Sample(cv2.imencode(".ppm", wide[..., ::-1])[1].tobytes(), "PPM")

    def text(kind: str, top: str, values: np.ndarray) -> Sample:
        rows = "\n".join(" ".join(map(str, row)) for row in values.reshape(height, -1).tolist())
        return Sample(f"{kind}\n# made by hand\n{width} {height}\n{top}{rows}\n".encode(), "PPM")

    out["pnm_p1"] = text("P1", "", bits)
    out["pnm_p2"] = text("P2", "255\n", gray)
    out["pnm_p2_deep"] = text("P2", "65535\n", wide[..., 0])
    out["pnm_p3"] = text("P3", "255\n", image)

    for name, options in {
        "jp2": {},
        "jp2_lossy": {"irreversible": True, "quality_mode": "rates", "quality_layers": [20, 5]},
        "jp2_tiles": {"tile_size": (16, 16)},
        "jp2_rpcl": {"progression": "RPCL"},
    }.items():
        out[name] = Sample(encode(image, "JPEG2000", **options), "JPEG2000", eoi)
    out["jp2_codestream"] = Sample(encode(gray, "JPEG2000", no_jp2=True), "JPEG2000", eoi)
    out["jp2_deep"] = Sample(encode(wide[..., 0], "JPEG2000"), "JPEG2000", eoi)
    return out


# ---- damage ---------------------------------------------------------------------------
def cuts(sample: Sample, lengths: Iterator[int] | range) -> Iterator[tuple[str, bytes]]:
    """The file cut at each length, as it is and with a valid end appended."""
    for length in lengths:
        yield f"cut at {length}", sample.data[:length]
        if sample.end and length < len(sample.data) - len(sample.end):
            yield f"cut at {length} + end", sample.data[:length] + sample.end
        if sample.format == "WEBP" and length > 30:
            yield f"cut at {length} + sizes", webp_with_sizes(sample.data[:length])


def webp_with_sizes(data: bytes) -> bytes:
    """Make the sizes of the RIFF and of its last chunk those of the bytes that are left."""
    body = bytearray(data)
    at = 12
    while at + 8 <= len(body):
        (length,) = struct.unpack_from("<I", body, at + 4)
        if at + 8 + length + length % 2 >= len(body):
            struct.pack_into("<I", body, at + 4, len(body) - at - 8)
            break
        at += 8 + length + length % 2
    body += bytes(len(body) % 2)
    struct.pack_into("<I", body, 4, len(body) - 8)
    return bytes(body)


def _tiff_entries(data: bytes) -> tuple[str, dict[int, tuple[int, int, int, int]]]:
    """Byte order, and by tag its kind, its count, where its values and where its entry lie."""
    order = "<" if data[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    found = {}
    for k in range(count):
        at = start + 2 + 12 * k
        tag, kind, n = struct.unpack_from(order + "HHI", data, at)
        size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}.get(kind, 8) * n
        place = at + 8 if size <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
        found[tag] = (kind, n, place, at)
    return order, found


def tiff_values(data: bytes, tag: int) -> list[int]:
    order, found = _tiff_entries(data)
    kind, n, place, _ = found[tag]
    return list(struct.unpack_from(f"{order}{n}{'H' if kind == 3 else 'I'}", data, place))


def tiff_with(data: bytes, tag: int, values: list[int]) -> bytes:
    """The TIFF with other values of a tag, as many as before or fewer."""
    order, found = _tiff_entries(data)
    kind, n, place, at = found[tag]
    body = bytearray(data)
    code = "H" if kind == 3 else "I"
    if len(values) < n:
        struct.pack_into(order + "I", body, at + 4, len(values))
        if len(values) * struct.calcsize(code) <= 4:
            place = at + 8
            body[place : place + 4] = bytes(4)
    struct.pack_into(f"{order}{len(values)}{code}", body, place, *values)
    return bytes(body)


def _tiff_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    _, found = _tiff_entries(data)
    places, lengths = (324, 325) if 324 in found else (273, 279)
    counts = tiff_values(data, lengths)
    for which in {0, len(counts) // 2, len(counts) - 1}:
        for left in range(1, counts[which], step):
            changed = [*counts[:which], left, *counts[which + 1 :]]
            yield f"{left} bytes in strip {which}", tiff_with(data, lengths, changed)
        changed = [*counts[:which], 0, *counts[which + 1 :]]
        yield f"no bytes in strip {which}", tiff_with(data, lengths, changed)
    for n in range(1, len(counts)):
        fewer = tiff_with(data, lengths, counts[:n])
        yield f"{n} strips", tiff_with(fewer, places, tiff_values(data, places)[:n])
    for tag in (256, 257):
        (side,) = tiff_values(data, tag)
        for more in (16, side):  # less may lie in the padding of tiles and blocks
            yield f"{side} made {side + more}", tiff_with(data, tag, [side + more])


def _jpeg_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    at = next(data.index(m) for m in (b"\xff\xc0\0", b"\xff\xc2\0", b"\xff\xc1\0") if m in data)
    height, width = struct.unpack_from(">HH", data, at + 5)
    for more in (16, 32, height, 10 * height):
        taller = struct.pack(">HH", height + more, width)
        yield f"{more} rows more", data[: at + 5] + taller + data[at + 9 :]
        wider = struct.pack(">HH", height, width + more)
        yield f"{more} columns more", data[: at + 5] + wider + data[at + 9 :]
    scans = [k for k in range(len(data) - 1) if data[k : k + 2] == b"\xff\xda"]
    for k in range(1, len(scans)):
        yield f"{k} scans", data[: scans[k]] + b"\xff\xd9"
        tables = data.rfind(b"\xff\xc4", scans[k - 1], scans[k])
        if tables > 0:
            yield f"{k} scans, no tables", data[:tables] + b"\xff\xd9"
    restarts = [
        k for k in range(scans[0], len(data) - 1) if data[k] == 255 and 0xD0 <= data[k + 1] <= 0xD7
    ]
    for before, after in zip(restarts, restarts[1:]):
        yield "an interval left out", data[:before] + data[after:]
    for eight in zip(restarts, restarts[8:]):
        yield "eight intervals left out", data[: eight[0]] + data[eight[1] :]


def _png_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    head, idat, tail, at = [], b"", [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunk = data[at : at + 12 + length]
        kind = chunk[4:8]
        if kind == b"IDAT":
            idat += chunk[8:-4]
        else:
            (tail if idat else head).append(chunk)
        at += len(chunk)
    rows = zlib.decompress(idat)

    def build(rows: bytes, header: bytes = b"") -> bytes:
        first = png_chunk(b"IHDR", header) if header else head[0]
        body = png_chunk(b"IDAT", zlib.compress(rows))
        return b"".join([data[:8], first, *head[1:], body, *tail])

    for left in range(0, len(rows), step):
        yield f"{left} of {len(rows)} bytes of pixels", build(rows[:left])
    body = head[0][8:-4]
    width, height = struct.unpack_from(">II", body)
    for more in (1, 8, height):
        yield f"{more} rows more", build(rows, struct.pack(">II", width, height + more) + body[8:])
        wider = struct.pack(">II", width + 8 * more, height) + body[8:]
        yield f"{8 * more} columns more", build(rows, wider)


def _header_without(data: bytes, code: str, at: int, by: int = 1) -> Iterator[tuple[str, bytes]]:
    width, height = struct.unpack_from(code, data, at)
    for more in (by, 8 * by, height * by):
        for size in ((width, height + more), (width + more, height)):
            body = bytearray(data)
            struct.pack_into(code, body, at, *size)
            yield f"{width} x {height} made {size[0]} x {size[1]}", bytes(body)


def _gif_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    frame = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    yield from _header_without(data, "<HH", 6)
    for what, body in _header_without(data, "<HH", frame + 5):
        yield f"frame {what}", body
        yield f"both {what}", body[:6] + body[frame + 5 : frame + 9] + body[10:]
    at = frame + 11
    while data[at]:
        for left in range(1, data[at], step):
            body = bytes([left]) + data[at + 1 : at + 1 + left]
            yield "end in a block", data[:at] + body + b"\0;"
        at += 1 + data[at]
        yield "end after a block", data[:at] + b"\0;"


def _pnm_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    lines = data.split(b"\n", 3)
    k = next(k for k, line in enumerate(lines) if k and not line.startswith(b"#"))
    width, height = map(int, lines[k].split())
    for more in (8, 16, height):
        for size in ((width, height + more), (width + more, height)):
            yield f"{size}", b"\n".join([*lines[:k], b"%d %d" % size, *lines[k + 1 :]])


def _jp2_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    siz = data.index(b"\xff\x4f\xff\x51")
    for what, body in _header_without(data, ">II", siz + 8, 16):
        yield what, body
        box = data.find(b"ihdr")
        if box > 0:
            size = body[siz + 12 : siz + 16] + body[siz + 8 : siz + 12]
            yield f"both {what}", body[: box + 4] + size + body[box + 12 :]
    last = data.rindex(b"\xff\x90\0\x0a")
    (length,) = struct.unpack_from(">I", data, last + 6)
    for left in range(14, length, step):
        for size in (left, 0):  # zero: up to the end of the file
            body = data[: last + 6] + struct.pack(">I", size) + data[last + 10 : last + left]
            yield f"{left} bytes in the last tile, {size} in its header", body + b"\xff\xd9"


def _webp_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    at = 12
    while data[at : at + 4] not in (b"VP8 ", b"VP8L"):
        at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    if data[at : at + 4] == b"VP8 ":
        for what, body in _header_without(data, "<HH", at + 14, 256):
            if data[12:16] == b"VP8X":
                size = struct.unpack_from("<HH", body, at + 14)
                packed = b"".join((side - 1).to_bytes(3, "little") for side in size)
                body = body[:24] + packed + body[30:]
            yield what, body
    else:
        (bits,) = struct.unpack_from("<I", data, at + 9)
        for across, down in ((0, 1), (8, 0), (16, 0), (0, 8), (0, 40)):
            body = bytearray(data)
            struct.pack_into("<I", body, at + 9, bits + across + (down << 14))
            yield f"{across} columns and {down} rows more", bytes(body)


def _bmp_without(data: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    at = 18 if data[:2] == b"BM" else 4
    yield from _header_without(data, "<ii", at, 32)
    (compression,) = struct.unpack_from("<I", data, at + 12)
    if compression in (1, 2):
        start = struct.unpack_from("<I", data, 10)[0]
        for left in range(0, len(data) - start - 2, step):
            yield f"{left} bytes of codes", data[: start + left] + b"\0\1"


def without_pixels(sample: Sample, step: int = 1) -> Iterator[tuple[str, bytes]]:
    """Files whose frame, sizes and checksums are right while pixels are missing.

    With a larger ``step`` fewer lengths are tried.
    """
    makers = {
        "PNG": _png_without,
        "JPEG": _jpeg_without,
        "TIFF": _tiff_without,
        "BMP": _bmp_without,
        "DIB": _bmp_without,
        "WEBP": _webp_without,
        "GIF": _gif_without,
        "PPM": _pnm_without,
        "JPEG2000": _jp2_without,
    }
    yield from makers[sample.format](sample.data, step)
