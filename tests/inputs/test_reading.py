"""Reading one file: exact pixels, upright, and a clear error for whatever is wrong."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.inputs import ImageSequence, _completeness, _reading
from tests.inputs import image_files

TIFF_PREDICTOR = 317  # cv2.IMWRITE_TIFF_PREDICTOR, which OpenCV 4.6 has no name for


@pytest.fixture(autouse=True)
def nothing_printed(capfd):
    """Decoders must not talk past the errors, neither from Python nor from C."""
    yield
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def read(path):
    return ImageSequence([path])[0]


def read_raw(path):
    return ImageSequence([path]).read_raw(0)


def colors(height=5, width=7):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def deep_colors(height=5, width=7):
    return np.random.default_rng(2).integers(0, 65536, (height, width, 3), dtype=np.uint16)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(pixels, extra_tags=(), order="<"):
    """A hand-written uncompressed TIFF of 16-bit pixels, gray or RGB."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else 3
    body = pixels.astype(order + "u2").tobytes()
    bits_at = 8 + len(body)
    tags = {
        256: (3, 1, width),
        257: (3, 1, height),
        258: (3, 1, 16) if samples == 1 else (3, 3, bits_at),
        259: (3, 1, 1),
        262: (3, 1, 1 if samples == 1 else 2),
        273: (4, 1, 8),
        277: (3, 1, samples),
        278: (3, 1, height),
        279: (4, 1, len(body)),
    }
    tags.update(extra_tags)
    ifd = struct.pack(order + "H", len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        inline = "HH" if kind == 3 and count == 1 else "I"
        values = (value, 0) if inline == "HH" else (value,)
        ifd += struct.pack(order + "HHI" + inline, tag, kind, count, *values)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", bits_at + 6)
    return head + body + struct.pack(order + "HHH", 16, 16, 16) + ifd + bytes(4)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "dib"])
def test_lossless_color(tmp_path, suffix):
    Image.fromarray(colors()).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}"), colors())


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_color(tmp_path, suffix):
    image = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", quality=95)
    out = read(tmp_path / f"a.{suffix}")
    assert out.shape == image.shape
    assert np.abs(out.astype(int) - image).max() <= 4


def test_gray_is_repeated(tmp_path):
    gray = colors()[..., 0]
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raw(tmp_path / "a.png"), gray)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.dstack([gray] * 3))


def test_one_bit_and_palette(tmp_path):
    bits = np.array([[0, 255, 255], [255, 0, 0]], dtype=np.uint8)
    Image.fromarray(bits).convert("1").save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_raw(tmp_path / "bit.png"), bits)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png")
    assert read(tmp_path / "palette.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    alpha = np.full((5, 7, 1), 255, dtype=np.uint8)
    rgba = np.dstack([colors(), alpha])
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read(tmp_path / "opaque.png"), colors())
    gray = np.dstack([colors()[..., 0], alpha])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_raw(tmp_path / "gray.png"), gray[..., 0])
    rgba[2, 3, 3] = 254
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    with pytest.raises(ImageReadError, match=r"clear\.png: has transparent pixels"):
        read(tmp_path / "clear.png")


def test_transparent_color(tmp_path):
    image = Image.fromarray(colors())
    image.save(tmp_path / "used.png", transparency=tuple(int(v) for v in colors()[0, 0]))
    with pytest.raises(ImageReadError, match="transparent"):
        read(tmp_path / "used.png")
    image.save(tmp_path / "unused.png", transparency=(1, 2, 3))
    np.testing.assert_array_equal(read(tmp_path / "unused.png"), colors())


def test_sixteen_bit_gray_is_exact(tmp_path):
    deep = deep_colors()[..., 0]
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    cv2.imwrite(str(tmp_path / "a.tif"), deep)
    (tmp_path / "big.tif").write_bytes(tiff(deep, order=">"))
    for name in ("a.png", "a.tif", "big.tif"):
        raw = read_raw(tmp_path / name)
        assert raw.dtype == np.uint16
        np.testing.assert_array_equal(raw, deep)


def test_sixteen_bit_color_is_exact(tmp_path):
    deep = deep_colors()
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / "a.tif"), deep[..., ::-1])
    (tmp_path / "little.tif").write_bytes(tiff(deep))
    (tmp_path / "big.tif").write_bytes(tiff(deep, order=">"))
    for name in ("a.png", "a.tif", "little.tif", "big.tif"):
        raw = read_raw(tmp_path / name)
        assert raw.dtype == np.uint16
        np.testing.assert_array_equal(raw, deep)
    # 65535 / 255 = 257: the nearest uint8 of v is v / 257 rounded
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.rint(deep / 257))


@pytest.mark.parametrize("n_samples", [3, 4])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize(("compression", "predictor"), [(None, 0), ("zlib", 0), ("zlib", True)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_layouts_of_sixteen_bit_tiffs(
    tmp_path, n_samples, planes, tile, compression, predictor, order
):
    deep = deep_colors(37, 53)
    pixels = np.dstack([deep, np.full((37, 53, n_samples - 3), 65535, np.uint16)])
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels if planes == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        photometric="rgb",
        planarconfig=planes,
        tile=tile,
        compression=compression,
        predictor=predictor,
        byteorder=order,
        extrasamples=["unassalpha"] * (n_samples - 3),
    )
    np.testing.assert_array_equal(read_raw(tmp_path / "a.tif"), deep)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])  # none, LZW, deflate, PackBits
@pytest.mark.parametrize("predictor", [1, 2])
def test_compressions_of_sixteen_bit_tiffs(tmp_path, compression, predictor):
    deep = deep_colors(37, 53)
    how = [cv2.IMWRITE_TIFF_COMPRESSION, compression, TIFF_PREDICTOR, predictor]
    assert cv2.imwrite(str(tmp_path / "a.tif"), deep[..., ::-1], how)
    np.testing.assert_array_equal(read_raw(tmp_path / "a.tif"), deep)


def interlaced(pixels):
    """A PNG of 16-bit colors in seven passes."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 1)
    rows = b""
    for top, left, down, across in _completeness._PASSES:
        for row in pixels[top::down, left::across]:
            rows += b"\0" + row.astype(">u2").tobytes() if len(row) else b""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return data + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (9, 13)])
def test_interlaced_sixteen_bit_png(tmp_path, shape):
    deep = deep_colors(*shape)
    (tmp_path / "a.png").write_bytes(interlaced(deep))
    np.testing.assert_array_equal(read_raw(tmp_path / "a.png"), deep)


def test_damage_that_no_checksum_tells_is_an_error_without_a_word_from_the_decoder(tmp_path):
    def png(rows, header=(8, 8, 16, 2, 0, 0, 0), extra=b""):
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + extra
        return data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    row = bytes(1 + 8 * 6)
    path = tmp_path / "a.png"
    path.write_bytes(png(8 * row))
    np.testing.assert_array_equal(read_raw(path), np.zeros((8, 8, 3)))
    path.write_bytes(png(8 * row, extra=chunk(b"PLTE", bytes(4))))  # no palette has four bytes
    np.testing.assert_array_equal(read_raw(path), np.zeros((8, 8, 3)))
    for rows in (7 * row, 9 * row, 7 * row + b"\x09" + row[1:]):
        path.write_bytes(png(rows))
        with pytest.raises(ImageReadError, match=r"damaged|is truncated"):
            read(path)
    path.write_bytes(png(8 * row, (8, 8, 16, 2, 0, 1, 0)))
    with pytest.raises(ImageReadError, match="header"):
        read(path)


def test_sixteen_bit_alpha(tmp_path):
    deep = np.dstack([deep_colors(), np.full((5, 7), 65535, np.uint16)])
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_raw(tmp_path / "a.png"), deep[..., :3])
    deep[0, 0, 3] = 65534
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., [2, 1, 0, 3]])
    with pytest.raises(ImageReadError, match="transparent"):
        read(tmp_path / "a.png")


def test_tags_and_chunks_unknown_to_opencv_print_nothing(tmp_path):
    deep = deep_colors()
    (tmp_path / "a.tif").write_bytes(tiff(deep, {50000: (3, 1, 7), 65000: (4, 1, 9)}))
    np.testing.assert_array_equal(read_raw(tmp_path / "a.tif"), deep)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    data = (tmp_path / "a.png").read_bytes()
    odd = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"not a profile"))
    (tmp_path / "a.png").write_bytes(data[:33] + odd + data[33:])
    np.testing.assert_array_equal(read_raw(tmp_path / "a.png"), deep)


def test_declared_full_white_of_files(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.array([[0, 4095, 2048]], dtype=np.uint16))
    assert ImageSequence([path], u16_max=4095)[0][0, :, 0].tolist() == [0, 255, 128]
    with pytest.raises(ImageFormatError, match=r"a\.png has values up to 4095.*u16_max=1023"):
        ImageSequence([path], u16_max=1023)[0]


# What a viewer shows for a 2 x 3 image stored as [[1, 2, 3], [4, 5, 6]], by orientation.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],  # mirrored left to right
    3: [[6, 5, 4], [3, 2, 1]],  # turned by 180 degrees
    4: [[4, 5, 6], [1, 2, 3]],  # mirrored top to bottom
    5: [[1, 4], [2, 5], [3, 6]],  # transposed
    6: [[4, 1], [5, 2], [6, 3]],  # to be turned clockwise
    7: [[6, 3], [5, 2], [4, 1]],  # transposed along the other diagonal
    8: [[3, 6], [2, 5], [1, 4]],  # to be turned counter-clockwise
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_exif_orientation(tmp_path, orientation):
    stored = np.array(UPRIGHT[1], dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "a.tif", exif=exif)
    blocks = np.kron(stored * 40, np.ones((8, 8), dtype=np.uint8))
    Image.fromarray(blocks).save(tmp_path / "a.jpg", exif=exif, quality=100)
    tag = {274: (3, 1, orientation)}
    (tmp_path / "gray16.tif").write_bytes(tiff(stored.astype(np.uint16), tag))
    (tmp_path / "rgb16.tif").write_bytes(tiff(np.dstack([stored.astype(np.uint16)] * 3), tag))
    expected = UPRIGHT[orientation]
    assert read_raw(tmp_path / "a.png").tolist() == expected
    assert read_raw(tmp_path / "a.tif").tolist() == expected
    assert read_raw(tmp_path / "gray16.tif").tolist() == expected
    assert read_raw(tmp_path / "rgb16.tif")[..., 0].tolist() == expected
    assert np.rint(read_raw(tmp_path / "a.jpg")[4::8, 4::8] / 40).tolist() == expected


@pytest.mark.parametrize("before", [True, False], ids=["before the pixels", "after them"])
def test_size_of_a_png_is_read_without_decoding(tmp_path, before):
    exif = Image.Exif()
    exif[274] = 6
    tag = chunk(b"eXIf", exif.tobytes()[6:])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 50_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b""))  # of which none are there
    parts = [header, *([tag, pixels] if before else [pixels, tag]), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert _reading.read_size(str(tmp_path / "a.png")) == (60_000, 50_000)


def test_size_and_orientation_in_text_of_a_png(tmp_path):
    # Pillow takes the orientation from XMP where there is no other.
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    path = save(tmp_path / "a.png", colors(5, 7))
    data = path.read_bytes()
    path.write_bytes(data[:33] + text + data[33:])
    assert read_raw(path).shape[:2] == _reading.read_size(str(path))


def test_exif_orientation_of_sixteen_bit_color_png(tmp_path):
    deep = deep_colors(2, 3)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    data = (tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    body = exif.tobytes()[6:]  # without the "Exif\0\0" that JPEG wants
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"eXIf", body) + data[33:])
    np.testing.assert_array_equal(read_raw(tmp_path / "a.png"), np.rot90(deep, -1))


def test_unicode_and_spaces_in_paths(tmp_path):
    folder = tmp_path / "gute Teile 良品"
    folder.mkdir()
    path = folder / "é 1.png"
    Image.fromarray(colors()).save(path)
    np.testing.assert_array_equal(read(path), colors())
    np.testing.assert_array_equal(ImageSequence.from_folder(folder)[0], colors())


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colors(60, 70)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: max(12, int(len(data) * share))])
    with pytest.raises(ImageReadError, match=rf"a\.{suffix}: .*(truncated|header)") as caught:
        read(path)
    assert caught.value.path == str(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_truncated_compressed_tiff(tmp_path, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(colors(60, 70)).save(path, compression=compression)
    np.testing.assert_array_equal(read(path), colors(60, 70))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageReadError):
        read(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_truncated_sixteen_bit_color(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), deep_colors(40, 50))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ImageReadError):
        read(path)


def test_png_with_a_flipped_bit(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(colors(40, 40)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ImageReadError, match="wrong checksum in PNG chunk b'IDAT'"):
        read(path)


def test_sixteen_bit_png_whose_pixels_end_early(tmp_path):
    # Every checksum is right, but the compressed stream holds half the rows.
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes(4 * (1 + 8 * 6)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
    path = tmp_path / "a.png"
    path.write_bytes(data + chunk(b"IEND", b""))
    with pytest.raises(ImageReadError, match="is truncated: 196 of the 392 bytes"):
        read(path)


def test_missing_empty_directory_and_not_an_image(tmp_path):
    with pytest.raises(ImageReadError, match=r"none\.png: does not exist"):
        read(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageReadError, match=r"empty\.png: is empty"):
        read(tmp_path / "empty.png")
    with pytest.raises(ImageReadError, match=r"is a directory.*from_folder"):
        read(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageReadError, match=r"text\.png: is not an image file; supported are PNG"):
        read(tmp_path / "text.png")
    with pytest.raises(ImageReadError, match="cannot be read"):
        read("a\0b.png")


def test_unsupported_kinds(tmp_path):
    cmyk = Image.new("CMYK", (4, 4))
    cmyk.save(tmp_path / "cmyk.jpg")
    cmyk.save(tmp_path / "cmyk.tif")
    for name in ("cmyk.jpg", "cmyk.tif"):
        with pytest.raises(ImageReadError, match="CMYK"):
            read(tmp_path / name)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageReadError, match="32-bit floating point"):
        read(tmp_path / "float.tif")
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(ImageReadError, match="32-bit signed integer"):
        read(tmp_path / "int.tif")
    white_is_zero = tiff(deep_colors()[..., 0], {262: (3, 1, 0)})
    (tmp_path / "white.tif").write_bytes(white_is_zero)
    with pytest.raises(ImageReadError, match="zero as black"):
        read(tmp_path / "white.tif")


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def test_pnm(tmp_path):
    color, gray, deep = colors(), colors()[..., 0], deep_colors()
    bits = np.where(gray > 127, 255, 0).astype(np.uint8)
    Image.fromarray(bits).convert("1").save(tmp_path / "binary.pbm")
    text = "\n".join(" ".join(str(v) for v in row) for row in deep[..., 0])
    (tmp_path / "text.pgm").write_text(f"P2 # a comment\n7 5\n65535\n{text}\n")
    cv2.imwrite(str(tmp_path / "deep.pgm"), deep[..., 0])
    cv2.imwrite(str(tmp_path / "deep.ppm"), deep[..., ::-1])
    expected = {
        save(tmp_path / "color.ppm", color): color,
        save(tmp_path / "gray.pgm", gray): gray,
        tmp_path / "binary.pbm": bits,
        tmp_path / "text.pgm": deep[..., 0],
        tmp_path / "deep.pgm": deep[..., 0],
        tmp_path / "deep.ppm": deep,
    }
    for path, pixels in expected.items():
        raw = read_raw(path)
        assert raw.dtype == pixels.dtype
        np.testing.assert_array_equal(raw, pixels)
        if path.name != "text.pgm":
            path.write_bytes(path.read_bytes()[:-1])
            with pytest.raises(ImageReadError, match="truncated: 1 bytes of pixels"):
                read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P5 2 1 4095\n" + bytes(4), "full white is 4095; readable are 255 and 65535"),
        (b"P6 1 1 15\n" + bytes(3), "full white is 15"),
        (b"P3 1 1 65535\n1 2 3\n", "16-bit color in a PNM file of text"),
        (2 * b"P5 1 1 255\n\7", "more than one image"),
    ],
)
def test_pnm_that_would_be_changed_or_cut(tmp_path, data, message):
    (tmp_path / "a.pgm").write_bytes(data)
    with pytest.raises(ImageReadError, match=message):
        read(tmp_path / "a.pgm")


def test_gif(tmp_path):
    gray = colors()[..., 0]
    path = save(tmp_path / "a.gif", gray)
    np.testing.assert_array_equal(read(path), np.dstack([gray] * 3))
    data = path.read_bytes()
    path.write_bytes(data[:6] + struct.pack("<HH", 8, 5) + data[10:])  # one column more
    with pytest.raises(ImageReadError, match="incomplete: the GIF lacks 5 of its pixels"):
        read(path)


@pytest.mark.parametrize("long", [False, True], ids=["length of 4 bytes", "of 8"])
def test_jpeg_2000_with_a_codestream_in_another_box(tmp_path, long):
    # A box of text ahead holds the header of an image of 8-bit gray; the pixels are deep ones.
    shallow = save(tmp_path / "a.j2k", colors(9, 9)[..., 0]).read_bytes()
    tall = deep_colors(9, 9)[..., 0]
    path = save(tmp_path / "a.jp2", tall)
    data = path.read_bytes()
    if long:
        box = struct.pack(">I4sQ", 1, b"xml ", 16 + len(shallow)) + shallow
    else:
        box = struct.pack(">I4s", 8 + len(shallow), b"xml ") + shallow
    at = data.index(b"jp2c") - 4
    path.write_bytes(data[:at] + box + data[at:])
    np.testing.assert_array_equal(read_raw(path), tall)
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    with pytest.raises(ImageReadError, match="truncated or damaged"):
        read(path)
    path.write_bytes(data[:at] + box)
    with pytest.raises(ImageReadError, match="truncated or damaged"):
        read(path)


def test_jpeg_2000(tmp_path):
    tall = deep_colors()[..., 0]
    for suffix in ("jp2", "j2k"):
        path = save(tmp_path / f"color.{suffix}", colors(40, 50), tile_size=(32, 32))
        np.testing.assert_array_equal(read_raw(path), colors(40, 50))
        data = path.read_bytes()
        last_tile = data.rindex(b"\xff\x90\x00\x0a")
        for cut in (data[:-2], data[:last_tile] + b"\xff\xd9", data[: data.index(b"\xff\x90")]):
            path.write_bytes(cut)
            with pytest.raises(ImageReadError, match="truncated or damaged"):
                read(path)
    np.testing.assert_array_equal(read_raw(save(tmp_path / "deep.jp2", tall)), tall)
    data = bytearray(data)
    for k in range(3):
        data[data.index(b"\xff\x4f\xff\x51") + 42 + 3 * k] = 11
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="3 channels with 12-bit values"):
        read(path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"II+\0\x08\0\0\0", "a BigTIFF"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"<?xml version='1.0'?>\n<svg/>", "an SVG drawing"),
    ],
)
def test_pictures_of_other_kinds_are_named(tmp_path, data, name):
    (tmp_path / "a.png").write_bytes(data)
    message = f"is {name}, which cannot be read. Convert it to PNG or TIFF .*; supported are PNG"
    with pytest.raises(ImageReadError, match=message):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("tag", [{50706: (4, 1, 0x0401)}, {254: (4, 1, 1)}])
def test_previews_of_camera_raw_are_not_taken_for_the_image(tmp_path, tag):
    (tmp_path / "a.dng").write_bytes(tiff(deep_colors(), tag))
    with pytest.raises(ImageReadError, match=r"raw data of a camera.*Convert it"):
        read(tmp_path / "a.dng")


@pytest.mark.parametrize("suffix", ["tif", "png", "webp", "gif"])
def test_several_pages(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    pages = [Image.fromarray(colors()), Image.fromarray(255 - colors())]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(ImageReadError, match="holds 2 pages or frames"):
        read(path)


def test_decompression_bomb_is_refused_by_its_header(tmp_path):
    # 60000 x 60000 in a file of under 100 bytes; decoding would take 10 GB
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    path = tmp_path / "bomb.png"
    path.write_bytes(data + chunk(b"IEND", b""))
    with pytest.raises(ImageReadError, match=r"bomb\.png: is 60000 x 60000 .* MAX_PIXELS"):
        read(path)


def test_pixel_limit_is_ours_not_pillows(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(colors(5, 7)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(read(path), colors(5, 7))
    monkeypatch.setattr(_reading, "MAX_PIXELS", 34)
    with pytest.raises(ImageReadError, match="more than MAX_PIXELS = 34"):
        read(path)


def test_file_too_large_to_be_an_image(tmp_path, monkeypatch):
    path = tmp_path / "a.bmp"
    Image.fromarray(colors(5, 7)).save(path)
    monkeypatch.setattr(_reading, "MAX_PIXELS", 10)
    with pytest.raises(ImageReadError, match="bytes, more than any image"):
        read(path)


def test_decoded_images_can_be_written_to(tmp_path):
    Image.fromarray(colors()).save(tmp_path / "a.png")
    read(tmp_path / "a.png")[:] = 0
    read_raw(tmp_path / "a.png")[:] = 0


def test_tolerance_for_truncated_files_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.fromarray(colors(60, 70)).save(path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageReadError, match="LOAD_TRUNCATED_IMAGES"):
        read(path)


def samples():
    deep_png = cv2.imencode(".png", deep_colors())[1].tobytes()
    out = [deep_png, tiff(deep_colors())]
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(colors()).save(file, kind)
        out.append(file.getvalue())
    return out


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(samples()), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about metadata
def test_damage_gives_an_image_or_a_read_error(tmp_path, monkeypatch, data, more):
    monkeypatch.setattr(_reading, "MAX_PIXELS", 10_000)
    damaged = bytearray(data)
    for _ in range(more.draw(st.integers(1, 4))):
        damaged[more.draw(st.integers(4, len(data) - 1))] = more.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(bytes(damaged))
    try:
        image = read_raw(path)
    except ImageReadError:
        pass
    else:
        assert image.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize(
    ("kind", "where"), [("BMP", "load"), ("PNG", "array"), ("TIFF", "codec"), ("PNG", "opencv")]
)
def test_want_of_memory_is_told_as_such(tmp_path, monkeypatch, kind, where):
    path = tmp_path / "a"
    if where == "opencv":
        path.write_bytes(cv2.imencode(".png", deep_colors())[1].tobytes())
    else:
        Image.fromarray(colors()).save(path, kind)
    no_cv2_memory = cv2.error("Failed to allocate 99 bytes")
    no_cv2_memory.code = cv2.Error.StsNoMem

    def fail(*args, **kwargs):
        raise {
            "load": MemoryError(),
            "array": MemoryError(),
            "codec": OSError("out of memory when reading image file"),
            "opencv": no_cv2_memory,
        }[where]

    owner, name = {
        "load": (ImageFile.ImageFile, "load"),
        "array": (_reading, "as_canonical"),
        "codec": (ImageFile.ImageFile, "load"),
        "opencv": (cv2, "imdecode"),
    }[where]
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(ImageReadError, match="memory is used up, which says nothing about the"):
        read(path)


# Limits memory to so many bytes more than are taken for each of the first images, a number of them,
# and reads it; reads them once more without the limit. The others are read before, so that all that
# is compiled is there.
READ_WITH_LITTLE_MEMORY = """
import resource, sys
from pyimgano.inputs import ImageSequence

margin, n, images = int(sys.argv[1]), int(sys.argv[2]), ImageSequence(sys.argv[3:])
for image in images[n:]:
    pass
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for i in range(n):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + margin, hard))
    try:
        images[i]
    except Exception as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print([float(image.mean()) for image in images[:n]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of address space")
def test_real_want_of_memory(tmp_path):
    suffixes = ("png", "jpg", "tif")
    for name, side in (("large", 3000), ("small", 30)):
        for suffix in suffixes:
            image = Image.fromarray(np.full((side, side, 3), 7, np.uint8))
            image.save(tmp_path / f"{name}.{suffix}")
    check_want_of_memory(
        15_000_000,
        [tmp_path / f"large.{suffix}" for suffix in suffixes],
        [tmp_path / f"small.{suffix}" for suffix in suffixes],
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of address space")
def test_want_of_memory_before_anything_is_compiled(tmp_path, monkeypatch):
    # Compiling takes more than the image. LLVM would end the process where it finds no memory.
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((30, 30, 3), 7, np.uint8)).save(path)
    check_want_of_memory(30_000_000, [path])


def check_want_of_memory(margin, images, read_before=()):
    arguments = [str(one) for one in (margin, len(images), *images, *read_before)]
    command = [sys.executable, "-c", READ_WITH_LITTLE_MEMORY, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    *errors, means = result.stdout.splitlines()
    assert means == str([7.0] * len(images)), result
    assert len(errors) == len(images), result
    for error, path in zip(errors, images):
        assert path.name in error and "memory is used up" in error, result


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (7, 1, 3), (23, 31, 3), (23, 31)])
def test_every_filter_of_png_is_undone(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    row = shape[1] * (3 if len(shape) == 3 else 1)
    step = row // shape[1]
    before = np.zeros(row, np.int64)
    data = b""
    for i, values in enumerate(image.reshape(shape[0], row).astype(np.int64)):
        left = np.concatenate([np.zeros(step, np.int64), values[:-step]])
        corner = np.concatenate([np.zeros(step, np.int64), before[:-step]])
        guess = left + before - corner
        off = np.abs(np.stack([left, before, corner]) - guess)
        nearest = np.choose(off.argmin(axis=0), [left, before, corner])  # ties: the first
        predicted = [0, left, before, (left + before) // 2, nearest][i % 5]
        data += bytes([i % 5]) + ((values - predicted) & 255).astype(np.uint8).tobytes()
        before = values
    path = tmp_path / "a.png"
    path.write_bytes(image_files.png_file(shape[:2], 2 if step == 3 else 0, 8, data, False))
    np.testing.assert_array_equal(read_raw(str(path)), image)


@pytest.mark.parametrize("color", [0, 2])
def test_a_png_whose_chunks_are_out_of_order_is_left_to_pillow(tmp_path, monkeypatch, color):
    def header(width, height):
        body = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
        return image_files.png_chunk(b"IHDR", body)

    pixels = zlib.compress(bytes(2 * (1 + 3 * (1 + color))))
    whole, text = image_files.png_chunk(b"IDAT", pixels), image_files.png_chunk(b"tEXt", b"a\0b")
    halves = [image_files.png_chunk(b"IDAT", half) for half in (pixels[:5], pixels[5:])]
    fake = image_files.png_chunk(b"tEXt", header(3, 2)[8:-4])
    files = [
        [header(3, 2), halves[0], text, halves[1]],
        [header(3, 2), header(2, 3), whole],
        [fake, header(3, 2), whole],
        [header(3, 2), whole, image_files.png_chunk(b"pHYs", b"x")],
    ]
    path = tmp_path / "a.png"

    def outcomes():
        for chunks in files:
            end = image_files.png_chunk(b"IEND", b"")
            path.write_bytes(b"".join([image_files.PNG_SIGNATURE, *chunks, end]))
            with pytest.raises(ImageReadError) as caught:
                read_raw(str(path))
            yield str(caught.value)

    found = list(outcomes())
    monkeypatch.setattr(_reading, "read_plain_png", lambda path, data: None)
    assert found == list(outcomes())
