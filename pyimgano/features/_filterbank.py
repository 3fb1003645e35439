"""Patch features without any network weights: oriented gradient energy and colour."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import cv2
import numba
import numpy as np
from sklearn.utils._param_validation import Interval

from pyimgano.features._base import BasePatchFeatures
from pyimgano.features._grids import PatchGrids

_STRIDE = 8  # pixels of the working resolution between two patches
_CELL = 4  # sums are kept per cell of this many pixels; windows are made of cells
_SCALES = (1.0, 2.0, 4.0)  # standard deviations of the derivative filters, in pixels
_WINDOWS = (2, 4, 8)  # side lengths of the pooling windows, in cells
_N_DIRECTIONS = 8
_MEAN_WEIGHT = 0.1  # brings Lab means to the range of the square roots of energies
_COS = np.cos(np.arange(4) * np.pi / 4).astype(np.float32)
_SIN = np.sin(np.arange(4) * np.pi / 4).astype(np.float32)


class FilterBankFeatures(BasePatchFeatures):
    """Patch features from a bank of oriented filters; no weights, no download.

    Parameters
    ----------
    resize : int or (int, int), default=256
        Working resolution, (height, width) or one number for both.
    batch_size : int, default=8
        Images decoded and held at a time.
    """

    _parameter_constraints: dict = {
        "resize": [Interval(Integral, 32, None, closed="left"), tuple, list],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, resize: int | tuple[int, int] = 256, *, batch_size: int = 8) -> None:
        self.resize = resize
        self.batch_size = batch_size

    def _extract(self, images: Sequence[np.ndarray]) -> PatchGrids:
        size = (self.resize,) * 2 if isinstance(self.resize, Integral) else tuple(self.resize)
        features = np.stack([_describe(_resized(image, size)) for image in images])
        sizes = [image.shape[:2] for image in images]
        return PatchGrids.from_array(features, image_sizes=sizes, work_size=size)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def _describe(image: np.ndarray) -> np.ndarray:
    """``(h, w, n_features)`` features of one RGB image at the working resolution."""
    lab = cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    rows, columns = lab.shape[0] // _CELL, lab.shape[1] // _CELL
    energy = np.empty((len(_SCALES) * 3, rows, columns, _N_DIRECTIONS), dtype=np.float32)
    for i, sigma in enumerate(_SCALES):
        smooth = cv2.GaussianBlur(lab, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        for c in range(3):
            # Times sigma: the same edge answers alike at every scale.
            gx = cv2.Sobel(smooth[:, :, c], cv2.CV_32F, 1, 0, ksize=1, scale=0.5 * sigma)
            gy = cv2.Sobel(smooth[:, :, c], cv2.CV_32F, 0, 1, ksize=1, scale=0.5 * sigma)
            _oriented_energy(gx, gy, energy[3 * i + c])
    energy = np.ascontiguousarray(energy.transpose(1, 2, 0, 3)).reshape(rows, columns, -1)
    means = cv2.resize(lab, (columns, rows), interpolation=cv2.INTER_AREA)
    parts = [np.sqrt(_pooled(energy, window)) for window in _WINDOWS]
    parts += [_MEAN_WEIGHT * _pooled(means, window) for window in _WINDOWS]
    return np.concatenate(parts, axis=2)


def _pooled(cells: np.ndarray, window: int) -> np.ndarray:
    """Mean over ``window`` x ``window`` cells around the center of each patch."""
    margin = window // 2 - 1
    padded = np.pad(cells, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    height, width = cells.shape[0] - 1, cells.shape[1] - 1
    lines = sum(padded[i : i + height : 2] for i in range(window))
    sums = sum(lines[:, i : i + width : 2] for i in range(window))
    return sums / np.float32(window * window)


@numba.njit(cache=True, fastmath=True, nogil=True)
def _oriented_energy(gx, gy, out):
    """Mean half-wave energy of a gradient field per cell and direction.

    The gradient's magnitude is shared out over the directions by the cubed cosine of the
    angle between them, so that light-to-dark and dark-to-light edges stay apart.
    """
    rows, columns, _ = out.shape
    up = np.zeros((4, gx.shape[1]), dtype=np.float32)
    down = np.zeros((4, gx.shape[1]), dtype=np.float32)
    for r in range(rows):
        up[:] = 0
        down[:] = 0
        for i in range(r * _CELL, (r + 1) * _CELL):
            for k in range(4):
                for j in range(gx.shape[1]):
                    x = gx[i, j]
                    y = gy[i, j]
                    along = x * _COS[k] + y * _SIN[k]
                    share = along * along * along / (x * x + y * y + np.float32(1e-6))
                    up[k, j] += max(share, np.float32(0))
                    down[k, j] -= min(share, np.float32(0))
        for c in range(columns):
            for k in range(4):
                a = np.float32(0)
                b = np.float32(0)
                for j in range(c * _CELL, (c + 1) * _CELL):
                    a += up[k, j]
                    b += down[k, j]
                out[r, c, k] = a / np.float32(_CELL * _CELL)
                out[r, c, k + 4] = b / np.float32(_CELL * _CELL)
