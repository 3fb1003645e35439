"""Products of rows with a matrix on a CPU, summed in vector registers.

The BLAS that numpy brings chooses its code by the names of processors it knows, and takes a
slow one on those it does not. Numba compiles for the processor at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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
    spread,
    write_vector,
)
from pyimgano._kernels.scratch import aligned
from pyimgano._kernels.vector_code import compiles

__all__ = ["GROUPS", "ROWS", "WIDEST", "enough", "multiply", "packed"]

# Rows, and vectors of columns, whose sums are held in registers at a time: 24 of 32 long
# registers, or 12 of 16 short ones, which take two for a vector.
ROWS, _VECTORS = (8, 3) if has_long_registers() else (6, 1)
# Columns of one panel.
WIDEST = _VECTORS * LANES
# Groups of so many rows that are computed one after the other with the same weights.
GROUPS = 8
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


def packed(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Write down a matrix as :func:`multiply` reads it.

    Parameters
    ----------
    matrix : ndarray of shape (n_inputs, n_outputs), float32

    Returns
    -------
    ndarray of shape (n_inputs * width,), float32
        Panel after panel of columns, with columns of zeros up to the next ``width`` that is a
        multiple of 16.
    """
    inputs, outputs = matrix.shape
    vectors = -(-outputs // LANES)
    padded = np.zeros((inputs, vectors * LANES), np.float32)
    padded[:, :outputs] = matrix
    cuts = [*range(0, vectors, _VECTORS), vectors]
    weights = aligned(padded.size)
    panels = [padded[:, a * LANES : b * LANES].ravel() for a, b in zip(cuts, cuts[1:])]
    return np.concatenate(panels, out=weights)


def _sums_of(vectors: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Make the sums of a panel of so many vectors of columns.

    Returns the function for compiled code, and the version in vector operations, whose body is
    the call of an intrinsic.
    """
    panel = LANES * vectors

    def sums(rows, start, run, weights, begin, bias, first, low, high, out, places, at):
        """Sums of products of ``ROWS`` rows with one panel.

        The rows have ``run`` values each and follow one another from ``rows[start]`` on. From
        ``weights[begin]`` on there is a panel for each value. Sums begin with ``bias[first:]``
        and are cut off below ``low`` and above ``high``. Row ``i`` has its results from
        ``out[places[at + i] + first]`` on; rows are written in their order. Arrays are
        one-dimensional and contiguous, float32 and intp.
        """
        raise NotImplementedError("numba puts an overload in its place")

    @intrinsic
    def in_vectors(
        typing_context, rows, start, run, weights, begin, bias, first, low, high, out, places, at
    ):
        """Sum products in vector operations; numba's compiler keeps fewer sums in registers."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = [
                arg
                if isinstance(kind, types.Number)
                else context.make_array(kind)(context, builder, arg).data
                for kind, arg in zip(signature.args, args)
            ]
            rows, start, run, weights, begin, bias, first, low, high, out, places, at = data
            integer = start.type
            contract = ("contract",)  # multiply and add in one operation
            low, high = spread(builder, low), spread(builder, high)

            def parts(k: Any) -> list[Any]:
                return [builder.add(k, integer(LANES * v)) for v in range(vectors)]

            totals = []
            for _ in range(ROWS):
                totals.append([cgutils.alloca_once(builder, VECTOR) for _ in range(vectors)])
                for part, total in zip(parts(first), totals[-1]):
                    builder.store(read_vector(builder, bias, part), total)
            with cgutils.for_range(builder, run) as value:
                panels = builder.add(begin, builder.mul(value.index, integer(panel)))
                factors = [read_vector(builder, weights, part) for part in parts(panels)]
                here = builder.add(start, value.index)
                for i in range(ROWS):
                    k = builder.add(here, builder.mul(run, integer(i)))
                    one = spread(builder, builder.load(builder.gep(rows, [k])))
                    for factor, total in zip(factors, totals[i]):
                        product = builder.fmul(one, factor, flags=contract)
                        builder.store(
                            builder.fadd(builder.load(total), product, flags=contract), total
                        )
            for i in range(ROWS):
                place = builder.load(builder.gep(places, [builder.add(at, integer(i))]))
                for part, total in zip(parts(builder.add(place, first)), totals[i]):
                    found = builder.load(total)
                    found = builder.select(builder.fcmp_ordered("<", found, low), low, found)
                    found = builder.select(builder.fcmp_ordered(">", found, high), high, found)
                    write_vector(builder, found, out, part)
            return context.get_dummy_value()

        return _SIGNATURE, generate

    def _vector_sums(rows, start, run, weights, begin, bias, first, low, high, out, places, at):
        in_vectors(rows, start, run, weights, begin, bias, first, low, high, out, places, at)  # type: ignore[call-arg]

    def plain_sums(rows, start, run, weights, begin, bias, first, low, high, out, places, at):
        for i in range(ROWS):
            place = places[at + i] + first
            total = out[place : place + panel]
            total[:] = bias[first : first + panel]
            for value in range(run):
                one = rows[start + i * run + value]
                factors = weights[begin + value * panel : begin + (value + 1) * panel]
                for k in range(panel):
                    total[k] += one * factors[k]
            for k in range(panel):
                value = low if total[k] < low else total[k]
                total[k] = high if value > high else value

    @overload(sums, jit_options={"fastmath": {"contract"}})
    def choose(rows, start, run, weights, begin, bias, first, low, high, out, places, at):
        return _vector_sums if compiles(_vector_sums, _SIGNATURE) else plain_sums

    return sums, _vector_sums


_one_vector, _vector_sums = _sums_of(1)
_two_vectors, _ = _sums_of(2)
_three_vectors, _ = _sums_of(3)


@kernel()
def multiply(rows, run, weights, bias, low, high, out, places):
    """All sums of rows, of which there are at least ``ROWS``, to their places in ``out``.

    Where the output channels end within a vector, what follows a pixel's place is written to as
    well, before the pixels that come later.
    """
    n = bias.shape[0]
    n_rows = places.shape[0]
    i = 0
    while i < n_rows:
        groups = max(1, min(GROUPS, (n_rows - i) // ROWS))
        at = min(i, n_rows - ROWS)  # the last ones may be computed twice
        begin, first = 0, 0
        while first < n:  # the weights of a panel stay in the cache for all groups
            panel = min(n - first, _VECTORS * LANES)
            for group in range(groups):
                p = at + group * ROWS
                k = p * run
                if panel == 3 * LANES:
                    _three_vectors(
                        rows, k, run, weights, begin, bias, first, low, high, out, places, p
                    )
                elif panel == 2 * LANES:
                    _two_vectors(
                        rows, k, run, weights, begin, bias, first, low, high, out, places, p
                    )
                else:
                    _one_vector(
                        rows, k, run, weights, begin, bias, first, low, high, out, places, p
                    )
            begin += run * panel
            first += panel
        i = at + groups * ROWS


@kernel()
def enough(rows, run):
    """The rows, or with the last one over and over behind them if they are too few."""
    n = rows.shape[0] // run
    if n >= ROWS:
        return rows
    more = np.empty(ROWS * run, np.float32)
    for k in range(ROWS):
        for value in range(run):
            more[k * run + value] = rows[min(k, n - 1) * run + value]
    return more
