"""Convolutions and pooling of one map on a CPU, in numpy and numba alone.

A map is an array (height, width, channels), float32, C-contiguous. Each operation takes the number
of threads it may use, and gives the same bits on any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.lanes import (
    LANES,
    VECTOR,
    has_long_registers,
    read_vector,
    spread,
    write_vector,
)
from pyimgano._kernels.vector_code import compiles
from pyimgano._kernels.winograd import Winograd
from pyimgano.utils._threads import even_slices, map_in_threads

__all__ = ["DirectConvolution", "convolution", "max_pool"]


# Pixels, and vectors of output channels, whose sums are held in registers at a time: each weight
# and each input is read once for all of them. 16 of 32 long registers, or 12 of 16 short ones.
_PIXELS, _VECTORS = (4, 4) if has_long_registers() else (6, 1)
_PANEL = LANES * _VECTORS
# Types of the arguments of ``_sum_products``, of which these are arrays.
_ARRAY, _ARRAY_PLACES = types.Array(types.float32, 1, "C"), (0, 6, 8, 10)
_SIGNATURE = types.void(*(_ARRAY if i in _ARRAY_PLACES else types.intp for i in range(13)))


def convolution(
    kernel: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0, relu: bool = False
) -> Winograd | DirectConvolution:
    """Convolution by the fastest way there is for it.

    Parameters
    ----------
    kernel : ndarray of shape (n_outputs, n_inputs, size, size), float32
        ``n_outputs`` is a multiple of 64.
    bias : ndarray of shape (n_outputs,), float32
    stride, padding : int
        In pixels; beyond the border are zeros.
    relu : bool, default=False
        Whether negative results become zero.

    Returns
    -------
    callable
        ``f(x, added=None, threads=1)``: the convolution of the map ``x`` plus the map ``added``.
    """
    if stride == padding == 1 and Winograd.pays(kernel.shape):
        return Winograd(kernel, bias, relu=relu)
    return DirectConvolution(kernel, bias, stride=stride, padding=padding, relu=relu)


class DirectConvolution:
    """A convolution with a square kernel as it is defined: sums of products.

    Parameters
    ----------
    kernel, bias, stride, padding, relu
        See ``convolution``.
    """

    def __init__(
        self, kernel: np.ndarray, bias: np.ndarray, *, stride: int, padding: int, relu: bool
    ) -> None:
        n, self._inputs, self._size, _ = kernel.shape
        # Panel after panel of output channels, each as it is run through.
        panels = kernel.transpose(2, 3, 1, 0).reshape(-1, n // _PANEL, _PANEL).swapaxes(0, 1)
        self._weights = np.ascontiguousarray(panels, np.float32)
        self._bias = np.ascontiguousarray(bias, np.float32)
        self._stride, self._padding, self._relu = stride, padding, relu

    def __call__(self, x: np.ndarray, added: Any = None, threads: int = 1) -> np.ndarray:
        size, stride, padding = self._size, self._stride, self._padding
        height, width = ((side + 2 * padding - size) // stride + 1 for side in x.shape[:2])
        # Room for a whole group of pixels also where the map has fewer: they are cut off again.
        room = max(width, _PIXELS)
        beyond = (room - 1) * stride + size - padding - x.shape[1]
        if padding or beyond > 0:
            inner, right = x, max(padding, beyond)
            sides = (x.shape[0] + 2 * padding, x.shape[1] + padding + right)
            x = np.zeros((*sides, self._inputs), np.float32)
            x[padding : padding + inner.shape[0], padding : padding + inner.shape[1]] = inner
        out = np.empty((height, room, len(self._bias)), np.float32)
        pixels, rows = x.reshape(len(x), -1), out.reshape(height, -1)
        others = rows[:, :0] if added is None else added.reshape(height, -1)

        def convolve(part: slice) -> None:
            _convolve(
                pixels,
                part.start,
                part.stop,
                size * self._inputs,
                stride * self._inputs,
                stride,
                self._weights,
                self._bias,
                others,
                self._relu,
                rows,
            )

        cuts = even_slices(height, threads)
        map_in_threads(convolve, cuts, len(cuts))
        return out if room == width else np.ascontiguousarray(out[:, :width])


def max_pool(x: np.ndarray) -> np.ndarray:
    """Largest value of 3 x 3 neighborhoods, of every second pixel down and across.

    Parameters
    ----------
    x : ndarray of shape (height, width, channels), float32

    Returns
    -------
    ndarray of shape ((height + 1) // 2, (width + 1) // 2, channels), float32
    """
    height, width, channels = x.shape
    out = np.empty(((height + 1) // 2, (width + 1) // 2, channels), np.float32)
    _max_pool(x.reshape(height, -1), out)
    return out


def _sum_products(pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n):
    """Sums of products of one panel of output channels at ``_PIXELS`` pixels side by side.

    Each of ``size`` lines of the kernel multiplies ``run`` values: the k-th line those from
    ``pixels[start + k * row]`` on, and for each next pixel those ``step`` farther. From
    ``weights[begin]`` on there is a panel for each value. Sums begin with ``bias[first:]``, and
    the pixels' results go to ``out[at:]``, ``n`` apart.

    For compiled code. All arrays are float32, one-dimensional and contiguous.
    """
    raise NotImplementedError("numba puts an overload in its place")


@overload(_sum_products, jit_options={"fastmath": {"contract"}})
def _choose_sum_products(
    pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n
):
    return _vector_sums if compiles(_vector_sums, _SIGNATURE) else _plain_sums


def _vector_sums(pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n):
    _sum_in_vectors(pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n)  # type: ignore[call-arg]


def _plain_sums(pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n):
    sums = np.empty((_PIXELS, _PANEL), np.float32)
    for pixel in range(_PIXELS):  # assigning all of them at once compiles for two seconds
        for k in range(_PANEL):
            sums[pixel, k] = bias[first + k]
    for line in range(size):
        for value in range(run):
            panel = begin + (line * run + value) * _PANEL
            factors = weights[panel : panel + _PANEL]
            for pixel in range(_PIXELS):
                one, total = pixels[start + line * row + value + pixel * step], sums[pixel]
                for k in range(_PANEL):
                    total[k] += one * factors[k]
    for pixel in range(_PIXELS):
        for k in range(_PANEL):
            out[at + pixel * n + k] = sums[pixel, k]


@intrinsic
def _sum_in_vectors(
    typing_context, pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n
):
    """Sum products in vector operations, written out.

    Numba's compiler does not keep so many sums in registers.
    """
    array, arrays, signature = _ARRAY, _ARRAY_PLACES, _SIGNATURE

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pixels, start, row, size, run, step, weights, begin, bias, first, out, at, n = (
            context.make_array(array)(context, builder, arg).data if i in arrays else arg
            for i, arg in enumerate(args)
        )
        integer = start.type
        contract = ("contract",)  # multiply and add in one operation

        def places(k: Any) -> list[Any]:
            return [builder.add(k, integer(LANES * v)) for v in range(_VECTORS)]

        def load(values: Any, k: Any) -> list[Any]:
            return [read_vector(builder, values, one) for one in places(k)]

        sums = []
        for _ in range(_PIXELS):
            sums.append([cgutils.alloca_once(builder, VECTOR) for _ in range(_VECTORS)])
            for value, total in zip(load(bias, first), sums[-1]):
                builder.store(value, total)
        with cgutils.for_range(builder, size) as line:
            source = builder.add(start, builder.mul(line.index, row))
            panels = builder.add(begin, builder.mul(line.index, builder.mul(run, integer(_PANEL))))
            with cgutils.for_range(builder, run) as value:
                factors = load(
                    weights, builder.add(panels, builder.mul(value.index, integer(_PANEL)))
                )
                here = builder.add(source, value.index)
                for pixel, totals in enumerate(sums):
                    k = builder.add(here, builder.mul(step, integer(pixel)))
                    one = spread(builder, builder.load(builder.gep(pixels, [k])))
                    for factor, total in zip(factors, totals):
                        product = builder.fmul(one, factor, flags=contract)
                        builder.store(
                            builder.fadd(builder.load(total), product, flags=contract), total
                        )
        for pixel, totals in enumerate(sums):
            k = builder.add(at, builder.mul(n, integer(pixel)))
            for place, total in zip(places(k), totals):
                write_vector(builder, builder.load(total), out, place)
        return context.get_dummy_value()

    return signature, generate


@kernel()
def _convolve(x, first, last, run, step, stride, weights, bias, others, relu, rows):
    """Rows ``first`` to ``last`` of a convolution of ``x (height, width * channels)``.

    Each line of the kernel sees ``run`` values, those of the next pixel lie ``step`` farther.
    Others, as far as they reach, are added before negative values become zero.
    """
    n, zero = bias.shape[0], np.float32(0)
    width, size = rows.shape[1] // n, weights.shape[1] // run
    pixels, panels, out = x.ravel(), weights.ravel(), rows.ravel()
    for y in range(first, last):
        for panel in range(weights.shape[0]):
            for i in range(0, width, _PIXELS):
                k = min(i, width - _PIXELS)  # the last ones may be computed twice
                _sum_products(
                    pixels, y * stride * x.shape[1] + k * step, x.shape[1], size, run, step,
                    panels, panel * size * run * _PANEL, bias, panel * _PANEL,
                    out, (y * width + k) * n + panel * _PANEL, n,
                )  # fmt: skip
        line, other = rows[y], others[y]
        for k in range(other.shape[0]):
            line[k] += other[k]
        if relu:
            for k in range(line.shape[0]):
                line[k] = zero if line[k] < zero else line[k]


@kernel()
def _max_pool(x, out):
    height, row = x.shape
    down, across, channels = out.shape
    width = row // channels
    line = np.empty(row, np.float32)
    for y in range(down):
        above, center, below = x[max(2 * y - 1, 0)], x[2 * y], x[min(2 * y + 1, height - 1)]
        for k in range(row):
            largest = center[k] if center[k] > above[k] else above[k]
            line[k] = largest if largest > below[k] else below[k]
        for i in range(across):
            left, right = max(2 * i - 1, 0), min(2 * i + 1, width - 1)
            before, here = line[left * channels :], line[2 * i * channels :]
            after, best = line[right * channels :], out[y, i]
            for k in range(channels):
                largest = here[k] if here[k] > before[k] else before[k]
                best[k] = largest if largest > after[k] else after[k]
