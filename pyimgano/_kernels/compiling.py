"""The compiler of kernels: it asks for its memory first, and works without a cache if need be.

LLVM ends the process where an allocation fails, so that no error says what happened. The memory
is therefore asked for before: what is missing then is a ``MemoryError`` like any other.

Numba keeps compiled code in files beside the package or in a folder of the user. By default it
raises where no folder can be written to, where the disk is full, and where a file was cut short,
which a reader of images would take for damage of the image. A cache only saves time, so none of
this is an error here: kernels are compiled once more in each process, and a warning says so.
"""

from __future__ import annotations

import mmap
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["cache_folder", "kernel"]

# Bytes of address space. Compiling the largest kernel takes about 90 MB, and loading one 20.
_NEEDED = 128 << 20

_NOT_KEPT = (
    "compiled code is not kept, because {}. Each process compiles it again, which takes tens of "
    "seconds. Set the environment variable NUMBA_CACHE_DIR to a folder that can be written to."
)
_said: set[str] = set()


def kernel(*, fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function for its arguments when it is called, without the interpreter's lock.

    Parameters
    ----------
    fastmath : bool or set of str, default=False
        Which liberties LLVM has with floating-point arithmetic.

    Returns
    -------
    decorator : callable
        Its result calls the compiled function.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(nogil=True, fastmath=fastmath)(function)
        try:
            dispatcher._cache = _Cache(function)  # what cache=True does, with a stricter cache
        except RuntimeError as error:
            _warn(_no_folder(error))
        return dispatcher

    return compiled


def cache_folder() -> tuple[Path | None, str]:
    """Folder in which compiled code of the kernels is kept; None, and why, if there is none."""
    try:
        return Path(_Cache(cache_folder).cache_path), ""
    except RuntimeError as error:
        return None, _no_folder(error)


def _no_folder(error: RuntimeError) -> str:
    return _NOT_KEPT.format(f"numba finds no folder that it can write to ({error})")


class _Cache(FunctionCache):
    """Compiled code in files, as far as they can be written and read."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except OSError:
            return None
        except (EOFError, pickle.UnpicklingError):  # a crash has cut the file short
            self._empty()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self._warn(error)

    def _empty(self) -> None:
        try:
            self.flush()
        except OSError as error:
            self.disable()  # saving would read what is there once more
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        _warn(_NOT_KEPT.format(f"{self.cache_path} cannot be written to ({error.strerror})"))


def _warn(message: str) -> None:
    """Warn once: kernels fail alike, and numba has Python forget which warnings it showed."""
    if not _said:
        _said.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


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
                f"less than {_NEEDED >> 20} MB of memory is left, which numba may need to prepare "
                "compiled code; free memory, or raise the limit of this process (ulimit -v)"
            ) from error

    def on_end(self, event: Any) -> None:
        """Do nothing: ending takes no memory."""


event.register("numba:compiler_lock", _RoomCheck())
