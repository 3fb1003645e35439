"""Convolutions of 1 x 1 pixels on a CPU: each pixel's channels by one matrix.

The BLAS that numpy brings chooses its code by the names of processors it knows, and takes a
slow one on those it does not. Numba compiles for the processor at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from pyimgano._kernels.lanes import (
    LANES,
    VECTOR,
    has_long_registers,
    read_vector,
    spread,
    write_vector,
)
from pyimgano._kernels.vector_code import compiles

__all__ = ["PIXELS", "PointwiseConvolution"]

# Pixels, and vectors of output channels, whose sums are held in registers at a time: 24 of 32 long
# registers, or 12 of 16 short ones, which take two for a vector.
PIXELS, _VECTORS = (8, 3) if has_long_registers() else (6, 1)
# Groups of so many pixels that are computed one after the other with the same weights.
_GROUPS = 8
# Types of the arguments of the sums of products, of which these are arrays.
_ARRAY, _ARRAY_PLACES = types.Array(types.float32, 1, "C"), (0, 3, 5, 7)
_SIGNATURE = types.void(*(_ARRAY if i in _ARRAY_PLACES else types.intp for i in range(10)))


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
        vectors = -(-self.outputs // LANES)
        padded = np.zeros((self.inputs, vectors * LANES), np.float32)
        padded[:, : self.outputs] = kernel.T
        # Panel after panel of output channels, each as it is run through.
        cuts = [*range(0, vectors, _VECTORS), vectors]
        panels = [padded[:, a * LANES : b * LANES].ravel() for a, b in zip(cuts, cuts[1:])]
        self._weights = np.concatenate(panels)
        self._bias = np.zeros(vectors * LANES, np.float32)
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


def _sums_of(vectors: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Make the sums of a panel of so many vectors of output channels.

    Returns the function for compiled code, and the version in vector operations, whose body is
    the call of an intrinsic.
    """
    panel = LANES * vectors

    def sums(pixels, start, run, weights, begin, bias, first, out, at, n):
        """Sums of products of one panel at ``PIXELS`` pixels side by side.

        They have ``run`` values each, the first one's from ``pixels[start]`` on. From
        ``weights[begin]`` on there is a panel for each value. Sums begin with ``bias[first:]``,
        and the pixels' results go to ``out[at:]``, ``n`` apart. Arrays are float32,
        one-dimensional and contiguous.
        """
        raise NotImplementedError("numba puts an overload in its place")

    @intrinsic
    def in_vectors(typing_context, pixels, start, run, weights, begin, bias, first, out, at, n):
        """Sum products in vector operations; numba's compiler keeps fewer sums in registers."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pixels, start, run, weights, begin, bias, first, out, at, n = (
                context.make_array(_ARRAY)(context, builder, arg).data
                if i in _ARRAY_PLACES
                else arg
                for i, arg in enumerate(args)
            )
            integer = start.type
            contract = ("contract",)  # multiply and add in one operation

            def places(k: Any) -> list[Any]:
                return [builder.add(k, integer(LANES * v)) for v in range(vectors)]

            totals = []
            for _ in range(PIXELS):
                totals.append([cgutils.alloca_once(builder, VECTOR) for _ in range(vectors)])
                for place, total in zip(places(first), totals[-1]):
                    builder.store(read_vector(builder, bias, place), total)
            with cgutils.for_range(builder, run) as value:
                panels = builder.add(begin, builder.mul(value.index, integer(panel)))
                factors = [read_vector(builder, weights, place) for place in places(panels)]
                here = builder.add(start, value.index)
                for pixel in range(PIXELS):
                    k = builder.add(here, builder.mul(run, integer(pixel)))
                    one = spread(builder, builder.load(builder.gep(pixels, [k])))
                    for factor, total in zip(factors, totals[pixel]):
                        product = builder.fmul(one, factor, flags=contract)
                        builder.store(
                            builder.fadd(builder.load(total), product, flags=contract), total
                        )
            for pixel in range(PIXELS):
                k = builder.add(at, builder.mul(n, integer(pixel)))
                for place, total in zip(places(k), totals[pixel]):
                    write_vector(builder, builder.load(total), out, place)
            return context.get_dummy_value()

        return _SIGNATURE, generate

    def _vector_sums(pixels, start, run, weights, begin, bias, first, out, at, n):
        in_vectors(pixels, start, run, weights, begin, bias, first, out, at, n)  # type: ignore[call-arg]

    def plain_sums(pixels, start, run, weights, begin, bias, first, out, at, n):
        for pixel in range(PIXELS):
            total = out[at + pixel * n : at + pixel * n + panel]
            total[:] = bias[first : first + panel]
            for value in range(run):
                one = pixels[start + pixel * run + value]
                factors = weights[begin + value * panel : begin + (value + 1) * panel]
                for k in range(panel):
                    total[k] += one * factors[k]

    @overload(sums, jit_options={"fastmath": {"contract"}})
    def choose(pixels, start, run, weights, begin, bias, first, out, at, n):
        return _vector_sums if compiles(_vector_sums, _SIGNATURE) else plain_sums

    return sums, _vector_sums


_one_vector, _vector_sums = _sums_of(1)
_two_vectors, _ = _sums_of(2)
_three_vectors, _ = _sums_of(3)


@numba.njit(cache=True, nogil=True)
def _multiply(pixels, start, groups, run, weights, bias, out):
    """All sums of some groups of ``PIXELS`` pixels from ``pixels[start]`` on, to ``out``."""
    n, begin, first = bias.shape[0], 0, 0
    while first < n:  # the weights of a panel stay in the cache for all groups
        panel = min(n - first, _VECTORS * LANES)
        for group in range(groups):
            k, at = start + group * PIXELS * run, group * PIXELS * n + first
            if panel == 3 * LANES:
                _three_vectors(pixels, k, run, weights, begin, bias, first, out, at, n)
            elif panel == 2 * LANES:
                _two_vectors(pixels, k, run, weights, begin, bias, first, out, at, n)
            else:
                _one_vector(pixels, k, run, weights, begin, bias, first, out, at, n)
        begin += run * panel
        first += panel


@numba.njit(cache=True, nogil=True)
def _enough(pixels, run):
    """The pixels, or with zeros behind them if they are fewer than ``PIXELS``."""
    if pixels.shape[0] >= PIXELS * run:
        return pixels
    more = np.zeros(PIXELS * run, np.float32)
    for k in range(pixels.shape[0]):
        more[k] = pixels[k]
    return more


@numba.njit(cache=True, nogil=True)
def _add_to(pixels, weights, bias, others, out):
    n_pixels, outputs = out.shape
    padded = bias.shape[0]
    run = weights.shape[0] // padded
    pixels = _enough(pixels, run)
    sums = np.empty(_GROUPS * PIXELS * padded, np.float32)
    i = 0
    while i < n_pixels:
        groups = max(1, min(_GROUPS, (n_pixels - i) // PIXELS))
        first = max(0, min(i, n_pixels - PIXELS))  # the last ones may be computed twice
        _multiply(pixels, first * run, groups, run, weights, bias, sums)
        end = min(first + groups * PIXELS, n_pixels)
        for k in range(i, end):
            line, source = out[k], sums[(k - first) * padded :]
            if k < others.shape[0]:
                other = others[k]
                for c in range(outputs):
                    line[c] = source[c] + other[c]
            else:
                for c in range(outputs):
                    line[c] = source[c]
        i = end


@numba.njit(cache=True, nogil=True)
def _into_frame(pixels, width, weights, bias, limit, top, left, rows, frame):
    outputs = bias.shape[0]
    run = weights.shape[0] // outputs
    zero, largest = np.float32(0), np.float32(limit)
    for y in range(frame.shape[0]):
        inside = top <= y < top + rows
        line = frame[y]
        # Loops: assigning to a slice compiles for a second.
        for k in range(left * outputs if inside else line.shape[0]):
            line[k] = zero
        for k in range((left + width) * outputs, line.shape[0]):
            line[k] = zero
    n_pixels = rows * width
    pixels = _enough(pixels, run)
    sums = np.empty(_GROUPS * PIXELS * outputs, np.float32)
    i = 0
    while i < n_pixels:
        groups = max(1, min(_GROUPS, (n_pixels - i) // PIXELS))
        first = max(0, min(i, n_pixels - PIXELS))
        _multiply(pixels, first * run, groups, run, weights, bias, sums)
        end = min(first + groups * PIXELS, n_pixels)
        while i < end:  # as far as the row goes
            y, x = i // width, i % width
            along = min(end - i, width - x)
            source, line = sums[(i - first) * outputs :], frame[top + y, (left + x) * outputs :]
            for c in range(along * outputs):
                value = zero if source[c] < zero else source[c]
                line[c] = largest if value > largest else value
            i += along
