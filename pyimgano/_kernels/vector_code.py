"""Compiled functions written in LLVM's vector operations, for numba and llvmlite that allow it.

Neither package promises that its interface for such code stays. Each function of that kind
therefore has a plain version, which runs tens of times slower, and
``numba.extending.overload`` chooses between the two by asking ``compiles``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite
import numba
from numba.core.errors import NumbaError

__all__ = ["compiles"]

# Numba's own errors, and what goes wrong in a function that writes LLVM code: a method that is
# gone or takes other arguments or types, or code that LLVM refuses.
_FAILURES = (NumbaError, AttributeError, TypeError, ValueError, RuntimeError)


@cache
def compiles(function: Callable[..., Any], signature: Any) -> bool:
    """Tell whether a function that calls an intrinsic can be compiled here; warn if not.

    Parameters
    ----------
    function : callable
        Plain Python function whose body is the call.
    signature : numba signature
        Types of its arguments.

    Returns
    -------
    bool
    """
    try:
        numba.njit(function).compile(signature)
    except _FAILURES as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        warnings.warn(
            f"numba {numba.__version__} with llvmlite {llvmlite.__version__} cannot compile "
            f"{function.__module__}.{function.__name__} ({reason}): a plain version "
            "with the same results up to rounding is used, which is many times slower. "
            'Install a numba that this pyimgano is made for: pip install "numba<0.70".',
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
