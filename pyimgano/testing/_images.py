"""Small made images to test detectors on."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["make_check_images", "make_check_parts", "make_gross_anomalies"]


def make_check_images(
    n: int, *, size: tuple[int, int] = (48, 64), defect: bool = False, random_state: Any = 0
) -> np.ndarray:
    """Make small images of a striped part, all alike but for phase and noise.

    Parameters
    ----------
    n : int
        Number of images.
    size : tuple of int, default=(48, 64)
        Height and width in pixels.
    defect : bool, default=False
        Put a bright square of a sixth of the width into each image.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    ndarray of shape (n, height, width, 3), uint8
    """
    rng = check_random_state(random_state)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((n, height, width, 3), dtype=np.uint8)
    for image in images:
        stripes = np.sin((columns + 0.5 * rows) / 4.0 + rng.uniform(0, 2 * np.pi))
        tint = rng.uniform(0.95, 1.05, size=3)
        gray = 110 + 40 * stripes + rng.normal(0, 3, size=size)
        image[:] = np.clip(gray[..., None] * tint, 0, 255)
        if defect:
            side = width // 6
            top, left = rng.randint(0, height - side), rng.randint(0, width - side)
            image[top : top + side, left : left + side] = 250
    return images


def make_check_parts(n: int, *, missing: bool = False, random_state: Any = 0) -> np.ndarray:
    """Make small images of a dark round part with a cross on a light table, in a fixed pose.

    The corners of each image are table: an image of nothing but table resembles them everywhere.

    Parameters
    ----------
    n : int
        Number of images.
    missing : bool, default=False
        Show the table without the part.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    ndarray of shape (n, 48, 64, 3), uint8
    """
    rng = check_random_state(random_state)
    rows, columns = np.mgrid[:48, :64]
    images = np.empty((n, 48, 64, 3), dtype=np.uint8)
    for image in images:
        down, right = rows - 23.5 - rng.uniform(-0.5, 0.5), columns - 31.5 - rng.uniform(-0.5, 0.5)
        disc = np.clip(20.5 - np.hypot(down, right), 0, 1) * (not missing)
        cross = np.clip(3.5 - np.minimum(np.abs(down), np.abs(right)), 0, 1) * disc
        gray = 236 - 150 * disc + 70 * cross + rng.normal(0, 2, size=disc.shape)
        image[:] = np.clip(gray[..., None] * rng.uniform(0.98, 1.02, size=3), 0, 255)
    return images


def make_gross_anomalies() -> dict[str, np.ndarray]:
    """Make images that show no part of :func:`make_check_parts`.

    Returns
    -------
    dict of str to ndarray of shape (48, 64, 3), uint8
    """
    part = make_check_parts(1, random_state=9)[0]
    rng = check_random_state(0)
    stripes = np.zeros_like(part)
    stripes[:, ::8] = stripes[:, 1::8] = 255
    return {
        "black": np.zeros_like(part),
        "white": np.full_like(part, 255),
        "gray": np.full_like(part, 128),
        "the table without the part": make_check_parts(1, missing=True, random_state=9)[0],
        "noise": rng.randint(0, 256, size=part.shape).astype(np.uint8),
        "inverted": 255 - part,
        "another part": make_check_images(1)[0],
        "stripes": stripes,
    }
