"""Triangular systems of many positions: what Mahalanobis distances are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.vector_code import compiles

__all__ = ["LANES", "squared_mahalanobis", "whiten"]

# Images whose distances are measured together.
LANES = 8
# Sums that run side by side, because each addition waits for the one before it.
_CHAINS = 4
_ROW = types.Array(types.float32, 1, "C")
_SIGNATURE = types.void(_ROW, types.intp, _ROW, types.intp, _ROW)


@kernel(fastmath={"contract"})
def whiten(factor, values):
    """Solve ``factor z = values`` at each position, in place.

    ``factor (positions, d, d)`` is lower triangular, ``values`` has shape (positions, d, n).
    """
    positions, d, n = values.shape
    for p in range(positions):
        for row in range(d):
            out = values[p, row]
            whole = row & ~3
            for k in range(0, whole, 4):
                f0, f1 = factor[p, row, k], factor[p, row, k + 1]
                f2, f3 = factor[p, row, k + 2], factor[p, row, k + 3]
                z0, z1 = values[p, k], values[p, k + 1]
                z2, z3 = values[p, k + 2], values[p, k + 3]
                for i in range(n):
                    out[i] -= (f0 * z0[i] + f1 * z1[i]) + (f2 * z2[i] + f3 * z3[i])
            for k in range(whole, row):
                f0, z0 = factor[p, row, k], values[p, k]
                for i in range(n):
                    out[i] -= f0 * z0[i]
            f0 = 1.0 / factor[p, row, row]
            for i in range(n):
                out[i] *= f0


@kernel(fastmath={"contract"})
def squared_mahalanobis(values, mean, factor, first, last, out):
    """Squared Mahalanobis distances ``out (n, positions)`` of up to ``LANES`` images.

    Forward substitution from position ``first`` to ``last``, all images at once, each in a lane
    of the processor's registers: its result depends on its own ``values (n, positions, d)``
    alone. Row by row, ``factor (positions, d * (d + 1) / 2)`` holds lower triangles with
    inverted diagonal; a position's is read once.
    """
    n, _, d = values.shape
    z = np.zeros(LANES * d, np.float32)
    sums = np.empty(LANES, np.float32)
    total = np.empty(LANES, np.float64)
    for p in range(first, last):
        total[:] = 0.0
        triangle, start = factor[p], 0
        for row in range(d):
            _sum_lanes(triangle, start, z, row, sums)
            center, inverse = mean[p, row], triangle[start + row]
            line = z[LANES * row : LANES * (row + 1)]
            for lane in range(n):
                value = (values[lane, p, row] - center - sums[lane]) * inverse
                line[lane] = value
                total[lane] += np.float64(value) * np.float64(value)
            start += row + 1
        for lane in range(n):
            out[lane, p] = total[lane]


def _sum_lanes(weights, first, lanes, n, out):
    """Sum of ``weights[first + k] * lanes[LANES * k : LANES * (k + 1)]``, k < n, to ``out``.

    For compiled code. All arrays are float32, one-dimensional and contiguous.
    """
    raise NotImplementedError("numba puts an overload in its place")


@overload(_sum_lanes, jit_options={"fastmath": {"contract"}})
def _choose_sum_lanes(weights, first, lanes, n, out):
    return _vector_sums if compiles(_vector_sums, _SIGNATURE) else _plain_sums


def _vector_sums(weights, first, lanes, n, out):
    _sum_in_vectors(weights, first, lanes, n, out)  # type: ignore[call-arg]


def _plain_sums(weights, first, lanes, n, out):
    row, whole = weights[first : first + n], n & -_CHAINS
    for lane in range(LANES):
        values = lanes[lane:]
        a = b = c = d = np.float32(0.0)
        for k in range(0, whole, _CHAINS):
            a += row[k] * values[LANES * k]
            b += row[k + 1] * values[LANES * (k + 1)]
            c += row[k + 2] * values[LANES * (k + 2)]
            d += row[k + 3] * values[LANES * (k + 3)]
        for k in range(whole, n):
            a += row[k] * values[LANES * k]
        out[lane] = (a + b) + (c + d)


@intrinsic
def _sum_in_vectors(typing_context, weights, first, lanes, n, out):
    """Sum lanes in vector operations, written out.

    From eight sums of scalars numba's compiler makes none, which takes three times as long.
    """
    row, signature = _ROW, _SIGNATURE

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = (context.make_array(row)(context, builder, args[i]).data for i in (0, 2, 4))
        weights, lanes, out = arrays
        first, n = args[1], args[3]
        vector = ir.VectorType(ir.FloatType(), LANES)
        nothing, zero = ir.Constant(vector, ir.Undefined), ir.IntType(32)(0)
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        sums = [
            cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES))
            for _ in range(_CHAINS)
        ]

        def add(k: Any, chain: Any) -> None:
            weight = builder.load(builder.gep(weights, [builder.add(first, k)]))
            weight = builder.insert_element(nothing, weight, zero)
            weight = builder.shuffle_vector(weight, nothing, spread)
            values = builder.gep(lanes, [builder.mul(k, k.type(LANES))])
            values = builder.load(builder.bitcast(values, vector.as_pointer()), align=4)
            product = builder.fmul(weight, values, flags=("contract",))
            builder.store(builder.fadd(builder.load(chain), product, flags=("contract",)), chain)

        whole = builder.and_(n, n.type(-_CHAINS))
        with cgutils.for_range_slice(builder, n.type(0), whole, n.type(_CHAINS)) as (k, _):
            for i, chain in enumerate(sums):
                add(builder.add(k, k.type(i)), chain)
        with cgutils.for_range_slice(builder, whole, n, n.type(1)) as (k, _):
            add(k, sums[0])
        a, b, c, d = (builder.load(chain) for chain in sums)
        total = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
        builder.store(total, builder.bitcast(out, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate
