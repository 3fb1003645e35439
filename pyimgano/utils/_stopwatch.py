"""Time that work takes, and what of it numba spent on compiling."""

from __future__ import annotations

import time
from typing import Any

from numba.core import event

__all__ = ["Stopwatch"]


class Stopwatch:
    """Measure the wall time of a ``with`` block, apart from that of compilation.

    Numba compiles a function when it is first called, and stores it on disk. The first run after
    an installation therefore takes seconds longer than all others, which says nothing about the
    work itself.

    Attributes
    ----------
    seconds : float
        Wall time of the block, less that of compilation.
    compile_seconds : float
        Wall time during which numba was compiling, in any thread.
    """

    seconds: float = 0.0
    compile_seconds: float = 0.0

    def __enter__(self) -> Stopwatch:
        self._listener = event.TimingListener()
        event.register("numba:compile", self._listener)
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        elapsed = time.perf_counter() - self._started
        event.unregister("numba:compile", self._listener)
        self.compile_seconds = self._listener.duration if self._listener.done else 0.0
        self.seconds = elapsed - self.compile_seconds
