"""Memory that numba needs before it compiles a kernel, or loads a compiled one.

LLVM ends the process where an allocation fails, so that no error says what happened. The memory
is therefore asked for before: what is missing then is a ``MemoryError`` as any other.
"""

from __future__ import annotations

import mmap
from typing import Any

from numba.core import event
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["watch_compiler"]

# Bytes of address space. Compiling the largest kernel takes about 90 MB, loading one 20.
_NEEDED = 128 << 20


class _RoomCheck(event.Listener):
    """Raise before numba begins to compile a kernel, with all that it calls, or to load it."""

    def on_start(self, event: Any) -> None:
        # Not at the stages in between: there, numba makes errors of its own of any other.
        if global_compiler_lock.is_locked():
            return
        try:
            mmap.mmap(-1, _NEEDED).close()
        except OSError as error:
            raise MemoryError(
                f"less than {_NEEDED >> 20} MB of memory is left, which numba needs to prepare "
                "compiled code"
            ) from error

    def on_end(self, event: Any) -> None:
        """Ending takes no memory."""


def watch_compiler() -> None:
    """Have every compilation of this process ask for its memory first."""
    event.register("numba:compiler_lock", _RoomCheck())
