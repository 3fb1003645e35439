"""Fingerprints by which images are recognized."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

__all__ = ["digest"]


def digest(array: np.ndarray) -> bytes:
    """Fingerprint of one image or one patch grid: 16 bytes of its shape and content."""
    array = np.ascontiguousarray(array)
    return blake2b(array.data, digest_size=16, key=str(array.shape).encode()).digest()
