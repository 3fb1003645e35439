"""Depthwise convolutions of one map on a CPU, each channel by itself.

A map is an array (height, width, channels), float32, C-contiguous.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["DepthwiseConvolution", "add_bias", "rectify_into_frame", "unfold"]

# Values that are summed side by side: pixels of few channels go together.
_SIDE_BY_SIDE = 256


class DepthwiseConvolution:
    """A convolution of each channel with a square kernel of its own, then ReLU6.

    Parameters
    ----------
    kernel : ndarray of shape (channels, size, size), float32
        ``size`` is 3 or 5.
    bias : ndarray of shape (channels,), float32
    stride : int
        In pixels, down and across.
    """

    def __init__(self, kernel: NDArray[np.float32], bias: NDArray[np.float32], stride: int) -> None:
        n, self.size, _ = kernel.shape
        if self.size not in (3, 5):
            raise ValueError(f"kernel must be 3 or 5 pixels wide, got {self.size}")
        self.stride = stride
        # Pixels with a stride between them are not side by side in memory.
        self._pixels = max(1, _SIDE_BY_SIDE // n) if stride == 1 else 1
        taps = np.asarray(kernel, np.float32).transpose(1, 2, 0)
        self._weights = np.ascontiguousarray(np.tile(taps, self._pixels))
        self._bias = np.tile(np.asarray(bias, np.float32), self._pixels)

    def __call__(self, frame: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Convolve some rows.

        Parameters
        ----------
        frame : ndarray of shape ((rows - 1) * stride + size, wide * channels), float32
            With all that lies beyond the border, ``wide = (width - 1) * stride + size``.
        out : ndarray of shape (rows, width * channels), float32
            Result.
        """
        n = len(self._bias) // self._pixels
        if out.shape[1] // n < self._pixels:  # a narrow map: one pixel at a time
            weights, bias, pixels = self._weights[:, :, :n].copy(), self._bias[:n], 1
        else:
            weights, bias, pixels = self._weights, self._bias, self._pixels
        _depthwise(frame, weights.ravel(), bias, self.size, self.stride, pixels, out)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_three(sums, values, step, weights):
    n = sums.shape[0]
    a0, a1, a2 = values[:n], values[step : step + n], values[2 * step : 2 * step + n]
    w0, w1, w2 = weights[:n], weights[n : 2 * n], weights[2 * n : 3 * n]
    for k in range(n):
        sums[k] += a0[k] * w0[k] + a1[k] * w1[k] + a2[k] * w2[k]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_five(sums, values, step, weights):
    n = sums.shape[0]
    a0, a1, a2 = values[:n], values[step : step + n], values[2 * step : 2 * step + n]
    a3, a4 = values[3 * step : 3 * step + n], values[4 * step : 4 * step + n]
    w0, w1, w2 = weights[:n], weights[n : 2 * n], weights[2 * n : 3 * n]
    w3, w4 = weights[3 * n : 4 * n], weights[4 * n : 5 * n]
    for k in range(n):
        sums[k] += a0[k] * w0[k] + a1[k] * w1[k] + a2[k] * w2[k] + a3[k] * w3[k] + a4[k] * w4[k]


@numba.njit(cache=True, nogil=True)
def _depthwise(frame, weights, bias, size, stride, pixels, out):
    row, n = frame.shape[1], bias.shape[0]
    channels = n // pixels
    width = out.shape[1] // channels
    values = frame.ravel()
    zero, six = np.float32(0), np.float32(6)
    sums = np.empty(n, np.float32)
    for y in range(out.shape[0]):
        for i in range(0, width, pixels):
            x = min(i, width - pixels)  # the last ones may be computed twice
            for k in range(n):  # assigning all of them at once compiles for two seconds
                sums[k] = bias[k]
            for line in range(size):
                start = (y * stride + line) * row + x * stride * channels
                if size == 3:
                    _add_three(sums, values[start:], channels, weights[3 * line * n :])
                else:
                    _add_five(sums, values[start:], channels, weights[5 * line * n :])
            result = out[y, x * channels : x * channels + n]
            for k in range(n):
                value = zero if sums[k] < zero else sums[k]
                result[k] = six if value > six else value


@numba.njit(cache=True, nogil=True)
def rectify_into_frame(values, bias, limit, top, left, frame):
    """Add bias to rows of pixels, rectify them, and put them into a frame of zeros.

    Parameters
    ----------
    values : ndarray of shape (rows, width * channels), float32
    bias : ndarray of shape (channels,), float32
    limit : float
        Largest value; ``inf`` and a bias of zeros only copy values that are not negative.
    top, left : int
        Rows and pixels of zeros above and on the left; the rest of the frame is filled up.
    frame : ndarray of shape (at least top + rows, wide * channels), float32
        Result.
    """
    n = bias.shape[0]
    rows, row = values.shape
    zero, largest = np.float32(0), np.float32(limit)
    first = left * n
    for y in range(frame.shape[0]):
        line = frame[y]
        if y < top or y >= top + rows:
            line[:] = 0
            continue
        line[:first] = 0
        line[first + row :] = 0
        source = values[y - top]
        for i in range(0, row, n):
            a, b = source[i : i + n], line[first + i : first + i + n]
            for k in range(n):
                value = a[k] + bias[k]
                value = zero if value < zero else value
                b[k] = largest if value > largest else value


@numba.njit(cache=True, nogil=True)
def add_bias(values, bias, others):
    """Add bias, and others as far as they reach, to rows ``(n, channels)`` in place."""
    n = bias.shape[0]
    for y in range(values.shape[0]):
        line = values[y]
        for k in range(n):
            line[k] += bias[k]
        if y < others.shape[0]:
            other = others[y]
            for k in range(n):
                line[k] += other[k]


@numba.njit(cache=True, nogil=True)
def unfold(frame, channels, stride, out):
    """Write down what a kernel of 3 x 3 pixels sees at each place, one row for each.

    Parameters
    ----------
    frame : ndarray of shape (height, width * channels), float32
        With all that lies beyond the border.
    channels, stride : int
    out : ndarray of shape (rows * columns, 9 * channels), float32
        Result: the three lines of the kernel one after the other.
    """
    run = 3 * channels
    across = (frame.shape[1] // channels - 3) // stride + 1
    for k in range(out.shape[0]):
        y, x = k // across * stride, k % across * stride * channels
        for line in range(3):
            values, row = frame[y + line], out[k]
            for i in range(run):
                row[line * run + i] = values[x + i]
