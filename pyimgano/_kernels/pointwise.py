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
from pyimgano._kernels.scratch import aligned
from pyimgano._kernels.vector_code import compiles

__all__ = ["PIXELS", "PointwiseConvolution"]

# Pixels, and vectors of output channels, whose sums are held in registers at a time: 24 of 32 long
# registers, or 12 of 16 short ones, which take two for a vector.
PIXELS, _VECTORS = (8, 3) if has_long_registers() else (6, 1)
# Groups of so many pixels that are computed one after the other with the same weights.
_GROUPS = 8
# Types of the arguments of the sums of products, of which these are arrays.
_ARRAY, _ARRAY_PLACES = types.Array(types.float32, 1, "C"), (0, 3, 5, 9)
_PLACES = types.Array(types.intp, 1, "C")
_SIGNATURE = types.void(
    *(_ARRAY if i in _ARRAY_PLACES else types.intp for i in range(7)),
    types.float32,
    types.float32,
    _ARRAY,
    _PLACES,
    types.intp,
)


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
        self._weights = aligned(padded.size)
        np.concatenate(panels, out=self._weights)
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

    def sums(pixels, start, run, weights, begin, bias, first, low, high, out, places, at):
        """Sums of products of one panel at ``PIXELS`` pixels side by side.

        They have ``run`` values each, the first one's from ``pixels[start]`` on. From
        ``weights[begin]`` on there is a panel for each value. Sums begin with ``bias[first:]``
        and are cut off below ``low`` and above ``high``. Pixel ``i`` has its results from
        ``out[places[at + i] + first]`` on; pixels are written in their order. Arrays are
        one-dimensional and contiguous, float32 and intp.
        """
        raise NotImplementedError("numba puts an overload in its place")

    @intrinsic
    def in_vectors(
        typing_context, pixels, start, run, weights, begin, bias, first, low, high, out, places, at
    ):
        """Sum products in vector operations; numba's compiler keeps fewer sums in registers."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = [
                arg
                if isinstance(kind, types.Number)
                else context.make_array(kind)(context, builder, arg).data
                for kind, arg in zip(signature.args, args)
            ]
            pixels, start, run, weights, begin, bias, first, low, high, out, places, at = data
            integer = start.type
            contract = ("contract",)  # multiply and add in one operation
            low, high = spread(builder, low), spread(builder, high)

            def parts(k: Any) -> list[Any]:
                return [builder.add(k, integer(LANES * v)) for v in range(vectors)]

            totals = []
            for _ in range(PIXELS):
                totals.append([cgutils.alloca_once(builder, VECTOR) for _ in range(vectors)])
                for part, total in zip(parts(first), totals[-1]):
                    builder.store(read_vector(builder, bias, part), total)
            with cgutils.for_range(builder, run) as value:
                panels = builder.add(begin, builder.mul(value.index, integer(panel)))
                factors = [read_vector(builder, weights, part) for part in parts(panels)]
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
                place = builder.load(builder.gep(places, [builder.add(at, integer(pixel))]))
                for part, total in zip(parts(builder.add(place, first)), totals[pixel]):
                    found = builder.load(total)
                    found = builder.select(builder.fcmp_ordered("<", found, low), low, found)
                    found = builder.select(builder.fcmp_ordered(">", found, high), high, found)
                    write_vector(builder, found, out, part)
            return context.get_dummy_value()

        return _SIGNATURE, generate

    def _vector_sums(pixels, start, run, weights, begin, bias, first, low, high, out, places, at):
        in_vectors(pixels, start, run, weights, begin, bias, first, low, high, out, places, at)  # type: ignore[call-arg]

    def plain_sums(pixels, start, run, weights, begin, bias, first, low, high, out, places, at):
        for pixel in range(PIXELS):
            place = places[at + pixel] + first
            total = out[place : place + panel]
            total[:] = bias[first : first + panel]
            for value in range(run):
                one = pixels[start + pixel * run + value]
                factors = weights[begin + value * panel : begin + (value + 1) * panel]
                for k in range(panel):
                    total[k] += one * factors[k]
            for k in range(panel):
                value = low if total[k] < low else total[k]
                total[k] = high if value > high else value

    @overload(sums, jit_options={"fastmath": {"contract"}})
    def choose(pixels, start, run, weights, begin, bias, first, low, high, out, places, at):
        return _vector_sums if compiles(_vector_sums, _SIGNATURE) else plain_sums

    return sums, _vector_sums


_one_vector, _vector_sums = _sums_of(1)
_two_vectors, _ = _sums_of(2)
_three_vectors, _ = _sums_of(3)


@numba.njit(cache=True, nogil=True)
def _multiply(pixels, run, weights, bias, low, high, out, places):
    """All sums of pixels, of which there are at least ``PIXELS``, to their places in ``out``.

    Where the output channels end within a vector, what follows a pixel's place is written to as
    well, before the pixels that come later.
    """
    n = bias.shape[0]
    n_pixels = places.shape[0]
    i = 0
    while i < n_pixels:
        groups = max(1, min(_GROUPS, (n_pixels - i) // PIXELS))
        at = min(i, n_pixels - PIXELS)  # the last ones may be computed twice
        begin, first = 0, 0
        while first < n:  # the weights of a panel stay in the cache for all groups
            panel = min(n - first, _VECTORS * LANES)
            for group in range(groups):
                p = at + group * PIXELS
                k = p * run
                if panel == 3 * LANES:
                    _three_vectors(
                        pixels, k, run, weights, begin, bias, first, low, high, out, places, p
                    )
                elif panel == 2 * LANES:
                    _two_vectors(
                        pixels, k, run, weights, begin, bias, first, low, high, out, places, p
                    )
                else:
                    _one_vector(
                        pixels, k, run, weights, begin, bias, first, low, high, out, places, p
                    )
            begin += run * panel
            first += panel
        i = at + groups * PIXELS


@numba.njit(cache=True, nogil=True)
def _enough(pixels, run):
    """The pixels, or with the last one over and over behind them if they are too few."""
    n = pixels.shape[0] // run
    if n >= PIXELS:
        return pixels
    more = np.empty(PIXELS * run, np.float32)
    for k in range(PIXELS):
        for value in range(run):
            more[k * run + value] = pixels[min(k, n - 1) * run + value]
    return more


@numba.njit(cache=True, nogil=True)
def _add_to(pixels, weights, bias, others, out):
    n_pixels, outputs = out.shape
    padded = bias.shape[0]
    run = weights.shape[0] // padded
    low, high = np.float32(-np.inf), np.float32(np.inf)
    pixels, flat = _enough(pixels, run), out.reshape(-1)
    # Whole vectors go to their places at once. So do those that end within one if they are a
    # single panel: the next pixel overwrites what they write beyond its beginning.
    direct = 0
    if padded == outputs:
        direct = n_pixels
    elif padded <= _VECTORS * LANES and n_pixels >= 2 * PIXELS:
        direct = n_pixels - PIXELS
    if direct:
        places = np.empty(max(direct, PIXELS), np.intp)
        for k in range(places.shape[0]):
            places[k] = min(k, direct - 1) * outputs
        _multiply(pixels[: places.shape[0] * run], run, weights, bias, low, high, flat, places)
    # The others by way of an array in which there is room for whole vectors.
    if direct < n_pixels:
        most = _GROUPS * PIXELS
        sums, places = np.empty(most * padded, np.float32), np.empty(most, np.intp)
        for k in range(most):
            places[k] = k * padded
        i = direct
        while i < n_pixels:
            end = min(i + most, n_pixels)
            first = max(0, min(i, n_pixels - PIXELS))
            n = max(end - first, PIXELS)
            some = pixels[first * run : (first + n) * run]
            _multiply(some, run, weights, bias, low, high, sums, places[:n])
            for k in range(i, end):
                line, source = out[k], sums[(k - first) * padded :]
                for c in range(outputs):
                    line[c] = source[c]
            i = end
    if others.shape[0]:
        more = others.reshape(-1)
        for k in range(flat.shape[0]):
            flat[k] += more[k]


@numba.njit(cache=True, nogil=True)
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
    places = np.empty(max(n_pixels, PIXELS), np.intp)
    for k in range(places.shape[0]):
        y, x = divmod(min(k, n_pixels - 1), width)
        places[k] = (top + y) * frame.shape[1] + (left + x) * outputs
    pixels, flat = _enough(pixels, run), frame.reshape(-1)
    _multiply(pixels, run, weights, bias, zero, np.float32(limit), flat, places)
