"""Checksums of corrupted images, in a module that little needs to be imported for."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np

from pyimgano._corruptions import CORRUPTIONS, Corruption


def tiny() -> np.ndarray:
    """An image of 12 x 16 pixels with all kinds of values, made by integers alone."""
    y, x, channel = np.indices((12, 16, 3))
    return ((y * 37 + x * x * 11 + channel * 53 + (y // 4) * (x // 4) * 29) % 256).astype(np.uint8)


def checksum(kind: str) -> str:
    image = Corruption(kind, 4).transform([tiny()])[0]
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    sys.stdout.write(json.dumps({kind: checksum(kind) for kind in CORRUPTIONS}))
