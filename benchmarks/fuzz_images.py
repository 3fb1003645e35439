"""Image files that lack pixels: each must be refused or read with every pixel right.

    python benchmarks/fuzz_images.py [--kinds jpeg tiff_bits] [--size 37 45] [--step 1]
    python benchmarks/fuzz_images.py --cost [--kinds JPEG TIFF]

Takes a good file of every kind that is read (all color types, compressions and layouts), cuts it
at every ``step``-th byte, appends a valid end to what is left, and takes pixels out of files whose
frames and checksums stay right. Prints for each kind how many files were tried, how many were
refused, and how many were read with wrong pixels, which must be none. ``--cost`` prints what the
check and the whole reading take instead, in milliseconds, for 256 x 256 pixels and 20 megapixels.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyimgano.exceptions import ImageReadError
from pyimgano.inputs import _reading
from pyimgano.inputs._completeness import check_complete
from tests.inputs import image_files

COST_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("PNG", {"compress_level": 6}),
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "TIFF none": ("TIFF", {}),
    "TIFF LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF JPEG": ("TIFF", {"compression": "jpeg", "quality": 90}),
    "TIFF group 4": ("TIFF", {"compression": "group4"}),
    "BMP": ("BMP", {}),
    "WebP lossy": ("WEBP", {"quality": 75, "method": 2}),
    "WebP lossless": ("WEBP", {"lossless": True, "method": 0, "quality": 0}),
    "GIF": ("GIF", {}),
    "PPM": ("PPM", {}),
    "JPEG 2000": ("JPEG2000", {}),
}


def read(data: bytes) -> np.ndarray | None:
    _reading._read_bytes = lambda path: data
    try:
        return _reading.read_raw("image")
    except ImageReadError:
        return None


def fuzz(names: list[str], size: tuple[int, int], step: int) -> int:
    n_wrong = 0
    print(f"{'kind':32}{'bytes':>8}{'tried':>8}{'refused':>9}{'same':>6}{'wrong':>7}  first wrong")
    for name, sample in image_files.samples(*size).items():
        if names and not any(name.startswith(one) for one in names):
            continue
        good = read(sample.data)
        if good is None:
            print(f"{name:32}{len(sample.data):8}  not readable")
            continue
        tried = refused = same = 0
        wrong = []
        lengths = range(1, len(sample.data), step)
        variants = itertools.chain(
            image_files.cuts(sample, lengths), image_files.without_pixels(sample, step)
        )
        for what, data in variants:
            pixels = read(data)
            tried += 1
            refused += pixels is None
            same += pixels is not None and np.array_equal(pixels, good)
            if pixels is not None and not np.array_equal(pixels, good):
                wrong.append(what)
        n_wrong += len(wrong)
        row = f"{name:32}{len(sample.data):8}{tried:8}{refused:9}{same:6}{len(wrong):7}"
        print(f"{row}  {wrong[0] if wrong else ''}", flush=True)
    return n_wrong


def milliseconds(job: Any, n: int) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def cost(names: list[str]) -> None:
    print(f"{'format':20}{'pixels':>14}{'kB':>9}{'check ms':>11}{'read ms':>10}{'without':>10}")
    for height, width in ((256, 256), (4000, 5000)):
        image = Image.fromarray(image_files.scene(height, width))
        bits = image.convert("1", dither=Image.Dither.NONE)
        n = 20 if height < 1000 else 2
        for name, (kind, options) in COST_KINDS.items():
            if names and not any(name.startswith(one) for one in names):
                continue
            source = bits if name == "TIFF group 4" else image
            data = image_files.encode(source, kind, **options)

            def check(data: bytes = data) -> None:
                check_complete("image", data, _reading._open("image", data))

            def decode(data: bytes = data) -> np.ndarray | None:
                return read(data)

            opened = milliseconds(lambda data=data: _reading._open("image", data), n)
            decode()
            checked = milliseconds(check, n) - opened
            whole = milliseconds(decode, n)
            print(
                f"{name:20}{height:>6} x {width:<5}{len(data) / 1e3:9.0f}{checked:11.2f}"
                f"{whole:10.2f}{whole - checked:10.2f}",
                flush=True,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--size", type=int, nargs=2, default=(37, 45))
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's about metadata
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print from C
    if args.cost:
        cost(args.kinds)
        return 0
    n_wrong = fuzz(args.kinds, tuple(args.size), args.step)
    print(f"{n_wrong} files were read with wrong pixels")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
