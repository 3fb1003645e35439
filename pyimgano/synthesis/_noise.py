"""Gradient noise, and the random masks that detectors trained on synthetic defects cut from it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.utils._pairs import check_pair

__all__ = ["perlin_mask", "perlin_noise"]


def perlin_noise(shape: Any, cells: Any, rng: np.random.Generator) -> NDArray[np.float32]:
    """Make gradient noise of unit gradients on a lattice (Perlin noise).

    Each corner of a lattice of ``cells`` has a gradient of length 1 in a random direction. A
    pixel has the sum of the linear functions of the four corners around it, weighted by the
    quintic curve ``t**3 * (6 * t**2 - 15 * t + 10)`` along each axis, and times the square root
    of 2, so that values lie between -1 and 1. Pixels are taken at their centers.

    Parameters
    ----------
    shape : int or (int, int)
        Height and width in pixels.
    cells : int or (int, int)
        Number of lattice cells down and across.
    rng : numpy.random.Generator
        Draws the gradients.

    Returns
    -------
    ndarray of shape (height, width), float32

    References
    ----------
    .. [1] K. Perlin, "Improving noise", ACM Transactions on Graphics 21(3), 2002.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.synthesis import perlin_noise
    >>> noise = perlin_noise((64, 96), (4, 2), np.random.default_rng(0))
    >>> noise.shape, noise.dtype.name, bool(np.abs(noise).max() <= 1)
    ((64, 96), 'float32', True)
    """
    height, width = check_pair(shape, "shape")
    down, across = check_pair(cells, "cells")
    angles = rng.random((down + 1, across + 1)) * (2 * np.pi)
    # The weight of a corner is a product of one along each axis, so the sum over the corners is
    # two products of small matrices.
    rows, row_slopes = _weights(height, down)
    columns, column_slopes = _weights(width, across)
    noise = row_slopes @ np.sin(angles) @ columns.T + rows @ np.cos(angles) @ column_slopes.T
    return (noise * np.sqrt(2)).astype(np.float32)


def _weights(n: int, cells: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the lattice lines for each pixel, and the same times the way from the line."""
    at = (np.arange(n) + 0.5) * (cells / n)
    before = np.minimum(at.astype(int), cells - 1)
    t = at - before
    fade = t * t * t * (t * (t * 6 - 15) + 10)
    pixels = np.arange(n)
    weights, slopes = np.zeros((2, n, cells + 1))
    weights[pixels, before], weights[pixels, before + 1] = 1 - fade, fade
    slopes[pixels, before], slopes[pixels, before + 1] = (1 - fade) * t, fade * (t - 1)
    return weights, slopes


def perlin_mask(
    shape: Any,
    rng: np.random.Generator,
    *,
    max_exponent: int = 5,
    threshold: float = 0.5,
    max_rotation: float = 0.0,
) -> NDArray[np.bool_]:
    """Draw a random mask: the pixels where Perlin noise is above a threshold.

    Along each axis the number of cells is 2 to a power that is drawn uniformly from 0 to
    ``max_exponent``, so masks are blobs of all sizes, and stripes. A mask may come out empty.

    Parameters
    ----------
    shape : int or (int, int)
        Height and width in pixels.
    rng : numpy.random.Generator
        Draws cells, noise and rotation.
    max_exponent : int, default=5
        The largest number of cells is 2 to this power.
    threshold : float, default=0.5
        Pixels above it are in the mask. 0.5 is that of DRAEM [1]_ and 0.2 that of
        SuperSimpleNet [2]_ on MVTec AD.
    max_rotation : float, default=0.0
        The noise is rotated by an angle between minus and plus this many degrees, and mirrored
        at the border. DRAEM has 90.

    Returns
    -------
    ndarray of shape (height, width), bool

    References
    ----------
    .. [1] V. Zavrtanik, M. Kristan, D. Skočaj, "DRAEM: A discriminatively trained reconstruction
       embedding for surface anomaly detection", ICCV 2021.
    .. [2] B. Rolih, M. Fučka, D. Skočaj, "SuperSimpleNet: Unifying unsupervised and supervised
       learning for fast and reliable surface defect detection", ICPR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.synthesis import perlin_mask
    >>> mask = perlin_mask((64, 64), np.random.default_rng(3))
    >>> mask.shape, mask.dtype.name
    ((64, 64), 'bool')
    """
    height, width = check_pair(shape, "shape")
    cells = 2 ** rng.integers(0, max_exponent + 1, 2)
    noise = perlin_noise((height, width), (int(cells[0]), int(cells[1])), rng)
    if max_rotation:
        angle = float(rng.uniform(-max_rotation, max_rotation))
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        turned = cv2.warpAffine(noise, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        noise = np.asarray(turned, np.float32)
    return np.asarray(noise > threshold)
