"""Convolutions of 1 x 1 pixels on a CPU: each pixel's channels by one matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.lanes import LANES
from pyimgano._kernels.products import GROUPS, ROWS, WIDEST, enough, multiply, packed

__all__ = ["PointwiseConvolution"]


class PointwiseConvolution:
    """A convolution of 1 x 1 pixels: ``x @ kernel.T + bias`` for each pixel.

    A pixel's results are the same, bit for bit, whichever others it comes with.

    Parameters
    ----------
    kernel : ndarray of shape (n_outputs, n_inputs), float32
    bias : ndarray of shape (n_outputs,), float32
    """

    def __init__(self, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self.outputs, self.inputs = kernel.shape
        self._weights = packed(kernel.T)
        self._bias = np.zeros(len(self._weights) // self.inputs, np.float32)
        self._bias[: self.outputs] = bias

    def add_to(
        self, x: NDArray[np.float32], others: NDArray[np.float32], out: NDArray[np.float32]
    ) -> None:
        """Convolve pixels and add others to them.

        Parameters
        ----------
        x : ndarray of shape (n, n_inputs), float32
        others : ndarray of shape (n, n_outputs) or (0, n_outputs), float32
            Added to the results; none where there are none.
        out : ndarray of shape (n, n_outputs), float32
            Result.
        """
        _add_to(x.ravel(), self._weights, self._bias, others, out)

    def into_frame(
        self,
        x: NDArray[np.float32],
        limit: float,
        top: int,
        left: int,
        frame: NDArray[np.float32],
    ) -> None:
        """Convolve rows of pixels, rectify them, and put them into a frame of zeros.

        Parameters
        ----------
        x : ndarray of shape (rows, width, n_inputs), float32
        limit : float
            Largest value; negative ones become zero.
        top, left : int
            Rows and pixels of zeros above and on the left; the rest of the frame is filled up.
        frame : ndarray of shape (at least top + rows, wide * n_outputs), float32
            Result; ``n_outputs`` is a multiple of 16.
        """
        rows, width, _ = x.shape
        if self.outputs % LANES:
            raise ValueError(f"frame has {self.outputs} channels, no multiple of {LANES}")
        _into_frame(x.ravel(), width, self._weights, self._bias, limit, top, left, rows, frame)


@kernel()
def _add_to(pixels, weights, bias, others, out):
    n_pixels, outputs = out.shape
    padded = bias.shape[0]
    run = weights.shape[0] // padded
    low, high = np.float32(-np.inf), np.float32(np.inf)
    pixels, flat = enough(pixels, run), out.reshape(-1)
    # Whole vectors go to their places at once. So do those that end within one if they are a
    # single panel: the next pixel overwrites what they write beyond its beginning.
    direct = 0
    if padded == outputs:
        direct = n_pixels
    elif padded <= WIDEST and n_pixels >= 2 * ROWS:
        direct = n_pixels - ROWS
    if direct:
        places = np.empty(max(direct, ROWS), np.intp)
        for k in range(places.shape[0]):
            places[k] = min(k, direct - 1) * outputs
        multiply(pixels[: places.shape[0] * run], run, weights, bias, low, high, flat, places)
    # The others by way of an array in which there is room for whole vectors.
    if direct < n_pixels:
        most = GROUPS * ROWS
        sums, places = np.empty(most * padded, np.float32), np.empty(most, np.intp)
        for k in range(most):
            places[k] = k * padded
        i = direct
        while i < n_pixels:
            end = min(i + most, n_pixels)
            first = max(0, min(i, n_pixels - ROWS))
            n = max(end - first, ROWS)
            some = pixels[first * run : (first + n) * run]
            multiply(some, run, weights, bias, low, high, sums, places[:n])
            for k in range(i, end):
                line, source = out[k], sums[(k - first) * padded :]
                for c in range(outputs):
                    line[c] = source[c]
            i = end
    if others.shape[0]:
        more = others.reshape(-1)
        for k in range(flat.shape[0]):
            flat[k] += more[k]


@kernel()
def _into_frame(pixels, width, weights, bias, limit, top, left, rows, frame):
    outputs = bias.shape[0]
    run = weights.shape[0] // outputs
    zero = np.float32(0)
    for y in range(frame.shape[0]):
        inside = top <= y < top + rows
        line = frame[y]
        # Loops: assigning to a slice compiles for a second.
        for k in range(left * outputs if inside else line.shape[0]):
            line[k] = zero
        for k in range((left + width) * outputs, line.shape[0]):
            line[k] = zero
    n_pixels = rows * width
    places = np.empty(max(n_pixels, ROWS), np.intp)
    for k in range(places.shape[0]):
        y, x = divmod(min(k, n_pixels - 1), width)
        places[k] = (top + y) * frame.shape[1] + (left + x) * outputs
    pixels, flat = enough(pixels, run), frame.reshape(-1)
    multiply(pixels, run, weights, bias, zero, np.float32(limit), flat, places)
