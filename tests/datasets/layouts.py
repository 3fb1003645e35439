"""Small trees of pictures in the layouts of public datasets; every picture is another one."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

SIZE = 32
_seeds = itertools.count()


def picture(path, size=(SIZE, SIZE)):
    """Write a picture that no other file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(next(_seeds))
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def mask(path, *values, size=(SIZE, SIZE)):
    """Write a mask with a row of 5 pixels for each value; without values it is all black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    for row, value in enumerate(values):
        pixels[row, :5] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec_ad(root, category="bottle"):
    base = root / category
    for i in range(3):
        picture(base / f"train/good/{i:03d}.png")
    picture(base / "test/good/000.png")
    for kind, count in (("crack", 2), ("stain", 1)):
        for i in range(count):
            picture(base / f"test/{kind}/{i:03d}.png")
            mask(base / f"ground_truth/{kind}/{i:03d}_mask.png", 255)
    return root
