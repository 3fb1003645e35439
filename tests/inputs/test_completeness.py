"""A file that lacks pixels is refused, and a good one is read as it always was."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pyimgano.datasets import read_mask
from pyimgano.exceptions import ImageReadError
from pyimgano.inputs import _reading
from tests.inputs import image_files

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Pillow's about metadata
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

# One of each kind of compression, to be cut at every byte.
KINDS = (
    *("png_2_8", "png_0_16_interlaced", "jpeg_baseline", "jpeg_progressive", "jpeg_restart"),
    *("tiff_strips_none", "tiff_strips_lzw", "tiff_tiles_deflate", "tiff_gray_packbits"),
    *("tiff_bits_group3", "tiff_bits_group4", "tiff_pillow_jpeg", "bmp_rgb", "bmp_rle8"),
    *("webp_lossy", "webp_lossless", "gif", "pnm_p2", "pnm_p5", "jp2", "jp2_codestream"),
)
ALL = sorted(image_files.samples())
REFUSED = {"jpeg_cmyk": "CMYK"}


@pytest.fixture
def read(monkeypatch):
    """Read the bytes of a file; None if it is refused."""
    monkeypatch.setattr(_reading, "MAX_PIXELS", 10**6)

    def reader(data):
        monkeypatch.setattr(_reading, "_read_bytes", lambda path: data)
        try:
            return _reading.read_raw("image")
        except ImageReadError:
            return None

    return reader


def scored(read, good, variants):
    """Variants that are read although a pixel is another or is missing."""
    wrong = []
    for what, data in variants:
        pixels = read(data)
        if pixels is not None and not np.array_equal(pixels, good):
            wrong.append(what)
    return wrong


def expected(name, data):
    """What the decoders make of a good file, without any check."""
    deep_png = "_16" in name and name.startswith(("png_2", "png_4", "png_6"))
    if deep_png or "deep_color" in name:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return array[..., 2::-1]
    if name == "pnm_p6_deep":
        return image_files.deep(image_files.scene(37, 45))
    image = Image.open(io.BytesIO(data))
    if image.mode in ("I", "I;16", "I;16B"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("1", "LA"):
        return np.asarray(image.convert("L"))
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


@pytest.mark.parametrize("name", ALL)
def test_good_files_are_read_bit_for_bit(read, name, capfd):
    data = image_files.samples()[name].data
    if name in REFUSED:
        assert read(data) is None
        return
    got = read(data)
    assert got is not None
    np.testing.assert_array_equal(got, expected(name, data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", KINDS)
def test_cut_at_every_byte(read, name, capfd):
    sample = image_files.samples(11, 13)[name]
    good = read(sample.data)
    variants = image_files.cuts(sample, range(1, len(sample.data)))
    assert scored(read, good, variants) == []
    capfd.readouterr()


@pytest.mark.parametrize("name", KINDS)
def test_large_one_cut_at_each_percent(read, name, capfd):
    sample = image_files.samples(192, 256)[name]
    good = read(sample.data)
    lengths = [len(sample.data) * share // 100 for share in range(1, 100)]
    assert scored(read, good, image_files.cuts(sample, lengths)) == []
    capfd.readouterr()


@pytest.mark.parametrize("name", [name for name in ALL if name not in REFUSED])
def test_pixels_missing_in_a_file_that_is_whole(read, name, capfd):
    sample = image_files.samples()[name]
    good = read(sample.data)
    some = list(image_files.without_pixels(sample, step=len(sample.data) // 20))
    assert some
    assert scored(read, good, some) == []
    capfd.readouterr()


def test_rows_left_out_of_a_png_are_never_black(read):
    """Every number of rows, with right checksums."""
    for color, depth, interlaced in ((0, 8, False), (0, 16, False), (0, 8, True), (2, 8, False)):
        image = image_files.scene(16, 16)
        pixels = image_files.png_samples_of(image, color, depth)
        rows = image_files.png_data(pixels, depth, interlaced)
        step = 1 + 2 * depth * pixels.shape[2]
        for left in range(0, len(rows), step):
            data = image_files.png_file((16, 16), color, depth, rows[:left], interlaced)
            assert read(data) is None
        assert read(image_files.png_file((16, 16), color, depth, rows, interlaced)) is not None


def test_last_packets_missing_in_a_tile(read, capfd):
    """Each length of the last tile, with that length in its header."""
    sample = image_files.samples(24, 50)["jp2_tiles"]
    good = read(sample.data)
    assert good is not None
    variants = list(image_files.without_pixels(sample))
    assert len(variants) > 100
    assert scored(read, good, variants[-160:]) == []
    capfd.readouterr()


def test_messages(tmp_path):
    path = tmp_path / "a"

    def reason(data):
        path.write_bytes(data)
        with pytest.raises(ImageReadError) as caught:
            _reading.read_raw(str(path))
        return caught.value.reason

    samples = image_files.samples()
    jpeg = samples["jpeg_baseline"].data
    assert reason(jpeg[:900] + b"\xff\xd9").startswith(
        "is truncated or damaged: the JPEG ends after "
    )
    assert "its header says 45 x 37 pixels" in reason(jpeg[:900] + b"\xff\xd9")
    progressive = samples["jpeg_progressive"].data
    last = progressive.rindex(b"\xff\xda")
    tables = progressive.rindex(b"\xff\xc4", 0, last)
    assert reason(progressive[:tables] + b"\xff\xd9").endswith("lacks scans that refine it")
    arithmetic = jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1)
    assert reason(arithmetic).endswith(
        "arithmetic coding, in which missing pixels cannot be noticed; convert it to PNG"
    )
    strips = samples["tiff_strips_none"].data
    fewer = dict(image_files.without_pixels(samples["tiff_strips_none"]))["5 strips"]
    assert reason(fewer) == "is truncated: it holds 5 of the 6 strips of its pixels"
    assert "Convert it to PNG, or to a TIFF with LZW" in reason(
        image_files.tiff_with(strips, 259, [6])
    )
    text = samples["pnm_p2"].data
    assert "digits of its last number can be missing" in reason(text[:-2])


def test_what_follows_the_pixels_may_be_missing(read):
    """Metadata after the image: every pixel is there."""
    samples = image_files.samples()
    jpeg = samples["jpeg_baseline"].data
    whole = read(jpeg)
    np.testing.assert_array_equal(read(jpeg + b"anything"), whole)
    exif = samples["webp_exif"].data
    at = exif.index(b"EXIF")
    np.testing.assert_array_equal(read(image_files.webp_with_sizes(exif[: at + 20])), read(exif))


def test_masks_are_read_by_the_same_reader(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[3:9, 4:20] = 255
    rows = image_files.png_rows(mask[..., None], 8)
    path = tmp_path / "mask.png"
    path.write_bytes(image_files.png_file((32, 32), 0, 8, rows))
    assert read_mask(path).sum() == 6 * 16
    path.write_bytes(image_files.png_file((32, 32), 0, 8, rows[: 20 * 33]))
    with pytest.raises(ImageReadError, match="is truncated: 396 of the 1056 bytes"):
        read_mask(path)


def test_three_hundred_files_of_eight_formats(read, capfd):
    """Cuts, cuts with an end, and files without pixels, chosen at random: none gets a score."""
    rng = np.random.default_rng(0)
    formats = sorted({sample.format for sample in image_files.samples().values()} - {"DIB"})
    assert len(formats) == 8
    tried = 0
    for kind in formats:
        names = [n for n in KINDS if image_files.samples()[n].format == kind]
        variants = []
        for name in names:
            sample = image_files.samples(48, 64)[name]
            lengths = rng.integers(1, len(sample.data) - 8, 20)
            cut = [(f"{name} {what}", data) for what, data in image_files.cuts(sample, lengths)]
            made = list(image_files.without_pixels(sample, step=len(sample.data) // 50))
            variants += cut + [(f"{name} {what}", data) for what, data in made]
        for k in rng.choice(len(variants), min(40, len(variants)), replace=False):
            what, data = variants[k]
            good = read(image_files.samples(48, 64)[what.split()[0]].data)
            assert scored(read, good, [(what, data)]) == []
            tried += 1
    assert tried >= 300
    capfd.readouterr()


def test_a_bmp_may_declare_any_size_of_its_pixels(tmp_path):
    # Some writers put the size of the file there, or what it was before a crop.
    image = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    data = bytearray(cv2.imencode(".bmp", image[..., ::-1])[1].tobytes())
    data[34:38] = (10**6).to_bytes(4, "little")
    path = tmp_path / "a.bmp"
    path.write_bytes(data)
    np.testing.assert_array_equal(_reading.read_raw(str(path)), image)
    path.write_bytes(data[:-24])  # a row
    with pytest.raises(ImageReadError, match="24 of the 120 bytes of its pixels are missing"):
        _reading.read_raw(str(path))
