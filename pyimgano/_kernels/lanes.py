"""Vectors of numbers in LLVM code: how long they are, and how they are read and written."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir

__all__ = ["LANES", "VECTOR", "has_long_registers", "read_vector", "spread", "write_vector"]

# Floats of one vector operation; where registers are shorter the compiler takes several.
LANES = 16
VECTOR = ir.VectorType(ir.FloatType(), LANES)


def has_long_registers() -> bool:
    """Return True if numba compiles for AVX-512, by the settings that its cache goes by."""
    config: Any = numba.config
    if not config.ENABLE_AVX:
        return False
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
    return "+avx512f" in (config.CPU_FEATURES or "")


def _place(builder: Any, values: Any, k: Any) -> Any:
    return builder.bitcast(builder.gep(values, [k]), VECTOR.as_pointer())


def read_vector(builder: Any, values: Any, k: Any) -> Any:
    """Code that reads ``values[k : k + LANES]``."""
    return builder.load(_place(builder, values, k), align=4)


def write_vector(builder: Any, vector: Any, values: Any, k: Any) -> None:
    """Code that writes ``values[k : k + LANES]``."""
    builder.store(vector, _place(builder, values, k), align=4)


def spread(builder: Any, number: Any) -> Any:
    """Code for a vector that holds one number in every lane."""
    nothing = ir.Constant(VECTOR, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    one = builder.insert_element(nothing, number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nothing, lanes)
