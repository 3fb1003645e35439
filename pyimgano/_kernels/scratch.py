"""Memory that each thread keeps: the system would clear it at every use."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["aligned", "scratch"]

# A line of the cache in bytes, and in values. A vector that lies across two takes twice as long.
_LINE = 64
_VALUES = _LINE // 4

_kept = threading.local()


def aligned(size: int) -> NDArray[np.float32]:
    """Array of so many values, of any content, that begins with a line of the cache."""
    memory = np.empty(size + _VALUES, np.float32)
    before = -memory.ctypes.data % _LINE // 4
    return memory[before : before + size]


def scratch(*sizes: int) -> list[NDArray[np.float32]]:
    """Arrays of so many values for the calling thread, valid until it asks again.

    Each begins with a line of the cache. They hold anything, and nothing that a caller sees later
    may lie in them.
    """
    whole = [-(-size // _VALUES) * _VALUES for size in sizes]
    memory = getattr(_kept, "memory", None)
    if memory is None or memory.size < sum(whole):
        memory = _kept.memory = aligned(sum(whole))
    found, begin = [], 0
    for size, room in zip(sizes, whole):
        found.append(memory[begin : begin + size])
        begin += room
    return found
