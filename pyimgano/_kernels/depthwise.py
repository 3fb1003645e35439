"""Depthwise convolutions of one map on a CPU, each channel by itself.

A map is an array (height, width, channels), float32, C-contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.lanes import (
    LANES,
    VECTOR,
    has_long_registers,
    read_vector,
    write_vector,
)
from pyimgano._kernels.scratch import aligned
from pyimgano._kernels.vector_code import compiles

__all__ = ["DepthwiseConvolution", "rectify_into_frame", "unfold"]

# Pixels whose sums of ``LANES`` channels are held in registers at a time: each weight is read
# once for all of them.
_PIXELS = 8 if has_long_registers() else 4
# Types of the arguments of the sums of taps, of which these are arrays.
_ARRAY, _ARRAY_PLACES = types.Array(types.float32, 1, "C"), (0, 6, 8, 10)
_SIGNATURE = types.void(*(_ARRAY if i in _ARRAY_PLACES else types.intp for i in range(13)))


class DepthwiseConvolution:
    """A convolution of each channel with a square kernel of its own, then ReLU6.

    Parameters
    ----------
    kernel : ndarray of shape (channels, size, size), float32
        The number of channels is a multiple of 16.
    bias : ndarray of shape (channels,), float32
    stride : int
        In pixels, down and across.
    """

    def __init__(self, kernel: NDArray[np.float32], bias: NDArray[np.float32], stride: int) -> None:
        n, self.size, _ = kernel.shape
        if n % LANES:
            raise ValueError(f"kernel has {n} channels, which is no multiple of {LANES}")
        self.stride = stride
        taps = np.asarray(kernel, np.float32).transpose(1, 2, 0)
        self._weights = aligned(taps.size)
        self._weights.reshape(taps.shape)[:] = taps
        self._bias = np.ascontiguousarray(bias, np.float32)

    def __call__(self, frame: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Convolve some rows.

        Parameters
        ----------
        frame : ndarray of shape ((rows - 1) * stride + size, wide * channels), float32
            With all that lies beyond the border, ``wide = (width - 1) * stride + size``.
        out : ndarray of shape (rows, width * channels), float32
            Result.
        """
        _depthwise(frame, self._weights, self._bias, self.size, self.stride, out)


def _sums_of(pixels: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Make the sums of ``LANES`` channels at so many pixels side by side.

    Returns the function for compiled code, and the version in vector operations, whose body is
    the call of an intrinsic.
    """

    def sums(values, start, row, size, step, channels, weights, begin, bias, first, out, at, n):
        """Sums of products of a square kernel, cut off below 0 and above 6.

        The kernel has ``size`` lines of ``size`` taps. It begins at ``values[start]``, the next
        line lies ``row`` values farther, the next tap ``channels`` values in ``values`` and in
        ``weights``, the next pixel ``step`` values. Sums begin with ``bias[first:]``, and the
        pixels' results go to ``out[at:]``, ``n`` apart. Arrays are float32, one-dimensional and
        contiguous.
        """
        raise NotImplementedError("numba puts an overload in its place")

    @intrinsic
    def in_vectors(
        typing_context,
        values, start, row, size, step, channels, weights, begin, bias, first, out, at, n,
    ):  # fmt: skip
        """Sum products in vector operations; numba's compiler keeps them in memory."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values, start, row, size, step, channels, weights, begin, bias, first, out, at, n = (
                context.make_array(_ARRAY)(context, builder, arg).data
                if i in _ARRAY_PLACES
                else arg
                for i, arg in enumerate(args)
            )
            integer = start.type
            contract = ("contract",)  # multiply and add in one operation
            totals = [cgutils.alloca_once(builder, VECTOR) for _ in range(pixels)]
            for total in totals:
                builder.store(read_vector(builder, bias, first), total)
            with cgutils.for_range(builder, size) as line:
                source = builder.add(start, builder.mul(line.index, row))
                taps = builder.mul(line.index, builder.mul(size, channels))
                factors = builder.add(begin, taps)
                with cgutils.for_range(builder, size) as tap:
                    along = builder.mul(tap.index, channels)
                    factor = read_vector(builder, weights, builder.add(factors, along))
                    here = builder.add(source, along)
                    for pixel, total in enumerate(totals):
                        k = builder.add(here, builder.mul(step, integer(pixel)))
                        one = read_vector(builder, values, k)
                        product = builder.fmul(one, factor, flags=contract)
                        builder.store(
                            builder.fadd(builder.load(total), product, flags=contract), total
                        )
            zero, six = (ir.Constant(VECTOR, [number] * LANES) for number in (0.0, 6.0))
            for pixel, total in enumerate(totals):
                value = builder.load(total)
                value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
                value = builder.select(builder.fcmp_ordered(">", value, six), six, value)
                write_vector(builder, value, out, builder.add(at, builder.mul(n, integer(pixel))))
            return context.get_dummy_value()

        return _SIGNATURE, generate

    def _vector_sums(
        values, start, row, size, step, channels, weights, begin, bias, first, out, at, n
    ):
        in_vectors(  # type: ignore[call-arg]
            values, start, row, size, step, channels, weights, begin, bias, first, out, at, n
        )

    def plain_sums(
        values, start, row, size, step, channels, weights, begin, bias, first, out, at, n
    ):
        for pixel in range(pixels):
            total = out[at + pixel * n : at + pixel * n + LANES]
            total[:] = bias[first : first + LANES]
            for line in range(size):
                for tap in range(size):
                    one = values[start + line * row + tap * channels + pixel * step :]
                    factors = weights[begin + (line * size + tap) * channels :]
                    for k in range(LANES):
                        total[k] += one[k] * factors[k]
            for k in range(LANES):
                total[k] = min(max(total[k], np.float32(0)), np.float32(6))

    @overload(sums, jit_options={"fastmath": {"contract"}})
    def choose(values, start, row, size, step, channels, weights, begin, bias, first, out, at, n):
        return _vector_sums if compiles(_vector_sums, _SIGNATURE) else plain_sums

    return sums, _vector_sums


_some_pixels, _vector_sums = _sums_of(_PIXELS)
_one_pixel, _ = _sums_of(1)


@kernel()
def _depthwise(frame, weights, bias, size, stride, out):
    row, n = frame.shape[1], bias.shape[0]
    width = out.shape[1] // n
    values, results = frame.ravel(), out.ravel()
    step = stride * n
    for first in range(0, n, LANES):  # what these channels' rows share stays in the cache
        for y in range(out.shape[0]):
            start = y * stride * row + first
            at = y * width * n + first
            if width < _PIXELS:
                for x in range(width):
                    _one_pixel(values, start + x * step, row, size, step, n, weights, first, bias,
                               first, results, at + x * n, n)  # fmt: skip
                continue
            for i in range(0, width, _PIXELS):
                x = min(i, width - _PIXELS)  # the last ones may be computed twice
                _some_pixels(values, start + x * step, row, size, step, n, weights, first, bias,
                             first, results, at + x * n, n)  # fmt: skip


@kernel()
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


@kernel()
def unfold(frame, stride, out):
    """Write down what a kernel of 3 x 3 pixels sees at each place, one row for each.

    Parameters
    ----------
    frame : ndarray of shape (height, width * 3), float32
        Pixels of three colors, with all that lies beyond the border.
    stride : int
    out : ndarray of shape (rows * columns, 27), float32
        Result: the three lines of the kernel one after the other.
    """
    columns = (frame.shape[1] // 3 - 3) // stride + 1
    for y in range(out.shape[0] // columns):
        for line in range(3):
            values = frame[y * stride + line]
            for x in range(columns):
                row, first = out[y * columns + x], 3 * x * stride
                for i in range(9):
                    row[9 * line + i] = values[first + i]
