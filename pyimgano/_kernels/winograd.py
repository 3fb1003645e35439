"""3 x 3 convolutions by Winograd's minimal filtering: a quarter of the multiplications.

Nearly all of a residual network's time on a CPU goes into 3 x 3 convolutions, which torch
computes directly and at close to the processor's peak. ``F(4 x 4, 3 x 3)`` [1]_ gets 4 x 4 outputs
from 6 x 6 inputs with 36 multiplications in place of 144, and its transforms are few additions:
the whole convolution takes less than half the time. It stays in float32; results differ from the
direct sum's by a few 1e-6 of the largest.

References
----------
.. [1] A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.products import ROWS, multiply, packed
from pyimgano._kernels.scratch import aligned, scratch
from pyimgano.utils._threads import even_slices, map_in_threads

__all__ = ["Winograd"]

# Transform of the kernel; those of input and output are written out below.
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
# Below so many channels the transforms cost more than the multiplications they save.
_FEWEST_CHANNELS = 32
# Tiles times channels worked on at a time: both transforms of them stay in the cache (1 MiB).
_BLOCK = 4096


class Winograd:
    """A 3 x 3 convolution of a map on a CPU, and the addition and ReLU that may follow it.

    The convolution has stride 1 and zeros beyond the border, so that the map keeps its size.

    Parameters
    ----------
    kernel : ndarray of shape (n_outputs, n_inputs, 3, 3), float32
    bias : ndarray of shape (n_outputs,), float32
    relu : bool, default=False
        Whether negative results become zero.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, *, relu: bool = False) -> None:
        kernel = kernel.astype(np.float64)
        matrices = kernel.transpose(1, 0, 2, 3).reshape(kernel.shape[1], kernel.shape[0], 9)
        all_packed = [packed((matrices @ w).astype(np.float32)) for w in np.kron(_KERNEL, _KERNEL)]
        self._matrices = aligned(36 * all_packed[0].size).reshape(36, -1)
        np.stack(all_packed, out=self._matrices)
        self._bias, self._relu = bias, relu

    @property
    def n_outputs(self) -> int:
        return len(self._bias)

    @staticmethod
    def pays(shape: tuple[int, ...]) -> bool:
        """Return True if it is faster than the direct sum for a kernel of this shape."""
        return tuple(shape[2:]) == (3, 3) and min(shape[:2]) >= _FEWEST_CHANNELS

    def __call__(self, x: np.ndarray, added: Any = None, threads: int = 1) -> np.ndarray:
        """Convolve, and add ``added`` before negatives become zero.

        Parameters
        ----------
        x : ndarray of shape (height, width, n_inputs), float32
            C-contiguous, like what is added.
        added : ndarray of shape (height, width, n_outputs), float32, default=None
        threads : int, default=1
            Threads to use; the result is the same on any number.

        Returns
        -------
        ndarray of shape (height, width, n_outputs), float32
        """
        height, width, channels = x.shape
        result = np.empty((height, width, len(self._bias)), np.float32)
        inputs, out = x.reshape(height, -1), result.reshape(height, -1)
        others = out if added is None else added.reshape(height, -1)
        down, across = -(-height // 4), -(-width // 4)  # tiles
        block = -(-down // -(-down * across * channels // _BLOCK))

        def convolve(part: slice) -> None:
            for first in range(part.start * block, min(part.stop * block, down), block):
                last = min(first + block, down)
                tiles = (last - first) * across
                before, after = _scratch(tiles, channels, self._matrices.shape[1] // channels)
                _read_tiles(inputs, first, last, across, before)
                _multiply_tiles(before, self._matrices, after)
                _write_tiles(after, first, last, across, self._bias, others, added is not None, out)
                if self._relu:
                    _rectify(out[4 * first : 4 * last])

        cuts = even_slices(-(-down // block), threads)
        map_in_threads(convolve, cuts, len(cuts))
        return result


def _scratch(tiles: int, inputs: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory for the transforms."""
    tiles = max(tiles, ROWS)
    spectrum, products = scratch(36 * tiles * inputs, 36 * tiles * width)
    return spectrum.reshape(36, tiles, inputs), products.reshape(36, tiles, width)


@kernel()
def _multiply_tiles(spectrum, matrices, products):
    """Multiply the tiles of each frequency with its matrix."""
    _, tiles, inputs = spectrum.shape
    width = products.shape[2]
    places = np.arange(0, tiles * width, width)
    nothing, least, most = np.zeros(width, np.float32), np.float32(-np.inf), np.float32(np.inf)
    for at in range(36):
        multiply(spectrum[at].ravel(), inputs, matrices[at], nothing, least, most,
                 products[at].ravel(), places)  # fmt: skip


@kernel(fastmath={"contract"})
def _input_transform(a, step, b, gap, n):
    """Transform six runs of ``n`` values, ``step`` apart, to six that lie ``gap`` apart."""
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    a0, a1, a2 = a[:n], a[step : step + n], a[2 * step : 2 * step + n]
    a3, a4 = a[3 * step : 3 * step + n], a[4 * step : 4 * step + n]
    a5 = a[5 * step : 5 * step + n]
    out = b[:n]
    for c in range(n):
        out[c] = four * a0[c] - five * a2[c] + a4[c]
    out = b[gap : gap + n]
    for c in range(n):
        out[c] = (a4[c] - four * a2[c]) + (a3[c] - four * a1[c])
    out = b[2 * gap : 2 * gap + n]
    for c in range(n):
        out[c] = (a4[c] - four * a2[c]) - (a3[c] - four * a1[c])
    out = b[3 * gap : 3 * gap + n]
    for c in range(n):
        out[c] = (a4[c] - a2[c]) + two * (a3[c] - a1[c])
    out = b[4 * gap : 4 * gap + n]
    for c in range(n):
        out[c] = (a4[c] - a2[c]) - two * (a3[c] - a1[c])
    out = b[5 * gap : 5 * gap + n]
    for c in range(n):
        out[c] = four * a1[c] - five * a3[c] + a5[c]


@kernel(fastmath={"contract"})
def _output_transform(a, step, b, gap, n, wanted):
    """Transform six runs of ``n`` values, ``step`` apart in ``a``, to the ``wanted`` first of four.

    These are ``gap`` apart in ``b``.
    """
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    a0, a1, a2 = a[:n], a[step : step + n], a[2 * step : 2 * step + n]
    a3, a4 = a[3 * step : 3 * step + n], a[4 * step : 4 * step + n]
    a5 = a[5 * step : 5 * step + n]
    out = b[:n]
    for c in range(n):
        out[c] = a0[c] + (a1[c] + a2[c]) + (a3[c] + a4[c])
    if wanted > 1:
        out = b[gap : gap + n]
        for c in range(n):
            out[c] = (a1[c] - a2[c]) + two * (a3[c] - a4[c])
    if wanted > 2:
        out = b[2 * gap : 2 * gap + n]
        for c in range(n):
            out[c] = (a1[c] + a2[c]) + four * (a3[c] + a4[c])
    if wanted > 3:
        out = b[3 * gap : 3 * gap + n]
        for c in range(n):
            out[c] = (a1[c] - a2[c]) + eight * (a3[c] - a4[c]) + a5[c]


@kernel()
def _read_tiles(x, first, last, across, spectrum):
    """Transform the 6 x 6 inputs of some rows of tiles: ``spectrum (36, tiles, channels)``.

    Down the columns first, a whole row of pixels at a time, then along the row.
    """
    height, row = x.shape
    _, tiles, channels = spectrum.shape
    framed = np.zeros((6, row), np.float32)
    wide = (4 * across + 2) * channels  # with a pixel of border on the left
    half = np.zeros(6 * wide, np.float32)
    pixels, products = x.ravel(), spectrum.ravel()
    for r in range(first, last):
        top = 4 * r - 1
        above = pixels[max(top, 0) * row :]
        if top < 0 or top + 6 > height:
            for i in range(6):
                framed[i] = 0
                if 0 <= top + i < height:
                    framed[i] = x[top + i]
            above = framed.ravel()
        _input_transform(above, row, half[channels:], wide, row)
        for i in range(6):
            for t in range(across):
                k = 6 * i * tiles + (r - first) * across + t
                _input_transform(
                    half[i * wide + 4 * t * channels :], channels,
                    products[k * channels :], tiles * channels, channels,
                )  # fmt: skip


@kernel()
def _write_tiles(spectrum, first, last, across, bias, others, add, out):
    """Bring products ``(36, tiles, at least channels)`` back to pixels; add bias and others."""
    height, row = out.shape
    _, tiles, room = spectrum.shape
    channels = bias.shape[0]
    wide = 4 * across * channels
    half = np.empty(6 * wide, np.float32)
    pixels, products = out.ravel(), spectrum.ravel()
    for r in range(first, last):
        for i in range(6):
            for t in range(across):
                k = 6 * i * tiles + (r - first) * across + t
                _output_transform(
                    products[k * room :], tiles * room,
                    half[i * wide + 4 * t * channels :], channels, channels, 4,
                )  # fmt: skip
        n = min(4, height - 4 * r)
        _output_transform(half, wide, pixels[4 * r * row :], row, row, n)
        for y in range(4 * r, 4 * r + n):
            line = out[y]
            for k in range(0, row, channels):
                for c in range(channels):
                    line[k + c] += bias[c]
            if add:
                other = others[y]
                for c in range(row):
                    line[c] += other[c]


@kernel()
def _rectify(rows):
    """Make negative values zero; what is no number stays none."""
    values, zero = rows.ravel(), np.float32(0)
    for c in range(values.shape[0]):
        values[c] = zero if values[c] < zero else values[c]
