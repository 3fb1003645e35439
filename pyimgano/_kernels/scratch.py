"""Memory that each thread keeps: the system would clear it at every use."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["scratch"]

_kept = threading.local()


def scratch(*sizes: int) -> list[NDArray[np.float32]]:
    """Arrays of so many values for the calling thread, valid until it asks again.

    They hold anything. Nothing that a caller sees later may lie in them.
    """
    size = sum(sizes)
    memory = getattr(_kept, "memory", None)
    if memory is None or memory.size < size:
        memory = _kept.memory = np.empty(size, np.float32)
    ends = np.cumsum(sizes)
    return [memory[end - n : end] for n, end in zip(sizes, ends)]
